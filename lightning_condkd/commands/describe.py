"""The command ``describe``: facts about a folder of images, parquet files or a condensed set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, Unpack

from lightning_condkd.assets import resolve_asset
from lightning_condkd.commands._description_parts import PartFacts, extremes, folder_facts, table_facts
from lightning_condkd.commands._description_text import class_lines, part_lines, statistics_lines
from lightning_condkd.data.condensed import CondensedSet
from lightning_condkd.data.image_statistics import tensor_statistics
from lightning_condkd.formats.dd_ranking import is_dd_ranking
from lightning_condkd.formats.folders import part_folders
from lightning_condkd.formats.options import ImportOptions, given_options, refuse_others
from lightning_condkd.formats.parquet_files import parquet_files, parquet_parts
from lightning_condkd.formats.parquet_table import open_table

COLUMNS = frozenset({"part", "image_column", "label_column"})


def describe(
    source: str | Path,
    *,
    image_size: int | None = None,
    format: Literal["text", "json"] = "text",
    **options: Unpack[ImportOptions],
) -> str:
    """Print the facts about images on the disk: classes, sizes, mean and std, damaged files.

    The images of folders and parquet files are decoded one by one, thus they need little memory, but all are read.

    Args:
        source: a folder of images with one subfolder for each class, a folder of such parts (``train``, ``test``),
            images without classes, parquet files, or a condensed set in any format that ``convert`` reads.
        image_size: side in pixels of the central square for mean and std, as ``ImageFolderDataModule`` crops it; by
            default they are over all pixels of the images as they are.
        format: text for reading, or JSON.
        **options: facts that the source does not contain.

    Returns:
        The facts; a text ends with the lines ``mean:`` and ``std:`` of the training images for a configuration.

    Raises:
        FileNotFoundError: if there is no such file or folder, or no image in it.
        ValueError: if the source is not understood, or an option does not apply to it.
    """
    path, given = resolve_asset(source), given_options(options)
    if not path.exists():
        raise FileNotFoundError(f"source: expected a file or folder, found none at {path}: check the path")
    if image_size is not None and image_size < 1:
        raise ValueError(f"image_size: expected a positive number of pixels, got {image_size}")
    if parts := _parts(path, image_size, given):
        kind = "images in parquet files" if parts[0].rows_of_table else "image files"
        return _report_parts(path.name, kind, parts, image_size, format)
    if image_size is not None:
        raise ValueError(f"image_size: the images of {path.name} have one size: leave it out")
    return _report_set(path.name, CondensedSet.load(path, **options), format)


def _parts(path: Path, image_size: int | None, given: dict[str, Any]) -> list[PartFacts]:
    """Return the facts about each part of the images; nothing for a condensed set in tensors."""
    if path.suffix == ".parquet" or (path.is_dir() and not is_dd_ranking(path) and parquet_files(path)):
        refuse_others(given, COLUMNS, f"{path.name} holds images in parquet files")
        chosen = [given.pop("part", None)] if path.is_file() or "part" in given else list(parquet_parts(path))
        return [table_facts(name or "", open_table(path, name, **given), image_size) for name in chosen]
    if not path.is_dir() or is_dd_ranking(path):
        return []
    refuse_others(given, frozenset({"class_names"}), f"{path.name} is a folder of images")
    folders = part_folders(path)
    names = given.get("class_names")
    return [folder_facts(folder.name if folders else "", folder, image_size, names) for folder in folders or [path]]


def _report_parts(name: str, kind: str, parts: list[PartFacts], image_size: int | None, format: str) -> str:
    main = next((part for part in parts if part.name.startswith("train")), parts[0])
    seen = "the images as they are" if image_size is None else f"central squares of {image_size} pixels"
    statistics = main.statistics.channel_statistics()
    if format == "json":
        facts = {"source": name, "kind": kind, "parts": {part.name: part.record() for part in parts}}
        mean, std = (None, None) if statistics is None else map(list, statistics)
        return json.dumps({**facts, "mean": mean, "std": std, "statistics_of": main.name, "over": seen}, indent=1)
    lines = [line for part in parts for line in part_lines(part)]
    of = f" of {main.name}" if main.name else ""
    return "\n".join([f"{name}: {kind}", *lines, *statistics_lines(statistics, f"{of}, over all pixels of {seen}")])


def _report_set(name: str, condensed: CondensedSet, format: str) -> str:
    mean, std = tensor_statistics(condensed.images)
    info, (low, high) = condensed.info, (float(bound) for bound in condensed.images.aminmax())
    names = info.class_names or tuple(map(str, range(condensed.num_classes)))
    counts = dict(zip(names, condensed.counts.tolist(), strict=True))
    if format == "text":
        lines = (condensed.describe(), *class_lines(counts), *statistics_lines((mean, std), ""))
        return "\n".join([f"{name}: condensed set", *lines])
    smallest, largest = extremes(counts)
    facts = {
        "source": name,
        "kind": "condensed set",
        "images": len(condensed),
        "image_shape": list(condensed.image_shape),
        "dtype": str(condensed.images.dtype).removeprefix("torch."),
        "ipc": condensed.ipc,
        "classes": counts,
        "smallest_class": list(smallest),
        "largest_class": list(largest),
        "labels": info.label_kind,
        "values": [low, high],
        "method": info.method,
        "seed": info.seed,
        "settings": info.settings,
        "provenance": info.provenance,
        "mean": list(mean),
        "std": list(std),
    }
    return json.dumps(facts, indent=1)
