"""Folders of 8-bit images, one subfolder for each class: SRe2L, CDA, RDED and all who write for ImageFolder."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms import functional as transforms

from lightning_condkd.data.condensed import CondensedInfo, CondensedSet
from lightning_condkd.data.files import sha256
from lightning_condkd.data.normalisations import known_classes

# "new012", "00012", "03_cat"; ImageNet's names (n01440764) have more digits than any numbering of classes.
_NUMBERED = re.compile(r"[^\d_]*(?P<number>\d{1,6})(?:_(?P<name>.+))?")


def import_folder(
    root: str | Path, *, dataset: str | None = None, class_names: Sequence[str] | None = None
) -> CondensedSet:
    """Read a folder with one subfolder of image files for each class, as uint8.

    Class order is the trap of such folders: they are counted in sorted order, as ``ImageFolder`` does, which is the
    dataset's only if its authors sorted too. Where subfolders are named after classes, ``class_names`` puts them into
    the dataset's order. Numbers in names are read only to refuse an order that contradicts them. Soft labels beside the
    images (FKD) are not read.

    Args:
        root: the folder.
        dataset: the dataset, whose number of classes is checked.
        class_names: names of the dataset's classes in the order of its labels; classes without a subfolder are missing
            classes of the set.

    Raises:
        FileNotFoundError: no images there.
        ValueError: images of several sizes, a broken image, or an order of classes that is not clear.

    References:
        Yin, Xing, Shen: Squeeze, Recover and Relabel, arXiv 2306.13092.
        Sun et al.: On the Diversity and Realism of Distilled Dataset (RDED), arXiv 2312.03526.
    """
    root = Path(root)
    folders = _class_folders(root)
    names = [folder.name for folder in folders]
    order, known_names = _positions(names) if class_names is None else (_by_name(names, class_names), class_names)
    count = len(folders) if class_names is None else len(class_names)
    _check_count(count, dataset, root)
    files = [_image_files(folder) for folder in folders]
    images = _read_images([file for group in files for file in group], root)
    labels = torch.tensor(order).repeat_interleave(torch.tensor([len(group) for group in files]))
    info = CondensedInfo(
        count,
        None if known_names is None else tuple(known_names),
        settings={"dataset": dataset} if dataset else {},
        provenance={"format": "folder of images", "file": root.resolve().name, "sha256": _hash(root, files)},
    )
    return CondensedSet(images, labels, info=info)


def safe_name(name: str) -> str:
    """Return a class name as part of a file name: what file systems refuse becomes a dash.

    Args:
        name: the class name.

    Example:
        >>> safe_name("T-shirt/top")
        'T-shirt-top'
    """
    return re.sub(r'[/\\:*?"<>|\x00-\x1f]', "-", name)


def _class_folders(root: Path) -> list[Path]:
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not any(_image_files(folder) for folder in folders):
        raise FileNotFoundError(
            f"expected image files in subfolders of {root}, one for each class; found none. "
            "A pair of the MTT family is named by its images file"
        )
    return folders


def _image_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMG_EXTENSIONS and path.is_file())


def _positions(names: Sequence[str]) -> tuple[list[int], Sequence[str] | None]:
    """Labels by position, and what the folders say about the classes' names."""
    order = list(range(len(names)))
    matches = [match for name in names if (match := _NUMBERED.fullmatch(name))]
    if len(matches) < len(names):
        return order, names
    numbers = [int(match["number"]) for match in matches]
    if numbers not in (order, [position + 1 for position in order]):
        raise ValueError(
            f"the folders are numbered, but in sorted order they read {', '.join(names[:4])} ...: classes are missing, "
            "or numbers lack leading zeros. Pass class_names (--class_names): the names of all folders in the order of "
            "the dataset's labels"
        )
    plain = [match["name"] for match in matches]
    return order, plain if all(plain) else None


def _by_name(names: Sequence[str], class_names: Sequence[str]) -> list[int]:
    """Labels by name; a folder of our export is known by the name behind its number."""
    wanted = {safe_name(name): label for label, name in enumerate(class_names)}
    found = [name if name in wanted else _behind_number(name) for name in names]
    if unknown := [name for name in found if name not in wanted]:
        raise ValueError(
            f"folders {', '.join(unknown[:4])} are not among class_names: give the names as the folders have them, in "
            "the order of the dataset's labels; leave class_names out where the sorted folders have this order"
        )
    if len(wanted) < len(class_names) or len(set(found)) < len(found):
        raise ValueError("class_names: two classes have the same name; rename one, and its folder")
    return [wanted[name] for name in found]


def _behind_number(name: str) -> str:
    match = _NUMBERED.fullmatch(name)
    return (match and match["name"]) or name


def _check_count(count: int, dataset: str | None, root: Path) -> None:
    if (known := known_classes(dataset)) not in (None, count):
        raise ValueError(
            f"{dataset} has {known} classes, {root} {count}: pass class_names (--class_names) to say which they are"
        )


def _read_images(files: Sequence[Path], root: Path) -> Tensor:
    images = [_read_image(file) for file in files]
    if len({image.shape[0] for image in images}) > 1:  # gray among colour
        images = [image.expand(3, -1, -1) for image in images]
    for file, image in zip(files, images, strict=True):
        if image.shape != images[0].shape:
            sizes = " and ".join("x".join(map(str, shape[1:])) for shape in (images[0].shape, image.shape))
            raise ValueError(
                f"expected images of one size, got {sizes} ({file.relative_to(root)}): resize them to one size, for "
                "example with `mogrify -resize 224x224!`"
            )
    return torch.stack(images)


def _read_image(file: Path) -> Tensor:
    try:
        with Image.open(file) as image:
            return transforms.pil_to_tensor(image.convert("L" if image.mode in ("1", "L") else "RGB"))
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise ValueError(f"{file} is no image or is cut off ({error}): copy it again, or take it away") from error


def _hash(root: Path, files: Sequence[Sequence[Path]]) -> str:
    """Hash of names and contents."""
    lines = [f"{sha256(file)}  {file.relative_to(root).as_posix()}\n" for group in files for file in group]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
