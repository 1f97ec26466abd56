"""Facts about folders of images, parquet files and condensed sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from lightning_condkd.cli import main
from lightning_condkd.commands.describe import describe
from lightning_condkd.data import CondensedInfo, CondensedSet, ImageFolderDataModule
from lightning_condkd.formats import export_dd_ranking, export_mtt
from tests.helpers.parquet import png, write


def picture(path: Path, size: tuple[int, int] = (6, 4), mode: str = "RGB", seed: int = 0) -> np.ndarray[Any, Any]:
    """Write a random image of a width and a height, and return its pixels."""
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


def facts(source: Path, **options: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(describe(source, format="json", **options))
    return found


def test_parts_have_counts_sizes_and_statistics_and_the_training_part_comes_last(tmp_path: Path) -> None:
    train = [picture(tmp_path / f"train/cat/{n}.png", (6, 4), seed=n) for n in range(3)]
    train += [picture(tmp_path / "train/dog/0.png", (3, 3), seed=9)]
    picture(tmp_path / "test/cat/0.png")
    picture(tmp_path / "test/dog/0.png", seed=1)
    found = facts(tmp_path)
    part = found["parts"]["train"]
    assert list(found["parts"]) == ["test", "train"]
    assert (part["images"], part["classes"], part["gray"]) == (4, {"cat": 3, "dog": 1}, 0)
    assert (part["smallest_class"], part["largest_class"]) == (["dog", 1], ["cat", 3])
    assert part["sizes"] == {"different": 2, "smallest": [3, 3], "largest": [4, 6]} | {
        "most_common": [4, 6],
        "most_common_images": 3,
    }
    pixels = np.concatenate([one.reshape(-1, 3) for one in train]) / 255
    assert found["mean"] == part["mean"] == pytest.approx(pixels.mean(0).tolist())
    assert found["std"] == part["std"] == pytest.approx(pixels.std(0).tolist())
    assert (found["statistics_of"], found["kind"], part["damaged"]) == ("train", "image files", [])
    lines = describe(tmp_path).splitlines()
    assert "train: 4 images of 2 classes" in lines
    assert "  smallest class: dog 1, largest: cat 3" in lines
    assert "  all have 1 images" in lines
    assert "sizes, height x width: 2 from 3 x 3 to 4 x 6 by area, most often 4 x 6 (75 %)" in describe(tmp_path)
    assert "of train, over all pixels of the images as they are:" in lines[-3]
    given = yaml.safe_load("\n".join(lines[-2:]))
    assert given["mean"] == pytest.approx(found["mean"], abs=1e-4)
    assert given["std"] == pytest.approx(found["std"], abs=1e-4)


def test_statistics_at_a_size_are_those_of_the_datamodule(tmp_path: Path) -> None:
    for n, size in enumerate([(9, 6), (6, 8), (7, 7)]):
        for part in ("train", "test"):
            picture(tmp_path / part / "cat" / f"{n}.png", size, seed=n)
            picture(tmp_path / part / "dog" / f"{n}.png", size, seed=10 + n)
    mean, std = ImageFolderDataModule(tmp_path, image_size=5).train_source.channel_statistics()
    found = facts(tmp_path, image_size=5)
    assert found["mean"] == pytest.approx(list(mean))
    assert found["std"] == pytest.approx(list(std))
    assert found["over"] == "central squares of 5 pixels"


def test_damaged_images_are_listed_and_left_out(tmp_path: Path) -> None:
    good = picture(tmp_path / "cat/good.png")
    picture(tmp_path / "cat/short.png", (40, 40))
    whole = (tmp_path / "cat/short.png").read_bytes()
    (tmp_path / "cat/short.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog/text.jpg").write_text("no image")
    Image.fromarray(np.zeros((4, 4), dtype=np.uint16)).save(tmp_path / "dog/deep.png")
    found = facts(tmp_path)
    part = found["parts"][""]
    assert (part["images"], part["classes"]) == (1, {"cat": 1, "dog": 0})
    assert found["mean"] == pytest.approx((good / 255).mean((0, 1)).tolist())
    assert [one.split(" is ")[0] for one in part["damaged"][:1]] == ["cat/short.png"]
    assert "expected 8 bits for each channel, got PIL's mode" in part["damaged"][1]
    assert "dog/text.jpg is no image or is cut off" in part["damaged"][2]
    report = describe(tmp_path)
    assert "damaged: 3, left out of all numbers" in report
    assert "  dog/text.jpg is no image" in report
    (tmp_path / "cat/good.png").write_bytes(b"")
    assert describe(tmp_path).endswith("mean and std: not known, no image can be used")
    assert facts(tmp_path)["mean"] is None


def test_gray_images_have_one_channel_unless_colour_is_among_them(tmp_path: Path) -> None:
    gray = picture(tmp_path / "a.png", (2, 2), "L")
    found = facts(tmp_path)
    assert found["mean"] == pytest.approx([gray.mean() / 255])
    assert found["parts"][""]["classes"] is None
    assert "1 images, without classes" in describe(tmp_path)
    color = picture(tmp_path / "b.png", (2, 2), seed=1)
    both = np.concatenate([np.repeat(gray.reshape(-1, 1), 3, 1), color.reshape(-1, 3)]) / 255
    assert facts(tmp_path)["mean"] == pytest.approx(both.mean(0).tolist())
    assert "2 x 2, 1 gray" in describe(tmp_path)


def test_many_classes_and_damaged_files_are_listed_in_full_in_json_alone(tmp_path: Path) -> None:
    for n in range(25):
        picture(tmp_path / f"class{n:02d}/0.png", (2, 2), seed=n)
        (tmp_path / f"class{n:02d}/1.png").write_bytes(b"")
    report = describe(tmp_path)
    assert "class19 1 and 5 more, all by --format json" in report
    assert "  and 5 more, all by --format json" in report
    assert len(facts(tmp_path)["parts"][""]["classes"]) == len(facts(tmp_path)["parts"][""]["damaged"]) == 25
    names = tuple(f"class{n:02d}" for n in range(26))
    assert facts(tmp_path, class_names=names)["parts"][""]["smallest_class"] == ["class25", 0]


def test_parquet_files_are_read_row_by_row_and_damage_is_listed(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    for n in range(2):
        pictures = [png(51 * (2 * n + 1)), png(0, (5, 3)) if n else b"broken", None]
        write(tmp_path / f"data/train-{n:05d}-of-00002.parquet", pictures, [0, 1, 1])
    write(tmp_path / "data/test-00000-of-00001.parquet", [png(255)], [1])
    found = facts(tmp_path)
    part = found["parts"]["train"]
    assert (part["images"], part["classes"], found["kind"]) == (3, {"cat": 2, "dog": 1}, "images in parquet files")
    assert [one.split(" is ")[0].split(": the")[0] for one in part["damaged"]] == [
        "train-00000-of-00002.parquet, row 1",
        "train-00000-of-00002.parquet, row 2",
        "train-00001-of-00002.parquet, row 2",
    ]
    assert part["mean"] == pytest.approx(3 * [(16 * 0.2 + 16 * 0.6) / 47])
    assert list(facts(tmp_path, part="test")["parts"]) == ["test"]
    report = describe(tmp_path / "data/test-00000-of-00001.parquet", image_size=2)
    assert report.endswith("mean: [1.0000, 1.0000, 1.0000]\nstd: [0.0000, 0.0000, 0.0000]")
    content = bytearray((tmp_path / "data/train-00001-of-00002.parquet").read_bytes())
    content[4:60] = bytes(56)
    (tmp_path / "data/train-00001-of-00002.parquet").write_bytes(content)
    assert "train-00001-of-00002.parquet" in facts(tmp_path)["parts"]["train"]["damaged"][-1]


LABELS = torch.arange(10).repeat(2)


def condensed(**info: Any) -> CondensedSet:
    images = torch.rand(20, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 1.6 - 0.3
    facts = CondensedInfo(10, tuple("abcdefghij"), method="DM", settings={"dataset": "cifar10"}, **info)
    return CondensedSet(images, LABELS, info=facts)


@pytest.mark.parametrize("form", ["native", "mtt", "dd_ranking"])
def test_a_condensed_set_in_any_format_has_its_facts(tmp_path: Path, form: str) -> None:
    source, options = tmp_path / "set.safetensors", {}
    if form == "native":
        condensed().save(source)
    else:
        {"mtt": export_mtt, "dd_ranking": export_dd_ranking}[form](condensed(), tmp_path / "out")
        source, options = tmp_path / "out" / ("images_best.pt" if form == "mtt" else ""), {"dataset": "cifar10"}
    found = facts(source, **options)
    pixels = condensed().images.double()
    assert (found["images"], found["ipc"], found["labels"], found["image_shape"]) == (20, 2, "hard", [3, 4, 4])
    assert list(found["classes"].values()) == 10 * [2]
    assert found["mean"] == pytest.approx(pixels.mean((0, 2, 3)).tolist(), abs=1e-6)
    assert found["std"] == pytest.approx(pixels.std((0, 2, 3), correction=0).tolist(), abs=1e-6)
    assert found["values"] == pytest.approx([float(pixels.min()), float(pixels.max())], abs=1e-6)
    report = describe(source, **options)
    assert condensed().line in report
    assert "all have 2 images" in report
    assert found["smallest_class"][1] == found["largest_class"][1] == 2
    assert ("sha256: " in report) == (form != "native")
    assert [line.split(":")[0] for line in report.splitlines()[-2:]] == ["mean", "std"]


def test_sets_in_bytes_have_statistics_in_the_unit_range(tmp_path: Path) -> None:
    images = torch.randint(256, (20, 1, 4, 4), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    CondensedSet(images, LABELS).save(tmp_path / "set.safetensors")
    assert facts(tmp_path / "set.safetensors")["mean"] == pytest.approx([float(images.double().mean() / 255)])


def test_what_cannot_be_described_is_refused(tmp_path: Path) -> None:
    condensed().save(tmp_path / "set.safetensors")
    (tmp_path / "empty").mkdir()
    picture(tmp_path / "pictures/a.png")
    wrong: dict[str, tuple[str, dict[str, Any], type[Exception]]] = {
        "found none at": ("none", {}, FileNotFoundError),
        "expected image files in": ("empty", {}, FileNotFoundError),
        "have one size: leave it out": ("set.safetensors", {"image_size": 4}, ValueError),
        "image_size: expected a positive number": ("pictures", {"image_size": 0}, ValueError),
        "is a folder of images, to which these options do not apply: mean": ("pictures", {"mean": [0.5]}, ValueError),
        "is a native set in pixels, to which": ("set.safetensors", {"run": 1}, ValueError),
    }
    for message, (name, options, kind) in wrong.items():
        with pytest.raises(kind, match=message):
            describe(tmp_path / name, **options)


def test_the_command_line_prints_text_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["describe", "package:digits-dm-1ipc.safetensors"])
    printed = capsys.readouterr().out
    assert "digits-dm-1ipc.safetensors: condensed set" in printed
    assert "mean: [0." in printed
    picture(tmp_path / "cat/a.png")
    main(["describe", str(tmp_path), "--format=json", "--image_size=2"])
    assert json.loads(capsys.readouterr().out)["parts"][""]["classes"] == {"cat": 1}
