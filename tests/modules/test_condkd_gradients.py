"""Who is reached by which gradient, and what the networks are asked for in which phase."""

from __future__ import annotations

from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn

from lightning_condkd.alignment import FeatureAlignment
from lightning_condkd.augment import DifferentiableAugment
from lightning_condkd.distillation import DistillationLoss, KLDistillation
from lightning_condkd.models import DigitsNet
from lightning_condkd.modules import CondKD
from lightning_condkd.rounds import Cadence
from lightning_condkd.types import NetworkOutput
from tests.helpers import toy

ONLY_ALIGNMENT = {"class_weight": 0.0, "bn_weight": 0.0, "adversarial_weight": 0.0, "cadence": Cadence(4, 0)}


class Watch(L.Callback):
    """Notes by phase what a backward pass may change, what a step did change, and which gradients it left."""

    def __init__(self) -> None:
        self.open: list[tuple[str, frozenset[str]]] = []
        self.changed: list[tuple[str, frozenset[str]]] = []
        self.gradients: list[tuple[str, dict[str, Tensor], dict[str, Tensor]]] = []
        self._parameters: dict[str, Tensor] = {}
        self._gradients: dict[str, Tensor] = {}

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        trainable = {_part(name) for name, parameter in pl_module.named_parameters() if parameter.requires_grad}
        self.open.append((_phase(pl_module), frozenset(trainable)))

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        self._parameters = {name: parameter.detach().clone() for name, parameter in pl_module.named_parameters()}
        self._gradients = _gradients(pl_module)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        changed = {_part(n) for n, p in pl_module.named_parameters() if not torch.equal(p, self._parameters[n])}
        self.changed.append((_phase(pl_module), frozenset(changed)))
        self.gradients.append((_phase(pl_module), self._gradients, _gradients(pl_module)))


def _phase(module: L.LightningModule) -> str:
    assert isinstance(module, CondKD)
    assert module.unit is not None
    return module.unit.phase


def _part(name: str) -> str:
    return ".".join(name.split(".")[: 2 if name.startswith("inversion") else 1])


def _gradients(module: L.LightningModule, prefix: str = "") -> dict[str, Tensor]:
    named = module.named_parameters()
    return {name: p.grad.clone() for name, p in named if name.startswith(prefix) and p.grad is not None}


def _of(part: str, gradients: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: gradient for name, gradient in gradients.items() if name.startswith(f"{part}.")}


@pytest.fixture(scope="module")
def watched() -> tuple[Watch, toy.Run, str]:
    watch, model = Watch(), toy.condkd(alignment=FeatureAlignment())
    fingerprint = model.teacher.fingerprint()
    return watch, toy.fit(model, callbacks=[watch]), fingerprint


GENERATOR, DISCRIMINATOR, STUDENT = {"inversion.inner", "inversion.latent"}, {"alignment"}, {"student"}


def test_every_backward_pass_opens_the_parameters_of_one_optimizer(watched: tuple[Watch, toy.Run, str]) -> None:
    watch, _, _ = watched
    in_synthesis = [parts for phase, parts in watch.open if phase == "synthesize"]
    assert in_synthesis == [frozenset(GENERATOR), frozenset(DISCRIMINATOR)] * 12
    assert [parts for phase, parts in watch.open if phase == "distill"] == [frozenset(STUDENT)] * 8


def test_a_step_changes_what_its_phase_trains(watched: tuple[Watch, toy.Run, str]) -> None:
    watch, _, _ = watched
    generator = frozenset(GENERATOR | DISCRIMINATOR)
    synthesis = [parts for phase, parts in watch.changed if phase == "synthesize"]
    assert synthesis == [generator, generator, generator, generator | {"inversion.meta"}] * 3
    assert {parts for phase, parts in watch.changed if phase == "distill"} == {frozenset(STUDENT)}
    assert {parts for phase, parts in watch.changed if phase == "idle"} == {frozenset()}


def test_the_students_gradient_is_untouched_by_synthesis(watched: tuple[Watch, toy.Run, str]) -> None:
    """Though the adversarial term looks through it."""
    watch, run, _ = watched
    assert "synthesis/adversarial" in run.metrics
    kept: dict[str, set[bool]] = {"synthesize": set(), "distill": set(), "idle": set()}
    for phase, before, after in watch.gradients:
        kept[phase].add(toy.same(_of("student", before), _of("student", after)))
    assert kept == {"synthesize": {True}, "distill": {False}, "idle": {True}}


def test_the_teacher_is_as_it_was(watched: tuple[Watch, toy.Run, str]) -> None:
    watch, run, fingerprint = watched
    teacher = run.model.teacher
    assert teacher.fingerprint() == fingerprint
    assert not any(module.training for module in teacher.modules())
    assert not any(p.requires_grad for p in teacher.parameters())
    assert not any(_of("teacher", after) for _, _, after in watch.gradients)
    assert all(p.requires_grad for part in (run.model.student, run.model.inversion) for p in part.parameters())


@pytest.mark.parametrize("augment", [None, DifferentiableAugment(("translation", "cutout"))], ids=["main", "extra"])
def test_alignment_alone_reaches_generator_and_latents(augment: DifferentiableAugment | None) -> None:
    """With no other term, in a round of synthesis alone, so that the student has no gradient of its own."""
    watch, model = Watch(), toy.condkd(toy.fast(**ONLY_ALIGNMENT), FeatureAlignment(augment=augment))
    toy.fit(model, max_epochs=1, callbacks=[watch])
    gradients = watch.gradients[0][2]
    assert not _of("teacher", gradients)
    assert not _of("student", gradients)
    names = [name for name, _ in model.named_parameters() if _part(name) in GENERATOR]
    # a bias in front of a BatchNorm has no effect, hence no gradient but rounding
    assert all(float(gradients[n].abs().max()) > 1e-6 for n in names if n != "inversion.inner.project.bias")
    assert bool((gradients["inversion.latent"].abs().amax(1) > 0).all())
    assert set(watch.changed[0][1]) == GENERATOR | DISCRIMINATOR


def test_without_any_term_nothing_reaches_the_generator() -> None:
    """The control of the test above."""
    watch, model = Watch(), toy.condkd(toy.fast(**ONLY_ALIGNMENT), FeatureAlignment(weight=0.0))
    toy.fit(model, max_epochs=1, callbacks=[watch])
    assert not watch.gradients[0][2]


def test_an_extra_view_changes_the_result() -> None:
    augment = DifferentiableAugment(("flip", "translation", "cutout"))
    extra, main = (toy.fit(toy.condkd(alignment=FeatureAlignment(augment=a))) for a in (augment, None))
    assert not torch.equal(extra.bank.images, main.bank.images)
    assert all(torch.isfinite(value).all() for value in extra.model.state_dict().values())


def test_an_extra_view_leaves_the_view_of_the_inversion_alone() -> None:
    """The first step's own terms are those of the run without it."""
    first_step: dict[str, float] = {"max_steps": 1}
    augment = DifferentiableAugment(("cutout",))
    runs = [
        toy.condkd(toy.fast(cadence=Cadence(4, 0, warmup_rounds=1)), a)
        for a in (FeatureAlignment(augment=augment), None)
    ]
    for model in runs:
        toy.fit(model, **first_step)
    terms = [{n: float(v) for n, v in model.meters.pop().items()} for model in runs]
    assert {n: terms[0][n] for n in terms[1]} == terms[1]
    assert {"synthesis/class", "synthesis/bn"} == set(terms[1])


class Counted(DigitsNet):
    """Counts the hooks that are on its layers when it runs."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.hooks: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.hooks.append(sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in self.modules()))
        return super().forward(images)


class EmbeddingDistance(DistillationLoss):
    """A loss that asks for features."""

    needs_embedding = True

    def forward(self, student: NetworkOutput, teacher: NetworkOutput, labels: Tensor | None = None) -> Tensor:
        assert student.embedding is not None
        assert teacher.embedding is not None
        return (student.embedding - teacher.embedding).square().mean()


class HooksByPhase(L.Callback):
    """Collects what the counting networks saw, by phase."""

    def __init__(self, *networks: Counted) -> None:
        self.networks = networks
        self.seen: dict[str, list[set[int]]] = {phase: [set() for _ in networks] for phase in ("synthesize", "distill")}

    def on_train_batch_start(self, *_: Any) -> None:
        for network in self.networks:
            network.hooks.clear()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        phase = _phase(pl_module)
        if phase in self.seen:
            for seen, network in zip(self.seen[phase], self.networks, strict=True):
                seen.update(network.hooks)


def _count_hooks(distillation: DistillationLoss) -> dict[str, list[set[int]]]:
    networks: list[Counted] = []
    for name in ("teacher", "student 1"):
        networks.append(Counted(num_classes=toy.CLASSES, width=4))
        networks[-1].load_state_dict(toy.network(name).state_dict())
    teacher, student = networks
    hooks = HooksByPhase(*networks)
    model = toy.condkd(
        alignment=FeatureAlignment(), teacher=toy.observed(teacher), student=student, distillation=distillation
    )
    toy.fit(model, callbacks=[hooks])
    return hooks.seen


def test_a_distillation_step_runs_no_hooks() -> None:
    seen = _count_hooks(KLDistillation())
    assert seen["distill"] == [{0}, {0}]
    layers = sum(isinstance(m, nn.BatchNorm2d) for m in toy.network("teacher").modules())
    assert seen["synthesize"][0] == {layers + 1, 1}  # BatchNorm and embedding; the condensed batch: the embedding
    assert seen["synthesize"][1] == {0}


def test_a_distillation_step_whose_loss_asks_for_features_does() -> None:
    assert _count_hooks(EmbeddingDistance())["distill"] == [{1}, {1}]
