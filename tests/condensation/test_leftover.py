"""One image that is left over for a BatchNorm over vectors."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lightning_condkd.cli import main
from lightning_condkd.data import CondensedSet
from lightning_condkd.evaluation.fresh_training import evaluate
from lightning_condkd.evaluation.recipe import Recipe
from lightning_condkd.models.fresh_networks import FreshNetworks


class Vectors(nn.Sequential):
    """A BatchNorm over vectors."""

    def __init__(self, running: bool = True, classes: int = 2) -> None:
        norm = nn.BatchNorm1d(4, track_running_stats=running)
        super().__init__(nn.Flatten(), nn.Linear(64, 4), norm, nn.ReLU(), nn.Linear(4, classes))


class OnePixel(nn.Sequential):
    """A BatchNorm over maps that have shrunk to one pixel."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(1, 4, 8), nn.BatchNorm2d(4), nn.Flatten(), nn.Dropout(0.5), nn.Linear(4, 2))


class Maps(nn.Sequential):
    """A BatchNorm over maps, which takes one image."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 2))


def task(count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    labels = torch.arange(count) % 2
    images = torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(0)) / 2 + labels.view(-1, 1, 1, 1) / 2
    return images, labels, images, labels


RECIPE = Recipe(epochs=2, batch_size=4, augment=None)


@pytest.mark.parametrize(
    ("network", "batched"), [(Vectors, False), (partial(Vectors, running=False), True), (OnePixel, False)]
)
def test_one_image_left_over_joins_the_batch_before_it(network: Callable[[], nn.Module], batched: bool) -> None:
    made = FreshNetworks(network)
    state = torch.random.get_rng_state()
    with pytest.warns(
        UserWarning, match="9 images in batches of 4 leave one over, .*: it is added to the batch before it"
    ):
        assert len(evaluate(*task(9), made, RECIPE, runs=2, batched=batched).last) == 2
    assert torch.equal(state, torch.random.get_rng_state())


def test_others_keep_their_batches() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate(*task(9), FreshNetworks(Maps), RECIPE, runs=1)
        evaluate(*task(10), FreshNetworks(Vectors), RECIPE, runs=1)


@pytest.mark.parametrize(("count", "size"), [(1, 4), (9, 1)])
def test_batches_of_one_image_are_refused_before_training(count: int, size: int) -> None:
    with pytest.raises(ValueError, match=f"needs two images or more, got {count} images in batches of {size}: set"):
        evaluate(*task(count), FreshNetworks(Vectors), Recipe(epochs=2, batch_size=size, augment=None), runs=1)


def test_the_command_line_evaluates_such_a_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    CondensedSet(torch.rand(11, 1, 8, 8), torch.arange(11) % 10).save(tmp_path / "set.safetensors")
    network = '{"Vectors": {"class_path": "tests.condensation.test_leftover.Vectors", "init_args": {"classes": 10}}}'
    recipe = ["--recipe.epochs=2", "--recipe.batch_size=10", "--recipe.augment=none"]
    arguments = ["--data=DigitsDataModule", f"--networks={network}", *recipe, "--runs=1"]
    with pytest.warns(UserWarning, match="leave one over"):
        main(["evaluate", str(tmp_path / "set.safetensors"), *arguments])
    assert "Vectors" in capsys.readouterr().out
