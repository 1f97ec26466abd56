"""Every inversion method at one small budget, on the digits and on CIFAR-10."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.pages import measured
from benchmarks.pages.layout import EMPTY, Cell, Table, accuracy, budget, by_seed, figure, gains

DIGITS, LIVE, CIFAR10 = "methods-digits", "methods-digits-live", "methods-cifar10"
SPREAD = "mean ± sample standard deviation over the seeds."
SCRIPT = "python benchmarks/quality/inversion_methods.py"
METHODS = {
    "condensed only": "condensed only",
    "noise": "noise",
    "noise, teacher under batch statistics": "batch_statistics_noise",
    "real images": "real_subset",
    "NAYER": "nayer",
    "Fast": "fast",
    "DeepInversion": "deep_inversion",
    "Adaptive DeepInversion": "adaptive_deep_inversion",
    "CMI": "cmi",
    "DAFL": "dafl",
    "ZSKT (student in eval mode)": "zskt (student in eval mode)",
    "DFQ": "dfq",
    "DFAD": "dfad",
    "DFAD (form of DataFree)": "dfad (DataFree)",
    "PRE-DFKD (student in eval mode)": "pre_dfkd (student in eval mode)",
}
PLAIN, MIXED, GUIDED, WEAK = "", " + condensed", "*", "* 0.5"
DISTANCES = {
    "to_real": "to real",
    "to_real_in_class": "to real, in class",
    "to_condensed": "to condensed",
    "nearest_condensed": "nearest condensed",
}
DIVERSITY = "diversity_in_class"
ALIGNMENTS = "alignments-cifar10"
SAME = {  # runs of the same settings that stand in another file
    (CIFAR10, "nayer + condensed"): (ALIGNMENTS, "nayer, none"),
    (CIFAR10, "nayer*"): (ALIGNMENTS, "nayer, AC-GAN 5"),
}


def listed(file: str) -> dict[str, str]:
    """Return the label and row of every method that a file has."""
    return {label: row for label, row in METHODS.items() if measured.has_row(file, row)}


def place(file: str, row: str) -> tuple[str, str] | None:
    """Return the file and name under which a row stands; ``None`` where a method has no such form."""
    found = SAME.get((file, row), (file, row))
    return found if measured.has_row(*found) else None


def maybe(file: str, row: str) -> Cell:
    """Return the accuracy of a row, or a dash where a method has no such form."""
    found = place(file, row)
    return accuracy(*found) if found else EMPTY


def accuracies(file: str) -> Table:
    """Return every method plain, mixed and guided."""
    ways = (PLAIN, MIXED, GUIDED, WEAK)
    rows = [[label, *(maybe(file, row + way) for way in ways)] for label, row in listed(file).items()]
    says = f"Last accuracy in %, {SPREAD} {budget(file)} 60 student steps a round."
    head = ("method", "plain", "+ condensed", "guided, weight 5", "guided, weight 0.5")
    return Table(head, rows, says, (file,), (f"{SCRIPT} digits --jobs 2",))


def accuracies_and_gains(file: str) -> Table:
    """Return every method plain, mixed and guided, with what guiding gains by seed."""
    rows = []
    for label, row in listed(file).items():
        mixed, guided = place(file, row + MIXED), place(file, row + GUIDED)
        gain = gains(guided[0], guided[1], mixed[1]) if mixed and guided else EMPTY
        rows.append([label, *(maybe(file, row + way) for way in (PLAIN, MIXED, GUIDED)), gain])
    says = f"Last accuracy in %, {SPREAD} {budget(file)} 40 student steps a round. _Gain_: guided minus mixed, by seed."
    head = ("method", "plain", "+ condensed", "guided", "gain")
    return Table(head, rows, says, (file, ALIGNMENTS), (f"{SCRIPT} cifar10 --jobs 2",))


def places(file: str, ways: Sequence[str]) -> Table:
    """Return where the images of every method lie."""
    rows = [[label, *(joined(file, row, ways, what) for what in DISTANCES)] for label, row in placed(file).items()]
    order = "plain / guided at weight 0.5 / at 5" if WEAK in ways else "plain / guided"
    says = "Energy distances in units of the mean distance of two real images, and the mean distance to the nearest "
    says += f"condensed image; {order}."
    return Table(("method", *DISTANCES.values()), rows, says, (file,))


def diversity_and_time(file: str, ways: Sequence[str]) -> Table:
    """Return how diverse the images of every method are in a class, and what a run takes."""
    rows = []
    for label, row in listed(file).items():
        diverse = joined(file, row, ways, DIVERSITY) if row in placed(file).values() else "-"
        rows.append([label, diverse, *(seconds(file, row + way) for way in (PLAIN, GUIDED))])
    order = "plain / guided at weight 0.5 / at 5" if WEAK in ways else "plain / guided"
    says = f"Diversity is the mean distance of two images of a class, divided by the same of real images; {order}."
    head = ("method", "diversity in class", "CPU-seconds of a run, plain", "guided")
    return Table(head, rows, says, (file,))


def placed(file: str) -> dict[str, str]:
    """Return the methods of which there are distances."""
    return {label: row for label, row in listed(file).items() if "embeddings" in measured.entry(file, "rows", row)}


def joined(file: str, row: str, ways: Sequence[str], what: str) -> str:
    """Return one distance of the forms of a method."""
    there = [found for way in ways if (found := place(file, row + way))]
    return " / ".join(figure(*found, f"embeddings/{what}", 2, spread=False).text for found in there)


def seconds(file: str, row: str) -> str:
    """Return the mean CPU-seconds of a run."""
    found = place(file, row)
    return figure(*found, "cpu_seconds", 0, spread=False).text if found else "-"


def nayer() -> Table:
    """Return NAYER with four kinds of class vectors."""
    kinds = {
        "rows of the teacher's final layer (default)": "nayer",
        "means of the condensed images' embeddings": "nayer condensed means",
        "one-hot": "nayer one-hot",
        "a file of random vectors in place of text embeddings": "nayer random file",
    }
    rows = [[label, *(accuracy(file, row, pending=True) for file in (DIGITS, CIFAR10))] for label, row in kinds.items()]
    budgets = f"Digits: {budget(DIGITS, [*kinds.values()])} CIFAR-10: {budget(CIFAR10, [*kinds.values()])}"
    says = f"Last accuracy in % of the plain method, {SPREAD} {budgets}"
    return Table(("class vectors", "digits", "CIFAR-10"), rows, says, (DIGITS, CIFAR10))


def live() -> Table:
    """Return DFAD in its two forms with several students, images rendered live."""
    forms = {
        "DFAD, its student": "dfad (396 blocks, its student)",
        "DFAD (form of DataFree), the same student": "dfad (DataFree, 396 blocks, the same student)",
        "DFAD, SGD, cropped images": "dfad (396 blocks, SGD, cropped images)",
        "DFAD (form of DataFree), SGD, cropped images": "dfad (DataFree, 396 blocks, SGD, cropped images)",
        "DFAD, Adam, cropped images": "dfad (396 blocks of 1 : 5)",
    }
    rows = [[label, accuracy(LIVE, row), by_seed(LIVE, row)] for label, row in forms.items()]
    says = f"Last accuracy in %, {SPREAD} {budget(LIVE, [*forms.values()])} Images are rendered live."
    return Table(("row", "last", "by seed"), rows, says, (LIVE,), (f"{SCRIPT} digits-live",))


def live_others() -> Table:
    """Return the methods with a live generator at five generator steps to five of the student."""
    forms = {
        "DAFL": "dafl",
        "ZSKT (student in eval mode)": "zskt (student in eval mode)",
        "DFQ (generator in train mode)": "dfq (generator in train mode)",
        "DFAD (form of DataFree)": "dfad (DataFree, generator in train mode)",
        "PRE-DFKD (student in eval mode)": "pre_dfkd (student in eval mode)",
        "DFAD": "dfad",
        "ZSKT": "zskt",
        "DFQ": "dfq",
    }
    rows = [[label, *(maybe(LIVE, row + way) for way in (PLAIN, MIXED, GUIDED))] for label, row in forms.items()]
    return Table(
        ("method", "plain", "+ condensed", "guided"),
        rows,
        f"Last accuracy in %. {budget(LIVE, [*forms.values()])}",
        (LIVE,),
    )


TABLES = {
    "methods-digits": lambda: accuracies(DIGITS),
    "methods-digits-places": lambda: places(DIGITS, (PLAIN, WEAK, GUIDED)),
    "methods-digits-diversity": lambda: diversity_and_time(DIGITS, (PLAIN, WEAK, GUIDED)),
    "methods-nayer": nayer,
    "methods-live": live,
    "methods-live-others": live_others,
    "methods-cifar10": lambda: accuracies_and_gains(CIFAR10),
    "methods-cifar10-places": lambda: places(CIFAR10, (PLAIN, GUIDED)),
    "methods-cifar10-diversity": lambda: diversity_and_time(CIFAR10, (PLAIN, GUIDED)),
}
