"""Checkpoints are data: none of our modules runs code that a file brings along."""

from __future__ import annotations

from typing import Any, Self

import lightning as L


class WeightsOnlyModule(L.LightningModule):
    """A module whose checkpoints hold tensors and plain records only, and are read as such wherever they lie."""

    @classmethod
    def load_from_checkpoint(cls, *args: Any, **kwargs: Any) -> Self:  # noqa: ANN401
        """Load a checkpoint as Lightning does, with ``weights_only=True`` where it is not given: also one of a URL.

        Args:
            args: as in Lightning.
            kwargs: as in Lightning.
        """
        given = kwargs.get("weights_only")
        return super().load_from_checkpoint(*args, **{**kwargs, "weights_only": True if given is None else given})
