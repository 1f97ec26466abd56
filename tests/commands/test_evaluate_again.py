"""An ``evaluate`` that was ended goes on when it is typed again, to the same numbers."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from lightning_condkd.cli import main
from lightning_condkd.commands.evaluate import evaluate
from lightning_condkd.evaluation import fresh_training as evaluation
from tests.commands.test_evaluate import RECIPE, SMALL, Digits, Letters, condensed


class Trainings:
    """Counts the trainings, and ends the process, as it were, in one of them."""

    def __init__(self, patch: pytest.MonkeyPatch, ends_in: int) -> None:
        self.done, train = 0, evaluation._train

        def counting(*args: Any, **kwargs: Any) -> Any:
            self.done += 1
            if self.done == ends_in:
                raise KeyboardInterrupt
            return train(*args, **kwargs)

        patch.setattr(evaluation, "_train", counting)


def _scaled(network: nn.Module) -> nn.Module:
    """The same architecture with other initial weights."""
    for parameter in network.parameters():
        parameter.data.mul_(2)
    return network


def report_of(path: str, output: Path, **options: Any) -> str:
    networks = {"small": SMALL, "wide": partial(SMALL, width=6)}
    given: dict[str, Any] = {"data": Digits(), "networks": networks, "recipe": RECIPE, "runs": 2, "test_every": 2}
    return evaluate(path, output=str(output), **{**given, **options})


def interrupted(path: str, output: Path, patch: pytest.MonkeyPatch, ends_in: int, **options: Any) -> Path:
    with patch.context() as inner:
        trainings = Trainings(inner, ends_in)
        with pytest.raises(KeyboardInterrupt):
            report_of(path, output, **options)
        assert trainings.done == ends_in
    return output.with_suffix(".partial.json")


@pytest.mark.parametrize("options", [{}, {"batched": True}, {"recipe": replace(RECIPE, augment="dsa", cutmix=True)}])
def test_only_what_is_missing_is_trained_and_the_numbers_are_the_same(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path, whole, output = condensed(tmp_path), tmp_path / "whole.json", tmp_path / "again.json"
    expected = report_of(path, whole, **options)
    trained = 4 if options.get("batched") else 8
    begun = interrupted(path, output, monkeypatch, 3, **options)
    assert len(json.loads(begun.read_text())["done"]) == 2
    assert not output.exists()
    interrupted(path, output, monkeypatch, 2, **options)
    assert len(json.loads(begun.read_text())["done"]) == 3
    with monkeypatch.context() as patch:
        trainings = Trainings(patch, ends_in=0)
        assert report_of(path, output, **options) == expected
    assert trainings.done == trained - 3
    assert output.read_bytes() == whole.read_bytes()
    assert f"{begun}: an interrupted run with the same settings finished 3 trainings: these are reused" in caplog.text
    assert sorted(file.name for file in tmp_path.iterdir()) == ["again.json", "set.safetensors", "whole.json"]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"seed": 1}, r"options\.seed was 0 and is 1"),
        ({"runs": 3}, r"options\.runs was 2"),
        ({"recipe": replace(RECIPE, epochs=4)}, r"recipe\.epochs was 3"),
        ({"data": Letters()}, r"data\.test\.class_names was \['0'"),
        ({"networks": {"small": SMALL, "wide": partial(SMALL, width=8)}}, r"networks\.wide\.parameters"),
        ({"networks": {"small": SMALL, "wide": lambda: _scaled(SMALL(width=6))}}, r"identities\.wide"),
        ({"labels": "hard", "test_every": 1}, r"options\.test_every"),
    ],
)
def test_other_settings_are_refused(
    options: dict[str, Any], named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, output = condensed(tmp_path), tmp_path / "result.json"
    begun = interrupted(path, output, monkeypatch, 2)
    before, trainings = begun.read_bytes(), Trainings(monkeypatch, ends_in=1)
    with pytest.raises(ValueError, match=rf"of an interrupted run (?s:.*){named}(?s:.*)remove it"):
        report_of(path, output, **options)
    assert (trainings.done, begun.read_bytes()) == (0, before)


def test_another_set_of_the_same_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, output = condensed(tmp_path, soft=True), tmp_path / "result.json"
    interrupted(path, output, monkeypatch, 2)
    condensed(tmp_path)
    with pytest.raises(ValueError, match=r"condensed\.sha256 was "):
        report_of(path, output)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"settings": {}, "done": {"a": 1}}', '{"settings": 1, "done": {}}']
)
def test_what_else_is_in_the_way_is_refused_and_stays(content: str, tmp_path: Path) -> None:
    other = tmp_path / "result.partial.json"
    other.write_text(content)
    with pytest.raises(ValueError, match="holds none that can be read: move or remove it, or choose another output"):
        report_of(condensed(tmp_path), tmp_path / "result.json")
    assert other.read_text() == content


def test_without_a_file_for_the_result_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = condensed(tmp_path)
    evaluate(path, data=Digits(), networks={"small": SMALL}, recipe=RECIPE, runs=1)
    assert [file.name for file in tmp_path.iterdir()] == [Path(path).name]


def test_the_command_typed_again_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    networks = '{"small": {"class_path": "ConvNet", "init_args": {"image_size": 8, "in_channels": 1, "width": 4}}}'
    augment = ["--recipe.augment=SiameseAugment", "--recipe.augment.policy=crop_rotate"]
    command = ["evaluate", "package:digits-dm-1ipc.safetensors", "--data=DigitsDataModule", f"--networks={networks}"]
    command += [*augment, "--epochs=2", "--runs=2", "--output"]
    main([*command, str(tmp_path / "whole.json")])
    expected = capsys.readouterr().out
    with monkeypatch.context() as patch:
        Trainings(patch, ends_in=4)
        with pytest.raises(KeyboardInterrupt):
            main([*command, str(tmp_path / "again.json")])
    trainings = Trainings(monkeypatch, ends_in=2)
    main([*command, str(tmp_path / "again.json")])
    assert trainings.done == 1
    assert capsys.readouterr().out == expected
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "whole.json").read_bytes()
