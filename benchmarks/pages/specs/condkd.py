"""CondKD against its baselines on CIFAR-10 and the digits, and with mixed views."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.pages import measured, published
from benchmarks.pages.layout import EMPTY, NOT_RUN, Cell, Table, accuracy, budget, by_seed, gains
from benchmarks.pages.measured import BEST, LAST, PERCENT

CIFAR10, MIXED, LOSSES = "cifar10", "mixed-views-cifar10", "guided-losses-cifar10"
COMMAND = "python benchmarks/quality/ablation.py cifar10 --jobs 2 --extra trainer.precision=bf16-mixed"
MIXED_COMMAND = "python benchmarks/quality/mixed_views.py"
LOSSES_COMMAND, FITNET = "python benchmarks/quality/guided_losses.py", "100 FitNet + KD"
STEPS = "60 student steps a round at batch 128. "
SPREAD = "mean ± sample standard deviation over the seeds."
MAIN_ROWS = (
    ("condensed only", CIFAR10, "condensed only"),
    ("condensed only, mixup", MIXED, "condensed only, mixup"),
    ("Fast", CIFAR10, "Fast"),
    ("Fast + condensed", CIFAR10, "Fast + condensed"),
    ("Fast*, AC-GAN, weight 5", CIFAR10, "Fast* acgan 5"),
)
WITH_FITNET = (
    ("Fast + condensed, FitNet beside KD", LOSSES, f"Fast + condensed, {FITNET}"),
    ("Fast*, FitNet beside KD", LOSSES, f"Fast*, {FITNET}"),
)
PUBLISHED = {"Fast": "Fast", "Fast + condensed": "Fast + condensed", "Fast*, AC-GAN, weight 5": "Fast*"}


def readme() -> Table:
    """Return the one table of the README."""
    rows = [
        [label, accuracy(file, row), published.cell("condkd", PUBLISHED.get(label, ""))]
        for label, file, row in (*MAIN_ROWS, *WITH_FITNET)
    ]
    says = f"Last top-1 accuracy in %, {SPREAD} {budget(CIFAR10)} {STEPS}Published: {published.source('condkd')}. "
    says += "[Commands, commits and every seed](docs/results/condkd-cifar10.md)."
    return Table(("row", "ours, CIFAR-10", "published, CIFAR-100"), rows, says)


def main_table() -> Table:
    """Return last and best accuracy of every main row on CIFAR-10."""
    listed = (*MAIN_ROWS, ("Fast*, AC-GAN, weight 20", CIFAR10, "Fast* acgan 20"))
    rows = [
        [
            label,
            accuracy(file, row),
            accuracy(file, row, BEST),
            by_seed(file, row),
            published.cell("condkd", PUBLISHED.get(label, "")),
        ]
        for label, file, row in listed
    ]
    says = f"Top-1 accuracy in % on the 10,000 test images, {SPREAD} {budget(CIFAR10)} {STEPS}"
    says += f"_By seed_ is the last accuracy of seeds 0, 1, 2. Published: {published.source('condkd')}."
    head = ("row", "last", "best", "by seed", "published")
    return Table(head, rows, says, (CIFAR10, MIXED), (COMMAND, MIXED_COMMAND))


MIX = "Fast + condensed"
# change, file, row mixed in, row guided
CHANGES: tuple[tuple[str, str, str, str], ...] = (
    ("AC-GAN, weight 1", CIFAR10, MIX, "Fast* acgan 1"),
    ("AC-GAN, weight 5 (default)", CIFAR10, MIX, "Fast* acgan 5"),
    ("AC-GAN, weight 20", CIFAR10, MIX, "Fast* acgan 20"),
    ("AC-GAN, weight 60", CIFAR10, MIX, "Fast* acgan 60"),
    ("projection, weight 1", CIFAR10, MIX, "Fast* projection 1"),
    ("projection, weight 5", CIFAR10, MIX, "Fast* projection 5"),
    ("projection, weight 20", CIFAR10, MIX, "Fast* projection 20"),
    ("unconditional, weight 5", CIFAR10, MIX, "Fast* unconditional 5"),
    ("unconditional, weight 20", CIFAR10, MIX, "Fast* unconditional 20"),
    ("weight 5, ten real images per class as the set (upper control)", "cifar10-real", MIX, "Fast* acgan 5"),
    ("weight 5, a quarter of every batch condensed", "cifar10-share", MIX, "Fast* acgan 5"),
    ("weight 5, rising from 0 over the first 20 of 40 rounds", "cifar10-ramp", "", "Fast* acgan 5"),
    ("weight 5, `class_weight` 2 in place of 0.5", "cifar10-class", MIX, "Fast* acgan 5"),
    ("weight 20, on a view of its own (flip, translation, cutout)", "cifar10-view", "", "Fast* acgan 20"),
    ("weight 20, discriminator learning rate 4e-3 in place of 1e-3", "cifar10-rate", "", "Fast* acgan 20"),
)


def ablation() -> Table:
    """Return what every change does to mixed and guided runs."""
    rows = []
    for change, file, mixed, guided in CHANGES:
        pair = (accuracy(file, mixed), gains(file, guided, mixed)) if mixed else (EMPTY, EMPTY)
        rows.append([change, pair[0], accuracy(file, guided), by_seed(file, guided), pair[1]])
    says = (
        f"Last accuracy in %, {SPREAD} {budget(CIFAR10)} {STEPS}_By seed_: seeds 0, 1, 2. _Gain_: guided minus mixed."
    )
    says += " The changes are the same command with `--name` and the flags in their files."
    files = (CIFAR10, *(f"cifar10-{name}" for name in ("real", "share", "ramp", "class", "view", "rate")))
    return Table(("change", "mixed", "guided", "guided, by seed", "gain, by seed"), rows, says, files, (COMMAND,))


PLAIN = {"condensed only": "condensed only", "Fast + condensed": "Fast + condensed", "Fast*": "Fast* acgan 5"}
WEIGHTS = (1, 5, 20, 60)


def discriminators() -> Table:
    """Return the accuracy of guided runs by discriminator and weight."""
    kinds = {"AC-GAN": "acgan", "projection": "projection", "unconditional": "unconditional"}
    names = {kind: [f"Fast* {row} {weight}" for weight in WEIGHTS] for kind, row in kinds.items()}
    rows = [
        [kind, *(accuracy(CIFAR10, name) if measured.has_row(CIFAR10, name) else EMPTY for name in found)]
        for kind, found in names.items()
    ]
    head = ("discriminator", *(f"weight {weight}" for weight in WEIGHTS))
    return Table(head, rows, f"Last accuracy in %, {SPREAD} {budget(CIFAR10)}", (CIFAR10,), (COMMAND,))


VIEWS = ("mixup", "CutMix")


def mixed_views() -> Table:
    """Return the last accuracy of every row without mixing, with mixup and with CutMix."""
    rows = [
        [label, accuracy(CIFAR10, plain), *(accuracy(MIXED, f"{label}, {view}", LAST, True) for view in VIEWS)]
        for label, plain in PLAIN.items()
    ]
    says = f"Last accuracy in %, {SPREAD} {budget(CIFAR10)} {STEPS}The plain rows are those of the ablation."
    return Table(("row", "plain", *VIEWS), rows, says, (MIXED, CIFAR10), (MIXED_COMMAND,))


def mixed_views_by_seed() -> Table:
    """Return the same by seed."""
    rows: list[Sequence[Cell | str]] = []
    for label, plain in PLAIN.items():
        mixed = [f"{label}, {view}" for view in VIEWS]
        cells = [by_seed(MIXED, row) if measured.has_row(MIXED, row) else NOT_RUN for row in mixed]
        rows.append([label, by_seed(CIFAR10, plain), *cells])
    return Table(("row", "plain", *VIEWS), rows, "Last accuracy in %, seeds 0, 1, 2.", (MIXED, CIFAR10))


def mixed_views_curves() -> Table:
    """Return the accuracy of seed 0 after so many rounds."""
    rounds = (8, 16, 24, 32)
    rows = []
    for label, plain in PLAIN.items():
        lines = [("plain", CIFAR10, plain), *((view, MIXED, f"{label}, {view}") for view in VIEWS)]
        rows.extend(
            [f"{label}, {view}", *(after(file, row, at) for at in rounds)]
            for view, file, row in lines
            if measured.has_row(file, row)
        )
    head = ("row", *(f"{at} rounds" for at in rounds))
    says = "Accuracy in % of seed 0; after 40 rounds it is the first number of the table above."
    return Table(head, rows, says, (MIXED, CIFAR10))


def after(file: str, row: str, rounds: int) -> str:
    """Return the accuracy of seed 0 at the last validation that so many rounds held."""
    run = measured.entry(file, "rows", row, "runs", "0")
    # A curve begins after the warm-up rounds and ends with the last round.
    return f"{PERCENT * run['curve'][rounds - run['rounds'] - 1]:.1f}"


def guided_losses() -> Table:
    """Return the last accuracy of mixed and guided rows with KD alone and with FitNet beside it."""
    rows: list[Sequence[Cell | str]] = []
    for label in ("Fast + condensed", "Fast*"):
        plain, row = PLAIN[label], f"{label}, {FITNET}"
        cells = (accuracy(CIFAR10, plain), accuracy(LOSSES, row), by_seed(CIFAR10, plain), by_seed(LOSSES, row))
        rows.append([label, *cells])
    says = f"Last accuracy in %, {SPREAD} {budget(CIFAR10)} {STEPS}The rows of KD are those of the ablation."
    head = ("row", "KD", FITNET, "KD, by seed", f"{FITNET}, by seed")
    return Table(head, rows, says, (LOSSES, CIFAR10), (LOSSES_COMMAND,))


def digits() -> Table:
    """Return the rows at the quickstart's budget and at a small one."""
    names = list(dict.fromkeys([*measured.content("digits-hard")["rows"], *measured.content("digits")["rows"]]))
    order = ("condensed only", "noise", "Fast", "Fast + condensed", "Fast* acgan 1", "Fast* acgan 5")
    rows = [
        [name, *(accuracy(file, name, what) if measured.has_row(file, name) else EMPTY for file, what in FOUR)]
        for name in (*order, *(name for name in names if name not in order))
    ]
    says = f"Accuracy in % on the 500 held-out images, {SPREAD} Full budget: {budget('digits')}"
    says += f" Small budget: {budget('digits-hard')} 60 student steps a round."
    small = "python benchmarks/quality/ablation.py digits --name digits-hard --extra trainer.max_epochs=11"
    commands = (
        "python benchmarks/quality/ablation.py digits",
        f"{small} model.init_args.inversion.init_args.batch_size=16",
    )
    return Table(
        ("row", "full: last", "full: best", "small: last", "small: best"),
        rows,
        says,
        ("digits", "digits-hard"),
        commands,
    )


FOUR = (("digits", LAST), ("digits", BEST), ("digits-hard", LAST), ("digits-hard", BEST))
TABLES = {
    "readme": readme,
    "condkd-cifar10": main_table,
    "ablation": ablation,
    "discriminators": discriminators,
    "mixed-views": mixed_views,
    "mixed-views-by-seed": mixed_views_by_seed,
    "mixed-views-curves": mixed_views_curves,
    "guided-losses": guided_losses,
    "condkd-digits": digits,
}
