"""Folders of image files: subfolders that are classes, files that are images, and decoding."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from PIL import Image
from torchvision.datasets.folder import IMG_EXTENSIONS

from lightning_condkd.messages import listed
from lightning_condkd.progress import each

_GRAY = ("1", "L")  # PIL's modes
_NAMED = 10
_READ = " ".join(IMG_EXTENSIONS)


def class_folders(root: Path) -> list[Path]:
    """Return the subfolders of a root in sorted order, one for each class, without hidden ones and ``__MACOSX``.

    Images may be in one more folder below their class, as in Tiny-ImageNet (``n01443537/images``).

    Args:
        root: the folder.

    Raises:
        ValueError: if a subfolder contains several folders of images instead of images, such as a training part.
    """
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not _stray(path.name))
    for folder in folders:
        if len(inner := _inner_folders(folder)) > 1:
            raise ValueError(
                f"{folder} is no class: it holds no images, but the folders {listed(inner)} with images. "
                f"Give the folder whose subfolders are the classes, such as {folder}"
            )
    return folders


def part_folders(root: Path) -> list[Path]:
    """Return the parts of a data set such as ``train`` and ``test``, sorted: the subfolders with images of a root.

    The list is empty if none of them contains several folders of images, thus they are classes.

    Args:
        root: the folder.
    """
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not _stray(path.name))
    if not any(len(_inner_folders(folder)) > 1 for folder in folders):
        return []
    return [folder for folder in folders if image_files(folder)]


def in_class_order(names: Sequence[str]) -> list[str]:
    """Return names of class folders in the order of the labels: by number if all are numbered, else as text.

    They are numbered if all consist of the same prefix, which may be empty, and a number (``1`` to ``10``, ``class1``
    to ``class10``), or if all begin with different numbers (``1_cat`` to ``10_dog``). A warning is given if the order
    differs from that of torchvision's ``ImageFolder``, which sorts as text.

    Args:
        names: the names, all different.

    Example:
        >>> in_class_order(["dog", "10", "9"])
        ['10', '9', 'dog']
    """
    as_text = sorted(names)
    numbers = _trailing_numbers(as_text) or _leading_numbers(as_text)
    if numbers is None:
        return as_text
    by_number = [name for _, name in sorted(zip(numbers, as_text, strict=True))]
    if by_number != as_text:
        warnings.warn(
            f"class folders are labelled by number: {listed(by_number, 4)}. torchvision's ImageFolder sorts them as "
            f"text: {listed(as_text, 4)}. If a teacher or a set was made with that order, give class_names in it, or "
            "write the numbers with leading zeros",
            stacklevel=2,
        )
    return by_number


def image_files(folder: Path) -> list[Path]:
    """Return the image files at any depth below a folder, sorted, without hidden ones.

    Args:
        folder: the folder.
    """
    return sorted(path for path in folder.rglob("*") if is_image(path, folder))


def is_image(path: Path, root: Path) -> bool:
    """Return whether a path has the ending of an image file, and neither it nor a folder above it is hidden.

    Args:
        path: the path.
        root: the folder below which hidden names matter.
    """
    return path.suffix.lower() in IMG_EXTENSIONS and _visible(path, root) and path.is_file()


def open_image(file: str | Path | BinaryIO, channels: int | None = 3, what: str | None = None) -> Image.Image:
    """Decode an image file with 8 bits for each channel.

    Args:
        file: the file, or a stream of its content.
        channels: 3 for RGB, 1 for gray; ``None`` for gray if the image is stored without colour, else RGB.
        what: name of the image for the error message; ``None`` for the path.

    Raises:
        ValueError: if the file is broken, or has more than 8 bits for each channel.
    """
    try:
        with Image.open(file) as image:
            image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{what or file} is no image or is cut off ({error}): copy it again, or remove it") from error
    return with_channels(image, channels, what or str(file))


def with_channels(image: Image.Image, channels: int | None, what: str) -> Image.Image:
    """Return an image with 8 bits for each channel.

    Args:
        image: in any of PIL's modes, such as one with a palette.
        channels: see :func:`open_image`.
        what: name of the image, for the error message.

    Raises:
        ValueError: if it has more than 8 bits for each channel.
    """
    if image.mode.startswith(("I", "F")):  # PIL does not scale these, but clips them at 255
        raise ValueError(
            f"expected 8 bits for each channel, got PIL's mode {image.mode} ({what}): convert the images, for "
            "example with `mogrify -depth 8`"
        )
    return image.convert("L" if channels == 1 or (channels is None and image.mode in _GRAY) else "RGB")


def open_images(files: Sequence[str | Path], channels: int | None = 3) -> Iterator[Image.Image]:
    """Decode image files one by one; a single error at the end names all unusable files.

    Args:
        files: the files.
        channels: see :func:`open_image`.

    Raises:
        ValueError: if some cannot be used.
    """
    refused: list[str] = []
    for file in files:
        try:
            yield open_image(file, channels)
        except ValueError as error:
            refused.append(str(error))
    if refused:
        more = [f"and {len(refused) - _NAMED} more"] if len(refused) > _NAMED else []
        count = [f"{len(refused)} of {len(files)} images cannot be used:"] if len(refused) > 1 else []
        raise ValueError("\n".join([*count, *refused[:_NAMED], *more]))


def all_gray(files: Sequence[str | Path]) -> bool:
    """Return whether all image files are stored without colour, according to their headers.

    Args:
        files: the files; broken ones are ignored.
    """
    return all(stored_gray(file) for file in each(files, "looking for colour", len(files), "images"))


def warn_of_others(root: Path) -> None:
    """Warn of files in class folders without the ending of an image, and of images outside class folders.

    Args:
        root: the folder with one subfolder for each class.
    """
    folders = class_folders(root)
    files = (path for folder in folders for path in folder.rglob("*") if _visible(path, root) and path.is_file())
    endings = Counter(path.suffix.lower() or "no ending" for path in files if not is_image(path, root))
    found = ", ".join(f"{count} with {ending}" for ending, count in endings.most_common(5))
    parts = [f"{endings.total()} files with an ending that is not read ({found}; read are {_READ})"] if found else []
    if beside := sum(is_image(path, root) for path in root.iterdir()):
        parts.append(f"{beside} images outside the class folders")
    if parts:
        warnings.warn(f"{root}: ignored {' and '.join(parts)}; convert or move them if they count", stacklevel=3)


def stored_gray(file: str | Path | BinaryIO) -> bool:
    """Return whether an image is stored without colour according to its header, or is broken.

    Args:
        file: the file, or a stream of its content.
    """
    try:
        with Image.open(file) as image:
            return image.mode in _GRAY
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return True


def _visible(path: Path, root: Path) -> bool:
    return not any(map(_stray, path.relative_to(root).parts))


def _stray(name: str) -> bool:
    """Return whether a name is one that macOS adds to archives: ``__MACOSX`` or ``._name.png``."""
    return name.startswith(".") or name == "__MACOSX"


def _inner_folders(folder: Path) -> list[str]:
    """Return the names of the subfolders with images if the folder itself has none."""
    paths = sorted(folder.iterdir())
    if any(is_image(path, folder) for path in paths):
        return []
    return [path.name for path in paths if path.is_dir() and not _stray(path.name) and image_files(path)]


def _trailing_numbers(names: Sequence[str]) -> list[int] | None:
    matches = [match for name in names if (match := re.fullmatch(r"(.*?)([0-9]+)", name))]
    alike = len(matches) == len(names) and len({match[1] for match in matches}) == 1
    return [int(match[2]) for match in matches] if alike else None


def _leading_numbers(names: Sequence[str]) -> list[int] | None:
    matches = [match for name in names if (match := re.match(r"([0-9]+)[_\-. ]", name))]
    numbers = [int(match[1]) for match in matches]
    return numbers if len(set(numbers)) == len(names) else None
