"""Condensed sets in parquet files, the layout of Hugging Face datasets."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from lightning_condkd.cli import main
from lightning_condkd.commands.evaluate import evaluate
from lightning_condkd.data import CondensedInfo, CondensedSet
from lightning_condkd.formats import export_parquet, import_parquet
from lightning_condkd.formats.parquet_files import parquet_parts
from lightning_condkd.formats.parquet_table import open_table
from lightning_condkd.randomness import seeded_generator
from tests.commands.test_evaluate import RECIPE, SMALL, Digits
from tests.helpers.parquet import png, write

pyarrow = pytest.importorskip("pyarrow")

LABELS = torch.tensor([2, 0, 1, 0])
NAMES = ("cat", "T-shirt/top", "dog")


def levels(channels: int = 3) -> Tensor:
    return torch.randint(256, (4, channels, 5, 6), generator=seeded_generator(0, "bytes")).to(torch.uint8)


def make(images: Tensor, soft: Tensor | None = None, kind: Any = "hard") -> CondensedSet:
    return CondensedSet(images, LABELS, soft, CondensedInfo(3, NAMES, kind))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["hard", "probabilities", "logits"])
def test_a_set_comes_back_with_names_and_soft_labels(tmp_path: Path, channels: int, kind: str) -> None:
    logits = torch.tensor([[0.0, 1.0, 4.0], [2.0, -1.0, 0.0], [0.5, 3.0, 0.0], [5.0, 0.0, 0.0]])
    soft = {"hard": None, "probabilities": logits.softmax(1), "logits": logits}[kind]
    export_parquet(make(levels(channels), soft, kind), tmp_path / "set.parquet")
    back = CondensedSet.load(tmp_path / "set.parquet")
    assert torch.equal(back.images, levels(channels))
    assert torch.equal(back.labels, LABELS)
    assert back.info.class_names == NAMES
    assert back.info.label_kind == kind
    assert (back.soft_labels is None) == (soft is None)
    if soft is not None and back.soft_labels is not None:
        torch.testing.assert_close(back.soft_labels, soft)
    assert set(back.info.provenance) == {"format", "file", "sha256"}


@pytest.mark.parametrize("channels", [1, 3])
def test_the_library_datasets_reads_what_we_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channels: int
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    soft = torch.eye(3)[LABELS]
    export_parquet(make(levels(channels), soft, "probabilities"), tmp_path / "own/data/train-00000-of-00001.parquet")
    whole = datasets.load_dataset(str(tmp_path / "own"), split="train", cache_dir=str(tmp_path / "cache"))
    alone = datasets.load_dataset(
        "parquet",
        data_files=str(tmp_path / "own/data/train-00000-of-00001.parquet"),
        split="train",
        cache_dir=str(tmp_path / "cache"),
    )
    for found in (whole, alone):
        assert isinstance(found.features["image"], datasets.Image)
        assert found.features["label"].names == list(NAMES)
        assert list(found["label"]) == LABELS.tolist()
        assert found[0]["soft_label"] == [0.0, 0.0, 1.0]
        image = found[1]["image"]
        assert (image.mode, image.size) == ("L" if channels == 1 else "RGB", (6, 5))
        assert torch.equal(pil_to_tensor(image), levels(channels)[1])


def test_what_the_library_datasets_writes_is_read(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    kinds = {"img": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    kinds["soft_label"] = datasets.Sequence(datasets.Value("float32"), length=2)
    rows = [{"bytes": png(level), "path": f"{level}.png"} for level in (10, 20, 30)]
    soft = [[0.25, 0.75], [1.0, 0.0], [0.5, 0.5]]
    table = {"img": rows, "label": [1, 0, 0], "soft_label": soft}
    datasets.Dataset.from_dict(table, features=datasets.Features(kinds)).to_parquet(tmp_path / "train.parquet")
    back = CondensedSet.load(tmp_path)
    assert back.images[:, 0, 0, 0].tolist() == [10, 20, 30]
    assert (back.labels.tolist(), back.info.class_names) == ([1, 0, 0], ("cat", "dog"))
    assert back.soft_labels is not None
    assert back.soft_labels.tolist() == soft


def test_pixels_outside_are_clipped_and_their_share_is_told(tmp_path: Path) -> None:
    images = torch.full((4, 1, 2, 2), 0.5)
    images[0], images[1, 0, 0, 0] = 1.5, -0.5
    assert export_parquet(make(images), tmp_path / "set.parquet") == 5 / 16
    back = CondensedSet.load(tmp_path / "set.parquet").images
    assert (back[0, 0, 0, 0].item(), back[1, 0].flatten().tolist()) == (255, [0, 128, 128, 128])


def test_equal_sets_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        export_parquet(make(levels()), tmp_path / f"{name}.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def shards(root: Path, count: int = 3) -> list[Path]:
    return [
        write(root / f"data/train-{n:05d}-of-{count:05d}.parquet", [png(10 * n + i) for i in range(3)], [0, 1, 0])
        for n in range(count)
    ]


def test_shards_are_read_whole_in_their_order_wherever_one_is_named(tmp_path: Path) -> None:
    files = shards(tmp_path)
    expected = [0, 1, 2, 10, 11, 12, 20, 21, 22]
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache/other-00000-of-00001.parquet").write_bytes(b"hidden")
    for path in (tmp_path, tmp_path / "data", files[1]):
        back = CondensedSet.load(path)
        assert back.images[:, 0, 0, 0].tolist() == expected
        assert back.labels.tolist() == 3 * [0, 1, 0]
        assert back.info.provenance["file"] == ", ".join(file.name for file in files)
    files[1].unlink()
    with pytest.raises(ValueError, match="should have each shard of 3 once, but has train-00000-of-00003"):
        CondensedSet.load(tmp_path)


def test_a_part_is_chosen_by_name(tmp_path: Path) -> None:
    shards(tmp_path)
    write(tmp_path / "data/test-00000-of-00001-0123456789abcdef.parquet", [png(99)], [1])
    write(tmp_path / "validation/0000.parquet", [png(55)], [1])
    assert list(parquet_parts(tmp_path)) == ["test", "train", "validation"]
    with pytest.raises(ValueError, match="has the parts test, train, validation: choose one with part"):
        CondensedSet.load(tmp_path)
    with pytest.raises(ValueError, match="has no 'val', but test, train, validation"):
        CondensedSet.load(tmp_path, part="val")
    assert CondensedSet.load(tmp_path, part="test").images[0, 0, 0, 0] == 99
    assert CondensedSet.load(tmp_path, part="validation").images[0, 0, 0, 0] == 55
    write(tmp_path / "other/train.parquet", [png(1)], [1])
    with pytest.raises(ValueError, match="the part 'train' is in several folders"):
        CondensedSet.load(tmp_path, part="train")
    with pytest.raises(ValueError, match="is a file: give its folder, or leave out part"):
        CondensedSet.load(tmp_path / "other/train.parquet", part="train")


def test_columns_go_by_their_features_and_else_by_choice(tmp_path: Path) -> None:
    pictures, fine = [png(1), png(2)], pyarrow.array([3, 1])
    write(tmp_path / "a.parquet", pictures, [1, 0], image="img", label="coarse", id=pyarrow.array([7, 8]))
    assert CondensedSet.load(tmp_path / "a.parquet").labels.tolist() == [1, 0]
    path = write(tmp_path / "b.parquet", pictures, [1, 0], features=False, fine=fine)
    with pytest.raises(ValueError, match="several columns for the label, label, fine: choose by --label_column"):
        CondensedSet.load(path)
    back = CondensedSet.load(path, label_column="fine")
    assert (back.labels.tolist(), back.num_classes, back.info.class_names) == ([3, 1], 4, None)
    with pytest.raises(ValueError, match=r"no column of this kind called 'img'; there are: image, label, fine"):
        CondensedSet.load(path, label_column="fine", image_column="img")
    two = write(tmp_path / "c.parquet", pictures, [1, 0], features=False, thumb=pyarrow.array([png(5), png(6)]))
    with pytest.raises(ValueError, match="several columns for the image, image, thumb: choose by --image_column"):
        CondensedSet.load(two)
    assert CondensedSet.load(two, image_column="thumb").images[:, 0, 0, 0].tolist() == [5, 6]


def test_class_names_put_the_classes_into_their_order(tmp_path: Path) -> None:
    soft = pyarrow.array([[0.75, 0.25], [0.0, 1.0]], pyarrow.list_(pyarrow.float32()))
    path = write(tmp_path / "set.parquet", [png(1), png(2)], [0, 1], soft_label=soft)
    back = CondensedSet.load(path, class_names=("Dog", "Cat"))
    assert (back.labels.tolist(), back.info.class_names) == ([1, 0], ("Dog", "Cat"))
    assert back.soft_labels is not None
    assert back.soft_labels.tolist() == [[0.25, 0.75], [1.0, 0.0]]
    with pytest.raises(ValueError, match=r"class_names: expected 2 names, one for each value of 'soft_label', got 3"):
        CondensedSet.load(path, class_names=("dog", "cat", "eel"))
    plain = write(tmp_path / "plain.parquet", [png(1), png(2)], [0, 1])
    assert CondensedSet.load(plain, class_names=("eel", "dog", "cat")).labels.tolist() == [2, 1]
    with pytest.raises(ValueError, match="folders cat are not among class_names"):
        CondensedSet.load(plain, class_names=("dog", "eel"))
    with pytest.raises(ValueError, match="cifar10 has 10 classes"):
        CondensedSet.load(plain, dataset="cifar10")


def test_what_cannot_be_a_set_is_refused_with_its_row(tmp_path: Path) -> None:
    good = png(1)
    secret = tmp_path / "secret.png"
    secret.write_bytes(png(77))
    wrong: dict[str, tuple[list[Any], list[int | None]]] = {
        "a.parquet, row 1: the column 'image' holds no image": ([good, None], [0, 1]),
        "holds the path of a file instead of the image": ([good, {"bytes": None, "path": str(secret)}], [0, 1]),
        "row 2 is no image or is cut off": ([good, good, good[:40]], [0, 1, 0]),
        "got 4x4 and 5x4 .a.parquet, row 1.: resize them": ([good, png(2, (4, 5))], [0, 1]),
        "a number from 0 below 2, in the column 'label', got -1": ([good, good], [0, -1]),
        "in the column 'label', got None": ([good, good], [0, None]),
        "got 2: remove rows": ([good, good], [0, 2]),
        "expected rows in": ([], []),
    }
    for message, (images, labels) in wrong.items():
        with pytest.raises(ValueError, match=message):
            CondensedSet.load(write(tmp_path / "a.parquet", images, labels))


def test_damaged_and_foreign_files_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", [png(level) for level in range(40)], [0, 1] * 20)
    content = path.read_bytes()
    for damaged in (
        b"",
        b"PAR1",
        content[: len(content) // 2],
        b"x" * 100,
        content[:200] + b"\0" * 300 + content[500:],
    ):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"a\.parquet"):
            CondensedSet.load(path)
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["cat"]}}
    paths = pyarrow.table({"image": ["a.png"], "label": [0]})
    named = paths.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pyarrow.parquet.write_table(named, path)
    with pytest.raises(ValueError, match="holds the path of a file instead of the image"):
        CondensedSet.load(path)
    other = tmp_path / "b.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a"], "label": ["cat"]}), other)
    with pytest.raises(ValueError, match=r"expected a column of encoded images in .*, found text, label"):
        CondensedSet.load(other)
    pyarrow.parquet.write_table(pyarrow.table({"image": [png(1)], "label": ["cat"]}), other)
    with pytest.raises(ValueError, match=r"classes as whole numbers \(text: class_encode_column\)"):
        CondensedSet.load(other)
    table = pyarrow.table({"image": [png(1)], "label": [0]}).replace_schema_metadata({"huggingface": "{"})
    pyarrow.parquet.write_table(table, other)
    with pytest.raises(ValueError, match="record of Hugging Face features is damaged"):
        CondensedSet.load(other)


def test_rows_are_read_in_batches_so_that_damage_at_the_end_is_met_there(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", [png(level) for level in range(200)], [0, 1] * 100)
    last = pyarrow.parquet.read_metadata(path).row_group(99).column(0)
    content = bytearray(path.read_bytes())
    start = last.dictionary_page_offset or last.data_page_offset
    content[start : start + 40] = bytes(40)
    path.write_bytes(content)
    rows = open_table(path).rows()
    assert [next(rows).label for _ in range(64)] == [0, 1] * 32
    with pytest.raises(ValueError, match=r"a\.parquet is no parquet file or is cut off"):
        list(rows)


def test_shards_of_different_datasets_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "train-00000-of-00002.parquet", [png(1)], [0])
    write(tmp_path / "train-00001-of-00002.parquet", [png(1)], [0], names=("dog", "cat"))
    with pytest.raises(ValueError, match="differ in their columns or class names"):
        CondensedSet.load(tmp_path)


def test_a_name_of_the_hub_is_not_downloaded_but_the_cure_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="hf download uoft-cs/cifar10 --repo-type dataset --local-dir FOLDER"):
        CondensedSet.load("uoft-cs/cifar10")
    for path in ("cifar10", "sets/mine.safetensors", "/sets/mine"):
        with pytest.raises(FileNotFoundError, match=r"check the path$"):
            CondensedSet.load(path)


def test_without_pyarrow_the_cure_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, real = write(tmp_path / "a.parquet", [png(1)], [0]), builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError(f"No module named {name!r}")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'lightning-condkd\[parquet\]'"):
        CondensedSet.load(path)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'lightning-condkd\[parquet\]'"):
        export_parquet(make(levels()), tmp_path / "b.parquet")


def test_options_and_formats_must_fit(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", [png(1)], [0])
    with pytest.raises(ValueError, match="options do not apply: factor=2"):
        CondensedSet.load(path, factor=2)
    with pytest.raises(ValueError, match="label_kind=logits, but the file has no column 'soft_label'"):
        CondensedSet.load(path, label_kind="logits")
    with pytest.raises(ValueError, match=r"ending in \.parquet, got 'out'"):
        export_parquet(make(levels()), tmp_path / "out")
    with pytest.raises(ValueError, match="PNG has 1 or 3 channels, the set has 2"):
        export_parquet(make(levels(2)), tmp_path / "out.parquet")
    with pytest.raises(FileNotFoundError, match="expected parquet files in"):
        import_parquet(tmp_path / "none")


def test_the_command_line_converts_and_evaluates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours, theirs, back = tmp_path / "a.safetensors", tmp_path / "out/train.parquet", tmp_path / "b.safetensors"
    main(["select", str(ours), "--data=DigitsDataModule", "--method=RandomSelection", "--ipc=2"])
    main(["convert", str(ours), str(theirs), "--format=parquet"])
    assert f"written to {theirs} for the library datasets, 0.00 % of the values clipped." in capsys.readouterr().out
    main(["convert", str(tmp_path / "out"), str(back), "--part=train"])
    first, second = CondensedSet.load(ours), CondensedSet.load(back)
    assert torch.equal(first.images, second.images)
    assert first.info.class_names == second.info.class_names
    with pytest.raises(ValueError, match=r"ending in \.parquet"):
        main(["convert", str(ours), str(tmp_path / "folder"), "--format=parquet"])
    report = evaluate(str(theirs), data=Digits(), networks={"small": SMALL}, recipe=RECIPE, runs=1)
    assert "20" in report.splitlines()[1]
