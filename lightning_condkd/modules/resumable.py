"""What all our modules need to be stopped and resumed."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Self

import lightning as L
from torch import Tensor

from lightning_condkd.modules.rank_buffers import own_buffers, store_rank_buffers
from lightning_condkd.modules.requeue import RequeueBetweenSteps
from lightning_condkd.modules.ticks import count_epoch
from lightning_condkd.modules.whole_checkpoints import WholeCheckpoints


class ResumableModule(L.LightningModule):
    """A module that is stopped between two steps and resumed from checkpoints that are read as data.

    They hold tensors and plain records only, wherever they lie. A subclass that overrides a hook calls this one's too.
    """

    _own_buffers: Mapping[str, Tensor] = MappingProxyType({})

    @classmethod
    def load_from_checkpoint(cls, *args: Any, **kwargs: Any) -> Self:  # noqa: ANN401
        """Load a checkpoint as Lightning does, with ``weights_only=True`` where it is not given: also one of a URL.

        Args:
            args: as in Lightning.
            kwargs: as in Lightning.
        """
        given = kwargs.get("weights_only")
        return super().load_from_checkpoint(*args, **{**kwargs, "weights_only": True if given is None else given})

    def configure_callbacks(self) -> list[L.Callback]:
        """Return what takes SLURM's requeue signal between two steps, and what writes checkpoints whole."""
        return [RequeueBetweenSteps(), WholeCheckpoints()]

    def on_train_batch_start(self, batch: object, batch_idx: int) -> None:
        """Count the epoch as begun.

        Args:
            batch: not used.
            batch_idx: not used.
        """
        count_epoch(self.trainer)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store statistics that differ between ranks.

        Args:
            checkpoint: what Lightning is about to write; its tensors share memory with the module's.
        """
        store_rank_buffers(self, checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take on the precision of the trainer, and keep what is this rank's own until the first step.

        Args:
            checkpoint: what Lightning has read.
        """
        self._own_buffers = own_buffers(checkpoint)
        self.take_precision()

    def take_own_buffers(self) -> None:
        """Take back what was this rank's own: to be called within a step, as DDP spreads those of rank 0 before it."""
        if self._own_buffers:
            buffers = dict(self.named_buffers())
            for name, own in self._own_buffers.items():
                buffers[name].copy_(own)
            del self._own_buffers

    def take_precision(self) -> None:
        """Convert what is there as the trainer will: it does so after it has loaded, which rounds a run in float64."""
        if self._trainer is not None:
            self._trainer.precision_plugin.convert_module(self)
