"""Whether the classes of a condensed set and of real images are the same, in the same order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from lightning_condkd.data.condensed import CondensedSet
from lightning_condkd.data.image_source import ImageSource
from lightning_condkd.formats.image_folder import safe_name
from lightning_condkd.messages import listed
from lightning_condkd.pixels import check_pixels


def check_fit(condensed: CondensedSet, test: ImageSource) -> None:
    """Check a set against the data.

    Args:
        condensed: the set.
        test: the held-out images.

    Raises:
        ValueError: if classes or image shape differ, the classes are known to be in another order, or the set's images
            are not in the units of [0, 1].
    """
    check_pixels(condensed.images)
    cures = {"num_classes": "name every class by class_names of its datamodule", "image_shape": "set its image_size"}
    for what, cure in cures.items():
        ours, real = getattr(condensed, what), getattr(test, what)
        if ours != real:
            raise ValueError(
                f"{what}: the condensed set has {ours}, the data {real}; give the data it was made from, or, for "
                f"folders of images, {cure}"
            )
    check_class_order(condensed, test.class_names)


def check_class_order(condensed: CondensedSet, class_names: Sequence[str]) -> None:
    """Check that labels of a set and of data mean the same, as far as the names of the classes tell.

    Args:
        condensed: the set.
        class_names: of the data, in the order of its labels.

    Raises:
        ValueError: if the classes are known to be in another order.
    """
    names = condensed.info.class_names
    if names is not None and class_order(names, class_names) == "another":
        raise ValueError(
            f"the classes of the condensed set are in another order than those of the data: {', '.join(names)} against "
            f"{', '.join(class_names)}. A label is a position in this list: give ImageFolderDataModule the set's order "
            "by class_names, or a set that was made from this data"
        )


def class_order(names: Sequence[str], others: Sequence[str]) -> Literal["same", "another", "unknown"]:
    """Compare the order of classes by their names; where these differ, as folders may have them.

    Args:
        names: of the classes, in their order.
        others: likewise.

    Example:
        >>> class_order(("cat", "dog"), ("Dog", "Cat")), class_order(("cat", "dog"), ("cats", "dogs"))
        ('another', 'unknown')
    """
    if set(names) != set(others):
        names, others = ([safe_name(name).casefold() for name in each] for each in (names, others))
    if list(names) == list(others):
        return "same"
    return "another" if set(names) == set(others) and len(set(names)) == len(names) else "unknown"


def remarks_on_names(condensed: CondensedSet, class_names: Sequence[str]) -> list[str]:
    """Return what there is to say beside figures: whether the classes of set and data go by other names.

    Args:
        condensed: the set.
        class_names: of the data, in the order of its labels.
    """
    names = condensed.info.class_names
    if names is None or class_order(names, class_names) == "same":
        return []
    return [f"the set calls its classes {listed(names)}, the data {listed(class_names)}: are they in the same order?"]
