"""The datasets of torchvision in folders of their layout, and stand-ins with their signatures."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from PIL import Image
from scipy.io import savemat
from torch import Tensor
from torch.utils.data import Dataset

from lightning_condkd.cli import main
from lightning_condkd.data import TorchvisionDataModule
from lightning_condkd.data.torchvision_sets import Choice, from_torchvision

SUPPORTED = {
    *("CIFAR10", "CIFAR100", "CLEVRClassification", "Country211", "DTD", "FER2013", "FGVCAircraft", "FashionMNIST"),
    *("Flowers102", "Food101", "GTSRB", "ImageNet", "Imagenette", "KMNIST", "LFWPeople", "MNIST", "OxfordIIITPet"),
    *("PCAM", "Places365", "QMNIST", "RenderedSST2", "STL10", "SVHN", "StanfordCars", "USPS"),
}
WITHOUT_PARTS = (
    "Caltech101",
    "Caltech256",
    "EuroSAT",
    "SUN397",
    "SEMEION",
    "FakeData",
    "LSUN",
    "Omniglot",
    "ImageFolder",
)
WNIDS = {"n01440764": "tench", "n02102040": "English springer", "n02979186": "cassette player"}
SIZES = [(12, 9), (8, 8), (9, 14)]


def imagenette(root: Path) -> Path:
    for part, count in {"train": 4, "val": 2}.items():
        for label, wnid in enumerate(WNIDS):
            folder = root / "imagenette2-160" / part / wnid
            folder.mkdir(parents=True)
            for row in range(count):
                mode = "L" if row else "RGB"
                Image.new(mode, SIZES[label], 80 * label if row else (80 * label,) * 3).save(folder / f"{row}.JPEG")
    return root


def test_imagenette_is_read_as_it_is_typed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ["--data=TorchvisionDataModule", "--data.name=Imagenette", f"--data.root={imagenette(tmp_path)}"]
    data += ["--data.options.size=160px", "--data.image_size=8", "--data.batch_size=4"]
    network = {"class_path": "ConvNet", "init_args": {"num_classes": 3, "image_size": 8, "depth": 1, "width": 4}}
    observer = {"class_path": "Observer", "init_args": {"network": network, "mean": [0.5] * 3, "std": [0.3] * 3}}
    model = ["--model=Classification", f"--model.network={json.dumps(observer)}"]
    short = ["--trainer.max_epochs=1", "--trainer.accelerator=cpu", f"--trainer.default_root_dir={tmp_path / 'run'}"]
    main(["fit", *model, *data, *short])
    main(["test", *model, *data, *short])
    assert "test/accuracy" in capsys.readouterr().out


def test_imagenette_has_names_in_the_order_of_its_labels(tmp_path: Path) -> None:
    choice = Choice("Imagenette", options={"size": "160px"})
    train, held_out = (from_torchvision(choice, imagenette(tmp_path / str(t)), t, image_size=8) for t in (True, False))
    assert train.class_names == held_out.class_names == tuple(WNIDS.values())
    assert train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert len(held_out) == 6
    assert ((train.images.float().mean((1, 2, 3)) - 80 * train.labels).abs() < 3).all()
    with pytest.raises(ValueError, match="set image_size"):
        from_torchvision(choice, tmp_path / "True")


def test_svhn_names_no_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = torch.tensor([10, 1, 9, 3])  # 10 is the digit 0
    monkeypatch.setattr(torchvision.datasets.SVHN, "_check_integrity", lambda _: True)
    for part in ("train", "test"):
        images = torch.randint(256, (6, 5, 3, 4), dtype=torch.uint8)
        savemat(tmp_path / f"{part}_32x32.mat", {"X": images.numpy(), "y": labels[:, None].numpy()})
    source = from_torchvision("SVHN", tmp_path, train=False)
    assert source.labels.tolist() == [0, 1, 9, 3]
    assert source.class_names == tuple("0123456789")
    assert torch.equal(source.images, images.permute(3, 2, 0, 1))


def test_gtsrb_reads_labels_from_folders_and_from_a_table(tmp_path: Path) -> None:
    base = tmp_path / "gtsrb"
    test = base / "GTSRB" / "Final_Test" / "Images"
    test.mkdir(parents=True)
    rows = ["Filename;ClassId"]
    for label in range(3):
        (folder := base / "GTSRB" / "Training" / f"{label:05d}").mkdir(parents=True)
        Image.new("RGB", (8 + label, 8), (label, 0, 0)).save(folder / "a.ppm")
        Image.new("RGB", (8, 9 + label), (label, 0, 0)).save(test / f"{label}.ppm")
        rows.append(f"{label}.ppm;{label}")
    (base / "GT-final_test.csv").write_text("\n".join(rows))
    data = TorchvisionDataModule("GTSRB", tmp_path, image_size=6, batch_size=1)
    for source in (data.train_source, data.val_source):
        assert source.labels.tolist() == [0, 1, 2] == source.images[:, 0, 0, 0].tolist()
    data.check_parts()


def test_emnist_has_names_of_its_part_and_takes_train_beside_split(tmp_path: Path) -> None:
    folder = tmp_path / "EMNIST" / "raw"
    folder.mkdir(parents=True)
    for part, n in {"train": 3, "test": 2}.items():
        images = struct.pack(">IIII", 0x803, n, 28, 28) + bytes(n * 28 * 28)
        (folder / f"emnist-balanced-{part}-images-idx3-ubyte").write_bytes(images)
        (folder / f"emnist-balanced-{part}-labels-idx1-ubyte").write_bytes(
            struct.pack(">II", 0x801, n) + bytes(range(n))
        )
    choice = Choice("EMNIST", options={"split": "balanced"})
    assert [len(from_torchvision(choice, tmp_path, train)) for train in (True, False)] == [3, 2]
    source = from_torchvision(choice, tmp_path, channels=3)
    assert (source.num_classes, source.class_names[10], source.image_shape) == (47, "A", (3, 28, 28))


@pytest.mark.parametrize("name", sorted(SUPPORTED))
@pytest.mark.parametrize("train", [True, False])
def test_a_dataset_that_is_not_there_is_named_in_a_line(name: str, train: bool, tmp_path: Path) -> None:
    TorchvisionDataModule(name, tmp_path)
    with pytest.raises(FileNotFoundError, match=f"{name}: torchvision cannot read it in {tmp_path}: ") as refused:
        from_torchvision(name, tmp_path, train)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", WITHOUT_PARTS)
def test_a_dataset_without_parts_is_refused_before_anything_is_read(name: str, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=rf"a train and a test part, which {name} does not have: .*ImageFolderDataModule"
    ):
        TorchvisionDataModule(name, tmp_path)


@pytest.mark.parametrize("name", sorted(set(torchvision.datasets.__all__) - SUPPORTED))
def test_all_others_are_refused_in_a_line(name: str, tmp_path: Path) -> None:
    """Some can only be told by what they yield, for which their files would be needed."""
    with pytest.raises((ValueError, FileNotFoundError)) as refused:
        Choice(name).open(tmp_path, train=True)
    assert "\n" not in str(refused.value).strip()


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        (Choice("EMNIST"), "EMNIST also needs split: name it in options"),
        (Choice("Imagenette", options={"sice": "160px"}), "options: Imagenette takes size, loader, got sice"),
        (Choice("Imagenette", options={"split": "val"}), "options: Imagenette takes size, loader, got split"),
        (Choice("CIFAR10", train="train"), "CIFAR10 takes train=True or False .* leave out train and val"),
        (Choice("ImageNet", download=True), "cannot download ImageNet: unset download"),
        (Choice("Imagenet"), "name: expected a class of torchvision.datasets, such as CIFAR10, got 'Imagenet'"),
        (Choice("Imagenette", train="trian"), "Imagenette: Unknown value 'trian' for argument split.*'train', 'val'"),
        (Choice("Imagenette", options={"size": "9px"}), "Imagenette: Unknown value '9px' for argument size"),
    ],
)
def test_arguments_that_the_dataset_does_not_take_are_refused(choice: Choice, said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        choice.open(tmp_path, train=True)


class Standin(Dataset[Any]):
    """Takes ``split`` as most do; what it holds is set by the test."""

    items: tuple[Any, ...] = ()

    def __init__(self, root: str, split: str = "trainval", download: bool = False) -> None:
        if split not in ("trainval", "val"):
            raise ValueError(f"Unknown value '{split}' for argument split. Valid values are {{'trainval', 'val'}}.")
        self.split = split

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, row: int) -> Any:
        return self.items[row % len(self.items)]


@pytest.fixture
def standin(monkeypatch: pytest.MonkeyPatch) -> type[Standin]:
    made = type("Standin", (Standin,), {})
    monkeypatch.setattr(torchvision.datasets, "Standin", made, raising=False)
    return made


def square(mode: str = "RGB", color: Any = 0) -> Image.Image:
    return Image.new(mode, (4, 4), color)


def test_the_default_of_the_constructor_is_the_training_part(standin: type[Standin], tmp_path: Path) -> None:
    assert [Choice("Standin").open(tmp_path, train).split for train in (True, False)] == ["trainval", "val"]
    with pytest.raises(ValueError, match="Unknown value 'train' for argument split"):
        Choice("Standin", train="train").open(tmp_path, train=True)


@pytest.mark.parametrize("label", [1, torch.tensor(1), torch.tensor([1]).numpy()[0], "dog"])
@pytest.mark.parametrize(
    "told",
    [
        {"classes": ["cat", "dog"]},
        {"classes": [("cat", "tom"), ("dog",)], "class_to_idx": {"cat": 0, "tom": 0, "dog": 1}},
        {"classes": ["dog", "cat"], "class_to_idx": {"dog": 1, "cat": 0}},
    ],
)
def test_labels_and_names_of_every_kind(label: Any, told: Any, standin: type[Standin], tmp_path: Path) -> None:
    standin.items = ((square(), label), (square(), 0))
    for name, value in told.items():
        setattr(standin, name, value)
    source = from_torchvision("Standin", tmp_path)
    assert (source.class_names, source.labels.tolist()) == (("cat", "dog"), [1, 0])


def test_two_classes_of_one_name_are_told_apart(standin: type[Standin], tmp_path: Path) -> None:
    standin.items = ((square(), 2),)
    standin.classes = [("crane",), ("tench", "Tinca tinca"), ("crane",)]  # type: ignore[attr-defined]
    assert from_torchvision("Standin", tmp_path).class_names == ("crane (0)", "tench", "crane (2)")


@pytest.mark.parametrize(
    "image", [square("P", 3), square("RGBA", (9, 9, 9, 0)), square("CMYK"), square("LA"), square()]
)
def test_images_of_every_kind_become_rgb(image: Image.Image, standin: type[Standin], tmp_path: Path) -> None:
    standin.items = ((image, 0),)
    source = from_torchvision("Standin", tmp_path)
    assert source.image_shape == (3, 4, 4)
    assert torch.equal(
        source.images[0], torch.tensor(list(image.convert("RGB").tobytes())).view(4, 4, 3).permute(2, 0, 1)
    )


def test_gray_among_colored_images_needs_a_word(standin: type[Standin], tmp_path: Path) -> None:
    standin.items = ((square("L", 7), 0), (square(), 0))
    with pytest.raises(ValueError, match="set channels to convert them"):
        from_torchvision("Standin", tmp_path)
    assert TorchvisionDataModule("Standin", tmp_path, channels=1).train_source.image_shape == (1, 4, 4)
    standin.items = ((square("I;16"), 0),)
    with pytest.raises(ValueError, match=r"expected 8 bits for each channel.*image 0 of Standin"):
        from_torchvision("Standin", tmp_path)


@pytest.mark.parametrize("label", [None, -1, "cat", 0.5, (1, 2), {"boxes": 1}, Tensor([1, 0])])
def test_labels_that_are_no_classes_are_refused(label: Any, standin: type[Standin], tmp_path: Path) -> None:
    standin.items = ((square(), 0), (square(), label))
    with pytest.raises(ValueError, match=r"number of a class as label of image 1.*Name another by train or val"):
        from_torchvision("Standin", tmp_path)


@pytest.mark.parametrize("item", [(torch.zeros(3, 4, 4), 0), torch.zeros(3, 4, 4), (square(), 0, 0)])
def test_what_is_no_classification_is_refused(item: Any, standin: type[Standin], tmp_path: Path) -> None:
    standin.items = (item,)
    with pytest.raises(ValueError, match="Standin is no dataset for classification: expected pairs"):
        from_torchvision("Standin", tmp_path)
