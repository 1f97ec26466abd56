"""Callback that compiles networks with ``torch.compile``, for runs limited by the host."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from lightning_condkd.models import Observer


class CompileNetworks(Callback):
    """Compile teacher and student (or the classifier in training) for the student's steps.

    Synthesis is not compiled, since it uses hooks in the teacher, which compiled networks drop; neither is validation,
    see :meth:`~lightning_condkd.models.Observer.compile`. Checkpoints and exports do not change.

    Args:
        mode: argument of ``torch.compile``: ``reduce-overhead`` replays CUDA graphs, for networks so small that their
            launches take longer than their kernels; ``None`` is torch's default.
        backend: argument of ``torch.compile``.

    Raises:
        ValueError: when fitting begins, if the module has no :class:`~lightning_condkd.models.Observer`.
    """

    def __init__(self, mode: str | None = None, backend: str = "inductor") -> None:
        self.mode, self.backend = mode, backend

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Mark every observed network for compilation, which torch does at the first pass, on the device of the run.

        Args:
            trainer: the trainer.
            pl_module: the trained module.
        """
        networks = [module for module in pl_module.modules() if isinstance(module, Observer)]
        if not networks:
            name = type(pl_module).__name__
            raise ValueError(f"CompileNetworks found no Observer in {name}: wrap the network, or remove the callback")
        for network in networks:
            network.compile(mode=self.mode, backend=self.backend)

    def on_train_batch_start(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        batch: Any,  # noqa: ANN401 - of any kind
        batch_idx: int,
    ) -> None:
        """Mark the tensors of the step before as no longer needed by CUDA graphs.

        Args:
            trainer: the trainer.
            pl_module: the trained module.
            batch: not used.
            batch_idx: not used.
        """
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Switch to uncompiled networks: batches of another size would be compiled again.

        Args:
            trainer: the trainer.
            pl_module: the trained module.
        """
        torch.compiler.set_stance("force_eager")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Switch back to compiled networks.

        Args:
            trainer: the trainer.
            pl_module: the trained module.
        """
        torch.compiler.set_stance("default")

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Restore the settings of the process.

        Args:
            trainer: the trainer.
            pl_module: the trained module.
            exception: the exception that ended the run.
        """
        torch.compiler.set_stance("default")
