"""A frozen teacher and a student in training: measured on real images, saved without the teacher."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from lightning_condkd.distributed import sync_buffers
from lightning_condkd.models import Observer
from lightning_condkd.models.finite import check_finite
from lightning_condkd.modules.batches import check_image_shape, real_batch
from lightning_condkd.modules.checks import check_separate
from lightning_condkd.modules.divergence import (
    LogitsWatch,
    LossWatch,
    check_checkpoint,
    check_logits,
    check_measured,
    stop_if_diverged,
)
from lightning_condkd.modules.held_out import remark_on_accuracy
from lightning_condkd.modules.resumable import ResumableModule

STATE_KEY = "condkd"


class TeacherStudent(ResumableModule):
    """What every module that trains a student beside a frozen teacher shares.

    Validation and test measure top-1 accuracy (micro average) of the student on real images, and of the teacher: once
    in a fit, always in a test. Checkpoints leave the teacher out and hold its fingerprint instead.

    Args:
        teacher: the trained network with its normalisation. It is frozen.
        student: the network to train; one that is no :class:`Observer` gets the teacher's normalisation.

    Raises:
        ValueError: if teacher and student share memory, or the teacher or, in a fit, the student holds NaN.
    """

    def __init__(self, teacher: Observer, student: nn.Module) -> None:
        super().__init__()
        self.strict_loading = False  # the teacher is not in the checkpoint; on_load_checkpoint checks the other keys
        self.register_state_dict_post_hook(_without_teacher)  # type: ignore[no-untyped-call]
        check_separate(teacher, student)
        self.teacher = teacher.freeze()
        self.student = student if isinstance(student, Observer) else _observed_like(teacher, student)
        names = ("val_student", "val_teacher", "test_student", "test_teacher")
        self.accuracies = nn.ModuleDict({n: MulticlassAccuracy(teacher.num_classes, average="micro") for n in names})
        self.losses, self._logits = LossWatch(), LogitsWatch()
        self.teacher_accuracy: float | None = None
        self._fingerprint: str | None = None
        self._was_trained = False

    def setup(self, stage: str) -> None:
        """Check the networks; take the teacher's fingerprint before a true half or double precision converts it.

        Args:
            stage: ``fit``, ``validate`` or ``test``.
        """
        self.teacher.eval()  # its layers may have been set otherwise since it was frozen
        check_finite("the teacher", self.teacher, "load the weights of a run that did not diverge")
        if stage == "fit":
            check_finite("the student to begin with", self.student, "build it anew, or load other weights")
        self._fingerprint = self._fingerprint or self.teacher.fingerprint()
        self._was_trained = self._was_trained or stage == "fit"

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """``(C, H, W)`` of the images that the student learns from, where it is known."""
        return None

    def on_train_epoch_start(self) -> None:
        """Check that the teacher is still frozen."""
        self.teacher.check_frozen()

    def on_train_end(self) -> None:
        """Check that the teacher is still frozen."""
        self.teacher.check_frozen()

    def on_validation_start(self) -> None:
        """Make the student the same on all ranks, and see that there is something to measure, and to measure it by."""
        self._remark_untrained("validate")
        self.teacher.check_frozen()
        sync_buffers([self.student])
        if self.trainer.state.fn == TrainerFn.FITTING:
            self.stop_if_diverged()
        else:
            check_measured(self.student, "the student")

    def on_test_start(self) -> None:
        """See that there is something to measure."""
        self._remark_untrained("test")
        check_measured(self.student, "the student")

    def stop_if_diverged(self) -> None:
        """End the run if a loss, weight or statistic is not finite.

        Raises:
            FloatingPointError: if one is.
        """
        stop_if_diverged(self, self.losses, self.student, "the student", "Lower its learning rate")

    def _remark_untrained(self, what: str) -> None:
        if not self._was_trained:  # a fit, or the checkpoint that was loaded, says that it was
            rank_zero_warn(
                f"{what} without a checkpoint measures the student as it was made, before any training: give "
                "--ckpt_path (ckpt_path=...), unless it came with weights of its own"
            )

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Measure the student, and the teacher the first time.

        Args:
            batch: real images ``(N, C, H, W)``, in [0, 1] or uint8, and labels ``(N,)``.
            batch_idx: position in the loader.
        """
        self._measure("val", batch, teacher=self.teacher_accuracy is None)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Measure student and teacher.

        Args:
            batch: real images ``(N, C, H, W)``, in [0, 1] or uint8, and labels ``(N,)``.
            batch_idx: position in the loader.
        """
        self._measure("test", batch, teacher=True)

    def _measure(self, stage: str, batch: tuple[Tensor, Tensor], teacher: bool) -> None:
        images, labels = self.real_batch(batch)
        if not len(labels):
            return
        for name in ("student", "teacher") if teacher else ("student",):
            logits = getattr(self, name)(images).logits
            self._logits.add(name, logits)
            cast(MulticlassAccuracy, self.accuracies[f"{stage}_{name}"]).update(logits, labels)

    def real_batch(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Return images in the units of [0, 1] and labels, checked against what the networks know.

        Args:
            batch: real images ``(N, C, H, W)``, in [0, 1] or uint8, and labels ``(N,)``.

        Raises:
            ValueError: if they do not fit.
        """
        images, labels = real_batch(batch, self.teacher.num_classes)
        if self.image_shape is not None:
            check_image_shape(images, self.image_shape)
        return images, labels

    def on_validation_epoch_end(self) -> None:
        """Log the accuracies, and say so if the teacher's is close to chance."""
        values = self._read("val")
        if "val/teacher_accuracy" in values and not self.trainer.sanity_checking:
            self.teacher_accuracy = float(values["val/teacher_accuracy"])
            remark_on_accuracy(self.teacher_accuracy, self.teacher.num_classes, "the validation images")

    def on_test_epoch_end(self) -> None:
        """Log the accuracies, and say so if the teacher's is close to chance."""
        values = self._read("test")
        if "test/teacher_accuracy" in values:
            accuracy = float(values["test/teacher_accuracy"])
            remark_on_accuracy(accuracy, self.teacher.num_classes, "the test images")

    def _read(self, stage: str) -> dict[str, Tensor]:
        values = {}
        for name in ("student", "teacher"):
            check_logits(self._logits, name, f"the {name}", self)
            metric = cast(MulticlassAccuracy, self.accuracies[f"{stage}_{name}"])
            if metric.update_called:
                values[f"{stage}/{name}_accuracy"] = metric.compute()
                metric.reset()
        self.log_dict(values, sync_dist=True)  # equal on all ranks already; without it Lightning warns
        return values

    # --- checkpoints -----------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what the checkpoint needs to be checked and resumed.

        Args:
            checkpoint: what Lightning is about to write; its tensors share memory with the module's.
        """
        super().on_save_checkpoint(checkpoint)
        self.stop_if_diverged()
        checkpoint[STATE_KEY] = {
            "teacher": self._fingerprint or self.teacher.fingerprint(),
            "teacher_accuracy": self.teacher_accuracy,
            "normalisation": _normalisation(self.student),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the checkpoint belongs to this teacher and these networks.

        Args:
            checkpoint: what Lightning has read.

        Raises:
            ValueError: if the teacher is another one, keys do not match, or the checkpoint is of a diverged run.
        """
        super().on_load_checkpoint(checkpoint)
        state = checkpoint.get(STATE_KEY)
        if state is None:
            raise ValueError(
                "expected a checkpoint of a teacher-student run, got one without its state: check --ckpt_path"
            )
        if state["teacher"] != (self._fingerprint or self.teacher.fingerprint()):
            raise ValueError("the checkpoint was made with another teacher: load the weights that the run began with")
        check_checkpoint(self.lasting(checkpoint["state_dict"]))
        self.teacher_accuracy = state["teacher_accuracy"]
        self._was_trained = True
        self.restore(state)
        _check_keys(set(self.state_dict()), checkpoint["state_dict"])

    def lasting(self, state: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return those tensors of a checkpoint that must be finite.

        Args:
            state: its state dict.
        """
        return state

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take from a checkpoint what must be known before its tensors are loaded.

        Args:
            state: what :meth:`on_save_checkpoint` stored.
        """


def _without_teacher(module: nn.Module, state: dict[str, Any], prefix: str, metadata: object) -> None:
    for name in [name for name in state if name.startswith(f"{prefix}teacher.")]:
        del state[name]


def _observed_like(teacher: Observer, network: nn.Module) -> Observer:
    normalisation = _normalisation(teacher)
    return Observer(network, normalisation["mean"], normalisation["std"])


def _normalisation(network: Observer) -> dict[str, list[float] | None]:
    values = {"mean": network.mean, "std": network.std}
    return {name: None if value is None else value.tolist() for name, value in values.items()}


def _check_keys(expected: set[str], state: Mapping[str, Any]) -> None:
    if expected != set(state):
        missing, unexpected = sorted(expected - set(state)), sorted(set(state) - expected)
        raise ValueError(
            f"the checkpoint does not fit the module: missing {missing}, unexpected {unexpected}; "
            "use the same student, method and alignment as the run"
        )
