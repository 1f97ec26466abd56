"""Classification datasets of torchvision, with a common interface to their parts and labels."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torchvision
from PIL.Image import Image
from torch.utils.data import Dataset

from lightning_condkd.data.image_source import ImageSource, decode
from lightning_condkd.formats.folders import with_channels

HELD_OUT = ("test", "val")
_OURS = ("root", "download", "transform", "target_transform", "transforms")


class Choice(NamedTuple):
    """A dataset of torchvision and the arguments for its parts.

    Args:
        name: its class name in ``torchvision.datasets``.
        download: whether to download missing files.
        train: its name for the training part; ``None`` for the constructor's default if that is one (``trainval``).
        val: its name for the held-out part; ``None`` for ``test``, or ``val`` if there is no ``test``.
        options: further arguments of its constructor, such as ``{"size": "160px"}``.
    """

    name: str
    download: bool = False
    train: str | None = None
    val: str | None = None
    options: Mapping[str, Any] = {}

    def check(self) -> None:
        """Check the choice against the signature of the constructor; nothing is read.

        Raises:
            ValueError: if there is no such dataset, it has no train and test part, or takes other arguments.

        Example:
            >>> Choice("Imagenette", options={"size": "160px"}).check()
            >>> Choice("EMNIST").check()
            Traceback (most recent call last):
            ValueError: EMNIST also needs split: name it in options
        """
        _, known = _constructor(self.name)
        part = _part(self.name, known)
        if part == "train" and (self.train or self.val):
            raise ValueError(f"{self.name} takes train=True or False and has no named parts: leave out train and val")
        if odd := [name for name in self.options if name not in known or name in (*_OURS, part)]:
            taken = ", ".join(name for name in known if name not in (*_OURS, part)) or "none"
            raise ValueError(f"options: {self.name} takes {taken}, got {', '.join(odd)}")
        needed = [name for name, argument in known.items() if argument.default is inspect.Parameter.empty]
        if absent := [name for name in needed if name not in ("root", part, *self.options)]:
            raise ValueError(f"{self.name} also needs {', '.join(absent)}: name it in options")
        if self.download and "download" not in known:
            raise ValueError(f"torchvision cannot download {self.name}: unset download and put its files into root")

    def open(self, root: str | Path, train: bool) -> Any:  # noqa: ANN401 - datasets share no type
        """Return one part, not yet decoded.

        Args:
            root: folder of the dataset.
            train: the training images, or the held-out ones.

        Raises:
            FileNotFoundError: if torchvision cannot read or download it.
            ValueError: see :meth:`check`; also if there is no such part.
        """
        self.check()
        kind, known = _constructor(self.name)
        given = {**self.options, **({"download": self.download} if "download" in known else {})}
        part = _part(self.name, known)
        names = [train] if part == "train" else self._part_names(train, known[part].default)
        for name in names[:-1]:
            try:
                return _open(self.name, kind, root, {**given, part: name})
            except ValueError as error:
                if part not in str(error):
                    raise
        return _open(self.name, kind, root, {**given, part: names[-1]})

    def _part_names(self, train: bool, default: object) -> list[Any]:
        if chosen := self.train if train else self.val:
            return [chosen]
        if not train:
            return [*HELD_OUT]
        return [default if isinstance(default, str) and default.startswith("train") else "train"]


def from_torchvision(
    choice: Choice | str,
    root: str | Path,
    train: bool = True,
    image_size: int | None = None,
    channels: int | None = None,
) -> ImageSource:
    """Decode one part of a classification dataset of torchvision.

    Args:
        choice: the dataset, or its class name in ``torchvision.datasets``, such as ``CIFAR10``.
        root: folder of the dataset.
        train: the training images, or the held-out ones.
        image_size: see :func:`~lightning_condkd.data.image_source.from_folder`.
        channels: 3 for RGB, 1 for gray; ``None`` for gray if images are stored without colour, else RGB.

    Raises:
        FileNotFoundError: if torchvision cannot read it.
        ValueError: if there is no such dataset or part, it has no labelled images, or these differ in size.
    """
    chosen = Choice(choice) if isinstance(choice, str) else choice
    dataset = chosen.open(root, train)
    given = _class_names(dataset)
    pairs = _pairs(dataset, chosen.name, channels, given)
    images, labels = decode(pairs, len(dataset), image_size, chosen.name)
    return ImageSource(images, labels, given or tuple(map(str, range(int(labels.max()) + 1))))


def _constructor(name: str) -> tuple[Any, dict[str, inspect.Parameter]]:
    """Return a class and its constructor's parameters, also those in ``**kwargs`` (as in EMNIST and ImageNet)."""
    kind, known = getattr(torchvision.datasets, name, None), dict[str, inspect.Parameter]()
    if not inspect.isclass(kind) or not issubclass(kind, Dataset):
        raise ValueError(f"name: expected a class of torchvision.datasets, such as CIFAR10, got {name!r}")
    for base in kind.__mro__:
        if "__init__" in vars(base):
            own = dict(list(inspect.signature(vars(base)["__init__"]).parameters.items())[1:])
            passed_on = [key for key, argument in own.items() if argument.kind is argument.VAR_KEYWORD]
            known = {**{key: value for key, value in own.items() if key not in passed_on}, **known}
            if not passed_on:
                break
    return kind, known


def _part(name: str, known: Mapping[str, inspect.Parameter]) -> str:
    if part := next((part for part in ("train", "split") if part in known and "root" in known), None):
        return part
    raise ValueError(
        f"name: expected a class of torchvision.datasets with a train and a test part, which {name} does not have: put "
        "its images into one folder for each class, separate for train and test, and use ImageFolderDataModule"
    )


def _open(name: str, kind: Any, root: str | Path, arguments: dict[str, Any]) -> Any:  # noqa: ANN401
    try:
        return kind(str(root), **arguments)
    except (OSError, RuntimeError) as error:
        raise FileNotFoundError(f"{name}: torchvision cannot read it in {root}: {error}") from error
    except (ValueError, TypeError, ImportError) as error:
        raise ValueError(f"{name}: {error}") from error


def _pairs(
    dataset: Any,  # noqa: ANN401
    name: str,
    channels: int | None,
    names: Sequence[str] | None,
) -> Iterator[tuple[Image, int]]:
    for row in range(len(dataset)):  # some datasets have a length but no end
        item = dataset[row]
        if not isinstance(item, tuple) or len(item) != 2 or not isinstance(item[0], Image):
            found = f"({', '.join(type(part).__name__ for part in item)})" if isinstance(item, tuple) else type(item)
            raise ValueError(
                f"name: {name} is no dataset for classification: expected pairs (image, label), got {found}"
            )
        yield with_channels(item[0], channels, f"image {row} of {name}"), _label(item[1], name, row, names)


def _label(label: Any, name: str, row: int, names: Sequence[str] | None) -> int:  # noqa: ANN401
    if isinstance(label, str) and names and label in names:
        return names.index(label)
    try:
        number = int(label) if not isinstance(label, (str, float)) else -1
    except (TypeError, ValueError, RuntimeError):
        number = -1
    if number < 0:
        shown = repr(label) if isinstance(label, (str, int, float, type(None))) else type(label).__name__
        raise ValueError(
            f"{name}: expected the number of a class as label of image {row}, got {shown}: this part has no such "
            "labels. Name another by train or val, or another kind of label in options"
        )
    return number


def _class_names(dataset: Any) -> tuple[str, ...] | None:  # noqa: ANN401
    """Return the names in the order of the labels; ``None`` if the dataset does not have them.

    ``class_to_idx`` gives the order if each class has one name in it; Imagenette and ImageNet have synonyms.
    """
    numbers, classes = getattr(dataset, "class_to_idx", None), getattr(dataset, "classes", None)
    if isinstance(numbers, Mapping) and sorted(numbers.values()) == list(range(len(numbers))):
        classes = sorted(numbers, key=numbers.__getitem__)
    if not isinstance(classes, (list, tuple)):
        return None
    names = [str(one[0]) if isinstance(one, (list, tuple)) and one else str(one) for one in classes]
    count = Counter(names)
    return tuple(name if count[name] == 1 else f"{name} ({label})" for label, name in enumerate(names))
