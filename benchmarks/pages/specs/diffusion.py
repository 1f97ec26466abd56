"""DiffDFKD and GenDD on the digits."""

from __future__ import annotations

from benchmarks.pages import measured
from benchmarks.pages.layout import EMPTY, Table, accuracy, figure

DIFF, GENDD = "diff-dfkd-digits", "gendd-digits"
SPREAD = "mean ± sample standard deviation over the seeds."
IMAGES = {
    "null class, unguided": "unguided",
    "null class, guided": "guided",
    "null class, guided, CutMix": "guided, CutMix",
    "null class, guided, aligned (weight 1)": "guided + aligned",
    "null class, guided, aligned, CutMix": "guided + aligned, CutMix",
    "null class, guided, not through the U-Net": "guided, not through the U-Net",
    "classes (guidance scale 2), unguided": "classes, unguided",
    "classes (guidance scale 2), guided": "classes, guided",
    "Fast at equal CPU-seconds": "Fast",
    "noise": "noise",
    "real images": "real",
}
PREDICTIONS = {
    "DDPM, 32 steps": "DDPM-32 x1",
    "mean of 5 samples": "DDPM-32 x5",
    "DDIM, 8 steps": "DDIM-8 x1",
    "linear": "linear",
}


def students() -> Table:
    """Return what another network and a student make of the images."""
    rows = [
        [
            label,
            accuracy(DIFF, row, "judge"),
            figure(DIFF, row, "bn_distance", 2, spread=False),
            accuracy(DIFF, row, "student_50"),
            accuracy(DIFF, row, "student_200"),
        ]
        for label, row in IMAGES.items()
    ]
    head = ("images", "judge", "BatchNorm distance", "student, 50 images", "student, 200 images")
    command = "python benchmarks/quality/diff_dfkd_digits.py --pipeline FOLDER"
    of = measured.entry(DIFF, "setting")
    says = f"In %, {SPREAD} {of['student_steps']} student steps at batch {of['batch']}, "
    says += f"{of['denoising_steps']} denoising steps."
    return Table(head, rows, says, (DIFF,), (command,))


def seconds() -> Table:
    """Return the CPU-seconds of 200 images."""
    rows = [[label, figure(DIFF, row, "synthesis_cpu_seconds", 1, spread=False)] for label, row in IMAGES.items()]
    return Table(("images", "CPU-seconds of 200 images"), rows, "Mean.", (DIFF,))


def gendd() -> Table:
    """Return the accuracy of every prediction of GenDD."""
    rows = []
    for name, row in measured.content(GENDD)["rows"].items():
        cells = [
            accuracy(GENDD, name, f"accuracy/{key}/last") if key in row["mean"] else EMPTY
            for key in PREDICTIONS.values()
        ]
        rows.append([name, *cells])
    of = measured.entry(GENDD, "setting")
    says = f"Accuracy in % at the last step, {SPREAD} {of['steps']} steps at batch {of['batch']}."
    return Table(("row", *PREDICTIONS), rows, says, (GENDD,), ("python benchmarks/quality/gendd_digits.py",))


def gendd_seconds() -> Table:
    """Return the CPU-seconds that each takes to train."""
    rows = [
        [name, figure(GENDD, name, "train_cpu_seconds", 0, spread=False)] for name in measured.content(GENDD)["rows"]
    ]
    return Table(("row", "CPU-seconds to train"), rows, "Mean.", (GENDD,))


TABLES = {
    "diffdfkd": students,
    "diffdfkd-seconds": seconds,
    "gendd": gendd,
    "gendd-seconds": gendd_seconds,
}
