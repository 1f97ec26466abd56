"""Reader of public files and folders, which chooses the importer by their content."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Unpack

from torch import Tensor

from lightning_condkd.files import read_untrusted
from lightning_condkd.formats.contents import Contents, record
from lightning_condkd.formats.dc import read_dc
from lightning_condkd.formats.dd_ranking import has_tensor, is_dd_ranking, read_dd_ranking
from lightning_condkd.formats.idc import is_list_of_two, read_idc
from lightning_condkd.formats.image_folder import import_folder
from lightning_condkd.formats.mtt import read_mtt
from lightning_condkd.formats.normalizations import GivenConstants
from lightning_condkd.formats.options import FACTS, ImportOptions, given_options, refuse_others
from lightning_condkd.formats.parquet import read_table
from lightning_condkd.formats.parquet_files import parquet_files
from lightning_condkd.formats.parquet_table import open_table


def import_condensed(path: str | Path, **options: Unpack[ImportOptions]) -> Contents:
    """Read a public file or folder with the importer for its content.

    Args:
        path: the ``.pt`` file, the images file of a pair, a ``.parquet`` file, or a folder of images, of parquet files
            or of DD-Ranking.
        **options: facts that the file does not contain.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if no importer knows the content, or an option does not apply to it.
    """
    path, given = Path(path), given_options(options)
    if not path.exists():
        raise FileNotFoundError(f"no file or folder at {path}: check the path")
    return record(_read_folder(path, given) if path.is_dir() else _read_file(path, given), given)


def in_pixels(path: Path) -> bool:
    """Return whether a path is a native set or a folder whose images are in pixels, so that no normalisation is undone.

    Args:
        path: the file or folder.
    """
    return path.suffix in (".safetensors", ".parquet") or (path.is_dir() and not has_tensor(path))


def _read_folder(path: Path, given: dict[str, Any]) -> Contents:
    if is_dd_ranking(path):
        refuse_others(given, FACTS | {"mean", "std", "label_kind"}, f"{path.name} is a folder of DD-Ranking")
        constants = GivenConstants(given.get("dataset"), given.get("mean"), given.get("std"))
        return read_dd_ranking(path, constants, given.get("class_names"), given.get("label_kind"))
    if parquet_files(path):
        return _read_parquet(path, given)
    refuse_others(given, FACTS, f"{path.name} is a folder of images")
    return import_folder(path, dataset=given.get("dataset"), class_names=given.get("class_names"))


def _read_parquet(path: Path, given: dict[str, Any]) -> Contents:
    columns = {"part", "image_column", "label_column"}
    refuse_others(given, FACTS | columns | {"label_kind"}, f"{path.name} holds images in parquet files")
    table = open_table(path, **{name: given[name] for name in columns & set(given)})
    return read_table(table, given.get("class_names"), given.get("dataset"), given.get("label_kind"))


def _read_file(path: Path, given: dict[str, Any]) -> Contents:
    if path.suffix == ".parquet":
        return _read_parquet(path, given)
    content = read_untrusted(path)
    constants = GivenConstants(given.get("dataset"), given.get("mean"), given.get("std"))
    label_kind = given.get("label_kind")
    if is_list_of_two(content):
        refuse_others(given, FACTS | {"factor", "label_kind"}, f"{path.name} is a list [images, labels] in pixels")
        return read_idc(content[0], content[1], path, given.get("factor"), constants.dataset, label_kind)
    if isinstance(content, Tensor) and content.dim() == 4:
        known = FACTS | {"mean", "std", "labels", "whitened", "label_kind"}
        refuse_others(given, known, f"{path.name} is a single tensor")
        return read_mtt(content, path, given.get("labels"), constants, given.get("whitened"), label_kind)
    condensed = read_dc(content, path, constants, given.get("run", -1), label_kind)
    refuse_others(given, FACTS | {"mean", "std", "run", "label_kind"}, f"{path.name} is a dict of the DC family")
    return condensed
