from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lightning_condkd import files
from lightning_condkd.data.bank import MemoryBank
from lightning_condkd.data.condensed import CondensedSet
from lightning_condkd.formats import CondensedInfo
from lightning_condkd.formats.soft_labels import soft_label_kind
from lightning_condkd.randomness import seeded_generator

LABELS = torch.tensor([2, 0, 1, 0, 2, 2, 1, 0, 0])
INFO = CondensedInfo(
    3,
    class_names=("ape", "bee", "cow"),
    method="DM",
    settings={"iterations": 200, "sizes": (1, 2), "nested": {"b": 1, "a": None}},
    seed=7,
    source_mean=(0.4914, 0.4822, 0.4465),
    source_std=(0.2023, 0.1994, 0.2010),
    provenance={"file": "x.pt"},
)


def float_images() -> Tensor:
    return torch.randn(9, 3, 4, 5, generator=seeded_generator(0, "images"))


def byte_images() -> Tensor:
    return torch.randint(256, (9, 3, 4, 5), generator=seeded_generator(0, "images")).to(torch.uint8)


@pytest.mark.parametrize("images", [float_images(), byte_images()], ids=["float32", "uint8"])
@pytest.mark.parametrize("soft_dtype", [None, torch.float16, torch.float32, torch.float64])
def test_a_saved_set_comes_back_bit_for_bit(tmp_path: Path, images: Tensor, soft_dtype: torch.dtype | None) -> None:
    soft = None if soft_dtype is None else torch.randn(9, 3).to(soft_dtype)
    kind: Any = "hard" if soft is None else "logits"
    info = CondensedInfo(**{**vars(INFO), "label_kind": kind})
    condensed = CondensedSet(images, LABELS, soft, info)
    condensed.save(tmp_path / "set.safetensors")
    loaded = CondensedSet.load(tmp_path / "set.safetensors")
    assert loaded.images.dtype == images.dtype
    assert torch.equal(loaded.images, images)
    assert torch.equal(loaded.labels, LABELS)
    assert loaded.info == info
    if soft is None:
        assert loaded.soft_labels is None
    else:
        assert loaded.soft_labels is not None
        assert loaded.soft_labels.dtype == soft.dtype
        assert torch.equal(loaded.soft_labels, soft)


def test_equal_sets_give_equal_bytes(tmp_path: Path) -> None:
    shuffled = CondensedInfo(**{**vars(INFO), "settings": dict(reversed(INFO.settings.items()))})
    for number in range(10):
        info = INFO if number % 2 else shuffled
        CondensedSet(float_images(), LABELS, info=info).save(tmp_path / f"{number}.safetensors")
    CondensedSet.load(tmp_path / "0.safetensors").save(tmp_path / "again.safetensors")
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_the_order_of_a_header_does_not_matter() -> None:
    tensors = {"x": torch.zeros(2)}
    assert files.pack("example", tensors, {"a": 1, "b": 2}) == files.pack("example", tensors, {"b": 2, "a": 1})


def test_a_failed_save_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "set.safetensors"
    CondensedSet(float_images(), LABELS).save(path)
    before = path.read_bytes()

    def full_disk(descriptor: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="no space"):
        CondensedSet(byte_images(), LABELS).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_pixels_are_never_clipped_and_bytes_are_divided() -> None:
    images = float_images()
    assert images.min() < 0
    assert images.max() > 1
    rows = torch.tensor([8, 1, 1])
    assert torch.equal(CondensedSet(images, LABELS).pixels(rows), images[rows])
    bytes_ = CondensedSet(byte_images(), LABELS)
    assert torch.equal(bytes_.pixels(slice(2, 4)), byte_images()[2:4].float() / 255)


def test_the_set_owns_its_tensors() -> None:
    images, labels = float_images(), LABELS.clone()
    pixels = torch.nn.Parameter(images)
    condensed = CondensedSet(pixels, labels)
    with torch.no_grad():
        pixels.zero_()
        labels.zero_()
    assert torch.equal(condensed.images, float_images())
    assert torch.equal(condensed.labels, LABELS)
    assert not condensed.images.requires_grad


def test_classes_are_counted() -> None:
    condensed = CondensedSet(float_images(), LABELS, info=CondensedInfo(5))
    assert condensed.counts.tolist() == [4, 2, 3, 0, 0]
    assert condensed.missing_classes == (3, 4)
    assert condensed.ipc == 0
    assert [condensed.class_indices(label).tolist() for label in range(5)] == [[1, 3, 7, 8], [2, 6], [0, 4, 5], [], []]
    assert CondensedSet(float_images(), LABELS).missing_classes == ()
    assert CondensedSet(float_images(), LABELS).image_shape == (3, 4, 5)


def test_a_subset_takes_the_first_of_each_class_in_order() -> None:
    soft = torch.eye(3)[LABELS]
    subset = CondensedSet(float_images(), LABELS, soft).subset(2)
    rows = torch.tensor([0, 1, 2, 3, 4, 6])
    assert torch.equal(subset.images, float_images()[rows])
    assert torch.equal(subset.labels, LABELS[rows])
    assert subset.soft_labels is not None
    assert torch.equal(subset.soft_labels, soft[rows])
    assert subset.info.provenance["subset"] == "first 2 per class"


def test_a_seeded_subset_is_random_repeatable_and_balanced() -> None:
    condensed = CondensedSet(torch.rand(60, 1, 2, 2), torch.arange(60) % 3)
    one, same, other = condensed.subset(5, seed=1), condensed.subset(5, seed=1), condensed.subset(5, seed=2)
    assert torch.equal(one.images, same.images)
    assert not torch.equal(one.images, other.images)
    assert one.counts.tolist() == [5, 5, 5]
    assert len(one.images.unique(dim=0)) == 15
    assert not torch.equal(one.images, condensed.subset(5).images)


@pytest.mark.parametrize("ipc", [0, 3, -1])
def test_a_class_with_too_few_images_is_named(ipc: int) -> None:
    with pytest.raises(ValueError, match=r"smallest class has 2 images: choose 1 to 2"):
        CondensedSet(float_images(), LABELS).subset(ipc)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": torch.rand(9, 3, 4)}, "expected images"),
        ({"images": torch.rand(0, 3, 4, 4), "labels": LABELS[:0]}, "expected images"),
        ({"images": float_images().double()}, "float32 or uint8"),
        ({"images": float_images() / 0}, "NaN or infinity"),
        ({"labels": LABELS[:8]}, "expected int64 labels"),
        ({"labels": LABELS.float()}, "expected int64 labels"),
        ({"labels": LABELS - 1}, "expected labels 0 to"),
        ({"info": CondensedInfo(2)}, "expected labels 0 to 1, got 0 to 2"),
        ({"soft_labels": torch.rand(9)}, "one row per image"),
        ({"soft_labels": torch.rand(8, 3)}, "one row per image"),
        ({"soft_labels": torch.ones(9, 3).long()}, "floating point soft_labels"),
        ({"soft_labels": torch.full((9, 3), torch.nan)}, "soft_labels hold NaN"),
        ({"soft_labels": torch.rand(9, 4), "info": CondensedInfo(3, label_kind="logits")}, "4 classes"),
        ({"soft_labels": torch.rand(9, 3), "info": CondensedInfo(3)}, "label_kind"),
        ({"info": CondensedInfo(3, label_kind="logits")}, "label_kind"),
    ],
)
def test_what_does_not_fit_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CondensedSet(**{"images": float_images(), "labels": LABELS, **arguments})


def test_soft_labels_are_told_apart() -> None:
    logits = torch.randn(20, 5, generator=seeded_generator(0, "logits"))
    assert soft_label_kind(logits) == "logits"
    assert soft_label_kind(logits.softmax(1)) == "probabilities"
    assert soft_label_kind(logits.softmax(1).half()) == "probabilities"
    assert soft_label_kind(logits - logits.mean(1, keepdim=True) + 0.2) == "logits"
    scaled = logits.softmax(1) * torch.linspace(0.97, 1, 20).unsqueeze(1)
    with pytest.raises(ValueError, match="or logits"):
        soft_label_kind(scaled)
    assert CondensedSet(torch.rand(20, 1, 2, 2), logits.argmax(1), logits).info.label_kind == "logits"


@pytest.mark.parametrize("value", [Path("x"), float("nan"), torch.zeros(1)])
def test_settings_must_be_json(value: object) -> None:
    with pytest.raises(ValueError, match="settings must hold JSON values"):
        CondensedInfo(3, settings={"key": value})


def test_class_names_must_name_every_class() -> None:
    with pytest.raises(ValueError, match="expected 3 class_names, got 2"):
        CondensedInfo(3, class_names=("ape", "bee"))


def write(path: Path, kind: str = "condensed set", **header: object) -> None:
    tensors = {"images": float_images(), "labels": LABELS}
    path.write_bytes(files.pack(kind, tensors, header))


def test_files_of_another_format_are_refused_with_a_cure(tmp_path: Path) -> None:
    newer = tmp_path / "newer.safetensors"
    write(newer, format_version=2)
    with pytest.raises(ValueError, match=r"format_version 2, this release reads 1: update"):
        CondensedSet.load(newer)
    weights = tmp_path / "weights.safetensors"
    save_file({"linear.weight": torch.zeros(2, 2)}, weights)
    with pytest.raises(ValueError, match="no condensed set"):
        CondensedSet.load(weights)
    cut = tmp_path / "cut.safetensors"
    CondensedSet(float_images(), LABELS).save(cut)
    cut.write_bytes(cut.read_bytes()[:-10])
    with pytest.raises(ValueError, match="cut off"):
        CondensedSet.load(cut)
    save_file({"images": float_images()}, cut, {files.HEADER_KEY: '{"kind": "conden'})
    with pytest.raises(ValueError, match=r"header of .*cut\.safetensors is damaged"):
        CondensedSet.load(cut)
    with pytest.raises(FileNotFoundError, match="check the path"):
        CondensedSet.load(tmp_path / "absent.safetensors")
    odd = tmp_path / "set.npz"
    odd.touch()
    with pytest.raises(ValueError, match=r"expected \.safetensors, \.pt, \.pth or \.parquet, got 'set.npz'"):
        CondensedSet.load(odd)


def test_a_bank_chunk_is_no_condensed_set(tmp_path: Path) -> None:
    bank = MemoryBank()
    bank.attach(tmp_path)
    bank.append(torch.rand(2, 3, 4, 4), torch.tensor([0, 1]), round=0)
    bank.state_dict()
    with pytest.raises(ValueError, match="holds: memory bank chunk; expected: condensed set"):
        CondensedSet.load(next(tmp_path.glob("*.safetensors")))


def test_missing_keys_are_named(tmp_path: Path) -> None:
    path = tmp_path / "set.safetensors"
    write(path, num_classes=3)
    with pytest.raises(ValueError, match=r"lacks .*class_names"):
        CondensedSet.load(path)
    path.write_bytes(files.pack("condensed set", {"images": float_images()}, vars(INFO)))
    with pytest.raises(ValueError, match=r"lacks labels"):
        CondensedSet.load(path)


def test_only_safetensors_are_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="change the ending"):
        CondensedSet(float_images(), LABELS).save(tmp_path / "set.pt")
    assert not list(tmp_path.iterdir())


def test_the_description_tells_what_a_reader_needs() -> None:
    images = torch.full((9, 3, 4, 5), 0.5)
    images[0, 0, 0, 0], images[1] = -0.25, 1.5
    lines = CondensedSet(images, LABELS, info=CondensedInfo(**{**vars(INFO), "num_classes": 3})).describe().splitlines()
    assert lines[0] == "9 images of 3 x 4 x 5 (float32), 2 to 4 per class, 3 classes, labels hard"
    assert lines[1] == "pixels -0.250 to 1.500 in the units of [0, 1], 11.3 % of them outside"
    assert "method: DM, seed 7" in lines
    assert "class names: ape, bee, cow" in lines
    assert "file: x.pt" in lines
    lacking = CondensedSet(images, LABELS, torch.randn(9, 5)).describe()
    assert "classes without an image: 3, 4" in lacking
    assert "5 classes, labels hard and soft (logits)" in lacking
