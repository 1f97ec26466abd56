from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_condkd import files
from lightning_condkd.data import bank as bank_module
from lightning_condkd.data import bank_rows
from lightning_condkd.data import chunks as chunks_module
from lightning_condkd.data.bank import MemoryBank, quantize
from lightning_condkd.data.condensed import CondensedSet
from lightning_condkd.randomness import seeded_generator

Batch = tuple[Tensor, Tensor]


def batch(size: int, step: int = 0) -> Batch:
    generator = seeded_generator(1, "batch", step)
    images = torch.randint(256, (size, 3, 4, 4), generator=generator).to(torch.uint8)
    return images, torch.randint(10, (size,), generator=generator)


def filled(sizes: list[int], capacity: int | None = None, directory: Path | None = None) -> MemoryBank:
    bank = MemoryBank(capacity)
    if directory is not None:
        bank.attach(directory)
    for step, size in enumerate(sizes):
        bank.append(*batch(size, step), round=step)
    return bank


def through_a_checkpoint(state: dict[str, Any]) -> dict[str, Any]:
    stream = io.BytesIO()
    torch.save(state, stream)
    stream.seek(0)
    loaded: dict[str, Any] = torch.load(stream, weights_only=True)
    return loaded


def restored(state: dict[str, Any], **arguments: Any) -> MemoryBank:
    bank = MemoryBank(arguments.pop("capacity", None))
    bank.load_state_dict(through_a_checkpoint(state), **arguments)
    return bank


def assert_same_rows(one: MemoryBank, two: MemoryBank) -> None:
    assert torch.equal(one.images, two.images)
    assert torch.equal(one.labels, two.labels)
    assert torch.equal(one.rounds, two.rounds)
    assert one.images_seen == two.images_seen
    assert one.clamped_share == two.clamped_share


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_every_byte_survives_a_trip_through_floats(dtype: torch.dtype) -> None:
    values = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(quantize((values.double() / 255).to(dtype))[0], values)


def test_pixels_are_rounded_not_cut() -> None:
    quantized, clamped = quantize(torch.tensor([0.6 / 255, 1.4 / 255, 254.6 / 255, -0.001, 1.001]))
    assert quantized.tolist() == [1, 1, 255, 0, 255]
    assert clamped == 2


def test_the_clamped_share_counts_floating_point_pixels_only() -> None:
    bank = MemoryBank(capacity=1)
    assert bank.clamped_share == 0
    images = torch.rand(2, 3, 4, 4)
    images[0, 0, 0, :3] = torch.tensor([-0.1, 1.1, 5.0])
    bank.append(images, torch.tensor([0, 1]), round=0)
    bank.append(*batch(5), round=1)
    assert bank.clamped_share == 3 / 96
    bank.append(torch.rand(2, 3, 4, 4), torch.tensor([0, 1]), round=2)
    assert bank.clamped_share == 3 / 192


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_refused_batch_changes_nothing(value: float) -> None:
    bank, before = filled([3]), filled([3])
    images = torch.rand(2, 3, 4, 4) * 2
    images[1, 2, 3, 3] = value
    with pytest.raises(ValueError, match="nothing was stored"):
        bank.append(images, torch.tensor([0, 1]), round=1)
    assert_same_rows(bank, before)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.rand(2, 3, 4, 5), torch.tensor([0, 1]), "keep the generator's image size"),
        (torch.rand(2, 3, 4), torch.tensor([0, 1]), "expected images"),
        (torch.rand(2, 3, 4, 4), torch.tensor([0]), "one class per image"),
        (torch.rand(2, 3, 4, 4), torch.rand(2), "int64 labels"),
        (torch.zeros(2, 3, 4, 4).int(), torch.tensor([0, 1]), "floating point or uint8"),
    ],
)
def test_batches_that_do_not_fit_are_refused(images: Tensor, labels: Tensor, message: str) -> None:
    bank = filled([3])
    with pytest.raises(ValueError, match=message):
        bank.append(images, labels, round=1)
    assert_same_rows(bank, filled([3]))


@pytest.mark.parametrize("capacity", [None, 1, 5, 7, 40])
def test_the_bank_is_the_tail_of_all_that_was_appended(capacity: int | None) -> None:
    bank = MemoryBank(capacity)
    images: list[Tensor] = []
    labels: list[Tensor] = []
    rounds: list[int] = []
    sizes = torch.randint(0, 12, (30,), generator=seeded_generator(0, "sizes")).tolist()
    for step, size in enumerate(sizes):
        new_images, new_labels = batch(size, step)
        bank.append(new_images, new_labels, round=step)
        images.append(new_images)
        labels.append(new_labels)
        rounds += [step] * size
        kept = min(len(rounds), capacity or len(rounds))
        assert len(bank) == kept
        assert torch.equal(bank.images.flatten(), torch.cat(images)[len(rounds) - kept :].flatten())
        assert torch.equal(bank.labels, torch.cat(labels)[len(rounds) - kept :])
        assert bank.rounds.tolist() == rounds[len(rounds) - kept :]
        assert bank.images_seen == len(rounds)
    indices = torch.tensor([len(bank) - 1, 0, 0])
    taken, targets = bank.take(indices)
    assert torch.equal(taken, bank.images[indices])
    assert torch.equal(targets, bank.labels[indices])


@pytest.mark.parametrize("capacity", [None, 5000])
def test_growth_moves_rows_a_constant_number_of_times(capacity: int | None) -> None:
    bank = MemoryBank(capacity)
    images, labels = torch.zeros(256, 1, 2, 2, dtype=torch.uint8), torch.zeros(256, dtype=torch.int64)
    moved, place = 0, 0
    for step in range(200):
        before = len(bank)
        bank.append(images, labels, round=step)
        start = bank.images.untyped_storage().data_ptr()
        moved, place = moved + (before if start != place else 0), start
    assert moved <= 2 * bank.images_seen


def test_a_view_stays_true_while_the_bank_grows_and_evicts() -> None:
    bank = filled([6], capacity=8)
    view, copy = bank.images, bank.images.clone()
    for step in range(20):
        bank.append(*batch(5, step + 1), round=step)
    assert torch.equal(view, copy)


def test_labels_are_counted() -> None:
    bank = MemoryBank()
    bank.append(torch.rand(4, 1, 2, 2), torch.tensor([0, 2, 2, 4]), round=0)
    assert bank.label_counts(6).tolist() == [1, 0, 2, 0, 1, 0]
    with pytest.raises(ValueError, match="num_classes=4 is too small"):
        bank.label_counts(4)
    assert MemoryBank().label_counts(2).tolist() == [0, 0]


def test_a_capacity_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="None keeps all"):
        MemoryBank(0)


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize("sizes", [[], [4], [4, 0, 9, 2]])
@pytest.mark.parametrize("capacity", [None, 6])
def test_a_restored_bank_is_the_same_and_goes_on_the_same(
    tmp_path: Path, on_disk: bool, sizes: list[int], capacity: int | None
) -> None:
    bank = filled(sizes, capacity, tmp_path if on_disk else None)
    bank.append(torch.randn(1, 3, 4, 4), torch.tensor([3]), round=9)
    again = restored(bank.state_dict(), capacity=capacity)
    assert_same_rows(bank, again)
    assert again.run_id == bank.run_id
    for continued in (bank, again):
        continued.append(*batch(7, 50), round=10)
    assert_same_rows(bank, again)


def test_an_empty_bank_is_restored_empty(tmp_path: Path) -> None:
    for bank in (MemoryBank(), filled([], directory=tmp_path)):
        again = restored(bank.state_dict())
        assert len(again) == 0
        again.append(*batch(2), round=0)
        assert len(again) == 2


def test_without_a_folder_the_state_holds_no_more_than_the_live_rows() -> None:
    rows = filled([20, 20, 20], capacity=10).state_dict()["rows"]
    assert rows["images"].untyped_storage().nbytes() == 10 * 48


def test_chunks_are_only_ever_added(tmp_path: Path) -> None:
    bank = filled([4, 4], directory=tmp_path)
    assert not list(tmp_path.iterdir())
    first = bank.state_dict()
    files = {path: path.stat().st_ino for path in tmp_path.iterdir()}
    assert [chunk["name"] for chunk in first["chunks"]] == [path.name for path in files]
    bank.append(*batch(3, 7), round=2)
    second = bank.state_dict()
    assert bank.state_dict() == second
    assert len(list(tmp_path.iterdir())) == 2
    assert all(path.stat().st_ino == inode for path, inode in files.items())
    assert [(chunk["first"], chunk["length"]) for chunk in second["chunks"]] == [(0, 8), (8, 3)]
    assert_same_rows(restored(first), filled([4, 4]))


def test_every_rank_has_the_same_state_but_one_writes(tmp_path: Path) -> None:
    states = []
    for writer in (False, True):
        bank = MemoryBank()
        bank.run_id = "run"
        bank.attach(tmp_path, writer=writer)
        for step in range(3):
            bank.append(*batch(4, step), round=step)
            states.append(bank.state_dict())
        assert bool(list(tmp_path.iterdir())) == writer
    assert states[:3] == states[3:]


def test_a_resumed_run_in_another_folder_is_complete_there(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    state = filled([4, 4], directory=old).state_dict()
    bank = restored(state)
    bank.attach(new)
    assert [path.stat().st_ino for path in new.iterdir()] == [path.stat().st_ino for path in old.iterdir()]
    bank.append(*batch(5, 2), round=2)
    later = bank.state_dict()
    for path in old.iterdir():
        path.unlink()
    assert_same_rows(restored(later), filled([4, 4, 5]))
    assert later["directory"] == str(new)


def test_attaching_before_loading_comes_to_the_same(tmp_path: Path) -> None:
    state = filled([4, 4], directory=tmp_path / "old").state_dict()
    bank = MemoryBank()
    bank.attach(tmp_path / "new")
    bank.load_state_dict(state)
    names = {path.name for path in (tmp_path / "new").iterdir()}
    assert names == {path.name for path in (tmp_path / "old").iterdir()}
    assert bank.state_dict()["chunks"] == state["chunks"]


def test_chunks_are_copied_where_links_do_not_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = filled([4], directory=tmp_path / "old").state_dict()
    bank = restored(state)

    def other_disk(source: Path, target: Path) -> None:
        raise OSError("invalid cross-device link")

    monkeypatch.setattr("os.link", other_disk)
    bank.attach(tmp_path / "new")
    (copy,) = (tmp_path / "new").iterdir()
    assert copy.read_bytes() == (tmp_path / "old" / copy.name).read_bytes()


def test_a_state_with_rows_goes_to_chunks_once_a_folder_is_attached(tmp_path: Path) -> None:
    bank = restored(filled([4, 4]).state_dict())
    bank.attach(tmp_path)
    assert_same_rows(restored(bank.state_dict()), filled([4, 4]))


def test_a_moved_folder_is_found_by_searching(tmp_path: Path) -> None:
    state = filled([4, 4], directory=tmp_path / "old").state_dict()
    (tmp_path / "old").rename(tmp_path / "moved")
    with pytest.raises(FileNotFoundError, match="in none of"):
        restored(state)
    assert_same_rows(restored(state, search=[tmp_path / "nowhere", tmp_path / "moved"]), filled([4, 4]))


def test_an_altered_chunk_is_refused_unless_a_good_copy_is_found(tmp_path: Path) -> None:
    state = filled([4, 4], directory=tmp_path / "bank").state_dict()
    (path,) = (tmp_path / "bank").iterdir()
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    bank = filled([2])
    with pytest.raises(ValueError, match="was altered since the checkpoint"):
        bank.load_state_dict(state)
    assert_same_rows(bank, filled([2]))
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / path.name).write_bytes(good)
    assert_same_rows(restored(state, search=[tmp_path / "copy"]), filled([4, 4]))


def test_the_bank_of_another_run_is_refused(tmp_path: Path) -> None:
    state = filled([4], directory=tmp_path / "one").state_dict()
    filled([4], directory=tmp_path / "two").state_dict()
    with pytest.raises(ValueError, match=r"another run .*choose another folder.*resume"):
        MemoryBank().attach(tmp_path / "one")
    with pytest.raises(ValueError, match="another run"):
        restored(state).attach(tmp_path / "two")
    for path in (tmp_path / "one").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match="bank of another run"):
        restored(state, search=[tmp_path / "two"])
    attached = filled([], directory=tmp_path / "three")
    filled([4], directory=tmp_path / "four").state_dict()
    attached.attach(tmp_path / "five")
    with pytest.raises(ValueError, match="another run"):
        attached.attach(tmp_path / "four")


def test_the_run_cannot_change_once_chunks_are_written(tmp_path: Path) -> None:
    bank = filled([4], directory=tmp_path)
    bank.run_id = "early"
    assert bank.state_dict()["run_id"] == "early"
    with pytest.raises(ValueError, match="set it before"):
        bank.run_id = "late"


@pytest.mark.parametrize("same_rows", [True, False])
def test_what_a_crash_left_behind_harms_no_checkpoint(tmp_path: Path, same_rows: bool) -> None:
    bank = filled([4], directory=tmp_path)
    early = bank.state_dict()
    bank.append(*batch(5, 1), round=1)
    late = bank.state_dict()
    resumed = restored(early)
    resumed.attach(tmp_path)
    resumed.append(*batch(5, 1 if same_rows else 99), round=1)
    resumed.append(*batch(2, 2), round=2)
    again = restored(resumed.state_dict())
    assert_same_rows(again, resumed)
    assert len(again) == 11
    assert_same_rows(restored(late), bank)


def test_chunks_without_live_rows_leave_the_manifest(tmp_path: Path) -> None:
    bank = MemoryBank(capacity=6)
    bank.attach(tmp_path)
    states = []
    for step in range(8):
        bank.append(*batch(4, step), round=step)
        states.append((through_a_checkpoint(bank.state_dict()), filled([4] * (step + 1), capacity=6)))
    assert [chunk["first"] for chunk in states[-1][0]["chunks"]] == [24, 28]
    for state, expected in states:
        assert_same_rows(restored(state, capacity=6), expected)


def test_rows_evicted_before_the_checkpoint_are_not_written(tmp_path: Path) -> None:
    state = filled([4] * 5, capacity=6, directory=tmp_path).state_dict()
    assert [(chunk["first"], chunk["length"]) for chunk in state["chunks"]] == [(14, 6)]
    assert_same_rows(restored(state, capacity=6), filled([4] * 5, capacity=6))


@pytest.mark.parametrize("on_disk", [False, True])
def test_a_smaller_capacity_drops_the_oldest_on_loading(tmp_path: Path, on_disk: bool) -> None:
    bank = restored(filled([4, 4], directory=tmp_path if on_disk else None).state_dict(), capacity=3)
    assert_same_rows(bank, filled([4, 4], capacity=3))


def test_a_larger_capacity_brings_no_evicted_row_back(tmp_path: Path) -> None:
    bank = MemoryBank(capacity=6)
    bank.attach(tmp_path)
    for step in range(3):
        bank.append(*batch(4, step), round=step)
        state = bank.state_dict()
    assert [chunk["first"] for chunk in state["chunks"]] == [4, 8]
    assert_same_rows(restored(state), bank)


def test_an_exported_bank_is_a_condensed_set(tmp_path: Path) -> None:
    bank = filled([4, 4], capacity=5)
    bank.export(tmp_path / "bank.safetensors", num_classes=12)
    condensed = CondensedSet.load(tmp_path / "bank.safetensors")
    assert torch.equal(condensed.images, bank.images)
    assert torch.equal(condensed.labels, bank.labels)
    assert condensed.num_classes == 12
    assert condensed.info.method == "memory bank"
    assert condensed.info.settings["images_seen"] == 8
    with pytest.raises(ValueError, match="nothing to export"):
        MemoryBank().export(tmp_path / "empty.safetensors")


def test_a_save_in_the_middle_of_a_flush_names_every_chunk_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a signal handler does, at every line of the outer flush."""
    for number in range(3):
        bank = filled([4, 4], directory=tmp_path / str(number))
        bank.state_dict()
        bank.append(*batch(5, 2), round=2)
        inner: list[dict[str, Any]] = []
        place, name = ((files, "pack"), (chunks_module, "write_atomic"), (chunks_module, "Chunk"))[number]
        original = getattr(place, name)

        def within(*args: Any, bank: MemoryBank = bank, original: Any = original, inner: Any = inner, **kw: Any) -> Any:
            before = original(*args, **kw)
            if not inner:
                inner.append({})
                inner[0] = bank.state_dict()
            return before

        with monkeypatch.context() as patch:
            patch.setattr(place, name, within)
            outer = bank.state_dict()
        for state in (inner[0], outer, bank.state_dict()):
            assert [(chunk["first"], chunk["length"]) for chunk in state["chunks"]] == [(0, 8), (8, 5)]
            assert_same_rows(restored(state), filled([4, 4, 5]))


@pytest.mark.parametrize("capacity", [None, 6])
def test_a_save_at_any_line_of_an_append_holds_all_of_it_or_none(capacity: int | None) -> None:
    """A trace function stands in for a signal, which may come between any two lines."""
    bank, states = filled([4], capacity), []
    own = {bank_module.__file__, bank_rows.__file__}

    def trace(frame: Any, event: str, argument: Any) -> Any:
        if frame.f_code.co_filename not in own:
            return None
        if event == "line":
            sys.settrace(None)
            states.append(bank.state_dict())
            sys.settrace(trace)
        return trace

    sys.settrace(trace)
    try:
        bank.append(*batch(4, 1), round=1)
    finally:
        sys.settrace(None)
    assert len(states) > 10
    wholes = [filled([4] * count, capacity) for count in (1, 2)]
    for state in states:
        assert_same_rows(restored(state, capacity=capacity), wholes[state["images_seen"] == 8])


@pytest.mark.parametrize(
    ("change", "held"),
    [
        (lambda chunks: chunks[:1] + chunks[:1] + chunks[1:], r"\[\(0, 4\), \(0, 4\), \(4, 5\)\]"),  # twice
        (lambda chunks: chunks[1:] + chunks[1:], r"\[\(4, 5\), \(4, 5\)\]"),  # as many rows, but not the first ones
        (lambda chunks: chunks[:1], r"\[\(0, 4\)\]"),  # the newest are missing
        (lambda chunks: chunks[1:], r"\[\(4, 5\)\]"),  # the oldest are missing
        (lambda chunks: chunks[::-1], r"\[\(4, 5\), \(0, 4\)\]"),
        (lambda chunks: [], r"\[\]"),
    ],
)
def test_chunks_that_do_not_make_up_the_bank_are_refused(change: Any, held: str, tmp_path: Path) -> None:
    bank = filled([4], directory=tmp_path)
    bank.state_dict()
    bank.append(*batch(5, 1), round=1)
    state = bank.state_dict()
    broken, other = {**state, "chunks": change(state["chunks"])}, filled([2])
    with pytest.raises(
        ValueError, match=f"is damaged: expected 9 rows .* up to row 9, got .*{held}: resume from another"
    ):
        other.load_state_dict(broken)
    assert_same_rows(other, filled([2]))


def test_rows_in_a_checkpoint_are_counted_too() -> None:
    state = filled([4, 5]).state_dict()
    state["rows"] = {name: rows[:-1] for name, rows in state["rows"].items()}
    with pytest.raises(ValueError, match="is damaged: expected 9 rows"):
        restored(state)


def test_only_chunks_beyond_the_capacity_that_nobody_needs_are_removed(tmp_path: Path) -> None:
    bank = MemoryBank(capacity=6)
    bank.attach(tmp_path)
    names = []
    for step in range(5):
        bank.append(*batch(4, step), round=step)
        names.append(bank.state_dict()["chunks"][-1]["name"])
    assert bank.remove_chunks([names[1]]) == [names[0], names[2]]
    assert {path.name for path in tmp_path.iterdir()} == {names[1], names[3], names[4]}
    assert bank.remove_chunks([]) == [names[1]]
    assert_same_rows(restored(bank.state_dict(), capacity=6), filled([4] * 5, capacity=6))


def test_a_cleared_bank_is_as_new(tmp_path: Path) -> None:
    bank = filled([4], directory=tmp_path)
    first = bank.state_dict()
    bank.clear()
    bank.append(*batch(3), round=0)
    assert "rows" in bank.state_dict()
    assert bank.run_id != first["run_id"]
    assert_same_rows(bank, filled([3]))
    assert_same_rows(restored(first), filled([4]))
