"""Chunk files of a memory bank: their records, linking, and search."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lightning_condkd.files import read_header, sha256
from lightning_condkd.writing import make_parents, write_atomic

CHUNK_KIND = "memory bank chunk"


class Chunk(NamedTuple):
    """One file with rows of a memory bank.

    Args:
        path: the file.
        first: id of its first row, counted since the start of the run.
        length: number of rows.
        sha256: hash of the file.
    """

    path: Path
    first: int
    length: int
    sha256: str


def link_or_copy(source: Path, target: Path) -> None:
    """Put a chunk into a second folder, as a link where possible, which needs no space.

    Args:
        source: the file, which is never changed in place.
        target: its other name.
    """
    if target.exists() and target.samefile(source):
        return
    make_parents(target)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        write_atomic(target, source.read_bytes())


def refuse_other_runs(directory: Path, run_id: str) -> None:
    """Check that a folder holds no chunks of another run.

    Args:
        directory: the folder; it need not exist.
        run_id: id of the run that may have chunks there.

    Raises:
        ValueError: if it has chunks of another run.
    """
    if others := runs_in(directory) - {run_id}:
        raise ValueError(
            f"{directory} holds the memory bank of another run ({', '.join(sorted(others))}; this is {run_id}): "
            "choose another folder, remove this one, or resume that run from its checkpoint"
        )


def locate_chunk(record: Mapping[str, Any], folders: Sequence[Path], run_id: str) -> Chunk:
    """Return the first file with the name and hash of a record.

    Args:
        record: ``name``, ``first``, ``length`` and ``sha256`` of the chunk.
        folders: folders to search.
        run_id: id of the run that it belongs to.

    Raises:
        FileNotFoundError: if no folder has it.
        ValueError: if it was altered, or the folders contain the bank of another run.
    """
    paths = [folder / record["name"] for folder in folders if (folder / record["name"]).is_file()]
    for path in paths:
        if sha256(path) == record["sha256"]:
            return Chunk(path, record["first"], record["length"], record["sha256"])
    if paths:
        raise ValueError(
            f"chunk {paths[0]} of the memory bank was altered since the checkpoint: restore it from a copy, "
            "or resume from an older checkpoint"
        )
    places = ", ".join(str(folder) for folder in folders)
    if others := set().union(*map(runs_in, folders)) - {run_id}:
        raise ValueError(
            f"the checkpoint needs the memory bank of run {run_id}, but {places} holds a bank of another run "
            f"({', '.join(sorted(others))}): give the folder that belongs to the checkpoint"
        )
    raise FileNotFoundError(
        f"chunk {record['name']} of the memory bank is in none of {places}: "
        "move the folder back, or next to the checkpoint"
    )


def runs_in(directory: Path) -> set[str]:
    """Return the ids of the runs that have chunks in a folder.

    Args:
        directory: the folder; it need not exist.
    """
    return {str(read_header(CHUNK_KIND, path)["run_id"]) for path in directory.glob("chunk_*.safetensors")}
