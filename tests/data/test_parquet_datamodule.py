"""Real images in parquet files as a DataModule."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from torchvision.transforms.functional import to_pil_image

from lightning_condkd.cli import main
from lightning_condkd.data import ParquetDataModule
from lightning_condkd.data.image_datamodules import load_digits_split
from tests.helpers.parquet import png, write

pyarrow = pytest.importorskip("pyarrow")


def dataset(root: Path, mode: str = "RGB", size: tuple[int, int] = (4, 4)) -> Path:
    """A training part of two shards and a test part."""
    for n in range(2):
        pictures = [png(10 * n + i, size, mode) for i in range(3)]
        write(root / f"data/train-{n:05d}-of-00002.parquet", pictures, [0, 1, 1], image="img")
    write(root / "data/test-00000-of-00001.parquet", [png(50, size, mode)], [1], image="img")
    return root


def test_both_parts_are_read_with_names_and_order(tmp_path: Path) -> None:
    data = ParquetDataModule(dataset(tmp_path))
    assert data.train_source.images[:, 0, 0, 0].tolist() == [0, 1, 2, 10, 11, 12]
    assert data.train_source.labels.tolist() == [0, 1, 1, 0, 1, 1]
    assert (data.train_source.class_names, data.image_shape) == (("cat", "dog"), (3, 4, 4))
    assert data.val_source.images[:, 0, 0, 0].tolist() == [50]
    data.check_parts()
    other = ParquetDataModule(tmp_path, class_names=("dog", "cat"), channels=1, image_size=2)
    assert other.train_source.labels.tolist() == [1, 0, 0, 1, 0, 0]
    assert other.image_shape == (1, 2, 2)


def test_gray_images_keep_one_channel_and_it_is_said(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="all 6 images are gray and keep their one channel"):
        assert ParquetDataModule(dataset(tmp_path, "L")).train_source.image_shape == (1, 4, 4)
    assert ParquetDataModule(tmp_path, channels=3).train_source.image_shape == (3, 4, 4)


def test_images_of_several_sizes_need_one(tmp_path: Path) -> None:
    dataset(tmp_path)
    write(tmp_path / "data/test-00000-of-00001.parquet", [png(5, (6, 8)), png(5)], [0, 1], image="img")
    with pytest.raises(ValueError, match=r"expected images of one size, got .* set image_size to resize them"):
        ParquetDataModule(tmp_path).val_source  # noqa: B018
    assert ParquetDataModule(tmp_path, image_size=4).val_source.image_shape == (3, 4, 4)


def test_missing_parts_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="expected a folder of parquet files, found none at"):
        ParquetDataModule(tmp_path / "none").train_source  # noqa: B018
    with pytest.raises(ValueError, match="has no 'validation', but test, train"):
        ParquetDataModule(dataset(tmp_path), val="validation").val_source  # noqa: B018


def test_a_teacher_trains_on_it_from_the_command_line(tmp_path: Path) -> None:
    for train in (True, False):
        source, part = load_digits_split(train), "train" if train else "test"
        pictures = [_encoded(image) for image in source.images[:60]]
        write(tmp_path / f"{part}.parquet", pictures, source.labels[:60].tolist(), names=source.class_names)
    network = ["--model.network=Observer", "--model.network.network=DigitsNet"]
    network += ["--model.network.mean=[0.3]", "--model.network.std=[0.4]"]
    data = ["--data=ParquetDataModule", f"--data.root={tmp_path}", "--data.channels=1", "--data.batch_size=20"]
    length = ["--trainer.max_epochs=1", "--trainer.accelerator=cpu", f"--trainer.default_root_dir={tmp_path / 'run'}"]
    main(["fit", "--model=Classification", *network, *data, *length, "--trainer.enable_progress_bar=false"])
    assert list((tmp_path / "run").rglob("*.ckpt"))


def _encoded(image: torch.Tensor) -> bytes:
    stream = io.BytesIO()
    to_pil_image(image).save(stream, "PNG")
    return stream.getvalue()
