"""Sets are read, described and written in a small multiple of the memory that they take themselves."""

from __future__ import annotations

import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lightning_condkd import pixels
from lightning_condkd.commands.convert import convert
from lightning_condkd.data import CondensedSet

CONSTANTS: dict[str, Any] = {"mean": [0.5] * 3, "std": [0.25] * 3}
SHAPE = (320, 3, 64, 64)
SIZE = 320 * 3 * 64 * 64
PART = 2**15
WORK = 24 * PART  # bytes: a part as float32, its copies and what is true of its values; and small objects


class Memory(TorchDispatchMode):
    """Counts the bytes of all tensors that are made, as long as they live."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        known = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in known:
                self._add(tensor.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._drop, storage.nbytes())

    def _drop(self, size: int) -> None:
        self.live -= size


@contextmanager
def at_most(size: int) -> Iterator[None]:
    """Fail if tensors and other objects made within take more bytes at any time."""
    tracemalloc.start()
    try:
        with Memory() as memory:
            yield
        assert memory.peak + tracemalloc.get_traced_memory()[1] < size
    finally:
        tracemalloc.stop()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one set of bytes, ``set.safetensors``, and the same as float32 in the format of DC."""
    folder = tmp_path_factory.mktemp("sets")
    images = torch.randint(256, SHAPE, dtype=torch.uint8)
    CondensedSet(images, torch.arange(len(images)) % 4).save(folder / "set.safetensors")
    convert(folder / "set.safetensors", folder / "set.pt", format="dc", **CONSTANTS)
    return folder


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "PART", PART)


def test_the_measure_sees_tensors_and_bytes() -> None:
    with pytest.raises(AssertionError), at_most(1000):
        torch.zeros(300) + 1
    with pytest.raises(AssertionError), at_most(10_000_000):
        _ = bytes(10_000_001)
    with at_most(10_000_000):
        for _ in range(10):
            torch.zeros(1_000_000).view(10, -1).t()


@pytest.mark.parametrize(
    ("times", "convert_to"),
    [(3, "o.safetensors"), (5, "o.pt"), (5, "mtt"), (2, "png")],
)
def test_a_set_of_bytes_is_converted(folder: Path, tmp_path: Path, times: int, convert_to: str) -> None:
    formats: dict[str, Any] = {"o.pt": {"format": "dc", **CONSTANTS}, "mtt": {"format": "mtt", **CONSTANTS}}
    formats["png"] = {"format": "png"}
    with at_most(times * SIZE + WORK):
        convert(folder / "set.safetensors", tmp_path / convert_to, **formats.get(convert_to, {}))


def test_a_set_of_floats_is_converted(folder: Path, tmp_path: Path) -> None:
    with at_most(3 * 4 * SIZE + WORK):
        convert(folder / "set.pt", tmp_path / "o.safetensors", dataset="own", **CONSTANTS)


@pytest.mark.parametrize("work", [CondensedSet.describe, lambda one: one.save("o.safetensors")], ids=["say", "save"])
@pytest.mark.parametrize("kind", ["bytes", "floats"])
def test_a_set_is_described_and_saved_without_a_copy(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, work: Callable[[CondensedSet], Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    condensed = CondensedSet.load(folder / "set.safetensors")
    if kind == "floats":
        condensed = CondensedSet(condensed.pixels(slice(None)), condensed.labels)
    with at_most(SIZE // 2 + WORK):
        work(condensed)
