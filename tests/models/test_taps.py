from contextlib import ExitStack

import pytest
import torch
from torch import nn

from lightning_condkd.models.taps import batch_norm_statistics, tap_batch_norm, tap_input, tap_output


def test_a_layer_without_running_statistics_has_nothing_to_compare() -> None:
    with pytest.raises(ValueError, match="track_running_stats=True"):
        batch_norm_statistics(nn.BatchNorm1d(2, track_running_stats=False), torch.rand(3, 2))


@pytest.mark.parametrize("shape", [(5, 3), (5, 3, 4), (5, 3, 4, 2), (5, 3, 4, 2, 2)])
def test_statistics_are_taken_over_all_dimensions_but_the_channels(shape: tuple[int, ...]) -> None:
    inputs = torch.rand(shape, dtype=torch.float64)
    record = batch_norm_statistics(nn.BatchNorm2d(3), inputs)
    rows = inputs.transpose(0, 1).flatten(1)
    torch.testing.assert_close(record.mean, rows.mean(1))
    torch.testing.assert_close(record.variance, rows.var(1, correction=0))


def test_variance_is_exact_far_from_zero() -> None:
    inputs = 1000 + torch.rand(64, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = inputs.double().var((0, 2, 3), correction=0).float()
    torch.testing.assert_close(batch_norm_statistics(nn.BatchNorm2d(2), inputs).variance, expected, rtol=1e-4, atol=0)


def test_the_last_execution_counts() -> None:
    layer = nn.BatchNorm1d(1).eval()
    with ExitStack() as hooks:
        taps = tap_input(hooks, layer), tap_output(hooks, layer)
        statistics = tap_batch_norm(hooks, layer)
        for value in (1.0, 2.0):
            layer(torch.full((2, 1), value))
    layer(torch.full((2, 1), 3.0))
    assert taps[0][0].tolist() == [[2.0], [2.0]]
    torch.testing.assert_close(taps[1][0], torch.full((2, 1), 2.0), rtol=1e-4, atol=0)
    assert statistics[layer].mean.item() == 2


def test_an_input_given_by_keyword_is_seen() -> None:
    layer = nn.Linear(2, 2)
    with ExitStack() as hooks:
        seen = tap_input(hooks, layer)
        layer(input=torch.ones(1, 2))
    assert seen[0].tolist() == [[1, 1]]
