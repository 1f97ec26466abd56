"""Statistics that each rank has of its own, such as those of BatchNorm, in checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lightning_condkd.distributed import gather_rows, mean_over_ranks, rank, world_size

STATE_KEY = "rank_buffers"


def store_rank_buffers(module: nn.Module, checkpoint: dict[str, Any]) -> None:
    """Put the mean over ranks in the place of what differs between them, and beside it what each rank has.

    The module stays as it is: a run goes on as it would have without the checkpoint.

    Args:
        module: the module, on all ranks.
        checkpoint: what Lightning is about to write.
    """
    if world_size() == 1:
        return
    state, buffers, own = checkpoint["state_dict"], dict(module.named_buffers()), {}
    for name in [name for name in state if name in buffers and buffers[name].is_floating_point()]:
        of_ranks = gather_rows(state[name][None])
        if not torch.equal(of_ranks, of_ranks[:1].expand_as(of_ranks)):
            own[name], state[name] = of_ranks, mean_over_ranks(state[name])
    checkpoint[STATE_KEY] = own


def own_buffers(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return what this rank had of its own, nothing if the checkpoint is of another number of ranks.

    Args:
        checkpoint: what Lightning has read.
    """
    stored: dict[str, Tensor] = checkpoint.get(STATE_KEY, {})
    return {name: of_ranks[rank()] for name, of_ranks in stored.items() if len(of_ranks) == world_size()}
