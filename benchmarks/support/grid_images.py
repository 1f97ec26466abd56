"""The images of the grid of losses: real, condensed, synthetic, and the last two together."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_condkd.cli import CondKDCLI
from lightning_condkd.data import CondensedSet
from lightning_condkd.data.image_source import ImageSource
from lightning_condkd.models import Observer
from lightning_condkd.pixels import to_pixels

SOURCES = ("real", "condensed", "synthetic", "union")


class ImageFiles(NamedTuple):
    """Where the images of a task come from.

    Args:
        name: of the task.
        real: reads the training images.
        condensed: path of the condensed set.
        guided: flags of a guided run, whose bank gives the synthetic images.
    """

    name: str
    real: Callable[[], ImageSource]
    condensed: str
    guided: list[str]

    def load(self, source: str, teacher: Observer) -> CondensedSet:
        """Return the images of a source with the teacher's predictions as labels; written to a file the first time.

        Args:
            source: one of ``SOURCES``.
            teacher: the trained network.
        """
        path = Path(f"data/losses-{self.name}-{source}.safetensors")
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            images = self._images(source, teacher)
            CondensedSet(images, predicted(teacher, images)).save(path)
        return CondensedSet.load(path)

    def _images(self, source: str, teacher: Observer) -> Tensor:
        match source:
            case "real":
                return torch.as_tensor(self.real().images)
            case "condensed":
                return CondensedSet.load(self.condensed).images
            case "synthetic":
                return synthesized(self.guided)
        parts = [self.load(part, teacher).images for part in ("condensed", "synthetic")]
        return torch.cat([to_pixels(part) for part in parts])


@torch.no_grad()
def predicted(teacher: Observer, images: Tensor) -> Tensor:
    """Return the teacher's classes of images, ``(N,)``."""
    return torch.cat([teacher(to_pixels(part)).logits.argmax(1) for part in torch.split(images, 500)])


def synthesized(flags: list[str]) -> Tensor:
    """Return all images that the bank holds after a run with seed 0.

    Args:
        flags: of ``lightning-condkd fit``.
    """
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr):
        quiet = [f"--trainer.default_root_dir={folder}", "--trainer.enable_progress_bar=false", "--seed_everything=0"]
        bank = CondKDCLI(["fit", *flags, *quiet]).datamodule.transfer_set.bank
        return torch.as_tensor(bank.images).clone()
