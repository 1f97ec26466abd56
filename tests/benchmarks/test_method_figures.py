"""Our accuracies in the package are those of the result files."""

from __future__ import annotations

import json
from typing import Any

import pytest

from benchmarks.quality import method_figures
from benchmarks.support import result_files
from lightning_condkd.assets import resolve_asset
from lightning_condkd.commands.methods import FIGURES


def test_the_packaged_figures_are_those_of_the_results() -> None:
    packaged = json.loads(resolve_asset(FIGURES).read_text())
    assert packaged == method_figures.figures(), "run python benchmarks/quality/method_figures.py"


def test_a_row_counts_under_the_plain_name_of_its_recipe_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def row(mean: float, seeds: int) -> dict[str, Any]:
        return {"last": {"mean": mean}, "runs": {str(seed): {} for seed in range(seeds)}}

    rows = {"dfad": row(40.06, 3), "dfad*": row(50, 2), "dfad (DataFree) + condensed": row(10, 3)}
    rows |= {"condensed only": row(30, 3), "adaptive_deep_inversion": row(90, 3)}
    monkeypatch.setattr(result_files, "read", lambda name, default: {"rows": rows if "digits" in name else {}})
    assert method_figures.figures() == {
        "digits": {"DFAD": {"plain": 40.1, "guided": 50, "seeds": 2}, "NoInversion": {"condensed": 30, "seeds": 3}},
        "cifar10": {},
    }
