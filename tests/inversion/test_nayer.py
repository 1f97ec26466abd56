"""NAYER by itself, driven by a bare loop, and its class vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lightning_condkd.data import CondensedSet
from lightning_condkd.inversion import (
    NAYER,
    ClassVectors,
    CondensedMeanVectors,
    FileVectors,
    GeneratorSettings,
    Inversion,
    OrthogonalVectors,
    TeacherHeadVectors,
)
from lightning_condkd.inversion.parts.class_vectors import standardized
from lightning_condkd.models import Observer
from lightning_condkd.randomness import Draw, seeded_generator
from lightning_condkd.rounds import Cadence
from lightning_condkd.steps import give_class_rows, synthesize
from tests.helpers import contract, toy
from tests.reference import nayer as reference
from tests.reference.fast import crop_and_flip

BATCHES = Cadence(3, 4, warmup_rounds=1, batches=2, warmup_batches=3)


def _method(**arguments: Any) -> NAYER:
    sizes = {"cadence": BATCHES, "batch_size": 12, "generator": GeneratorSettings(2, toy.LATENT), "augment": toy.CROP}
    return NAYER(**toy.changed(sizes, arguments))


def _built(**arguments: Any) -> NAYER:
    method = _method(**arguments)
    method.build(toy.spec(), seeded_generator(0, "build"))
    give_class_rows(method, _teacher(), toy.condensed_set() if method.class_rows_from == "class_means" else None)
    return method


def _teacher() -> Observer:
    return toy.observed(toy.network("teacher")).freeze()


def _student() -> Observer:
    return toy.observed(toy.network("student 1")).requires_grad_(False).eval()


# --- against the transcription ---------------------------------------------------------------------------------------


@pytest.fixture
def _in_double() -> Any:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("_in_double")
def test_batches_are_those_of_the_transcription() -> None:
    """Four batches: two of the warm-up, then with the adversary; the generator is drawn anew before the third."""
    method = _built(batch_size=11, lifetime=1)
    teacher, student = _teacher(), _student()
    parameters = dict(method.generator.named_parameters())
    optimizers, average = method.optimizers(), reference.Average()
    for round_, batch in ((0, 0), (0, 1), (1, 0), (1, 1)):
        unit = next(u for u in (BATCHES.unit(round_, i) for i in range(10)) if u.first and u.batch == batch)
        begun = _built(batch_size=11, lifetime=1)
        begun.load_state_dict(method.state_dict())
        begun.start(unit, Draw(0, unit.counter))
        own = {name: value.detach().clone().requires_grad_() for name, value in begun.generator.named_parameters()}

        def view(images: Tensor, step: int, first: int = unit.counter) -> Tensor:
            drawn = toy.CROP.sample(11, seeded_generator(0, "view", first + step))
            return crop_and_flip(images, drawn, toy.CROP.padding)

        networks = teacher.network, student.network if round_ else None
        expected, average = reference.batch(
            own, begun.vectors, begun.labels, 3, networks, teacher.normalize, view, average, steps=3, rate=4e-3
        )
        made = synthesize(method, optimizers, teacher, student, round_, batch=batch)
        torch.testing.assert_close(made.images, expected, rtol=0, atol=1e-9)
        assert torch.equal(made.labels, begun.labels)  # type: ignore[arg-type]
        for name, value in own.items():
            torch.testing.assert_close(parameters[name], value, rtol=0, atol=1e-9)


# --- what a batch begins with ----------------------------------------------------------------------------------------


def _begun(method: NAYER, round_: int, batch: int) -> dict[str, Tensor]:
    unit = BATCHES.unit(round_, 3 * batch)
    assert unit.first
    method.start(unit, Draw(0, unit.counter))
    return {name: value.clone() for name, value in method.generator.state_dict().items()}


def test_noise_is_drawn_for_every_batch_and_the_rest_for_every_lifetime() -> None:
    method = _built(lifetime=2)
    states = {(r, b): _begun(method, r, b) for r, b in ((2, 0), (2, 1), (3, 0), (4, 0))}
    noise = [state["noisy.0.weight"] for state in states.values()]
    assert len({float(one.sum()) for one in noise}) == 4
    decoders = {key: state["decoder.project.weight"] for key, state in states.items()}
    assert torch.equal(decoders[2, 0], decoders[2, 1])
    assert not torch.equal(decoders[2, 1], decoders[3, 0])  # two rounds after the warm-up of one
    assert not torch.equal(decoders[3, 0], decoders[4, 0])


def test_without_lifetime_the_generator_lives_on() -> None:
    method = _built(lifetime=None)
    first, last = _begun(method, 0, 0), _begun(method, 9, 0)
    assert torch.equal(first["decoder.project.weight"], last["decoder.project.weight"])
    assert not torch.equal(first["noisy.0.weight"], last["noisy.0.weight"])


@pytest.mark.parametrize(("batch_size", "counts"), [(12, [4, 4, 4]), (11, [4, 4, 3]), (2, [1, 1, 0])])
def test_classes_are_in_order_and_balanced(batch_size: int, counts: list[int]) -> None:
    method = _built(batch_size=batch_size)
    _begun(method, 0, 0)
    whole = 3 * (batch_size // 3)
    assert method.labels[:whole].tolist() == list(range(3)) * (batch_size // 3)
    assert sorted(method.labels.bincount(minlength=3).tolist(), reverse=True) == counts
    assert len(method.generator.noisy) == -(-batch_size // 3)


def test_adam_is_fresh_for_every_batch() -> None:
    method = _built()
    assert {id(one) for one in method.per_round()} == {id(one) for one in method.generator.parameters()}


def test_published_settings() -> None:
    """Official scripts, all for R34 to R18: CIFAR-10 and -100 with batch 400, Tiny-ImageNet with 200 and no flip."""
    found = {name: getattr(NAYER, name)() for name in ("cifar10", "cifar100", "tiny_imagenet")}
    assert [m.cadence.synthesis_steps for m in found.values()] == [30, 40, 60]
    assert [m.batch_size for m in found.values()] == [400, 400, 200]
    assert [(m.cadence.batches, m.cadence.warmup_batches) for m in found.values()] == [(2, 10), (2, 10), (4, 20)]
    assert [m.augment.flip_probability for m in found.values()] == [0.5, 0.5, 0.0]
    assert {m.generator_settings.numbers for m in found.values()} == {(64, 1000, 4e-3, (0.5, 0.999))}
    method = NAYER.tiny_imagenet(class_vectors=OrthogonalVectors(), bn_weight=0.0)
    method.build(toy.spec(image_shape=(3, 64, 64), num_classes=200), seeded_generator(0, "build"))
    assert method.generator.decoder.project.weight.shape == (128 * 16 * 16, 1000)
    assert len(method.generator.noisy) == 1


# --- class vectors ---------------------------------------------------------------------------------------------------


def test_vectors_of_the_teacher_are_its_head_standardized() -> None:
    weight = toy.network("teacher").linear.weight
    rows = [(row - row.mean()) / row.std(correction=0) for row in weight]
    torch.testing.assert_close(_built().vectors, torch.stack(rows).detach())


def test_vectors_of_the_condensed_set_are_its_mean_embeddings_standardized() -> None:
    condensed, teacher = toy.condensed_set(), _teacher()
    embedding = teacher(condensed.images, embedding=True).embedding
    assert embedding is not None
    rows = [embedding[condensed.labels == label].mean(0) for label in range(3)]
    rows = [(row - row.mean()) / row.std(correction=0) for row in rows]
    torch.testing.assert_close(_built(class_vectors=CondensedMeanVectors()).vectors, torch.stack(rows).detach())


def test_a_row_without_spread_is_standardized_to_zero() -> None:
    assert standardized(torch.tensor([[2.0, 2.0]])).tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("size", [None, 3, 7])
def test_control_vectors_are_orthonormal(size: int | None) -> None:
    vectors = _built(class_vectors=OrthogonalVectors(size)).vectors
    assert vectors.shape == (3, size or 3)
    torch.testing.assert_close(vectors @ vectors.T, torch.eye(3), rtol=0, atol=1e-6)


def test_vectors_of_a_file_are_used_as_they_are(tmp_path: Path) -> None:
    given = torch.tensor([[1.0, 2.0], [3.0, 4.0], [-5.0, 0.5]], dtype=torch.float64)
    save_file({"text": given}, tmp_path / "a.safetensors")
    vectors = _built(class_vectors=FileVectors(tmp_path / "a.safetensors", tensor="text")).vectors
    assert torch.equal(vectors, given.float())
    assert vectors.dtype == torch.float32


FILES = {
    "another name": ({"text": torch.eye(3)}, r"expected a tensor 'class_vectors' in .*, got text: write the file with"),
    "too few": ({"class_vectors": torch.eye(2)}, r"a row for each of 3 classes, \(3, D\), got \(2, 2\)"),
    "no matrix": ({"class_vectors": torch.ones(3)}, r"a row for each of 3 classes, \(3, D\), got \(3,\)"),
    "integers": ({"class_vectors": torch.eye(3).long()}, "expected floating point vectors in .*, got torch.int64"),
    "NaN": ({"class_vectors": torch.eye(3) * torch.tensor([1.0, torch.nan, 1.0])}, "NaN or infinity in class 0, 1, 2"),
    "alike": ({"class_vectors": torch.eye(3)[[0, 1, 0]]}, "classes 0, 2 have the same row"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_faulty_file_is_refused(case: str, tmp_path: Path) -> None:
    tensors, match = FILES[case]
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=match):
        _built(class_vectors=FileVectors(tmp_path / "a.safetensors"))


def test_a_missing_file_is_refused_before_a_run(tmp_path: Path) -> None:
    model = toy.condkd(_method(class_vectors=FileVectors(tmp_path / "none.safetensors")))
    with pytest.raises(FileNotFoundError, match="safetensors file of class vectors, found none"):
        toy.fit(model)


def test_vectors_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="3 orthogonal vectors need a size of at least 3, got 2"):
        _built(class_vectors=OrthogonalVectors(2))
    with pytest.raises(TypeError, match="class_vectors: expected ClassVectors, got str: give TeacherHeadVectors"):
        _method(class_vectors="clip")
    with pytest.raises(NotImplementedError, match=r"ClassVectors.own: write which vectors"):
        _built(class_vectors=ClassVectors())


def test_an_own_kind_of_vectors() -> None:
    class Ramp(ClassVectors):
        def own(self, spec: Any, generator: torch.Generator) -> Tensor:
            return torch.arange(3.0)[:, None] * torch.ones(4)

    assert _built(class_vectors=Ramp()).vectors[2].tolist() == [2.0] * 4


# --- values of the classes: the hook between method and run -----------------------------------------------------------


def test_a_bare_loop_that_forgot_the_vectors_is_told() -> None:
    method = _method()
    method.build(toy.spec(), seeded_generator(0, "build"))
    forgot = r"NAYER needs values of the classes \(teacher_head\) before its first block: call steps.give_class_rows"
    with pytest.raises(ValueError, match=forgot):
        synthesize(method, method.optimizers(), _teacher(), _student(), 0)
    give_class_rows(method, _teacher())
    assert synthesize(method, method.optimizers(), _teacher(), _student(), 0).images.shape == (12, *toy.SHAPE)


def test_class_means_need_a_condensed_set_with_every_class() -> None:
    method = _method(class_vectors=CondensedMeanVectors())
    method.build(toy.spec(), seeded_generator(0, "build"))
    with pytest.raises(ValueError, match="NAYER needs class means of condensed images: give the condensed set"):
        give_class_rows(method, _teacher())
    whole = toy.condensed_set()
    lacking = CondensedSet(whole.images[:2], whole.labels[:2], info=whole.info)
    with pytest.raises(ValueError, match="no image of class 2"):
        give_class_rows(method, _teacher(), lacking)


def test_values_are_set_once() -> None:
    method = _built()
    before = method.vectors.clone()
    method.set_class_rows(torch.eye(3, 8))
    assert torch.equal(method.vectors, before)


def test_a_resumed_run_keeps_its_vectors() -> None:
    method, resumed = _built(), _method()
    resumed.build(toy.spec(), seeded_generator(1, "build"))
    assert resumed.lacks_class_rows()
    resumed.load_state_dict(method.state_dict())
    assert not resumed.lacks_class_rows()
    assert torch.equal(resumed.vectors, method.vectors)


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        (torch.eye(3), r"NAYER: teacher_head: expected a row for each of 3 classes, \(3, 8\), got \(3, 3\)"),
        (torch.full((3, 8), torch.inf), "NaN or infinity in class 0, 1, 2"),
        (torch.ones(3, 8), "classes 0, 1, 2 have the same row"),
    ],
)
def test_faulty_values_are_refused(rows: Tensor, match: str) -> None:
    method = _method()
    method.build(toy.spec(), seeded_generator(0, "build"))
    with pytest.raises(ValueError, match=match):
        method.set_class_rows(rows)
    assert method.lacks_class_rows()


def test_a_method_that_does_not_take_the_values_says_so() -> None:
    class Takes(Inversion):
        class_rows_from = "teacher_head"

    method = Takes(BATCHES, batch_size=4)
    method.build(toy.spec(), seeded_generator(0, "build"))
    with pytest.raises(NotImplementedError, match=r"Takes\.take_class_rows: write what becomes of the rows"):
        give_class_rows(method, _teacher())


def test_other_methods_need_none() -> None:
    method = contract.built("Fast")
    assert not method.lacks_class_rows()
    assert "has_class_rows" not in method.state_dict()


class Pooled(nn.Module):
    """A classifier without a linear layer at its end."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3)

    def forward(self, images: Tensor) -> Tensor:
        return self.norm(self.conv(images)).mean((2, 3))


@pytest.mark.parametrize("kind", [TeacherHeadVectors, CondensedMeanVectors])
def test_a_teacher_without_final_linear_layer_is_refused_at_setup(kind: type[ClassVectors]) -> None:
    model = toy.condkd(_method(class_vectors=kind()), teacher=toy.observed(Pooled()))
    with pytest.raises(ValueError, match=r"expected Pooled to end in an nn\.Linear"):
        toy.fit(model)
    assert model.trainer.global_step == 0


def test_control_vectors_need_no_final_linear_layer() -> None:
    model = toy.condkd(_method(class_vectors=OrthogonalVectors()), teacher=toy.observed(Pooled()))
    assert toy.fit(model, max_epochs=2).bank.images_seen == 36 + 24


def test_a_teacher_without_batch_norm_and_other_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"bn_weight is 10\.0, but the teacher has no BatchNorm"):
        _method().build(toy.spec(bn_channels=()), seeded_generator(0, "build"))
    with pytest.raises(ValueError, match="expected lifetime of at least 1 round, got 0"):
        _method(lifetime=0)
    with pytest.raises(ValueError, match=r"expected bn_momentum in \[0, 1\), got 1"):
        _method(bn_momentum=1.0)


def test_a_decoder_that_cannot_be_drawn_anew_is_refused() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale, self.layer = nn.Parameter(torch.ones(1)), nn.Linear(toy.LATENT, 64)

        def forward(self, latents: Tensor) -> Tensor:
            return (self.scale * self.layer(latents)).sigmoid().view(-1, 1, 8, 8)

    decoder = GeneratorSettings(network=Scaled())
    with pytest.raises(ValueError, match=r"no reset_parameters\(\) of Scaled draws scale anew.*set lifetime to None"):
        _built(generator=decoder)
    assert _built(generator=decoder, lifetime=None).generator.decoder.layer.in_features == toy.LATENT
