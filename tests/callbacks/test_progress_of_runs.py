"""A run says which round of how many it is in and how long it will take, in a bar or in plain lines."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import lightning as L
import pytest
from lightning.pytorch.callbacks import Timer

from lightning_condkd import messages, progress
from lightning_condkd.callbacks import EpochLines, PhaseProgressBar, epoch_lines
from lightning_condkd.callbacks.parts import epochs
from lightning_condkd.cli import main
from tests.conftest import ROOT
from tests.helpers.small_runs import EPOCHS, MODULES, fit

TITLES = {
    "condkd": ["round 1 of 4", "round 2 of 4", "round 3 of 4", "round 4 of 4"],
    "experts": [f"expert {n} of 2, epoch {m} of 2" for n in (1, 2) for m in (1, 2)],
}
EPOCH_TITLES = [f"epoch {n} of 4" for n in range(1, 5)]
QUICK = ["--config", str(ROOT / "configs" / "quickstart.yaml")]
SMALL = [
    "--trainer.max_epochs=3",
    "--model.init_args.inversion.init_args.cadence.distill_steps=4",
    "--model.init_args.inversion.init_args.batch_size=32",
    "--trainer.enable_model_summary=false",
]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Hours:
    """A clock on which every look takes an hour."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 3600
        return self.now

    perf_counter = monotonic


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [line for line in caplog.messages if re.match("(round|epoch|expert) [0-9]", line)]


def titles(said: list[str]) -> list[str]:
    return [line.split(": ")[0] for line in said]


@pytest.mark.parametrize("name", MODULES)
def test_lines_count_the_epochs_of_each_module_and_of_its_resumed_run(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(epochs, "time", Hours())
    monkeypatch.setattr(epoch_lines, "time", Hours())
    caplog.set_level("INFO")
    _, _, length = MODULES[name](tmp_path / "whole")
    fit(MODULES[name](tmp_path / "whole"), tmp_path, length + 1, callbacks=[EpochLines()])
    expected = TITLES.get(name, EPOCH_TITLES)
    assert titles(lines(caplog)) == expected
    assert [line.split(", ")[-1] for line in lines(caplog)[:2]] == ["about 3 h 0 min left", "about 2 h 0 min left"]
    assert " left" not in lines(caplog)[-1]
    caplog.clear()
    fit(MODULES[name](tmp_path / "rest"), tmp_path, 0, tmp_path / f"{length + 1}.ckpt", [EpochLines()])
    assert titles(lines(caplog)) == expected[1:]
    # Of the first epoch only length - 1 steps were left.
    seconds = 2 * 3600 / (1 - 1 / length)
    assert lines(caplog)[0].endswith(f", 3600.0 s, about {messages.duration(seconds)} left")


@pytest.mark.parametrize(
    ("arguments", "total"),
    [
        ({"max_epochs": -1, "max_steps": 7}, 3),
        ({"max_epochs": 2, "max_steps": 7}, 2),
        ({"max_epochs": 9, "max_steps": 8, "accumulate_grad_batches": 2}, 6),
        ({"max_epochs": -1}, None),
    ],
)
def test_the_number_of_epochs_follows_from_any_limit(arguments: dict[str, int], total: int | None) -> None:
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, **arguments)
    trainer.fit_loop.max_batches = 3
    assert epochs.run_epochs(trainer) == total


def test_the_time_left_is_at_most_that_of_the_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epochs, "time", Hours())
    timer = Timer("00:00:01:30")
    trainer = L.Trainer(accelerator="cpu", logger=False, max_epochs=4, callbacks=[timer], enable_checkpointing=False)
    trainer.fit_loop.max_batches = 3
    left = epochs.TimeLeft()
    left.begin(trainer)
    assert left.after(0, trainer) == ""
    assert left.after(1, trainer) == f", about {messages.duration(90)} left"


def test_a_terminal_gets_a_bar_on_stderr(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(epochs, "time", Hours())
    main(["fit", *QUICK, *SMALL, f"--trainer.default_root_dir={tmp_path}"])
    shown = terminal.getvalue()
    for title in ("round 1 of 3:", "round 2 of 3, about 2 h 0 min left:", "round 3 of 3, about 1 h 0 min left:"):
        assert title in shown
    assert "phase=" in shown
    assert "Epoch" not in shown
    assert "round" not in capsys.readouterr().out
    main(["test", *QUICK, SMALL[2], "--ckpt_path=last", f"--trainer.default_root_dir={tmp_path}"])
    assert "Testing DataLoader 0" in terminal.getvalue()
    assert "Testing DataLoader 0" not in capsys.readouterr().out


@pytest.mark.parametrize("asked", [[], ["--trainer.enable_progress_bar=false"]])
def test_a_log_gets_lines(
    asked: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("LINE_AFTER", "LINE_EVERY"):
        monkeypatch.setattr(progress, name, 0.0)
    caplog.set_level("INFO")
    root = f"--trainer.default_root_dir={tmp_path}"
    main(["fit", *QUICK, *SMALL, *asked, root])
    assert titles(lines(caplog)) == ["round 1 of 3", "round 2 of 3", "round 3 of 3"]
    err = capsys.readouterr().err
    assert re.search(r"^round 2 of 3: 1 of \d+ steps, about \d+ s left$", err, re.MULTILINE)
    assert "it/s" not in err
    small, fits = "--data.val_data.eval_batch_size=100", SMALL[2]
    for command, name in (("test", "test"), ("validate", "validation"), ("predict", "prediction")):
        main([command, *QUICK, fits, "--ckpt_path=last", small, root, *asked])
        assert f"{name}: 1 of 5 batches, about 1 s left" in capsys.readouterr().err


def test_a_bar_that_is_asked_for_is_shown_in_a_log_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", *QUICK, *SMALL, "--trainer.enable_progress_bar=true", f"--trainer.default_root_dir={tmp_path}"])
    assert "round 3 of 3" in capsys.readouterr().err


def test_both_callbacks_start_their_clock_anew_in_every_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for callback in (EpochLines(), PhaseProgressBar()):
        for _ in range(2):
            enabled = isinstance(callback, PhaseProgressBar)
            fit(MODULES["classification"](tmp_path), tmp_path, 0, callbacks=[callback], enable_progress_bar=enabled)
            assert callback._time_left._start[0] == 0
    assert EPOCHS == 4
