"""Progress bar with the phase and the length of the run."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm, convert_inf

from lightning_condkd.callbacks.parts.epochs import TimeLeft, epoch_title, figures
from lightning_condkd.modules.condkd import CondKD


class PhaseProgressBar(TQDMProgressBar):
    """Progress bar on stderr that shows the round, the time left, the phase and the accuracy.

    Args:
        refresh_rate: steps between two updates of the bar.
    """

    def __init__(self, refresh_rate: int = 20) -> None:
        super().__init__(refresh_rate=refresh_rate)
        self._time_left = TimeLeft()

    def on_train_start(self, trainer: L.Trainer, *args: Any) -> None:  # noqa: ANN401 - Lightning's own signature
        """Create the bar, also for an epoch that is resumed within it.

        Args:
            trainer: the trainer.
            args: the trained module.
        """
        super().on_train_start(trainer, *args)
        self._time_left.begin(trainer)
        self.on_train_epoch_start(trainer)

    def on_train_epoch_start(self, trainer: L.Trainer, *_: Any) -> None:  # noqa: ANN401 - Lightning's own signature
        """Start the bar of an epoch, with its number and the time left for the run.

        Args:
            trainer: the trainer.
        """
        bar: Any = self.train_progress_bar
        left = self._time_left.after(trainer.current_epoch, trainer)
        bar.set_description(f"{epoch_title(trainer, trainer.lightning_module)}{left}", refresh=False)
        bar.reset(convert_inf(self.total_train_batches))

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """Return the values shown after the bar.

        Args:
            trainer: the trainer.
            pl_module: the trained module.
        """
        metrics = {name: value for name, value in super().get_metrics(trainer, pl_module).items() if name != "v_num"}
        if not isinstance(pl_module, CondKD) or pl_module.unit is None:
            return dict(metrics)
        return {"phase": pl_module.unit.phase} | figures(trainer, pl_module) | metrics

    def init_sanity_tqdm(self) -> Tqdm:
        """Return the bar of the validation before a run."""
        with redirect_stdout(sys.stderr):  # Lightning's bars take what stdout is now; results go there
            return super().init_sanity_tqdm()

    def init_train_tqdm(self) -> Tqdm:
        """Return the bar of the training."""
        with redirect_stdout(sys.stderr):
            return super().init_train_tqdm()

    def init_validation_tqdm(self) -> Tqdm:
        """Return the bar of a validation."""
        with redirect_stdout(sys.stderr):
            return super().init_validation_tqdm()

    def init_test_tqdm(self) -> Tqdm:
        """Return the bar of a test."""
        with redirect_stdout(sys.stderr):
            return super().init_test_tqdm()

    def init_predict_tqdm(self) -> Tqdm:
        """Return the bar of a prediction."""
        with redirect_stdout(sys.stderr):
            return super().init_predict_tqdm()
