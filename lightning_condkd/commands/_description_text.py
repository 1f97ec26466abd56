"""Text of the command ``describe``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lightning_condkd.commands._description_parts import PartFacts, extremes
from lightning_condkd.data.image_statistics import Statistics
from lightning_condkd.messages import listed

MOST_CLASSES, MOST_DAMAGED = 20, 20


def part_lines(part: PartFacts) -> list[str]:
    """Return the lines about a part of a data set.

    Args:
        part: its facts.
    """
    statistics, indent = part.statistics, "  " if part.name else ""
    head = f"{len(statistics)} images{_classes(part)}"
    return [
        f"{part.name}: {head}" if part.name else head,
        *(indent + line for line in (*class_lines(part.counts), *_size_lines(part), *_damage_lines(part.damaged))),
    ]


def _classes(part: PartFacts) -> str:
    if part.class_names is None:
        return ", without classes"
    soft = ", soft labels too" if part.soft_labels else ""
    return f" of {len(part.class_names)} classes{soft}"


def class_lines(counts: Mapping[str, int]) -> list[str]:
    """Return the lines about the classes of images.

    Args:
        counts: number of images of each class by its name; empty without classes.
    """
    if not counts:
        return []
    texts = [f"{name} {count}" for name, count in counts.items()]
    (small, few), (large, many) = extremes(counts)
    more = ", all by --format json" if len(texts) > MOST_CLASSES else ""
    return [
        f"classes: {listed(texts, MOST_CLASSES)}{more}",
        f"all have {few} images" if few == many else f"smallest class: {small} {few}, largest: {large} {many}",
    ]


def _size_lines(part: PartFacts) -> list[str]:
    sizes = part.statistics.record()["sizes"]
    total = len(part.statistics)
    if not total:
        return []
    gray = {0: "all in colour", total: "all gray"}.get(part.statistics.gray, f"{part.statistics.gray} gray")
    if sizes["different"] == 1:
        return [f"size, height x width: {_size(sizes['smallest'])}, {gray}"]
    share = 100 * sizes["most_common_images"] / total
    return [
        f"sizes, height x width: {sizes['different']} from {_size(sizes['smallest'])} to {_size(sizes['largest'])} by "
        f"area, most often {_size(sizes['most_common'])} ({share:.0f} %), {gray}"
    ]


def _size(size: Sequence[int]) -> str:
    return " x ".join(map(str, size))


def _damage_lines(damaged: Sequence[str]) -> list[str]:
    if not damaged:
        return ["damaged: none"]
    more = [f"  and {len(damaged) - MOST_DAMAGED} more, all by --format json"] if len(damaged) > MOST_DAMAGED else []
    return [f"damaged: {len(damaged)}, left out of all numbers", *(f"  {one}" for one in damaged[:MOST_DAMAGED]), *more]


def statistics_lines(statistics: Statistics | None, of: str) -> list[str]:
    """Return the lines with mean and standard deviation, as they are in a configuration.

    Args:
        statistics: mean and standard deviation of each channel; ``None`` if no image can be used.
        of: further words on what they are of.
    """
    if statistics is None:
        return ["mean and std: not known, no image can be used"]
    lines = (
        f"{name}: [{', '.join(f'{v:.4f}' for v in own)}]" for name, own in zip(("mean", "std"), statistics, strict=True)
    )
    return [f"mean and std of each channel in the units of [0, 1]{of}:", *lines]
