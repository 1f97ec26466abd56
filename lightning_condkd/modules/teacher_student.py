"""Base class of modules that train a student with a frozen teacher: evaluation, and checkpoints of the student."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, cast

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from lightning_condkd.distillation import DistillationLoss
from lightning_condkd.distributed import sync_buffers
from lightning_condkd.models import Observer
from lightning_condkd.models.finite import check_finite
from lightning_condkd.models.weights import plain_state
from lightning_condkd.modules.image_classifier import ImageClassifier
from lightning_condkd.modules.parts.checks import check_dtypes, check_separate
from lightning_condkd.randomness import seeded_generator
from lightning_condkd.steps.part_checks import check_loss, check_networks
from lightning_condkd.training.batches import check_image_shape, real_batch
from lightning_condkd.training.divergence import (
    LossWatch,
    check_checkpoint,
    check_logits,
    check_measured,
    stop_if_diverged,
)
from lightning_condkd.training.optimizers import check_covers, check_makers, make_optimizer
from lightning_condkd.training.run_length import share_done
from lightning_condkd.training.schedules import default_student_optimizer
from lightning_condkd.training.scores import Scores
from lightning_condkd.training.teacher_accuracy import remark_on_accuracy


class TeacherStudent(ImageClassifier):
    """Base of the modules that train a student with a frozen teacher.

    Validation and test evaluate the top-1 accuracy (micro average) of the student on real images, and of the teacher:
    once in a fit, always in a test. Of several loaders the first has the plain names, see
    :class:`~lightning_condkd.training.scores.Scores`. Checkpoints contain the teacher's fingerprint instead of its
    weights.

    Args:
        teacher: the trained network with its normalisation. It is frozen.
        student: the network to train; it gets the teacher's normalisation if it is no :class:`Observer`.
        distillation: loss of the student; its own parameters are trained with the student.
        student_optimizer: function that makes the optimizer of student and loss; ``None`` for
            :meth:`default_optimizer`.
        student_scheduler: function that makes the schedule; ``None`` for the module's default.
        seed: seed of all draws; ``None`` takes the one of ``seed_everything``, else 0. A resumed run keeps its seed.

    Raises:
        TypeError: if the teacher is no :class:`Observer`, or the student no module.
        ValueError: if teacher and student share memory, or the teacher or, in a fit, the student contains NaN.
    """

    part = "student"
    best_metric = "val/student_accuracy"

    def __init__(
        self,
        teacher: Observer,
        student: nn.Module,
        distillation: DistillationLoss,
        student_optimizer: OptimizerCallable | None = None,
        student_scheduler: LRSchedulerCallable | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(seed)
        check_makers(student_optimizer=student_optimizer, student_scheduler=student_scheduler)
        check_networks(teacher, student)
        check_loss(distillation)
        self.strict_loading = False  # the teacher is not in the checkpoint; on_load_checkpoint checks the other keys
        self.register_state_dict_post_hook(_without_teacher)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_post_hook(_expects_no_teacher)  # type: ignore[no-untyped-call]
        check_separate(teacher, student)
        self.teacher = teacher.freeze()
        self.student = student if isinstance(student, Observer) else _observed_like(teacher, student)
        self.distillation = distillation
        distillation.resolve_maps(self.teacher, self.student)
        self.student_optimizer = student_optimizer
        self.student_scheduler = student_scheduler
        self.scores = Scores(teacher.num_classes)
        self.losses = LossWatch()
        self.teacher_accuracy: float | None = None
        self._fingerprint: str | None = None
        self._was_trained = False

    def setup(self, stage: str) -> None:
        """Check the networks; compute the teacher's fingerprint before a conversion to half or double precision.

        Args:
            stage: ``fit``, ``validate`` or ``test``.
        """
        super().setup(stage)
        self.teacher.eval()  # the mode of its layers may have been changed since it was frozen
        check_finite("the teacher", self.teacher, "load the weights of a run that did not diverge")
        if stage == "fit":
            check_finite("the student to begin with", self.student, "build it again, or load other weights")
            rank_zero_info(f"loss of the student: {self.distillation.summary()}")
        self._fingerprint = self._fingerprint or self.teacher.fingerprint()
        self._was_trained = self._was_trained or stage == "fit"

    @property
    def classifier(self) -> Observer:
        """The network that predicts: the student, unless the loss changes how it predicts."""
        return self.student if self.distillation.spec is None else self.distillation.predictor(self.student)

    @property
    @abstractmethod
    def student_steps(self) -> tuple[int, int | None]:
        """Number of the student's steps that are done, and of those in the whole run; ``None`` if it has no end."""

    @property
    def progress(self) -> float:
        """Share of the student's steps in the run that are done, in [0, 1]; 0 if the run has no end."""
        return share_done(*self.student_steps)

    def build_loss(self, image_shape: tuple[int, int, int], slots: int = 0) -> None:
        """Create the parameters of the loss.

        Args:
            image_shape: ``(C, H, W)`` of the student's training images.
            slots: number of different images in the run, if the loss needs it.
        """
        generator = seeded_generator(self.seed, "distillation")
        self.distillation.build(self.teacher, self.student, image_shape, slots=slots, generator=generator)

    def make_student_optimizer(self, student: nn.Module, distillation: DistillationLoss) -> Optimizer:
        """Return a new optimizer with the student's settings.

        Args:
            student: the network to train.
            distillation: its loss, whose own parameters are in groups of their own.
        """
        own = distillation.parameter_groups()
        parameters: ParamsT = [{"params": list(student.parameters())}, *own] if own else student.parameters()
        if self.student_optimizer is not None:
            return make_optimizer("student_optimizer", self.student_optimizer, parameters)
        return self.default_optimizer(parameters)

    def default_optimizer(self, parameters: ParamsT) -> Optimizer:
        """Return the optimizer of student and loss if none is given.

        Args:
            parameters: parameters to train, or groups of them.
        """
        return default_student_optimizer(parameters)

    def check_student_optimizer(self, optimizer: Optimizer) -> None:
        """Check that the optimizer trains student and loss.

        Args:
            optimizer: result of :meth:`make_student_optimizer`.

        Raises:
            ValueError: if it lacks all parameters of one of them.
        """
        check_covers("student_optimizer", optimizer, self.student)
        check_covers(f"student_optimizer, {type(self.distillation).__name__}", optimizer, self.distillation)

    def on_fit_start(self) -> None:
        """Check the networks in the precision of the run."""
        super().on_fit_start()
        check_dtypes(self.trainer, teacher=self.teacher, student=self.student)

    def on_train_epoch_start(self) -> None:
        """Check that the teacher is still frozen."""
        self.teacher.check_frozen()

    def on_train_end(self) -> None:
        """Check that the teacher is still frozen."""
        self.teacher.check_frozen()

    def on_validation_start(self) -> None:
        """Synchronise the student over ranks, check that it was trained, and start the scores."""
        self.scores.begin(self.trainer)
        self._remark_untrained("validate")
        check_dtypes(self.trainer, teacher=self.teacher, student=self.student)
        self.teacher.check_frozen()
        sync_buffers([self.student, self.distillation])
        if self.trainer.state.fn == TrainerFn.FITTING:
            self.stop_if_diverged()
        else:
            check_measured(self.student, "the student")

    def on_test_start(self) -> None:
        """Check teacher and student, and start the scores."""
        self.scores.begin(self.trainer)
        self._remark_untrained("test")
        check_dtypes(self.trainer, teacher=self.teacher, student=self.student)
        check_measured(self.student, "the student")

    def on_predict_start(self) -> None:
        """Check the network, and note if the student was not trained."""
        super().on_predict_start()
        self._remark_untrained("predict")

    def stop_if_diverged(self) -> None:
        """End the run if a loss, weight or statistic is not finite.

        Raises:
            FloatingPointError: if one is.
        """
        stop_if_diverged(self, self.losses, self.student, "the student", "Lower its learning rate")

    def _remark_untrained(self, what: str) -> None:
        if not self._was_trained:  # set by a fit, or by a loaded checkpoint
            rank_zero_warn(
                f"{what} without a checkpoint takes the student as it was made, before any training: give "
                "--ckpt_path (ckpt_path=...), unless it came with weights of its own"
            )

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Evaluate the student, and the first time also the teacher.

        Args:
            batch: real images ``(N, C, H, W)``, in [0, 1] or uint8, and labels ``(N,)``.
            batch_idx: position in the loader.
            dataloader_idx: number of the loader.
        """
        self._measure("val", batch, dataloader_idx, teacher=self.teacher_accuracy is None)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Evaluate student and teacher.

        Args:
            batch: real images ``(N, C, H, W)``, in [0, 1] or uint8, and labels ``(N,)``.
            batch_idx: position in the loader.
            dataloader_idx: number of the loader.
        """
        self._measure("test", batch, dataloader_idx, teacher=True)

    def _measure(self, stage: str, batch: tuple[Tensor, Tensor], loader: int, teacher: bool) -> None:
        images, labels = self.real_batch(batch)
        networks = {"student": self.classifier, **({"teacher": self.teacher} if teacher else {})}
        ways = {name: _logits_of(network) for name, network in networks.items()}
        if stage == "test":
            ways |= self.distillation.other_predictors(self.student)
        for name, logits_of in ways.items():
            logits = logits_of(images) if len(labels) else images.new_empty(0)
            self._logits.add(name, logits)
            self.scores.add_accuracy(f"{stage}/{name}_accuracy", loader, logits, labels)

    def real_batch(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Return images in the units of [0, 1] and labels, checked against the networks.

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
        """Log the accuracies, and warn if the teacher's is close to chance."""
        values = self._read()
        if "val/teacher_accuracy" in values and not self.trainer.sanity_checking:
            self.teacher_accuracy = float(values["val/teacher_accuracy"])
            remark_on_accuracy(self.teacher_accuracy, self.teacher.num_classes, "the validation images")
        elif self.teacher_accuracy is not None:  # evaluated once, but logged in all rows, also after a resume
            self.log("val/teacher_accuracy", self.teacher_accuracy, sync_dist=True)

    def on_test_epoch_end(self) -> None:
        """Log the accuracies, and warn if the teacher's is close to chance."""
        values = self._read()
        if "test/teacher_accuracy" in values:
            accuracy = float(values["test/teacher_accuracy"])
            remark_on_accuracy(accuracy, self.teacher.num_classes, "the test images")

    def _read(self) -> dict[str, Tensor]:
        for name in ("student", "teacher", *self.distillation.other_predictors(self.student)):
            check_logits(self._logits, name, f"the {name}", self)
        values = self.scores.pop()
        self.log_dict(values, sync_dist=True)  # already equal on all ranks; without it Lightning warns
        return values

    # --- checkpoints -----------------------------------------------------------------------------------------------

    def save_state(self, checkpoint: Mapping[str, Any]) -> dict[str, Any]:
        """Return the data for the checks of a checkpoint.

        Args:
            checkpoint: not used.
        """
        sync_buffers([self.student, self.distillation])
        self.stop_if_diverged()
        return super().save_state(checkpoint) | {
            "teacher": self._fingerprint or self.teacher.fingerprint(),
            "teacher_accuracy": self.teacher_accuracy,
            "predictor": self._names_of_predictor(),
        }

    def _names_of_predictor(self) -> dict[str, str] | None:
        """Return the name in the checkpoint of each tensor of the network that predicts; ``None`` for the student."""
        if not self.distillation.changes_prediction():
            return None
        held = {tensor.data_ptr(): name for name, tensor in self.state_dict().items()}
        return {name: held[tensor.data_ptr()] for name, tensor in plain_state(self.classifier.network).items()}

    def restore(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Check that the checkpoint belongs to this teacher and these networks.

        Args:
            state: result of :meth:`save_state`.
            tensors: state dict of the checkpoint.

        Raises:
            ValueError: if the teacher is another one, keys do not match, or the checkpoint comes from a diverged run.
        """
        super().restore(state, tensors)
        if state["teacher"] != (self._fingerprint or self.teacher.fingerprint()):
            raise ValueError("the checkpoint was made with another teacher: load the weights that the run began with")
        check_checkpoint(self.state_to_check(tensors))
        self.teacher_accuracy = state["teacher_accuracy"]
        self._was_trained = True
        self.build_from(state)
        self.check_state(tensors)

    def state_to_check(self, state: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the tensors of a checkpoint that must be finite.

        Args:
            state: its state dict.
        """
        return state

    def build_from(self, state: Mapping[str, Any]) -> None:
        """Create the parts that are needed before the tensors of a checkpoint are checked and loaded.

        Args:
            state: result of :meth:`save_state`.
        """


def _logits_of(network: Observer) -> Callable[[Tensor], Tensor]:
    return lambda images: cast(Tensor, network(images).logits)


def _without_teacher(module: nn.Module, state: dict[str, Any], prefix: str, metadata: object) -> None:
    for name in [name for name in state if name.startswith(f"{prefix}teacher.")]:
        del state[name]


def _expects_no_teacher(module: nn.Module, keys: Any) -> None:  # noqa: ANN401 - torch's own record
    keys.missing_keys[:] = [name for name in keys.missing_keys if not name.startswith("teacher.")]


def _observed_like(teacher: Observer, network: nn.Module) -> Observer:
    mean, std = (None if value is None else value.tolist() for value in (teacher.mean, teacher.std))
    return Observer(network, mean, std)
