"""Print a result file as tables, to look at while it grows; the pages have theirs by `benchmarks/render.py`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.support import grid_tables, result_files, set_tables

FIGURES = {
    "to_real": "to real",
    "to_real_in_class": "in class",
    "to_condensed": "to condensed",
    "nearest_condensed": "nearest condensed",
    "diversity_in_class": "diversity",
}


def rows(content: dict[str, Any]) -> list[list[str]]:
    """Return every row with last and best accuracy and its seeds."""
    table = [["row", "last", "best", "seeds"]]
    for name, entry in content["rows"].items():
        seeds = " / ".join(f"{100 * run['student_accuracy_last']:.1f}" for _, run in sorted(entry["runs"].items()))
        table.append(
            [name.replace("*", "\\*"), set_tables.spread(entry["last"]), set_tables.spread(entry["best"]), seeds]
        )
    return table


def methods(content: dict[str, Any]) -> list[list[str]]:
    """Return every method with the student's last accuracy, plain, mixed and guided."""
    entries = content["rows"]
    table = [
        ["method", "plain", "+ condensed", "guided, weight 5", "weight 0.5", "CPU-seconds of a run: plain, guided"]
    ]
    for name in (name for name in entries if "*" not in name and "+" not in name):
        ways = [entries.get(key) for key in (name, f"{name} + condensed", f"{name}*", f"{name}* 0.5")]
        cells = [set_tables.spread(way and way["last"]) for way in ways]
        seconds = ["-" if way is None else f"{_mean(way, 'cpu_seconds'):.0f}" for way in (ways[0], ways[2])]
        table.append([name, *cells, ", ".join(seconds)])
    return table


def distances(content: dict[str, Any]) -> list[list[str]]:
    """Return for every method where its images lie, plain and guided."""
    table = [["method", *FIGURES.values()]]
    entries = {name: entry for name, entry in content["rows"].items() if "embeddings" in entry}
    for name in (name for name in entries if "*" not in name and "+" not in name):
        ways = [entries.get(key) for key in (name, f"{name}* 0.5", f"{name}*")]
        cells = [" / ".join(f"{way['embeddings'][key]['mean']:.2f}" for way in ways if way) for key in FIGURES]
        table.append([name, *cells])
    return table


def _mean(entry: dict[str, Any], key: str) -> float:
    values = [run[key] for run in entry["runs"].values()]
    return float(sum(values) / len(values))


def show(table: list[list[str]]) -> None:
    """Print a table in markdown."""
    head, *body = table
    for row in (head, ["---"] * len(head), *body):
        print(f"| {' | '.join(row)} |")


TABLES = {
    "methods": (methods, distances),
    "sets": (set_tables.sets, set_tables.correlations),
    "generative": (set_tables.generative,),
    "curves": (set_tables.curves,),
    "losses": (grid_tables.accuracies, grid_tables.differences, grid_tables.figures),
    "cost-condensation-sizes": (set_tables.sizes,),
}


def tabled() -> dict[str, dict[str, Any]]:
    """Return the result files that there are tables of, by name."""
    files = {path.stem: json.loads(path.read_text()) for path in result_files.RESULTS.glob("*.json")}
    return {name: content for name, content in files.items() if "rows" in content or name in TABLES}


def main() -> None:
    """Print the tables of a result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=sorted(tabled()), metavar="NAME", help=f"one of {', '.join(sorted(tabled()))}")
    name = parser.parse_args().name
    content = tabled()[name]
    print(f"commit {content['environment']['commit']}, {content['environment']['machine']}\n")
    for table in next((tables for start, tables in TABLES.items() if name.startswith(start)), (rows,)):
        show(table(content))
        print()


if __name__ == "__main__":
    main()
