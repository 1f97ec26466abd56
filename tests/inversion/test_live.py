"""The methods that keep one generator, by themselves; whole runs are in modules/test_condkd_live.py."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_condkd.inversion import DFAD, GeneratorSettings, LiveInversion
from lightning_condkd.inversion.dafl import DAFL
from lightning_condkd.inversion.dfq import DFQ
from lightning_condkd.inversion.zskt import ZSKT
from lightning_condkd.models import ConvGenerator, NormalizedGenerator, Observer
from lightning_condkd.randomness import Draw, seeded_generator
from lightning_condkd.rounds import Cadence
from lightning_condkd.steps import synthesize
from lightning_condkd.types import LossTerms, NetworkOutput
from tests.helpers import toy
from tests.reference import generative as reference
from tests.reference.inversion import bn_distance
from tests.reference.kd import logits_l1

CADENCE = Cadence(synthesis_steps=2, distill_steps=3, repeats=2)
UNIT = CADENCE.unit(0, 0)
WEIGHTS = {
    DFAD: ["adversarial_weight"],
    DAFL: ["class_weight", "activation_weight", "balance_weight"],
    ZSKT: ["adversarial_weight"],
    DFQ: ["adversarial_weight", "bn_weight", "class_weight", "balance_weight"],
}
every_method = pytest.mark.parametrize("kind", WEIGHTS)
every_term = pytest.mark.parametrize(("kind", "weight"), [(k, w) for k, names in WEIGHTS.items() for w in names])
Kind = Callable[..., LiveInversion]
UNFIT = GeneratorSettings(network=toy.small_generator(latent_size=7))


def _built(kind: Kind, **arguments: Any) -> LiveInversion:
    small = {"cadence": CADENCE, "batch_size": 12, "generator": GeneratorSettings(width=4, latent_size=toy.LATENT)}
    method = kind(**toy.changed(small, arguments))
    method.build(toy.spec(mean=(0.25,), std=(0.5,)), seeded_generator(0, "build"))
    return method


class Asked:
    """A network that notes what it is asked for."""

    def __init__(self, network: Observer) -> None:
        self.network, self.looks = network, list[set[str]]()

    def __call__(
        self, images: Tensor, *, embedding: bool = False, bn: bool = False, maps: Sequence[str] = (), **_: Any
    ) -> NetworkOutput:
        self.looks.append({name for name, wanted in (("embedding", embedding), ("bn", bn)) if wanted})
        return self.network(images, embedding=embedding, bn=bn, maps=maps)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def teacher() -> Observer:
    return toy.observed(toy.network("teacher")).freeze()


@pytest.fixture(scope="module")
def student() -> Observer:
    return toy.observed(toy.network("student 1")).requires_grad_(False).eval()


def _loss(method: LiveInversion, teacher: Any, student: Any, step: int = 0) -> tuple[LossTerms, Tensor]:
    draw = Draw(0, step)
    synthetic = method.render(UNIT, draw)
    assert synthetic.labels is None
    return method.loss(synthetic, teacher, student, UNIT, draw)[0], synthetic.images


# --- terms -----------------------------------------------------------------------------------------------------------


def _expected(kind: Kind, t: NetworkOutput, s: Tensor) -> dict[str, Tensor]:
    assert t.embedding is not None
    terms = {
        DFAD: lambda: {"adversarial": -logits_l1(s, t.logits)},
        DAFL: lambda: {
            "class": 0.05 * reference.own_class(t.logits),
            "activation": 0.01 * reference.activation(t.embedding),
            "balance": 5.0 * reference.balance(t.logits, base=10.0),
        },
        ZSKT: lambda: {"adversarial": reference.negative_divergence(t.logits, s, per_class=True)},
        DFQ: lambda: {
            "adversarial": reference.negative_divergence(t.logits, s),
            "bn": bn_distance([tuple(layer) for layer in t.bn]),
            "class": reference.own_class(t.logits),
            "balance": 20.0 * reference.balance(t.logits),
        },
    }
    return terms[kind]()  # type: ignore[index]


@every_method
def test_terms_and_their_weights_are_the_published_ones(kind: Kind, teacher: Observer, student: Observer) -> None:
    method, teacher, student = _built(kind).double(), copy.deepcopy(teacher).double(), copy.deepcopy(student).double()
    terms, images = _loss(method, teacher, student)
    expected = _expected(kind, teacher(images, embedding=True, bn=True), student(images).logits)
    assert terms.values.keys() == terms.weights.keys() == expected.keys()
    for name, value in expected.items():
        ours = terms.weights[name] * terms.values[name]
        torch.testing.assert_close(ours, value, rtol=0, atol=1e-10)
        gradients = [torch.autograd.grad(term, images, retain_graph=True)[0] for term in (ours, value)]
        assert gradients[0].abs().max() > 1e-6
        torch.testing.assert_close(*gradients, rtol=0, atol=1e-10)


@every_method
def test_networks_are_looked_at_once_and_for_what_counts(kind: Kind, teacher: Observer, student: Observer) -> None:
    seen = Asked(teacher), Asked(student)
    _loss(_built(kind), *seen)
    assert seen[0].looks == [{DAFL: {"embedding"}, DFQ: {"bn"}}.get(kind, set())]  # type: ignore[call-overload]
    assert seen[1].looks == ([] if kind is DAFL else [set()])
    assert _built(kind).needs_embedding is (kind is DAFL)


@every_term
def test_a_term_of_weight_zero_is_not_computed(kind: Kind, weight: str, teacher: Observer, student: Observer) -> None:
    whole, _ = _loss(_built(kind), teacher, student)
    method, seen = _built(kind, **{weight: 0.0}), (Asked(teacher), Asked(student))
    terms, _ = _loss(method, *seen)
    name = weight.removesuffix("_weight")
    assert terms.values.keys() == terms.weights.keys() == whole.values.keys() - {name}
    assert all(torch.equal(value, whole.values[other]) for other, value in terms.values.items())
    looks = {"adversarial": not seen[1].looks, "bn": seen[0].looks == [set()], "activation": seen[0].looks == [set()]}
    assert looks.get(name, True)
    assert not (weight == "activation_weight" and method.needs_embedding)


@every_term
def test_every_term_by_itself_reaches_the_generator_and_no_network(
    kind: Kind, weight: str, teacher: Observer, student: Observer
) -> None:
    method = _built(kind, **{name: float(name == weight) for name in WEIGHTS[kind]})  # type: ignore[index]
    _loss(method, teacher, student)[0].total().backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.generator.parameters())
    last = next(m for m in reversed(list(method.generator.modules())) if isinstance(m, nn.Conv2d))
    assert last.weight.grad is not None
    assert last.weight.grad.abs().max() > 1e-6
    assert all(p.grad is None for network in (teacher, student) for p in network.parameters())


@every_method
def test_a_bare_loop_lowers_the_loss(kind: Kind, teacher: Observer, student: Observer) -> None:
    """By much more than it varies between batches of latents that were not trained on."""
    method = _built(kind, generator=GeneratorSettings(lr=0.01), cadence=Cadence(20, 0), batch_size=24)

    def losses() -> Tensor:
        return torch.stack([_loss(method, teacher, student, step)[0].total() for step in range(1000, 1004)]).detach()

    before = losses()
    synthesize(method, method.optimizers(), teacher, student, round=0)
    assert float(losses().mean()) < float(before.mean() - 10 * before.std())


# --- latents and images ----------------------------------------------------------------------------------------------


@every_method
def test_latents_are_fresh_in_every_step_or_shared_by_a_block(kind: Kind) -> None:
    method = _built(kind)
    units = [CADENCE.unit(round_, index) for round_ in (0, 1) for index in range(CADENCE.length)]
    latents = torch.stack([method.latents(12, unit, Draw(0, unit.counter)) for unit in units])
    kinds, which = latents.flatten(1).unique(dim=0, return_inverse=True)
    assert len(kinds) == (4 if kind is ZSKT else 20)
    if kind is ZSKT:
        assert all(len(block.unique()) == 1 for block in which.view(4, 5))
    assert latents.mean().item() == pytest.approx(0, abs=0.15)
    assert latents.std().item() == pytest.approx(1, abs=0.1)


@every_method
def test_ranks_share_the_latents_of_a_batch(kind: Kind) -> None:
    method, unit = _built(kind), CADENCE.unit(0, 3)
    whole = method.latents(8, unit, Draw(0, 3))
    assert all(torch.equal(method.latents(8, unit, Draw(0, 3, rank, 2)), whole[rank::2]) for rank in (0, 1))


@pytest.mark.parametrize("count", [5, 12, 30])
def test_the_student_of_zskt_gets_the_latents_of_the_generator(count: int) -> None:
    """First come those of the generator's step; where they are too few, others that its steps share."""
    method = _built(ZSKT)
    rendered = method.latents(12, UNIT, Draw(0, 0))
    first, second = (
        method.latents(count, unit, Draw(0, unit.counter)) for unit in (CADENCE.unit(0, 2), CADENCE.unit(0, 4))
    )
    assert len(first) == count
    assert torch.equal(first, second)
    assert torch.equal(first[:12], rendered[:count])
    assert len(first.unique(dim=0)) == count


@every_method
def test_the_student_gets_images_of_the_generator_as_it_is(kind: Kind, teacher: Observer, student: Observer) -> None:
    method, unit = _built(kind), CADENCE.unit(0, 3)
    method.train()
    images = []
    for round_ in range(2):
        sampled = method.sample(6, teacher, unit, Draw(0, 3))
        assert sampled.labels is None
        assert not sampled.images.requires_grad
        assert torch.equal(sampled.images, method.generator(method.latents(6, unit, Draw(0, 3))))
        images.append(sampled.images)
        synthesize(method, method.optimizers(), teacher, student, round_)
    assert not torch.equal(*images)
    assert int(method.images_sampled) == 12


@every_method
def test_a_bank_gets_the_images_of_the_last_step(kind: Kind, teacher: Observer, student: Observer) -> None:
    method = _built(kind, source="bank")
    rendered = []
    render = method.render
    method.render = lambda *a: rendered.append(render(*a)) or rendered[-1]  # type: ignore[func-returns-value,method-assign]
    images, labels = synthesize(method, method.optimizers(), teacher, student, round=0)
    assert len(rendered) == 2
    assert torch.equal(images, rendered[-1].images)
    assert labels is not None
    assert torch.equal(labels, teacher(images).logits.argmax(1))


# --- optimisation ----------------------------------------------------------------------------------------------------


def test_the_rate_of_zskt_falls_along_half_a_cosine_of_blocks() -> None:
    method = _built(ZSKT, anneal_blocks=4)
    factors = [method.lr_factor(CADENCE.unit(round_, index)) for round_ in range(3) for index in (0, 1, 5, 6)]
    half = 2**-0.5 / 2
    expected = [1, 0.5 + half, 0.5, 0.5 - half, 0, 0]  # blocks, two a round; the steps of a block share their rate
    assert factors == pytest.approx([factor for factor in expected for _ in range(2)])
    assert {_built(ZSKT, anneal_blocks=None).lr_factor(CADENCE.unit(round_, 0)) for round_ in range(9)} == {1.0}


def test_the_rate_of_dfad_falls_by_ten_after_its_blocks() -> None:
    method = _built(DFAD, decay_blocks=(1, 4))
    factors = [method.lr_factor(CADENCE.unit(round_, index)) for round_ in range(3) for index in (0, 1, 5, 6)]
    assert factors == pytest.approx([factor for factor in (1, 0.1, 0.1, 0.1, 0.01, 0.01) for _ in range(2)])
    published = DFAD()
    rounds = {round_: published.lr_factor(published.cadence.unit(round_, 0)) for round_ in (99, 100, 199, 200)}
    assert rounds == pytest.approx({99: 1, 100: 0.1, 199: 0.1, 200: 0.01})
    assert DFAD.datafree().lr_factor(CADENCE.unit(10**6, 0)) == 1


def test_at_the_end_of_the_cosine_the_generator_rests(teacher: Observer, student: Observer) -> None:
    method = _built(ZSKT, anneal_blocks=2)
    optimizers, states = method.optimizers(), []
    for round_ in range(3):
        states.append(copy.deepcopy(dict(method.generator.named_parameters())))
        synthesize(method, optimizers, teacher, student, round_)
    assert not toy.same(states[0], states[1])
    assert toy.same(states[1], states[2])


def test_the_gradient_of_zskt_is_clipped(teacher: Observer, student: Observer) -> None:
    norms = []
    for clip in (None, 1e-3):
        method = _built(ZSKT, gradient_clip=clip, cadence=Cadence(1, 0))
        synthesize(method, method.optimizers(), teacher, student, round=0)
        norms.append(float(torch.stack([p.grad.norm() for p in method.parameters() if p.grad is not None]).norm()))
    assert norms[0] > 2e-3
    assert norms[1] == pytest.approx(1e-3, rel=0.01)


def test_only_zskt_clips() -> None:
    assert {kind: kind().gradient_clip for kind in WEIGHTS} == {DFAD: None, DAFL: None, ZSKT: 5.0, DFQ: None}


# --- construction ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "cadence", "batch_size", "rate", "betas", "parameters"),
    [
        (DFAD, Cadence(1, 5, repeats=50), 256, 1e-3, (0.9, 0.999), 2_329_091),
        (DFAD.datafree, Cadence(1, 5, repeats=80), 256, 1e-3, (0.5, 0.999), 2_328_899),
        (DAFL, Cadence(1, 1, repeats=120), 1024, 0.02, (0.9, 0.999), 8_423_939),
        (ZSKT, Cadence(1, 10, repeats=400), 128, 1e-3, (0.9, 0.999), 1_051_145),
        (DFQ, Cadence(1, 10, repeats=40), 256, 1e-3, (0.5, 0.999), 2_328_899),
        (DAFL.cifar100, Cadence(1, 1, repeats=120), 1024, 0.02, (0.9, 0.999), 8_423_939),
        (DAFL.mnist, Cadence(1, 1, repeats=120), 512, 0.2, (0.9, 0.999), 1_051_139),
        (DAFL.datafree, Cadence(1, 5, repeats=80), 256, 1e-3, (0.5, 0.999), 4_426_051),
    ],
)
def test_defaults_are_the_published_ones(
    kind: Kind, cadence: Cadence, batch_size: int, rate: float, betas: tuple[float, float], parameters: int
) -> None:
    method = kind()
    method.build(toy.spec(image_shape=(3, 32, 32)), seeded_generator(0, "build"))
    (group,) = method.optimizers()["synthesis"].param_groups
    assert (method.cadence, method.batch_size) == (cadence, batch_size)
    assert (group["lr"], group["betas"]) == (rate, betas)
    assert sum(p.numel() for p in method.parameters()) == parameters


def test_presets_set_the_weights_and_can_be_changed() -> None:
    names = [*WEIGHTS[DAFL], "balance_log10"]
    presets = {kind: [getattr(kind(), name) for name in names] for kind in (DAFL.cifar100, DAFL.mnist, DAFL.datafree)}
    assert list(presets.values()) == [[0.5, 0.1, 20.0, True], [1.0, 0.1, 5.0, True], [1.0, 1e-3, 20.0, False]]
    assert DAFL.datafree(balance_weight=3.0, source="bank").balance_weight == 3.0


def test_generators_are_those_of_the_methods() -> None:
    normalized, plain, sigmoid = (_built(DAFL).generator, _built(ZSKT).generator, _built(DAFL.datafree).generator)
    assert isinstance(_built(DFAD).generator, NormalizedGenerator)
    assert isinstance(_built(DFAD.datafree).generator, ConvGenerator)
    assert toy.same(dict(_built(DFAD).generator.state_dict()), dict(normalized.state_dict()))
    assert isinstance(normalized, NormalizedGenerator)
    assert isinstance(plain, NormalizedGenerator)
    assert isinstance(sigmoid, ConvGenerator)
    last = [list(generator.to_image)[1:] for generator in (normalized, plain)]
    assert [type(layers[0]) for layers in last] == [nn.Tanh, nn.Identity]
    assert [layers[1].affine for layers in last] == [False, True]
    assert [(g.mean.item(), g.std.item()) for g in (normalized, plain)] == [(0.25, 0.5)] * 2
    eps = _built(DAFL, generator_bn_eps=0.8).generator.get_submodule("stages.2")
    assert isinstance(eps, nn.BatchNorm2d)
    assert eps.eps == 0.8


@every_method
def test_building_draws_from_its_generator_alone(kind: Kind) -> None:
    state = torch.random.get_rng_state()
    first, again = _built(kind), _built(kind)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert toy.same(dict(first.state_dict()), dict(again.state_dict()))


@every_method
def test_the_given_generator_is_copied(kind: Kind, teacher: Observer, student: Observer) -> None:
    given = toy.small_generator()
    before = copy.deepcopy(dict(given.state_dict()))
    method = _built(kind, generator=GeneratorSettings(network=given))
    assert toy.same(before, dict(method.generator.state_dict()))
    synthesize(method, method.optimizers(), teacher, student, round=0)
    assert toy.same(before, dict(given.state_dict()))
    assert not toy.same(before, dict(method.generator.state_dict()))


@pytest.mark.parametrize(
    ("kind", "arguments", "match"),
    [
        *((kind, {"source": "disk"}, "expected source 'live' or 'bank', got 'disk'") for kind in WEIGHTS),
        *((kind, {"generator": UNFIT}, "set generator.latent_size to") for kind in WEIGHTS),
        (DAFL, {"generator_output": "tanh"}, "generator_output 'normalized' or 'sigmoid', got 'tanh'"),
        (DFAD, {"generator_output": "tanh"}, "generator_output 'normalized' or 'sigmoid', got 'tanh'"),
        (DFAD, {"decay_blocks": [0, 5]}, r"decay_blocks above 0, or \(\) for a constant rate, got \[0, 5\]"),
        (ZSKT, {"reduction": "sum"}, "reduction 'batchmean' or 'elementwise', got 'sum'"),
        (ZSKT, {"anneal_blocks": 0}, "anneal_blocks above 0, or None for a constant rate, got 0"),
    ],
)
def test_arguments_are_checked(kind: Kind, arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        _built(kind, **arguments)


def test_dfq_without_batch_norm_in_the_teacher_needs_bn_weight_zero() -> None:
    spec = toy.spec(bn_channels=())
    with pytest.raises(ValueError, match=r"bn_weight is 1.0, but the teacher has no BatchNorm.*set bn_weight to 0"):
        DFQ().build(spec, seeded_generator(0, "build"))
    DFQ(bn_weight=0.0, generator=GeneratorSettings(width=2)).build(spec, seeded_generator(0, "build"))
