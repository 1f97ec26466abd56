"""Chunk files of a memory bank: records, linking and search."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from lightning_condkd import files
from lightning_condkd.data.bank_rows import BankRows
from lightning_condkd.files import read_header
from lightning_condkd.hashing import content_hash, file_hash
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


class ChunkFolder:
    """The chunks of one bank, and their folder if there is one."""

    def __init__(self) -> None:
        self.directory: Path | None = None
        self.writer = True
        self.chunks: list[Chunk] = []
        self._retired: list[Chunk] = []

    def attach(self, directory: Path, writer: bool, run_id: str) -> None:
        """Keep the chunks in a folder from now on.

        Args:
            directory: the folder.
            writer: whether this process writes.
            run_id: id of their run.

        Raises:
            ValueError: if the folder contains chunks of another run.
        """
        refuse_other_runs(directory, run_id)
        self.directory, self.writer = directory, writer
        self.adopt(self.chunks)

    def adopt(self, chunks: list[Chunk]) -> None:
        """Add existing chunks; they are linked or copied into the folder if there is one.

        Args:
            chunks: the chunks, in any folder.
        """
        self.chunks = chunks
        if self.directory is None:
            return
        for chunk in chunks if self.writer else ():
            link_or_copy(chunk.path, self.directory / chunk.path.name)
        self.chunks = [chunk._replace(path=self.directory / chunk.path.name) for chunk in chunks]

    def flush(self, directory: Path, rows: BankRows, run_id: str) -> list[dict[str, Any]]:
        """Write the rows that are in no chunk yet, and return the records of all chunks that are needed.

        Args:
            directory: the folder.
            rows: the rows of the bank.
            run_id: id of their run.
        """
        # A signal handler may run another flush in the middle of this one: both write the same chunks, and the list is
        # replaced in one assignment.
        oldest, before = rows.seen - rows.size, self.chunks
        chunks = [chunk for chunk in before if chunk.first + chunk.length > oldest]
        first = max(oldest, chunks[-1].first + chunks[-1].length) if chunks else oldest
        if length := rows.seen - first:
            chunks.append(
                self._written(directory, rows.newest(length), {"run_id": run_id, "first": first, "length": length})
            )
        self._retired = [*self._retired, *(c for c in before if c not in chunks and c not in self._retired)]
        self.chunks = chunks
        return [{"name": c.path.name, "first": c.first, "length": c.length, "sha256": c.sha256} for c in chunks]

    def _written(self, directory: Path, rows: Mapping[str, Tensor], header: Mapping[str, Any]) -> Chunk:
        content = files.pack(CHUNK_KIND, rows, header)
        digest = content_hash(content)
        path = directory / f"chunk_{header['first']:09d}_{digest[:12]}.safetensors"
        if self.writer:
            write_atomic(path, content)
        return Chunk(path, header["first"], header["length"], digest)

    def read(
        self, state: Mapping[str, Any], search: Sequence[str | Path]
    ) -> tuple[list[Chunk], list[dict[str, Tensor]]]:
        """Find and read the chunks of a saved state.

        Args:
            state: the state of a bank, with ``directory`` and ``chunks``.
            search: other folders to search.

        Raises:
            FileNotFoundError: if a chunk is in none of the folders.
            ValueError: if a chunk was altered, or a folder contains the bank of another run.
        """
        attached = () if self.directory is None else (self.directory,)
        folders = [Path(folder) for folder in (state["directory"], *search, *attached)]
        chunks = [locate_chunk(record, folders, state["run_id"]) for record in state["chunks"]]
        return chunks, [files.unpack(CHUNK_KIND, chunk.path)[0] for chunk in chunks]

    def remove(self, needed: Collection[str]) -> list[str]:
        """Remove chunk files whose rows are all beyond the capacity, except those that are still needed.

        Args:
            needed: names of chunks that a checkpoint lists.

        Returns:
            Names of the removed files.
        """
        if self.directory is None or not self.writer:
            return []
        kept = {chunk.path.name for chunk in self.chunks} | set(needed)
        gone = [chunk for chunk in self._retired if chunk.path.name not in kept]
        for chunk in gone:
            (self.directory / chunk.path.name).unlink(missing_ok=True)
        self._retired = [chunk for chunk in self._retired if chunk.path.name in kept]
        return [chunk.path.name for chunk in gone]


def link_or_copy(source: Path, target: Path) -> None:
    """Link a chunk into a second folder, which needs no space, or copy it if links are not possible.

    Args:
        source: the file, which is never changed in place.
        target: the new path.
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
    """Check that a folder contains no chunks of another run.

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
        run_id: id of its run.

    Raises:
        FileNotFoundError: if it is in none of the folders.
        ValueError: if it was altered, or the folders contain the bank of another run.
    """
    paths = [folder / record["name"] for folder in folders if (folder / record["name"]).is_file()]
    for path in paths:
        if file_hash(path) == record["sha256"]:
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
