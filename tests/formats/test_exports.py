from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor

from lightning_condkd.cli import main
from lightning_condkd.commands.convert import convert
from lightning_condkd.data.condensed import CondensedSet
from lightning_condkd.formats import CondensedInfo, export_dc, export_mtt, export_png
from lightning_condkd.formats.normalizations import DC_CONSTANTS, MTT_CONSTANTS
from lightning_condkd.randomness import seeded_generator
from tests.helpers.importers import import_condensed, import_folder, import_mtt

LABELS = torch.arange(10).repeat_interleave(2).roll(3)  # not sorted by class
NAMES = ("airplane", "T-shirt/top", *"cdefghij")
CONSTANTS = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}


def images(channels: int = 3) -> Tensor:
    """Float images that leave [0, 1] on both sides."""
    return torch.rand(20, channels, 4, 5, generator=seeded_generator(0, "pixels")) * 1.6 - 0.3


def levels(channels: int = 3) -> Tensor:
    return torch.randint(256, (20, channels, 4, 5), generator=seeded_generator(0, "bytes")).to(torch.uint8)


def make(pixels: Tensor, soft: Tensor | None = None, kind: Any = "hard", **settings: object) -> CondensedSet:
    return CondensedSet(pixels, LABELS, soft, CondensedInfo(10, NAMES, kind, settings=settings))


def normalized(pixels: Tensor, constants: Any) -> Tensor:
    return (pixels - torch.tensor(constants.mean).view(-1, 1, 1)) / torch.tensor(constants.std).view(-1, 1, 1)


@pytest.mark.parametrize("dataset", ["CIFAR10", "SVHN"])
def test_a_dc_dict_has_the_structure_of_the_release_and_comes_back(tmp_path: Path, dataset: str) -> None:
    path = tmp_path / "out" / f"res_DM_{dataset}_ConvNet_2ipc.pt"
    export_dc(make(images()), path, dataset=dataset)
    content = torch.load(path, weights_only=True)
    assert set(content) == {"data", "accs_all_exps"}
    written, labels = content["data"][-1]
    torch.testing.assert_close(written, normalized(images(), DC_CONSTANTS[dataset.lower()]))
    assert (written.dtype, labels.dtype, len(content["data"])) == (torch.float32, torch.int64, 1)
    back = CondensedSet.load(path)
    torch.testing.assert_close(back.images, images(), rtol=0, atol=1e-6)
    assert torch.equal(back.labels, LABELS)


@pytest.mark.parametrize("kind", ["hard", "probabilities", "logits"])
def test_an_mtt_pair_comes_back_with_labels_and_step_size(tmp_path: Path, kind: str) -> None:
    logits = torch.randn(20, 10, generator=seeded_generator(0, "logits"))
    logits[torch.arange(20), LABELS] += 10  # the importer takes the class from the soft label
    soft = {"hard": None, "probabilities": logits.softmax(1), "logits": logits}[kind]
    export_mtt(make(images(), soft, kind, dataset="CIFAR-10", train_lr=0.02), tmp_path / "pair")
    assert sorted(file.name for file in (tmp_path / "pair").iterdir()) == [
        "images_best.pt",
        "labels_best.pt",
        "lr_best.pt",
    ]
    labels = torch.load(tmp_path / "pair" / "labels_best.pt", weights_only=True)
    assert torch.equal(labels, LABELS if soft is None else soft)
    back = import_mtt(tmp_path / "pair" / "images_best.pt", dataset="CIFAR10")
    torch.testing.assert_close(back.images, images(), rtol=0, atol=1e-6)
    assert torch.equal(back.labels, LABELS)
    assert back.info.label_kind == kind
    assert back.soft_labels is None if soft is None else torch.equal(back.soft_labels, soft)  # type: ignore[arg-type]
    assert back.info.settings["train_lr"] == 0.02


def test_each_format_goes_by_the_constants_of_its_code(tmp_path: Path) -> None:
    condensed = CondensedSet(images(), LABELS, info=CondensedInfo(100))
    export_dc(condensed, tmp_path / "dc.pt", dataset="CIFAR100")
    export_mtt(condensed, tmp_path / "mtt", dataset="CIFAR100")
    dc = torch.load(tmp_path / "dc.pt", weights_only=True)["data"][0][0]
    mtt = torch.load(tmp_path / "mtt" / "images_best.pt", weights_only=True)
    torch.testing.assert_close(dc, normalized(images(), DC_CONSTANTS["cifar100"]))
    torch.testing.assert_close(mtt, normalized(images(), MTT_CONSTANTS["cifar100"]))
    assert not torch.allclose(dc, mtt)
    assert not (tmp_path / "mtt" / "lr_best.pt").exists()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_png_folder_gives_uint8_sets_back_exactly(tmp_path: Path, channels: int) -> None:
    condensed = make(levels(channels))
    assert export_png(condensed, tmp_path / "png") == 0.0
    back = import_folder(tmp_path / "png")
    by_class = LABELS.argsort(stable=True)
    assert back.images.dtype == torch.uint8
    assert torch.equal(back.images, condensed.images[by_class])
    assert torch.equal(back.labels, LABELS[by_class])
    assert back.info.class_names == NAMES


def test_class_names_that_no_folder_can_have_come_back(tmp_path: Path) -> None:
    names = ("a/b", "a:b", "Äpfel\n", "cat", "CAT", *"fghij")
    export_png(CondensedSet(levels(), LABELS, info=CondensedInfo(10, names)), tmp_path / "png")
    for given in (None, names):
        back = import_folder(tmp_path / "png", class_names=given)
        assert back.info.class_names == names
        assert torch.equal(back.images, levels()[LABELS.argsort(stable=True)])
        assert torch.equal(back.labels, LABELS.sort().values)
    (tmp_path / "png" / "class_names.json").write_text('["cut')
    with pytest.raises(ValueError, match=r"expected a list of class names in .*class_names\.json: copy it again"):
        import_folder(tmp_path / "png")


def test_image_folder_reads_a_png_folder_in_the_order_of_the_classes(tmp_path: Path) -> None:
    labels = torch.arange(12)
    pixels = labels.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)
    export_png(CondensedSet(pixels, labels), tmp_path / "png")
    dataset = torchvision.datasets.ImageFolder(str(tmp_path / "png"))
    assert dataset.classes[:3] == ["00", "01", "02"]
    assert [(label, image.getpixel((0, 0))[0]) for image, label in dataset] == [(k, k) for k in range(12)]
    assert import_folder(tmp_path / "png").info.class_names is None


def test_png_export_rounds_and_tells_the_share_that_it_clips(tmp_path: Path) -> None:
    share = export_png(make(images()), tmp_path / "png")
    assert share == ((images() < 0) | (images() > 1)).double().mean()
    back = import_folder(tmp_path / "png")
    expected = images()[LABELS.argsort(stable=True)].clamp(0, 1)
    assert (back.images / 255 - expected).abs().max() <= 0.5 / 255 + 1e-6


def test_classes_that_an_mtt_pair_cannot_hold_are_counted(tmp_path: Path) -> None:
    soft = torch.eye(10)[LABELS]
    assert export_mtt(make(images()), tmp_path / "hard", dataset="CIFAR10") == 0
    assert export_mtt(make(images(), soft, "probabilities"), tmp_path / "same", dataset="CIFAR10") == 0
    swapped = make(images(), torch.cat([soft[:17], soft[17:].roll(1, 1)]), "probabilities")
    assert export_mtt(swapped, tmp_path / "other", dataset="CIFAR10") == 3
    back = import_mtt(tmp_path / "other" / "images_best.pt", dataset="CIFAR10")
    assert int((back.labels != LABELS).sum()) == 3
    swapped.save(tmp_path / "ours.safetensors")
    report = convert(tmp_path / "ours.safetensors", tmp_path / "pair", format="mtt", dataset="CIFAR10")
    assert "warning: the classes of 3 of 20 images are not the most likely ones" in report


def test_a_mean_and_std_are_the_users_word_on_a_pair_in_pixels(tmp_path: Path) -> None:
    unit: Any = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
    export_mtt(make(images()), tmp_path / "pair", **unit)
    file = tmp_path / "pair" / "images_best.pt"
    with pytest.raises(ValueError, match=r"looks whitened or already in pixels .*0 and 1 for pixels of 0 to 1"):
        import_mtt(file, dataset="CIFAR10")
    torch.testing.assert_close(import_mtt(file, **unit).images, images())


@pytest.mark.parametrize(
    ("constants", "message"),
    [
        ({"mean": (math.nan, 0.4, 0.3)}, "mean: expected a finite number"),
        ({"mean": (math.inf, 0.4, 0.3)}, "mean: expected a finite number"),
        ({"mean": (), "std": ()}, "mean: expected a finite number for each channel, got \\(\\)"),
        ({"std": (math.inf, 0.3, 0.4)}, "std: expected a finite number"),
        ({"std": (0.0, 0.3, 0.4)}, "std: expected std above 0"),
        ({"mean": (125.3, 123.0, 113.9)}, "mean: expected values in the units of .0, 1.*divide by 255"),
        ({"std": (51.6, 50.8, 51.3)}, "std: expected values in the units of .0, 1.*divide by 255"),
    ],
)
def test_constants_that_are_no_numbers_are_refused(tmp_path: Path, constants: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        export_dc(make(images()), tmp_path / "dc.pt", **{**CONSTANTS, **constants})
    torch.save({"data": [[images(), LABELS]]}, tmp_path / "in.pt")
    with pytest.raises(ValueError, match=message):
        import_condensed(tmp_path / "in.pt", **{**CONSTANTS, **constants})


def test_uint8_sets_are_normalised_from_their_pixels(tmp_path: Path) -> None:
    export_mtt(make(levels()), tmp_path / "pair", **CONSTANTS)  # type: ignore[arg-type]
    back = import_mtt(tmp_path / "pair" / "images_best.pt", **CONSTANTS)  # type: ignore[arg-type]
    assert torch.equal((back.images * 255).round().to(torch.uint8), levels())


def test_a_folder_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").touch()
    for export in (export_png, lambda *args: export_mtt(*args, dataset="CIFAR10")):
        with pytest.raises(FileExistsError, match="is not an empty folder"):
            export(make(images()), full)
    assert [file.name for file in full.iterdir()] == ["mine.txt"]

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("PIL.Image.Image.save", fail)
    with pytest.raises(OSError, match="disk full"):
        export_png(make(images()), tmp_path / "png")
    assert [path.name for path in tmp_path.iterdir()] == ["full"]
    monkeypatch.undo()
    (tmp_path / "empty").mkdir()
    export_png(make(images()), tmp_path / "empty")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "full"]


def test_what_a_format_cannot_hold_is_refused(tmp_path: Path) -> None:
    condensed = make(images())
    with pytest.raises(ValueError, match=r"not known for dataset None: .*--dataset.*--mean, --std"):
        export_dc(condensed, tmp_path / "dc.pt")
    with pytest.raises(ValueError, match=r"CIFAR100 has 100 classes, the set 10"):
        export_dc(condensed, tmp_path / "dc.pt", dataset="CIFAR100")
    with pytest.raises(ValueError, match="images have 3 channels, mean and std 1 and 1"):
        export_dc(condensed, tmp_path / "dc.pt", dataset="MNIST")
    with pytest.raises(ValueError, match=r"ending in \.pt or \.pth"):
        export_dc(condensed, tmp_path / "dc", dataset="CIFAR10")
    with pytest.raises(ValueError, match="1 or 3 channels, the set has 2"):
        export_png(make(images(2)), tmp_path / "png")
    with pytest.raises(ValueError, match="classes 10 have no image"):
        export_png(CondensedSet(images(), LABELS, info=CondensedInfo(11)), tmp_path / "png")
    assert not list(tmp_path.iterdir())


def test_convert_goes_from_ours_through_every_format_and_back(tmp_path: Path) -> None:
    ours, options = tmp_path / "ours.safetensors", {"dataset": "CIFAR10"}
    make(images()).save(ours)
    convert(ours, tmp_path / "dc.pt", format="dc", **options)  # type: ignore[arg-type]
    convert(tmp_path / "dc.pt", tmp_path / "mtt", format="mtt", **options)  # type: ignore[arg-type]
    report = convert(
        tmp_path / "mtt" / "images_best.pt", tmp_path / "back.safetensors", train_lr=0.01, dataset="CIFAR10"
    )
    back = CondensedSet.load(tmp_path / "back.safetensors")
    torch.testing.assert_close(back.images, images(), rtol=0, atol=1e-6)
    assert report.startswith(back.describe())
    assert back.info.settings == {"dataset": "CIFAR10", "train_lr": 0.01}
    convert(tmp_path / "back.safetensors", tmp_path / "again", format="mtt")  # the dataset is recorded
    assert (tmp_path / "again" / "lr_best.pt").is_file()


def test_convert_reports_what_is_lost_or_missing(tmp_path: Path) -> None:
    ours = tmp_path / "ours.safetensors"
    make(images() * 0 + 2, torch.eye(10)[LABELS], "probabilities").save(ours)
    report = convert(ours, tmp_path / "png", format="png")
    assert "100.00 % of the values clipped. Soft labels are left out" in report
    assert "Soft labels are left out" in convert(ours, tmp_path / "dc.pt", format="dc", dataset="CIFAR10")
    make(images()).save(ours)
    convert(ours, tmp_path / "mtt", format="mtt", dataset="CIFAR10")
    report = convert(tmp_path / "mtt" / "images_best.pt", tmp_path / "x.safetensors", dataset="CIFAR10")
    assert "warning: the files do not contain the learned step size" in report
    assert "--train_lr" not in convert(tmp_path / "x.safetensors", tmp_path / "y.safetensors", train_lr=0.01)


def test_mean_and_std_of_a_source_in_pixels_serve_its_export(tmp_path: Path) -> None:
    make(levels()).save(tmp_path / "ours.safetensors")
    export_png(make(levels()), tmp_path / "png")
    for source in (tmp_path / "ours.safetensors", tmp_path / "png"):
        target = tmp_path / f"{source.stem}.pt"
        convert(source, target, format="dc", **CONSTANTS)  # type: ignore[arg-type]
        written, labels = torch.load(target, weights_only=True)["data"][0]
        rows = torch.arange(20) if source.suffix else LABELS.argsort(stable=True)
        mean, std = (torch.tensor(CONSTANTS[name]).view(-1, 1, 1) for name in ("mean", "std"))
        torch.testing.assert_close(written, (levels()[rows] / 255 - mean) / std)
        assert torch.equal(labels, LABELS[rows])
        for options in ({"output": "x.safetensors"}, {"output": "other", "format": "png"}):
            output = tmp_path / options.pop("output")
            with pytest.raises(ValueError, match=r"in pixels|folder of images"):
                convert(source, output, **options, **CONSTANTS)  # type: ignore[arg-type]


def test_output_and_format_must_fit_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="leave out format, or the ending"):
        convert(tmp_path / "absent.pt", tmp_path / "set.safetensors", format="dc")
    with pytest.raises(ValueError, match=r"--format\): dc, dd_ranking, mtt, parquet, png"):
        convert(tmp_path / "absent.pt", tmp_path / "folder")


def test_the_command_line_takes_the_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    packed = torch.rand(4, 3, 4, 4, generator=seeded_generator(0, "packed"))
    torch.save([packed, torch.tensor([0, 0, 1, 1])], tmp_path / "data.pt")
    target = tmp_path / "idc.safetensors"
    names = '--class_names=["cat", "dog"]'
    main(["convert", str(tmp_path / "data.pt"), str(target), "--factor=2", "--train_lr=0.01", names])
    assert "16 images of 3 x 4 x 4" in capsys.readouterr().out
    info = CondensedSet.load(target).info
    assert (info.class_names, info.settings) == (("cat", "dog"), {"factor": 2, "train_lr": 0.01})
    mean = ["--mean=[0.5,0.5,0.5]", "--std=[0.2,0.2,0.2]"]
    main(["convert", str(target), str(tmp_path / "pair"), "--format=mtt", *mean])
    assert import_condensed(tmp_path / "pair" / "images_best.pt", mean=(0.5,) * 3, std=(0.2,) * 3).ipc == 8
    torch.save(torch.eye(2)[[0] * 8 + [1] * 8] * 0.98, tmp_path / "pair" / "labels_best.pt")
    main(["convert", str(tmp_path / "pair" / "images_best.pt"), str(target), "--label_kind=probabilities", *mean])
    assert CondensedSet.load(target).info.label_kind == "probabilities"


@pytest.mark.real_data
def test_the_released_dm_set_survives_every_format(real_data: Path, tmp_path: Path) -> None:
    source = real_data / "res_DM_CIFAR10_ConvNet_10ipc.pt"
    original = CondensedSet.load(source)
    report = convert(source, tmp_path / "png", format="png")
    assert "2.19 % of the values clipped" in report
    convert(source, tmp_path / "dc.pt", format="dc")
    convert(source, tmp_path / "mtt", format="mtt")
    for file in (tmp_path / "dc.pt", tmp_path / "mtt" / "images_best.pt"):
        back = import_condensed(file, dataset="CIFAR10")
        torch.testing.assert_close(back.images, original.images, rtol=0, atol=1e-6)
        assert torch.equal(back.labels, original.labels)
    written = torch.load(tmp_path / "dc.pt", weights_only=True)["data"][0][0]
    assert written.shape == (100, 3, 32, 32)
    assert torch.equal(CondensedSet.load(tmp_path / "png").labels, original.labels)
