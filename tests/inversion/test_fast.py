"""Fast by itself, driven by a bare loop; its arithmetic over rounds is compared in modules/test_condkd_reference.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor

from lightning_condkd.alignment import FeatureAlignment
from lightning_condkd.augment import CropFlip
from lightning_condkd.inversion import Fast, GeneratorSettings
from lightning_condkd.models import Observer
from lightning_condkd.randomness import Draw, seeded_generator
from lightning_condkd.rounds import Cadence
from lightning_condkd.types import LossTerms, NetworkOutput
from tests.helpers import toy

UNIT = toy.CADENCE.unit(0, 0)


def _built(**arguments: Any) -> Fast:
    method = toy.fast(**arguments)
    method.build(toy.spec(), seeded_generator(0, "build"))
    return method


@pytest.fixture(scope="module")
def teacher() -> Observer:
    return toy.observed(toy.network("teacher")).freeze()


@pytest.fixture(scope="module")
def student() -> Observer:
    return toy.observed(toy.network("student 1")).eval()


def _block(method: Fast, teacher: Observer, student: Observer, round_: int = 0, block: int = 0) -> list[LossTerms]:
    """Drive one block as the loop of a trainer does."""
    optimizers, seen = method.optimizers(), []
    for step in range(method.cadence.synthesis_steps):
        position = block * (method.cadence.synthesis_steps + method.cadence.distill_steps) + step
        unit = method.cadence.unit(round_, position)
        draw = Draw(0, unit.counter)
        if unit.first:
            method.start(unit, draw)
        synthetic = method.render(unit, draw)
        terms, output = method.loss(synthetic, teacher, student, unit, draw)
        optimizers["synthesis"].zero_grad()
        terms.total().backward()
        optimizers["synthesis"].step()
        method.after_step(synthetic, output, terms.total().detach(), terms.total().detach(), unit)
        seen.append(terms)
    assert unit.last
    assert method.finish(unit) == ("meta",)
    optimizers["meta"].step()
    return seen


def test_a_bare_loop_lowers_the_loss(teacher: Observer, student: Observer) -> None:
    method = _built(cadence=Cadence(30, 0), bn_weight=0.0, augment=CropFlip(padding=0, flip_probability=0.0))
    terms = _block(method, teacher, student)
    assert float(terms[-1].total()) < 0.8 * float(terms[0].total())
    images, labels = method.collect()
    assert 0 <= float(images.min()) < float(images.max()) <= 1
    assert labels is not None
    before = float((_first_prediction(method, teacher) == labels).float().mean())
    after = float((teacher(images).logits.argmax(1) == labels).float().mean())
    assert after > before


def _first_prediction(method: Fast, teacher: Observer) -> Tensor:
    fresh = _built(cadence=method.cadence)
    fresh.start(method.cadence.unit(0, 0), Draw(0, 0))
    return teacher(fresh.render(UNIT, Draw(0, 0)).images).logits.argmax(1)


def test_building_draws_from_its_generator_alone() -> None:
    state = torch.random.get_rng_state()
    methods = []
    for seed in (0, 0, 1):
        methods.append(Fast(batch_size=4, generator=GeneratorSettings(width=2, latent_size=6)))
        methods[-1].build(toy.spec(), seeded_generator(seed, "build"))
        torch.rand(3)  # what else draws does not matter
    torch.random.set_rng_state(state)
    first, again, other = (method.meta.project.weight for method in methods)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(methods[0].inner.project.weight, first)


def test_the_given_generator_is_copied() -> None:
    generator = toy.small_generator()
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    teacher, student = toy.observed(toy.network("teacher")).freeze(), toy.observed(toy.network("student 1")).eval()
    method = _built(generator=GeneratorSettings(network=generator))
    assert toy.same(before, dict(method.meta.state_dict()))
    _block(method, teacher, student)
    assert toy.same(before, dict(generator.state_dict()))
    assert not toy.same(before, dict(method.meta.state_dict()))


def test_a_rank_renders_its_rows() -> None:
    method = _built(generator=GeneratorSettings(network=toy.small_generator(norm="none")))
    method.start(method.cadence.unit(0, 0), Draw(0, 0))
    whole = method.render(UNIT, Draw(0, 0))
    part = method.render(UNIT, Draw(0, 0, rank=1, world_size=3))
    assert torch.allclose(part.images, whole.images[1::3], atol=1e-6)
    assert part.labels is not None
    assert whole.labels is not None
    assert torch.equal(part.labels, whole.labels[1::3])
    assert len(whole.labels.unique()) == toy.CLASSES


def test_every_block_starts_from_the_meta_generator_with_new_latents(teacher: Observer, student: Observer) -> None:
    method = _built(cadence=Cadence(2, 1, repeats=2))
    _block(method, teacher, student)
    latent = method.latent.detach().clone()
    unit = method.cadence.unit(0, 3)
    assert unit.first
    method.start(unit, Draw(0, unit.counter))
    assert toy.same(dict(method.inner.state_dict()), dict(method.meta.state_dict()))
    assert not torch.equal(method.latent, latent)
    assert all(not gradient.any() for gradient in method._meta_gradients())
    assert {id(p) for p in method.per_round()} == {id(p) for p in (*method.inner.parameters(), method.latent)}


class Asked:
    """A teacher that notes whether BatchNorm statistics are asked for."""

    def __init__(self, network: Observer) -> None:
        self.network, self.bn = network, list[bool]()

    def __call__(
        self, images: Tensor, *, embedding: bool = False, bn: bool = False, maps: Sequence[str] = ()
    ) -> NetworkOutput:
        self.bn.append(bn)
        return self.network(images, embedding=embedding, bn=bn, maps=maps)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("weights", "round_", "names"),
    [
        ({}, 0, {"class", "bn"}),  # a warm-up round
        ({}, 1, {"class", "bn", "adversarial"}),
        ({"class_weight": 0.0}, 1, {"bn", "adversarial"}),
        ({"bn_weight": 0.0}, 1, {"class", "adversarial"}),
        ({"adversarial_weight": 0.0}, 1, {"class", "bn"}),
        ({"class_weight": 0.0, "bn_weight": 0.0, "adversarial_weight": 0.0}, 1, set()),
    ],
)
def test_terms(teacher: Observer, student: Observer, weights: dict[str, float], round_: int, names: set[str]) -> None:
    method, asked = _built(**weights), Asked(teacher)
    unit = method.cadence.unit(round_, 0)
    draw = Draw(0, unit.counter)
    method.start(unit, draw)
    terms, output = method.loss(method.render(unit, draw), asked, student, unit, draw)
    assert set(terms.values) == set(terms.weights) == names
    assert asked.bn == [weights.get("bn_weight", 1.0) != 0]  # one look, with statistics only where they count
    assert output.logits.requires_grad
    expected = {"class": 0.5, "bn": 2.0, "adversarial": 1.33}
    assert all(terms.weights[name] == expected[name] for name in names)


def test_the_moving_statistics_follow_the_last_step_of_every_block(teacher: Observer, student: Observer) -> None:
    method = _built(bn_momentum=0.75)
    averages, lasts = [], []

    def note(*_: object) -> None:
        lasts.append(torch.cat([s.mean for s in outputs[-1].bn]).detach())
        averages.append(method.moving_statistics.mean.clone())

    outputs: list[NetworkOutput] = []

    def observe(images: Tensor, **asked: Any) -> NetworkOutput:
        outputs.append(teacher(images, **asked))
        return outputs[-1]

    for round_ in range(3):
        _block(method, observe, student, round_)  # type: ignore[arg-type]
        note()
    assert torch.equal(averages[0], lasts[0])
    assert torch.allclose(averages[1], 0.75 * averages[0] + 0.25 * lasts[1])
    assert torch.allclose(averages[2], 0.75 * averages[1] + 0.25 * lasts[2])
    assert int(method.moving_statistics.updates) == 3


@pytest.mark.parametrize("update", ["fomaml", "reptile"])
def test_the_meta_gradient(teacher: Observer, student: Observer, update: Literal["fomaml", "reptile"]) -> None:
    method = _built(meta_update=update)
    start = [p.detach().clone() for p in method.meta.parameters()]
    sums = [torch.zeros_like(p) for p in start]
    after_step = method.after_step

    def summing(*arguments: Any) -> None:
        after_step(*arguments)
        for total, parameter in zip(sums, method.inner.parameters(), strict=True):
            total += parameter.grad

    method.after_step = summing  # type: ignore[method-assign]
    _block(method, teacher, student)
    moved = [s - p.detach() for s, p in zip(start, method.inner.parameters(), strict=True)]
    for parameter, expected in zip(method.meta.parameters(), sums if update == "fomaml" else moved, strict=True):
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, expected)


def test_steps_that_overflow_in_half_precision_are_skipped() -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40, backoff_factor=2.0**-13, growth_interval=10_000)
    plugin = MixedPrecision("16-mixed", "cpu", scaler)  # type: ignore[arg-type]
    run = toy.fit(toy.condkd(toy.fast(bn_momentum=0.0), FeatureAlignment()), plugins=[plugin])
    assert scaler.get_scale() < 2.0**40
    assert all(value.isfinite().all() for value in run.state().values())
    before = toy.network("student 1").state_dict()
    assert not torch.equal(run.model.student.network.state_dict()["linear.weight"], before["linear.weight"])


def test_the_first_layers_are_reset_at_one_block_only() -> None:
    method = _built(reset_round=1, cadence=Cadence(2, 1, repeats=2, warmup_rounds=1))
    changes = []
    for round_ in range(4):
        for position in (0, 3):
            before = {name: value.clone() for name, value in method.meta.state_dict().items()}
            unit = method.cadence.unit(round_, position)
            method.start(unit, Draw(0, unit.counter))
            changed = {name for name, value in method.meta.state_dict().items() if not torch.equal(value, before[name])}
            if changed:
                changes.append((round_, position, {name.split(".")[0] for name in changed}))
    assert changes == [(2, 0, {"project", "norm"})]


def test_a_block_survives_in_the_middle(teacher: Observer, student: Observer) -> None:
    """The state holds copy, latents, labels, sums and statistics: a second object goes on as the first would have."""
    method, resumed = _built(), _built(generator=GeneratorSettings(network=toy.small_generator()))
    _block(method, teacher, student)
    unit = method.cadence.unit(1, 0)
    draw = Draw(0, unit.counter)
    method.start(unit, draw)
    synthetic = method.render(unit, draw)
    terms, output = method.loss(synthetic, teacher, student, unit, draw)
    terms.total().backward()
    method.after_step(synthetic, output, terms.total(), terms.total(), unit)
    resumed.load_state_dict(method.state_dict())
    unit = method.cadence.unit(1, 1)
    losses = [m.loss(m.render(unit, draw), teacher, student, unit, draw)[0].total() for m in (method, resumed)]
    assert torch.equal(*losses)
    assert toy.same(*(dict(m.named_buffers()) for m in (method, resumed)))


def test_arguments_are_checked() -> None:
    for momentum in (-0.1, 1.0):
        with pytest.raises(ValueError, match=r"bn_momentum in .0, 1."):
            toy.fast(bn_momentum=momentum)
    with pytest.raises(ValueError, match="meta_update 'fomaml' or 'reptile', got 'maml'"):
        toy.fast(meta_update="maml")
    with pytest.raises(ValueError, match=r"the teacher has no BatchNorm layer.*set bn_weight to 0"):
        toy.fast().build(toy.spec(bn_channels=()), seeded_generator(0, "build"))
    toy.fast(bn_weight=0.0).build(toy.spec(bn_channels=()), seeded_generator(0, "build"))


@pytest.mark.parametrize(
    ("generator", "match"),
    [
        ({"latent_size": 7}, "latent_size=6.*ConvGenerator said"),
        ({"image_shape": (1, 16, 16)}, "images of shape .1, 8, 8., got .1, 16, 16."),
        ({"image_shape": (3, 8, 8)}, "images of shape .1, 8, 8., got .3, 8, 8."),
    ],
)
def test_a_generator_that_does_not_fit_is_refused(generator: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        _built(generator=GeneratorSettings(network=toy.small_generator(**generator)))


def test_the_defaults_are_the_published_ones() -> None:
    method = Fast()
    assert method.cadence == Cadence(5, 400, warmup_rounds=20)
    method.build(toy.spec(image_shape=(3, 32, 32)), seeded_generator(0, "build"))
    synthesis, meta = method.optimizers().values()
    assert [group["lr"] for group in synthesis.param_groups] == [3e-3, 0.01]
    assert meta.param_groups[0]["lr"] == pytest.approx(0.015)
    assert {group["betas"] for group in (*synthesis.param_groups, *meta.param_groups)} == {(0.5, 0.999)}
    assert sum(p.numel() for p in method.meta.parameters()) == pytest.approx(2.33e6, rel=0.01)


def test_settings_of_the_official_code() -> None:
    settings = [Fast.cifar(steps) for steps in (2, 5, 10)]
    assert [method.cadence.synthesis_steps for method in settings] == [2, 5, 10]
    assert [method.generator_lr for method in settings] == [5e-3, 3e-3, 2e-3]
    assert [method.latent_lr for method in settings] == [0.015, 0.01, 0.01]
    assert vars(settings[1]).keys() == vars(Fast()).keys()
    assert all(vars(settings[1])[name] == vars(Fast())[name] for name in ("generator_lr", "latent_lr", "cadence"))
    assert Fast.cifar(2, latent_lr=1.0).latent_lr == 1.0
    with pytest.raises(ValueError, match="expected 2, 5 or 10 synthesis steps, got 3"):
        Fast.cifar(3)  # type: ignore[arg-type]
