"""A folder that is read by workers."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor

from lightning_condkd.augment import ResizedCrop
from lightning_condkd.cli import main
from lightning_condkd.data import (
    CondensedDataModule,
    CondensedInfo,
    CondensedSet,
    ImageFolderDataModule,
    StreamedFolderDataModule,
)
from lightning_condkd.models import DigitsNet, Observer
from lightning_condkd.modules import Classification
from tests.data.test_images import Recorder
from tests.helpers import photos, small_runs, toy
from tests.helpers.toy import silent_trainer

NUMBERED = ("1", "2", "10")  # by number, not as text
pytestmark = pytest.mark.filterwarnings("ignore:class folders are labelled by number")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    photos.write(folder / "train", NUMBERED, 6)
    photos.write(folder / "test", NUMBERED, 3)
    return folder


def streamed(root: Path, **options: Any) -> StreamedFolderDataModule:
    return StreamedFolderDataModule(root, **{"image_size": 8, "batch_size": 4, "num_workers": 0, "seed": 5, **options})


def fit(module: L.LightningModule, data: L.LightningDataModule, folder: Path, checkpoint: Path | None = None) -> None:
    saving = {"callbacks": [L.pytorch.callbacks.OnExceptionCheckpoint(folder)], "enable_checkpointing": True}
    trainer = silent_trainer(max_epochs=3, default_root_dir=folder, limit_val_batches=0, **saving)
    trainer.fit(module, data, ckpt_path=checkpoint)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_of_the_folder_in_memory_to_the_bit(root: Path, workers: int) -> None:
    memory = ImageFolderDataModule(root, image_size=8, batch_size=4, eval_batch_size=5, seed=5)
    stream = streamed(root, num_workers=workers, eval_batch_size=5)
    for data in (memory, stream):
        data.setup("fit")
    facts = ("num_classes", "image_shape", "train_size", "labeled")
    assert [getattr(stream, name) for name in facts] == [getattr(memory, name) for name in facts]
    for name in ("train_dataloader", "val_dataloader", "test_dataloader"):
        ours, theirs = list(getattr(stream, name)()), list(getattr(memory, name)())
        assert len(ours) == len(theirs) == len(getattr(stream, name)())
        assert all(
            torch.equal(a, b) for one, two in zip(ours, theirs, strict=True) for a, b in zip(one, two, strict=True)
        )
    for one, two in zip(stream.predict_dataloader(), memory.predict_dataloader(), strict=True):
        assert torch.equal(one, two)
    assert list(stream.val_images.files) == list(memory.val_source.files)
    assert stream.val_images.classes == memory.val_source.class_names


class Noting(Recorder):
    """Notes pixels and rows too."""

    def training_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)  # type: ignore[arg-type]
        self.seen[-1] = (*self.seen[-1], batch[0].sum().item(), batch[2].tolist())  # type: ignore[assignment]
        return loss


@pytest.mark.parametrize("fail_at", [2, 4, 6])
@pytest.mark.filterwarnings("error:You're resuming from a checkpoint")
@pytest.mark.filterwarnings("error:.*does not have many workers")
def test_a_resumed_run_sees_the_batches_of_an_uninterrupted_one(root: Path, fail_at: int, tmp_path: Path) -> None:
    runs = [Noting(), Noting(fail_at), Noting()]
    for run, folder, workers in zip(runs, ("whole", "cut", "resumed"), (2, 0, 2), strict=True):
        data = streamed(root, num_workers=workers, crop=ResizedCrop(), seed=5 if folder != "resumed" else 6)
        data.with_rows = True
        if folder == "cut":
            with pytest.raises(KeyError):
                fit(run, data, tmp_path / folder)
        else:
            fit(run, data, tmp_path / folder, None if folder == "whole" else tmp_path / "cut" / "on_exception.ckpt")
    whole, first, second = (run.seen for run in runs)
    assert len(whole) == 15
    assert first + second == whole


def test_boxes_are_drawn_anew_for_every_seed_and_in_every_epoch(root: Path) -> None:
    def pixels(seed: int, epoch: int) -> Tensor:
        data = streamed(root, crop=ResizedCrop(flip_probability=0.0), seed=seed, batch_size=21)
        data.with_rows = True
        loader: Any = data.train_dataloader()
        loader.position = lambda: (epoch, 0)
        images, _, rows = next(iter(loader))
        return images[rows.argsort()]

    first = pixels(5, 0)
    assert torch.equal(first, pixels(5, 0))
    for other in (pixels(5, 1), pixels(6, 0)):
        assert all(not torch.equal(one, two) for one, two in zip(first, other, strict=True))


def test_all_images_of_a_tree_are_read_without_classes(root: Path, tmp_path: Path) -> None:
    photos.write(tmp_path / "pool", ["deep/er", "b"], 3)
    (tmp_path / "pool" / ".hidden").mkdir()
    (tmp_path / "pool" / ".hidden" / "0.png").write_bytes((tmp_path / "pool" / "b" / "0.png").read_bytes())
    data = streamed(tmp_path, train="pool", val=None, labeled=False)
    data.setup("fit")
    data.with_rows = True
    assert (data.num_classes, data.train_size, data.labeled) == (None, 7, False)
    batches = list(data.train_dataloader())
    assert [labels.tolist() for _, labels, _ in batches] == [[-1] * 4]
    assert data.val_dataloader() == []
    found = [Path(file).relative_to(tmp_path / "pool").as_posix() for file in data.train_images.files]
    assert found == ["b/0.png", "b/1.png", "b/2.png", "b/3.png", "deep/er/0.png", "deep/er/1.png", "deep/er/2.png"]
    beside = streamed(tmp_path, train="pool", val=str(root / "test"), labeled=False)
    assert beside.num_classes == 3
    assert sum(len(labels) for _, labels in beside.val_dataloader()) == 12
    assert streamed(tmp_path, train="pool", val=None, labeled=False, class_names=["a", "b"]).num_classes == 2


def test_a_classifier_refuses_images_without_classes(root: Path, tmp_path: Path) -> None:
    photos.write(tmp_path / "pool", ["a"], 8)
    module = Classification(Observer(DigitsNet(3, in_channels=3, width=4)))
    data = streamed(tmp_path, train="pool", val=str(root / "test"), labeled=False)
    with pytest.raises(ValueError, match="got -1 to -1: the images have no labels"):
        silent_trainer(max_epochs=1, default_root_dir=tmp_path).fit(module, data)


def test_parts_with_other_classes_are_refused(tmp_path: Path) -> None:
    photos.write(tmp_path / "train", ["a", "b"], 4)
    photos.write(tmp_path / "test", ["a"], 4)
    with pytest.raises(ValueError, match="class_names: training images have"):
        streamed(tmp_path).train_dataloader()
    with pytest.warns(UserWarning, match="1 of 3 classes have no training image, c"):
        assert streamed(tmp_path, class_names=["b", "a", "c"]).num_classes == 3
    named = streamed(tmp_path, class_names=["b", "a"])
    assert [labels.tolist() for _, labels in named.val_dataloader()] == [[1] * 4]
    assert len(named.train_dataloader()) == 2


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="one subfolder for each class, found none at"):
        streamed(tmp_path).train_dataloader()
    (tmp_path / "train").mkdir()
    with pytest.raises(FileNotFoundError, match=r"expected image files in .*train or below it"):
        streamed(tmp_path, labeled=False).train_dataloader()
    with pytest.raises(ValueError, match="val: expected the name of a folder"):
        streamed(tmp_path, val=None).setup("test")


def test_files_are_not_opened_before_their_turn(tmp_path: Path) -> None:
    folder = photos.write(tmp_path / "train", ["a"], 5)
    for file in folder.rglob("*.png"):
        file.write_bytes(b"no image")
    data = streamed(tmp_path, val=None)
    data.setup("fit")
    loader = data.train_dataloader()
    assert "sha256" in data.describe_train()
    with pytest.raises(ValueError, match=r"\d\.png is no image or is cut off"):
        next(iter(loader))


def test_a_resumed_run_is_compared_by_names_of_files_and_how_they_are_read(root: Path, tmp_path: Path) -> None:
    def facts(folder: Path, **options: Any) -> str:
        return streamed(folder, **options).describe_train()

    photos.write(tmp_path / "train", NUMBERED, 6)
    moved = facts(tmp_path)
    assert facts(root) == moved
    assert len({moved, facts(root, image_size=9), facts(root, crop=ResizedCrop()), facts(root, shorter_side=9)}) == 4
    (tmp_path / "train" / "1" / "0.png").rename(tmp_path / "train" / "1" / "x.png")
    assert facts(tmp_path) != moved


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 0}, "image_size: expected"),
        ({"shorter_side": 7}, "shorter_side: expected at least"),
        ({"image_size": None, "shorter_side": 7}, "shorter_side: expected at least"),
        ({"image_size": None, "crop": ResizedCrop()}, "set image_size alone"),
        ({"crop": ResizedCrop(size=8)}, "set image_size alone"),
        ({"num_workers": -1}, "num_workers: expected"),
        ({"channels": 4}, "channels: expected 1 or 3"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        streamed(tmp_path, **options)


def test_a_batch_larger_than_the_data_is_refused(root: Path) -> None:
    with pytest.raises(ValueError, match="batch_size: expected 1 to 21"):
        streamed(root, batch_size=22).train_dataloader()


def test_workers_are_chosen_by_the_processors(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(12)), raising=False)
    data = streamed(root, num_workers=None)
    assert data.val_dataloader().num_workers == 8  # type: ignore[union-attr]
    data.trainer = L.Trainer(accelerator="cpu", devices=4, logger=False, enable_checkpointing=False)
    assert data.val_dataloader().num_workers == 3  # type: ignore[union-attr]


def test_a_student_is_measured_on_a_streamed_folder_as_on_one_in_memory(root: Path, tmp_path: Path) -> None:
    found = []
    for held_out in (
        streamed(root, channels=1, num_workers=1),
        ImageFolderDataModule(root, image_size=8, channels=1),
    ):
        data = CondensedDataModule(toy.condensed_set(), batch_size=8, val_data=held_out)
        module, trainer = toy.condkd(), silent_trainer(max_epochs=2, default_root_dir=tmp_path)
        trainer.fit(module, data)
        found.append({name: float(value) for name, value in trainer.callback_metrics.items() if "val" in name})
    assert found[0] == found[1] != {}


def test_held_out_classes_in_another_order_are_refused(root: Path, tmp_path: Path) -> None:
    plain = toy.condensed_set()
    condensed = CondensedSet(plain.images, plain.labels, info=CondensedInfo(3, ("2", "10", "1")))
    data = CondensedDataModule(condensed, batch_size=8, val_data=streamed(root, channels=1))
    with pytest.raises(ValueError, match="in another order"):
        silent_trainer(max_epochs=2, default_root_dir=tmp_path).fit(toy.condkd(), data)


def test_a_module_that_needs_all_images_says_so(root: Path, tmp_path: Path) -> None:
    module, _, _ = small_runs.condensation(tmp_path)
    with pytest.raises(TypeError, match="needs real images in memory"):
        silent_trainer(max_epochs=1, default_root_dir=tmp_path).fit(module, streamed(root))


def command(root: Path, folder: Path, *more: str) -> None:
    network = {"class_path": "DigitsNet", "init_args": {"width": 4, "in_channels": 3, "num_classes": 3}}
    observer = json.dumps({"network": {"class_path": "Observer", "init_args": {"network": network}}})
    model = ["--model=Classification", f"--model.init_args={observer}"]
    data = ["--data=StreamedFolderDataModule", f"--data.root={root}", "--data.image_size=8", "--data.num_workers=2"]
    short = ["--trainer.max_epochs=2", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
    main(["fit", *model, *data, *short, f"--trainer.default_root_dir={folder}", *more])


def test_the_command_line_trains_on_a_streamed_folder(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    crop = ["--data.batch_size=8", "--data.crop=ResizedCrop", "--data.crop.scale=[0.5, 1.0]"]
    command(root, tmp_path, *crop)
    run = tmp_path / "lightning_logs" / "version_0"
    kept = (run / "config.yaml").read_text()
    assert re.search(r"class_path: lightning_condkd\.augment\.ResizedCrop", kept)
    main(["fit", "--config", str(run / "config.yaml"), f"--trainer.default_root_dir={tmp_path / 'again'}"])
    curves = [sorted((tmp_path / place / "lightning_logs").rglob("metrics.csv")) for place in ("", "again")]
    assert losses(curves[0][0]) == losses(curves[1][0]) != []
    capsys.readouterr()
    resumed = ["--trainer.max_epochs=4", "--ckpt_path=last", f"--trainer.default_root_dir={tmp_path}"]
    main(["fit", "--config", str(run / "config.yaml"), *resumed])
    with pytest.raises(SystemExit):
        command(root, tmp_path, "--data.workers=2")
    assert "workers" in capsys.readouterr().err


def losses(file: Path) -> Sequence[str]:
    header, *lines = file.read_text().splitlines()
    place = header.split(",").index("val/loss")
    return [line.split(",")[place] for line in lines]
