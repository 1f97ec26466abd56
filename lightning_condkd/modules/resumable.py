"""What all our modules need to be stopped and resumed."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import lightning as L

from lightning_condkd.modules.requeue import RequeueBetweenSteps
from lightning_condkd.modules.ticks import count_epoch


class ResumableModule(L.LightningModule):
    """A module that is stopped between two steps and resumed from checkpoints that are read as data.

    They hold tensors and plain records only, wherever they lie. A subclass that overrides a hook calls this one's too.

    ``best_metric`` is the validation metric, the higher the better, by which a run keeps its best weights; ``None`` for
    a module without such weights.
    """

    best_metric: ClassVar[str | None] = None

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
        """Return what takes SLURM's requeue signal between two steps."""
        return [RequeueBetweenSteps()]

    def on_train_batch_start(self, batch: object, batch_idx: int) -> None:
        """Count the epoch as begun.

        Args:
            batch: not used.
            batch_idx: not used.
        """
        count_epoch(self.trainer)
