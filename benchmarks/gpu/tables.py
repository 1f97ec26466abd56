"""Print what the result files of the kit hold, as Markdown tables."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[1] / "results"

Items = dict[str, dict[str, Any]]


def _checks(items: Items) -> Iterator[str]:
    yield "| item | state in double | 32 | bf16 | fp16 | same twice | without a deterministic form | problems |"
    yield "|---|---|---|---|---|---|---|---|"
    for name, result in items.items():
        kinds = ("double", "32-true", "bf16-mixed", "16-mixed")
        numbers = [f"{result[k]['difference']:.1e}" if k in result else "-" for k in kinds]
        same = result.get("deterministic", {}).get("same_twice", "-")
        operators = ", ".join(result.get("deterministic", {}).get("operators_without", []))
        problems = "; ".join(result["problems"]) or "none"
        yield f"| {' | '.join([name, *numbers, str(same), operators or '-', problems])} |"


def _cost(items: Items) -> Iterator[str]:
    yield "| step | lane | ms | images/s | peak MB | share of the rate | beside bare |"
    yield "|---|---|---|---|---|---|---|"
    for name, result in items.items():
        for lane, of in result.get("lanes", {}).items():
            ratio = next(
                (r["median"] for pair, r in result["ratios"].items() if pair.startswith(f"{lane} / bare")), "-"
            )
            numbers = (of["milliseconds"]["median"], of["images_per_second"], of["peak_megabytes"])
            yield f"| {' | '.join(map(str, (name, lane, *numbers, of['share_of_rate'], ratio)))} |"
    for name, result in items.items():
        if name == "rates":
            yield f"\n{json.dumps(result)}"
        for lane in ("trainer", "bare") if name.startswith("profile") else ():
            yield f"\n{name}, {lane}: {json.dumps({k: v for k, v in result[lane].items() if k != 'operators'})}"


def _rows(items: Items) -> Iterator[str]:
    yield "| row | last | best | rounds | images | s a step | curve |"
    yield "|---|---|---|---|---|---|---|"
    for name, result in items.items():
        curve, clock = list(result["curve"].values()), result["clock"]
        last = result.get("student_accuracy_last", result.get("accuracy"))
        best = result.get("student_accuracy_best", max(curve, default=None))
        rounds = f"{result.get('rounds', clock['epochs'])} of {result.get('published_rounds', '-')}"
        tail = " ".join(map(_percent, curve[:: max(1, len(curve) // 8)]))
        cells = (
            _percent(last),
            _percent(best),
            rounds,
            result.get("images_synthesized", result.get("images_synthesised", "-")),
            clock["seconds_per_step"],
        )
        yield f"| {' | '.join(map(str, (name, *cells, tail)))} |"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def _sets(items: Items) -> Iterator[str]:
    yield "| method | iterations | published | s an iteration | its set | random real |"
    yield "|---|---|---|---|---|---|"
    for name, result in items.items():
        worth = [row["last"]["mean"] for row in result["evaluation"]]
        facts = [result[key] for key in ("iterations", "published_iterations", "seconds_per_iteration")]
        yield f"| {' | '.join(map(str, (name, *facts, *worth)))} |"


TABLES: dict[str, Callable[[Items], Iterator[str]]] = {
    "checks": _checks,
    "cost": _cost,
    "rows": _rows,
    "large": _rows,
    "sets": _sets,
}


def main() -> None:
    """Print the tables of all stages that have results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=FOLDER)
    folder = parser.parse_args().results
    for stage, table in TABLES.items():
        path = folder / f"gpu-{stage}.json"
        if path.exists():
            items = json.loads(path.read_text())["items"]
            print(f"\n## {stage}\n")
            print(*table({n: e["result"] for n, e in items.items() if "result" in e}), sep="\n")
            print(*(f"{e['status']}: {n}: {e['error'][-300:]}" for n, e in items.items() if "error" in e), sep="\n")


if __name__ == "__main__":
    main()
