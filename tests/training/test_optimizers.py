"""Optimizers and schedules that do not train what they should are refused or named, before training."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.cli import ReduceLROnPlateau
from torch import nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import StepLR

from lightning_condkd.cli import main
from lightning_condkd.data.image_datamodules import DigitsDataModule
from lightning_condkd.modules.classification import Classification
from lightning_condkd.rounds import Cadence
from tests.conftest import ROOT
from tests.helpers import toy
from tests.modules.test_classification import classifier, trainer


def _optimizer() -> Optimizer:
    return SGD([torch.zeros(1, requires_grad=True)], lr=0.1)


@pytest.mark.parametrize(
    "given", [_optimizer(), "torch.optim.SGD", {"lr": 0.1}], ids=lambda given: type(given).__name__
)
def test_what_is_no_maker_is_refused_at_once(given: Any) -> None:
    kind = type(given).__name__
    with pytest.raises(
        TypeError, match=f"student_optimizer: expected a function that makes the optimizer.*instance of {kind}"
    ):
        toy.condkd(student_optimizer=given)
    with pytest.raises(
        TypeError, match=f"^optimizer: expected a function that makes the optimizer.*instance of {kind}"
    ):
        classifier(optimizer=given)


def test_a_schedule_made_already_is_refused_at_once() -> None:
    made = StepLR(_optimizer(), 1)
    with pytest.raises(TypeError, match=r"student_scheduler: .*from the optimizer when Trainer.fit begins.*StepLR"):
        toy.condkd(student_scheduler=made)
    with pytest.raises(TypeError, match=r"^scheduler: .*lambda optimizer: Kind"):
        classifier(scheduler=made)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"student_optimizer": lambda parameters: None}, "student_optimizer: .* return an optimizer.*NoneType"),
        ({"student_scheduler": lambda optimizer: optimizer}, "student_scheduler: .* return a scheduler.*SGD"),
    ],
)
def test_a_maker_makes_what_it_should(arguments: dict[str, Any], match: str) -> None:
    model = toy.condkd(**arguments)
    with pytest.raises(TypeError, match=match):
        toy.fit(model)
    assert model.unit is None


def _last_layer(parameters: Any) -> Optimizer:
    return SGD(list(parameters)[-2:], lr=0.1)


def _another(parameters: Any) -> Optimizer:
    return _optimizer()


def test_an_optimizer_of_another_network_is_refused(tmp_path: Path) -> None:
    model = toy.condkd(student_optimizer=_another)
    with pytest.raises(ValueError, match="student_optimizer: the optimizer holds none of the parameters to train"):
        toy.fit(model)
    assert model.unit is None
    with pytest.raises(ValueError, match=r"^optimizer: the optimizer holds none"):
        trainer(tmp_path).fit(classifier(optimizer=_another), DigitsDataModule(batch_size=400))


def test_parameters_that_an_optimizer_leaves_out_are_named_once(recwarn: pytest.WarningsRecorder) -> None:
    toy.fit(toy.condkd(student_optimizer=_last_layer))
    said = [str(warning.message) for warning in recwarn if "leaves out" in str(warning.message)]
    total = len(list(toy.network("student 1").parameters()))
    assert len(said) == 1
    assert (
        f"network.features.0.weight, network.features.1.weight, network.features.1.bias and {total - 5} more" in said[0]
    )


def test_frozen_parameters_may_be_left_out(recwarn: pytest.WarningsRecorder) -> None:
    student = toy.network("student 1")
    student.features.requires_grad_(False)
    frozen = student.features[0].weight.clone()
    toy.fit(toy.condkd(student=student, student_optimizer=_last_layer))
    assert torch.equal(frozen, student.features[0].weight)
    assert not [warning for warning in recwarn if "leaves out" in str(warning.message)]


def test_an_optimizer_may_hold_more_than_the_student() -> None:
    extra = nn.Parameter(torch.zeros(1))
    toy.fit(toy.condkd(student_optimizer=lambda parameters: SGD([*parameters, extra], lr=0.1)))


def test_a_frozen_student_is_refused() -> None:
    model = toy.condkd(student=toy.network("student 1").requires_grad_(False))
    with pytest.raises(
        ValueError, match=r"the student has no parameter that requires a gradient.*requires_grad_\(True"
    ):
        toy.fit(model)
    assert model.unit is None


def test_a_frozen_student_may_watch_a_synthesis() -> None:
    run = toy.fit(toy.condkd(toy.fast(cadence=Cadence(2, 0)), student=toy.network("student 1").requires_grad_(False)))
    assert len(run.bank) == 36


def test_a_frozen_classifier_is_measured_and_not_trained(tmp_path: Path) -> None:
    module = classifier()
    module.network.requires_grad_(False)
    trainer(tmp_path).validate(module, DigitsDataModule(), verbose=False)
    with pytest.raises(ValueError, match="the network has no parameter that requires a gradient"):
        trainer(tmp_path).fit(module, DigitsDataModule())


@pytest.mark.parametrize("kind", [torch.optim.lr_scheduler.ReduceLROnPlateau, partial(ReduceLROnPlateau, monitor="x")])
def test_condkd_refuses_a_schedule_that_waits_for_a_metric(kind: Any) -> None:
    model = toy.condkd(student_scheduler=kind)
    with pytest.raises(ValueError, match=r"student_scheduler: ReduceLROnPlateau waits for a metric.*MultiStepLR"):
        toy.fit(model)
    assert model.unit is None


def test_the_command_line_refuses_it_too(tmp_path: Path) -> None:
    quick = ["fit", "--config", str(ROOT / "configs" / "quickstart.yaml"), f"--trainer.default_root_dir={tmp_path}"]
    plateau = "--model.init_args.student_scheduler"
    with pytest.raises(ValueError, match="ReduceLROnPlateau waits for a metric"):
        main(
            [
                *quick,
                f"{plateau}=lightning.pytorch.cli.ReduceLROnPlateau",
                f"{plateau}.init_args.monitor=val/student_accuracy",
            ]
        )


def test_a_classifier_follows_a_metric(tmp_path: Path) -> None:
    plateau = partial(ReduceLROnPlateau, monitor="val/accuracy", mode="min", patience=0, threshold=1.0)
    run, module = trainer(tmp_path, max_epochs=4), classifier(scheduler=plateau)
    assert isinstance(module, Classification)
    run.fit(module, DigitsDataModule(batch_size=400))
    assert run.optimizers[0].param_groups[0]["lr"] < 0.1
