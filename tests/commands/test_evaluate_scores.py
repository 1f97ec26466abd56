"""The scores of DD-Ranking in the command ``evaluate``."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lightning_condkd.__main__ import run
from lightning_condkd.augment import resolve_augment
from lightning_condkd.cli import main
from lightning_condkd.data import CondensedSet
from lightning_condkd.evaluation.fresh_training import evaluate as train_and_test
from lightning_condkd.evaluation.recipe import Recipe
from lightning_condkd.evaluation.scores import ScoreOptions
from lightning_condkd.models.fresh_networks import FreshNetworks
from tests.commands.test_evaluate import RECIPE, SMALL, Digits, OnlyHeldOut, condensed, digits_teacher, evaluated
from tests.commands.test_evaluate_again import Trainings, interrupted, report_of
from tests.reference import scores as reference

AUGMENTED = replace(RECIPE, augment="dsa", mirrored=True, cutmix=True)
GIVEN = ScoreOptions(full_accuracy=0.9, label_weight=0.3, augmentation_weight=0.2)

Record = dict[str, Any]


def last(record: Record, what: str, labels: str, plain: bool) -> list[float]:
    """The accuracies of the last weights of a row."""
    wanted = (what, labels, plain)
    rows = [row for row in record["rows"] if (row["set"], row["labels"], row["augmentation_left_out"]) == wanted]
    assert len(rows) == 1
    return [run[-1] for run in rows[0]["accuracies"]]


def test_the_scores_are_the_formulas_on_the_rows_run_by_run(tmp_path: Path) -> None:
    report, record = evaluated(tmp_path, condensed(tmp_path), recipe=AUGMENTED, scores=GIVEN)
    own, random, own_plain, random_plain = (
        last(record, what, "hard", plain) for plain in (False, True) for what in ("DM", "random real")
    )
    (scores,) = record["scores"]
    assert scores["LRS"]["runs"] == pytest.approx(
        [reference.label_robust(0.9, hard, hard, rest, 0.3) for hard, rest in zip(own, random, strict=True)]
    )
    rows = zip(own, random, own_plain, random_plain, strict=True)
    assert scores["ARS"]["runs"] == pytest.approx([reference.augmentation_robust(*row, 0.2) for row in rows])
    assert scores["HLR"]["mean"] == pytest.approx(0.9 - sum(own) / 2)
    assert scores["IOR"]["mean"] == pytest.approx(sum(own) / 2 - sum(random) / 2)
    assert (scores["network"], scores["labels"], scores["full_accuracy"]) == ("small", "hard", [0.9, 0.9])
    line = next(line for line in report.splitlines() if "LRS" in line and "ARS" in line and "network" in line)
    values = report.splitlines()[report.splitlines().index(line) + 1]
    for name in ("HLR", "IOR", "LRS", "ARS"):
        assert f"{scores[name]['mean']:.3f} ± {scores[name]['std']:.3f}" in values
    assert "random real, no augmentation" in report
    assert "warning: all real images" not in report
    assert record["scored"] == {"full_accuracy": 0.9, "full_epochs": None} | {
        "label_weight": 0.3,
        "augmentation_weight": 0.2,
    }


def test_rows_without_augmentation_and_of_all_real_images_equal_evaluations_by_hand(tmp_path: Path) -> None:
    path = condensed(tmp_path, settings={"train_lr": 0.03})
    options = ScoreOptions(full_epochs=2)
    _, record = evaluated(tmp_path, path, recipe=replace(AUGMENTED, batch_size=200), scores=options)
    source, test, chosen = Digits().train_source, Digits().val_source, CondensedSet.load(path)
    made = FreshNetworks(SMALL, *source.channel_statistics())
    by_hand = partial(train_and_test, test_images=test.images, test_labels=test.labels, networks=made, runs=2)
    plain = Recipe(epochs=3, augment=None, batch_size=200, learning_rate=0.03)
    assert last(record, "DM", "hard", True) == list(by_hand(chosen.images, chosen.labels, recipe=plain).last)
    full = replace(AUGMENTED, epochs=2, batch_size=200, augment=resolve_augment("dsa", made.mean, made.std))
    expected = by_hand(source.images.float() / 255, source.labels, recipe=full).last
    assert last(record, "all real", "hard", False) == list(expected)
    assert record["scores"][0]["full_accuracy"] == list(expected)
    assert record["rows"][-1]["images"] == len(source)


def test_every_kind_of_labels_that_random_images_can_have_is_scored(tmp_path: Path) -> None:
    path = condensed(tmp_path, soft=True)
    report, record = evaluated(tmp_path, path, recipe=AUGMENTED, teacher=digits_teacher(), scores=GIVEN)
    assert [one["labels"] for one in record["scores"]] == ["hard", "soft", "teacher"]
    hard, soft = last(record, "DM", "hard", False), last(record, "DM", "soft", False)
    rest = last(record, "random real", "soft", False)
    assert record["scores"][1]["LRS"]["runs"] == pytest.approx(
        [reference.label_robust(0.9, *row, 0.3) for row in zip(hard, soft, rest, strict=True)]
    )
    assert len(record["rows"]) == 12
    assert report.count("random real, no augmentation") == 3
    _, record = evaluated(tmp_path, path, labels="hard", recipe=AUGMENTED, scores=GIVEN)
    assert [one["labels"] for one in record["scores"]] == ["hard"]


def test_a_recipe_without_augmentation_has_no_second_score(tmp_path: Path) -> None:
    report, record = evaluated(tmp_path, condensed(tmp_path), scores=GIVEN, runs=1)
    assert record["scores"][0]["ARS"] is None
    assert record["scores"][0]["LRS"]["std"] is None
    assert len(record["rows"]) == 2
    assert "ARS: not defined, the recipe has no augmentation to leave out" in report


def test_networks_on_all_real_images_that_are_worse_are_warned_of(tmp_path: Path) -> None:
    report, record = evaluated(tmp_path, condensed(tmp_path), scores=ScoreOptions(full_accuracy=0.0), runs=1)
    assert record["scores"][0]["HLR"]["mean"] < 0
    assert "warning: all real images give a lower accuracy than the set (HLR below 0): raise full_epochs" in report


def test_without_the_option_nothing_is_added(tmp_path: Path) -> None:
    report, record = evaluated(tmp_path, condensed(tmp_path), recipe=AUGMENTED, runs=1)
    assert (record["scores"], record["scored"], len(record["rows"])) == ([], None, 2)
    assert "HLR" not in report


def test_each_of_several_networks_has_its_own_accuracy(tmp_path: Path) -> None:
    networks = {"small": SMALL, "wide": partial(SMALL, width=6)}
    given = ScoreOptions(full_accuracy={"wide": 0.8, "small": 0.5})
    _, record = evaluated(tmp_path, condensed(tmp_path), networks=networks, scores=given, runs=1)
    assert {one["network"]: one["full_accuracy"] for one in record["scores"]} == {"small": [0.5], "wide": [0.8]}


def test_scores_that_cannot_be_had_are_refused_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightning_condkd.commands.evaluate.train_and_test", lambda *_, **__: pytest.fail("trained"))
    networks = {"small": SMALL, "wide": partial(SMALL, width=6)}
    wrong: dict[str, dict[str, Any]] = {
        "which the data lacks": {"data": OnlyHeldOut(), "mean": [0.3], "std": [0.4]},
        "needs a row with hard labels, got labels='teacher'": {"labels": "teacher", "teacher": digits_teacher()},
        "needs a row with hard labels, got labels='soft'": {"labels": "soft"},
        "random real images need those of a teacher": {},
        "expected a share for each of the networks small, wide, got 0.9": {"networks": networks, "labels": "hard"},
    }
    for message, options in wrong.items():
        with pytest.raises(ValueError, match=message):
            evaluated(tmp_path, condensed(tmp_path, soft=True), **{"scores": GIVEN, **options})


def test_an_interrupted_run_goes_on_with_its_own_scores_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, output = condensed(tmp_path), tmp_path / "result.json"
    options: dict[str, Any] = {"recipe": AUGMENTED, "scores": ScoreOptions(full_epochs=1), "test_every": 0}
    begun = interrupted(path, output, monkeypatch, 2, **options)
    with pytest.raises(ValueError, match=r"scored\.full_epochs was 1 and is None"):
        report_of(path, output, **{**options, "scores": None})
    trainings = Trainings(monkeypatch, ends_in=0)
    report_of(path, output, **options)
    assert (trainings.done, begun.exists()) == (20 - 1, False)


def test_the_command_line_computes_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    networks = '{"small": {"class_path": "ConvNet", "init_args": {"image_size": 8, "in_channels": 1, "width": 4}}}'
    output = tmp_path / "result.json"
    command = ["evaluate", "package:digits-dm-1ipc.safetensors", "--data=DigitsDataModule", f"--networks={networks}"]
    command += ["--recipe.augment=dsa_digits", "--recipe.epochs=2", "--runs=1", f"--output={output}"]
    main([*command, "--scores.full_epochs=1", "--scores.label_weight=0.4"])
    printed = capsys.readouterr().out
    assert "all real" in printed
    record = json.loads(output.read_text())
    assert record["scored"]["label_weight"] == 0.4
    assert [row["set"] for row in record["rows"]][-1] == "all real"
    (scores,) = record["scores"]
    assert f"{scores['LRS']['mean']:.3f}" in printed
    main([*command, "--scores.full_accuracy=0.9"])
    record = json.loads(output.read_text())
    assert record["scores"][0]["HLR"]["mean"] == pytest.approx(0.9 - record["rows"][0]["last"]["mean"])


@pytest.mark.parametrize(
    ("flag", "message"),
    [("--scores.full_accuracy=90", "divide percent by 100"), ("--scores.label_weight=0.4", "give one of the two")],
)
def test_the_command_line_names_what_is_wrong_with_the_options(
    flag: str, message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ["evaluate", "package:digits-dm-1ipc.safetensors", "--data=DigitsDataModule", flag]
    monkeypatch.setattr("sys.argv", ["lightning-condkd", *given])
    with pytest.raises(SystemExit):
        run()
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 2
