"""CondKD: its options, its optimizers, and the checks before, during and after a fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_condkd.alignment import Alignment
from lightning_condkd.augment import Augment, Mixing
from lightning_condkd.data.condensed import CondensedSet
from lightning_condkd.data.transfer import TransferSet
from lightning_condkd.distillation import DistillationLoss, KLDistillation
from lightning_condkd.distributed import sync_buffers
from lightning_condkd.inversion import Inversion
from lightning_condkd.models import Observer
from lightning_condkd.models.finite import all_finite, check_finite
from lightning_condkd.modules.parts.bank_state import find_transfer_set
from lightning_condkd.modules.parts.checks import (
    check_batch,
    check_condensed,
    check_limit,
    check_loader,
    check_maps,
    check_source,
    check_strategy,
)
from lightning_condkd.modules.parts.condkd_steps import CondKDSteps
from lightning_condkd.modules.parts.default_losses import warn_of_attention
from lightning_condkd.modules.parts.divergence import diverged, transient
from lightning_condkd.modules.parts.loss_checks import check_run_of_loss, slots_of_run
from lightning_condkd.steps.class_means import condensed_class_means
from lightning_condkd.steps.class_rows import give_class_rows
from lightning_condkd.steps.part_checks import check_mixing, check_stages
from lightning_condkd.training.divergence import has_diverged
from lightning_condkd.training.held_out import check_before_training, check_held_out, check_loaders, loaders_in_turn
from lightning_condkd.training.optimizers import (
    check_count,
    check_no_metric,
    check_trainable,
    make_scheduler,
)
from lightning_condkd.training.run_length import (
    check_student_steps,
    check_synthesis_steps,
    dev_steps,
    student_rounds,
)
from lightning_condkd.training.schedules import default_student_schedule
from lightning_condkd.training.teacher_accuracy import remark_on_condensed
from lightning_condkd.training.trainer_access import transfer_set_of


class CondKD(CondKDSteps):
    r"""Distil a student from a frozen teacher, a condensed set and images synthesised by inversion of the teacher.

    One epoch is one round: an inversion method synthesises a batch, alignment draws it towards the condensed images in
    the teacher's feature space, the batch is stored in the memory bank, and the student is trained on the mixture. One
    ``training_step`` is one update of one phase, and ``global_step`` counts these units. The given student is trained
    in place. The teacher is frozen, remains bit-identical and is not in checkpoints: pass the parts of the run to
    ``CondKD.load_from_checkpoint(path, teacher=teacher, student=student, inversion=Fast(), ...)``. ``model(images)``
    returns the student's logits, ``Trainer.predict`` its classes.

    The rows of the paper's tables: *condensed only* is ``NoInversion()``; *X* is a method with ``mix=0.0``; *X +
    condensed* is a method with ``mix="union"``; *X\** adds an ``alignment``.

    Args:
        teacher: the trained network with its normalisation. It is frozen.
        student: the network to train; it gets the teacher's normalisation if it is no :class:`Observer`.
        inversion: the method that synthesises images.
        alignment: alignment with the condensed images, by a discriminator (:class:`FeatureAlignment`, the paper's) or
            by distances of distributions (:class:`MomentAlignment`); ``None`` for plain inversion.
        distillation: loss of the student; ``None`` for the loss of the method's official code:
            :class:`LogitsL1Distillation` for DFAD and PRE-DFKD, :class:`AttentionDistillation` for ZSKT if the stages
            of both networks pair (else a warning), else :class:`KLDistillation`, at temperature 20 if images are
            stored (30 for DiffDFKD) and at 1 if they are rendered for the step.
        augment: augmentation of the distillation images, the same for teacher and student; ``None`` for crop (pad 4)
            and flip of stored images, and for none of images rendered for the step, as in the official codes.
        mixing: mixture of each distillation image with another one of the batch, such as :class:`Mixup`, the same for
            teacher and student; ``None`` for none. Labels are the teacher's predictions for the mixtures, or mixed too
            for a loss that accepts probabilities.
        student_optimizer: ``None`` for SGD, lr 0.2, momentum 0.9, weight decay 1e-4 (official code of Fast).
        student_scheduler: stepped once a round after warm-up; ``None`` for a cosine over the student's rounds, which
            ends with the run even if a resumed run has another length: at 0 for CMI, DeepInversion, DFQ, ZSKT and
            PRE-DFKD, as in their official codes (DataFree for DeepInversion), else at a thousandth of the learning rate
            (official code of Fast). Those of DAFL and DFAD lower the rate in steps instead.
        student_gradient_clip: largest norm of the student's gradient; ``None`` for no limit.
        transfer_set: training images of the student; ``None`` takes the datamodule's; giving both is an error. Its bank
            is saved and resumed with the module; a new fit starts with an empty bank, or with images appended by the
            user.
        seed: seed of all draws; ``None`` takes the one of ``seed_everything``, else 0. A resumed run keeps its seed.

    Raises:
        ValueError: at setup, if teacher, student, condensed set and trainer do not fit together.

    Example:
        >>> from lightning_condkd.alignment import FeatureAlignment
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

    state_key = "condkd"
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
        alignment: Alignment | None = None,
        *,
        distillation: DistillationLoss | None = None,
        augment: Augment | None = None,
        mixing: Mixing | None = None,
        student_optimizer: OptimizerCallable | None = None,
        student_scheduler: LRSchedulerCallable | None = None,
        student_gradient_clip: float | None = None,
        transfer_set: TransferSet | None = None,
        seed: int | None = None,
    ) -> None:
        check_stages(inversion, alignment, distillation)
        super().__init__(
            teacher,
            student,
            inversion,
            alignment,
            distillation,
            augment,
            mixing,
            student_optimizer,
            student_scheduler,
            transfer_set,
            seed,
        )
        self.automatic_optimization = False
        replaced = distillation is None and inversion.student_loss == "attention"
        self._says_loss = replaced and isinstance(self.distillation, KLDistillation)
        self.student_gradient_clip = student_gradient_clip

    def setup(self, stage: str) -> None:
        """Make the checks that need no training, and find the transfer set.

        Args:
            stage: ``fit``, ``validate`` or ``test``.
        """
        super().setup(stage)
        if stage != "predict":
            check_held_out(self.trainer, stage, self._condensed)
        if stage != "fit":
            return
        self._bank_state.setup()
        self.transfer_set = transfer_set = find_transfer_set(self._given_transfer_set, self.trainer)
        self.class_names = transfer_set.condensed.info.class_names
        rank_zero_info(f"condensed set: {transfer_set.condensed.line}")
        check_strategy(self.trainer)
        check_limit(self.trainer, self.inversion.cadence.length)
        transfer_set.check_world_size(self.trainer.world_size)
        check_source(self.inversion, transfer_set, self.trainer.world_size)
        check_maps("teacher", self.teacher, self.distillation.teacher_maps)
        check_maps("student", self.student, self.distillation.student_maps)
        check_maps("teacher", self.teacher, self.inversion.channel_means_of, type(self.inversion).__name__)
        check_run_of_loss(self.distillation, self.inversion, transfer_set, self.trainer)
        check_mixing(self.mixing, self.distillation, transfer_set.mix)
        if self.inversion.cadence.synthesis_steps:
            check_batch("inversion.batch_size", self.inversion.batch_size, self.trainer.world_size)
        if self.inversion.cadence.distill_steps:
            check_trainable("student", self.student)
        check_student_steps(self.trainer, self.inversion.cadence)
        if self._says_loss:
            warn_of_attention(self.inversion, self.distillation)

    def configure_model(self) -> None:
        """Create the parts that depend on the task's shapes, on the CPU; a second run must have the same shapes."""
        if self.transfer_set is not None:
            with torch.device("cpu"):  # the trainer calls this with its device as the default
                self._build_for(self.transfer_set.condensed)

    def _build_for(self, condensed: CondensedSet) -> None:
        aligning = self._aligning is not None and "embedding" in self._aligning.asks(self.teacher.network)
        wants_embedding = aligning or self.distillation.needs_embedding or self.inversion.needs_embedding
        inputs = self.inversion.channel_means_of
        spec = check_condensed(condensed, self.teacher, self.student, wants_embedding, inputs)
        if self.spec is None:
            self._build(spec, slots_of_run(self.distillation, self.inversion, self._transfer, self._trainer))
        elif spec[:4] != self.spec[:4]:
            raise ValueError(f"the module was built for {self.spec}, got a task of {spec}: make a new module for it")

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return the student's optimizer with its schedule, then those of the method and of the discriminator."""
        student = self.make_student_optimizer(self.student, self.distillation)
        optimizers: dict[str, Optimizer] = {"student": student, **self.inversion.optimizers()}
        if self._aligning is not None and (own := self._aligning.optimizer()) is not None:
            optimizers["discriminator"] = own
        self._optimizer_names = list(optimizers)
        scheduler = self.make_student_scheduler(student)
        self._check_student_optimizing(student, scheduler)
        return list(optimizers.values()), [scheduler]

    def _check_student_optimizing(self, optimizer: Optimizer, scheduler: LRScheduler) -> None:
        self.check_student_optimizer(optimizer)
        check_no_metric("student_scheduler", scheduler)
        if not dev_steps(self.trainer):
            rounds = student_rounds(self.trainer, self.inversion.cadence)
            check_count("student_scheduler", scheduler, rounds, "once a round after warm-up")

    def make_student_scheduler(self, optimizer: Optimizer) -> LRScheduler:
        """Return a new schedule, to be stepped once a round after warm-up.

        Args:
            optimizer: result of :meth:`make_student_optimizer`.
        """
        if self.student_scheduler is not None:
            return make_scheduler("student_scheduler", self.student_scheduler, optimizer)
        method = self.inversion
        return default_student_schedule(optimizer, self.trainer, method.cadence, method.student_lr_floor)

    @property
    def _condensed(self) -> CondensedSet | None:
        """The condensed set; ``None`` if there is none, since validation and test need none."""
        found = self._given_transfer_set or transfer_set_of(self.trainer) or self.transfer_set
        return None if found is None else found.condensed

    def on_validation_start(self) -> None:
        """Synchronise the student over ranks; the first time, check the classes of the loaders."""
        super().on_validation_start()
        if self.teacher_accuracy is None:
            check_loaders(self.trainer, loaders_in_turn(self.trainer), self._condensed)

    def on_test_start(self) -> None:
        """Check the classes of the loaders."""
        super().on_test_start()
        check_loaders(self.trainer, loaders_in_turn(self.trainer), self._condensed)

    def on_fit_start(self) -> None:
        """Check networks and data in the precision of the run; clear or continue the bank."""
        super().on_fit_start()
        check_synthesis_steps(self.inversion, self._transfer, resumed=self.trainer.ckpt_path is not None)
        for name in ("teacher", "student"):
            cure = f"--trainer.precision {self.trainer.precision} cannot hold it, take 32-true"
            check_finite(f"the {name}", getattr(self, name), cure)
        check_before_training(self.trainer, self._transfer.condensed, self.real_batch)
        remark_on_condensed(self.teacher, self._transfer.condensed)
        if self.distillation.lacks_class_means():
            with self.trainer.precision_plugin.forward_context():
                self.distillation.set_class_means(condensed_class_means(self.teacher, self._transfer.condensed))
        with self.trainer.precision_plugin.forward_context():
            give_class_rows(self.inversion, self.teacher, self._transfer.condensed)
        self._bank_state.open(self._transfer, self.trainer)

    def on_train_start(self) -> None:
        """Check that the loader yields the steps of a round."""
        check_loader(self.trainer, self.inversion.cadence.length)

    def on_train_end(self) -> None:
        """Synchronise student and method over ranks, even if no validation or checkpoint came last."""
        super().on_train_end()
        sync_buffers([self.student, self.inversion, self.distillation])
        self.stop_if_diverged()
        self._bank_state.prune(self._transfer.bank, self.trainer)

    def stop_if_diverged(self) -> None:
        """End the run if a loss, weight or statistic is not finite.

        Raises:
            FloatingPointError: if one is.
        """
        trained = [self.student, self.distillation, *([] if self._aligning is None else [self._aligning])]
        weights = all_finite(trained).to(self.device) & all_finite([self.inversion], transient(self)).to(self.device)
        if has_diverged(self, self.losses, weights):
            raise diverged(self, self._turns.optimizers, self._aligning)
