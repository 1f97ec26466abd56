from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_condkd.condensation import DistributionMatching, RealImages
from lightning_condkd.condensation.gradient_matching import GradientMatching
from lightning_condkd.condensation.parts import representative_batches as module
from lightning_condkd.condensation.parts.class_matching import MatchingMethod
from lightning_condkd.condensation.parts.representative_batches import RepresentativeBatches
from lightning_condkd.models import ConvNet, FreshNetworks
from lightning_condkd.randomness import Draw
from tests.modules.test_condensation import SaveAt, condensation, fit

# Two classes of points on a line in clear clusters of uneven size, and one with fewer points than a batch has.
POINTS = torch.tensor([0.0, 1.0, 2.0, 50.0, 51.0, 52.0, 100.0, 101.0, 102.0, 100.5, 101.5, 100.8, 7.0, 9.0])[:, None]
CLASS_ROWS = [torch.arange(12), torch.arange(12, 14)]


def batches(build: bool = True, **arguments: Any) -> RepresentativeBatches:
    made = RepresentativeBatches(**{"interval": 4, **arguments})
    if build:
        made.build(num_classes=2, per_class=3)
    return made


class Points:
    """Embeds rows as their points, and notes what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[Tensor] = []

    def __call__(self, rows: Tensor) -> Tensor:
        self.asked.append(rows)
        return POINTS[rows]


def test_a_batch_has_the_image_nearest_to_the_centre_of_each_cluster() -> None:
    for seed in range(5):
        first, second = batches().choose(CLASS_ROWS, Points(), Draw(seed=seed, step=0))
        assert sorted(first.tolist())[:2] == [1, 4]  # the third cluster has its mean at 100.97
        assert int(first.max()) == 7
        assert second.tolist() == [12, 13]


def test_a_batch_is_kept_for_the_interval_and_then_chosen_anew() -> None:
    representative, points = batches(pool=6), Points()
    chosen = [representative.choose(CLASS_ROWS, points, Draw(seed=0, step=step))[0].tolist() for step in range(9)]
    assert chosen[0] == chosen[1] == chosen[2] == chosen[3] != chosen[4] == chosen[7] != chosen[8]
    assert len(points.asked) == 3


def test_a_pool_bounds_what_is_embedded() -> None:
    points = Points()
    batches(pool=6).choose(CLASS_ROWS, points, Draw(seed=0, step=0))
    batches().choose(CLASS_ROWS, points, Draw(seed=0, step=0))
    assert [len(rows.unique()) for rows in points.asked] == [6, 12]


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_share_one_choice(world_size: int) -> None:
    whole = batches().choose(CLASS_ROWS, Points(), Draw(0, 4))
    shares = [batches().choose(CLASS_ROWS, Points(), Draw(0, 4, rank, world_size)) for rank in range(world_size)]
    for label, rows in enumerate(whole):
        assert sorted(torch.cat([share[label] for share in shares]).tolist()) == sorted(rows.tolist())


def test_the_choice_is_part_of_the_state() -> None:
    first, second = batches(), batches()
    chosen = first.choose(CLASS_ROWS, Points(), Draw(seed=0, step=0))
    second.load_state_dict(first.state_dict())
    points = Points()
    again = second.choose(CLASS_ROWS, points, Draw(seed=1, step=3))
    assert [rows.tolist() for rows in again] == [rows.tolist() for rows in chosen]
    assert not points.asked


def test_mistakes_are_named() -> None:
    for arguments in ({"interval": 0}, {"pool": 0}):
        with pytest.raises(ValueError, match=next(iter(arguments))):
            RepresentativeBatches(**arguments)
    with pytest.raises(ValueError, match="pool: expected at least the 3 images of real_batch"):
        batches(pool=2)
    with pytest.raises(RuntimeError, match="build"):
        batches(build=False).choose(CLASS_ROWS, Points(), Draw(seed=0, step=0))


def method(kind: type[MatchingMethod], norm: str = "instance", **arguments: Any) -> MatchingMethod:
    if kind is GradientMatching:
        arguments |= {"inner_steps": 2, "network_epochs": 1}
    factory = partial(ConvNet, 3, image_size=8, depth=1, width=4, norm=norm)
    representative = RepresentativeBatches(interval=2)
    networks = FreshNetworks(factory, (0.5,) * 3, (0.3,) * 3)
    made = kind(networks, real_batch=4, representative=representative, **arguments)
    made.build((3, 8, 8), num_classes=3, ipc=1)
    return made


every_kind = pytest.mark.parametrize("kind", [DistributionMatching, GradientMatching])


@every_kind
@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_methods_match_the_images_that_their_network_finds_representative(
    kind: type[MatchingMethod], norm: str
) -> None:
    data = torch.rand(33, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    fetched: list[Tensor] = []

    def pixels(rows: Tensor) -> Tensor:
        fetched.append(rows)
        return data[rows]

    real, draw = RealImages(pixels, list(torch.arange(33).split(11))), Draw(seed=0, step=0)
    matching = method(kind, norm)
    images = torch.rand(3, 3, 8, 8, requires_grad=True)
    loss = torch.stack([terms.total() for terms in matching.losses(images, torch.arange(3), real, draw)]).sum()
    assert torch.autograd.grad(loss, images)[0].abs().sum() > 0
    assert matching.representative is not None
    assert all(len(set(rows.tolist())) == 4 for rows in matching.representative.rows)
    assert [rows.tolist() for rows in fetched[-3:]] == matching.representative.rows.tolist()
    assert max(len(rows) for rows in fetched) <= 33


def test_images_are_chosen_in_the_embedding_of_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    clustered: list[Tensor] = []

    def first(embeddings: Tensor, count: int, generator: torch.Generator) -> Tensor:
        clustered.append(embeddings)
        return torch.arange(count)

    monkeypatch.setattr(module, "k_means_nearest", first)
    data = torch.rand(11, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    real = RealImages(lambda rows: data[rows], [torch.arange(11)] * 3)
    matching, draw = method(DistributionMatching), Draw(seed=0, step=0)
    observer = matching.networks.make(draw.generator("network"))
    assert [rows.tolist() for rows in matching._real_rows(observer, real, draw)] == [[0, 1, 2, 3]] * 3
    expected = observer(data, embedding=True).embedding
    assert all(torch.allclose(embeddings, expected, atol=1e-5) for embeddings in clustered)


def test_files_record_how_real_images_were_chosen() -> None:
    assert method(DistributionMatching).settings()["representative"] == "RepresentativeBatches(interval=2, pool=None)"


@every_kind
@pytest.mark.parametrize("step", [3, 4])
def test_a_resumed_run_goes_on_with_its_batches(kind: type[MatchingMethod], step: int, tmp_path: Path) -> None:
    path = tmp_path / "middle.ckpt"
    whole = condensation(tmp_path / "whole", method(kind))
    resumed = condensation(tmp_path / "resumed", method(kind), seed=2)
    fit(whole, SaveAt(step, path))
    assert "method.representative.rows" in torch.load(path, weights_only=True)["state_dict"]
    fit(resumed, ckpt_path=path)
    assert whole.output.read_bytes() == resumed.output.read_bytes()
