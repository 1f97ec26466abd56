"""The t-SNE of a run, through the command line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_condkd import __main__ as entry
from lightning_condkd.callbacks import FeatureTSNE
from lightning_condkd.cli import main
from lightning_condkd.data import CondensedDataModule
from lightning_condkd.inversion import NoInversion
from lightning_condkd.rounds import Cadence
from tests.conftest import ROOT
from tests.helpers import toy

pytest.importorskip("matplotlib")

METHOD = "--model.init_args.inversion.init_args"
QUICK = [
    f"--config={ROOT / 'configs' / 'quickstart.yaml'}",
    "--trainer.callbacks=[]",
    "--trainer.enable_progress_bar=false",
    f"{METHOD}.cadence.synthesis_steps=2",
    f"{METHOD}.cadence.distill_steps=2",
    f"{METHOD}.batch_size=16",
]
CALLBACK = ["--trainer.callbacks+=FeatureTSNE", "--trainer.callbacks.max_images=20"]
LIVE = ["--model.init_args.inversion=DAFL", f"{METHOD}.cadence.repeats=2", f"{METHOD}.generator.width=8"]


def fit(folder: Path, *more: str) -> Path:
    main(["fit", *QUICK, f"--trainer.default_root_dir={folder}", *more])
    return folder / "lightning_logs" / "version_0"


def steps_of(run: Path) -> list[int]:
    """Return the steps at which TensorBoard has a figure."""
    events = EventAccumulator(str(run), {"images": 0}).Reload()
    return [one.step for one in events.Images("teacher features, t-SNE")]


def test_a_run_is_drawn_every_few_rounds_and_at_the_end(tmp_path: Path) -> None:
    run = fit(tmp_path, *CALLBACK, "--trainer.callbacks.every_n_rounds=2", "--trainer.max_epochs=4")
    assert steps_of(run) == [4, 12, 16]  # after rounds 0 and 2, and at the end
    with Image.open(run / "features.png") as picture:
        assert picture.size == (630, 530)
        assert len(set(picture.convert("L").tobytes())) > 20


def test_the_last_round_is_drawn_once_and_the_run_is_the_same_as_without(tmp_path: Path) -> None:
    drawn = fit(tmp_path / "drawn", *CALLBACK, "--trainer.max_epochs=3", "--trainer.callbacks.every_n_rounds=2")
    plain = fit(tmp_path / "plain", "--trainer.max_epochs=3")
    assert steps_of(drawn) == [4, 12]
    states = [torch.load(next(run.glob("checkpoints/epoch*.ckpt")))["state_dict"] for run in (drawn, plain)]
    assert toy.same(*states)


def test_a_method_that_stores_nothing_shows_its_latest_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []
    from lightning_condkd.callbacks import feature_tsne

    original = feature_tsne.feature_points
    monkeypatch.setattr(feature_tsne, "feature_points", lambda *a, **k: seen.append(a[1]) or original(*a, **k))
    fit(tmp_path, *LIVE, *CALLBACK, "--data.init_args.mix=0.25", "--trainer.max_epochs=2")
    assert {name: len(images.labels) for name, images in seen[0].items()} == {
        "condensed": 10,
        "real": 500,
        "synthetic": 16,
    }


def test_a_dev_run_writes_nothing(tmp_path: Path) -> None:
    main(["fit", *QUICK, *CALLBACK, f"--trainer.default_root_dir={tmp_path}", "--trainer.fast_dev_run=1"])
    assert list(tmp_path.rglob("*.png")) == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--config", str(ROOT / "configs" / "digits" / "teacher.yaml"), *CALLBACK], "expected CondKD, got Classif"),
        ([*QUICK, *CALLBACK, "--trainer.callbacks.every_n_rounds=0"], "every_n_rounds: expected a positive number"),
    ],
)
def test_what_cannot_be_drawn_is_refused_before_the_run(given: list[str], said: str, tmp_path: Path) -> None:
    with pytest.raises((ValueError, SystemExit)) as refused:
        main(["fit", *given, f"--trainer.default_root_dir={tmp_path}"])
    causes = [str(one) for one in (refused.value, refused.value.__context__, refused.value.__cause__)]
    assert any(said in cause for cause in causes), causes
    assert list(tmp_path.rglob("*.ckpt")) == []


def test_a_missing_matplotlib_is_one_line_before_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["lightning-condkd", "fit", *QUICK, *CALLBACK, f"--trainer.default_root_dir={tmp_path}"]
    monkeypatch.setattr(sys, "argv", line)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SystemExit):
        entry.run()
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    said = "error: FeatureTSNE draws with the package matplotlib: pip install 'lightning-condkd[plots]'"
    assert lines == [said]
    assert list(tmp_path.rglob("*.ckpt")) == []


def test_too_few_images_are_said_and_do_not_end_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    callback = FeatureTSNE()
    trainer = toy.silent_trainer(max_epochs=1, callbacks=[callback], default_root_dir=tmp_path)
    model = toy.condkd(NoInversion(cadence=Cadence(synthesis_steps=0, distill_steps=4)))
    data = CondensedDataModule(toy.condensed_set(per_class=1), batch_size=8)
    with (
        caplog.at_level("INFO", logger="lightning.pytorch"),
        pytest.warns(UserWarning, match="has drawn no figure: t-SNE"),
    ):
        trainer.fit(model, data)
    assert "FeatureTSNE draws no real images" in caplog.text
    assert not (tmp_path / "features.png").exists()
    assert trainer.current_epoch == 1
