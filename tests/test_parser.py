"""What the command line says of arguments that cannot be meant, and how long its helps are."""

from __future__ import annotations

import subprocess
import sys

import pytest

from lightning_condkd.cli import main
from lightning_condkd.parser import TRACEBACK, readable
from tests.conftest import ROOT
from tests.helpers.environment import environment

QUICK = ["fit", "--config", str(ROOT / "configs" / "quickstart.yaml")]
EVALUATE = ["evaluate", "set.safetensors", "--data", "DigitsDataModule"]


def said(given: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as end:
        main(given)
    assert end.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([*QUICK, "--model.inversion", "Fats"], "model.inversion: found no class or file 'Fats', did you mean Fast?"),
        ([*QUICK, "--model.inversion.batch_size", "many"], "model.inversion.batch_size: expected int, got many"),
        (
            [*QUICK, "--model.student.widht=3"],
            "model.student: Option 'widht' is not accepted (DigitsNet takes num_classes",
        ),
        (
            [*QUICK, "--model.inversion.cadence.distil_steps=3"],
            "model.inversion: unrecognized arguments: --cadence.distil_steps=3 (Fast takes cadence, batch_size",
        ),
        ([*QUICK, "--model.teacher.mean", "0.5"], "model.teacher.mean: expected a list such as '[0.49, 0.48, 0.45]'"),
        ([*QUICK, "--data.val_data.class_path", "Nope"], "data.val_data: found no class or file 'Nope'\n"),
        ([*QUICK, "--trainer.callbacks+=ModelCheckpont"], "did you mean ModelCheckpoint or"),
        ([*QUICK, "--trainer.max_epochs=2.5"], "trainer.max_epochs: expected int, got 2.5"),
        ([*QUICK, "--modle.student=x"], "unrecognized arguments: --modle.student=x"),
        (
            ["fit", "--data", "CondensedDataModule", "--model", "CondKD"],
            "model: the following arguments are required: te",
        ),
        (["fit", "--config", "nope.yaml"], "config: File does not exist: "),
        ([*EVALUATE, "--mean", "0.49", "0.48", "0.45"], "mean: expected a list such as '[0.49, 0.48, 0.45]', got 0.49"),
        ([*EVALUATE, "--recipe", "dsaa"], "recipe: expected one of 'dsa', 'dc', 'rded', got dsaa"),
        ([*EVALUATE, "--recipe.epochs=x"], "recipe.epochs: expected int, got x"),
        ([*EVALUATE, "--networks", "ResNet"], "networks: expected a mapping such as '{name: value}', got ResNet"),
    ],
)
def test_an_error_is_one_line_with_the_name_of_the_argument(
    given: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    error = said(given, capsys)
    assert error.startswith(f"error: {expected}") or expected in error.splitlines()[0]
    assert len(error.splitlines()) == 2
    assert error.splitlines()[1] in {
        f"(all arguments: lightning-condkd{part} --help)" for part in (" fit", " evaluate", "")
    }


def test_the_parser_s_own_words_are_there_for_those_who_ask(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(TRACEBACK, "1")
    assert "Does not validate against any of the Union subtypes" in said([*QUICK, "--model.inversion=Fats"], capsys)


def test_words_of_another_shape_are_left_as_they_are() -> None:
    message = "Problems parsing config: while scanning\nfound character\n  in line 7"
    assert readable(message) == message


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (["evaluate", "--help"], ["MobileNetV2", "DigitsDataModule", "dsa", "of the libraries"]),
        (["fit", "--model.help", "CondKD"], ["SmallImageResNet", "Fast", "KLDistillation", "FeatureAlignment"]),
    ],
)
def test_helps_list_our_own_classes_and_fit_on_a_few_screens(given: list[str], names: list[str]) -> None:
    """In a process of its own: the classes that other tests define, and that they import, would be counted."""
    line = [sys.executable, "-m", "lightning_condkd", *given]
    variables = environment(OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT))
    end = subprocess.run(line, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=100, check=False)
    assert end.returncode == 0
    shown = end.stdout
    assert len(shown.splitlines()) < 175
    assert "torch.nn.Identity" not in shown
    unwrapped = " ".join(shown.split())
    assert [name for name in names if name not in unwrapped] == []


def test_the_usage_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    first = capsys.readouterr().out.splitlines()[0]
    assert (
        first == "usage: lightning-condkd {fit,validate,test,predict,"
        "convert,describe,draw,evaluate,export,methods,select} ..."
    )
