"""What callbacks and checks ask of a module: its metrics, its outputs, and how many networks it trains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import lightning as L

from lightning_condkd.writing import Target


class DescribedModule(L.LightningModule):
    """A module that says what it logs, writes and trains."""

    best_metric: ClassVar[str | None] = None
    """The validation metric, the higher the better, by which a run keeps its best weights; ``None`` for none."""
    trains_one_network: ClassVar[bool] = False
    """Whether one network is all that is trained and kept, so that callbacks may average it."""
    metrics: ClassVar[tuple[str, ...]] = ()
    """How the names begin that it logs."""
    plain_steps: ClassVar[bool] = False
    """Whether it takes one step of plain SGD for each batch, as published, so that none may be joined or clipped."""
    clipping: ClassVar[str] = ""
    """What to say of clipping the gradients where optimizers take turns."""

    def outputs(self) -> Sequence[Target]:
        """Return the files and folders that a fit writes beside checkpoints and logs; they are known once it begins."""
        return []
