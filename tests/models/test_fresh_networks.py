"""What makes new networks is one argument, and nothing else passes for it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from lightning_condkd.condensation import DistributionMatching, GradientMatching, TrajectoryMatching
from lightning_condkd.condensation.parts.matching_pool import MatchingPool
from lightning_condkd.models import ConvNet, Observer
from lightning_condkd.modules.experts import ExpertTrajectories

SMALL = partial(ConvNet, 2, image_size=8, depth=1, width=4)
TAKERS = [
    DistributionMatching,
    GradientMatching,
    partial(TrajectoryMatching, experts="experts", schedule="tiny"),
    MatchingPool,
    ExpertTrajectories,
]


@pytest.mark.parametrize("make", TAKERS)
@pytest.mark.parametrize("given", [ConvNet, SMALL, SMALL(), Observer(SMALL())])
def test_a_network_or_its_class_is_no_maker_of_networks(make: Callable[..., object], given: Any) -> None:
    with pytest.raises(TypeError, match=r"networks: expected FreshNetworks, got .*FreshNetworks\(network, mean, std\)"):
        make(given)
