"""Format of SRe2L, CDA, RDED and others: a folder of 8-bit images, one subfolder for each class."""

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
from lightning_condkd.progress import each, progress
from lightning_condkd.writing import new_folder

# Our export also writes the class names to a file, since folder names cannot contain all characters.
NAMES_FILE = "class_names.json"

# "new012", "00012", "03_cat"; ImageNet's names (n01440764) have more digits than a class number.
_NUMBERED = re.compile(r"[^\d_]*(?P<number>\d{1,6})(?:_(?P<name>.+))?")


def import_folder(
    root: str | Path, *, dataset: str | None = None, class_names: Sequence[str] | None = None
) -> Contents:
    """Read a folder with one subfolder of image files for each class, as uint8.

    Subfolders are numbered in sorted order, as ``ImageFolder`` does, which may differ from the dataset's class order.
    If subfolders have the names of classes, ``class_names`` puts them into the dataset's order; so does the dataset if
    its class names are known here (CIFAR-10, FashionMNIST). Names are compared in the form of :func:`safe_name`,
    ignoring case. Numbers in names are only used to refuse an order that contradicts them. Soft labels stored with the
    images (FKD) are not read.

    Args:
        root: the folder.
        dataset: the dataset; the number of its classes is checked, and their names if known here.
        class_names: names of the dataset's classes in the order of its labels; classes without a subfolder are missing
            classes of the set. By default the names that our export recorded.

    Raises:
        FileNotFoundError: if there are no images.
        ValueError: if images have several sizes, are broken or have more than 8 bits, a subfolder is no class, or the
            order of the classes is ambiguous.

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
    """Return a class name as part of a file name; characters that file systems refuse become dashes.

    Args:
        name: the class name.

    Example:
        >>> safe_name("T-shirt/top")
        'T-shirt-top'
    """
    return re.sub(r'[/\\:*?"<>|\x00-\x1f]', "-", name)


def folder_names(class_names: Sequence[str]) -> list[str]:
    """Return the folder names of our export: number and name of each class, so that sorting keeps their order.

    Args:
        class_names: names of the classes; empty strings for classes without names.

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
            "To read a pair of the MTT family, give its images file"
        )
    return files


def _classes(
    root: Path, files: Mapping[str, Sequence[Path]], dataset: str | None, class_names: Sequence[str] | None
) -> tuple[list[int], Sequence[str] | None, int]:
    """Return the labels of the folders with images, the names of the classes, and their number."""
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
    # Counting an empty folder would make any stray folder a class; skipping it would shift the classes after it.
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
    raise ValueError(f"expected a list of class names in {file}: copy it again, or remove it and pass class_names")


def _positions(names: list[str]) -> tuple[list[int], list[str] | None]:
    """Return labels by position, and the names of the classes if the folders have them."""
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
    """Return the labels of class folders by their names, compared in the form of :func:`safe_name`, ignoring case.

    For folders of our export the name after the number is compared.

    Args:
        names: names of the folders.
        class_names: names of all classes in the order of the labels.
        whose: description of ``class_names`` for the error message.

    Raises:
        ValueError: if a folder belongs to no class, or two classes cannot be distinguished.

    Example:
        >>> labels_by_name(["dog", "1_cat"], ["Dog", "Cat"])
        [0, 1]
    """
    exported = {name: label for label, name in enumerate(folder_names(class_names))}
    if exported.keys() >= set(names):  # also distinguishes classes whose names are equal as file names
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
    """Return the form in which names are compared: without case, unless two classes differ in case only."""
    folded = {safe_name(name).casefold() for name in class_names}
    return (lambda name: safe_name(name).casefold()) if len(folded) == len(class_names) else safe_name


def _behind_number(name: str) -> str:
    match = _NUMBERED.fullmatch(name)
    return (match and match["name"]) or name


def _check_count(count: int, dataset: str | None, root: Path) -> None:
    if (known := known_classes(dataset)) not in (None, count):
        raise ValueError(
            f"{dataset} has {known} classes, {root} {count}: pass class_names (--class_names), the names of all classes"
        )


def _read_images(files: Sequence[Path], root: Path) -> Tensor:
    opened = each(open_images(files, channels=None), f"reading {root}", len(files), "images")
    images = [transforms.pil_to_tensor(image) for image in opened]
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

    Subfolders are named by number and class name (``3_cat``), with leading zeros, so that sorting keeps the order of
    the classes. The names are also written to ``class_names.json`` for our importer, since a folder name cannot contain
    all characters. Pixels are clamped to [0, 1] and rounded to 8 bits; uint8 sets stay exact. Soft labels are left out.

    Args:
        condensed: the set, with 1 or 3 channels.
        folder: target, written completely or not at all; it must not exist, or be empty.

    Returns:
        The share of pixel values that were outside [0, 1] and were clamped.

    Raises:
        FileExistsError: if the folder is not empty.
        ValueError: if the number of channels is another, or a class has no image.
    """
    info, channels = condensed.info, condensed.images.shape[1]
    if channels not in (1, 3):
        raise ValueError(f"PNG has 1 or 3 channels, the set has {channels}: export dc or mtt")
    counts = torch.bincount(condensed.labels, minlength=info.num_classes)
    if missing := (counts == 0).nonzero().flatten().tolist():
        raise ValueError(
            f"classes {', '.join(map(str, missing))} have no image, and ImageFolder refuses empty folders: export dc "
            "or mtt, or write .safetensors"
        )
    with new_folder(Path(folder)) as target, progress(f"writing {folder}", len(condensed.labels), "images") as done:
        if info.class_names is not None:
            (target / NAMES_FILE).write_text(json.dumps(info.class_names, ensure_ascii=False), "utf-8")
        for label, name in enumerate(folder_names(info.class_names or [""] * info.num_classes)):
            (target / name).mkdir()
            for row in (condensed.labels == label).nonzero().flatten().tolist():
                picture(condensed.images[row]).save(target / name / f"{row:06d}.png")
                done(1)
    return clipped_share(condensed.images)


def picture(image: Tensor) -> Image.Image:
    """Return an image with 8 bits for each channel: pixels are clamped to [0, 1] and rounded.

    Args:
        image: ``(C, H, W)`` with 1 or 3 channels, uint8, or floating point in the units of [0, 1].
    """
    levels = to_bytes(image)
    return Image.fromarray((levels[0] if len(levels) == 1 else levels.permute(1, 2, 0)).contiguous().numpy())


def clipped_share(images: Tensor) -> float:
    """Return the share of pixel values that :func:`picture` clamps.

    Args:
        images: ``(N, C, H, W)``, uint8, or floating point in the units of [0, 1].
    """
    return share_outside(images, 0.0, 1.0) if images.is_floating_point() else 0.0
