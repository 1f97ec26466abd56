from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save

from lightning_condkd.condensation.expert_files import read_snapshot_header
from lightning_condkd.data.condensed import CondensedSet
from lightning_condkd.files import pack, read_tensors, read_untrusted, unpack
from lightning_condkd.formats import CondensedInfo, export_png
from lightning_condkd.inversion import RealSubset
from lightning_condkd.models.weights import read_state_dict
from lightning_condkd.randomness import seeded_generator
from lightning_condkd.types import TaskSpec
from lightning_condkd.writing import write_atomic
from tests.helpers.importers import import_condensed


def dc_bytes(legacy: bool = False) -> bytes:
    images = torch.randn(20, 3, 8, 8, generator=seeded_generator(0, "images"))
    content = {"data": [[images, torch.arange(20) % 10]], "accs_all_exps": {"ConvNet": [np.float64(0.5)]}}
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=not legacy)
    return stream.getvalue()


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.05, 0.3, 0.5, 0.95])
def test_a_file_that_is_cut_off_is_to_be_copied_again(tmp_path: Path, legacy: bool, share: float) -> None:
    path, whole = tmp_path / "res_DM_CIFAR10_ConvNet_2ipc.pt", dc_bytes(legacy)
    path.write_bytes(whole)
    assert len(CondensedSet.load(path)) == 20
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(
        ValueError, match=r"ConvNet_2ipc\.pt: .*(empty|cut off|damaged).*Copy or download it again"
    ) as caught:
        CondensedSet.load(path)
    assert "load it yourself" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"hello world", "a text file"),
        (b"<!DOCTYPE html><html></html>", "a web page"),
        (b"PK\x03\x04 cut", "cut off or damaged"),
        (b"", "empty, or filled with zeros"),
        (bytes(1000), "empty, or filled with zeros"),
        (b"\x80\x02 cut", "damaged or of another kind"),
    ],
)
def test_what_is_no_torch_file_is_told_apart_from_one_that_runs_code(
    tmp_path: Path, content: bytes, found: str
) -> None:
    (tmp_path / "page.pt").write_bytes(content)
    with pytest.raises(ValueError, match=rf"expected a file of torch\.save, but it is {found}"):
        read_untrusted(tmp_path / "page.pt")


def real_images(path: Path) -> None:
    RealSubset(images=path).build(TaskSpec((3, 4, 4), 2, 4, 0), torch.Generator())


@pytest.mark.parametrize("read", [read_tensors, read_state_dict, CondensedSet.load, read_snapshot_header, real_images])
@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"<!DOCTYPE html><html></html>", "a web page"),
        (b"", "empty, or filled with zeros as after a crash"),
        (save({"images": torch.rand(2, 3, 4, 4)})[:-1], "cut off or damaged"),
        (dc_bytes(), "a file of torch.save"),
    ],
    ids=["web", "empty", "cut", "pickled"],
)
def test_every_reader_says_the_same_of_what_is_no_safetensors_file(
    read: Callable[[Path], object], content: bytes, found: str, tmp_path: Path
) -> None:
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=rf"expected a safetensors file at .*, but it is {found} \(.*: copy"):
        read(tmp_path / "a.safetensors")


@pytest.mark.filterwarnings("ignore")
def test_flipped_bytes_give_our_error_or_none(tmp_path: Path) -> None:
    path, whole = tmp_path / "res_DM_CIFAR10_ConvNet_2ipc.pt", dc_bytes(legacy=True)
    for place in range(0, 700, 3):  # where the pickled structure is; the pixels follow
        for value in (0, 0x52, 0xFF):
            path.write_bytes(whole[:place] + bytes([value]) + whole[place + 1 :])
            try:
                read_untrusted(path)
            except ValueError as error:
                assert "refused to read" in str(error)  # noqa: PT017 (some bytes do no harm)


def test_absent_and_forbidden_files_and_folders_keep_their_own_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FileNotFoundError):
        read_untrusted(tmp_path / "absent.pt")
    with pytest.raises(ValueError, match="is a folder, expected a file"):
        read_untrusted(tmp_path)

    def forbid(*_: object, **__: object) -> None:
        raise PermissionError("not yours")

    monkeypatch.setattr(torch, "load", forbid)
    (tmp_path / "secret.pt").touch()
    with pytest.raises(PermissionError, match="not yours"):
        read_untrusted(tmp_path / "secret.pt")


IMAGES, LABELS = torch.randn(2, 3, 4, 4), torch.tensor([0, 1])


@pytest.mark.parametrize(
    "content",
    [{"data": IMAGES}, {"data": {"x": IMAGES}}, {"data": [1, 2]}, {"data": 7}, {"data": [[IMAGES]]}, {"data": "xy"}, 7],
)
def test_other_structures_are_named(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "file.pt")
    with pytest.raises(ValueError, match="neither a dict with a list 'data'"):
        import_condensed(tmp_path / "file.pt", dataset="CIFAR10")


def test_sets_without_images_are_refused(tmp_path: Path) -> None:
    empty = [IMAGES[:0], LABELS[:0]]
    for name, content in (("list.pt", empty), ("dict.pt", {"data": [empty]}), ("images.pt", empty[0])):
        torch.save(content, tmp_path / name)
        options: Any = {"factor": 1} if name == "list.pt" else {"mean": (0.0,) * 3, "std": (1.0,) * 3}
        with pytest.raises(ValueError, match=rf"expected images \(N, C, H, W\) in .*{name}, got \(0, 3, 4, 4\)"):
            import_condensed(tmp_path / name, **options)


def test_a_target_that_cannot_be_written_is_named_with_a_cure(tmp_path: Path) -> None:
    condensed = CondensedSet(torch.rand(2, 3, 4, 4), LABELS)
    folder, file = tmp_path / "folder.safetensors", tmp_path / "file"
    folder.mkdir()
    file.write_bytes(b"mine")
    with pytest.raises(IsADirectoryError, match=r"folder\.safetensors is a folder, expected a file .*another name"):
        condensed.save(folder)
    for write in (
        lambda: condensed.save(file / "set.safetensors"),
        lambda: write_atomic(file / "a" / "b.json", b"{}"),
        lambda: export_png(condensed, file / "png"),
    ):
        with pytest.raises(NotADirectoryError, match=r"would lie below .*file, which is a file: choose another place"):
            write()
    assert file.read_bytes() == b"mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.safetensors"]


@pytest.mark.parametrize("part", ["pixel", "label", "header"])
def test_one_flipped_bit_of_a_condensed_set_is_found(tmp_path: Path, part: str) -> None:
    path = tmp_path / "set.safetensors"
    condensed = CondensedSet(torch.rand(2, 3, 4, 4), LABELS, info=CondensedInfo(2, method="abc"))
    condensed.save(path)
    whole = bytearray(path.read_bytes())
    place = {"pixel": whole.find(condensed.images.numpy().tobytes()) + 9, "header": whole.find(b"abc")}
    place["label"] = whole.find(LABELS.numpy().tobytes()) + 8
    whole[place[part]] ^= 1
    path.write_bytes(whole)
    with pytest.raises(ValueError, match=r"set\.safetensors was altered or damaged .* Copy it again or make it again"):
        CondensedSet.load(path)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16, torch.int64])
def test_tensors_of_any_kind_come_back(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {
        "x": torch.ones(3, 2).to(dtype),
        "number": torch.tensor(7).to(dtype),
        "none": torch.empty(0, 4).to(dtype),
    }
    (tmp_path / "x.safetensors").write_bytes(pack("example", tensors, {"a": (1, 2.5)}))
    again, header = unpack("example", tmp_path / "x.safetensors")
    assert header == {"a": [1, 2.5]}
    assert all(torch.equal(again[name], value) for name, value in tensors.items())


def test_a_file_without_a_hash_is_refused(tmp_path: Path) -> None:
    record = json.dumps({"format_version": 1, "kind": "example"})
    (tmp_path / "x.safetensors").write_bytes(save({"x": torch.ones(2)}, {"condkd": record}))
    with pytest.raises(ValueError, match="has no hash of its content in its header: make it again"):
        unpack("example", tmp_path / "x.safetensors")
