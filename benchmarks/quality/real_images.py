"""Write a set of random training images: the upper control for a condensed set, which no user without the data has."""

from __future__ import annotations

import argparse
from pathlib import Path

from lightning_condkd.data import CondensedSet
from lightning_condkd.data.image_source import from_folder
from lightning_condkd.pixels import to_pixels


def real_set(folder: Path, ipc: int, seed: int) -> CondensedSet:
    """Return ``ipc`` images of every class, drawn by the seed alone."""
    source = from_folder(folder)
    return CondensedSet(to_pixels(source.images), source.labels).subset(ipc, seed)


def main() -> None:
    """Write ``real.safetensors`` beside the folder of images."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    real_set(options.data / "cifar10/train", options.ipc, options.seed).save(options.data / "real.safetensors")


if __name__ == "__main__":
    main()
