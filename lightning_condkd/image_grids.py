"""Pictures of images by class: a row for each class, with its name."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from math import sqrt
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from lightning_condkd.pixels import to_bytes, to_pixels

PAPER, INK, GAP = 0.9, 0.1, 2  # shades of the background and of the names in [0, 1]; pixels between images
FONT_SIZE, LONGEST_NAME = 14, 24  # pixels; characters
WIDE_FONT = "DejaVuSans.ttf"
MOST_PIXELS = 2**24


def labeled_grid(images: Tensor, labels: Tensor, names: Sequence[str], *, columns: int, min_pixels: int = 64) -> Tensor:
    """Return a picture with a row for each class: its name, then its first images.

    The picture is as wide as the longest row needs. Small images are enlarged by a whole factor without smoothing. If
    the picture would be larger than 16 million pixels, images are enlarged less, or made smaller.

    Args:
        images: ``(N, C, H, W)``, pixels in [0, 1], others are clipped; unless C is 3, the mean of the channels
            is shown.
        labels: classes, ``(N,)`` int64.
        names: name of each class from class 0 on; a class without images gets an empty row.
        columns: largest number of images in a row.
        min_pixels: longer side of the shown images is at least this many pixels.

    Returns:
        ``(3, H, W)`` float32, pixels in [0, 1].

    Raises:
        ValueError: if there are no images, or a label has no name.

    Example:
        >>> images, labels = torch.rand(3, 1, 8, 8), torch.tensor([0, 1, 1])
        >>> labeled_grid(images, labels, ["cat", "dog"], columns=10).shape[1]
        134
    """
    _check(images, labels, names)
    rows = [(labels == label).nonzero().flatten()[:columns].cpu() for label in range(len(names))]
    longest = max(len(row) for row in rows)
    height, width = _shown_size(images.shape[2], images.shape[3], (len(rows), longest), min_pixels)
    shown = _resized(images[torch.cat(rows).to(images.device)], height, width)
    page = torch.full((3, len(rows) * (height + GAP) + GAP, longest * (width + GAP) + GAP), PAPER)
    places = [(row, column) for row, members in enumerate(rows) for column in range(len(members))]
    for image, (row, column) in zip(shown, places, strict=True):
        top, left = row * (height + GAP) + GAP, column * (width + GAP) + GAP
        page[:, top : top + height, left : left + width] = image
    return torch.cat([_name_column(names, height), page], 2)


def _check(images: Tensor, labels: Tensor, names: Sequence[str]) -> None:
    if images.dim() != 4 or not images.numel() or labels.shape != images.shape[:1]:
        raise ValueError(
            f"expected images (N, C, H, W) and labels (N,), N > 0, got {tuple(images.shape)} and "
            f"{tuple(labels.shape)}: draw nothing if there are no images"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= len(names):
        raise ValueError(f"expected labels 0 to {len(names) - 1}, got {low} to {high}: name every class")


def _shown_size(height: int, width: int, cells: tuple[int, int], min_pixels: int) -> tuple[int, int]:
    """Return height and width of the shown images: enlarged by a whole factor, or smaller if they are too many."""
    largest = sqrt(MOST_PIXELS / (cells[0] * cells[1] * height * width))
    wanted = max(1, -(-min_pixels // max(height, width)))
    factor = min(wanted, int(largest)) if largest >= 1 else largest
    return max(1, int(height * factor)), max(1, int(width * factor))


def _resized(images: Tensor, height: int, width: int) -> Tensor:
    pixels = images.detach().float().cpu().clamp(0, 1)
    gray = pixels if pixels.shape[1] == 3 else pixels.mean(1, keepdim=True)
    larger = height >= images.shape[2] and width >= images.shape[3]
    return F.interpolate(gray, (height, width), mode="nearest-exact" if larger else "area").expand(-1, 3, -1, -1)


def _name_column(names: Sequence[str], height: int) -> Tensor:
    """Return the names, each right of the middle of its row, ``(3, rows, width)``."""
    size = max(1, min(FONT_SIZE, height))
    wide = None if all(name.isascii() for name in names) else _wide_font(size)
    shown, font = (names, wide) if wide else ([_plain(name) for name in names], ImageFont.load_default(size))
    texts = [name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 3]}..." for name in shown]
    width = 3 * GAP + int(max(font.getlength(text) for text in texts))
    paper, ink = to_bytes(torch.tensor([PAPER, INK])).tolist()
    column = Image.new("L", (width, len(texts) * (height + GAP) + GAP), paper)
    drawing = ImageDraw.Draw(column)
    for row, text in enumerate(texts):
        middle = GAP + row * (height + GAP) + height // 2
        drawing.text((width - GAP, middle), text, fill=ink, font=font, anchor="rm")
    values = torch.frombuffer(bytearray(column.tobytes()), dtype=torch.uint8)
    return to_pixels(values.view(1, column.height, column.width)).expand(3, -1, -1)


def _wide_font(size: int) -> ImageFont.FreeTypeFont | None:
    """Return a font with European letters, which matplotlib brings and many systems have, if there is one."""
    found = find_spec("matplotlib")
    folders = [Path(found.origin).parent / "mpl-data" / "fonts" / "ttf"] if found and found.origin else []
    for folder in (*folders, Path()):
        with suppress(OSError):
            return ImageFont.truetype(str(folder / WIDE_FONT), size)
    return None


def _plain(name: str) -> str:
    """Return a name in the letters of Pillow's own font, which has only those of English."""
    letters = unicodedata.normalize("NFKD", name.replace("ß", "ss"))
    kept = "".join(letter for letter in letters if not unicodedata.combining(letter))
    return kept.encode("ascii", "replace").decode()
