from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor, nn

from lightning_condkd.augment import ResizedCrop
from lightning_condkd.condensation.realism import RealismSelection
from lightning_condkd.condensation.selection import (
    Herding,
    KCenter,
    KMeans,
    RandomSelection,
    SelectionMethod,
)
from lightning_condkd.data.image_datamodules import load_digits_split
from lightning_condkd.models import DigitsNet, Observer
from lightning_condkd.randomness import seeded_generator

IPC = 10
METHODS = (RandomSelection(), Herding(), KCenter(), KMeans(), RealismSelection(), RealismSelection(factor=2))
every_method = pytest.mark.parametrize("method", METHODS, ids=lambda method: f"{type(method).__name__}")


@cache
def teacher() -> Observer:
    return Observer(DigitsNet(), (0.3059,), (0.3754,), weights="package:digits-teacher.safetensors").freeze()


@cache
def digits(label: int) -> Tensor:
    source = load_digits_split(train=True)
    return source.images[source.class_rows[label]].float() / 255


def chosen(method: SelectionMethod, label: int, count: int = IPC, seed: int = 0) -> Tensor:
    generator = seeded_generator(seed, "test", label)
    return method.select(digits(label), label, count, teacher=teacher(), generator=generator)


def embeddings(images: Tensor) -> Tensor:
    embedding = teacher()(images, embedding=True).embedding
    assert embedding is not None
    return embedding


def confidence(images: Tensor, label: int) -> float:
    return float(teacher()(images).logits.softmax(1)[:, label].mean())


class Brightness(nn.Module):
    """The logit of class 0 is the mean of the (normalised) pixels, that of class 1 its negative."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 2, bias=False)
        nn.init.constant_(self.linear.weight, 1.0)
        self.linear.weight.data[1] = -1.0
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(images.detach())
        logits: Tensor = self.linear(images.mean((1, 2, 3))[:, None])
        return logits


def gray(n: int, size: int = 8) -> Tensor:
    """Image number i is grey all over, i / n."""
    return (torch.arange(n, dtype=torch.float64) / n)[:, None, None, None].expand(n, 3, size, size)


@every_method
def test_a_choice_has_the_right_shape_and_follows_the_seed(method: SelectionMethod) -> None:
    teacher()
    state = torch.random.get_rng_state()
    first, again, other = (chosen(method, 3, seed=seed) for seed in (0, 0, 1))
    assert first.shape == (IPC, 1, 8, 8)
    assert torch.equal(first, again)
    draws = isinstance(method, RandomSelection | KMeans | RealismSelection)
    assert torch.equal(first, other) is not draws
    assert torch.equal(torch.random.get_rng_state(), state)
    assert 0 <= first.min() <= first.max() <= 1


@pytest.mark.parametrize("method", METHODS[:4], ids=lambda method: method.name)
def test_whole_images_are_those_of_the_class_each_at_most_once(method: SelectionMethod) -> None:
    same = (chosen(method, 5)[:, None] == digits(5)[None]).flatten(2).all(2)
    assert (same.sum(1) == 1).all()
    assert (same.sum(0) <= 1).all()


def test_the_mean_by_herding_is_nearer_to_that_of_the_class_than_by_chance() -> None:
    def gap(method: SelectionMethod, label: int) -> float:
        return float((embeddings(chosen(method, label)).mean(0) - embeddings(digits(label)).mean(0)).norm())

    for label in range(10):
        assert gap(Herding(), label) < 0.5 * gap(RandomSelection(), label)


def test_k_centre_covers_the_class_better_than_chance() -> None:
    def radius(method: SelectionMethod, label: int) -> float:
        distances = torch.cdist(embeddings(digits(label)), embeddings(chosen(method, label)))
        return float(distances.min(1).values.max())

    for label in range(10):
        assert radius(KCenter(), label) < 0.95 * radius(RandomSelection(), label)


def test_k_means_is_nearer_to_the_images_than_chance() -> None:
    def loss(method: SelectionMethod, label: int) -> float:
        distances = torch.cdist(embeddings(digits(label)), embeddings(chosen(method, label)))
        return float(distances.min(1).values.square().mean())

    for label in range(10):
        assert loss(KMeans(), label) < 0.9 * loss(RandomSelection(), label)


def test_the_teacher_is_surer_of_crops_by_realism_than_of_random_ones() -> None:
    crop = ResizedCrop((0.08, 1.0), (1.0, 1.0), flip_probability=0.0)
    for label in range(10):
        random = chosen(RandomSelection(), label, 100)
        crops = crop(random, crop.sample(100, seeded_generator(0, "crops", label)))
        assert confidence(chosen(RealismSelection(), label), label) > max(0.99, confidence(crops, label) + 0.1)


@every_method
def test_the_size_of_the_batch_does_not_show(method: SelectionMethod) -> None:
    if isinstance(method, RandomSelection):
        return
    small = RealismSelection(factor=method.factor, batch_size=7) if isinstance(method, RealismSelection) else None
    torch.testing.assert_close(chosen(small or type(method)(batch_size=7), 1), chosen(method, 1))  # type: ignore[call-arg]


def test_realism_ranks_images_by_the_teacher_and_tiles_them_by_rank() -> None:
    network = Brightness().double()
    observer = Observer(network, (0.25,) * 3, (0.5,) * 3).freeze()
    method, generator = RealismSelection(crops=2, factor=2, pool=None), seeded_generator(0, "realism")
    result = method.select(gray(12), 0, 2, teacher=observer, generator=generator)
    ranks = (result[:, 0, ::4, ::4] * 12).round().long()
    assert ranks.tolist() == [[[11, 9], [7, 5]], [[10, 8], [6, 4]]]
    torch.testing.assert_close(
        result, ranks.double().div(12).repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None].expand(-1, 3, -1, -1)
    )
    seen = torch.cat(network.seen)
    frame = torch.ones(8, 8, dtype=torch.bool)
    frame[2:6, 2:6] = False
    assert seen.shape == (24, 3, 8, 8)
    assert not seen[:, :, frame].any()


def test_realism_looks_at_a_random_pool() -> None:
    observer = Observer(Brightness().double()).freeze()
    method = RealismSelection(crops=1, pool=3)
    best = [
        float(method.select(gray(50), 0, 1, teacher=observer, generator=seeded_generator(seed, "pool")).max())
        for seed in range(20)
    ]
    assert len(set(best)) > 5
    assert min(best) < 0.7


def test_settings_say_what_was_done() -> None:
    expected = {"crops": 3, "factor": 2, "pool": None, "scale": [0.2, 0.9]}
    assert RealismSelection(3, 2, pool=None, scale=(0.2, 0.9)).settings() == expected
    assert KCenter().settings() == {}


@every_method
def test_methods_that_look_refuse_to_work_without_a_teacher(method: SelectionMethod) -> None:
    def run(observer: Observer | None) -> Tensor:
        return method.select(digits(0), 0, 2, teacher=observer, generator=seeded_generator(0, "test"))

    if method.needs_teacher:
        with pytest.raises(ValueError, match="got no teacher: give one, or take RandomSelection"):
            run(None)
    else:
        assert run(None).shape == (2, 1, 8, 8)
    with pytest.raises(ValueError, match=r"teacher\.freeze\(\)"):
        run(Observer(DigitsNet()).train())


@every_method
def test_too_few_images_and_unknown_classes_are_refused(method: SelectionMethod) -> None:
    few = digits(0)[: method.needed(2) - 1]
    for count in (0, 2):
        with pytest.raises(ValueError, match="choose fewer"):
            method.select(few, 0, count, teacher=teacher(), generator=seeded_generator(0, "test"))
    with pytest.raises(ValueError, match="the teacher knows 10 classes, got class 10"):
        method.select(digits(0), 10, 1, teacher=teacher(), generator=seeded_generator(0, "test"))


def test_what_realism_cannot_do_is_refused() -> None:
    for name in ("crops", "factor", "pool", "batch_size"):
        with pytest.raises(ValueError, match=name):
            RealismSelection(**{name: 0})
    with pytest.raises(ValueError, match="batch_size"):
        Herding(batch_size=0)
    with pytest.raises(ValueError, match="scale"):
        RealismSelection(scale=(0.0, 1.0))
    with pytest.raises(ValueError, match="raise pool"):
        chosen(RealismSelection(factor=2, pool=7), 0, 2)
    with pytest.raises(ValueError, match="divides the sides"):
        chosen(RealismSelection(factor=3), 0, 2)


def test_a_teacher_that_returns_nan_is_refused() -> None:
    network = Brightness().double()
    network.linear.weight.data[0] = torch.nan
    for method in (Herding(), RealismSelection()):
        with pytest.raises(ValueError, match="NaN or infinity"):
            method.select(gray(4), 0, 1, teacher=Observer(network).freeze(), generator=seeded_generator(0, "test"))
