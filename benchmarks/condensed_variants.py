"""Write the condensed sets of the CIFAR-10 study: real images in place of the DM file, and other labels on its own."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from lightning_condkd.data import CondensedSet
from lightning_condkd.data.convert import teacher_accuracy
from lightning_condkd.data.images import from_folder
from lightning_condkd.data.importers import import_condensed
from lightning_condkd.models import CifarResNet, Observer


def real(folder: Path, ipc: int, seed: int) -> CondensedSet:
    """Return random training images: the upper control, which no user without the data has."""
    source, generator = from_folder(folder), torch.Generator().manual_seed(seed)
    rows = torch.cat([rows[torch.randperm(len(rows), generator=generator)[:ipc]] for rows in source.class_rows])
    return CondensedSet(source.images[rows].float() / 255, source.labels[rows])


@torch.no_grad()
def predictions(condensed: CondensedSet, teacher: Observer) -> torch.Tensor:
    """Return the teacher's label of every image."""
    return teacher.eval()(condensed.pixels(slice(None))).logits.argmax(1)


def main() -> None:
    """Write ``real.safetensors``, ``relabelled.safetensors`` and ``recognised.safetensors``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    weights = options.data / "resnet20-cifar10.safetensors"
    teacher = Observer(CifarResNet(20), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), weights=weights)
    condensed = import_condensed(options.data / "res_DM_CIFAR10_ConvNet_10ipc.pt")
    found = predictions(condensed, teacher)
    kept = found == condensed.labels
    sets = {
        "real": real(options.data / "cifar10/train", options.ipc, options.seed),
        "relabelled": CondensedSet(condensed.images, found),
        "recognised": CondensedSet(condensed.images[kept], condensed.labels[kept]),
    }
    for name, one in sets.items():
        one.save(options.data / f"{name}.safetensors")
        counts = torch.bincount(one.labels, minlength=one.num_classes).tolist()
        print(f"{name}: {len(one)} images, by class {counts}, teacher top-1 {teacher_accuracy(one, teacher):.3f}")


if __name__ == "__main__":
    main()
