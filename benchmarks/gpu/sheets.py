"""Sheets of 32x32 tiles: many images in one image file, so that none pays for a header of its own."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

TILE = 32  # a multiple of JPEG's blocks of 8 pixels, so that no tile bleeds into its neighbour
COLUMNS = 50
PER_SHEET = COLUMNS * COLUMNS  # several sheets, so that threads can share the decoding

# Equal steps for all frequencies, and chroma in full size, lose least in PSNR. On 2,500 training images of CIFAR-10:
#   JPEG 4:4:4, all steps 8:  38.5 dB at 570 bytes an image        JPEG 4:4:4, all steps 10: 37.0 dB at 499 bytes
#   JPEG 4:4:4, quality 85:   34.1 dB at 451 bytes                 JPEG 4:2:0, quality 92:   33.1 dB at 472 bytes
#   WebP, quality 86:         33.0 dB at 367 bytes
#   WebP of Y, Cb and Cr each, qualities 90, 80, 80: 34.7 dB at 467 bytes
STEP = 8


class Form(NamedTuple):
    """How the sheets of a part are stored.

    Args:
        ending: of the files.
        options: of Pillow's ``save``.
    """

    ending: str
    options: dict[str, Any]


FORMS = {
    "train": Form("jpg", {"qtables": [[STEP] * 64] * 2, "subsampling": 0, "optimize": True, "progressive": True}),
    "test": Form("webp", {"lossless": True, "exact": True, "quality": 90, "method": 6}),
}


def write(images: NDArray[np.uint8], part: str, folder: Path) -> None:
    """Write images as numbered sheets; those of ``test`` lose nothing.

    Args:
        images: ``(N, 3, 32, 32)``, any number.
        part: ``train`` or ``test``.
        folder: where the sheets go.

    Raises:
        ValueError: if the images are of another shape or dtype.
    """
    if images.dtype != np.uint8 or not len(images) or images.shape[1:] != (3, TILE, TILE):
        expected = f"uint8 (N, 3, {TILE}, {TILE}) with N > 0"
        raise ValueError(
            f"{part}: expected images {expected}, got {images.dtype} {images.shape}; use those of CIFAR-10"
        )
    for number, begin in enumerate(range(0, len(images), PER_SHEET)):
        sheet = Image.fromarray(join(images[begin : begin + PER_SHEET]))
        sheet.save(path_of(folder, part, number), **FORMS[part].options)


def read(folder: Path, part: str, count: int) -> NDArray[np.uint8]:
    """Return the images that :func:`write` wrote, decoded by threads.

    Args:
        folder: where the sheets are.
        part: ``train`` or ``test``.
        count: how many images there are.

    Raises:
        ValueError: if a sheet has another mode or size than the number of images says.
    """
    images = np.empty((count, 3, TILE, TILE), np.uint8)

    def decode(begin: int) -> None:
        some = images[begin : begin + PER_SHEET]
        some[:] = cut(_opened(path_of(folder, part, begin // PER_SHEET), len(some)), len(some))

    with ThreadPoolExecutor() as pool:
        list(pool.map(decode, range(0, count, PER_SHEET)))
    return images


def path_of(folder: Path, part: str, number: int) -> Path:
    """Return where a sheet lies."""
    return folder / f"{part}-{number:02}.{FORMS[part].ending}"


def join(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return images as one sheet ``(H, W, 3)``; the last row is filled up with black."""
    rows = -(-len(images) // COLUMNS)
    tiles = np.zeros((rows * COLUMNS, 3, TILE, TILE), np.uint8)
    tiles[: len(images)] = images
    grid = tiles.reshape(rows, COLUMNS, 3, TILE, TILE).transpose(0, 3, 1, 4, 2)
    return np.ascontiguousarray(grid).reshape(rows * TILE, COLUMNS * TILE, 3)


def cut(sheet: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    """Return the first images ``(N, 3, 32, 32)`` of a sheet."""
    grid = sheet.reshape(-1, TILE, COLUMNS, TILE, 3).transpose(0, 2, 4, 1, 3)
    return grid.reshape(-1, 3, TILE, TILE)[:count]


def _opened(path: Path, count: int) -> NDArray[np.uint8]:
    expected = ("RGB", (COLUMNS * TILE, -(-count // COLUMNS) * TILE))
    with Image.open(path) as sheet:
        if (sheet.mode, sheet.size) != expected:
            found = (sheet.mode, sheet.size)
            raise ValueError(
                f"{path}: expected a sheet {expected} for {count} images, got {found}; run prepare.py again"
            )
        return np.asarray(sheet)
