"""CondKD: generator, discriminator and student in turn, under manual optimisation."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, ClassVar, cast

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_condkd.alignment import FeatureAlignment
from lightning_condkd.augment import Augment, CropFlip
from lightning_condkd.data.condensed import CondensedSet
from lightning_condkd.data.transfer import TransferSet
from lightning_condkd.distillation import DistillationLoss
from lightning_condkd.distributed import sync_buffers, sync_running_statistics
from lightning_condkd.inversion import Inversion
from lightning_condkd.models import Observer
from lightning_condkd.models.finite import all_finite, check_finite
from lightning_condkd.modules.parts.bank_state import BankState, find_transfer_set
from lightning_condkd.modules.parts.checks import (
    check_batch,
    check_condensed,
    check_limit,
    check_loader,
    check_maps,
    check_source,
    check_strategy,
)
from lightning_condkd.modules.parts.default_losses import default_distillation, warn_of_attention
from lightning_condkd.modules.parts.distillation_step import DistillationStep
from lightning_condkd.modules.parts.divergence import IMAGES, TRANSIENT, diverged, transient
from lightning_condkd.modules.parts.own_methods import (
    check_discriminator,
    check_nothing_to_train,
    check_replayed,
    check_stages,
)
from lightning_condkd.modules.parts.synthesis_step import SynthesisStep, Synthesized
from lightning_condkd.modules.teacher_student import STATE_KEY, TeacherStudent
from lightning_condkd.randomness import Draw, seeded_generator
from lightning_condkd.rounds import Unit
from lightning_condkd.training.divergence import has_diverged
from lightning_condkd.training.held_out import check_before_training, check_held_out, check_loaders, loaders_in_turn
from lightning_condkd.training.loop_counters import tick_once
from lightning_condkd.training.meters import Meters, Stopwatch, bank_figures
from lightning_condkd.training.optimizer_turns import OptimizerTurns
from lightning_condkd.training.optimizers import (
    check_count,
    check_covers,
    check_makers,
    check_no_metric,
    check_trainable,
    make_optimizer,
    make_scheduler,
)
from lightning_condkd.training.run_length import (
    check_student_steps,
    check_synthesis_steps,
    dev_steps,
    round_length,
    student_rounds,
    units_of_step,
)
from lightning_condkd.training.run_record import fingerprint, settings
from lightning_condkd.training.schedules import default_student_optimizer, default_student_schedule
from lightning_condkd.training.teacher_accuracy import remark_on_condensed
from lightning_condkd.types import Synthetic, TaskSpec


class CondKD(TeacherStudent):
    r"""Distil a student from a frozen teacher, a condensed set and images that inversion of the teacher adds to it.

    One epoch is one round: an inversion method synthesises a batch, alignment pulls it towards the condensed images in
    the teacher's feature space, the batch joins the memory bank, and the student takes its steps on the mixture. One
    ``training_step`` is one update of one phase, and ``global_step`` counts these units. The student object that is
    passed is trained in place; the teacher is frozen, stays as it is to the bit and is left out of checkpoints.

    The rows of the paper's tables: *condensed only* is ``NoInversion()``; *X* is a method with ``mix=0.0``; *X +
    condensed* is a method with ``mix="union"``; *X\** adds an ``alignment``.

    Args:
        teacher: the trained network with its normalisation. It is frozen.
        student: the network to train; one that is no :class:`Observer` gets the teacher's normalisation.
        inversion: the method that synthesises images.
        alignment: the discriminator game towards the condensed images; ``None`` for plain inversion.
        distillation: what the student minimises; ``None`` for the loss of the method's official code:
            :class:`LogitsL1Distillation` for DFAD and PRE-DFKD, else :class:`KLDistillation`, at temperature 20 where
            images are stored and at 1 where they are rendered for the step. ZSKT's has attention maps beside it, whose
            names only you know: pass :class:`AttentionDistillation`.
        augment: view of the distillation images, the same for teacher and student; ``None`` for crop (pad 4) and flip
            of stored images, and for none of images rendered for the step, as in the official codes.
        student_optimizer: ``None`` for SGD, lr 0.2, momentum 0.9, weight decay 1e-4 (official code of Fast).
        student_scheduler: stepped once a round after warm-up; ``None`` for a cosine to a thousandth of the learning
            rate over the student's rounds (official code of Fast), which ends with the run also after a resume to
            another length.
        student_gradient_clip: largest norm of the student's gradient; ``None`` for no limit.
        transfer_set: what the student learns from; ``None`` takes the datamodule's, and two are refused. Its bank is
            saved and resumed with the module; a new fit starts with an empty one, or with what was appended by hand.
        seed: seed of all draws; ``None`` takes the one of ``seed_everything``, else 0. A resumed run keeps its own.

    Raises:
        ValueError: at setup, if teacher, student, condensed set and trainer do not fit each other.

    Example:
        >>> from lightning_condkd.inversion import Fast
        >>> from lightning_condkd.models import DigitsNet
        >>> teacher = Observer(DigitsNet(width=8), mean=(0.3,), std=(0.4,))
        >>> student = DigitsNet(width=4)
        >>> model = CondKD(teacher, student, inversion=Fast(), alignment=FeatureAlignment())
        >>> model.student.network is student
        True

    References:
        Binici et al.: "Condensed Data Expansion Using Model Inversion for Knowledge Distillation", arXiv 2408.13850.
    """

    fixed_settings: ClassVar[Mapping[str, str]] = {
        "condensed": "resume with the condensed set that the run began with, or start a new run without ckpt_path",
        "inversion.class": "resume with the run's own method, or start a new run without ckpt_path",
        "inversion.batch_size": "resume with the run's own inversion.batch_size: a block may be half done",
        "round_length": "resume with a cadence of as many steps a round: they number the steps and seed the draws",
    }
    metrics: ClassVar[tuple[str, ...]] = ("val/", "bank/", "synthesis/", "alignment/", "distillation/", "replay/")
    clipping: ClassVar[str] = ", student_gradient_clip limits the student's gradient"

    def __init__(
        self,
        teacher: Observer,
        student: nn.Module,
        inversion: Inversion,
        alignment: FeatureAlignment | None = None,
        *,
        distillation: DistillationLoss | None = None,
        augment: Augment | None = None,
        student_optimizer: OptimizerCallable | None = None,
        student_scheduler: LRSchedulerCallable | None = None,
        student_gradient_clip: float | None = None,
        transfer_set: TransferSet | None = None,
        seed: int | None = None,
    ) -> None:
        check_makers(student_optimizer=student_optimizer, student_scheduler=student_scheduler)
        super().__init__(teacher, student)
        check_stages(inversion, alignment, distillation)
        self.automatic_optimization = False
        self.inversion = inversion
        self.alignment = alignment
        live = inversion.source == "live"
        self._says_loss = distillation is None and inversion.student_loss == "attention"
        self.distillation = default_distillation(inversion) if distillation is None else distillation
        self.augment = (CropFlip(0, 0.0) if live else CropFlip()) if augment is None else augment
        self.student_optimizer = student_optimizer
        self.student_scheduler = student_scheduler
        self.student_gradient_clip = student_gradient_clip
        self.transfer_set = self._given_transfer_set = transfer_set
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if seed is None else seed
        self.spec: TaskSpec | None = None
        self.unit: Unit | None = None
        self.meters, self.stopwatch = Meters(), Stopwatch()
        self._bank_state = BankState()
        self._discriminator_reached = False

    # --- before the first step -------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Check what can be checked before any training, and find the transfer set.

        Args:
            stage: ``fit``, ``validate`` or ``test``.
        """
        super().setup(stage)
        check_held_out(self.trainer, stage, self._condensed)
        if stage != "fit":
            return
        self._bank_state.setup()
        self.transfer_set = transfer_set = find_transfer_set(self._given_transfer_set, self.trainer)
        rank_zero_info(f"condensed set: {transfer_set.condensed.line}")
        check_strategy(self.trainer)
        check_limit(self.trainer, self.inversion.cadence.length)
        transfer_set.check_world_size(self.trainer.world_size)
        check_source(self.inversion, transfer_set, self.trainer.world_size)
        check_nothing_to_train(self.distillation)
        check_maps("teacher", self.teacher, self.distillation.teacher_maps)
        check_maps("student", self.student, self.distillation.student_maps)
        if self.inversion.cadence.synthesis_steps:
            check_batch("inversion.batch_size", self.inversion.batch_size, self.trainer.world_size)
        if self.inversion.cadence.distill_steps:
            check_trainable("student", self.student)
        check_student_steps(self.trainer, self.inversion.cadence)
        if self._says_loss:
            warn_of_attention(self.inversion, self.distillation)

    def configure_model(self) -> None:
        """Build what depends on the task's shapes, on the CPU; a second run must have the same ones."""
        if self.transfer_set is not None:
            with torch.device("cpu"):  # the trainer calls this with its device as the default one
                self._build_for(self.transfer_set.condensed)

    def _build_for(self, condensed: CondensedSet) -> None:
        wants_embedding = any((self._aligning, self.distillation.needs_embedding, self.inversion.needs_embedding))
        spec = check_condensed(condensed, self.teacher, self.student, wants_embedding)
        if self.spec is None:
            self._build(spec)
        elif spec[:4] != self.spec[:4]:
            raise ValueError(f"the module was built for {self.spec}, got a task of {spec}: make a new module for it")

    def _build(self, spec: TaskSpec) -> None:
        self.spec = spec
        self.inversion.build(spec, seeded_generator(self.seed, "inversion"))
        if self._aligning is not None:
            self._aligning.build(spec, seeded_generator(self.seed, "alignment"))
            check_finite("the discriminator", self._aligning, "build it anew, or load other weights")
        check_finite("the inversion", self.inversion, "give it another generator, or other weights")

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return the student's optimizer with its schedule, then those of the method and of the discriminator."""
        student = self.make_student_optimizer(self.student)
        optimizers: dict[str, Optimizer] = {"student": student, **self.inversion.optimizers()}
        if self._aligning is not None:
            optimizers["discriminator"] = self._aligning.optimizer()
        self._turns = OptimizerTurns(optimizers)
        scheduler = self.make_student_scheduler(student)
        self._check_student_optimizing(student, scheduler)
        return list(optimizers.values()), [scheduler]

    def _check_student_optimizing(self, optimizer: Optimizer, scheduler: LRScheduler) -> None:
        check_covers("student_optimizer", optimizer, self.student)
        check_no_metric("student_scheduler", scheduler)
        if not dev_steps(self.trainer):
            rounds = student_rounds(self.trainer, self.inversion.cadence)
            check_count("student_scheduler", scheduler, rounds, "once a round after warm-up")

    def make_student_optimizer(self, student: nn.Module) -> Optimizer:
        """Return a fresh optimizer of the student's kind.

        Args:
            student: the network to train.
        """
        if self.student_optimizer is not None:
            return make_optimizer("student_optimizer", self.student_optimizer, student)
        return default_student_optimizer(student)

    def make_student_scheduler(self, optimizer: Optimizer) -> LRScheduler:
        """Return a fresh schedule, to be stepped once a round after warm-up.

        Args:
            optimizer: of :meth:`make_student_optimizer`.
        """
        if self.student_scheduler is not None:
            return make_scheduler("student_scheduler", self.student_scheduler, optimizer)
        return default_student_schedule(optimizer, self.trainer, self.inversion.cadence)

    @property
    def _condensed(self) -> CondensedSet | None:
        """The condensed set, where one is known: to validate or test needs none."""
        datamodule = getattr(self.trainer, "datamodule", None)
        found = self._given_transfer_set or getattr(datamodule, "transfer_set", None) or self.transfer_set
        return None if found is None else found.condensed

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """``(C, H, W)`` of the images that the student learns from, where it is known."""
        return None if self.spec is None else self.spec.image_shape

    def on_validation_start(self) -> None:
        """Make the student the same on all ranks; the first time, look at the classes of the loaders."""
        super().on_validation_start()
        if self.teacher_accuracy is None:
            check_loaders(self.trainer, loaders_in_turn(self.trainer), self._condensed)

    def on_test_start(self) -> None:
        """Look at the classes of the loaders."""
        super().on_test_start()
        check_loaders(self.trainer, loaders_in_turn(self.trainer), self._condensed)

    def on_fit_start(self) -> None:
        """Check networks and data in the precision of the run; let the bank start empty or go on."""
        super().on_fit_start()
        check_synthesis_steps(self.inversion, self._transfer, resumed=self.trainer.ckpt_path is not None)
        for name in ("teacher", "student"):
            cure = f"--trainer.precision {self.trainer.precision} cannot hold it, take 32-true"
            check_finite(f"the {name}", getattr(self, name), cure)
        check_before_training(self.trainer, self._transfer.condensed, self.real_batch)
        remark_on_condensed(self.teacher, self._transfer.condensed)
        self._bank_state.open(self._transfer, self.trainer)

    def on_train_start(self) -> None:
        """Check that the loader yields the steps of a round."""
        check_loader(self.trainer, self.inversion.cadence.length)

    def on_train_end(self) -> None:
        """Make student and method the same on all ranks, whether or not a validation or a checkpoint came last."""
        super().on_train_end()
        sync_buffers([self.student, self.inversion])
        self.stop_if_diverged()
        self._bank_state.prune(self._transfer.bank, self.trainer)

    def stop_if_diverged(self) -> None:
        """End the run if a loss, weight or statistic is not finite.

        Raises:
            FloatingPointError: if one is.
        """
        trained = [self.student, *([] if self._aligning is None else [self._aligning])]
        weights = all_finite(trained).to(self.device) & all_finite([self.inversion], transient(self)).to(self.device)
        if has_diverged(self, self.losses, weights):
            turns = getattr(self, "_turns", None)  # none in a module that was loaded and not fitted
            raise diverged(self, {} if turns is None else turns.optimizers(self), self._aligning)

    # --- one unit of a round ---------------------------------------------------------------------------------------

    def training_step(self, batch: int, batch_idx: int) -> None:
        """Take one unit of one phase; in a ``fast_dev_run`` one of each phase.

        Args:
            batch: not used: a loader restarts at 0 when a run resumes within a round.
            batch_idx: position in the round.
        """
        tick_once(self)
        for unit in units_of_step(self.trainer, self.inversion.cadence, self.current_epoch, batch_idx):
            self._take(unit)
            sync_running_statistics([self.student, self.inversion])
        if batch_idx == round_length(self.trainer, self.inversion.cadence) - 1:
            self._end_round(unit)

    def _take(self, unit: Unit) -> None:
        self.unit = unit
        self._set_student_mode(unit)
        with self.stopwatch.running(unit.phase):
            match unit.phase:
                case "synthesize":
                    self._synthesize(unit)
                case "distill":
                    self._distill(unit)

    def _set_student_mode(self, unit: Unit) -> None:
        training = unit.phase == "distill"
        if self.student.training != training:
            sync_buffers([self.student])
            self.student.train(training)

    def _draw(self, unit: Unit) -> Draw:
        return Draw(self.seed, unit.counter, self.global_rank, self.trainer.world_size)

    def _synthesize(self, unit: Unit) -> None:
        draw = self._draw(unit)
        if unit.first:
            self._turns.forget(self, "synthesis", self.inversion.per_round())
            self.inversion.start(unit, draw)
        synthesized = self._generator_step(unit, draw)
        if self._aligning is not None:
            self._discriminator_step(self._aligning, synthesized, unit, draw)
        if unit.last:
            if self.inversion.source == "bank":
                self.stop_if_diverged()  # before the bank gets images of it; a live method's block may be one step
            for name in self.inversion.finish(unit):
                # Written by hand from unscaled gradients: the precision plugin's scaler must not touch it.
                self._turns.get(self, name).optimizer.step()
            if self.inversion.source == "bank":
                images, labels = self.inversion.collect()
                with self._transfer.bank.running():
                    self._transfer.append(images, cast(Tensor, labels), unit.round)

    def _generator_step(self, unit: Unit, draw: Draw) -> Synthesized:
        self._turns.scale(self, "synthesis", self.inversion.lr_factor(unit))
        with self._turns.turn(self, "synthesis", self.inversion.gradient_clip) as step:
            synthesized = self.synthesis_step.generator(unit, draw)
            if synthesized.total.values:
                step(synthesized.total.total())
        self.meters.add(synthesized.total.values, "synthesis/")
        own, total = synthesized.losses()
        self._watch("synthesis", unit, {**synthesized.total.values, "total": total}, synthesized.synthetic.images)
        self.inversion.after_step(synthesized.synthetic, synthesized.output, own, total, unit)
        return synthesized

    def _discriminator_step(
        self, alignment: FeatureAlignment, synthesized: Synthesized, unit: Unit, draw: Draw
    ) -> None:
        labels, fake = cast(Tensor, synthesized.synthetic.labels), cast(Tensor, synthesized.embedding).detach()
        condensed = self.synthesis_step.condensed_embedding(labels, unit, draw)
        self.meters.add(alignment.accuracy(condensed, fake, labels), "alignment/")
        with self._turns.turn(self, "discriminator") as step:
            terms = alignment.discriminator_loss(condensed, fake, labels)
            total = terms.total()
            step(total)
        if not self._discriminator_reached:
            check_discriminator(alignment.discriminator)
            self._discriminator_reached = True
        self.meters.add(terms.values, "alignment/")
        self._watch("discriminator", unit, {**terms.values, "total": total})

    def _distill(self, unit: Unit) -> None:
        draw = self._draw(unit)
        with self._turns.turn(self, "student", self.student_gradient_clip) as step:
            distilled = self.distillation_step(unit, draw, self.device)
            step(distilled.loss)
        self.meters.add(distilled.observed, "distillation/")
        images = None if distilled.synthetic is None else distilled.synthetic.images
        self._watch("student", unit, {"loss": distilled.loss}, images)
        if distilled.synthetic is not None:
            self._replay(distilled.synthetic, unit, draw)

    def _replay(self, synthetic: Synthetic, unit: Unit, draw: Draw) -> None:
        with self._turns.turn(self, "replay") as step:
            terms = self.inversion.replay_loss(synthetic, self.teacher, unit, draw)
            if terms is not None:
                check_replayed(self.inversion, self._turns.names)
                total = terms.total()
                step(total)
                self.inversion.check_reached("replay")
                self.meters.add(terms.values, "replay/")
                self._watch("replay", unit, {**terms.values, "total": total}, synthetic.images)

    def _watch(self, optimizer: str, unit: Unit, values: Mapping[str, Tensor], images: Tensor | None = None) -> None:
        largest = {} if images is None else {IMAGES: images.detach().amax()}
        self.losses.add(optimizer, unit.counter, {**values, **largest})

    @property
    def synthesis_step(self) -> SynthesisStep:
        """The forward passes of synthesis with the parts of this module."""
        return SynthesisStep(self.teacher, self.student, self.inversion, self._aligning, self._transfer)

    @property
    def distillation_step(self) -> DistillationStep:
        """The student's forward pass with the parts of this module."""
        return DistillationStep(
            self.teacher, self.student, self.distillation, self.augment, self.inversion, self._transfer
        )

    @property
    def images_synthesized(self) -> int:
        """Synthetic images so far: those that the bank has seen, or those rendered for the student's steps."""
        sampled = getattr(self.inversion, "images_sampled", None)
        return self._transfer.bank.images_seen + (0 if sampled is None else int(sampled))

    def _end_round(self, unit: Unit) -> None:
        self.stop_if_diverged()
        if unit.phase != "idle":
            scheduler = cast(LRScheduler, self.lr_schedulers())
            scheduler.step()
        figures = bank_figures(self._transfer.bank, self._transfer.condensed.num_classes)
        self.log_dict(
            {f"bank/{name}": v for name, v in figures.items()},
            on_step=False,
            on_epoch=True,
            batch_size=1,
            sync_dist=True,
        )
        self.log_dict(self.meters.pop(), on_step=False, on_epoch=True, batch_size=1, sync_dist=True)

    # --- checkpoints -----------------------------------------------------------------------------------------------

    def run_settings(self) -> dict[str, Any]:
        """Return what a resumed run is compared by, JSON values only."""
        return {
            "condensed": fingerprint(self._transfer.condensed),
            "mix": self._transfer.mix,
            "batch_size": self._transfer.batch_size,
            "bank_capacity": self._transfer.bank.capacity,
            "round_length": self.inversion.cadence.length,
            "inversion": settings(self.inversion),
            "alignment": None if self._aligning is None else settings(self._aligning),
            "distillation": settings(self.distillation),
            "augment": settings(self.augment),
            "student_gradient_clip": self.student_gradient_clip,
        }

    def optimizer_names(self) -> list[str]:
        """Return what the optimizers are called."""
        return self._turns.names

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add shapes, seed and times to what the checkpoint holds, and the bank to one that can be resumed from.

        Args:
            checkpoint: what Lightning is about to write; its tensors share memory with the module's.
        """
        super().on_save_checkpoint(checkpoint)
        sync_buffers([self.inversion])
        has_bank = self.transfer_set is not None and "optimizer_states" in checkpoint
        checkpoint[STATE_KEY] |= {
            "spec": None if self.spec is None else list(self.spec),
            "seed": self.seed,
            "seconds": dict(self.stopwatch.seconds),
            "meters": self.meters.state(),
            "bank": self._bank_state.save(self._transfer.bank, self.trainer) if has_bank else None,
        }

    def lasting(self, state: Mapping[str, Any]) -> Mapping[str, Any]:
        """Leave out what a method refills.

        Args:
            state: state dict of a checkpoint.
        """
        own = {name for name in state if name.startswith("inversion.")}
        return {n: v for n, v in state.items() if n not in own or not n.split(".")[-1].startswith(TRANSIENT)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take seed and times from a checkpoint, the bank too in a fit, and build the method if no fit has done so.

        Args:
            state: what :meth:`on_save_checkpoint` stored.
        """
        self.take_seed(state["seed"])
        self.stopwatch.seconds = dict(state["seconds"])
        if self.spec is None and state["spec"] is not None:
            shape, classes, size, *rest = state["spec"]
            self._build(TaskSpec(tuple(shape), classes, size, *map(tuple, rest)))
        if self.is_fitting:
            self.meters.load(state["meters"])
        if self.is_fitting and state["bank"] is not None:
            self._bank_state.load(state["bank"], self._transfer.bank, self.trainer)
        self.take_precision()

    @property
    def _aligning(self) -> FeatureAlignment | None:
        """The alignment where it takes part: with weight 0 nothing of it is built, drawn or run."""
        active = self.alignment is not None and self.alignment.active and self.inversion.cadence.synthesis_steps > 0
        return self.alignment if active else None

    @property
    def _transfer(self) -> TransferSet:
        return cast(TransferSet, self.transfer_set)
