"""Helpers for communication between ranks, which do nothing with one process."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

Value = TypeVar("Value")
STATISTICS = ("running_mean", "running_var")


def _initialized() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    """Return the rank of this process, 0 without other processes."""
    return dist.get_rank() if _initialized() else 0


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if _initialized() else 1


def mean_over_ranks(tensor: Tensor) -> Tensor:
    """Return the mean of a tensor over all ranks, without gradient.

    Args:
        tensor: any shape, the same on every rank.
    """
    if not _initialized():
        return tensor.detach()
    total = tensor.detach().clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def gather_rows(rows: Tensor) -> Tensor:
    """Return the global batch from the interleaved rows ``[rank::world_size]`` of every rank, without gradient.

    Args:
        rows: ``(N / world_size, ...)``, the same shape on every rank.

    Returns:
        ``(N, ...)`` in global order.
    """
    if not _initialized():
        return rows.detach()
    parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, rows.detach().contiguous())
    return torch.stack(parts, dim=1).flatten(0, 1)


def gather_with_gradient(rows: Tensor) -> Tensor:
    """Return the global batch as :func:`gather_rows` does, with a gradient to this rank's rows.

    If every rank computes one loss of the whole batch, the mean of the ranks' gradients of anything that their rows
    depend on is the gradient of that loss.

    Args:
        rows: ``(N / world_size, ...)``, the same shape on every rank.
    """
    if not _initialized():
        return rows
    count = dist.get_world_size()
    # The gradient is multiplied by the number of ranks, since the trainer averages those of the ranks.
    own, batch = rows * count - (rows * (count - 1)).detach(), gather_rows(rows)
    mask = (torch.arange(len(batch), device=rows.device) % count == dist.get_rank()).view(-1, *[1] * (rows.dim() - 1))
    return torch.where(mask, own.repeat_interleave(count, dim=0), batch)


def first_over_ranks(value: Value | None) -> Value | None:
    """Return the value of the first rank that has one.

    Args:
        value: any small object that can be pickled, or ``None``; call it on every rank.
    """
    return next((value for value in gather_objects(value) if value is not None), None)


def gather_objects(value: Value) -> list[Value]:
    """Return the values of all ranks, on every rank.

    Args:
        value: any object that can be pickled.
    """
    if not _initialized():
        return [value]
    values: list[Value] = [value] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def sync_buffers(modules: Iterable[nn.Module], statistics_of: Iterable[nn.Module] = ()) -> None:
    """Make the buffers of modules equal on all ranks: floating point ones are averaged, others come from rank 0.

    Lightning does not broadcast buffers under manual optimisation after the first step. They are synchronized after
    every step: a checkpoint would else change the run that goes on. Buffers that are equal already stay as they are to
    the bit.

    Args:
        modules: the modules, in the same order on every rank.
        statistics_of: modules of which only the statistics of normalization layers are synchronized, because their
            other buffers are large and equal anyway; in the same order on every rank.
    """
    named = (item for module in statistics_of for item in module.named_buffers())
    statistics = (buffer for name, buffer in named if name.rsplit(".", 1)[-1] in STATISTICS)
    _sync(chain((buffer for module in modules for buffer in module.buffers()), statistics))


def _sync(buffers: Iterable[Tensor]) -> None:
    if not _initialized():  # one process need not even look for them
        return
    found = list(buffers)
    floating = [buffer for buffer in found if buffer.is_floating_point()]
    for dtype in dict.fromkeys(buffer.dtype for buffer in floating):
        same = [buffer for buffer in floating if buffer.dtype == dtype]
        own = torch.cat([buffer.detach().flatten() for buffer in same])
        first = own.clone()
        dist.broadcast(first, 0)
        # The mean of equal numbers is not always that number, the mean of their differences is always 0.
        mean = first + mean_over_ranks(torch.where(own == first, 0.0, own - first))
        _spread(mean, same)
    counts = [buffer for buffer in found if not buffer.is_floating_point()]
    for dtype in dict.fromkeys(buffer.dtype for buffer in counts):
        same = [buffer for buffer in counts if buffer.dtype == dtype]
        first = torch.cat([buffer.detach().flatten() for buffer in same])
        dist.broadcast(first, 0)
        _spread(first, same)


def _spread(values: Tensor, buffers: list[Tensor]) -> None:
    for buffer, part in zip(buffers, torch.split(values, [buffer.numel() for buffer in buffers]), strict=True):
        buffer.copy_(part.view_as(buffer))
