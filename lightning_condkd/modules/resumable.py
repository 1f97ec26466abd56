"""What all our modules need to be stopped and resumed."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import lightning as L

from lightning_condkd.data.writing import Target
from lightning_condkd.modules.checkpoints import WholeCheckpointIO, refusal
from lightning_condkd.modules.outputs import CheckedOutputs
from lightning_condkd.modules.requeue import RequeueBetweenSteps
from lightning_condkd.modules.ticks import count_epoch


class ResumableModule(L.LightningModule):
    """A module that is stopped between two steps and resumed from checkpoints that are read as data.

    They hold tensors and plain records only, wherever they lie. A subclass that overrides a hook calls this one's too.
    """

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> Self:  # noqa: ANN401
        """Load a checkpoint as Lightning does, with ``weights_only=True`` where it is not given: also one of a URL.

        Args:
            checkpoint_path: as in Lightning.
            args: as in Lightning.
            kwargs: as in Lightning.

        Raises:
            FileNotFoundError: no such file.
            ValueError: it is damaged, asks for code to run, or is no checkpoint of Lightning.
        """
        kwargs["weights_only"] = kwargs.get("weights_only") is not False
        if isinstance(checkpoint_path, (str, Path)) and "://" not in str(checkpoint_path):
            WholeCheckpointIO().load_checkpoint(checkpoint_path, weights_only=kwargs["weights_only"])
        try:
            return super().load_from_checkpoint(checkpoint_path, *args, **kwargs)
        except pickle.UnpicklingError as error:
            raise ValueError(refusal(checkpoint_path, error)) from error

    def configure_callbacks(self) -> list[L.Callback]:
        """Return what takes SLURM's requeue signal between two steps, and what looks after the files of a run."""
        return [RequeueBetweenSteps(), CheckedOutputs()]

    def outputs(self) -> Sequence[Target]:
        """Return the files and folders that a fit writes beside checkpoints and logs; they are known once it begins."""
        return []

    def on_train_batch_start(self, batch: object, batch_idx: int) -> None:
        """Count the epoch as begun.

        Args:
            batch: not used.
            batch_idx: not used.
        """
        count_epoch(self.trainer)
