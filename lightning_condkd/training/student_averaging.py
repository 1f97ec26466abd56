"""Callback with the moving average of a student's weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from lightning_condkd.distillation import DistillationLoss
from lightning_condkd.training.run_record import differences, warn_of_differences
from lightning_condkd.training.trainer_access import CountsUnits, callbacks_of, student_of

CURRENT, AVERAGING, STUDENT = "current_model_state", "averaging_state", "student."  # the first two are Lightning's


class StudentAveraging(WeightAveraging):
    """Average the student's weights and statistics exponentially; after the fit the average replaces the student.

    Lightning's callbacks average a whole module, which here includes teacher, generator and discriminator. This average
    is updated after each step of the student, in single precision at least. Validation evaluates it, and checkpoints
    contain it as the student, so that ``test`` and ``export`` use it. Checkpoints also contain the trained student, so
    a resumed run ends with the same average to the bit.

    Args:
        decay: weight of the old average in each update; 0.999 is also Lightning's default.
        first_round: index of the first round (epoch), from 0, whose steps are averaged.

    Raises:
        ValueError: if ``decay`` is not in [0, 1), or at setup, if the module trains no student.

    Example:
        >>> StudentAveraging(decay=0.99).decay
        0.99
    """

    def __init__(self, decay: float = 0.999, first_round: int = 0) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay: expected a number in [0, 1), got {decay}")
        super().__init__()
        self.decay, self.first_round = decay, first_round
        self._loaded: dict[str, dict[str, Tensor]] | None = None
        self._kept: dict[str, Tensor] | None = None  # the trained student, while the module contains the average

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Check that there is a student; reset the state of an earlier fit.

        Args:
            trainer: the trainer.
            pl_module: a module with a student.
            stage: only ``fit`` has an effect.
        """
        if stage != "fit":
            return
        if student_of(pl_module) is None:
            raise ValueError(
                f"StudentAveraging: expected a module that trains a student, got {type(pl_module).__name__}: use "
                "EMAWeightAveraging, which averages a whole module"
            )
        loss = dict(pl_module.named_children()).get("distillation")
        if isinstance(loss, DistillationLoss) and loss.changes_prediction():
            raise ValueError(
                f"StudentAveraging averages the student alone, but with {type(loss).__name__} it predicts through "
                "other layers too, which are not averaged: remove the callback, or take another loss"
            )
        self._average_model, self._loaded, self._kept = None, None, None

    def on_fit_start(self, trainer: L.Trainer, pl_module: Any) -> None:  # noqa: ANN401 - whatever has a student
        """Start with the current student, or with the content of a checkpoint.

        Args:
            trainer: the trainer.
            pl_module: the module.
        """
        student: nn.Module = pl_module.student
        average = AveragedModel(student, pl_module.device, self._follow, use_buffers=True)
        for tensor in (*average.module.parameters(), *average.module.buffers()):
            if tensor.is_floating_point():  # half precision would lose updates by a thousandth
                tensor.data = tensor.data.to(torch.promote_types(tensor.dtype, torch.float32))
        self._average_model = average
        if self._loaded is not None:
            average.load_state_dict(self._loaded[AVERAGING])
            student.load_state_dict(self._loaded[CURRENT])
            self._loaded = None

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:  # noqa: ANN401
        """Update the average, if this was a step of the student.

        Args:
            trainer: the trainer.
            pl_module: the module.
        """
        unit = pl_module.unit if isinstance(pl_module, CountsUnits) else None
        if trainer.current_epoch < self.first_round or (unit is not None and unit.phase != "distill"):
            return
        self._average.update_parameters(pl_module.student)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Do nothing, since the average is updated after steps.

        Args:
            trainer: not used.
            pl_module: not used.
        """

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: Any) -> None:  # noqa: ANN401
        """Replace the student by the average.

        Args:
            trainer: the trainer.
            pl_module: the module.
        """
        if self._follows and trainer.state.fn == "fit":
            self._kept = {name: tensor.clone() for name, tensor in pl_module.student.state_dict().items()}
            pl_module.student.load_state_dict(self._average.module.state_dict())

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:  # noqa: ANN401
        """Restore the trained student.

        Args:
            trainer: the trainer.
            pl_module: the module.
        """
        self._put_back(pl_module)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Restore the trained student if a validation was interrupted.

        Args:
            trainer: the trainer.
            pl_module: the module.
            exception: not used.
        """
        self._put_back(pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Do nothing yet, since the last checkpoint must contain both.

        Args:
            trainer: not used.
            pl_module: not used.
        """

    def on_fit_end(self, trainer: L.Trainer, pl_module: Any) -> None:  # noqa: ANN401
        """Replace the student by the average for good.

        Args:
            trainer: the trainer.
            pl_module: the module.
        """
        if self._follows:
            pl_module.student.load_state_dict(self._average.module.state_dict())
        self._average_model = None

    def state_dict(self) -> dict[str, Any]:
        """Return the settings; the average itself is written by :meth:`on_save_checkpoint`."""
        return {"decay": self.decay, "first_round": self.first_round}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Warn if the resumed run had other settings.

        Args:
            state_dict: result of :meth:`state_dict`.
        """
        warn_of_differences(differences(state_dict, self.state_dict()), "the average continues as set here")

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:  # noqa: ANN401
        """Store the average as the student in the checkpoint, and the trained student in addition.

        Args:
            trainer: the trainer.
            pl_module: the module.
            checkpoint: the content to be written.
        """
        if not self._follows:
            return
        checkpoint[CURRENT] = self._kept or dict(pl_module.student.state_dict())
        checkpoint[AVERAGING] = dict(self._average.state_dict())
        average = self._average.module.state_dict()
        checkpoint["state_dict"] |= {f"{STUDENT}{name}": value for name, value in average.items()}

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: Mapping[str, Any]
    ) -> None:
        """Store average and trained student until the fit starts.

        Args:
            trainer: the trainer.
            pl_module: the module.
            checkpoint: the content that was read.
        """
        if trainer.state.fn != "fit":
            return
        if AVERAGING in checkpoint:
            self._loaded = {name: checkpoint[name] for name in (AVERAGING, CURRENT)}
        else:
            rank_zero_warn(
                "the checkpoint holds no average of the student: it starts from the student in the checkpoint"
            )

    @property
    def _average(self) -> AveragedModel:
        assert self._average_model is not None
        return self._average_model

    @property
    def _follows(self) -> bool:
        """``True`` if there is an average, that is, after the first averaged step."""
        return self._average_model is not None and bool(self._average_model.n_averaged > 0)

    def _follow(self, average: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
        if not average.is_floating_point():  # counters are not averaged
            return current
        return average.lerp(current.to(average.dtype), 1 - self.decay)  # equal values stay equal to the bit

    def _put_back(self, module: Any) -> None:  # noqa: ANN401
        if self._kept is not None:
            module.student.load_state_dict(self._kept)
            self._kept = None


def take_average(trainer: L.Trainer, module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
    """Put the averaged weights of a callback, which validation evaluates, into a checkpoint of weights alone.

    Lightning calls the callbacks for full checkpoints only.

    Args:
        trainer: the trainer.
        module: the module.
        checkpoint: the content to be written.
    """
    if "optimizer_states" in checkpoint or trainer.state.fn != "fit":
        return
    for callback in callbacks_of(trainer, WeightAveraging):
        callback.on_save_checkpoint(trainer, module, checkpoint)
        for name in (CURRENT, AVERAGING):
            checkpoint.pop(name, None)
