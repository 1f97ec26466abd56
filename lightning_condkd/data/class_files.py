"""Image files of a folder with one subfolder for each class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torchvision
from torch import Tensor

from lightning_condkd.formats.folders import class_folders, in_class_order, is_image, warn_of_others
from lightning_condkd.formats.image_folder import labels_by_name


class ClassFiles(NamedTuple):
    """Image files and their classes.

    Args:
        files: paths.
        labels: classes, ``(N,)`` int64.
        class_names: names of the classes in the order of the labels.
    """

    files: list[str]
    labels: Tensor
    class_names: tuple[str, ...]


def list_class_files(root: Path, class_names: Sequence[str] | None = None) -> ClassFiles:
    """Find the image files of a folder with one subfolder for each class; none is opened.

    Files without the ending of an image are ignored with a warning.

    Args:
        root: the folder; classes are its subfolders, except hidden ones and ``__MACOSX``, in the order of
            :func:`~lightning_condkd.formats.folders.in_class_order`.
        class_names: names of all classes in the order of the labels, in place of that order; a class may lack a folder.

    Raises:
        FileNotFoundError: if there is no such folder, or no image in it.
        ValueError: if a subfolder is a part of the data instead of a class, or is not among ``class_names``.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"root: expected a folder with one subfolder for each class, found none at {root}")
    dataset: Any = _ClassFolders(root, class_names)
    warn_of_others(root)
    if not len(dataset):
        raise FileNotFoundError(f"root: expected image files in subfolders of {root}, found none")
    files = [file for file, _ in dataset.samples]
    return ClassFiles(files, torch.tensor(dataset.targets), tuple(dataset.classes))


class _ClassFolders(torchvision.datasets.ImageFolder):
    """A folder of classes without hidden files; a class may have no images, as in one part of a dataset."""

    def __init__(self, root: Path, class_names: Sequence[str] | None) -> None:
        self._class_names = class_names
        super().__init__(str(root), is_valid_file=self._is_valid, allow_empty=True)

    def _is_valid(self, path: str) -> bool:
        return is_image(Path(path), Path(self.root))

    def find_classes(self, directory: str | Path) -> tuple[list[str], dict[str, int]]:
        folders = [folder.name for folder in class_folders(Path(directory))]
        if self._class_names is None:
            names = in_class_order(folders)
            return names, {name: label for label, name in enumerate(names)}
        labels = labels_by_name(folders, self._class_names)
        return list(self._class_names), dict(zip(folders, labels, strict=True))
