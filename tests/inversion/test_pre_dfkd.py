"""PRE-DFKD by itself; what holds for every method is in test_contract.py."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_condkd.inversion import GeneratorSettings
from lightning_condkd.inversion.parts.competition import Competition
from lightning_condkd.inversion.parts.replay_memory import LatentStep, Memory
from lightning_condkd.inversion.pre_dfkd import PREDFKD
from lightning_condkd.models import NormalizedGenerator, Observer
from lightning_condkd.models.encoder import Encoder
from lightning_condkd.randomness import Draw, seeded_generator
from lightning_condkd.rounds import Cadence, Unit
from lightning_condkd.types import LossTerms, Synthetic
from tests.helpers import toy
from tests.reference import pre_dfkd as reference

CADENCE = Cadence(synthesis_steps=1, distill_steps=3, repeats=2)
MEAN, STD = (0.25,), (0.5,)
FIRST, LATER = CADENCE.unit(0, 1), CADENCE.unit(1, 1)  # first student step of the run, and of a later block


MEMORY = Memory(share=0.25, batch_size=6, width=4, replay_novel=4, replay_steps=2)


def _memory(**arguments: Any) -> Memory:
    return replace(MEMORY, **arguments)


def _latents(**arguments: Any) -> Memory:
    return _memory(latents=LatentStep(**arguments))


def _method(**arguments: Any) -> PREDFKD:
    sizes = {"cadence": CADENCE, "batch_size": 12, "generator": GeneratorSettings(4, toy.LATENT), "memory": MEMORY}
    return PREDFKD(**toy.changed(sizes, arguments))


def _built(**arguments: Any) -> PREDFKD:
    method = _method(**arguments)
    method.build(toy.spec(mean=MEAN, std=STD), seeded_generator(0, "build"))
    return method


@pytest.fixture(scope="module")
def teacher() -> Observer:
    return toy.observed(toy.network("teacher")).freeze()


@pytest.fixture(scope="module")
def student() -> Observer:
    return toy.observed(toy.network("student 1")).eval()


def _draw(unit: Unit, rank: int = 0, world_size: int = 1) -> Draw:
    return Draw(0, unit.counter, rank, world_size)


def _normal(count: int, purpose: str, unit: Unit) -> Tensor:
    return torch.randn(count, toy.LATENT, generator=_draw(unit).generator(purpose))


def _replay(method: PREDFKD, teacher: Observer, unit: Unit = LATER) -> LossTerms:
    terms = method.replay_loss(method.sample(8, teacher, unit, _draw(unit)), teacher, unit, _draw(unit))
    assert terms is not None
    return terms


def _gradients(module: nn.Module) -> list[Tensor]:
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in module.parameters()]


# --- the novel generator -----------------------------------------------------------------------------------------


def _novel(method: PREDFKD, teacher: Observer, student: Observer) -> tuple[Synthetic, LossTerms]:
    unit = CADENCE.unit(1, 0)
    synthetic = method.render(unit, _draw(unit))
    return synthetic, method.loss(synthetic, teacher, student, unit, _draw(unit))[0]


def test_the_novel_generator_minimises_the_published_terms(teacher: Observer, student: Observer) -> None:
    teacher, student = (toy.observed(toy.network(n)).double().freeze() for n in ("teacher", "student 1"))
    method = _built(balance_log10=True).double()
    synthetic, terms = _novel(method, teacher, student)
    output, other = teacher(synthetic.images, embedding=True), student(synthetic.images).logits
    expected = {
        "class": reference.own_class(output.logits),
        "balance": reference.balance(output.logits, base=10),
        "activation": reference.activation(output.embedding),
        "competition": reference.competition(output.logits.detach(), other),
    }
    assert dict(terms.weights) == {"class": 1.0, "balance": 5.0, "activation": 0.1, "competition": 1.0}
    for name, value in expected.items():
        torch.testing.assert_close(terms.values[name], value, rtol=0, atol=1e-12)
        ours, theirs = (
            torch.autograd.grad(x, synthetic.images, retain_graph=True)[0] for x in (terms.values[name], value)
        )
        assert ours.any()
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    natural = _novel(_built().double(), teacher, student)[1].values["balance"]
    assert float(natural) == pytest.approx(math.log(10) * float(terms.values["balance"]))


@pytest.mark.parametrize("name", ["class", "balance", "activation", "competition"])
def test_a_novel_term_of_weight_zero_is_gone(teacher: Observer, student: Observer, name: str) -> None:
    off = {"competition": Competition(weight=0.0)} if name == "competition" else {f"{name}_weight": 0.0}
    method = _built(**off)
    assert method.needs_embedding is (name != "activation")
    _, terms = _novel(method, teacher, student)
    everything = _novel(_built(), teacher, student)[1]
    assert set(terms.values) == set(terms.weights) == set(everything.values) - {name}
    assert terms.total() != everything.total()


def test_competition_reads_its_arguments(teacher: Observer, student: Observer) -> None:
    changed = {"reduction": "batchmean"}, {"clamp": 0.34}, {"temperature": 1.0}
    terms = [Competition(**{"reduction": "elementwise", **c}) for c in ({}, *changed)]
    values = [_novel(_built(competition=c), teacher, student)[1].values["competition"] for c in terms]
    assert len({float(value) for value in values}) == 4


def test_disagreement_counts_up_to_one() -> None:
    teacher, student = torch.tensor([[30.0, -30.0, 0.0]]), torch.tensor([[-30.0, 30.0, 0.0]], requires_grad=True)
    value = _built(competition=Competition()).competition.loss(teacher, student)
    assert value == 0
    assert not torch.autograd.grad(value, student)[0].any()


# --- memory latents ----------------------------------------------------------------------------------------------


def test_memory_latents_take_one_step_of_adam() -> None:
    teacher = toy.observed(toy.network("teacher")).double().freeze()
    method = _built().double()
    method.autoencoder.eval()
    with torch.no_grad():
        ours = method.autoencoder.recall(6, "memory latent", teacher, _draw(LATER)).latents
    latents = _normal(6, "memory latent", LATER).double().requires_grad_()
    optimizer = torch.optim.Adam([latents], lr=0.02)
    reference.latent_objective(latents, teacher(method.autoencoder.generator(latents)).logits).backward()
    optimizer.step()
    torch.testing.assert_close(ours, latents.detach(), rtol=0, atol=1e-9)
    assert not ours.requires_grad
    moved = (ours - _normal(6, "memory latent", LATER)).abs()
    assert float(moved.max()) < 0.02
    assert float(moved.mean()) > 0.019


@pytest.mark.parametrize("name", ["class", "balance", "variance", "mean"])
def test_a_latent_term_of_weight_zero_is_gone(teacher: Observer, name: str) -> None:
    methods = _built(), _built(memory=_latents(**{f"{name}_weight": 0.0}))
    recalled = [m.autoencoder.recall(6, "x", teacher, _draw(LATER)) for m in methods]
    assert set(recalled[0].terms.values) - set(recalled[1].terms.values) == {f"latent_{name}"}
    assert not torch.equal(recalled[0].latents, recalled[1].latents)


def test_the_base_of_the_logarithm_is_that_of_latents_too(teacher: Observer) -> None:
    methods = _built(), _built(balance_log10=True)
    natural, decimal = (
        float(m.autoencoder.recall(6, "x", teacher, _draw(LATER)).terms.values["latent_balance"].detach())
        for m in methods
    )
    assert natural == pytest.approx(math.log(10) * decimal)


def test_without_terms_latents_stay_as_they_were_drawn() -> None:
    names = ("class", "balance", "variance", "mean")
    method = _built(memory=_latents(**{f"{name}_weight": 0.0 for name in names}))
    unused: Any = None
    latents, terms = method.autoencoder.recall(6, "x", unused, _draw(LATER))
    assert torch.equal(latents, _normal(6, "x", LATER))
    assert not terms.values


# --- the student's images ----------------------------------------------------------------------------------------


def test_a_student_step_has_novel_images_and_then_memory(teacher: Observer) -> None:
    method = _built()
    state = {name: value.clone() for name, value in method.state_dict().items()}
    images, labels = method.sample(8, teacher, LATER, _draw(LATER))
    assert labels is None
    assert images.shape == (8, *toy.SHAPE)
    assert not images.requires_grad
    assert int(method.images_sampled) == 8
    method.load_state_dict(state)
    assert torch.equal(images[:6], method.generator(_normal(6, "latent", LATER)))
    latents = method.autoencoder.recall(2, "memory latent", teacher, _draw(LATER)).latents
    assert torch.equal(images[6:], method.autoencoder.generator.eval()(latents))
    assert not torch.equal(images[6:], method.autoencoder.generator(_normal(2, "memory latent", LATER)))


def test_all_images_of_the_first_block_are_novel(teacher: Observer) -> None:
    cadence = Cadence(1, 3, repeats=2, warmup_rounds=1)
    memory = []
    for round_ in (1, 2):
        for position in (1, 2, 3, 5):
            unit, method = cadence.unit(round_, position), _built(cadence=cadence)
            images = method.sample(8, teacher, unit, _draw(unit)).images
            novel = _built(cadence=cadence, memory=_memory(share=0.0)).sample(8, teacher, unit, _draw(unit)).images
            memory.append(not torch.equal(images, novel))
            assert int(method.images_sampled) == 8
    assert memory == [False, False, False, True, True, True, True, True]


def test_ranks_have_their_rows_of_both_parts(teacher: Observer) -> None:
    # Without class balance and moments, whose statistics are a rank's own, the memory images of a rank are those of one
    # process; BatchNorm makes the novel ones differ.
    alone = _latents(balance_weight=0.0, variance_weight=0.0, mean_weight=0.0)
    whole = _built(memory=alone).sample(16, teacher, LATER, _draw(LATER)).images
    for rank in (0, 1):
        part = _built(memory=alone).sample(16, teacher, LATER, _draw(LATER, rank, 2)).images
        assert part.shape == (8, *toy.SHAPE)
        torch.testing.assert_close(part[6:], whole[12:][rank::2], rtol=0, atol=1e-4)
        assert not torch.allclose(part[6:], whole[12:][1 - rank :: 2], rtol=0, atol=1e-4)


# --- replay ------------------------------------------------------------------------------------------------------


def test_replay_compares_images_with_their_reconstructions() -> None:
    teacher = toy.observed(toy.network("teacher")).double().freeze()
    method = _built().double()
    synthetic = method.sample(8, teacher, LATER, _draw(LATER))
    state = {name: value.clone() for name, value in method.state_dict().items()}
    terms = method.replay_loss(synthetic, teacher, LATER, _draw(LATER))
    assert terms is not None
    assert dict(terms.weights) == {"image": 1.0, "logits": 1.0, "divergence": 1e-5}

    leaves = list(method.autoencoder.parameters())
    gradients = torch.autograd.grad(terms.total(), leaves)
    method.load_state_dict(state)
    decoder, encoder = method.autoencoder.generator.train(), method.autoencoder.encoder.train()
    recalled = decoder(method.autoencoder.recall(6, "replay latent", teacher, _draw(LATER)).latents)
    images = torch.cat((synthetic.images[:4], recalled)).detach()  # four novel ones, six from memory
    mean, log_variance = encoder(images)
    decoded = decoder(mean + torch.exp(log_variance / 2) * _normal(10, "replay noise", LATER))
    expected = {
        "image": reference.image_l1(decoded, images, list(STD)),
        "logits": (teacher(decoded).logits - teacher(images).logits).abs().mean(),
        "divergence": reference.gaussian_divergence(mean, log_variance),
    }
    for name, value in expected.items():
        torch.testing.assert_close(terms.values[name], value, rtol=0, atol=1e-10)
    total = expected["image"] + expected["logits"] + 1e-5 * expected["divergence"]
    for ours, theirs in zip(gradients, torch.autograd.grad(total, leaves), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["image", "logits", "divergence"])
def test_a_replay_term_of_weight_zero_is_gone(teacher: Observer, name: str) -> None:
    terms, everything = (_replay(m, teacher) for m in (_built(memory=_memory(**{f"{name}_weight": 0.0})), _built()))
    assert set(terms.values) == set(terms.weights) == set(everything.values) - {name}
    assert terms.total() != everything.total()


def test_replay_follows_the_first_student_steps_of_a_block(teacher: Observer) -> None:
    for share, expected in ((0.25, [True, True, False]), (0.0, [False, False, False])):
        method = _built(memory=_memory(share=share))
        units = [CADENCE.unit(2, 1 + step) for step in range(3)]
        samples = [method.sample(8, teacher, unit, _draw(unit)) for unit in units]
        replayed = [method.replay_loss(s, teacher, u, _draw(u)) for s, u in zip(samples, units, strict=True)]
        assert [terms is not None for terms in replayed] == expected


@pytest.mark.parametrize(("unit", "ranks", "rows"), [(FIRST, 1, 4), (LATER, 1, 4 + 6), (LATER, 2, 2 + 3)])
def test_replay_takes_so_many_images(teacher: Observer, unit: Unit, ranks: int, rows: int) -> None:
    method, seen = _built(), list[Tensor]()
    method.autoencoder.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    synthetic = method.sample(16, teacher, unit, _draw(unit, 0, ranks))
    method.replay_loss(synthetic, teacher, unit, _draw(unit, 0, ranks))
    assert len(seen[0]) == rows
    assert torch.equal(seen[0][: 4 // ranks], synthetic.images[: 4 // ranks])


def test_replay_takes_novel_images_only_where_there_are_fewer(teacher: Observer) -> None:
    method, seen = _built(memory=_memory(replay_novel=100)), list[Tensor]()
    method.autoencoder.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    synthetic = method.sample(8, teacher, LATER, _draw(LATER))
    method.replay_loss(synthetic, teacher, LATER, _draw(LATER))
    assert len(seen[0]) == 6 + 6
    assert torch.equal(seen[0][:6], synthetic.images[:6])


def test_replay_moves_the_autoencoder_alone(student: Observer) -> None:
    teacher = toy.observed(toy.network("teacher")).eval()  # not frozen, so that a gradient would show
    method, fingerprint = _built(), teacher.fingerprint()
    _replay(method, teacher.requires_grad_(False)).total().backward()
    assert all(bool(g.any()) for g in _gradients(method.autoencoder))
    assert not any(bool(g.any()) for module in (method.generator, teacher, student) for g in _gradients(module))
    assert teacher.fingerprint() == fingerprint


def test_replay_takes_images_as_they_are(teacher: Observer) -> None:
    images = torch.rand(4, *toy.SHAPE, generator=seeded_generator(0, "images")).requires_grad_()
    _built().autoencoder.reconstruction(images, teacher, _draw(LATER)).total().backward()  # type: ignore[no-untyped-call]
    assert images.grad is None


def test_the_step_of_the_latents_leaks_into_the_memory_only_where_asked(teacher: Observer) -> None:
    plain, leaking = _built(), _built(memory=_latents(gradient_leak=True))
    for method in (plain, leaking):
        _replay(method, teacher).total().backward()
    assert all(
        torch.equal(*g)
        for g in zip(_gradients(plain.autoencoder.encoder), _gradients(leaking.autoencoder.encoder), strict=True)
    )
    apart = _built()
    latents = _normal(6, "replay latent", LATER)
    apart.sample(8, teacher, LATER, _draw(LATER))
    reference.latent_objective(latents, teacher(apart.autoencoder.generator.train()(latents)).logits).backward()
    leaked = _gradients(apart.autoencoder.generator)
    for with_leak, without, alone in zip(
        _gradients(leaking.autoencoder.generator), _gradients(plain.autoencoder.generator), leaked, strict=True
    ):
        torch.testing.assert_close(with_leak - without, alone, rtol=1e-3, atol=1e-4)
    assert max(float(g.abs().max()) for g in leaked) > 0.01


def test_half_precision_leaves_the_memory_its_gradient(teacher: Observer) -> None:
    """One autocast for student and replay step, as a trainer has it: weights cast without graph must not be reused."""
    method = _built()
    with torch.autocast("cpu", torch.bfloat16):
        loss = _replay(method, teacher).total()
    loss.backward()
    assert all(bool(g.any()) for g in _gradients(method.autoencoder))


# --- what the memory learns --------------------------------------------------------------------------------------


class Templates(nn.Module):
    """A teacher that knows three pictures: its logits are products with them."""

    def __init__(self) -> None:
        super().__init__()
        pictures = torch.zeros(3, 8, 8)
        pictures[0, :, :3] = pictures[1, 3:6] = 1.0
        pictures[2].fill_diagonal_(1.0)[1:, :-1].fill_diagonal_(1.0)
        self.pictures = pictures
        self.linear = nn.Linear(64, 3, bias=False)
        self.linear.weight.data = self._centered(pictures.flatten(1))

    @staticmethod
    def _centered(rows: Tensor) -> Tensor:
        centered = rows - rows.mean(1, keepdim=True)
        return 3 * centered / centered.norm(dim=1, keepdim=True)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.linear(images.flatten(1))
        return logits

    def draw(self, count: int, purpose: str) -> tuple[Tensor, Tensor]:
        labels = torch.arange(count) % 3
        noise = 0.1 * torch.randn(count, 1, 8, 8, generator=seeded_generator(0, purpose))
        return self.pictures[labels].unsqueeze(1) + noise, labels


def _remembering(learning_rate: float) -> tuple[PREDFKD, Templates, list[float]]:
    """An autoencoder after 100 replay steps on pictures that no generator made."""
    templates = Templates()
    teacher = Observer(templates, MEAN, STD).freeze()
    method = _built(memory=_memory(width=8, replay_novel=24, lr=learning_rate))
    optimizer, losses = method.optimizers()["replay"], list[float]()
    for step in range(100):
        unit = CADENCE.unit(step, 1)
        pictures, _ = templates.draw(32, f"pictures {step}")
        terms = method.replay_loss(Synthetic(pictures, None), teacher, unit, _draw(unit))
        assert terms is not None
        optimizer.zero_grad()
        terms.total().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(terms.values["image"].item())
    return method.eval(), templates, losses


@torch.no_grad()
def _right(method: PREDFKD, templates: Templates) -> float:
    """Share of new pictures whose class their reconstruction keeps."""
    pictures, labels = templates.draw(300, "new pictures")
    decoded = method.autoencoder.generator(method.autoencoder.encoder(pictures)[0])
    return float((templates(decoded).argmax(1) == labels).float().mean())


@torch.no_grad()
def _alike(method: PREDFKD, templates: Templates) -> tuple[float, int]:
    """Share of memory images that correlate with a picture by more than 0.6, and how many pictures appear."""
    unit = CADENCE.unit(5, 2)
    count = 4 * 100
    images = method.sample(count, Observer(templates, MEAN, STD).freeze(), unit, _draw(unit)).images[-100:]
    centered = [Templates._centered(x) / 3 for x in (images.flatten(1), templates.pictures.flatten(1))]
    best = (centered[0] @ centered[1].T).max(1)
    return float((best.values > 0.6).float().mean()), len(best.indices[best.values > 0.6].unique())


def test_the_memory_learns_to_replay() -> None:
    method, templates, losses = _remembering(0.01)
    untrained, _, at_rest = _remembering(0.0)
    assert losses[-1] < 0.4 * losses[0] < 0.5 * at_rest[-1]
    assert _right(method, templates) > 0.95
    assert _right(untrained, templates) < 0.8
    alike, pictures = _alike(method, templates)
    assert alike > 0.4
    assert pictures == 3
    assert _alike(untrained, templates)[0] < 0.1


# --- state and checks --------------------------------------------------------------------------------------------


def test_all_three_networks_and_both_batches_survive_in_the_middle_of_a_block(teacher: Observer) -> None:
    def steps(method: PREDFKD, optimizer: torch.optim.Optimizer, positions: range) -> list[Tensor]:
        images = []
        for position in positions:
            unit = CADENCE.unit(1, position)
            synthetic = method.sample(8, teacher, unit, _draw(unit))
            terms = method.replay_loss(synthetic, teacher, unit, _draw(unit))
            if terms is not None:
                optimizer.zero_grad()
                terms.total().backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            images.append(synthetic.images)
        return images

    method, resumed = _built(), _built()
    optimizers = method.optimizers()["replay"], resumed.optimizers()["replay"]
    steps(method, optimizers[0], range(1, 2))
    for part in ("generator.", "autoencoder.generator.", "autoencoder.encoder."):
        assert any(name.startswith(part) for name in method.state_dict())
    resumed.load_state_dict(method.state_dict())
    optimizers[1].load_state_dict(copy.deepcopy(optimizers[0].state_dict()))
    for a, b in zip(
        *(steps(m, o, range(2, 4)) for m, o in zip((method, resumed), optimizers, strict=True)), strict=True
    ):
        assert torch.equal(a, b)
    assert toy.same(dict(method.state_dict()), dict(resumed.state_dict()))


def test_defaults_are_the_published_ones() -> None:
    method = PREDFKD()
    method.build(toy.spec(image_shape=(3, 32, 32), mean=(0.5,) * 3, std=(0.25,) * 3), seeded_generator(0, "build"))
    assert method.cadence == Cadence(1, 10, repeats=36)
    synthesis, replay = method.optimizers().values()
    assert [(g["lr"], g["betas"]) for o in (synthesis, replay) for g in o.param_groups] == [
        (0.02, (0.9, 0.999)),
        (5e-4, (0.9, 0.999)),
    ]
    novel, decoder, encoder = (
        sum(p.numel() for p in m.parameters())
        for m in (method.generator, method.autoencoder.generator, method.autoencoder.encoder)
    )
    assert (novel, decoder, encoder) == (8_423_939, 8_423_939, 4_321_872)
    assert (decoder + encoder) * 4 / 2**20 == pytest.approx(48.6, abs=0.05)
    unit = method.cadence.unit(0, 12)
    assert method._memory_count(1152, unit, _draw(unit)) == 128


def test_the_released_code_is_available_by_name() -> None:
    sizes: dict[str, Any] = {"batch_size": 12, "generator": GeneratorSettings(width=4, latent_size=toy.LATENT)}
    method = PREDFKD.released_code(memory=_latents(lr=0.01), **sizes)
    method.build(toy.spec(), seeded_generator(0, "build"))
    for network in (method.generator.stages, method.autoencoder.generator.stages):  # type: ignore[union-attr]
        assert {m.eps for m in network.modules() if isinstance(m, nn.BatchNorm2d)} == {0.8}
    assert method.autoencoder.log10
    assert method.memory == _latents(lr=0.01, gradient_leak=True)
    assert PREDFKD.released_code().memory == Memory(latents=LatentStep(gradient_leak=True))
    assert PREDFKD.released_code(bn_eps=0.1).bn_eps == 0.1
    clean = _built()
    assert not clean.autoencoder.log10
    assert not clean.memory.latents.gradient_leak


def test_without_share_there_is_no_memory(teacher: Observer) -> None:
    method = _built(memory=_memory(share=0.0))
    assert not any(name.startswith("autoencoder") for name in method.state_dict())
    assert set(method.optimizers()) == {"synthesis"}
    assert toy.same(dict(method.generator.state_dict()), dict(_built().generator.state_dict()))
    assert method.sample(7, teacher, LATER, _draw(LATER)).images.shape == (7, *toy.SHAPE)


def test_without_competition_the_student_is_not_looked_at(teacher: Observer) -> None:
    unused: Any = None
    assert "competition" not in _novel(_built(competition=None), teacher, unused)[1].values


def test_weights_start_uniform_and_biases_at_zero() -> None:
    method = _built(generator=GeneratorSettings(width=16), memory=_memory(width=16))
    assert isinstance(method.generator, NormalizedGenerator)
    assert isinstance(method.autoencoder.encoder, Encoder)
    seen = 0
    for name, parameter in method.named_parameters():
        if parameter.dim() > 1:
            seen += 1
            assert 0.07 < float(parameter.abs().max()) <= 0.08, name
            assert float(parameter.std()) == pytest.approx(0.08 / 3**0.5, rel=0.2), name
        elif name.endswith("bias"):
            assert not bool(parameter.any()), name
    assert seen == 4 + 4 + 5
    normed = [name for name, _ in method.generator.named_parameters() if "parametrizations" in name]
    assert len(normed) == 3
    assert not any("parametrizations" in name for name, _ in method.autoencoder.named_parameters())


def test_given_networks_are_copied() -> None:
    shared: dict[str, Any] = {"latent_size": toy.LATENT, "width": 2}
    decoder, encoder = toy.small_generator(), Encoder(toy.SHAPE, **shared)
    method = _built(
        memory=_memory(generator=decoder, encoder=encoder), generator=GeneratorSettings(network=toy.small_generator())
    )
    for given, copied in ((decoder, method.autoencoder.generator), (encoder, method.autoencoder.encoder)):
        assert copied is not given
        assert toy.same(dict(given.state_dict()), dict(copied.state_dict()))


def test_arguments_are_checked() -> None:
    for share in (-0.1, 1.0):
        with pytest.raises(ValueError, match=rf"share of memory images in .0, 1., got {share}"):
            _memory(share=share)
    for name in ("batch_size", "replay_steps", "replay_novel"):
        with pytest.raises(ValueError, match=f"expected {name} of the memory of at least 1, got 0"):
            _memory(**{name: 0})
    for make in (_memory, _latents):
        with pytest.raises(ValueError, match=r"expected lr of .* of at least 0, got -0.1"):
            make(lr=-0.1)


def test_networks_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"images of shape .1, 8, 8., got .1, 16, 16."):
        _built(memory=_memory(generator=toy.small_generator(image_shape=(1, 16, 16))))
    with pytest.raises(ValueError, match=r"latent_size=6, got .2, 5. and .2, 5."):
        _built(memory=_memory(encoder=Encoder(toy.SHAPE, latent_size=5, width=2)))
    with pytest.raises(ValueError, match=r"cannot read images of shape .1, 8, 8.*Encoder said"):
        _built(memory=_memory(encoder=Encoder((3, 8, 8), latent_size=toy.LATENT, width=2)))


def test_parts_that_do_not_divide_are_refused(teacher: Observer, monkeypatch: pytest.MonkeyPatch) -> None:
    for unit in (FIRST, LATER):
        for count, match in ((12, "9 novel and 3 memory"), (18, "13 novel and 5 memory"), (7, "5 novel and 2 memory")):
            with pytest.raises(ValueError, match=f"{match} images, which do not both divide by 2 processes"):
                _built().sample(count, teacher, unit, _draw(unit, 0, 2))
        with pytest.raises(ValueError, match=r"memory.share=0.25 of 1 synthetic images.* leaves 0 memory images"):
            _built().sample(1, teacher, unit, _draw(unit))
    monkeypatch.setattr("lightning_condkd.inversion.pre_dfkd.world_size", lambda: 4)
    for name in ("batch_size", "replay_novel"):
        with pytest.raises(
            ValueError, match=f"memory.{name}=10 does not divide by 4 processes: choose a multiple of 4"
        ):
            _built(memory=_memory(**{"batch_size": 8, "replay_novel": 8, name: 10}))


def test_a_run_that_cannot_divide_its_images_does_not_begin() -> None:
    model = toy.condkd(_method())
    with pytest.raises(ValueError, match="leaves 0 memory images"):
        toy.fit(model, mix=0.0, batch_size=1)
    assert model.trainer.global_step == 0
    assert model.spec is None


def test_a_run_trains_the_memory() -> None:
    run = toy.fit(toy.condkd(_method()), mix=0.0, batch_size=16)
    before, after = _built().state_dict(), run.model.inversion.state_dict()
    for name in (
        "generator.project.weight",
        "autoencoder.generator.project.weight",
        "autoencoder.encoder.to_mean.weight",
    ):
        assert not torch.equal(before[name], after[name])
    assert run.model.images_synthesized == 3 * 2 * 3 * 16
    assert {"replay/image", "replay/logits", "replay/divergence", "synthesis/competition"} <= set(run.metrics)
    assert run.model.teacher.fingerprint() == toy.observed(toy.network("teacher")).fingerprint()
