from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonargparse import auto_cli
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from lightning_condkd.commands.select import select
from lightning_condkd.condensation import Herding, KCenter, KMeans, RandomSelection, RealismSelection
from lightning_condkd.data.condensed import CondensedSet
from lightning_condkd.data.image_datamodules import DigitsDataModule, ImageDataModule, ImageFolderDataModule
from lightning_condkd.data.image_source import ImageSource
from lightning_condkd.models import ConvNet, DigitsNet, Observer

SIZES = {"cat": 9, "cow": 4, "dog": 2}
TEACHER = [
    "--teacher.network=DigitsNet",
    "--teacher.mean=[0.3059]",
    "--teacher.std=[0.3754]",
    "--teacher.weights=package:digits-teacher.safetensors",
]


class Unread(ImageDataModule):
    """Data that must not be read."""

    def load(self, train: bool) -> ImageSource:
        raise AssertionError


@pytest.fixture
def animals(tmp_path: Path) -> ImageFolderDataModule:
    generator = torch.Generator().manual_seed(0)
    for name, n in SIZES.items():
        folder = tmp_path / "animals" / "train" / name
        folder.mkdir(parents=True)
        for row in range(n):
            image = torch.randint(256, (3, 8, 8), dtype=torch.uint8, generator=generator)
            to_pil_image(image).save(folder / f"{row}.png")
    return ImageFolderDataModule(tmp_path / "animals")


def teacher(classes: int = 3) -> Observer:
    return Observer(ConvNet(classes, image_size=8, depth=1, width=4), (0.5,) * 3, (0.3,) * 3)


def is_real(images: Tensor, source: ImageSource, label: int) -> bool:
    same = (images[:, None] == source.images[source.class_rows[label]][None]).flatten(2).all(2)
    return bool(same.any(1).all()) and len(set(same.int().argmax(1).tolist())) == len(images)


@pytest.mark.parametrize("method", [RandomSelection, Herding, KCenter, KMeans])
def test_real_images_of_uneven_classes_are_written_bit_for_bit(
    method: Callable[[], Any], animals: ImageFolderDataModule, tmp_path: Path
) -> None:
    output = tmp_path / "set.safetensors"
    select(output, data=animals, method=method(), ipc=2, teacher=teacher())
    condensed = CondensedSet.load(output)
    assert condensed.images.dtype == torch.uint8
    assert condensed.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert all(is_real(condensed.images[condensed.labels == c], animals.train_source, c) for c in range(3))


def test_the_file_and_the_report_say_that_images_are_real_and_how_they_were_chosen(
    animals: ImageFolderDataModule, tmp_path: Path
) -> None:
    output, observer = tmp_path / "set.safetensors", teacher()
    report = select(output, data=animals, method=RealismSelection(crops=2), ipc=2, teacher=observer, seed=4)
    info = CondensedSet.load(output).info
    assert info.class_names == tuple(SIZES)
    assert (info.method, info.seed, info.label_kind) == ("selection: RDED-like", 4, "hard")
    assert info.settings == {"ipc": 2, "crops": 2, "factor": 1, "pool": 300, "scale": [0.08, 1.0]}
    assert info.provenance["REAL IMAGES"] == "yes, training images of ImageFolderDataModule or parts of them"
    assert info.provenance["teacher"] == f"ConvNet, SHA-256 {observer.fingerprint()}"
    for part in (
        "6 images of 3 x 8 x 8",
        "teacher top-1",
        f"written to {output}",
        "warning: the file holds REAL images",
    ):
        assert part in report


def test_the_same_seed_writes_the_same_file_and_the_teacher_is_left_as_it_was(
    animals: ImageFolderDataModule, tmp_path: Path
) -> None:
    observer, files = teacher(), []
    before = observer.fingerprint()
    for number, seed in enumerate((0, 0, 1)):
        files.append(tmp_path / f"{number}.safetensors")
        select(files[-1], data=animals, method=RealismSelection(), ipc=2, teacher=observer, seed=seed)
    first, again, other = (file.read_bytes() for file in files)
    assert first == again != other
    assert observer.fingerprint() == before
    assert all(parameter.requires_grad for parameter in observer.parameters())


def test_a_class_keeps_its_choice_whatever_the_others_have(tmp_path: Path) -> None:
    class Some(DigitsDataModule):
        def load(self, train: bool) -> ImageSource:
            whole = super().load(train)
            kept = (whole.labels != 0) | (torch.arange(len(whole)) < 300)
            return ImageSource(whole.images[kept], whole.labels[kept], whole.class_names)

    sets = []
    for data in (DigitsDataModule(), Some()):
        select(tmp_path / "set.safetensors", data=data, method=RandomSelection(), ipc=3)
        sets.append(CondensedSet.load(tmp_path / "set.safetensors").images)
    assert not torch.equal(sets[0][:3], sets[1][:3])
    assert torch.equal(sets[0][3:], sets[1][3:])


@pytest.mark.parametrize("method", ["RandomSelection", "Herding", "KCenter", "KMeans", "RealismSelection"])
def test_the_command_line_chooses_digits_that_the_teacher_knows(method: str, tmp_path: Path) -> None:
    output = tmp_path / "set.safetensors"
    arguments = ["--data=DigitsDataModule", f"--method={method}", *TEACHER, "--ipc=10", str(output)]
    report = auto_cli(select, args=arguments)
    condensed = CondensedSet.load(output)
    assert (len(condensed), condensed.ipc, condensed.image_shape) == (100, 10, (1, 8, 8))
    assert float(report.split("teacher top-1 on these images: ")[1].split(" %")[0]) >= 98


def test_the_command_line_passes_options_of_a_method_and_needs_no_teacher_for_chance(tmp_path: Path) -> None:
    output = str(tmp_path / "set.safetensors")
    tiled = ["--method=RealismSelection", "--method.factor=2", "--method.crops=3", *TEACHER]
    auto_cli(select, args=["--data=DigitsDataModule", *tiled, "--ipc=2", output])
    assert CondensedSet.load(output).info.settings["factor"] == 2
    report = auto_cli(select, args=["--data=DigitsDataModule", "--method=RandomSelection", "--ipc=2", output])
    assert "teacher" not in report


def test_what_needs_no_data_is_refused_before_any_is_read(tmp_path: Path) -> None:
    good = {"output": tmp_path / "a.safetensors", "data": Unread(), "method": RandomSelection(), "ipc": 1}
    with pytest.raises(ValueError, match=r"ends in \.safetensors"):
        select(**{**good, "output": "a.pt"})
    with pytest.raises(ValueError, match="ipc"):
        select(**{**good, "ipc": 0})
    with pytest.raises(ValueError, match="Herding looks at the images through a trained network"):
        select(**{**good, "method": Herding()})


def test_small_classes_and_foreign_teachers_are_refused(animals: ImageFolderDataModule, tmp_path: Path) -> None:
    output = tmp_path / "set.safetensors"
    with pytest.raises(ValueError, match=r"class 'dog' has 2 training images, expected at least 3: lower ipc=3"):
        select(output, data=animals, method=RandomSelection(), ipc=3)
    with pytest.raises(ValueError, match=r"class 'dog' has 2 training images, expected at least 4: lower ipc=1"):
        select(output, data=animals, method=RealismSelection(factor=2), ipc=1, teacher=teacher())
    with pytest.raises(ValueError, match=r"teacher: expected 3 classes as in the data, .* of shape .2, 10"):
        select(output, data=animals, method=Herding(), ipc=1, teacher=teacher(10))
    assert not output.exists()


def test_a_random_choice_may_still_be_judged_by_a_teacher(tmp_path: Path) -> None:
    observer = Observer(DigitsNet(), (0.3059,), (0.3754,), weights="package:digits-teacher.safetensors")
    output = tmp_path / "set.safetensors"
    report = select(output, data=DigitsDataModule(), method=RandomSelection(), ipc=1, teacher=observer)
    assert "teacher top-1" in report
    assert "teacher" not in CondensedSet.load(output).info.provenance
