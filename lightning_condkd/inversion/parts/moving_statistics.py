"""Moving averages of BatchNorm batch statistics over synthesis batches, and the distance with them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_condkd.distributed import mean_over_ranks
from lightning_condkd.functional.inversion import blend_statistics
from lightning_condkd.types import BatchNormStatistics


class MovingStatistics(nn.Module):
    """Moving averages of the batch statistics of every BatchNorm layer of the teacher, one update for each batch.

    With several ranks, :meth:`blend` uses each rank's own batch, and the averages are those of the mean over ranks.

    Args:
        channels: width of each layer, in the order of execution.
        momentum: share of the averages in the blended statistics, 0 for the plain batch statistics.

    Raises:
        ValueError: if the momentum is not in [0, 1).

    Example:
        >>> moving = MovingStatistics([1], momentum=0.9)
        >>> batch = [BatchNormStatistics(*(torch.ones(1) for _ in range(4)))]
        >>> moving.update(batch)
        >>> blended = moving.blend([batch[0]._replace(mean=torch.full((1,), 11.0))])
        >>> round(float(blended[0].mean), 6)
        2.0
    """

    mean: Tensor
    variance: Tensor
    updates: Tensor

    def __init__(self, channels: Sequence[int], momentum: float) -> None:
        super().__init__()
        self.channels, self.momentum = list(channels), check_momentum(momentum)
        self.register_buffer("mean", torch.zeros(sum(channels)))
        self.register_buffer("variance", torch.zeros(sum(channels)))
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))

    def blend(self, statistics: Sequence[BatchNormStatistics]) -> Sequence[BatchNormStatistics]:
        """Return batch statistics mixed with the averages; unchanged before the first update.

        Args:
            statistics: one record for each layer.
        """
        if self.momentum == 0 or int(self.updates) == 0:
            return statistics
        means, variances = (torch.split(average, self.channels) for average in (self.mean, self.variance))
        return blend_statistics(statistics, means, variances, self.momentum)

    @torch.no_grad()
    def update(self, statistics: Sequence[BatchNormStatistics]) -> None:
        """Update the averages with the statistics of a finished batch; the first ones are taken as they are.

        Args:
            statistics: one record for each layer.
        """
        keep = self.momentum if int(self.updates) else 0.0
        for average, parts in (
            (self.mean, [layer.mean for layer in statistics]),
            (self.variance, [layer.variance for layer in statistics]),
        ):
            average.lerp_(mean_over_ranks(torch.cat(parts).to(average.dtype)), 1 - keep)
        self.updates += 1


def check_momentum(momentum: float) -> float:
    """Return a momentum of the averages.

    Args:
        momentum: share of the averages in the blended statistics.

    Raises:
        ValueError: if it is not in [0, 1).
    """
    if not 0 <= momentum < 1:
        raise ValueError(f"expected bn_momentum in [0, 1), got {momentum}")
    return momentum
