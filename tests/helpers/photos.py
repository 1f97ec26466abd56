"""Small folders of images of different sizes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torchvision.transforms.functional import to_pil_image

SIZES = ((12, 9), (8, 8), (9, 16), (20, 11))


def write(folder: Path, classes: Sequence[str], per_class: int, sizes: Sequence[tuple[int, int]] = SIZES) -> Path:
    """Write random RGB images, ``per_class`` + label of each class, and return the folder."""
    generator, row = torch.Generator().manual_seed(0), 0
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for number in range(per_class + label):
            image = torch.randint(256, (3, *sizes[row % len(sizes)]), dtype=torch.uint8, generator=generator)
            to_pil_image(image).save(folder / name / f"{number}.png")
            row += 1
    return folder
