"""One run through the command line's own class; prints its summary with the distances of the synthesized images."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.support.feature_distances import figures
from lightning_condkd.callbacks import RunSummary
from lightning_condkd.cli import CondKDCLI
from lightning_condkd.modules import CondKD
from lightning_condkd.pixels import to_pixels
from lightning_condkd.randomness import Draw
from lightning_condkd.training.batches import real_batch

MOST = 2000


def synthesized(module: CondKD) -> tuple[Tensor, Tensor]:
    """Return labelled images: of the bank, evenly over the rounds, or as many rendered by the finished method."""
    bank = module.transfer_set.bank
    if len(bank):
        rows = torch.linspace(0, len(bank) - 1, min(len(bank), MOST)).long()
        return to_pixels(bank.images[rows]), bank.labels[rows]
    unit = module.inversion.cadence.unit(module.trainer.max_epochs, module.inversion.cadence.synthesis_steps)
    images = module.inversion.sample(200, module.teacher, unit, Draw(module.seed, unit.counter)).images
    return images, module.teacher(images).logits.argmax(1)


def real_images(cli: CondKDCLI) -> tuple[Tensor, Tensor]:
    """Return held-out images."""
    batches = [real_batch(batch) for batch in cli.datamodule.val_dataloader()]
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    rows = torch.linspace(0, len(images) - 1, min(len(images), MOST)).long()
    return images[rows], labels[rows]


def main() -> None:
    """Run with the arguments of ``lightning-condkd fit``."""
    parser = argparse.ArgumentParser(description=__doc__, epilog="All arguments are those of `lightning-condkd fit`.")
    _, arguments = parser.parse_known_args()
    begin = time.process_time()
    with contextlib.redirect_stdout(sys.stderr):
        cli = CondKDCLI(["fit", *arguments])
        seconds = time.process_time() - begin
        summary = next(c for c in cli.trainer.callbacks if isinstance(c, RunSummary)).summary(cli.trainer, cli.model)
        for path in ("best_checkpoint", "checkpoints"):  # gone with the folder
            summary.pop(path, None)
        condensed = cli.datamodule.transfer_set.condensed
        if cli.model.inversion.cadence.synthesis_steps:
            images, labels = synthesized(cli.model)
            summary["embeddings"] = figures(
                cli.model.teacher, images, labels, real_images(cli), condensed.pixels(slice(None))
            )
    print(json.dumps({**summary, "cpu_seconds": round(seconds, 1), "threads": os.environ.get("OMP_NUM_THREADS")}))


if __name__ == "__main__":
    main()
