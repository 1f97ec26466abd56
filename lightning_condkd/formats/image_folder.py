"""Folders of 8-bit images, one subfolder for each class: SRe2L, CDA, RDED and all who write for ImageFolder."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional as transforms

from lightning_condkd.formats.contents import CondensedInfo, Contents, SetLike
from lightning_condkd.formats.folders import class_folders, image_files, open_images, warn_of_others
from lightning_condkd.formats.normalizations import known_class_names, known_classes
from lightning_condkd.hashing import content_hash, file_hash
from lightning_condkd.messages import listed
from lightning_condkd.pixels import share_outside, to_bytes
from lightning_condkd.writing import new_folder

# Our export writes the class names beside the folders, whose names cannot hold every one of them.
NAMES_FILE = "class_names.json"

# "new012", "00012", "03_cat"; ImageNet's names (n01440764) have more digits than any numbering of classes.
_NUMBERED = re.compile(r"[^\d_]*(?P<number>\d{1,6})(?:_(?P<name>.+))?")


def import_folder(
    root: str | Path, *, dataset: str | None = None, class_names: Sequence[str] | None = None
) -> Contents:
    """Read a folder with one subfolder of image files for each class, as uint8.

    Class order is the trap of such folders: they are counted in sorted order, as ``ImageFolder`` does, which is the
    dataset's only if its authors sorted too. Where subfolders are named after classes, ``class_names`` puts them into
    the dataset's order, as does the dataset where we know its names (CIFAR-10, FashionMNIST). Names are compared as
    :func:`safe_name` writes them, in upper or lower case. Numbers in names are read only to refuse an order that
    contradicts them. Soft labels beside the images (FKD) are not read.

    Args:
        root: the folder.
        dataset: the dataset, whose number of classes is checked, and their names where we know them.
        class_names: names of the dataset's classes in the order of its labels; classes without a subfolder are missing
            classes of the set. By default those that our export recorded.

    Raises:
        FileNotFoundError: no images there.
        ValueError: images of several sizes, a broken image or one of more than 8 bits, a subfolder that is no class, or
            an order of classes that is not clear.

    References:
        Yin, Xing, Shen: Squeeze, Recover and Relabel, arXiv 2306.13092.
        Sun et al.: On the Diversity and Realism of Distilled Dataset (RDED), arXiv 2312.03526.
    """
    root = Path(root)
    files = _files_by_class(root)
    order, names, count = _classes(root, files, dataset, class_names)
    _check_count(count, dataset, root)
    groups = [group for group in files.values() if group]
    images = _read_images([file for group in groups for file in group], root)
    labels = torch.tensor(order).repeat_interleave(torch.tensor([len(group) for group in groups]))
    info = CondensedInfo(
        count,
        None if names is None else tuple(names),
        settings={"dataset": dataset} if dataset else {},
        provenance={"format": "folder of images", "file": root.resolve().name, "sha256": _hash(root, groups)},
    )
    return Contents(images, labels, None, info)


def safe_name(name: str) -> str:
    """Return a class name as part of a file name: what file systems refuse becomes a dash.

    Args:
        name: the class name.

    Example:
        >>> safe_name("T-shirt/top")
        'T-shirt-top'
    """
    return re.sub(r'[/\\:*?"<>|\x00-\x1f]', "-", name)


def folder_names(class_names: Sequence[str]) -> list[str]:
    """Return what our export calls the folders of classes: by number and name, so that sorting keeps their order.

    Args:
        class_names: their names, empty where they have none.

    Example:
        >>> folder_names(["cat", "T-shirt/top"]), folder_names([""] * 11)[:2]
        (['0_cat', '1_T-shirt-top'], ['00', '01'])
    """
    digits = len(str(len(class_names) - 1))
    return [f"{label:0{digits}d}{'_' * bool(name)}{safe_name(name)}" for label, name in enumerate(class_names)]


def _files_by_class(root: Path) -> dict[str, list[Path]]:
    files = {folder.name: image_files(folder) for folder in class_folders(root)}
    warn_of_others(root)
    if not any(files.values()):
        raise FileNotFoundError(
            f"expected image files in subfolders of {root}, one for each class; found none. "
            "A pair of the MTT family is named by its images file"
        )
    return files


def _classes(
    root: Path, files: Mapping[str, Sequence[Path]], dataset: str | None, class_names: Sequence[str] | None
) -> tuple[list[int], Sequence[str] | None, int]:
    """Labels of the folders with images, names of the classes, and their number."""
    folders = [folder for folder, group in files.items() if group]
    if class_names is not None:
        return labels_by_name(folders, class_names), class_names, len(class_names)
    if (names := _recorded_names(root)) is not None:
        order, count = labels_by_name(folders, names), len(names)
    else:
        _refuse_empty([folder for folder, group in files.items() if not group], root)
        (order, names), count = _positions(folders), len(folders)
    theirs = known_class_names(dataset)
    if names is None or theirs is None or count != len(theirs):
        return order, names, count
    label_of = labels_by_name(names, theirs, f"the classes of {dataset} ({listed(theirs, 2)})")
    return [label_of[label] for label in order], theirs, count


def _refuse_empty(names: Sequence[str], root: Path) -> None:
    # Counting such a folder makes a class of any stray one; passing over it shifts the classes behind it.
    if names:
        raise ValueError(
            f"folders {listed(names, 4)} in {root} hold no images: take them away; if they are classes without "
            "images, pass class_names (--class_names), the names of all classes in the order of the dataset's labels"
        )


def _recorded_names(root: Path) -> list[str] | None:
    file = root / NAMES_FILE
    if not file.is_file():
        return None
    try:
        names: object = json.loads(file.read_text("utf-8"))
    except ValueError:
        names = None
    if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
        return names
    raise ValueError(f"expected a list of class names in {file}: copy it again, or take it away and pass class_names")


def _positions(names: list[str]) -> tuple[list[int], list[str] | None]:
    """Labels by position, and what the folders say about the classes' names."""
    order = list(range(len(names)))
    matches = [match for name in names if (match := _NUMBERED.fullmatch(name))]
    if len(matches) < len(names):
        return order, names
    numbers = [int(match["number"]) for match in matches]
    if numbers not in (order, [position + 1 for position in order]):
        raise ValueError(
            f"the folders are numbered, but in sorted order they read {listed(names, 4)}: classes are missing, "
            "or numbers lack leading zeros. Pass class_names (--class_names): the names of all folders in the order of "
            "the dataset's labels"
        )
    plain = [match["name"] for match in matches]
    return order, plain if all(plain) else None


def labels_by_name(names: Sequence[str], class_names: Sequence[str], whose: str = "class_names") -> list[int]:
    """Return the labels of class folders by their names, as :func:`safe_name` writes these, in upper or lower case.

    A folder of our export is known by the name behind its number.

    Args:
        names: of the folders.
        class_names: of all classes in the order of the labels.
        whose: whose names these are, for the error.

    Raises:
        ValueError: if a folder is of no such class, or two classes cannot be told apart.

    Example:
        >>> labels_by_name(["dog", "1_cat"], ["Dog", "Cat"])
        [0, 1]
    """
    exported = {name: label for label, name in enumerate(folder_names(class_names))}
    if exported.keys() >= set(names):  # also tells classes apart whose names look the same in a file name
        return [exported[name] for name in names]
    plain = _comparison(class_names)
    wanted = {plain(name): label for label, name in enumerate(class_names)}
    found = [plain(name if plain(name) in wanted else _behind_number(name)) for name in names]
    if unknown := [name for name, key in zip(names, found, strict=True) if key not in wanted]:
        raise ValueError(
            f"folders {listed(unknown, 4)} are not among {whose}: pass class_names (--class_names) as the folders "
            "have them, in the order of the dataset's labels; without class_names and dataset the sorted folders are "
            "counted"
        )
    if len(wanted) < len(class_names) or len(set(found)) < len(found):
        raise ValueError("class_names: two classes have the same name; rename one, and its folder")
    return [wanted[key] for key in found]


def _comparison(class_names: Sequence[str]) -> Callable[[str], str]:
    """In which form names are compared: without case, unless it is all that tells two classes apart."""
    folded = {safe_name(name).casefold() for name in class_names}
    return (lambda name: safe_name(name).casefold()) if len(folded) == len(class_names) else safe_name


def _behind_number(name: str) -> str:
    match = _NUMBERED.fullmatch(name)
    return (match and match["name"]) or name


def _check_count(count: int, dataset: str | None, root: Path) -> None:
    if (known := known_classes(dataset)) not in (None, count):
        raise ValueError(
            f"{dataset} has {known} classes, {root} {count}: pass class_names (--class_names) to say which they are"
        )


def _read_images(files: Sequence[Path], root: Path) -> Tensor:
    images = [transforms.pil_to_tensor(image) for image in open_images(files, channels=None)]
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


def _hash(root: Path, files: Sequence[Sequence[Path]]) -> str:
    """Hash of names and contents."""
    lines = [f"{file_hash(file)}  {file.relative_to(root).as_posix()}\n" for group in files for file in group]
    return content_hash(*lines)


def export_png(condensed: SetLike, folder: str | Path) -> float:
    """Write a folder of PNG images, one subfolder for each class, which ``ImageFolder`` reads.

    Subfolders are called by number and name (``3_cat``), with leading zeros, so that sorting keeps the order of the
    classes; names are also kept beside them in ``class_names.json`` for our importer, since a folder cannot have every
    name. Pixels are clamped to [0, 1] and rounded to 8 bits; uint8 sets stay exact. Soft labels are left out.

    Args:
        condensed: the set, with 1 or 3 channels.
        folder: target, made whole or not at all; it must not exist, or be empty.

    Returns:
        The share of pixel values that were outside [0, 1] and were clamped.

    Raises:
        FileExistsError: the folder holds something.
        ValueError: another number of channels, or a class without an image, for which a folder has no place.
    """
    info, channels = condensed.info, condensed.images.shape[1]
    if channels not in (1, 3):
        raise ValueError(f"PNG holds 1 or 3 channels, the set has {channels}: export dc or mtt")
    counts = torch.bincount(condensed.labels, minlength=info.num_classes)
    if missing := (counts == 0).nonzero().flatten().tolist():
        raise ValueError(
            f"classes {', '.join(map(str, missing))} have no image, and ImageFolder refuses empty folders: export dc "
            "or mtt, or write .safetensors"
        )
    with new_folder(Path(folder)) as target:
        if info.class_names is not None:
            (target / NAMES_FILE).write_text(json.dumps(info.class_names, ensure_ascii=False), "utf-8")
        for label, name in enumerate(folder_names(info.class_names or [""] * info.num_classes)):
            (target / name).mkdir()
            for row in (condensed.labels == label).nonzero().flatten().tolist():
                _picture(condensed.images[row]).save(target / name / f"{row:06d}.png")
    return _clipped_share(condensed.images)


def _picture(image: Tensor) -> Image.Image:
    levels = to_bytes(image)
    return Image.fromarray((levels[0] if len(levels) == 1 else levels.permute(1, 2, 0)).contiguous().numpy())


def _clipped_share(images: Tensor) -> float:
    return share_outside(images, 0.0, 1.0) if images.is_floating_point() else 0.0
