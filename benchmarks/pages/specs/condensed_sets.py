"""Condensed sets alone and expanded, while they are learned, and frozen from a generator."""

from __future__ import annotations

from benchmarks.pages import measured, published
from benchmarks.pages.layout import EMPTY, Cell, Table, accuracy, figure
from benchmarks.support import set_tables

DIGITS, CIFAR10 = "sets-digits", "sets-cifar10"
CURVES = {"digits": "curves-digits", "cifar10": "curves-cifar10"}
GENERATIVE = "generative"
SPREAD = "mean ± sample standard deviation over the seeds."
ALONE, MIXED, GUIDED = "alone/accuracies", "student/+ condensed", "student/*"
COMMAND = "python benchmarks/quality/condensed_sets.py"
MAKERS = {
    "DM": "`DistributionMatching`",
    "DC": "`GradientMatching`",
    "DSA": "`GradientMatching` with `augment: dsa`",
    "MTT": "`TrajectoryMatching`, after `ExpertTrajectories`",
    "generative": "module `GenerativeCondensation`",
    "RandomSelection": "`select`: `RandomSelection`",
    "Herding": "`select`: `Herding`",
    "KCentre": "`select`: `KCenter`",
    "KMeans": "`select`: `KMeans`",
    "RealismSelection": "`select`: `RealismSelection` (RDED-like)",
}


def sets(file: str, ipc: int) -> Table:
    """Return every set alone and expanded."""
    rows = [
        [
            name,
            accuracy(file, name, ALONE),
            figure(file, name, "distance", 2, spread=False),
            accuracy(file, name, MIXED),
            accuracy(file, name, GUIDED),
        ]
        for name in of_size(file, ipc)
    ]
    says = f"Accuracy in %, {SPREAD} _Alone_: {judges(file)}"
    head = ("set", "alone", "distance", "student, + condensed", "student, guided")
    return Table(head, rows, says, (file,), (f"{COMMAND} {file.removeprefix('sets-')}",))


def judges(file: str) -> str:
    """Return how a set alone is judged."""
    networks, epochs = measured.entry(file, "runs"), measured.entry(file, "recipe", "epochs")
    return f"{networks} fresh networks, {epochs} epochs on the set."


def of_size(file: str, ipc: int) -> list[str]:
    """Return the sets of a file that have so many images per class."""
    return [name for name in measured.content(file)["rows"] if name.split()[1] == str(ipc)]


def seconds() -> Table:
    """Return the CPU-seconds that it takes to make each set."""
    columns = ((DIGITS, 1), (DIGITS, 10), (CIFAR10, 10))
    rows = [[name, *(made(file, f"{name} {ipc}") for file, ipc in columns)] for name in MAKERS]
    says = "CPU-seconds, mean over the runs that were timed."
    head = ("set", "digits, 1 per class", "digits, 10 per class", "CIFAR-10, 10 per class")
    return Table(head, rows, says, (DIGITS, CIFAR10))


def made(file: str, row: str) -> str:
    """Return the mean CPU-seconds of making a set."""
    there = measured.has_row(file, row)
    return figure(file, row, "making_cpu_seconds", 0, spread=False).text if there else "-"


def overview() -> Table:
    """Return every way to make a set with the accuracies of the set alone."""
    columns = ((CIFAR10, 10), (DIGITS, 1), (DIGITS, 10))
    rows = [
        [name, published.cell("sets", name), *(alone(file, f"{name} {ipc}") for file, ipc in columns)]
        for name in MAKERS
    ]
    says = f"Accuracy in % of fresh ConvNets on the set alone, {SPREAD} Published: {published.source('sets')}."
    head = ("set", "published, CIFAR-10", "CIFAR-10, 10 per class", "digits, 1 per class", "digits, 10 per class")
    return Table(head, rows, says, (CIFAR10, DIGITS), (f"{COMMAND} cifar10", f"{COMMAND} digits"))


def alone(file: str, row: str) -> Cell:
    """Return how good a set is alone, or a dash where there is none."""
    return accuracy(file, row, ALONE) if measured.has_row(file, row) else EMPTY


def makers() -> Table:
    """Return what makes each set, and what it takes."""
    rows = [[name, how] for name, how in MAKERS.items()]
    return Table(("set", "made by"), rows)


def correlations(kind: str) -> Table:
    """Return how the rank of a set goes with that of its students, by size and seed."""
    head, *found = set_tables.correlations(measured.content(DIGITS))
    columns = [at for at, name in enumerate(head) if at < 3 or name.startswith(kind)]
    rows = [[row[at] for at in columns] for row in found]
    says = "Rank correlation (Spearman); equal sets count once."
    return Table([head[at] for at in columns], rows, says, (DIGITS,))


def by_iteration(task: str, names: tuple[str, ...], expected: int) -> Table:
    """Return the accuracy of some sets at every iteration that was measured."""
    file = CURVES[task]
    found = {name: dict(map(tuple, measured.entry(file, "rows", name, "mean"))) for name in names}
    counts = {name: len(measured.entry(file, "rows", name, "runs")) for name in names}
    rows = [
        [str(step), *(point(of.get(step), counts[name]) for name, of in found.items())]
        for step in sorted({step for of in found.values() for step in of})
    ]
    networks, epochs = measured.entry(file, "networks"), measured.entry(file, "judge", 0).split("=")[1]
    says = f"Accuracy in % of {networks} networks, {epochs} epochs on the set so far, {SPREAD}"
    command = f"python benchmarks/quality/condensation_curves.py {task}"
    return Table(("iteration", *names), rows, says, (file,), (command,), expected)


def point(found: dict[str, float] | None, runs: int) -> Cell:
    """Return one point of a curve."""
    return EMPTY if found is None else Cell(set_tables.spread(found, runs), runs)


def generative() -> Table:
    """Return every way to train the generator, with what its exports teach."""
    sizes = [str(ipc) for ipc in measured.content(GENERATIVE)["ipc"]]
    rows = []
    for name, row in measured.content(GENERATIVE)["rows"].items():
        cells = [accuracy(GENERATIVE, name, size) if size in row else EMPTY for size in sizes]
        timed = any("cpu_seconds" in run for run in row["runs"].values())
        rows.append([name, *cells, figure(GENERATIVE, name, "cpu_seconds", 0, spread=False).text if timed else "-"])
    networks, epochs = (measured.entry(GENERATIVE, "base", what) for what in ("networks", "epochs"))
    says = f"Accuracy in % of {networks} fresh ConvNets, {epochs} epochs on the set alone, {SPREAD}"
    head = ("set", *(f"{size} per class" for size in sizes), "CPU-seconds to train")
    return Table(head, rows, says, (GENERATIVE,), ("python benchmarks/quality/generative_condensation.py",))


TABLES = {
    "sets-overview": overview,
    "sets-makers": makers,
    "sets-seconds": seconds,
    "sets-cifar10": lambda: sets(CIFAR10, 10),
    "sets-digits-1": lambda: sets(DIGITS, 1),
    "sets-digits-10": lambda: sets(DIGITS, 10),
    "sets-correlations-alone": lambda: correlations("alone"),
    "sets-correlations-nearness": lambda: correlations("nearness"),
    "curves-cifar10": lambda: by_iteration("cifar10", ("DM 10", "DSA 10", "DC 10"), 3),
    "curves-digits-1": lambda: by_iteration("digits", ("DM 1", "DC 1", "DSA 1", "MTT 1"), 3),
    "curves-digits-10": lambda: by_iteration("digits", ("DM 10", "MTT 10"), 3),
    "generative": generative,
}
