"""Make the pictures of docs/images from runs on the handwritten digits: some minutes on one core, nothing downloaded.

``python docs/pictures.py --runs RUNS`` trains the runs that the folder lacks, one process each, and draws the pictures.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import torch

from lightning_condkd.commands._finished_run import FinishedRun
from lightning_condkd.figures import (
    LabeledImages,
    bar_figure,
    curve_figure,
    feature_figure,
    feature_points,
    figure_pixels,
    png,
    rows_by_source,
)
from lightning_condkd.figures.feature_points import embeddings_of
from lightning_condkd.image_grids import labeled_grid
from lightning_condkd.pixels import to_pixels
from lightning_condkd.writing import write_atomic

ROOT = Path(__file__).resolve().parents[1]
METHOD = "model.init_args.inversion.init_args"
CROP = "{class_path: CropFlip, init_args: {padding: 1, flip_probability: 0.0}}"
ROLL = "{class_path: RollFlip, init_args: {pixels: 1, flip_probability: 0.0}}"
GUIDED = [f"--config={ROOT}/configs/quickstart.yaml", "--trainer.callbacks=[]"]
MIXED = [*GUIDED, "--model.init_args.alignment=null"]


def method(recipe: str, steps: int, *more: str) -> list[str]:
    """Return the flags of a method, mixed: 16 images and 60 student steps a round, the first without student."""
    cadence = {"synthesis_steps": steps, "distill_steps": 60, "repeats": 1, "warmup_rounds": 1}
    own = [f"--{METHOD}.cadence.{name}={value}" for name, value in cadence.items()]
    given = [f"--{METHOD}.{flag}" for flag in (*more, "batch_size=16")]
    return [
        f"--config={ROOT}/configs/quickstart.yaml",
        f"--config={ROOT}/configs/methods/{recipe}.yaml",
        "--trainer.callbacks=[]",
        "--model.init_args.alignment=null",
        *own,
        *given,
    ]


ONE_BATCH = ["cadence.batches=1", "cadence.warmup_batches=1"]
SMALL = ["generator.width=16", "generator.latent_size=64", "generator.lr=0.01", f"augment={CROP}"]
RUNS = {
    "condensed only": [*MIXED, "--model.init_args.inversion=NoInversion", f"--{METHOD}.cadence.synthesis_steps=0"],
    "Fast, plain": MIXED,
    "Fast, guided": GUIDED,
    "NAYER": method("nayer", 50, *ONE_BATCH, *SMALL),
    "NAYER, guided": [flag for flag in method("nayer", 50, *ONE_BATCH, *SMALL) if flag != MIXED[-1]],
    "DeepInversion": method("deep_inversion", 100, f"augment={ROLL}"),
    "noise": method("noise", 1),
}


def make_runs(folder: Path) -> dict[str, Path]:
    """Train the runs that the folder lacks, and return the folder of each."""
    variables = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "PYTHONPATH": str(ROOT)}
    found = {name: folder / name / "lightning_logs" / "version_0" for name in RUNS}
    for name in (name for name, run in found.items() if not (run / "summary.json").exists()):
        written = [f"--trainer.default_root_dir={folder / name}", "--trainer.enable_progress_bar=false"]
        command = [sys.executable, "-m", "lightning_condkd", "fit", *RUNS[name], *written]
        subprocess.run(command, env={**os.environ, **variables}, check=True)
    return found


def latest(images: LabeledImages, rows: int, classes: int = 10) -> torch.Tensor:
    """Return the latest images of each class, class by class in rows, the newest first."""
    of_class = [to_pixels(images.images[images.labels == label][-rows:]).flip(0) for label in range(classes)]
    return torch.stack(of_class, 1).flatten(0, 1)


def condensed_beside_synthetic(run: FinishedRun, rows: int = 5) -> torch.Tensor:
    """Return a row of condensed images above rows of synthetic ones, a column for each class."""
    condensed = latest(condensed_images(run), 1)
    names = ["condensed", "synthetic", *[""] * (rows - 1)]
    images = torch.cat([condensed, latest(run.synthetic, rows)])
    return labeled_grid(images, torch.arange(rows + 1).repeat_interleave(10), names, columns=10)


def condensed_images(run: FinishedRun) -> LabeledImages:
    """Return the condensed images of a run."""
    return LabeledImages(run.condensed.images, run.condensed.labels)


def feature_map(plain: FinishedRun, guided: FinishedRun) -> torch.Tensor:
    """Return the t-SNE of real, condensed and synthetic digits, plain and guided in one plane."""
    real = plain.real
    assert real is not None
    images = {"real": real, "condensed": condensed_images(plain), "plain": plain.synthetic, "guided": guided.synthetic}
    points = feature_points(plain.teacher, images)
    shared = {"real": points["real"], "condensed": points["condensed"]}
    panels = {f"synthetic, {way}": {**shared, "synthetic": points[way]} for way in ("plain", "guided")}
    return figure_pixels(feature_figure(panels, [str(label) for label in range(10)]))


def share_at_home(run: FinishedRun) -> float:
    """Return the share of synthetic images whose nearest condensed image is of their class, by the teacher's features.

    The condensed set has one image of each class, in the order of the classes.
    """
    images = run.synthetic.chosen(500, 10)
    condensed, synthetic = (
        embeddings_of(run.teacher, one) for one in (latest(condensed_images(run), 1), images.images)
    )
    return float((torch.cdist(synthetic, condensed).argmin(1) == images.labels).float().mean())


def accuracy_curves(runs: dict[str, FinishedRun]) -> torch.Tensor:
    """Return the student's accuracy after each round."""
    title = "accuracy of the student"
    curves = {name: run.curves["val/student_accuracy"] for name, run in runs.items()}
    teacher = {title: {"teacher": next(iter(runs.values())).summary["teacher_accuracy"]}}
    return figure_pixels(curve_figure({title: curves}, list(runs), teacher))


def cost_bars(results: Path) -> torch.Tensor:
    """Return the CPU-seconds of a synthesis step of each method, and what alignment adds."""
    content = json.loads(results.read_text())
    taken, steps = content["step"]["cpu"]["milliseconds"], content["synthesis_steps_by_default"]
    bars = {}
    for name, count in steps.items():
        plain, guided = (taken[key]["median"] / 1000 for key in (name, f"{name}*"))
        label = f"{name}, {count} {'step' if count == 1 else 'steps'} a batch"
        bars[label] = {"plain": plain, "alignment adds": guided - plain}
    title = f"a synthesis step of {content['batch_size']} images, 32 px, one thread"
    return figure_pixels(bar_figure(bars, title, "CPU-seconds"))


def pictures(runs: dict[str, FinishedRun]) -> dict[str, torch.Tensor]:
    """Return all pictures by the name of their file."""
    methods = {name: runs[name].synthetic for name in RUNS if name != "condensed only"}
    rows = {
        "condensed only": "condensed only",
        "Fast, plain": "Fast, condensed mixed in",
        "Fast, guided": "Fast, guided",
    }
    return {
        "condensed-beside-synthetic": condensed_beside_synthetic(runs["NAYER, guided"]),
        "methods-digits": rows_by_source({"condensed": condensed_images(runs["Fast, guided"]), **methods}, 10),
        "tsne-digits": feature_map(runs["NAYER"], runs["NAYER, guided"]),
        "curves-digits": accuracy_curves({title: runs[name] for name, title in rows.items()}),
        "cost-methods": cost_bars(ROOT / "benchmarks" / "results" / "cost-methods.json"),
    }


def main() -> None:
    """Train and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "pictures", help="folder of the runs")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "images", help="folder of the pictures")
    options = parser.parse_args()
    runs = {name: FinishedRun(folder, name) for name, folder in make_runs(options.runs).items()}
    for name in ("Fast, plain", "Fast, guided", "NAYER", "NAYER, guided"):
        print(f"{name}: {100 * share_at_home(runs[name]):.0f} % are nearest to the condensed image of their class")
    for name, pixels in pictures(runs).items():
        write_atomic(options.output / f"{name}.png", png(pixels, palette=True))
        print(options.output / f"{name}.png")


if __name__ == "__main__":
    main()
