"""CondKD: generator, discriminator and student in turn, under manual optimisation."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_condkd.alignment import FeatureAlignment
from lightning_condkd.augment import Augment, CropFlip
from lightning_condkd.data.condensed import CondensedSet
from lightning_condkd.data.transfer import TransferSet
from lightning_condkd.distillation import DistillationLoss, KLDistillation
from lightning_condkd.distributed import sync_buffers
from lightning_condkd.inversion import Inversion
from lightning_condkd.models import Observer
from lightning_condkd.modules.bank_state import BankState, find_transfer_set
from lightning_condkd.modules.checks import (
    check_batch,
    check_condensed,
    check_loader,
    check_maps,
    check_source,
    check_strategy,
)
from lightning_condkd.modules.distil import DistillationStep
from lightning_condkd.modules.meters import Meters, Stopwatch, bank_figures
from lightning_condkd.modules.record import RunRecord
from lightning_condkd.modules.requeue import RequeueBetweenSteps
from lightning_condkd.modules.schedule import default_student_optimizer, default_student_schedule
from lightning_condkd.modules.synthesise import Synthesised, SynthesisStep
from lightning_condkd.modules.teacher_student import STATE_KEY, TeacherStudent
from lightning_condkd.modules.ticks import tick_once
from lightning_condkd.modules.turns import OptimizerTurns
from lightning_condkd.randomness import Draw, seeded_generator
from lightning_condkd.types import Spec, Synthetic, Unit


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
        distillation: what the student minimises; ``None`` for :class:`KLDistillation`, at temperature 20 for methods
            that store images and at 1 for those that render them for the step (official codes).
        augment: view of the distillation images, the same for teacher and student; ``None`` for crop (pad 4) and flip
            of stored images, and for none of images rendered for the step, as in the official codes.
        student_optimizer: ``None`` for SGD, lr 0.2, momentum 0.9, weight decay 1e-4 (official code of Fast).
        student_scheduler: stepped once a round after warm-up; ``None`` for a cosine to a thousandth of the learning
            rate over the student's rounds (official code of Fast).
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
        super().__init__(teacher, student)
        self.automatic_optimization = False
        self.inversion = inversion
        self.alignment = alignment
        live = inversion.source == "live"
        self.distillation = KLDistillation(1.0 if live else 20.0) if distillation is None else distillation
        self.augment = (CropFlip(0, 0.0) if live else CropFlip()) if augment is None else augment
        self.student_optimizer = student_optimizer
        self.student_scheduler = student_scheduler
        self.student_gradient_clip = student_gradient_clip
        self.transfer_set = self._given_transfer_set = transfer_set
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if seed is None else seed
        self.spec: Spec | None = None
        self.unit: Unit | None = None
        self.meters, self.stopwatch = Meters(), Stopwatch()
        self._bank_state = BankState()
        self._record = RunRecord()

    # --- before the first step -------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Check what can be checked before any training, and find the transfer set.

        Args:
            stage: ``fit``, ``validate`` or ``test``.
        """
        super().setup(stage)
        if stage != "fit":
            return
        self._bank_state.setup()
        self._record.setup()
        self.transfer_set = transfer_set = find_transfer_set(self._given_transfer_set, self.trainer)
        check_strategy(self.trainer)
        transfer_set.check_world_size(self.trainer.world_size)
        check_source(self.inversion, transfer_set, self.trainer.world_size)
        check_maps("teacher", self.teacher, self.distillation.teacher_maps)
        check_maps("student", self.student, self.distillation.student_maps)
        if self.inversion.cadence.synthesis_steps:
            check_batch("inversion.batch_size", self.inversion.batch_size, self.trainer.world_size)

    def configure_callbacks(self) -> list[L.Callback]:
        """Return what takes SLURM's requeue signal between two steps."""
        return [RequeueBetweenSteps()]

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

    def _build(self, spec: Spec) -> None:
        self.spec = spec
        self.inversion.build(spec, seeded_generator(self.seed, "inversion"))
        if self._aligning is not None:
            self._aligning.build(spec, seeded_generator(self.seed, "alignment"))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return the student's optimizer with its schedule, then those of the method and of the discriminator."""
        student = self.make_student_optimizer(self.student)
        optimizers: dict[str, Optimizer] = {"student": student, **self.inversion.optimizers()}
        if self._aligning is not None:
            optimizers["discriminator"] = self._aligning.optimizer()
        self._turns = OptimizerTurns(optimizers)
        return list(optimizers.values()), [self.make_student_scheduler(student)]

    def make_student_optimizer(self, student: nn.Module) -> Optimizer:
        """Return a fresh optimizer of the student's kind.

        Args:
            student: the network to train.
        """
        if self.student_optimizer is not None:
            return self.student_optimizer(student.parameters())
        return default_student_optimizer(student)

    def make_student_scheduler(self, optimizer: Optimizer) -> LRScheduler:
        """Return a fresh schedule, to be stepped once a round after warm-up.

        Args:
            optimizer: of :meth:`make_student_optimizer`.
        """
        if self.student_scheduler is not None:
            return self.student_scheduler(optimizer)
        return default_student_schedule(optimizer, self.trainer, self.inversion.cadence)

    def on_fit_start(self) -> None:
        """Let the bank start empty or go on, and give it its folder."""
        self._bank_state.open(self._transfer, self.trainer)
        self._record.check_optimizers(self._turns.names, self.trainer)

    def on_train_start(self) -> None:
        """Check that the loader yields the steps of a round."""
        check_loader(self.trainer, self.inversion.cadence.length)

    def on_train_end(self) -> None:
        """Make student and method the same on all ranks, whether or not a validation or a checkpoint came last."""
        sync_buffers([self.student, self.inversion])
        self._bank_state.prune(self._transfer.bank, self.trainer)

    # --- one unit of a round ---------------------------------------------------------------------------------------

    def training_step(self, batch: int, batch_idx: int) -> None:
        """Take one unit of one phase.

        Args:
            batch: not used: a loader restarts at 0 when a run resumes within a round.
            batch_idx: position in the round.
        """
        unit = self.unit = self.inversion.cadence.unit(self.current_epoch, batch_idx)
        tick_once(self)
        self._set_student_mode(unit)
        with self.stopwatch.running(unit.phase):
            match unit.phase:
                case "synthesise":
                    self._synthesise(unit)
                case "distil":
                    self._distil(unit)
        if batch_idx == self.inversion.cadence.length - 1:
            self._end_round(unit)

    def _set_student_mode(self, unit: Unit) -> None:
        training = unit.phase == "distil"
        if self.student.training != training:
            sync_buffers([self.student])
            self.student.train(training)

    def _draw(self, unit: Unit) -> Draw:
        return Draw(self.seed, unit.counter, self.global_rank, self.trainer.world_size)

    def _synthesise(self, unit: Unit) -> None:
        draw = self._draw(unit)
        if unit.first:
            self._turns.forget(self, "synthesis", self.inversion.per_round())
            self.inversion.start(unit, draw)
        synthesised = self._generator_step(unit, draw)
        if self._aligning is not None:
            self._discriminator_step(self._aligning, synthesised, unit, draw)
        if unit.last:
            for name in self.inversion.finish(unit):
                # Written by hand from unscaled gradients: the precision plugin's scaler must not touch it.
                self._turns.get(self, name).optimizer.step()
            if self.inversion.source == "bank":
                images, labels = self.inversion.collect()
                with self._transfer.bank.running():
                    self._transfer.append(images, cast(Tensor, labels), unit.round)

    def _generator_step(self, unit: Unit, draw: Draw) -> Synthesised:
        self._turns.scale(self, "synthesis", self.inversion.lr_factor(unit))
        with self._turns.turn(self, "synthesis", self.inversion.gradient_clip) as step:
            synthesised = self.synthesis_step.generator(unit, draw)
            if synthesised.total.values:
                step(synthesised.total.total())
        self.meters.add(synthesised.total.values, "synthesis/")
        self.inversion.after_step(synthesised.synthetic, synthesised.output, *synthesised.losses(), unit)
        return synthesised

    def _discriminator_step(
        self, alignment: FeatureAlignment, synthesised: Synthesised, unit: Unit, draw: Draw
    ) -> None:
        labels, fake = cast(Tensor, synthesised.synthetic.labels), cast(Tensor, synthesised.embedding).detach()
        condensed = self.synthesis_step.condensed_embedding(labels, unit, draw)
        self.meters.add(alignment.accuracy(condensed, fake, labels), "alignment/")
        with self._turns.turn(self, "discriminator") as step:
            terms = alignment.discriminator_loss(condensed, fake, labels)
            step(terms.total())
        self.meters.add(terms.values, "alignment/")

    def _distil(self, unit: Unit) -> None:
        draw = self._draw(unit)
        with self._turns.turn(self, "student", self.student_gradient_clip) as step:
            distilled = self.distillation_step(unit, draw, self.device)
            step(distilled.loss)
        self.meters.add(distilled.observed, "distillation/")
        if distilled.synthetic is not None:
            self._replay(distilled.synthetic, unit, draw)

    def _replay(self, synthetic: Synthetic, unit: Unit, draw: Draw) -> None:
        with self._turns.turn(self, "replay") as step:
            terms = self.inversion.replay_loss(synthetic, self.teacher, unit, draw)
            if terms is not None:
                step(terms.total())
                self.meters.add(terms.values, "replay/")

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
    def images_synthesised(self) -> int:
        """Synthetic images so far: those that the bank has seen, or those rendered for the student's steps."""
        sampled = getattr(self.inversion, "images_sampled", None)
        return self._transfer.bank.images_seen + (0 if sampled is None else int(sampled))

    def _end_round(self, unit: Unit) -> None:
        if unit.phase != "idle":
            scheduler = cast(LRScheduler, self.lr_schedulers())
            scheduler.step()
        figures = bank_figures(self._transfer.bank, self._transfer.condensed.num_classes)
        self.log_dict({f"bank/{name}": v for name, v in figures.items()}, on_step=False, on_epoch=True, batch_size=1)
        self.log_dict(self.meters.pop(), on_step=False, on_epoch=True, batch_size=1, sync_dist=True)

    # --- checkpoints -----------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the bank, shapes, seed and times to what the checkpoint holds.

        Args:
            checkpoint: what Lightning is about to write; its tensors share memory with the module's.
        """
        super().on_save_checkpoint(checkpoint)
        sync_buffers([self.inversion])
        checkpoint[STATE_KEY] |= {
            "spec": None if self.spec is None else list(self.spec),
            "seed": self.seed,
            "seconds": dict(self.stopwatch.seconds),
            "record": None if self.transfer_set is None else self._record.of(self),
            "bank": None if self.transfer_set is None else self._bank_state.save(self.transfer_set.bank, self.trainer),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take seed and times from a checkpoint, the bank too in a fit, and build the method if no fit has done so.

        Args:
            state: what :meth:`on_save_checkpoint` stored.

        Raises:
            ValueError: in a fit, if the run is made of other parts than the checkpoint's.
        """
        if self._fitting and state["record"] is not None:
            self._record.check(state["record"], state["seed"], self)
        self.seed, self.stopwatch.seconds = state["seed"], dict(state["seconds"])
        if self.spec is None and state["spec"] is not None:
            shape, classes, size, *rest = state["spec"]
            self._build(Spec(tuple(shape), classes, size, *map(tuple, rest)))
        if self._fitting and state["bank"] is not None:
            self._bank_state.load(state["bank"], self._transfer.bank, self.trainer)
        if self._trainer is not None:
            # Lightning converts after it has loaded, which would round what a run in float64 had stored.
            self._trainer.precision_plugin.convert_module(self)

    @property
    def _fitting(self) -> bool:
        """Whether a trainer fits, and does not only measure or load."""
        return self._trainer is not None and self._trainer.state.fn == "fit"

    @property
    def _aligning(self) -> FeatureAlignment | None:
        """The alignment where it takes part: with weight 0 nothing of it is built, drawn or run."""
        active = self.alignment is not None and self.alignment.active and self.inversion.cadence.synthesis_steps > 0
        return self.alignment if active else None

    @property
    def _transfer(self) -> TransferSet:
        return cast(TransferSet, self.transfer_set)
