"""Print result files as the tables of the README."""

from __future__ import annotations

import argparse
import json
from typing import Any

import common
import tables_sets

FIGURES = {
    "to_real": "to real",
    "to_real_in_class": "in class",
    "to_condensed": "to condensed",
    "nearest_condensed": "nearest condensed",
    "diversity_in_class": "diversity",
}


def accuracy(entry: dict[str, Any], what: str = "last") -> str:
    """Return mean and deviation of an accuracy in percent."""
    return f"{entry[what]['mean']:.1f} ± {entry[what]['std']:.1f}"


def rows(content: dict[str, Any]) -> list[list[str]]:
    """Return every row with last and best accuracy and its seeds."""
    table = [["row", "last", "best", "seeds"]]
    for name, entry in content["rows"].items():
        seeds = " / ".join(f"{100 * run['student_accuracy_last']:.1f}" for _, run in sorted(entry["runs"].items()))
        table.append([name.replace("*", "\\*"), accuracy(entry), accuracy(entry, "best"), seeds])
    return table


def methods(content: dict[str, Any]) -> list[list[str]]:
    """Return every method with the student's last accuracy, plain, mixed and guided."""
    entries = content["rows"]
    table = [
        ["method", "plain", "+ condensed", "guided, weight 5", "weight 0.5", "CPU-seconds of a run: plain, guided"]
    ]
    for name in (name for name in entries if "*" not in name and "+" not in name):
        ways = [entries.get(key) for key in (name, f"{name} + condensed", f"{name}*", f"{name}* 0.5")]
        cells = ["-" if way is None else accuracy(way) for way in ways]
        seconds = ["-" if way is None else f"{_mean(way, 'cpu_seconds'):.0f}" for way in (ways[0], ways[2])]
        table.append([name, *cells, ", ".join(seconds)])
    return table


def distances(content: dict[str, Any]) -> list[list[str]]:
    """Return for every method where its images lie, plain and guided."""
    table = [["method", *FIGURES.values()]]
    for name in (name for name in content["rows"] if "*" not in name and "+" not in name):
        ways = [content["rows"].get(key) for key in (name, f"{name}* 0.5", f"{name}*")]
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
    "sets": (tables_sets.sets, tables_sets.correlations),
    "generative": (tables_sets.generative,),
    "curves": (tables_sets.curves,),
    "cost-condensation-sizes": (tables_sets.sizes,),
}


def main() -> None:
    """Print the tables of a result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="of the result file")
    name = parser.parse_args().name
    content = json.loads((common.RESULTS / f"{name}.json").read_text())
    print(f"commit {content['environment']['commit']}, {content['environment']['machine']}\n")
    for table in next((tables for start, tables in TABLES.items() if name.startswith(start)), (rows,)):
        show(table(content))
        print()


if __name__ == "__main__":
    main()
