"""Memory of fixed size for the latest feature rows, the negatives of CMI."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

from lightning_condkd.precision import at_least_float32


class FeatureRing(nn.Module):
    """Memory of the latest rows, from which random rows are drawn.

    It stores ``size * width`` values of 2 bytes in half precision, of 4 in single. It keeps its precision when the
    module that contains it is converted, and moves with that module's device unless it stays on the CPU. It is in the
    state dict but is no buffer, so it is not averaged or broadcast: every rank must write the same rows.

    Args:
        size: number of stored rows.
        width: length of a row.
        dtype: type in which rows are stored; values too large for half precision become its largest number.
        on_cpu: whether the rows stay in the CPU's memory; every draw then copies its rows to the module's device.

    Raises:
        ValueError: if the size is not positive.

    Example:
        >>> ring = FeatureRing(size=3, width=1)
        >>> ring.write(torch.tensor([[1.0], [2.0], [3.0], [4.0]]))
        >>> ring.draw(2, torch.Generator().manual_seed(0)).shape, sorted(ring.rows.flatten().tolist())
        (torch.Size([2, 1]), [2.0, 3.0, 4.0])
    """

    rows: Tensor
    written: Tensor

    def __init__(self, size: int, width: int, *, dtype: torch.dtype = torch.float16, on_cpu: bool = False) -> None:
        super().__init__()
        if size <= 0:
            raise ValueError(f"expected a positive size of the ring, got {size}")
        self.on_cpu = on_cpu
        self.rows = torch.zeros(size, width, dtype=dtype, device="cpu" if on_cpu else None)
        self.register_buffer("written", torch.zeros((), dtype=torch.long))

    def extra_repr(self) -> str:
        """Return size, width and type."""
        return f"{len(self.rows)}, {self.rows.shape[1]}, dtype={self.rows.dtype}, on_cpu={self.on_cpu}"

    def __len__(self) -> int:
        """Return the number of filled rows."""
        return min(int(self.written), len(self.rows))

    @torch.no_grad()
    def write(self, rows: Tensor) -> None:
        """Store rows in place of the oldest ones.

        Args:
            rows: ``(N, width)``, the same on every rank; if there are more than ``size``, the last ones are stored.
        """
        size, limit = len(self.rows), torch.finfo(self.rows.dtype).max
        latest = rows[-size:].clamp(-limit, limit).to(self.rows)
        first = int(self.written) + len(rows) - len(latest)
        self.rows[(first + torch.arange(len(latest), device=self.rows.device)) % size] = latest
        self.written += len(rows)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Return different filled rows in random order, on the module's device and in float32 at least.

        Args:
            count: number of rows; fewer are returned while fewer are filled.
            generator: a CPU generator.
        """
        chosen = torch.randperm(len(self), generator=generator)[:count].to(self.rows.device)
        return at_least_float32(self.rows[chosen].to(self.written.device))

    def get_extra_state(self) -> Tensor:
        """Return the rows, for ``state_dict``."""
        return self.rows

    def set_extra_state(self, state: Tensor) -> None:
        """Restore the rows, for ``load_state_dict``.

        Args:
            state: ``(size, width)``.

        Raises:
            ValueError: if it has another shape.
        """
        if state.shape != self.rows.shape:
            raise ValueError(
                f"expected the {tuple(self.rows.shape)} rows of a ring of the same size, got {tuple(state.shape)}: "
                "resume with the arguments of the run that made the checkpoint"
            )
        self.rows.copy_(state)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if not self.on_cpu:
            self.rows = self.rows.to(self.written.device)
        return self
