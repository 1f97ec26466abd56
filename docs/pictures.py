"""Make the pictures of docs/images from runs on the handwritten digits: a few minutes on one core, nothing downloaded.

``python docs/pictures.py --runs RUNS`` trains the runs that the folder lacks, one process each, and draws all pictures.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

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
    "Fast, mixed": MIXED,
    "Fast, guided": GUIDED,
    "NAYER": method("nayer", 50, *ONE_BATCH, *SMALL),
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


def main() -> None:
    """Train and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "images", help="folder of the pictures")
    options = parser.parse_args()
    make_runs(options.runs)


if __name__ == "__main__":
    main()
