"""Teachers without BatchNorm: what needs none runs with them, what needs one says so."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models import VisionTransformer
from torchvision.models.convnext import CNBlockConfig, ConvNeXt

from lightning_condkd.inversion import DFAD, Fast, GeneratorSettings, Inversion
from lightning_condkd.models import ConvGenerator, ConvNet, Observer
from lightning_condkd.randomness import seeded_generator, seeded_initialization
from lightning_condkd.rounds import Cadence
from tests.helpers import toy

SHAPE, MEAN, STD = (3, 32, 32), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def group_norm_net() -> nn.Module:
    return ConvNet(toy.CLASSES, width=8, norm="group")


def convnext() -> nn.Module:
    blocks = [CNBlockConfig(8, 16, 1), CNBlockConfig(16, None, 1)]
    return ConvNeXt(blocks, layer_scale=1.0, num_classes=toy.CLASSES)


def vision_transformer() -> nn.Module:
    arguments = {"num_layers": 2, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 32, "num_classes": toy.CLASSES}
    return VisionTransformer(image_size=32, patch_size=8, **arguments)


def teacher_of(make: Callable[[], nn.Module]) -> Observer:
    """A teacher whose predictions differ from image to image."""
    with seeded_initialization(seeded_generator(0, "teacher")):
        network = make()
        last = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
        nn.init.normal_(last.weight)  # torchvision's transformer starts with zeros here
    return Observer(network, MEAN, STD)


def run(teacher: Observer, inversion: Inversion, **arguments: Any) -> toy.Run:
    with seeded_initialization(seeded_generator(0, "student")):
        student = ConvNet(toy.CLASSES, width=4, norm="group")
    model = toy.condkd(inversion, teacher=teacher, student=student)
    return toy.fit(model, condensed=toy.condensed_set(shape=SHAPE), max_epochs=2, **arguments)


def dfad() -> DFAD:
    with seeded_initialization(seeded_generator(0, "generator")):
        generator = ConvGenerator(SHAPE, latent_size=8, width=4)
    return DFAD(
        cadence=Cadence(1, 2, repeats=2), batch_size=8, generator=GeneratorSettings(latent_size=8, network=generator)
    )


def fast(**arguments: Any) -> Fast:
    defaults = {"bn_weight": 0.0, "generator": GeneratorSettings(width=4, latent_size=8), "reset_round": None}
    return Fast(cadence=Cadence(2, 2), batch_size=8, **{**defaults, **arguments})


@pytest.fixture(params=[group_norm_net, convnext, vision_transformer], ids=lambda make: make.__name__)
def teacher(request: pytest.FixtureRequest) -> Iterator[Observer]:
    """A teacher that must not have changed at the end."""
    observer = teacher_of(request.param)
    before = observer.fingerprint()
    yield observer
    assert observer.fingerprint() == before


def check(run: toy.Run, expected: set[str]) -> None:
    """The losses are numbers, and both the student and what makes images have moved."""
    losses = {name: value for name, value in run.metrics.items() if name.startswith(("synthesis/", "distillation/"))}
    assert {name for name in losses if name.startswith("synthesis/")} == {f"synthesis/{name}" for name in expected}
    assert all(math.isfinite(value) for value in losses.values())
    with seeded_initialization(seeded_generator(0, "student")):
        fresh = ConvNet(toy.CLASSES, width=4, norm="group").state_dict()
    trained = toy.student_of(run)
    assert not any(torch.equal(fresh[name], trained[name]) for name in fresh)
    assert all(value.isfinite().all() for value in run.state().values())


def test_dfad_needs_no_batch_norm(teacher: Observer) -> None:
    method = dfad()
    ran = run(teacher, method, mix=0.25)
    check(ran, {"adversarial"})
    assert ran.model.spec is not None
    assert ran.model.spec.bn_channels == ()
    # The disagreement is a real one, and its gradient reached the generator through both networks.
    assert ran.metrics["synthesis/adversarial"] < -1e-3
    given = method.generator_settings.network
    assert given is not None
    assert not torch.equal(method.generator.project.weight, given.project.weight)


def test_fast_runs_without_its_batch_norm_term(teacher: Observer) -> None:
    ran = run(teacher, fast())
    check(ran, {"class", "adversarial"})
    assert ran.bank.images_seen == 2 * 8


@pytest.mark.parametrize("weight", [10.0, -1.0])
def test_fast_with_its_batch_norm_term_refuses(teacher: Observer, weight: float) -> None:
    with pytest.raises(ValueError, match=rf"bn_weight is {weight}, but the teacher has no BatchNorm .* bn_weight to 0"):
        run(teacher, fast(bn_weight=weight))


def test_the_embedding_is_found_in_any_of_them(teacher: Observer) -> None:
    output = teacher.freeze()(torch.rand(2, *SHAPE), embedding=True, bn=True)
    assert output.embedding is not None
    assert output.embedding.shape == (2, teacher.embedding_size)
    assert output.bn == ()
