"""Compiled networks, for a GPU that waits for its host."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from lightning_condkd.models import Observer


class CompileNetworks(Callback):
    """Compile teacher and student (or the classifier in training) for the student's steps.

    Synthesis looks into the teacher with hooks, which compiled networks drop, so it stays as it is, and so does
    validation, see :meth:`~lightning_condkd.models.Observer.compile`. Checkpoints and exports are those of any run.

    Args:
        mode: of ``torch.compile``: ``reduce-overhead`` replays CUDA graphs, for networks so small that their launches
            take longer than their kernels; ``None`` is torch's default.
        backend: of ``torch.compile``.

    Raises:
        ValueError: when fitting begins, if the module has no :class:`~lightning_condkd.models.Observer`.
    """

    def __init__(self, mode: str | None = None, backend: str = "inductor") -> None:
        self.mode, self.backend = mode, backend

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compile every observed network; torch does it at the first pass, on the device of the run.

        Args:
            trainer: the trainer.
            pl_module: the trained module.
        """
        networks = [module for module in pl_module.modules() if isinstance(module, Observer)]
        if not networks:
            name = type(pl_module).__name__
            raise ValueError(
                f"CompileNetworks found no Observer in {name}: wrap the network, or leave the callback out"
            )
        for network in networks:
            network.compile(mode=self.mode, backend=self.backend)

    def on_train_batch_start(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        batch: Any,  # noqa: ANN401 - of any kind
        batch_idx: int,
    ) -> None:
        """Tell CUDA graphs that the tensors of the step before are no longer needed.

        Args:
            trainer: the trainer.
            pl_module: the trained module.
            batch: not used.
            batch_idx: not used.
        """
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Validate without compiled code: batches of another size would be compiled anew.

        Args:
            trainer: the trainer.
            pl_module: the trained module.
        """
        torch.compiler.set_stance("force_eager")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Go on with compiled code.

        Args:
            trainer: the trainer.
            pl_module: the trained module.
        """
        torch.compiler.set_stance("default")

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Leave the process as it was found.

        Args:
            trainer: the trainer.
            pl_module: the trained module.
            exception: what ended the run.
        """
        torch.compiler.set_stance("default")
