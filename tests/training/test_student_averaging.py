"""The average of a student's weights: it alone is averaged, measured, saved and left at the end."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, LambdaCallback
from torch import Tensor

from lightning_condkd import entry
from lightning_condkd.alignment import FeatureAlignment
from lightning_condkd.callbacks import BestCheckpoint, StudentAveraging
from lightning_condkd.distillation import KLDistillation, SimKD, WeightedLosses
from lightning_condkd.modules import CondKD
from tests.conftest import ROOT
from tests.helpers import toy
from tests.helpers.callbacks import SaveAt
from tests.helpers.small_runs import MODULES, classification
from tests.training.test_trainer_options import make, trained

DECAY, MIDDLE = 0.5, 11  # a step within the second round's synthesis, which counts 8 steps


class Recorded(L.Callback):
    """The student after each of its steps, and as a validation measures it."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Tensor]] = []
        self.measured: list[dict[str, Tensor]] = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: object) -> None:
        if pl_module.unit.phase == "distill":
            self.steps.append(trained(pl_module))

    def on_validation_batch_start(self, trainer: L.Trainer, pl_module: Any, *_: object) -> None:
        self.measured.append(trained(pl_module))


def run(folder: Path, *callbacks: L.Callback, ckpt_path: Path | None = None, **options: Any) -> tuple[Any, L.Trainer]:
    module, data = make("condkd", folder)
    given = {"max_epochs": 3, "default_root_dir": folder, "num_sanity_val_steps": 0, **options}
    trainer = toy.silent_trainer(callbacks=[StudentAveraging(DECAY), *callbacks], **given)
    trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
    return module, trainer


def averaged(steps: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    average = {name: value.double() for name, value in steps[0].items() if value.is_floating_point()}
    for step in steps[1:]:
        average = {name: DECAY * value + (1 - DECAY) * step[name].double() for name, value in average.items()}
    return average


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, value in expected.items():
        torch.testing.assert_close(found[name].double(), value, rtol=1e-5, atol=1e-6)


def test_the_student_s_own_steps_are_averaged_and_nothing_else(tmp_path: Path) -> None:
    recorded, plain = Recorded(), Recorded()
    module, _ = run(tmp_path, recorded, SaveAt(24, tmp_path / "end.ckpt"))
    alone, data = make("condkd", tmp_path)
    toy.silent_trainer(max_epochs=3, callbacks=[plain], default_root_dir=tmp_path).fit(alone, datamodule=data)
    assert len(plain.steps) == len(recorded.steps) == 8
    assert all(toy.same(a, b) for a, b in zip(plain.steps, recorded.steps, strict=True))  # training is left alone
    expected = averaged(recorded.steps)
    for found in (trained(module), recorded.measured[-1]):
        assert_close(found, expected)
    assert not toy.same(trained(module), recorded.steps[-1])
    assert torch.equal(module.student.mean, module.teacher.mean)  # a constant is not rounded by its average
    others = {n: v for n, v in module.state_dict().items() if not n.startswith("student.")}
    assert toy.same(others, {n: v for n, v in alone.state_dict().items() if not n.startswith("student.")})
    loaded = CondKD.load_from_checkpoint(
        tmp_path / "end.ckpt",
        teacher=alone.teacher,
        student=toy.network("other"),
        inversion=toy.fast(),
        alignment=FeatureAlignment(),
    )
    assert toy.same(trained(loaded), trained(module))


@pytest.mark.parametrize("precision", ["32-true", "bf16-true", "64-true"])
def test_a_resumed_run_has_the_same_average_to_the_bit(precision: str, tmp_path: Path) -> None:
    module, _ = run(tmp_path, SaveAt(MIDDLE, tmp_path / "a.ckpt"), SaveAt(15, tmp_path / "b.ckpt"), precision=precision)
    for name in ("a", "b"):
        again, _ = run(tmp_path, ckpt_path=tmp_path / f"{name}.ckpt", precision=precision)
        assert toy.same(again.state_dict(), module.state_dict())


def test_the_best_file_holds_what_was_measured(tmp_path: Path) -> None:
    recorded, best = Recorded(), BestCheckpoint()
    run(tmp_path, recorded, best, enable_checkpointing=True, max_epochs=2)
    assert best.path is not None
    state = torch.load(best.path, weights_only=True)
    student = {n.removeprefix("student."): v for n, v in state["state_dict"].items() if n.startswith("student.")}
    assert any(toy.same(student, measured) for measured in recorded.measured)
    assert not any(toy.same(student, step) for step in recorded.steps[1:])
    assert "current_model_state" not in state


def test_the_best_file_of_an_averaged_classifier_holds_what_was_measured(tmp_path: Path) -> None:
    module, data, _ = classification(tmp_path)
    best, averaging = BestCheckpoint(), EMAWeightAveraging(decay=0.5)
    options = {"max_epochs": 1, "default_root_dir": tmp_path, "enable_checkpointing": True}
    toy.silent_trainer(callbacks=[averaging, best], **options).fit(module, datamodule=data)
    assert best.path is not None
    assert toy.same(torch.load(best.path, weights_only=True)["state_dict"], module.state_dict())  # the fit ends with it


def test_an_average_begins_with_its_first_round(tmp_path: Path) -> None:
    module, data = make("condkd", tmp_path)
    recorded = Recorded()
    callbacks = [StudentAveraging(DECAY, first_round=2), recorded]
    toy.silent_trainer(max_epochs=3, callbacks=callbacks, default_root_dir=tmp_path).fit(module, datamodule=data)
    assert toy.same(recorded.measured[-4], recorded.steps[3])  # the second round's student as it is
    assert_close(trained(module), averaged(recorded.steps[4:]))


def test_what_it_cannot_average_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"decay: expected a number in \[0, 1\), got 1.0"):
        StudentAveraging(1.0)
    module, data, _ = classification(tmp_path)
    trainer = toy.silent_trainer(max_epochs=1, callbacks=[StudentAveraging()])
    with pytest.raises(ValueError, match="expected a module that trains a student, got Classification"):
        trainer.fit(module, datamodule=data)


@pytest.mark.parametrize("kind", ["condkd", "distillation"])
@pytest.mark.parametrize("loss", [SimKD, lambda: WeightedLosses({"kd": KLDistillation(), "sim": SimKD()})])
def test_a_loss_that_changes_how_the_student_predicts_is_refused(kind: str, loss: Any, tmp_path: Path) -> None:
    module, data, _ = MODULES[kind](tmp_path, distillation=loss())
    trainer = toy.silent_trainer(max_epochs=2, callbacks=[StudentAveraging()])
    with pytest.raises(
        ValueError, match=r"averages the student alone, but with \w+ it predicts through other layers too"
    ):
        trainer.fit(module, datamodule=data)
    assert trainer.global_step == 0


def test_the_student_of_a_distillation_on_real_images_is_averaged(tmp_path: Path) -> None:
    """After every step; the layers of the loss are not."""
    module, data, length = MODULES["distillation"](tmp_path)
    steps: list[dict[str, Tensor]] = []
    after = LambdaCallback(on_train_batch_end=lambda *_: steps.append(trained(module)))
    options = {"max_epochs": 2, "limit_val_batches": 0, "default_root_dir": tmp_path}
    toy.silent_trainer(callbacks=[StudentAveraging(DECAY), after], **options).fit(module, datamodule=data)
    assert len(steps) == 2 * length
    assert_close(trained(module), averaged(steps))


def test_a_checkpoint_without_an_average_is_said(tmp_path: Path) -> None:
    module, data = make("condkd", tmp_path)
    saving = SaveAt(MIDDLE, tmp_path / "a.ckpt")
    toy.silent_trainer(max_epochs=3, callbacks=[saving], default_root_dir=tmp_path).fit(module, datamodule=data)
    with pytest.warns(UserWarning, match="holds no average of the student"):
        run(tmp_path, ckpt_path=tmp_path / "a.ckpt")


def test_another_decay_is_said(tmp_path: Path) -> None:
    run(tmp_path, SaveAt(15, tmp_path / "a.ckpt"))
    module, data = make("condkd", tmp_path)
    trainer = toy.silent_trainer(max_epochs=3, callbacks=[StudentAveraging(0.9)], default_root_dir=tmp_path)
    with pytest.warns(UserWarning, match=r"decay .*0\.5.*0\.9|decay .*0\.9.*0\.5"):
        trainer.fit(module, datamodule=data, ckpt_path=tmp_path / "a.ckpt")


def test_the_command_line_takes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = ["--config", str(ROOT / "configs" / "quickstart.yaml"), f"--trainer.default_root_dir={tmp_path}"]
    length = ["--trainer.max_epochs=2", "--trainer.callbacks+=StudentAveraging", "--trainer.callbacks.decay=0.9"]
    monkeypatch.setattr("sys.argv", ["lightning-condkd", "fit", *line, *length])
    monkeypatch.setattr(entry, "bound_termination", lambda: None)
    entry.run_command(sys.argv[1:])
    found = {path.name: torch.load(path, weights_only=True) for path in tmp_path.rglob("*.ckpt")}
    (best,) = [state for name, state in found.items() if name.startswith("best")]
    (last,) = [state for name, state in found.items() if not name.startswith("best")]
    assert "averaging_state" in last
    assert toy.same(best["state_dict"], last["state_dict"])  # one validation, after the second round
