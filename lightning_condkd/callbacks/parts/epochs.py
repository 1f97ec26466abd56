"""Names, numbers and figures of epochs, and the time left, for a person who watches a run."""

from __future__ import annotations

import time

import lightning as L
from lightning.pytorch.callbacks import Timer

from lightning_condkd.messages import duration
from lightning_condkd.modules.condkd import CondKD
from lightning_condkd.modules.experts import ExpertTrajectories
from lightning_condkd.training.loop_counters import epochs_done
from lightning_condkd.training.run_length import run_epochs
from lightning_condkd.training.trainer_access import callbacks_of


def epoch_name(module: L.LightningModule) -> str:
    """Return the name of an epoch of a module, such as ``round``.

    Args:
        module: the module.
    """
    return "round" if isinstance(module, CondKD) else "epoch"


def epoch_title(trainer: L.Trainer, module: L.LightningModule) -> str:
    """Return the current epoch in words, such as ``round 3 of 25`` or ``expert 2 of 10, epoch 1 of 50``.

    Args:
        trainer: the trainer.
        module: the trained module.
    """
    epoch, total = trainer.current_epoch, run_epochs(trainer)
    if not isinstance(module, ExpertTrajectories):
        return _counted(epoch_name(module), epoch, total)
    (expert, epoch), last = module.position(epoch), None if total is None else -(-total // module.epochs)
    return f"{_counted('expert', expert, last)}, {_counted('epoch', epoch, module.epochs)}"


def _counted(name: str, index: int, total: int | None) -> str:
    return f"{name} {index + 1}" + ("" if total is None else f" of {total}")


def figures(trainer: L.Trainer, module: L.LightningModule) -> dict[str, str]:
    """Return the latest figures of a run by their titles.

    Args:
        trainer: the trainer.
        module: the trained module.
    """
    known = trainer.callback_metrics
    shown = {name: name for name in known}
    if isinstance(module, CondKD):
        shown = {"agreement": "distillation/agreement", "accuracy": "val/student_accuracy"}
    return {name: f"{float(known[key]):.3f}" for name, key in shown.items() if key in known}


class TimeLeft:
    """Estimate of the time left for a run: the mean time of its epochs since it was started or resumed."""

    def __init__(self) -> None:
        self._start = (0.0, 0.0)

    def begin(self, trainer: L.Trainer) -> None:
        """Start the clock.

        Args:
            trainer: at the start of the training.
        """
        self._start = (epochs_done(trainer), time.monotonic())

    def after(self, epochs: int, trainer: L.Trainer) -> str:
        """Return the estimate as ``, about 3 min left``; nothing if there is none.

        Args:
            epochs: number of epochs that are finished.
            trainer: the trainer.
        """
        total, (before, start) = run_epochs(trainer), self._start
        if total is None or not before < epochs < total:
            return ""
        seconds = (time.monotonic() - start) / (epochs - before) * (total - epochs)
        limits = [left for timer in callbacks_of(trainer, Timer) if (left := timer.time_remaining()) is not None]
        return f", about {duration(min([seconds, *limits]))} left"
