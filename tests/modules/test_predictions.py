"""``module(images)``, ``Trainer.predict`` and the file of predictions, on folders and on loaders of the user's own."""

from __future__ import annotations

import csv
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset
from torchvision.datasets import ImageFolder
from torchvision.transforms.functional import pil_to_tensor

from lightning_condkd.callbacks import PredictionFile
from lightning_condkd.data import CondensedDataModule, CondensedSet, ImageFolderDataModule
from lightning_condkd.modules import Classification, CondKD
from lightning_condkd.training.predictions import Prediction
from tests.helpers import toy

NAMES = ("ant", "bee", "cat")
IMAGES = (255 * torch.rand(7, *toy.SHAPE, generator=torch.Generator().manual_seed(0))).to(torch.uint8)


def classifier() -> Classification:
    return Classification(toy.observed(toy.network("teacher")), seed=0)


def condkd() -> CondKD:
    return toy.condkd()


MODULES = {"classification": classifier, "condkd": condkd}


def network_of(module: Any) -> nn.Module:
    return module.student if isinstance(module, CondKD) else module.network


def save(image: Tensor, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image[0].numpy()).save(path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Seven images without classes, which are not in order of their making."""
    for row in reversed(range(7)):
        save(IMAGES[row], tmp_path / "photos" / f"{row}.png")
    return tmp_path / "photos"


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """A folder with a held-out part in class folders."""
    for row in range(7):
        save(IMAGES[row], tmp_path / "data" / "test" / NAMES[row % 3] / f"{row}.png")
    return tmp_path / "data"


def predict(module: L.LightningModule, data: Any, *callbacks: L.Callback, **arguments: Any) -> list[Any]:
    trainer = toy.silent_trainer(callbacks=list(callbacks), **arguments)
    found = trainer.predict(module, data)
    assert found is not None
    return found


def flat(found: list[Any]) -> list[Prediction]:
    return [one for batch in found for one in batch]


def expected(module: Any, images: Tensor = IMAGES) -> list[tuple[int, float]]:
    with torch.no_grad():
        probabilities, labels = network_of(module).eval()(images / 255).logits.softmax(1).max(1)
    return list(zip(labels.tolist(), probabilities.tolist(), strict=True))


def said(predictions: list[Prediction]) -> list[tuple[int, float]]:
    return [(one.label, pytest.approx(one.probability)) for one in predictions]


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("images", [IMAGES, IMAGES / 255, (IMAGES / 255).double(), IMAGES[:0]])
def test_a_module_called_on_images_returns_the_logits_of_its_network(name: str, images: Tensor) -> None:
    module = MODULES[name]().eval()
    logits = module(images)
    pixels = images / 255 if images.dtype == torch.uint8 else images.float()
    assert logits.shape == (len(images), toy.CLASSES)
    assert len(images) == 0 or torch.equal(logits, network_of(module)(pixels).logits)


@pytest.mark.parametrize(
    ("images", "match"),
    [
        (IMAGES.float(), "divide them by 255"),
        (IMAGES / 255 - 2, "remove Normalize"),
        (IMAGES[0], r"expected real images as a tensor \(N, C, H, W\), got \(1, 8, 8\)"),
        (IMAGES.long(), r"convert 0 to 255 with .byte\(\)"),
        ((IMAGES / 255).log(), "NaN or infinity"),
        ([1, 2], "got list"),
    ],
)
def test_images_that_a_measurement_would_refuse_are_refused(images: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        classifier()(images)


def test_a_student_refuses_images_of_another_shape_than_its_training() -> None:
    run = toy.fit(toy.condkd())
    with pytest.raises(ValueError, match=r"expected real images of \(1, 8, 8\)"):
        run.model(torch.zeros(1, 1, 16, 16, dtype=torch.uint8))


@pytest.mark.parametrize("name", MODULES)
def test_a_plain_folder_is_predicted_with_the_names_of_its_files(name: str, photos: Path) -> None:
    module = MODULES[name]()
    found = flat(predict(module, ImageFolderDataModule(photos, channels=1, eval_batch_size=4)))
    assert said(found) == expected(module)
    assert [one.file for one in found] == [str(photos / f"{row}.png") for row in range(7)]
    assert [one.row for one in found] == list(range(7))
    assert {one.class_name for one in found} == {None}


def test_held_out_images_in_class_folders_are_predicted_with_their_names(parts: Path) -> None:
    module, data = classifier(), ImageFolderDataModule(parts, channels=1)
    found = flat(predict(module, data))
    order = sorted(range(7), key=lambda row: (row % 3, row))
    assert said(found) == expected(module, IMAGES[order])
    assert [Path(str(one.file)).name for one in found] == [f"{row}.png" for row in order]
    assert [one.class_name for one in found] == [NAMES[one.label] for one in found]


def test_a_folder_below_is_predicted_at_any_depth(parts: Path) -> None:
    module = classifier()
    for name, count in (("test", 7), ("test/ant", 3), (".", 7)):
        data = ImageFolderDataModule(parts, predict=name, channels=1, class_names=NAMES)
        found = flat(predict(module, data))
        assert len(found) == count
        assert [one.class_name for one in found] == [NAMES[one.label] for one in found]


def test_names_of_other_classes_are_not_taken(parts: Path) -> None:
    save(IMAGES[0], parts / "test" / "dog" / "0.png")  # four classes for a network of three
    found = flat(predict(classifier(), ImageFolderDataModule(parts, channels=1)))
    assert {one.class_name for one in found} == {None}


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda root: root.mkdir(), "expected image files to predict in .*, found none"),
        (
            lambda root: save(IMAGES[0], root / "a" / "0.png"),
            r"found none itself, but 1 below it: predict='.' takes all",
        ),
        (lambda root: save(IMAGES[:, :, :3][0], root / "0.png") or save(IMAGES[1], root / "1.png"), "set image_size"),
        (lambda root: root.mkdir() or (root / "0.png").write_bytes(b"no image"), "0.png is no image or is cut off"),
        (lambda root: None, "expected image files to predict in"),
    ],
)
def test_a_folder_that_cannot_be_predicted_is_refused(make: Any, match: str, tmp_path: Path) -> None:
    make(tmp_path / "root")
    with pytest.raises((ValueError, FileNotFoundError), match=match):
        predict(classifier(), ImageFolderDataModule(tmp_path / "root", channels=1))


class Dictionaries(Dataset[dict[str, Tensor]]):
    def __len__(self) -> int:
        return 2

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        return {"image": IMAGES[row]}


class Stream(IterableDataset[Tensor]):
    def __iter__(self) -> Any:
        return iter(IMAGES)


class Plain(Dataset[Tensor]):
    def __len__(self) -> int:
        return len(IMAGES)

    def __getitem__(self, row: int) -> Tensor:
        return IMAGES[row]


LOADERS: dict[str, Any] = {
    "images": lambda: DataLoader(Plain(), batch_size=3),
    "images in tuples": lambda: DataLoader(TensorDataset(IMAGES), batch_size=3),
    "images and labels": lambda: DataLoader(TensorDataset(IMAGES, torch.arange(7)), batch_size=3),
    "shuffled": lambda: DataLoader(Plain(), batch_size=3, shuffle=True),
    "of workers": lambda: DataLoader(Plain(), batch_size=3, num_workers=1),
    "a stream": lambda: DataLoader(Stream(), batch_size=3),
    "a list of batches": lambda: [IMAGES[:3], IMAGES[3:]],
    "a part": lambda: DataLoader(Subset(Plain(), range(7)), batch_size=3),
}


@pytest.mark.parametrize("name", LOADERS)
def test_loaders_of_ones_own_are_predicted_and_written_in_order(name: str, tmp_path: Path) -> None:
    module, loader = classifier(), LOADERS[name]()
    loaders = iter_once(loader) if isinstance(loader, list) else loader
    predict(module, loaders, PredictionFile(tmp_path / "out.csv"))
    rows = list(csv.DictReader((tmp_path / "out.csv").open()))
    assert [row["image"] for row in rows] == list("0123456")
    assert [(int(row["label"]), pytest.approx(float(row["probability"]))) for row in rows] == expected(module)
    assert {row["file"] + row["class"] for row in rows} == {""}


def iter_once(batches: list[Tensor]) -> Any:
    class Batches:
        def __iter__(self) -> Any:
            return iter(batches)

        def __len__(self) -> int:
            return len(batches)

    return Batches()


def test_files_and_classes_of_torchvisions_folders_are_found_behind_parts(parts: Path) -> None:
    dataset = ImageFolder(str(parts / "test"), transform=lambda image: pil_to_tensor(image)[:1])
    found = flat(predict(classifier(), DataLoader(Subset(Subset(dataset, [6, 2, 0]), [2, 0]), batch_size=2)))
    assert [one.file for one in found] == [dataset.samples[0][0], dataset.samples[6][0]]
    assert [one.class_name for one in found] == [NAMES[one.label] for one in found]


def test_several_loaders_have_a_column_of_their_own(tmp_path: Path) -> None:
    predict(
        classifier(),
        [DataLoader(Plain(), batch_size=4), DataLoader(Plain(), batch_size=2)],
        PredictionFile(tmp_path / "out.csv"),
    )
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert lines[0] == "loader,image,file,label,class,probability"
    assert [line[:3] for line in lines[1:]] == [f"{loader},{row}" for loader in "01" for row in range(7)]


def test_batches_without_images_first_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected real images as a tensor .* got dict"):
        predict(classifier(), DataLoader(Dictionaries(), batch_size=2))


def test_the_student_knows_the_names_of_its_condensed_set_also_from_a_checkpoint(photos: Path, tmp_path: Path) -> None:
    plain = toy.condensed_set()
    condensed = CondensedSet(plain.images, plain.labels, info=replace(plain.info, class_names=NAMES))
    run = toy.fit(toy.condkd(), condensed=condensed)
    run.trainer.save_checkpoint(tmp_path / "a.ckpt")
    parts = toy.condkd()
    loaded = CondKD.load_from_checkpoint(
        tmp_path / "a.ckpt", teacher=parts.teacher, student=parts.student, inversion=parts.inversion, augment=toy.CROP
    )
    data = ImageFolderDataModule(photos, channels=1)
    found, again = flat(predict(run.model, data)), flat(predict(loaded, data))
    assert [one.class_name for one in found] == [NAMES[one.label] for one in found]
    assert again == found


def test_a_classifier_knows_the_names_of_what_it_was_trained_on(photos: Path, parts: Path, tmp_path: Path) -> None:
    data = ImageFolderDataModule(parts, train="test", channels=1, batch_size=7)
    module = classifier()
    trainer = toy.silent_trainer(max_epochs=1)
    trainer.fit(module, data)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    loaded = Classification.load_from_checkpoint(tmp_path / "a.ckpt", network=classifier().network)
    found = flat(predict(loaded, ImageFolderDataModule(photos, channels=1)))
    assert [one.class_name for one in found] == [NAMES[one.label] for one in found]
    assert said(found) == expected(module)


def test_a_checkpoint_from_before_there_were_names_is_read(tmp_path: Path) -> None:
    run = toy.fit(toy.condkd())
    run.trainer.save_checkpoint(tmp_path / "a.ckpt")
    content = torch.load(tmp_path / "a.ckpt", weights_only=True)
    del content["condkd"]["class_names"]
    torch.save(content, tmp_path / "old.ckpt")
    model = toy.condkd()
    toy.silent_trainer().predict(model, DataLoader(Plain(), batch_size=4), ckpt_path=tmp_path / "old.ckpt")
    assert torch.equal(model.eval()(IMAGES), run.model.eval()(IMAGES))


def test_a_condensed_datamodule_predicts_its_real_images_and_needs_some(parts: Path) -> None:
    module, condensed = condkd(), toy.condensed_set()
    held_out = ImageFolderDataModule(parts, channels=1)
    own = DataLoader(Plain(), batch_size=4)
    first = flat(predict(module, CondensedDataModule(condensed, val_data=held_out)))
    second = flat(predict(module, CondensedDataModule(condensed, val_dataloaders=own)))
    assert [one.file for one in first] == list(held_out.val_source.files)
    assert said(second) == expected(module)
    with pytest.raises(ValueError, match=r"found no images to predict: give val_data or val_dataloaders, or .*FOLDER"):
        predict(module, CondensedDataModule(condensed))


def test_an_untrained_student_is_remarked_and_a_trained_one_is_not(photos: Path) -> None:
    data = ImageFolderDataModule(photos, channels=1)
    with pytest.warns(UserWarning, match="predict without a checkpoint takes the student as it was made"):
        predict(condkd(), data)
    run = toy.fit(toy.condkd())
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*without a checkpoint takes")
        predict(run.model, data)


def test_a_network_that_has_diverged_leaves_no_file(tmp_path: Path) -> None:
    broken, large = classifier(), classifier()
    with torch.no_grad():
        next(broken.network.parameters()).fill_(torch.nan)
        for layer in large.network.modules():
            if isinstance(layer, nn.Linear):
                layer.weight.fill_(3e38)
                layer.weight[0] = -3e38
                layer.bias.fill_(torch.inf)
    for module, kind in ((broken, ValueError), (large, (ValueError, FloatingPointError))):
        with pytest.raises(kind, match="NaN"):
            predict(module, DataLoader(Plain(), batch_size=4), PredictionFile(tmp_path / "out.csv"))
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_written_is_refused_before_anything_is_predicted(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="would lie below"):
        predict(classifier(), DataLoader(Plain(), batch_size=4), PredictionFile(tmp_path / "file" / "out.csv"))


def test_a_dev_run_writes_no_file(tmp_path: Path) -> None:
    predict(classifier(), DataLoader(Plain(), batch_size=4), PredictionFile(tmp_path / "out.csv"), fast_dev_run=1)
    assert not (tmp_path / "out.csv").exists()


def test_what_another_module_predicts_is_refused_by_name(tmp_path: Path) -> None:
    class Other(L.LightningModule):
        def forward(self, images: Tensor) -> Tensor:
            return images

    with pytest.raises(TypeError, match="expected a list of Prediction for a batch, got Tensor of Other"):
        predict(Other(), DataLoader(Plain(), batch_size=4), PredictionFile(tmp_path / "out.csv"))
