"""The baseline takes the run's own steps on the condensed images alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_condkd.augment import Mixing, Mixup
from lightning_condkd.callbacks import CondensedOnlyBaseline
from lightning_condkd.callbacks import condensed_only as baseline_module
from tests.helpers import losses, toy
from tests.helpers.callbacks import SaveAt
from tests.training.test_trainer_options import make


def run(
    folder: Path,
    clip: float | None = None,
    ckpt_path: Path | None = None,
    mixing: tuple[Mixing | None, Mixing | None] = (None, None),
    **options: Any,
) -> CondensedOnlyBaseline:
    module, data = make("condkd", folder)
    module.student_gradient_clip, module.mixing = clip, mixing[0]
    baseline = CondensedOnlyBaseline(mixing[1])
    callbacks = [baseline, SaveAt(8, folder / "8.ckpt"), *options.pop("callbacks", [])]
    trainer = toy.silent_trainer(**{"max_epochs": 3, "default_root_dir": folder, "callbacks": callbacks, **options})
    trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
    return baseline


def trained(folder: Path, monkeypatch: pytest.MonkeyPatch, clip: float | None = None) -> dict[str, torch.Tensor]:
    """The baseline's student."""
    students: list[Any] = []
    original = baseline_module._train_on_condensed

    def kept(*given: Any) -> Any:
        students.append(original(*given))
        return students[-1]

    with monkeypatch.context() as patch:
        patch.setattr(baseline_module, "_train_on_condensed", kept)
        run(folder, clip, max_epochs=2)
    return {name: value.clone() for name, value in students[0].state_dict().items()}


def test_its_gradient_is_clipped_as_the_run_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free, loose, tight = (trained(tmp_path, monkeypatch, clip) for clip in (None, 1e6, 1e-3))
    assert toy.same(free, loose)
    assert not toy.same(free, tight)


def test_its_loss_is_scaled_as_the_run_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, scales = trained(tmp_path, monkeypatch), []

    class Scaler(torch.amp.GradScaler):
        def __init__(self, device: str, enabled: bool) -> None:
            super().__init__(device, init_scale=2.0**10, enabled=enabled)
            scales.append(enabled)

    monkeypatch.setattr(torch.amp, "GradScaler", Scaler)
    assert toy.same(trained(tmp_path, monkeypatch), plain)  # a power of two changes no digit
    monkeypatch.setattr(
        "lightning.pytorch.plugins.precision.Precision.scaler", torch.amp.GradScaler("cpu", True), raising=False
    )
    assert toy.same(trained(tmp_path, monkeypatch), plain)
    assert scales == [False, True, True]


def test_another_length_after_a_resume_is_said(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    first = run(tmp_path)
    again = run(tmp_path, ckpt_path=tmp_path / "8.ckpt")
    assert (again.accuracy, again.steps) == (first.accuracy, 24)
    assert not [one for one in recwarn if "was measured after" in str(one.message)]
    with pytest.warns(UserWarning, match="measured after 24 steps, but this run has 40"):
        assert run(tmp_path, ckpt_path=tmp_path / "8.ckpt", max_epochs=5).accuracy == first.accuracy


def test_it_is_said_that_its_steps_count_for_max_time(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="takes the run's 24 steps first, and they count for max_time"):
        run(tmp_path, max_time="00:01:00:00")


def test_a_second_baseline_mixes_its_views_as_a_run_does_that_mixes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    students: list[dict[str, torch.Tensor]] = []
    original = baseline_module._train_on_condensed

    def kept(*given: Any) -> Any:
        student = original(*given)
        students.append({name: value.clone() for name, value in student.state_dict().items()})
        return student

    monkeypatch.setattr(baseline_module, "_train_on_condensed", kept)
    both = run(tmp_path, mixing=(None, Mixup()))
    plain, mixed = students
    assert not toy.same(plain, mixed)
    run(tmp_path, mixing=(Mixup(), None))
    assert toy.same(students[2], mixed)
    with pytest.warns(UserWarning, match="resumed had no condensed-only baseline with mixed views"):
        again = run(tmp_path, ckpt_path=tmp_path / "8.ckpt", mixing=(Mixup(), Mixup()))
    assert len(students) == 3
    assert again.mixed_accuracy is None
    assert both.mixed_accuracy is not None


def test_views_are_not_mixed_for_a_loss_that_remembers_images(tmp_path: Path) -> None:
    module, data = make("condkd", tmp_path)
    module.distillation = losses.make("CRD")
    trainer = toy.silent_trainer(max_epochs=3, callbacks=[CondensedOnlyBaseline(Mixup())])
    with pytest.raises(ValueError, match="CRD remembers each image, and Mixup makes new ones of two"):
        trainer.fit(module, datamodule=data)
