"""Module that distils a student from a teacher on real images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.optim.optimizer import ParamsT

from lightning_condkd.augment import Augment, CropFlip, Mixing
from lightning_condkd.data.shuffled_datamodule import ShuffledDataModule
from lightning_condkd.distillation import DistillationLoss, KLDistillation
from lightning_condkd.distributed import sync_buffers
from lightning_condkd.models import Observer
from lightning_condkd.models.checks import check_classifier
from lightning_condkd.modules.parts.loss_checks import check_progress
from lightning_condkd.modules.teacher_student import TeacherStudent
from lightning_condkd.randomness import Draw
from lightning_condkd.steps.class_means import class_means
from lightning_condkd.steps.comparison import Compared, Comparison
from lightning_condkd.steps.part_checks import check_mixing
from lightning_condkd.training.batches import check_image_shape, training_batch
from lightning_condkd.training.held_out import check_parts, class_names_of
from lightning_condkd.training.optimizers import check_count, check_trainable, make_scheduler
from lightning_condkd.training.run_length import run_steps
from lightning_condkd.training.schedules import run_cosine
from lightning_condkd.training.trainer_access import monitored_by, real_data_of

EPOCH = 2**32  # steps are numbered epoch by epoch, whatever the length of an epoch


class Distillation(TeacherStudent):
    """Distil a student from a frozen teacher on real images, with or without labels.

    It uses the losses of :class:`~lightning_condkd.modules.CondKD` on images of any datamodule, for the published
    protocols of these losses and for comparison. Batches are ``(images, labels)``: classes ``(N,)``, -1 where unknown,
    or probabilities ``(N, K)`` for a loss that accepts them. Where no class is known, the teacher's prediction takes
    its place. A loss with parameters of its own is trained with the student.

    Args:
        teacher: the trained network with its normalisation. It is frozen.
        student: the network to train; it gets the teacher's normalisation if it is no :class:`Observer`.
        distillation: loss of the student; ``None`` for :class:`KLDistillation` at temperature 4, the usual value on
            CIFAR-100 (RepDistiller).
        augment: augmentation of the images, the same for teacher and student; ``None`` for crop (pad 4) and flip.
        mixing: mixture of each image with another one of the batch, such as :class:`Mixup`, the same for teacher and
            student; ``None`` for none. Labels are mixed too for a loss that accepts probabilities, else they are the
            teacher's predictions for the mixtures.
        use_labels: whether the loss is given the labels of the data, not the teacher's predictions.
        student_optimizer: ``None`` for SGD, lr 0.05, momentum 0.9, weight decay 5e-4 (RepDistiller, batch 64).
        student_scheduler: stepped once an epoch; ``None`` for a cosine to 0 over the steps of the run (our default).
        image_shape: ``(C, H, W)`` of the images in pixels, for loaders of your own; ``None`` takes the datamodule's.
        seed: seed of all draws; ``None`` takes the one of ``seed_everything``, else 0. A resumed run keeps its seed.

    Raises:
        ValueError: at setup, if teacher, student, loss and data do not fit together.

    Example:
        >>> from lightning_condkd.models import DigitsNet
        >>> teacher = Observer(DigitsNet(width=8), mean=(0.3,), std=(0.4,))
        >>> model = Distillation(teacher, DigitsNet(width=4))
        >>> model(torch.rand(2, 1, 8, 8)).shape
        torch.Size([2, 10])

    References:
        Tian, Krishnan, Isola: "Contrastive Representation Distillation", arXiv 1910.10699, and its code RepDistiller.
    """

    state_key = "distillation"
    best_metric = "val/student_accuracy"
    metrics: ClassVar[tuple[str, ...]] = ("train/", "val/")

    def __init__(
        self,
        teacher: Observer,
        student: nn.Module,
        distillation: DistillationLoss | None = None,
        *,
        augment: Augment | None = None,
        mixing: Mixing | None = None,
        use_labels: bool = True,
        student_optimizer: OptimizerCallable | None = None,
        student_scheduler: LRSchedulerCallable | None = None,
        image_shape: tuple[int, int, int] | None = None,
        seed: int | None = None,
    ) -> None:
        loss = KLDistillation(4.0) if distillation is None else distillation
        super().__init__(teacher, student, loss, student_optimizer, student_scheduler, seed)
        self.augment = CropFlip() if augment is None else augment
        self.mixing = mixing
        self.use_labels = use_labels
        self._given_shape = self._stated_shape = None if image_shape is None else tuple(image_shape)
        self._slots = 0

    def setup(self, stage: str) -> None:
        """Check that networks, loss and data fit together.

        Args:
            stage: ``fit``, ``validate``, ``test`` or ``predict``.
        """
        super().setup(stage)
        if stage != "fit":
            return
        check_trainable("student", self.student)
        check_mixing(self.mixing, self.distillation)
        check_progress(self.distillation, run_steps(self.trainer, 1) is None)
        data = real_data_of(self.trainer)
        if data is not None:
            self._check_data(data)
        elif self.distillation.needs_slots:
            raise ValueError(
                f"{type(self.distillation).__name__} remembers each image, which loaders do not number: fit with a "
                "datamodule such as ImageFolderDataModule, or take a loss without a memory"
            )
        if self._given_shape is None and self.distillation.must_be_built():
            raise ValueError(
                f"{type(self.distillation).__name__} needs the shape of the images, which loaders do not tell: pass "
                "image_shape=(C, H, W), or fit with a datamodule such as ImageFolderDataModule"
            )

    def _check_data(self, data: ShuffledDataModule) -> None:
        classes = data.num_classes
        if classes is not None and classes != self.teacher.num_classes:
            raise ValueError(
                f"the data has {classes} classes, the teacher {self.teacher.num_classes}: take the teacher of this data"
            )
        if self._stated_shape not in (None, data.image_shape):
            raise ValueError(
                f"image_shape is {self._stated_shape}, but the images of the data have {data.image_shape}: leave it "
                "out, it is for loaders"
            )
        self._given_shape = shape = data.image_shape
        for name in ("teacher", "student"):
            check_classifier(name, getattr(self, name), shape, self.teacher.num_classes)
        data.with_rows = self.distillation.needs_slots
        self._slots = data.train_size if self.distillation.needs_slots else 0

    def configure_model(self) -> None:
        """Create the parameters of the loss, on the CPU; a second run must have data of the same kind."""
        shape, built = self.image_shape, self.distillation.spec
        if shape is not None and built is None:
            with torch.device("cpu"):  # the trainer calls this with its device as the default
                self.build_loss(shape, self._slots)
        elif built is not None and (built.image_shape, built.slots) != (shape, self._slots):
            raise ValueError(
                f"the loss was built for {built.slots or 'any number of'} images of {built.image_shape}, got data of "
                f"{self._slots or 'any number of'} images of {shape}: make a new module for it"
            )

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """``(C, H, W)`` of the training images; ``None`` if unknown."""
        return self._given_shape  # type: ignore[return-value]

    def default_optimizer(self, parameters: ParamsT) -> Optimizer:
        """Return SGD, lr 0.05, momentum 0.9, weight decay 5e-4.

        Args:
            parameters: parameters to train, or groups of them.
        """
        return SGD(parameters, lr=0.05, momentum=0.9, weight_decay=5e-4)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return the optimizer of student and loss with its schedule."""
        optimizer = self.make_student_optimizer(self.student, self.distillation)
        self.check_student_optimizer(optimizer)
        if self.student_scheduler is None:
            scheduler = run_cosine("student_scheduler", optimizer, self.trainer)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
        given = make_scheduler("student_scheduler", self.student_scheduler, optimizer)
        epochs = self.trainer.max_epochs
        check_count("student_scheduler", given, epochs if epochs and epochs > 0 else None, "once an epoch")
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": given, "monitor": monitored_by(given)}}

    def on_train_start(self) -> None:
        """Check that the loaders' datasets have the same class names; compute class means if the loss needs them."""
        check_parts(self.trainer)
        loaders = [self.trainer.train_dataloader]
        self.class_names = next(class_names_of(loaders), self.class_names)
        if self.distillation.lacks_class_means():
            rank_zero_info("means of the teacher's embeddings over the training images ...")
            batches = (self._batch(batch)[:2] for batch in self.trainer.train_dataloader or ())
            with self.trainer.precision_plugin.forward_context():
                self.distillation.set_class_means(class_means(self.teacher, batches, all_ranks=True))

    def _batch(self, batch: Any) -> tuple[Tensor, Tensor, Tensor | None]:  # noqa: ANN401 - of any loader
        images, labels, rows = training_batch(batch, self.teacher.num_classes)
        if self.image_shape is not None:
            check_image_shape(images, self.image_shape)
        if not self.use_labels:
            labels = torch.full((len(images),), -1, device=images.device)
        return images, labels, rows

    @property
    def student_steps(self) -> tuple[int, int | None]:
        """Number of the student's steps that are done, and of those in the whole run; ``None`` if it has no end."""
        total = self.trainer.estimated_stepping_batches
        return self.global_step, None if total == float("inf") else int(total)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:  # noqa: ANN401 - of any loader
        """Return the loss of a batch.

        Args:
            batch: images ``(N, C, H, W)``, in [0, 1] or uint8, and labels ``(N,)`` or ``(N, K)``; for a loss with
                ``needs_slots`` also the row of each image in the data, ``(N,)``.
            batch_idx: position in the epoch.
        """
        images, labels, rows = self._batch(batch)
        compared = self._compare(images, labels, rows, batch_idx)
        terms = compared.terms(self.distillation)
        loss = terms.total()
        named = {name: value.detach() for name, value in terms.values.items()} if len(terms.values) > 1 else {}
        self.losses.add("student", self.global_step, {"loss": loss, **named})
        seen = {"loss": loss, **compared.agreement(self.distillation), **named}
        self.log_dict({f"train/{name}": value for name, value in seen.items()}, batch_size=len(images))
        return loss

    def _compare(self, images: Tensor, labels: Tensor, rows: Tensor | None, batch_idx: int) -> Compared:
        step = self.current_epoch * EPOCH + batch_idx
        draw = Draw(self.seed, step, self.global_rank, self.trainer.world_size)
        compare = Comparison(self.teacher, self.student, self.distillation, self.augment, self.mixing)
        return compare(images, labels, draw, self.progress, rows)

    def on_after_backward(self) -> None:
        """Check in the first step that gradients reach the loss; synchronise buffers over ranks."""
        self.distillation.check_reached()
        sync_buffers([self.student], statistics_of=[self.distillation])

    def on_train_epoch_end(self) -> None:
        """End a run that has diverged."""
        self.stop_if_diverged()

    def on_train_end(self) -> None:
        """Synchronise student and loss over ranks, even if no validation or checkpoint came last."""
        super().on_train_end()
        sync_buffers([self.student, self.distillation])
        self.stop_if_diverged()

    def save_state(self, checkpoint: Mapping[str, Any]) -> dict[str, Any]:
        """Return the shapes that the loss was built for.

        Args:
            checkpoint: content that Lightning will write.
        """
        spec = self.distillation.spec
        built = None if spec is None else [list(spec.image_shape), spec.slots]
        return super().save_state(checkpoint) | {"loss_built_for": built}

    def build_from(self, state: Mapping[str, Any]) -> None:
        """Create the parameters of the loss, if no fit has done so.

        Args:
            state: result of :meth:`save_state`.
        """
        if state["loss_built_for"] is not None and self.distillation.spec is None:
            shape, slots = state["loss_built_for"]
            self._given_shape, self._slots = tuple(shape), slots
            self.build_loss(tuple(shape), slots)
            self.take_precision()
