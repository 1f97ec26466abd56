"""The bare loop is CondKD without Lightning: the same images, discriminator and student to the bit."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR

from lightning_condkd.alignment import FeatureAlignment, ProjectionDiscriminator
from lightning_condkd.augment import DifferentiableAugment
from lightning_condkd.data import TransferSet
from lightning_condkd.distillation import VID, KLDistillation
from lightning_condkd.inversion import Inversion
from lightning_condkd.models import Observer
from lightning_condkd.randomness import seeded_generator
from lightning_condkd.steps import DistillationStep, distill, give_class_rows, synthesize
from tests.conftest import ROOT
from tests.helpers import contract, toy

CLIP = 0.5
BATCH = 8


class Parts(NamedTuple):
    inversion: Inversion
    alignment: FeatureAlignment | None
    transfer: TransferSet
    teacher: Observer
    student: Observer
    optimizers: dict[str, torch.optim.Optimizer]

    @property
    def guided(self) -> dict[str, Any]:
        return {} if self.alignment is None else {"alignment": self.alignment, "transfer_set": self.transfer}

    def state(self) -> dict[str, Tensor]:
        named = {"inversion": self.inversion, "alignment": self.alignment, "student": self.student}
        states = {f"{part}.{n}": v for part, m in named.items() if m is not None for n, v in m.state_dict().items()}
        return {**states, "bank": self.transfer.bank.images, "bank labels": self.transfer.bank.labels}


def _alignment(weight: float | None, **arguments: Any) -> FeatureAlignment | None:
    return None if weight is None else FeatureAlignment(ProjectionDiscriminator((16,)), weight=weight, **arguments)


def _parts(name: str, weight: float | None, **arguments: Any) -> Parts:
    inversion, alignment = contract.built(name), _alignment(weight, **arguments)
    inversion.build(task := toy.spec(mean=(0.25,), std=(0.5,)), seeded_generator(toy.SEED, "inversion"))
    teacher = toy.observed(toy.network("teacher")).freeze()
    give_class_rows(inversion, teacher, toy.condensed_set())
    student = toy.observed(toy.network("student 1"))
    optimizers = {"student": SGD(student.parameters(), lr=0.2), **inversion.optimizers()}
    if alignment is not None and weight:
        alignment.build(task, seeded_generator(toy.SEED, "alignment"))
        optimizers["discriminator"] = alignment.optimizer()
    transfer = TransferSet(toy.condensed_set(), mix=contract.mix(inversion), batch_size=BATCH)  # type: ignore[arg-type]
    return Parts(inversion, alignment, transfer, teacher, student, optimizers)


def _bare(name: str, weight: float | None, mixed: bool = False, **arguments: Any) -> dict[str, Tensor]:
    parts = _parts(name, weight, **arguments)
    step = DistillationStep(parts.teacher, parts.student, KLDistillation(), toy.CROP, parts.inversion, parts.transfer)
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        for round_ in range(contract.ROUNDS):
            for block in range(parts.inversion.cadence.repeats):
                _take_block(parts, step, round_, block)
    return parts.state()


def _take_block(parts: Parts, step: DistillationStep, round_: int, block: int) -> None:
    networks = parts.teacher, parts.student.eval()
    made = synthesize(parts.inversion, parts.optimizers, *networks, round_, toy.SEED, block=block, **parts.guided)
    if parts.inversion.source == "bank":
        parts.transfer.append(*made, round_)  # type: ignore[arg-type]
    parts.student.train()
    distill(step, parts.optimizers, round_, toy.SEED, gradient_clip=CLIP, block=block)


def _trained(name: str, weight: float | None, precision: str = "32-true", **arguments: Any) -> dict[str, Tensor]:
    model = toy.condkd(
        contract.make(name),
        _alignment(weight, **arguments),
        distillation=KLDistillation(),
        student_optimizer=partial(SGD, lr=0.2),
        student_scheduler=partial(LambdaLR, lr_lambda=lambda epoch: 1.0),
        student_gradient_clip=CLIP,
    )
    mix = contract.mix(model.inversion)
    return toy.fit(model, mix=mix, batch_size=BATCH, max_epochs=contract.ROUNDS, precision=precision).state()


@pytest.mark.parametrize("name", contract.methods())
def test_a_guided_run_equals_condkd(name: str) -> None:
    bare, trained = _bare(name, 5.0), _trained(name, 5.0)
    assert {"alignment", "bank", "student"} <= {key.split(".")[0] for key in bare}
    assert toy.same(bare, trained)


@pytest.mark.parametrize("arguments", [{"ramp_rounds": 2}, {"augment": DifferentiableAugment()}], ids=lambda a: min(a))
def test_other_ways_to_guide_equal_condkd(arguments: dict[str, Any]) -> None:
    guided = _bare("Fast", 5.0, **arguments)
    assert toy.same(guided, _trained("Fast", 5.0, **arguments))
    assert not torch.equal(guided["bank"], _bare("Fast", 5.0)["bank"])


@pytest.mark.parametrize("name", ["Fast", "PREDFKD"])
def test_a_run_under_autocast_equals_condkd_in_mixed_precision(name: str) -> None:
    mixed = _bare(name, 5.0, mixed=True)
    assert toy.same(mixed, _trained(name, 5.0, "bf16-mixed"))
    assert not toy.same(mixed, _bare(name, 5.0))


@pytest.mark.parametrize("name", ["Fast", "PREDFKD"])
def test_a_plain_run_equals_condkd_and_a_guided_one_does_not(name: str) -> None:
    plain, guided = _bare(name, None), _bare(name, 5.0)
    assert toy.same(plain, _trained(name, None))
    assert not torch.equal(plain["inversion.kept_images"], guided["inversion.kept_images"])


def test_an_alignment_of_weight_0_changes_nothing() -> None:
    assert toy.same(_bare("Fast", 0.0), _bare("Fast", None))


def test_networks_of_others_get_no_gradient() -> None:
    parts = _parts("Fast", 5.0)
    synthesize(parts.inversion, parts.optimizers, parts.teacher, parts.student.eval(), 0, **parts.guided)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in parts.student.parameters())
    assert parts.alignment is not None
    assert any(parameter.grad is not None for parameter in parts.alignment.parameters())


@pytest.mark.parametrize("name", ["synthesis", "meta", "discriminator"])
def test_synthesis_without_one_of_its_optimizers_is_refused(name: str) -> None:
    parts = _parts("Fast", 5.0)
    del parts.optimizers[name]
    with pytest.raises(ValueError, match=f"expected optimizers synthesis, meta, discriminator, got .*: add {name}"):
        synthesize(parts.inversion, parts.optimizers, parts.teacher, parts.student.eval(), 0, **parts.guided)


@pytest.mark.parametrize("name", ["student", "replay"])
def test_distillation_without_one_of_its_optimizers_is_refused(name: str) -> None:
    parts = _parts("PREDFKD", None)
    del parts.optimizers[name]
    step = DistillationStep(parts.teacher, parts.student, KLDistillation(), toy.CROP, parts.inversion, parts.transfer)
    with pytest.raises(ValueError, match=f"expected optimizers student, replay, got .*: add {name}"):
        distill(step, parts.optimizers, 1)


def test_the_students_optimizer_is_enough_for_stored_images() -> None:
    parts = _parts("Fast", None)
    before = parts.student.network.linear.weight.clone()
    step = DistillationStep(parts.teacher, parts.student, KLDistillation(), toy.CROP, parts.inversion, parts.transfer)
    for round_, moves in ((0, False), (1, True)):  # the first round is one of warm-up
        distill(step, {"student": parts.optimizers["student"]}, round_)
        assert torch.equal(parts.student.network.linear.weight, before) is not moves


@pytest.mark.parametrize("given", ["alignment", "transfer_set"])
def test_an_alignment_comes_with_a_transfer_set(given: str) -> None:
    parts = _parts("Fast", 5.0)
    with pytest.raises(ValueError, match=f"got {given} and no"):
        synthesize(parts.inversion, parts.optimizers, parts.teacher, parts.student, 0, **{given: parts.guided[given]})


@pytest.mark.parametrize("block", [-1, 2])
def test_a_block_that_the_round_does_not_have_is_refused(block: int) -> None:
    parts = _parts("Fast", None)
    with pytest.raises(ValueError, match=f"expected a block from 0 to 1, got {block}"):
        synthesize(parts.inversion, parts.optimizers, parts.teacher, parts.student, 0, block=block)


WITHOUT_LIGHTNING = """
import sys
sys.modules["lightning"] = sys.modules["pytorch_lightning"] = None
import torch
from lightning_condkd import Cadence, CondensedSet, CropFlip, DigitsNet, Fast, FeatureAlignment, KLDistillation
from lightning_condkd import Observer, TaskSpec, TransferSet
from lightning_condkd.inversion import GeneratorSettings
from lightning_condkd.steps import DistillationStep, distill, synthesize
teacher, student = (Observer(DigitsNet(width=2), [0.3], [0.4]) for _ in range(2))
transfer = TransferSet(CondensedSet(torch.rand(10, 1, 8, 8), torch.arange(10)), batch_size=4)
fast, alignment = Fast(cadence=Cadence(1, 1), batch_size=4, generator=GeneratorSettings(width=2)), FeatureAlignment()
task = TaskSpec((1, 8, 8), 10, teacher.embedding_size, teacher.bn_channels)
for part in (fast, alignment):
    part.build(task, torch.Generator())
optimizers = {"student": torch.optim.SGD(student.parameters(), 0.1), **fast.optimizers()}
optimizers["discriminator"] = alignment.optimizer()
kept = synthesize(fast, optimizers, teacher.freeze(), student.eval(), 0, alignment=alignment, transfer_set=transfer)
transfer.append(*kept, 0)
distill(DistillationStep(teacher, student.train(), KLDistillation(), CropFlip(), fast, transfer), optimizers, 0)
print(len(transfer.bank))
"""


def test_a_guided_round_imports_no_lightning() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_LIGHTNING], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "4\n"), done.stderr


def test_a_loss_with_parameters_of_its_own_equals_condkd() -> None:
    parts, loss, rate = _parts("Fast", None), VID(["features"]), partial(SGD, lr=0.05)
    loss.build(parts.teacher, parts.student, toy.SHAPE, generator=seeded_generator(toy.SEED, "distillation"))
    step = DistillationStep(parts.teacher, parts.student, loss, toy.CROP, parts.inversion, parts.transfer)
    with pytest.raises(
        ValueError, match=r"optimizer lacks regressors.0.variance_logit.* of VID: make it from .*parameter_groups"
    ):
        distill(step, parts.optimizers, contract.ROUNDS - 1)
    parts.optimizers["student"] = rate([{"params": parts.student.parameters()}, *loss.parameter_groups()])
    for round_ in range(contract.ROUNDS):
        for block in range(parts.inversion.cadence.repeats):
            _take_block(parts, step, round_, block)
    model = toy.condkd(
        contract.make("Fast"),
        distillation=VID(["features"]),
        student_optimizer=rate,
        student_scheduler=partial(LambdaLR, lr_lambda=lambda epoch: 1.0),
        student_gradient_clip=CLIP,
    )
    toy.fit(model, mix=contract.mix(model.inversion), batch_size=BATCH, max_epochs=contract.ROUNDS)
    assert toy.same(loss.state_dict(), model.distillation.state_dict())
    assert toy.same(parts.student.state_dict(), model.student.state_dict())
