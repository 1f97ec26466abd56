"""Handling of SLURM's requeue signal between two steps."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn


class RequeueBetweenSteps(L.Callback):
    """Make Lightning save for SLURM's requeue at the end of the step in which the signal arrives.

    Lightning saves inside the signal handler. That may be in the middle of a step, when networks, optimizers and
    counters are inconsistent, or during a sanity check, in which ranks that get the signal at different times would
    wait for each other forever. With several ranks, all save at the end of the first step in which any rank has got the
    signal. A signal before the first step, or during a validation, is handled at the end of the next step: tell SLURM
    to send it early enough (``--signal=SIGUSR1@SECONDS``). Without SLURM, or with a handler of the user, nothing
    changes.
    """

    def __init__(self) -> None:
        self._number: int | None = None
        self._received = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Register a handler that records the signal; Lightning then does not register its own.

        Args:
            trainer: the trainer.
            pl_module: the module.
            stage: only ``fit`` has an effect.
        """
        self._number, self._received = None, False
        environment = trainer._accelerator_connector.cluster_environment
        if stage != "fit" or not isinstance(environment, SLURMEnvironment) or not environment.auto_requeue:
            return
        number = environment.requeue_signal
        in_main_thread = threading.current_thread() is threading.main_thread()
        if number is not None and in_main_thread and signal.getsignal(number) == signal.SIG_DFL:
            self._number = number
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._received = True

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,  # noqa: ANN401 - Lightning's own signature
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """Save and requeue if the signal has arrived.

        Args:
            trainer: the trainer.
            pl_module: the trained module.
            outputs: outputs of the step.
            batch: batch of the step.
            batch_idx: its position in the epoch.
        """
        if self._number is not None and trainer.strategy.reduce_boolean_decision(self._received, all=False):
            self._received = False
            trainer._signal_connector._slurm_sigusr_handler_fn(self._number, None)  # type: ignore[arg-type]

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Restore the earlier handler, and log if the signal came too late.

        Args:
            trainer: the trainer.
            pl_module: not used.
            stage: not used.
        """
        if self._number is not None and self._received:
            rank_zero_info("the requeue signal came after the last step: the run is complete and is not requeued")
        self._give_back(trainer)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Restore the earlier handler.

        Args:
            trainer: the trainer.
            pl_module: not used.
            exception: not used.
        """
        self._give_back(trainer)

    def _give_back(self, trainer: L.Trainer) -> None:
        if self._number is not None:
            signal.signal(self._number, signal.SIG_DFL)
            # After an exception Lightning will still restore the handlers that it found, including this one.
            trainer._signal_connector._original_handlers.pop(self._number, None)
        self._number = None


def say_found(trainer: L.Trainer) -> None:
    """Warn if Lightning resumes from a requeue's checkpoint although this is no requeued fit.

    Args:
        trainer: the trainer, before a checkpoint is restored.
    """
    path, stage = str(trainer.ckpt_path or ""), trainer.state.fn
    requeued = stage == "fit" and os.environ.get("SLURM_RESTART_COUNT", "0") != "0"
    if Path(path).name.startswith("hpc_ckpt_") and not requeued:
        rank_zero_warn(
            f"{stage} uses {path}, which a requeued run has left there: under SLURM Lightning does so without a "
            "ckpt_path. Move the file away, choose another default_root_dir or give the ckpt_path"
        )
