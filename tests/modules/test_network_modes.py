"""Modes of the student in synthesis and of a live generator when it renders, and what they change."""

from __future__ import annotations

import copy
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn

from lightning_condkd.distillation import SimKD
from lightning_condkd.inversion import DAFL, DFAD, DFQ, PREDFKD, ZSKT, GeneratorSettings, Inversion, LiveInversion
from lightning_condkd.models import Observer
from lightning_condkd.modules import CondKD
from lightning_condkd.randomness import Draw, seeded_generator
from lightning_condkd.rounds import Cadence
from lightning_condkd.steps import synthesize
from tests.helpers import contract, losses, toy
from tests.reference.kd import logits_l1

TRAINING = {"DFAD", "PREDFKD", "ZSKT"}  # by their official codes
MODES = ("eval", "train")
every_method = pytest.mark.parametrize("name", contract.methods())


def _networks() -> tuple[Observer, Observer]:
    return toy.observed(toy.network("teacher")).freeze(), toy.observed(toy.network("student 1"))


def _statistics(student: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in student.named_buffers() if "running" in name}


class Steps(L.Callback):
    """Whether a step of a phase changed the student's weights and statistics."""

    def __init__(self) -> None:
        self.changed: dict[str, set[tuple[bool, bool]]] = {}

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        self.before = self._state(pl_module)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        assert isinstance(pl_module, CondKD)
        assert pl_module.unit is not None
        pairs = zip(self.before, self._state(pl_module), strict=True)
        weights, statistics = (not toy.same(*pair) for pair in pairs)
        self.changed.setdefault(pl_module.unit.phase, set()).add((weights, statistics))

    def _state(self, module: L.LightningModule) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        student = module.get_submodule("student")
        return {name: p.detach().clone() for name, p in student.named_parameters()}, _statistics(student)


# --- the student -----------------------------------------------------------------------------------------------------


@every_method
def test_synthesis_never_changes_the_students_weights_and_its_statistics_where_it_trains(name: str) -> None:
    steps = Steps()
    run = contract.fit(name, weight=5.0, callbacks=[steps])
    training = run.model.inversion.student_mode == "train"
    assert training is (name in TRAINING)
    assert steps.changed == {"synthesize": {(False, training)}, "distill": {(True, True)}, "idle": {(False, False)}}


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_the_adversarial_term_is_that_of_a_student_in_the_mode(mode: Any) -> None:
    method = contract.make("DFAD", student_mode=mode, cadence=Cadence(1, 0, warmup_rounds=0))
    run = toy.fit(toy.condkd(method, augment=None), mix=0.25, max_epochs=1)
    again, (teacher, student) = contract.make("DFAD"), _networks()
    again.build(run.model.spec, seeded_generator(toy.SEED, "inversion"))
    images = again.render(method.cadence.unit(0, 0), Draw(toy.SEED, 0)).images
    values = {one: -logits_l1(student.train(one == "train")(images).logits, teacher(images).logits) for one in MODES}
    assert run.metrics["synthesis/adversarial"] == pytest.approx(float(values[mode]), rel=1e-5)
    assert float(values["eval"]) != pytest.approx(float(values["train"]), rel=1e-2)


@pytest.mark.parametrize("name", ["DFAD", "Fast"])
def test_the_bare_loop_sets_the_mode_and_gives_every_layer_its_own_back(name: str) -> None:
    method, (teacher, student) = contract.built(name), _networks()
    student.train().network.features[1].eval()  # type: ignore[index,union-attr]
    before, modes, seen = _statistics(student), [layer.training for layer in student.modules()], set()
    hook = student.register_forward_pre_hook(lambda *_: seen.add(all(one.training for one in student.modules())))
    synthesize(method, method.optimizers(), teacher, student, round=1)
    hook.remove()
    assert seen == {name == "DFAD"}
    assert [layer.training for layer in student.modules()] == modes
    assert toy.same(before, _statistics(student)) is (name == "Fast")


def test_a_function_as_student_is_taken_as_it_is() -> None:
    def images(training: bool, function: bool) -> Tensor:
        method, (teacher, student) = contract.built("Fast"), _networks()
        student.train(training)
        given = (lambda x, **asked: student(x, **asked)) if function else student
        return synthesize(method, method.optimizers(), teacher, given, round=1).images.clone()

    assert torch.equal(images(training=False, function=True), images(training=True, function=False))
    assert not torch.equal(images(training=True, function=True), images(training=True, function=False))


@pytest.mark.parametrize(("name", "trains"), [("DFAD", True), ("DFQ", False)])
def test_a_student_that_predicts_by_other_layers_is_in_the_mode_too(name: str, trains: bool) -> None:
    model = losses.condkd(SimKD(), inversion=contract.make(name))
    toy.fit(model, mix=0.25, max_epochs=contract.ROUNDS)
    counts = {int(value) for name, value in model.distillation.state_dict().items() if name.endswith("batches_tracked")}
    students, synthesis = 2 * 2 * 3, 3 * 2 * 3  # steps in the rounds after warm-up, and in all
    assert counts == {students + synthesis * trains}


# --- the generator ---------------------------------------------------------------------------------------------------


def _live(kind: Any, **arguments: Any) -> LiveInversion:
    small = {"cadence": contract.CADENCE, "batch_size": 12, "generator": GeneratorSettings(4, toy.LATENT)}
    method: LiveInversion = kind(**small, **arguments)
    method.build(toy.spec(mean=(0.25,), std=(0.5,)), seeded_generator(0, "build"))
    teacher, student = _networks()
    synthesize(method, method.optimizers(), teacher, student, round=0)
    return method


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        *((kind, "train") for kind in (DAFL, DFAD, PREDFKD, ZSKT, DAFL.cifar100, DAFL.mnist)),
        *((kind, "eval") for kind in (DFQ, DAFL.datafree, DFAD.datafree)),
    ],
    ids=lambda one: getattr(one, "__qualname__", one),
)
def test_images_for_the_student_are_rendered_in_the_mode_of_the_source(kind: Any, mode: str) -> None:
    method, (teacher, _) = _live(kind), _networks()
    expected, before = copy.deepcopy(method.generator).train(mode == "train"), _statistics(method.generator)
    unit, draw = contract.CADENCE.unit(1, 3), Draw(0, 9)
    images = LiveInversion.render_sample(method, 6, teacher, unit, draw).images  # of PRE-DFKD the novel ones
    assert torch.equal(images, expected(method.latents(6, unit, draw)))
    assert toy.same(before, _statistics(method.generator)) is (mode == "eval")
    method.render(contract.CADENCE.unit(1, 6), draw)
    assert method.generator.training  # in a synthesis step


def test_the_given_mode_replaces_the_methods() -> None:
    assert _live(DFAD, sample_mode="eval").sample_mode == "eval"
    assert _live(DAFL.datafree, sample_mode="train").sample_mode == "train"
    assert DFAD.datafree().student_mode == "eval"
    assert DFAD.datafree(student_mode="train").student_mode == "train"


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: DFAD(sample_mode="off"), "expected sample_mode 'eval' or 'train', got 'off'"),
        (lambda: DFAD(student_mode="off"), "expected student_mode 'eval' or 'train', got 'off'"),
        (lambda: DAFL(source="bank", sample_mode="eval"), "sample_mode is 'eval', but source='bank' renders no images"),
    ],
)
def test_modes_are_checked(make: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()


@pytest.mark.parametrize("kind", [DAFL, DFAD])
def test_the_datafree_presets_can_store_images(kind: type[DAFL | DFAD]) -> None:
    method: Inversion = kind.datafree(source="bank")
    assert method.source == "bank"
