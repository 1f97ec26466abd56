"""SLURM's requeue signal, taken between two steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, cast

import lightning as L
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.trainer.connectors.signal_connector import _HandlersCompose
from lightning.pytorch.utilities import rank_zero_info

Handler = Callable[[int, FrameType | None], Any]


class RequeueBetweenSteps(L.Callback):
    """Lets Lightning save for SLURM's requeue at the end of the step in which the signal comes.

    Lightning saves within the signal's handler, so in the middle of a step, where networks, optimizers and counters do
    not belong together. On several ranks it saves at the end of the first step by which any of them has had the signal.
    A signal during a validation waits for the end of the next step: let SLURM send it early enough
    (``--signal=SIGUSR1@SECONDS``). Without SLURM, or with a handler of the user's, nothing is changed.
    """

    def __init__(self) -> None:
        self._number: int | None = None
        self._handler: Handler | None = None
        self._received = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Put a note in the place of Lightning's handler.

        Args:
            trainer: the trainer, its handlers registered.
            pl_module: the trained module.
        """
        self._number, self._handler, self._received = None, None, False
        environment = trainer._accelerator_connector.cluster_environment
        if not isinstance(environment, SLURMEnvironment) or not environment.auto_requeue:
            return
        number = environment.requeue_signal
        handler = None if number is None else signal.getsignal(number)
        in_main_thread = threading.current_thread() is threading.main_thread()
        if number is not None and isinstance(handler, _HandlersCompose) and in_main_thread:
            self._number, self._handler = number, cast(Handler, handler)
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
        """Save and requeue if the signal has come.

        Args:
            trainer: the trainer.
            pl_module: the trained module.
            outputs: of the step.
            batch: of the step.
            batch_idx: its position in the epoch.
        """
        if self._handler is None or self._number is None:
            return
        if trainer.strategy.reduce_boolean_decision(self._received, all=False):
            self._received = False
            self._handler(self._number, None)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Give Lightning its handler back.

        Args:
            trainer: the trainer.
            pl_module: the trained module.
        """
        if self._handler is None or self._number is None:
            return
        signal.signal(self._number, self._handler)
        if self._received:
            rank_zero_info("the requeue signal came after the last step: the run is complete and is not requeued")
        self._handler = None
