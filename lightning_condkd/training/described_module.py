"""Base class with the attributes that callbacks and checks read from a module: metrics, outputs, networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import lightning as L

from lightning_condkd.writing import Target


class DescribedModule(L.LightningModule):
    """A module with attributes that describe what it logs, writes and trains."""

    best_metric: ClassVar[str | None] = None
    """The validation metric (higher is better) that chooses the best weights of a run; ``None`` keeps none."""
    trains_one_network: ClassVar[bool] = False
    """``True`` if the module trains and saves a single network, so that callbacks may average the whole module."""
    metrics: ClassVar[tuple[str, ...]] = ()
    """Prefixes of the names that it logs."""
    plain_steps: ClassVar[bool] = False
    """``True`` if each batch is one step of plain SGD, as published, so that steps must not be joined or clipped."""
    clipping: ClassVar[str] = ""
    """Advice on gradient clipping, for modules whose optimizers take turns."""

    def outputs(self) -> Sequence[Target]:
        """Return the files and folders that a fit writes besides checkpoints and logs; call it after the fit began."""
        return []
