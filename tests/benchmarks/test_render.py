"""The pages hold what the result files hold, and no number of a result is typed by hand."""

from __future__ import annotations

import doctest
import json
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks import render
from benchmarks.pages import figures, layout, markers, measured, published
from benchmarks.pages.specs import TABLES, losses, render_table
from benchmarks.quality.losses import SUITES
from benchmarks.support import result_files
from tests.conftest import ROOT

WITHOUT_TYPED_NUMBERS = [
    *sorted((ROOT / "docs" / "results").glob("*.md")),
    *sorted((ROOT / "docs").glob("choose-*.md")),
]


def runs(*accuracies: float) -> dict[str, Any]:
    return {"runs": {str(seed): {"student_accuracy_last": one} for seed, one in enumerate(accuracies)}}


@pytest.fixture
def measured_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    rows = {"Fast": runs(0.5, 0.52, 0.57), "Fast*": runs(0.61, 0.6), "noise": runs(0.1)}
    content = {"rows": rows, "environment": {"commit": "abc1234", "versions": {"torch": "2.9"}, "machine": "CPU"}}
    (tmp_path / "small.json").write_text(json.dumps(content))
    monkeypatch.setattr(result_files, "RESULTS", tmp_path)
    return tmp_path / "small.json"


@pytest.mark.parametrize("page", render.pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_is_rendered(page: Path) -> None:
    assert render.difference(page) == "", "run python benchmarks/render.py"


@pytest.mark.parametrize("page", WITHOUT_TYPED_NUMBERS, ids=lambda page: page.stem)
def test_a_page_has_no_typed_number(page: Path) -> None:
    text = page.read_text()
    assert markers.typed_numbers(text) == []
    assert markers.typed_tables(text) == []


def test_the_pages_of_results_are_there() -> None:
    assert len(WITHOUT_TYPED_NUMBERS) > 15
    index = (ROOT / "docs" / "results" / "index.md").read_text()
    assert [page.stem for page in (ROOT / "docs" / "results").glob("*.md") if page.stem not in f"index {index}"] == []


def test_every_table_stands_in_a_page() -> None:
    shown = {name for page in render.pages() for name, _ in markers.TABLE.findall(page.read_text())}
    assert set(TABLES) - shown == set()


@pytest.mark.parametrize(
    "text",
    [
        "Fast has 51.6 %.",
        "It has 5.1. It took 9.7 seconds (not in a result file).",
        "- by **7.1** points",
        "| Fast | 51.6 |",
        "-0.3 and 4",
        "it is 51.6, not less",
    ],
)
def test_a_typed_number_is_found(text: str) -> None:
    assert markers.typed_numbers(text)


@pytest.mark.parametrize(
    "text",
    [
        "Fast has <!-- = mean() -->51.6<!-- / --> % in 40 rounds.",
        "<!-- table: ablation -->\n| a | 5.1 |\n<!-- end table -->\n",
        "`lr: 0.1`, [paper](https://arxiv.org/abs/2408.13850), torch `2.15.0`, v0.10.2",
        "It took 9.7 seconds (not in a result file).",
        "```yaml\nweight: 0.5\n```\n",
    ],
)
def test_rendered_numbers_settings_and_links_may_stand(text: str) -> None:
    assert markers.typed_numbers(text) == []


def test_the_examples_of_the_markers() -> None:
    failed, tried = doctest.testmod(markers)
    assert (failed, tried) == (0, 3)


def test_a_typed_table_is_found() -> None:
    assert markers.typed_tables("text\n\n| row | last |\n|---|---|\n| Fast | 51 |\n") == ["| Fast | 51 |"]


def test_a_stale_page_is_named_by_a_diff(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text('In all <!-- = mean("cifar10", "Fast") -->99.9<!-- / --> %.\n')
    assert "-In all" in render.difference(page)
    assert "99.9" not in render.rendered(page)
    page.write_text(render.rendered(page))
    assert render.difference(page) == ""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('a <!-- = mean("cifar10", "Slow") -->1<!-- / -->', "no 'Slow'"),
        ('a <!-- = mean("cifar11", "Fast") -->1<!-- / -->', "cifar11.json: there is no such result file"),
        ('a <!-- = mean("cifar10", "Fast", "speed") -->1<!-- / -->', "has 'speed'"),
        ('a <!-- = value("cifar10", ["rows", "Fast", "nothing"]) -->1<!-- / -->', "no 'nothing'"),
        ('a <!-- = number("losses", "DKD", "MNIST") -->1<!-- / -->', "no 'MNIST'"),
        ("a <!-- = unknown() -->1<!-- / -->", "expected one of"),
        ("a <!-- = mean(open('x')) -->1<!-- / -->", "literal arguments"),
        ("a <!-- = 5.1 -->1<!-- / -->", "literal arguments"),
        ('a <!-- = mean("cifar10", "Fast") -->1', "1 opened and 0 closed"),
        ("<!-- table: ablation -->\n| a |\n", "1 opened and 0 closed"),
        ("<!-- table: none -->\n<!-- end table -->\n", "there is no table 'none'"),
        ('- <!-- = mean("cifar10", "Fast") -->1<!-- / --> %', "a line that begins with it"),
    ],
)
def test_a_wrong_marker_is_refused_with_its_page(text: str, said: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises((LookupError, ValueError), match=r"page\.md") as refused:
        render.rendered(page)
    assert said in str(refused.value)


@pytest.mark.usefixtures("measured_here")
def test_figures() -> None:
    assert figures.last("small", "Fast") == "53.0 ± 3.6"
    assert figures.last("small", "noise") == "10.0"
    assert figures.seeds("small", "Fast*") == "61.0 / 60.0"
    assert figures.count("small", "Fast*") == "2"
    assert [figures.runs("small", row) for row in ("Fast*", "noise")] == ["2 seeds", "one seed"]
    assert figures.gaps("small", "Fast*", "Fast") == "11.0, 8.0"
    assert figures.gaps("small", "Fast", "Fast*", sign=True) == "-11.0, -8.0"
    assert figures.gap("small", "Fast*", "Fast") == "9.5"
    assert figures.gap_range("small", "Fast*", "Fast") == "8.0 to 11.0"
    assert figures.range_of_means("small", ["Fast", "noise"]) == "10.0 to 53.0"
    assert figures.value("small", ["rows", "noise", "runs", "0", "student_accuracy_last"], 2) == "0.10"
    assert figures.power("small", ["rows", "noise", "runs", "0", "student_accuracy_last"]) == "1e-1"
    assert figures.size("small", ["rows"]) == "3"
    assert figures.below("small", [["Fast", "Fast*"], ["Fast*", "Fast"]], "student_accuracy_last") == "2 of 4"
    assert figures.gaps_within("small", "Fast", "student_accuracy_last", "student_accuracy_last") == "0.0, 0.0, 0.0"
    assert figures.points(-0.04) == "0.0"
    assert figures.evaluate('mean("small", "Fast", decimals=0)') == "53"


@pytest.mark.usefixtures("measured_here")
def test_a_cell_says_how_many_seeds_it_lacks() -> None:
    cells = [[name, layout.accuracy("small", name)] for name in ("Fast", "Fast*", "noise")]
    text = str(layout.Table(("row", "last"), cells, "In %.", ("small",), ("python x.py",)))
    assert "| Fast | 53.0 ± 3.6 |" in text
    assert "| Fast\\* | 60.5 ± 0.7 (2 of 3) |" in text
    assert "| noise | 10.0 (1 of 3) |" in text
    assert "In %. **Partial: cells that say so have fewer than 3 seeds.**" in text
    assert "*Source*: `python x.py`; commit abc1234; torch 2.9; CPU; `benchmarks/results/small.json`." in text


@pytest.mark.usefixtures("measured_here")
def test_a_table_without_all_seeds_or_rows_says_so_once() -> None:
    row = ["noise", layout.accuracy("small", "noise"), layout.accuracy("small", "later", pending=True)]
    text = str(layout.Table(("row", "now", "later"), [row]))
    assert text.endswith("| noise | 10.0 | not run |\n\n**Partial: 1 of 3 seeds; some rows have not run.**")
    with pytest.raises(LookupError, match="later"):
        layout.accuracy("small", "later")


def test_the_notes_vanish_with_the_last_seed(measured_here: Path) -> None:
    content = json.loads(measured_here.read_text())
    measured_here.write_text(json.dumps(content | {"rows": {"noise": runs(0.1, 0.2, 0.3)}}))
    text = str(layout.Table(("row", "last"), [["noise", layout.accuracy("small", "noise")]]))
    assert text.endswith("| noise | 20.0 ± 10.0 |\n\n3 seeds.")


def test_a_table_is_at_most_five_columns_wide() -> None:
    with pytest.raises(ValueError, match="at most 5 columns"):
        str(layout.Table("abcdef", []))
    widest = max(line.count("|") for name in TABLES for line in render_table(name).splitlines() if line[:1] == "|")
    assert widest == layout.WIDEST + 1


def test_the_rows_of_cifar10_are_those_of_the_suite() -> None:
    suite = SUITES["cifar10"]
    run = {f"{loss} on {kind}" for loss in (*suite.losses, *suite.views) for kind in losses.KINDS}
    shown = {f"{loss} on {kind}" for loss in losses.CIFAR10_LOSSES for kind in losses.KINDS}
    assert run == shown == set(measured.content(losses.CIFAR10)["rows"])


def test_every_loss_and_image_of_the_digits_is_shown() -> None:
    shown = {
        f"{loss} on {kind}" for loss in (*losses.LOGITS, *losses.FEATURES, *losses.CONTROLS) for kind in losses.KINDS
    }
    assert shown == set(measured.content(losses.DIGITS)["rows"])


def test_published_numbers_have_a_source() -> None:
    for table, of in published.content().items():
        assert published.source(table)
        assert all(re.fullmatch(r"\d+\.\d+", number) for row in of["rows"].values() for number in row.values())


def test_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    page.write_text('a <!-- = mean("cifar10", "Fast") -->?<!-- / -->\n')
    monkeypatch.setattr(render, "pages", lambda: [page])
    monkeypatch.setattr(render, "ROOT", tmp_path)
    monkeypatch.setattr("sys.argv", ["render.py", "--check"])
    with pytest.raises(SystemExit, match=r"run python benchmarks/render.py"):
        render.main()
    monkeypatch.setattr("sys.argv", ["render.py"])
    render.main()
    assert capsys.readouterr().out == "rendered page.md\n"
    monkeypatch.setattr("sys.argv", ["render.py", "--check"])
    render.main()
