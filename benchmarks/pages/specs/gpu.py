"""What ran on a GPU: checks, costs, and two rows at the published length."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.pages import measured
from benchmarks.pages.layout import Table
from benchmarks.pages.measured import PERCENT

CHECKS, COST, ROWS = "gpu-checks", "gpu-cost", "gpu-rows"
COMMAND = "python benchmarks/gpu/run.py --minutes 12"
PRECISIONS = {"double": "double", "32-true": "32", "bf16-mixed": "bf16-mixed", "16-mixed": "fp16-mixed"}
LARGE = 0.01
LANES = {
    "student, ResNet-20 to 8, 32": ("distil 20-8 32-true 256", "trainer"),
    "student, ResNet-34 to 18, bf16-mixed": ("distil 34-18 bf16-mixed 256", "trainer"),
    "Fast, ResNet-20, 32": ("synthesise 20-8 32-true 256", "trainer"),
    "Fast*, ResNet-20, 32": ("synthesise 20-8 32-true 256", "trainer aligned"),
    "Fast, ResNet-34, bf16-mixed": ("synthesise 34-18 bf16-mixed 256", "trainer"),
    "Fast*, ResNet-34, bf16-mixed": ("synthesise 34-18 bf16-mixed 256", "trainer aligned"),
}


def checks() -> Table:
    """Return how far every item was from the CPU."""
    items = {name: of["result"] for name, of in measured.entry(CHECKS, "items").items()}
    rows = [
        [name, *(apart(result, kind) for kind in PRECISIONS)]
        for name, result in items.items()
        if any(kind in result for kind in PRECISIONS)
    ]
    says = "Double: largest relative distance of any tensor from the CPU's after six steps. The others: largest "
    says += "relative difference of any logged loss of the first epoch from the CPU's in single precision."
    return Table(("item", *PRECISIONS.values()), rows, says, (CHECKS,), (COMMAND,))


def apart(result: Mapping[str, Any], kind: str) -> str:
    """Return a distance from the CPU."""
    if kind not in result:
        return "-"
    difference = result[kind]["difference"]
    return f"{difference:.2g}" if difference >= LARGE or not difference else f"{difference:.0e}"


def repeats() -> Table:
    """Return what gives the same run twice."""
    items = {name: of["result"] for name, of in measured.entry(CHECKS, "items").items()}
    rows = [
        [
            name,
            yes(result["repeats_by_default"]),
            yes(result["deterministic"]["same_twice"]),
            ", ".join(f"`{one}`" for one in result["deterministic"]["operators_without"]) or "-",
        ]
        for name, result in items.items()
        if "deterministic" in result
    ]
    says = "Whether two runs are equal to the bit."
    head = ("item", "by default", "`deterministic=True`", "operators without a deterministic form")
    return Table(head, rows, says, (CHECKS,))


def yes(value: bool) -> str:
    """Return a truth value as a word."""
    return "same" if value else "differs"


def lane(item: str, name: str) -> Mapping[str, Any]:
    """Return what was measured of one way to take a step."""
    found: Mapping[str, Any] = measured.entry(COST, "items", item, "result", "lanes", name)
    return found


def ratio(item: str, pair: str) -> str:
    """Return the median of a ratio."""
    return f"{measured.entry(COST, 'items', item, 'result', 'ratios', pair, 'median'):.2f}"


def times() -> Table:
    """Return the time of a step, bare and through the trainer."""
    rows = []
    for label, (item, name) in LANES.items():
        aligned = name == "trainer aligned"
        bare = "-" if aligned else f"{lane(item, 'bare')['milliseconds']['median']:.1f}"
        beside = "-" if aligned else ratio(item, "trainer / bare")
        unaligned = ratio(item, "trainer aligned / trainer") if aligned else "-"
        rows.append([label, bare, f"{lane(item, name)['milliseconds']['median']:.1f}", beside, unaligned])
    says = "Medians, batch 256 (synthesis 256), eager."
    head = ("step", "bare loop, ms", "trainer, ms", "trainer / bare", "aligned / unaligned")
    return Table(head, rows, says, (COST,), (COMMAND,))


def rates() -> Table:
    """Return images a second, memory and the share of the card's matrix rate, through the trainer."""
    rows = []
    for label, (item, name) in LANES.items():
        of, rate = lane(item, name), measured.entry(COST, "items", item, "result", "rate", "of")
        share = f"{PERCENT * of['share_of_rate']:.1f} % of {rate}"
        rows.append([label, f"{of['images_per_second']:,}", f"{of['peak_megabytes']:,.0f}", share])
    return Table(("step", "images/s", "peak MB", "share of the matrix rate"), rows, "Through the trainer.", (COST,))


def long_rows() -> Table:
    """Return the accuracy of both rows after so many rounds."""
    names = {"Fast + condensed": "Fast + condensed, seed 0", "Fast* acgan 5": "Fast* acgan 5, seed 0"}
    curves = [measured.entry(ROWS, "items", item, "result", "curve") for item in names.values()]
    shown = [rounds for rounds in sorted({*curves[0], *curves[1]}, key=int) if int(rounds) > 20]
    rows, gaps = [], {rounds: curves[1][rounds] - curves[0][rounds] for rounds in shown if rounds in curves[1]}
    for rounds in shown:
        values = [f"{PERCENT * curve[rounds]:.1f}" if rounds in curve else "-" for curve in curves]
        rows.append([rounds, *values, f"{PERCENT * gaps[rounds]:+.1f}" if rounds in gaps else "-"])
    stopped = [measured.entry(ROWS, "items", item, "result", "rounds") for item in names.values()]
    whole = measured.entry(ROWS, "items", "Fast + condensed, seed 0", "result", "published_rounds")
    says = f"Accuracy in %, one seed; stopped by the clock after {stopped[0]} and {stopped[1]} of {whole} rounds."
    says += f" Guided is ahead in {sum(gap > 0 for gap in gaps.values())} of {len(gaps)}."
    return Table(("rounds", *names, "guided minus mixed"), rows, says, (ROWS,), (COMMAND,))


TABLES = {
    "gpu-checks": checks,
    "gpu-repeats": repeats,
    "gpu-times": times,
    "gpu-rates": rates,
    "gpu-rows": long_rows,
}
