"""Files are whole under their name whatever happens, and what cannot be written is refused beforehand."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from lightning_condkd.data import CondensedSet
from lightning_condkd.data.bank import MemoryBank
from lightning_condkd.formats import export_mtt, export_png
from lightning_condkd.writing import (
    Target,
    check_target,
    new_folder,
    replacing,
    save_by_torch,
    save_tensors,
    write_atomic,
)

LARGE = {"x": torch.zeros(100_000)}
SET = CondensedSet(torch.rand(4, 3, 96, 96), torch.tensor([0, 1, 0, 1]))


@contextmanager
def full_disk(after: int = 50_000) -> Iterator[None]:
    """Let the system cut off all writing to a file after some bytes, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (after, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def held(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


WRITERS: dict[str, Callable[[Path], object]] = {
    "bytes": lambda path: write_atomic(path, bytes(100_000)),
    "torch": lambda path: save_by_torch(path, LARGE),
    "tensors": lambda path: save_tensors(path, LARGE, {}),
    "set": lambda path: SET.save(path.with_suffix(".safetensors")),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_leaves_what_was_there(writer: str, tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    path.write_bytes(b"before")
    with full_disk(), pytest.raises(OSError, match=r"file\.safetensors could not be written .*make room"):
        WRITERS[writer](path)
    assert held(tmp_path) == {"file.safetensors": b"before"}
    WRITERS[writer](path)
    assert list(held(tmp_path)) == ["file.safetensors"]
    assert path.stat().st_size >= 100_000


@pytest.mark.parametrize("writer", WRITERS)
def test_a_file_may_be_read_by_whom_the_system_allows(writer: str, tmp_path: Path) -> None:
    path, plain = tmp_path / "file.safetensors", tmp_path / "plain"
    before = os.umask(0o027)
    try:
        plain.touch()
        WRITERS[writer](path)
    finally:
        os.umask(before)
    assert path.stat().st_mode == plain.stat().st_mode == 0o100640


@pytest.mark.parametrize("export", [export_png, lambda one, folder: export_mtt(one, folder, mean=[0] * 3, std=[1] * 3)])
def test_a_full_disk_leaves_no_folder(export: Callable[[CondensedSet, Path], object], tmp_path: Path) -> None:
    with full_disk(10_000), pytest.raises(OSError, match=r"out could not be written .*make room"):
        export(SET, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_no_chunk(tmp_path: Path) -> None:
    bank = MemoryBank()
    bank.attach(tmp_path)
    bank.append(torch.rand(8, 3, 64, 64), torch.zeros(8, dtype=torch.int64), round=0)
    with full_disk(), pytest.raises(OSError, match=r"chunk_.*could not be written"):
        bank.state_dict()
    assert not list(tmp_path.iterdir())
    assert len(bank.state_dict()["chunks"]) == 1


def test_an_interruption_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"before")

    def interrupted() -> None:
        with replacing(path) as temporary:
            temporary.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert held(tmp_path) == {"file": b"before"}


def test_the_longest_names_can_be_written(tmp_path: Path) -> None:
    name = "n" * 255
    check_target(Target(tmp_path / name))
    write_atomic(tmp_path / name, b"content")
    with new_folder(tmp_path / "m" / name) as folder:
        (folder / "a").touch()
    assert (tmp_path / name).read_bytes() == b"content"
    assert (tmp_path / "m" / name / "a").exists()


def test_places_that_take_no_file_are_named_and_left_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    wrong = {
        "would lie below .*file, which is a file": Target(tmp_path / "file" / "a" / "b"),
        "would lie below .*broken, which is a file": Target(tmp_path / "broken" / "b"),
        "is a folder, expected a file": Target(tmp_path),
        "is a file, expected a folder": Target(tmp_path / "file", folder=True),
        r"nnn cannot be written \(File name too long\): choose a shorter name": Target(tmp_path / ("n" * 256)),
        r"nnn/file cannot be written \(File name too long\)": Target(tmp_path / "new" / ("n" * 256) / "file"),
        r"/n+ cannot be written \(File name too long\)": Target(tmp_path / "/".join(["n" * 100] * 50)),
        "it needs at least 1000000000000.0 MB, the disk of .* MB left: make room": Target(tmp_path / "a", 10**18),
        r"cannot be written \(.* in /proc\): choose another place": Target(Path("/proc/file")),
    }
    for message, target in wrong.items():
        with pytest.raises(OSError, match=message):
            check_target(target)
    for right in (Target(tmp_path / "new" / "file"), Target(tmp_path / "file"), Target(tmp_path, 1, folder=True)):
        check_target(right)
    assert sorted(os.listdir(tmp_path)) == ["broken", "file"]
    assert os.listdir("/proc").count("file") == 0
    for target in wrong.values():
        if not target.size and not target.folder:
            with pytest.raises(OSError, match=r"is a folder, expected|which is a file: choose|could not be written"):
                write_atomic(target.path, b"content")
