"""Discriminator or moments, on three inversion methods."""

from __future__ import annotations

from benchmarks.pages import figures, measured
from benchmarks.pages.layout import Cell, Table, accuracy, budget, figure

DIGITS, CIFAR10 = "alignments-digits", "alignments-cifar10"
METHODS = {"Fast": "fast", "CMI": "cmi", "NAYER": "nayer"}
ALIGNMENTS = (
    "none",
    "AC-GAN 5",
    "MMD 1",
    "MMD 100",
    "MMD 100 + logits (PGDI)",
    "logits 1",
    "characteristic function 30",
)
SPREAD = "mean ± sample standard deviation over the seeds."
COMMAND = "python benchmarks/quality/alignments.py"


def accuracies(file: str, task: str) -> Table:
    """Return the accuracy of every alignment that has run with every method."""
    kinds = [kind for kind in ALIGNMENTS if any(measured.has_row(file, f"{one}, {kind}") for one in METHODS.values())]
    rows = [
        [kind, *(accuracy(file, f"{method}, {kind}", pending=True) for method in METHODS.values())] for kind in kinds
    ]
    says = f"Last accuracy in %, {SPREAD} {budget(file)} The number behind a kind is its weight."
    return Table(("alignment", *METHODS), rows, says, (file,), (f"{COMMAND} {task}",))


def places(what: str, says: str) -> Table:
    """Return a distance or the diversity of every alignment with every method on the digits."""
    rows = [[kind, *(place(f"{method}, {kind}", what) for method in METHODS.values())] for kind in ALIGNMENTS]
    return Table(("alignment", *METHODS), rows, says, (DIGITS,))


def place(row: str, what: str) -> Cell:
    """Return one figure of where images lie."""
    return figure(DIGITS, row, f"embeddings/{what}", 2, spread=False)


def short() -> Table:
    """Return accuracy and distance of every alignment on the digits."""
    rows = [[kind, *(both(f"{method}, {kind}") for method in METHODS.values())] for kind in ALIGNMENTS]
    says = f"Last accuracy in %, mean over the seeds. {budget(DIGITS)} The number behind a kind is its weight."
    return Table(("alignment", *METHODS), rows, says, (DIGITS,), (f"{COMMAND} digits",))


def both(row: str) -> Cell:
    """Return the accuracy of a row with the distance to real images of the same class in brackets."""
    found = figures.mean(DIGITS, row)
    return Cell(f"{found} ({figures.distance(DIGITS, row, 'to_real_in_class')})", accuracy(DIGITS, row).seeds)


TABLES = {
    "alignments-short": short,
    "alignments-digits": lambda: accuracies(DIGITS, "digits"),
    "alignments-digits-places": lambda: places("to_real_in_class", "Energy distance to real images of the same class."),
    "alignments-digits-diversity": lambda: places(
        "diversity_in_class", "Mean distance of two images of a class, divided by the same of real images."
    ),
    "alignments-cifar10": lambda: accuracies(CIFAR10, "cifar10"),
}
