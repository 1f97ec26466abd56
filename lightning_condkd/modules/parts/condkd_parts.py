"""Parts of CondKD, and their state in checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import nn

from lightning_condkd.alignment import Alignment
from lightning_condkd.augment import Augment, CropFlip, Mixing
from lightning_condkd.data.mix import AnnealedMix
from lightning_condkd.data.transfer import TransferSet
from lightning_condkd.distillation import DistillationLoss
from lightning_condkd.distributed import sync_buffers
from lightning_condkd.inversion import Inversion
from lightning_condkd.models import Observer
from lightning_condkd.models.finite import check_finite
from lightning_condkd.modules.parts.bank_state import BankState
from lightning_condkd.modules.parts.default_losses import default_distillation
from lightning_condkd.modules.parts.divergence import TRANSIENT
from lightning_condkd.modules.teacher_student import TeacherStudent
from lightning_condkd.randomness import seeded_generator
from lightning_condkd.training.meters import Meters, Stopwatch
from lightning_condkd.training.run_record import fingerprint, settings
from lightning_condkd.types import TaskSpec


class CondKDParts(TeacherStudent):
    """Base of CondKD with its networks, method, alignment, loss and transfer set, and their state.

    Args:
        teacher: the trained network with its normalisation. It is frozen.
        student: the network to train.
        inversion: the method that synthesises images.
        alignment: alignment with the condensed images; ``None`` for plain inversion.
        distillation: loss of the student; ``None`` for the method's default.
        augment: augmentation of the distillation images; ``None`` for the method's default.
        mixing: mixture of the distillation images; ``None`` for none.
        student_optimizer: see :class:`TeacherStudent`.
        student_scheduler: see :class:`TeacherStudent`.
        transfer_set: training images of the student; ``None`` takes the datamodule's.
        seed: seed of all draws; ``None`` takes the one of ``seed_everything``, else 0.
    """

    student_gradient_clip: float | None = None

    def __init__(
        self,
        teacher: Observer,
        student: nn.Module,
        inversion: Inversion,
        alignment: Alignment | None,
        distillation: DistillationLoss | None,
        augment: Augment | None,
        mixing: Mixing | None,
        student_optimizer: OptimizerCallable | None,
        student_scheduler: LRSchedulerCallable | None,
        transfer_set: TransferSet | None,
        seed: int | None,
    ) -> None:
        loss = default_distillation(inversion, teacher, student) if distillation is None else distillation
        super().__init__(teacher, student, loss, student_optimizer, student_scheduler, seed)
        self.inversion = inversion
        self.alignment = alignment
        usual = CropFlip(0, 0.0) if inversion.source == "live" else CropFlip()
        self.augment = usual if augment is None else augment
        self.mixing = mixing
        self.transfer_set = self._given_transfer_set = transfer_set
        self.spec: TaskSpec | None = None
        self.meters, self.stopwatch = Meters(), Stopwatch()
        self._bank_state = BankState()
        self._optimizer_names: list[str] = []  # until a fit creates the optimizers

    def _build(self, spec: TaskSpec, slots: int) -> None:
        self.spec = spec
        self.build_loss(spec.image_shape, slots)
        self.inversion.build(spec, seeded_generator(self.seed, "inversion"))
        if self._aligning is not None:
            self._aligning.asks(self.teacher.network)  # refuses a teacher without what is compared
            self._aligning.build(spec, seeded_generator(self.seed, "alignment"))
            check_finite("the alignment", self._aligning, "build it anew, or load other weights")
        check_finite("the inversion", self.inversion, "give it another generator, or other weights")

    @property
    def steps_per_epoch(self) -> int:
        """Number of steps in a round, as datamodules and loaders need it."""
        return self.inversion.cadence.length

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """``(C, H, W)`` of the student's training images; ``None`` if unknown."""
        return None if self.spec is None else self.spec.image_shape

    @property
    def images_synthesized(self) -> int:
        """Number of synthetic images so far: those stored in the bank, or those rendered for the student's steps."""
        sampled = getattr(self.inversion, "images_sampled", None)
        return self._transfer.bank.images_seen + (0 if sampled is None else int(sampled))

    def run_settings(self) -> dict[str, Any]:
        """Return the settings that a resumed run is compared by, JSON values only."""
        return {
            "condensed": fingerprint(self._transfer.condensed),
            "mix": settings(mix) if isinstance(mix := self._transfer.mix, AnnealedMix) else mix,
            "batch_size": self._transfer.batch_size,
            "bank_capacity": self._transfer.bank.capacity,
            "round_length": self.inversion.cadence.length,
            "inversion": settings(self.inversion),
            "alignment": None if self._aligning is None else settings(self._aligning),
            "distillation": settings(self.distillation),
            "augment": settings(self.augment),
            "mixing": None if self.mixing is None else settings(self.mixing),
            "student_gradient_clip": self.student_gradient_clip,
        }

    def optimizer_names(self) -> list[str]:
        """Return the names of the optimizers."""
        return self._optimizer_names

    def save_state(self, checkpoint: Mapping[str, Any]) -> dict[str, Any]:
        """Return shapes and times, and the bank if a run can be resumed from the checkpoint.

        Args:
            checkpoint: content that Lightning will write.
        """
        state = super().save_state(checkpoint)
        sync_buffers([self.inversion])
        has_bank = self.transfer_set is not None and "optimizer_states" in checkpoint
        return state | {
            "spec": None if self.spec is None else list(self.spec),
            "slots": 0 if self.distillation.spec is None else self.distillation.spec.slots,
            "seconds": dict(self.stopwatch.seconds),
            "meters": self.meters.state(),
            "bank": self._bank_state.save(self._transfer.bank, self.trainer) if has_bank else None,
        }

    def state_to_check(self, state: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the tensors that must be finite, without those that a method refills.

        Args:
            state: state dict of a checkpoint.
        """
        own = {name for name in state if name.startswith("inversion.")}
        return {n: v for n, v in state.items() if n not in own or not n.split(".")[-1].startswith(TRANSIENT)}

    def build_from(self, state: Mapping[str, Any]) -> None:
        """Restore times and, in a fit, the bank from a checkpoint; build the method if no fit has done so.

        Args:
            state: result of :meth:`save_state`.
        """
        self.stopwatch.seconds = dict(state["seconds"])
        if self.spec is None and state["spec"] is not None:
            shape, classes, size, *rest = state["spec"]
            self._build(TaskSpec(tuple(shape), classes, size, *map(tuple, rest)), state.get("slots", 0))
        self._keep_slots(state.get("slots", 0))
        if self.is_fitting:
            self.meters.load(state["meters"])
        if self.is_fitting and state["bank"] is not None:
            self._bank_state.load(state["bank"], self._transfer.bank, self.trainer)
        self.take_precision()

    def _keep_slots(self, slots: int) -> None:
        """Give a resumed loss the memory of its run, if it suffices for this run."""
        spec = self.distillation.spec
        if spec is None or spec.slots == slots or not self.distillation.needs_slots:
            return
        if self.is_fitting and spec.slots > slots:
            raise ValueError(
                f"{type(self.distillation).__name__} keeps a memory of {slots} images in the checkpoint, this run may "
                f"have {spec.slots}: resume with the run's own length, or begin a run with data.bank_capacity set"
            )
        self.build_loss(spec.image_shape, slots)

    @property
    def _aligning(self) -> Alignment | None:
        """The alignment; ``None`` if it has no effect (such as weight 0), and then nothing of it is built or run."""
        active = self.alignment is not None and self.alignment.active and self.inversion.cadence.synthesis_steps > 0
        return self.alignment if active else None

    @property
    def _transfer(self) -> TransferSet:
        return cast(TransferSet, self.transfer_set)
