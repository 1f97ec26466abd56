"""DeepInversion by itself; what holds for every method is in test_contract.py."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from lightning_condkd.alignment import FeatureAlignment
from lightning_condkd.assets import resolve_asset
from lightning_condkd.augment import CropFlip, RollFlip
from lightning_condkd.data import CondensedDataModule
from lightning_condkd.functional.inversion import bn_distance
from lightning_condkd.inversion import Inversion
from lightning_condkd.inversion.deep_inversion import DeepInversion
from lightning_condkd.inversion.parts.competition import Competition
from lightning_condkd.inversion.parts.pixel_optimizer import ImagePrior, PixelAdam
from lightning_condkd.models import CifarResNet, DigitsNet, Observer
from lightning_condkd.modules import CondKD
from lightning_condkd.randomness import Draw, seeded_generator
from lightning_condkd.rounds import Cadence
from lightning_condkd.steps import synthesize
from lightning_condkd.types import LossTerms, NetworkOutput, Synthetic, TaskSpec
from tests.helpers import toy
from tests.reference import deep_inversion as reference

MEAN, STD = 0.25, 0.5
SPEC = toy.spec(mean=(MEAN,), std=(STD,))
STILL = RollFlip(0, flip_probability=0.0)
DRAW = Draw(0, 0)
EVERYTHING = {
    "class_weight": 0.7,
    "bn_weight": 3.0,
    "first_bn_factor": 10.0,
    "prior": ImagePrior(0.02, image_norm_weight=0.03),
    "competition": Competition(weight=0.9),
}


def _built(spec: TaskSpec = SPEC, **arguments: Any) -> DeepInversion:
    method = DeepInversion(**{"cadence": Cadence(4, 4), "batch_size": 12, **arguments})
    method.build(spec, seeded_generator(0, "build"))
    method.start(method.cadence.unit(0, 0), DRAW)
    return method


def _look(method: DeepInversion, observe: Any, student: Any, draw: Draw = DRAW) -> tuple[LossTerms, Synthetic]:
    unit = method.cadence.unit(0, 0)
    synthetic = method.render(unit, draw)
    return method.loss(synthetic, observe, student, unit, draw)[0], synthetic


@pytest.fixture(scope="module")
def teacher() -> Observer:
    return toy.observed(toy.network("teacher")).freeze()


@pytest.fixture(scope="module")
def student() -> Observer:
    return toy.observed(toy.network("student 1")).requires_grad_(False).eval()


# --- the loss -----------------------------------------------------------------------------------------------------


def test_the_loss_and_its_gradient_follow_the_formulas(teacher: Observer, student: Observer) -> None:
    method = _built(**EVERYTHING, augment=RollFlip(2, flip_probability=0.0), batch_size=3)
    unit = method.cadence.unit(0, 0)
    terms, _ = _look(method, teacher, student)
    down, right = RollFlip(2, flip_probability=0.0).sample(1, DRAW.generator("view"))["roll"][0].tolist()
    view = reference.roll(method.render(unit, DRAW).images, down, right)
    output = teacher(view, bn=True)
    layers = [tuple(layer) for layer in output.bn]
    expected = reference.total_loss(view, output.logits, student(view).logits, method.labels, layers, MEAN, STD)
    torch.testing.assert_close(terms.total(), expected)
    gradients = [torch.autograd.grad(loss, method.pixels)[0] for loss in (terms.total(), expected)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


class Asked:
    """A network that notes whether BatchNorm statistics are asked for."""

    def __init__(self, network: Observer) -> None:
        self.network, self.bn = network, list[bool]()

    def __call__(self, images: Tensor, *, bn: bool = False, maps: Sequence[str] = (), **asked: bool) -> NetworkOutput:
        self.bn.append(bn)
        return self.network(images, bn=bn, maps=maps, **asked)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("off", "arguments"),
    [
        ("class", {"class_weight": 0.0}),
        ("bn", {"bn_weight": 0.0}),
        ("total_variation", {"prior": ImagePrior(0.0, image_norm_weight=0.03)}),
        ("image_norm", {"prior": ImagePrior(0.02)}),
        ("competition", {"competition": Competition(weight=0.0)}),
        ("competition", {"competition": None}),
    ],
)
def test_a_weight_of_zero_removes_the_term_and_changes_the_images(
    teacher: Observer, student: Observer, off: str, arguments: dict[str, Any]
) -> None:
    looks, opponents = Asked(teacher), Asked(student)
    without = _built(**{**EVERYTHING, **arguments}, augment=STILL)
    terms, _ = _look(without, looks, opponents)
    names = {"class", "bn", "total_variation", "image_norm", "competition"} - {off}
    assert set(terms.values) == set(terms.weights) == names
    assert looks.bn == [off != "bn"]  # one look, with statistics only where they count
    assert opponents.bn == ([] if off == "competition" else [False])
    whole = _built(**EVERYTHING, augment=STILL)
    images = [synthesize(m, m.optimizers(), teacher, student, 0).images for m in (without, whole)]
    assert not torch.equal(*images)


def test_the_student_that_is_trained_takes_part_after_the_warm_up_rounds(teacher: Observer, student: Observer) -> None:
    method = _built(competition=Competition(), cadence=Cadence(2, 2, warmup_rounds=1))
    for round_, names in (
        (0, {"class", "bn", "total_variation"}),
        (1, {"class", "bn", "total_variation", "competition"}),
    ):
        unit = method.cadence.unit(round_, 0)
        terms, _ = method.loss(method.render(unit, DRAW), teacher, student, unit, DRAW)
        assert set(terms.values) == names
    agreeing = _look(_built(competition=Competition()), teacher, teacher)[0].values["competition"]
    assert agreeing == 1  # no divergence at all
    assert terms.values["competition"] < 1


def test_gradient_reaches_this_ranks_pixels_only(teacher: Observer, student: Observer) -> None:
    method = _built(**EVERYTHING)
    terms, _ = _look(method, teacher, student, Draw(0, 0, rank=1, world_size=3))
    terms.total().backward()  # type: ignore[no-untyped-call]
    assert method.pixels.grad is not None
    reached = method.pixels.grad.flatten(1).any(1)
    assert reached.tolist() == [row % 3 == 1 for row in range(12)]
    assert all(p.grad is None for network in (teacher, student) for p in network.parameters())


@pytest.mark.parametrize("name", ["total_variation", "image_norm"])
def test_norms_of_the_batch_do_not_depend_on_the_number_of_ranks(
    teacher: Observer, student: Observer, name: str
) -> None:
    method = _built(prior=ImagePrior(image_norm_weight=1.0), bn_weight=0.0, augment=STILL)
    with torch.no_grad():
        method.pixels.copy_(method.pixels[::2].repeat_interleave(2, dim=0))  # each rank has the same images
    alone = _look(method, teacher, student)[0].values[name]
    halves = [_look(method, teacher, student, Draw(0, 0, rank, world_size=2))[0].values[name] for rank in (0, 1)]
    torch.testing.assert_close((halves[0] + halves[1]) / 2, alone)
    (whole,) = torch.autograd.grad(alone, method.pixels)
    parts = [torch.autograd.grad(value, method.pixels)[0] for value in halves]
    torch.testing.assert_close((parts[0] + parts[1]) / 2, whole)  # gradients are averaged over ranks


# --- what is kept ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [SPEC, SPEC._replace(mean=(), std=())])
def test_the_kept_images_are_those_of_the_lowest_loss_not_the_last(
    teacher: Observer, student: Observer, spec: TaskSpec
) -> None:
    """The official codes keep an alias of the pixels, or pixels that have moved on by a step."""
    method = _built(spec, cadence=Cadence(12, 4), optimizer=PixelAdam(3.0))
    losses: list[Tensor] = []
    after_step = method.after_step
    method.after_step = lambda *given: (losses.append(given[3]), after_step(*given))  # type: ignore[method-assign]
    kept, labels = synthesize(method, method.optimizers(), teacher, student, 0)
    best = int(torch.stack(losses).argmin())
    assert 0 < best < 11
    assert method.kept_loss == losses[best]
    unit = method.cadence.unit(0, best)
    again, _ = method.loss(Synthetic(kept, labels), teacher, student, unit, Draw(0, unit.counter))
    assert torch.equal(again.total(), losses[best])
    assert not torch.equal(kept, method.render(unit, DRAW).images)


def test_the_last_images_are_kept_on_request(teacher: Observer, student: Observer) -> None:
    method = _built(cadence=Cadence(12, 4), optimizer=PixelAdam(1.5), selection="last")
    rendered: list[Tensor] = []
    after_step = method.after_step
    method.after_step = lambda *given: (rendered.append(given[0].images), after_step(*given))  # type: ignore[method-assign]
    kept, _ = synthesize(method, method.optimizers(), teacher, student, 0)
    assert torch.equal(kept, rendered[-1])


def test_every_block_begins_with_new_noise_and_a_new_adam(teacher: Observer, student: Observer) -> None:
    method, fresh = _built(), _built()
    optimizers = method.optimizers()
    first = synthesize(method, optimizers, teacher, student, 0).images.clone()
    second = synthesize(method, optimizers, teacher, student, 1).images
    assert torch.equal(second, synthesize(fresh, fresh.optimizers(), teacher, student, 1).images)
    assert not torch.equal(second, first)


def test_a_block_goes_on_from_its_state_to_the_bit(teacher: Observer, student: Observer) -> None:
    method, resumed = _built(**EVERYTHING), _built(**EVERYTHING)
    adam, resumed_adam = (m.optimizers()["synthesis"] for m in (method, resumed))
    _step(method, adam, teacher, student, 0)
    _step(method, adam, teacher, student, 1)
    resumed.load_state_dict(method.state_dict())
    resumed_adam.load_state_dict(copy.deepcopy(adam.state_dict()))
    for step in (2, 3):
        _step(method, adam, teacher, student, step)
        _step(resumed, resumed_adam, teacher, student, step)
    assert toy.same(dict(method.state_dict()), dict(resumed.state_dict()))


def _step(
    method: DeepInversion, adam: torch.optim.Optimizer, teacher: Observer, student: Observer, step: int
) -> NetworkOutput:
    unit = method.cadence.unit(0, step)
    draw = Draw(0, unit.counter)
    synthetic = method.render(unit, draw)
    terms, output = method.loss(synthetic, teacher, student, unit, draw)
    adam.zero_grad()
    terms.total().backward()  # type: ignore[no-untyped-call]
    adam.step()
    method.after_step(synthetic, output, terms.total().detach(), terms.total().detach(), unit)
    return output


# --- options --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 4])
def test_clipping_holds_the_pixels_and_what_is_kept_in_the_valid_range(
    teacher: Observer, student: Observer, steps: int
) -> None:
    for clip in (True, False):
        method = _built(clip=clip, optimizer=PixelAdam(0.3), cadence=Cadence(steps, 1))
        kept, _ = synthesize(method, method.optimizers(), teacher, student, 0)
        images = method.render(method.cadence.unit(0, 0), DRAW).images
        outside = [float(((x < -1e-6) | (x > 1 + 1e-6)).float().mean()) for x in (images, kept)]
        assert outside == [0.0, 0.0] if clip else min(outside) > 0.2
        assert not clip or 0 <= float(kept.min()) <= float(kept.max()) <= 1  # not even by rounding


def test_the_teacher_sees_half_the_size_in_the_first_steps(teacher: Observer, student: Observer) -> None:
    method = _built(low_resolution_steps=2, augment=RollFlip(2, flip_probability=0.0))
    draw = next(d for d in (Draw(0, n) for n in range(99)) if not _roll(d).remainder(2).any() and _roll(d).any())
    images = torch.rand(3, 1, 8, 8)
    small, large = (method.view(images, method.cadence.unit(0, step), draw, "condensed view") for step in (1, 2))
    assert small.shape == (3, 1, 4, 4)
    assert large.shape == (3, 1, 8, 8)
    pooled = torch.stack([images[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)]).mean(0)
    torch.testing.assert_close(small, reference.roll(pooled, *(_roll(draw) // 2).tolist()))
    sizes: list[int] = []

    def observe(view: Tensor, **asked: Any) -> NetworkOutput:
        sizes.append(view.shape[-1])
        return teacher(view, **asked)  # type: ignore[no-any-return]

    synthesize(method, method.optimizers(), observe, student, 0)  # type: ignore[arg-type]
    assert sizes == [4, 4, 8, 8]


def _roll(draw: Draw) -> Tensor:
    return RollFlip(2, flip_probability=0.0).sample(1, draw.generator("condensed view"))["roll"][0]


def test_images_of_the_steps_at_half_size_are_not_kept(teacher: Observer, student: Observer) -> None:
    method = _built(low_resolution_steps=2)
    unit, output = method.cadence.unit(0, 0), teacher(torch.rand(12, 1, 8, 8))
    for step, loss in enumerate((1.0, 2.0, 5.0, 6.0)):
        unit, value = method.cadence.unit(0, step), torch.tensor(loss)
        method.after_step(Synthetic(torch.full((12, *toy.SHAPE), loss), method.labels), output, value, value, unit)
    assert method.kept_loss == 5
    assert bool((method.kept_images == 5).all())


@pytest.mark.parametrize("low", [0, 7])
def test_the_learning_rate_rises_and_falls_in_each_resolution(low: int) -> None:
    adam = PixelAdam(warmup_steps=3, cosine=True)
    method = _built(cadence=Cadence(12, 1), low_resolution_steps=low, optimizer=adam)
    factors = [method.lr_factor(method.cadence.unit(0, step)) for step in range(12)]
    assert factors == pytest.approx(reference.learning_rate_factors(3, [low, 12 - low]))
    plain = _built(cadence=Cadence(12, 1))
    assert {plain.lr_factor(plain.cadence.unit(0, step)) for step in range(12)} == {1.0}


def _by_hand(teacher: Observer, student: Observer, adams: list[range]) -> Tensor:
    """The pixels after the steps of each range with an Adam object of its own."""
    method = _built(low_resolution_steps=2, optimizer=PixelAdam(0.3))
    for steps in adams:
        adam = torch.optim.Adam([method.pixels], lr=0.3)
        for step in steps:
            _step(method, adam, teacher, student, step)
    return method.pixels.detach()


def test_full_size_begins_with_a_new_adam(teacher: Observer, student: Observer) -> None:
    method = _built(low_resolution_steps=2, optimizer=PixelAdam(0.3))
    synthesize(method, method.optimizers(), teacher, student, 0)
    assert torch.equal(method.pixels, _by_hand(teacher, student, [range(2), range(2, 4)]))
    assert not torch.equal(method.pixels, _by_hand(teacher, student, [range(4)]))
    forgotten = {low: [_forgets(low, step) for step in range(4)] for low in (0, 2, 4)}
    assert forgotten == {0: [1, 0, 0, 0], 2: [1, 0, 1, 0], 4: [1, 0, 0, 0]}


def _forgets(low: int, step: int) -> int:
    method = _built(low_resolution_steps=low)
    return len(method.forgets(method.cadence.unit(0, step)))


@pytest.mark.parametrize("unit", [2, 3])
def test_resume_around_the_change_of_size_is_exact(unit: int, tmp_path: Path) -> None:
    def model() -> CondKD:
        return toy.condkd(DeepInversion(cadence=Cadence(4, 2), batch_size=12, low_resolution_steps=2))

    keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    whole = toy.fit(model(), max_epochs=1, callbacks=[keep], enable_checkpointing=True, default_root_dir=tmp_path)
    data, resumed = CondensedDataModule(toy.condensed_set(), batch_size=8), model()
    trainer = toy.silent_trainer(max_epochs=1, default_root_dir=tmp_path)
    trainer.fit(resumed, data, ckpt_path=tmp_path / f"step={unit}.ckpt")
    assert toy.same(toy.Run(resumed, data.transfer_set.bank, trainer).state(), whole.state())


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_balanced_labels_are_balanced_on_every_rank(ranks: int) -> None:
    method = _built(toy.spec(num_classes=10), batch_size=44)
    for rank in range(ranks):
        counts = method.labels[Draw(0, 0, rank, ranks).rows].bincount(minlength=10)
        assert counts.max() - counts.min() <= 1
    extra = set()
    for round_ in range(20):
        method.start(method.cadence.unit(0, 0), Draw(0, round_))
        extra |= set((method.labels.bincount() == 5).nonzero().flatten().tolist())
    assert extra == set(range(10))  # no class is favoured in the long run


def test_fewer_images_than_classes_have_labels_of_their_own() -> None:
    assert len(_built(toy.spec(num_classes=50), batch_size=12).labels.unique()) == 12


def test_uniform_labels_make_no_promise() -> None:
    method = _built(labels="uniform")
    assert not method.balanced_labels
    counts = {tuple(_relabelled(method, step).bincount(minlength=3).tolist()) for step in range(10)}
    assert len(counts) > 5


def _relabelled(method: DeepInversion, step: int) -> Tensor:
    method.start(method.cadence.unit(0, 0), Draw(0, step))
    return method.labels


def test_a_teacher_without_batch_norm_serves_if_the_term_is_off(student: Observer) -> None:
    teacher = toy.observed(toy.network("plain", norm="none")).freeze()
    with pytest.raises(ValueError, match=r"the teacher has no BatchNorm layer.*set bn_weight to 0"):
        _built(SPEC._replace(bn_channels=()))
    method = _built(SPEC._replace(bn_channels=()), bn_weight=0.0, cadence=Cadence(60, 1), optimizer=PixelAdam(0.3))
    before = _look(method, teacher, student)[0].values["class"]
    synthesize(method, method.optimizers(), teacher, student, 0)
    after = _look(method, teacher, student)[0].values
    assert after["class"] < 0.8 * before
    assert set(after) == {"class", "total_variation"}


def test_a_run_with_alignment_half_size_and_competition() -> None:
    options: dict[str, Any] = {"low_resolution_steps": 2, "competition": Competition(), "clip": True}
    adam = PixelAdam(warmup_steps=1, cosine=True)
    method = DeepInversion(cadence=toy.CADENCE, batch_size=12, optimizer=adam, **options)
    run = toy.fit(toy.condkd(method, FeatureAlignment()))
    assert len(run.bank) == 36
    assert run.bank.clamped_share == 0
    assert {"synthesis/class", "synthesis/bn", "synthesis/competition"} <= run.metrics.keys()


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"low_resolution_steps": 5}, "between 0 and the 4 synthesis_steps of the cadence, got 5"),
        ({"low_resolution_steps": -1}, "between 0 and the 4 synthesis_steps of the cadence, got -1"),
        ({"labels": "sorted"}, "expected labels 'balanced' or 'uniform', got 'sorted'"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        _built(**arguments)


@pytest.mark.parametrize(
    ("part", "arguments", "match"),
    [
        (ImagePrior, {"total_variation": "huber"}, "expected total_variation 'l2' or 'l1', got 'huber'"),
        (ImagePrior, {"image_norm": "mean"}, "expected image_norm 'batch' or 'image', got 'mean'"),
        (PixelAdam, {"lr": -0.1}, "expected lr >= 0 and warmup_steps >= 0, got -0.1 and 0"),
        (PixelAdam, {"warmup_steps": -1}, "expected lr >= 0 and warmup_steps >= 0, got 0.05 and -1"),
        (PixelAdam, {"betas": (0.9, 1.0)}, r"expected two betas in .0, 1., got \(0.9, 1.0\)"),
    ],
)
def test_arguments_of_the_parts_are_checked(part: type, arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        part(**arguments)


# --- settings -------------------------------------------------------------------------------------------------------


def test_the_defaults_are_the_published_ones() -> None:
    method = DeepInversion()
    assert method.cadence == Cadence(2000, 400)
    assert method.optimizer == PixelAdam(0.05, (0.9, 0.999), warmup_steps=0, cosine=False)
    assert method.prior == ImagePrior(2.5e-5, "l2", 0.0, "batch")
    assert (method.class_weight, method.bn_weight, method.competition.weight) == (1.0, 10.0, 0.0)
    assert (method.clip, method.batch_size) == (False, 256)


@pytest.mark.parametrize("name", ["imagenet", "datafree"])
def test_settings_can_be_named_in_yaml(name: str) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--method", type=Inversion)
    path = f"{DeepInversion.__module__}.DeepInversion.{name}"
    arguments = {"batch_size": 6, "selection": "last", "cadence": {"synthesis_steps": 30, "distill_steps": 2}}
    config = parser.parse_object({"method": {"class_path": path, "init_args": arguments}})
    method = parser.instantiate(parser.parse_string(parser.dump(config))).method
    expected = getattr(DeepInversion, name)(batch_size=6, selection="last", cadence=Cadence(30, 2))
    assert type(method) is DeepInversion
    assert repr(method) == repr(expected)
    assert _arguments(method) == _arguments(expected) != _arguments(DeepInversion(batch_size=6, cadence=Cadence(30, 2)))


def _arguments(method: DeepInversion) -> dict[str, Any]:
    return {name: value for name, value in vars(method).items() if not name.startswith("_")}


def test_parts_can_be_given_in_yaml_and_keep_their_other_defaults() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--method", type=Inversion)
    parts = {"optimizer": {"lr": 0.2, "betas": [0.5, 0.9]}, "prior": {"image_norm": "image"}}
    given = {"class_path": f"{DeepInversion.__module__}.DeepInversion", "init_args": parts}
    adaptive = {**given, "init_args": {**parts, "competition": {"weight": 0.2}}}
    for config, weight in ((given, 0.0), (adaptive, 0.2)):
        parsed = parser.parse_string(parser.dump(parser.parse_object({"method": config})))
        method = parser.instantiate(parsed).method
        assert method.optimizer == PixelAdam(0.2, (0.5, 0.9))
        assert method.prior == ImagePrior(image_norm="image")
        assert method.competition == Competition(weight=weight)


def test_the_imagenet_setting_has_two_thirds_of_its_steps_at_half_size() -> None:
    method = DeepInversion.imagenet(competition=Competition(weight=0.2))
    assert (method.cadence.synthesis_steps, method.low_resolution_steps) == (3000, 2000)
    assert method.competition == Competition(weight=0.2)
    assert DeepInversion.imagenet(cadence=Cadence(30, 1)).low_resolution_steps == 20


# --- that it works --------------------------------------------------------------------------------------------------


def _bn_distances(teacher: Observer, spec: TaskSpec, **arguments: Any) -> tuple[float, float, float]:
    """The distance of the noise and of what it becomes, and the share of pixels that are no valid ones."""
    method = _built(spec, **arguments)
    noise = method.render(method.cadence.unit(0, 0), DRAW).images
    images, labels = synthesize(method, method.optimizers(), teacher, teacher, 0)
    with torch.no_grad():
        before, after = (float(bn_distance(teacher(x, bn=True).bn)) for x in (noise, images))
        correct = (teacher(images).logits.argmax(1) == labels).float().mean()
    assert correct >= 0.5
    return before, after, float(((images < 0) | (images > 1)).float().mean())


def test_noise_becomes_what_a_digits_teacher_takes_for_its_training_data() -> None:
    weights = resolve_asset("package:digits-teacher.safetensors")
    teacher = Observer(DigitsNet(width=32), (0.3059,), (0.3754,), weights=weights).freeze()
    spec = TaskSpec((1, 8, 8), 10, 64, teacher.bn_channels, (0.3059,), (0.3754,))
    arguments = {"cadence": Cadence(60, 1), "batch_size": 20, "optimizer": PixelAdam(0.1), "augment": CropFlip(1, 0.0)}
    before, after, outside = _bn_distances(teacher, spec, **arguments)
    assert after < before / 4
    assert outside > 0.1  # digits are black on a large part, and nothing holds the pixels
    assert _bn_distances(teacher, spec, **arguments, clip=True)[2] == 0


@pytest.mark.real_data
def test_noise_becomes_what_a_cifar10_teacher_takes_for_its_training_data(real_data: Path) -> None:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    teacher = Observer(CifarResNet(20), mean, std, weights=real_data / "resnet20-cifar10.safetensors").freeze()
    spec = TaskSpec((3, 32, 32), 10, 64, teacher.bn_channels, mean, std)
    before, after, outside = _bn_distances(
        teacher, spec, cadence=Cadence(80, 1), batch_size=10, optimizer=PixelAdam(0.1)
    )
    assert after < before / 4
    assert outside < 0.1
