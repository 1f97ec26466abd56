"""Folders of DD-Ranking: images in the order of their classes, soft labels, step size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from lightning_condkd.cli import main
from lightning_condkd.commands.convert import convert
from lightning_condkd.data import CondensedInfo, CondensedSet
from lightning_condkd.formats import export_dd_ranking, import_dd_ranking
from lightning_condkd.randomness import seeded_generator

LABELS = torch.arange(10).repeat(2)  # not sorted by class
MEAN, STD = torch.tensor([0.4914, 0.4822, 0.4465]), torch.tensor([0.2023, 0.1994, 0.2010])
NAMES = tuple("abcdefghij")


def images() -> Tensor:
    """Float images that leave [0, 1] on both sides."""
    return torch.rand(20, 3, 4, 5, generator=seeded_generator(0, "pixels")) * 1.6 - 0.3


def logits(labels: Tensor = LABELS) -> Tensor:
    return torch.randn(20, 10, generator=seeded_generator(0, "logits")) + 10 * F.one_hot(labels, 10)


def make(soft: Tensor | None = None, kind: Any = "hard", labels: Tensor = LABELS, **settings: object) -> CondensedSet:
    return CondensedSet(images(), labels, soft, CondensedInfo(10, NAMES, kind, settings=settings))


def written(folder: Path) -> dict[str, Tensor]:
    return {file.stem: torch.load(file, weights_only=True) for file in folder.iterdir()}


def test_the_export_has_what_the_demos_of_dd_ranking_load(tmp_path: Path) -> None:
    """``demo_soft.py``: images, labels and lr of these names; ``demo_hard.py``: ones(ipc) * i for each class i."""
    condensed = make(logits(), "logits", train_lr=0.02)
    export_dd_ranking(condensed, tmp_path / "out", dataset="CIFAR-10")
    found = written(tmp_path / "out")
    assert set(found) == {"images", "labels", "lr"}
    assert found["lr"].item() == pytest.approx(0.02)
    for place in range(20):
        label, turn = divmod(place, 2)
        row = (label == LABELS).nonzero().flatten()[turn]
        expected = (images()[row] - MEAN.view(3, 1, 1)) / STD.view(3, 1, 1)
        torch.testing.assert_close(found["images"][place], expected)
        assert torch.equal(found["labels"][place], logits()[row])


@pytest.mark.parametrize("kind", ["hard", "probabilities", "logits"])
def test_a_set_comes_back_sorted_by_class(tmp_path: Path, kind: str) -> None:
    soft = {"hard": None, "probabilities": logits().softmax(1), "logits": logits()}[kind]
    export_dd_ranking(make(soft, kind, dataset="cifar100"), tmp_path / "out", mean=MEAN.tolist(), std=STD.tolist())
    back = CondensedSet.load(tmp_path / "out", mean=MEAN.tolist(), std=STD.tolist())
    order = torch.argsort(LABELS, stable=True)
    torch.testing.assert_close(back.images, images()[order], rtol=0, atol=1e-6)
    assert torch.equal(back.labels, LABELS[order])
    if soft is None:
        assert back.soft_labels is None
    else:
        assert back.soft_labels is not None
        torch.testing.assert_close(back.soft_labels.softmax(1), logits().softmax(1)[order])


def test_probabilities_become_logits_without_infinities(tmp_path: Path) -> None:
    export_dd_ranking(make(F.one_hot(LABELS, 10).float(), "probabilities"), tmp_path / "out", dataset="cifar10")
    labels = written(tmp_path / "out")["labels"]
    assert bool(labels.isfinite().all())
    torch.testing.assert_close(labels.softmax(1), F.one_hot(LABELS.sort()[0], 10).float())


def test_classes_of_uneven_size_are_refused_by_name(tmp_path: Path) -> None:
    labels = LABELS.clone()
    labels[:2] = torch.tensor([4, 2])
    with pytest.raises(ValueError, match=r"most have 2, but not a \(1\), b \(1\), c \(3\), e \(3\)"):
        export_dd_ranking(make(labels=labels), tmp_path / "out", dataset="cifar10")
    condensed = CondensedSet(images(), LABELS, info=CondensedInfo(11))
    with pytest.raises(ValueError, match=r"but not 10 \(0\)"):
        export_dd_ranking(condensed, tmp_path / "out", mean=MEAN.tolist(), std=STD.tolist())
    assert list(tmp_path.iterdir()) == []


def save(folder: Path, **tensors: object) -> Path:
    folder.mkdir()
    for name, tensor in tensors.items():
        torch.save(tensor, folder / f"{name}.pt")
    return folder


def test_a_folder_without_labels_has_its_classes_by_position(tmp_path: Path) -> None:
    folder = save(tmp_path / "in", images=torch.randn(20, 3, 4, 4), lr=0.05)
    back = CondensedSet.load(folder, dataset="CIFAR10")
    assert back.labels.tolist() == [label for label in range(10) for _ in range(2)]
    assert back.info.settings == {"dataset": "CIFAR10", "train_lr": 0.05}
    named = CondensedSet.load(folder, mean=[0.5] * 3, std=[0.2] * 3, class_names=tuple("abcde"))
    assert (named.num_classes, named.info.class_names, named.ipc) == (5, tuple("abcde"), 4)
    with pytest.raises(ValueError, match=r"number of its classes is not known: pass dataset \(--dataset\)"):
        CondensedSet.load(folder, mean=[0.5] * 3, std=[0.2] * 3)
    with pytest.raises(ValueError, match="20 images for 100 classes"):
        CondensedSet.load(folder, dataset="cifar100")


def test_soft_labels_keep_the_class_of_the_position(tmp_path: Path) -> None:
    ordered = LABELS.sort()[0]
    soft = logits(ordered)
    soft[3, 7] += 30  # the most likely class is another
    back = CondensedSet.load(save(tmp_path / "in", images=torch.randn(20, 3, 4, 4), labels=soft), dataset="cifar10")
    assert torch.equal(back.labels, ordered)
    assert back.info.label_kind == "logits"
    assert set(back.info.provenance) == {"format", "file", "sha256", "labels", "labels_sha256"}


@pytest.mark.parametrize("labels", [LABELS, logits(), LABELS.sort()[0][:10], torch.zeros(20, dtype=torch.int64)])
def test_labels_in_another_order_are_refused(tmp_path: Path, labels: Tensor) -> None:
    folder = save(tmp_path / "in", images=torch.randn(20, 3, 4, 4), labels=labels)
    message = r"sort images and labels, or give images\.pt itself" if len(labels) == 20 else "20 images, labels.pt 10"
    with pytest.raises(ValueError, match=message):
        CondensedSet.load(folder, dataset="cifar10")


def test_one_label_out_of_its_place_is_refused(tmp_path: Path) -> None:
    labels = LABELS.sort()[0].clone()
    labels[[1, 2]] = labels[[2, 1]]
    with pytest.raises(ValueError, match="the classes of 2 of 20 images are not those of their positions"):
        CondensedSet.load(save(tmp_path / "in", images=torch.randn(20, 3, 4, 4), labels=labels), dataset="cifar10")


def test_images_that_are_not_normalised_or_of_an_unknown_dataset_are_refused(tmp_path: Path) -> None:
    folder = save(tmp_path / "in", images=torch.rand(20, 3, 4, 4), labels=LABELS.sort()[0])
    with pytest.raises(ValueError, match="looks whitened or already in pixels"):
        CondensedSet.load(folder, dataset="cifar10")
    back = CondensedSet.load(folder, mean=[0.0] * 3, std=[1.0] * 3)
    assert float(back.images.max()) <= 1
    other = save(tmp_path / "other", images=torch.randn(20, 3, 4, 4), labels=LABELS.sort()[0])
    with pytest.raises(ValueError, match=r"normalisation of other/images\.pt is not known for dataset 'mnist'"):
        CondensedSet.load(other, dataset="mnist")
    with pytest.raises(ValueError, match="options do not apply: whitened=True"):
        CondensedSet.load(other, whitened=True)


@pytest.mark.parametrize("dataset", ["TinyImageNet", "ImageNette", "ImageNet1K"])
def test_larger_datasets_go_by_the_constants_of_imagenet(tmp_path: Path, dataset: str) -> None:
    count = {"TinyImageNet": 200, "ImageNette": 10, "ImageNet1K": 1000}[dataset]
    stored = torch.randn(count, 3, 2, 2)
    back = CondensedSet.load(save(tmp_path / "in", images=stored), dataset=dataset)
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    torch.testing.assert_close(back.images, stored * std + mean)
    assert back.num_classes == count


def pictures(folder: Path) -> Path:
    for label in range(2):
        (folder / "images" / f"{label:05d}").mkdir(parents=True)
        for number in range(3):
            level = torch.full((3, 4, 4), 40 * (3 * label + number), dtype=torch.uint8)
            to_pil_image(level).save(folder / "images" / f"{label:05d}" / f"{number:05d}.png")
    return folder


def test_a_folder_of_pictures_is_read_with_the_labels_beside_it(tmp_path: Path) -> None:
    folder = pictures(tmp_path)
    soft = torch.arange(12.0).view(6, 2) - 5
    torch.save(soft, folder / "labels.pt")
    torch.save(torch.tensor(0.01), folder / "lr.pt")
    back = CondensedSet.load(folder)
    assert back.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert back.images[:, 0, 0, 0].tolist() == [0, 40, 80, 120, 160, 200]
    assert back.soft_labels is not None
    assert torch.equal(back.soft_labels, soft)
    assert (back.info.label_kind, back.info.settings["train_lr"]) == ("logits", 0.01)
    assert back.info.provenance["format"] == "DD-Ranking folder"
    with pytest.raises(ValueError, match="leave out mean and std"):
        CondensedSet.load(folder, mean=[0.5] * 3, std=[0.5] * 3)
    torch.save(soft[:5], folder / "labels.pt")
    with pytest.raises(ValueError, match=r"6 images, labels\.pt 5 rows"):
        CondensedSet.load(folder)
    torch.save(torch.tensor([0, 0, 0, 1, 1, 0]), folder / "labels.pt")
    with pytest.raises(ValueError, match="class folders of images differ"):
        CondensedSet.load(folder)
    torch.save(torch.tensor([0, 0, 0, 1, 1, 1]), folder / "labels.pt")
    assert import_dd_ranking(folder).soft_labels is None
    with pytest.raises(ValueError, match="has no soft labels: leave it out"):
        CondensedSet.load(folder, label_kind="logits")


def test_the_command_line_goes_to_the_format_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(logits(), "logits", train_lr=0.02).save(tmp_path / "set.safetensors")
    out, back = tmp_path / "out", tmp_path / "back.safetensors"
    main(["convert", str(tmp_path / "set.safetensors"), str(out), "--format=dd_ranking", "--dataset=CIFAR10"])
    assert f"written to {out} as a folder of DD-Ranking, sorted by class" in capsys.readouterr().out
    names = f"--class_names={list(NAMES)}".replace("'", '"')
    main(["convert", str(out), str(back), "--dataset=CIFAR10", names])
    again = CondensedSet.load(back)
    torch.testing.assert_close(again.images, images()[torch.argsort(LABELS, stable=True)], rtol=0, atol=1e-6)
    assert (again.info.class_names, again.info.settings["train_lr"]) == (NAMES, 0.02)


def test_mean_and_std_are_undone_and_applied_for_a_folder_of_tensors(tmp_path: Path) -> None:
    save(tmp_path / "in", images=torch.randn(20, 3, 4, 4), labels=LABELS.sort()[0])
    convert(tmp_path / "in", tmp_path / "out", format="dd_ranking", mean=[0.5] * 3, std=[0.2] * 3)
    torch.testing.assert_close(written(tmp_path / "out")["images"], written(tmp_path / "in")["images"])
