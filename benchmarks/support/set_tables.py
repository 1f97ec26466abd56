"""Tables of what was measured on condensed sets."""

from __future__ import annotations

from statistics import mean
from typing import Any

from scipy.stats import spearmanr

Table = list[list[str]]


def spread(entry: dict[str, float] | None, seeds: int = 2) -> str:
    """Return mean and deviation, as the result file holds them; a single seed has no deviation."""
    if entry is None:
        return "-"
    return f"{entry['mean']:.1f} ± {entry['std']:.1f}" if seeds > 1 else f"{entry['mean']:.1f}"


def _seconds(entry: dict[str, Any], key: str) -> str:
    values = [run[key] for run in entry["runs"].values() if key in run]
    return f"{sum(values) / len(values):.0f}" if values else "-"


def sets(content: dict[str, Any]) -> Table:
    """Return every set: networks on it alone, students mixed and guided, what it took to make it."""
    table = [["set", "alone", "distance", "student, + condensed", "student, guided", "seeds", "CPU-seconds to make"]]
    for name, entry in content["rows"].items():
        seeds, distance = len(entry["runs"]), f"{entry['distance']['mean']:.2f}"
        ways = ("alone", "student + condensed", "student *")
        alone, mixed, guided = (spread(entry.get(what), seeds) for what in ways)
        table.append([name, alone, distance, mixed, guided, str(seeds), _seconds(entry, "making_cpu_seconds")])
    return table


def correlations(content: dict[str, Any]) -> Table:
    """Return how the rank of a set goes with that of its students, by size and seed; equal sets count once."""
    table = [["per class", "seed", "sets", "alone, mixed", "alone, guided", "nearness, mixed", "nearness, guided"]]
    sizes = sorted({name.split()[1] for name in content["rows"]}, key=int)
    for ipc, seed in ((ipc, seed) for ipc in sizes for seed in ("0", "1", "2")):
        entries = [entry["runs"] for name, entry in content["rows"].items() if name.split()[1] == ipc]
        runs = [runs[seed] for runs in entries if "student" in runs.get(seed, {})]
        points = {(mean(run["alone"]["accuracies"]), -run["distance"], *run["student"].values()) for run in runs}
        if len(points) > 3:
            alone, nearness, mixed, guided = zip(*sorted(points), strict=True)
            pairs = ((alone, mixed), (alone, guided), (nearness, mixed), (nearness, guided))
            figures = [f"{spearmanr(*pair).statistic:+.2f}" for pair in pairs]
            table.append([ipc, seed, str(len(points)), *figures])
    return table


def generative(content: dict[str, Any]) -> Table:
    """Return every way to train the generator, with what its exports of each size teach."""
    sizes = [str(ipc) for ipc in content["ipc"]]
    table = [["generator", *(f"{ipc} per class" for ipc in sizes), "CPU-seconds"]]
    for name, entry in content["rows"].items():
        table.append([name, *(spread(entry.get(ipc)) for ipc in sizes), _seconds(entry, "cpu_seconds")])
    return table


def curves(content: dict[str, Any]) -> Table:
    """Return accuracies in the order of the iterations."""
    table = [["set", "iteration: accuracy"]]
    for name, entry in content["rows"].items():
        seeds = len(entry["runs"])
        table.append([name, ", ".join(f"{step}: {spread(figures, seeds)}" for step, figures in entry["mean"])])
    return table


def sizes(content: dict[str, Any]) -> Table:
    """Return seconds and memory of an iteration by the size of the set."""
    table = [["classes", "per class", "classes in a part", "CPU-seconds", "MB above the start"]]
    for row in content["sizes"]:
        memory = row["peak_megabytes"] - row["megabytes_before"]
        facts = [row[name] for name in ("classes", "ipc", "part")]
        table.append([*map(str, facts), f"{row['cpu_seconds']:.1f}", str(memory)])
    return table
