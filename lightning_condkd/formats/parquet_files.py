"""Parquet files of Hugging Face datasets: their parts and shards, and reading them in batches."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lightning_condkd.messages import listed

BATCH_ROWS = 64
INSTALL = "pip install 'lightning-condkd[parquet]'"
# "train-00000-of-00002.parquet", in older files with a hash behind it
_SHARD = re.compile(r"(?P<part>.+)-(?P<number>\d+)-of-(?P<count>\d+)(?:-[0-9a-f]+)?\.parquet")


def parquet_library() -> Any:  # noqa: ANN401 - it has no types
    """Return pyarrow's module for parquet files.

    Raises:
        ModuleNotFoundError: if it is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ModuleNotFoundError(f"parquet files need pyarrow, which is not installed: {INSTALL}") from error
    return pyarrow.parquet


def parquet_files(folder: Path) -> list[Path]:
    """Return the parquet files at any depth below a folder, sorted, without hidden ones.

    Args:
        folder: the folder.
    """
    found = (path for path in folder.rglob("*.parquet") if path.is_file())
    return sorted(path for path in found if not any(p.startswith(".") for p in path.relative_to(folder).parts))


def parquet_parts(folder: Path) -> dict[str, list[Path]]:
    """Return the files of each part of a dataset by its name, such as ``train``, in the order of their shards.

    The name is that of the file without its number (``train-00000-of-00002.parquet``, ``train.parquet``), or that of
    the folder of numbered files (``train/0000.parquet``).

    Args:
        folder: the folder of the dataset; files may be in ``data`` or other folders below.

    Raises:
        ValueError: if a shard is missing, or files of the same part are in several folders.
    """
    parts: dict[str, list[Path]] = {}
    for file in parquet_files(folder):
        shard = _SHARD.fullmatch(file.name)
        name = shard["part"] if shard else file.parent.name if file.stem.isdigit() else file.stem
        parts.setdefault(name, []).append(file)
    for name, files in parts.items():
        _check_shards(name, files)
    return parts


def _check_shards(part: str, files: Sequence[Path]) -> None:
    if len(folders := sorted({str(file.parent) for file in files})) > 1:
        raise ValueError(f"the part {part!r} is in several folders, {listed(folders)}: give one of them")
    shards = [match for file in files if (match := _SHARD.fullmatch(file.name))]
    if not shards:
        return
    numbers, counts = [int(shard["number"]) for shard in shards], {int(shard["count"]) for shard in shards}
    if len(counts) > 1 or len(shards) < len(files) or numbers != list(range(*counts)):
        raise ValueError(
            f"the part {part!r} in {files[0].parent} should have each shard of {max(counts)} once, but has "
            f"{listed([file.name for file in files], 4)}: copy or download the others, or remove those left over"
        )


def files_of_part(path: Path, part: str | None) -> list[Path]:
    """Return the files of a part in the order of their shards.

    Args:
        path: a file, which stands for all shards of its part, or a folder.
        part: the part of a folder; not needed if there is only one.

    Raises:
        FileNotFoundError: if there is no parquet file.
        ValueError: if the part is ambiguous or does not exist, or a shard is missing.
    """
    if path.is_file():
        if part is not None:
            raise ValueError(f"part={part!r}, but {path} is a file: give its folder, or leave out part")
        shard = _SHARD.fullmatch(path.name)
        beside = [] if shard is None else parquet_parts(path.parent).get(shard["part"], [])
        return beside or [path]
    parts = parquet_parts(path)
    if not parts:
        raise FileNotFoundError(f"expected parquet files in {path}, found none: check the path")
    if part is None and len(parts) > 1:
        raise ValueError(f"{path} has the parts {', '.join(parts)}: choose one with part (--part)")
    if part is not None and part not in parts:
        raise ValueError(f"part: {path} has no {part!r}, but {', '.join(parts)}: choose one of these")
    return parts[part] if part is not None else next(iter(parts.values()))


def opened(file: Path) -> Any:  # noqa: ANN401
    """Return pyarrow's reader of a file, to be closed.

    Args:
        file: the file.

    Raises:
        FileNotFoundError: if there is no such file.
        ModuleNotFoundError: if pyarrow is not installed.
        ValueError: if it is no parquet file, or cut off.
    """
    try:
        return parquet_library().ParquetFile(file)
    except (FileNotFoundError, PermissionError, ModuleNotFoundError):
        raise
    except (OSError, ValueError) as error:  # pyarrow's errors are both kinds
        raise _damaged(file, error) from error


def batches(file: Path, columns: list[str]) -> Iterator[Any]:
    """Yield pyarrow's batches of a few rows.

    Args:
        file: the file.
        columns: names of the columns to read.

    Raises:
        ValueError: if the file is damaged.
    """
    with opened(file) as parquet:
        try:
            yield from parquet.iter_batches(batch_size=BATCH_ROWS, columns=columns)
        except (OSError, ValueError) as error:
            raise _damaged(file, error) from error


def _damaged(file: Path, error: Exception) -> ValueError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return ValueError(f"{file} is no parquet file or is cut off ({reason}): copy or download it again")
