import struct
from collections import Counter
from pathlib import Path

import lightning as L
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.functional import to_pil_image

from lightning_condkd.data.image_datamodules import (
    DigitsDataModule,
    ImageDataModule,
    ImageFolderDataModule,
    TorchvisionDataModule,
)
from lightning_condkd.data.image_source import ImageSource, from_folder
from lightning_condkd.data.loaders import Batch, EvaluationBatches, ResumableLoader, ShuffledBatches
from lightning_condkd.data.torchvision_sets import from_torchvision


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_images(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=seeded())


def numbered(n: int) -> ImageSource:
    """A source whose label is the row and whose pixels repeat it."""
    labels = torch.arange(n)
    return ImageSource(labels.to(torch.uint8)[:, None, None, None].repeat(1, 1, 2, 2), labels, tuple(map(str, labels)))


def write_folder(root: Path, images: Tensor, labels: Tensor) -> None:
    for row, (image, label) in enumerate(zip(images, labels, strict=True)):
        folder = root / f"class{int(label)}"
        folder.mkdir(parents=True, exist_ok=True)
        to_pil_image(image).save(folder / f"{row:03d}.png")


def write_mnist(root: Path, images: Tensor, labels: Tensor) -> None:
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    n, height, width = images.shape
    for part in ("train", "t10k"):
        pixels = struct.pack(">IIII", 0x803, n, height, width) + images.numpy().tobytes()
        (folder / f"{part}-images-idx3-ubyte").write_bytes(pixels)
        numbers = struct.pack(">II", 0x801, n) + labels.to(torch.uint8).numpy().tobytes()
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(numbers)


def test_folder_of_uneven_classes_is_decoded_exactly(tmp_path: Path) -> None:
    images, labels = random_images(5, 3, 7, 9), torch.tensor([0, 0, 0, 1, 2])
    write_folder(tmp_path, images, labels)
    source = from_folder(tmp_path)
    assert torch.equal(source.images, images)
    assert torch.equal(source.labels, labels)
    assert source.class_names == ("class0", "class1", "class2")
    assert [rows.tolist() for rows in source.class_rows] == [[0, 1, 2], [3], [4]]


def test_folder_of_uneven_sizes_needs_image_size(tmp_path: Path) -> None:
    write_folder(tmp_path, random_images(2, 3, 8, 8), torch.tensor([0, 1]))
    Image.new("L", (30, 12), 200).save(tmp_path / "class1" / "other.png")
    with pytest.raises(ValueError, match="image_size"):
        from_folder(tmp_path)
    source = from_folder(tmp_path, image_size=6)
    assert source.image_shape == (3, 6, 6)
    assert (source.images[2] == 200).all()


def test_empty_or_absent_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        from_folder(tmp_path / "nowhere")
    (tmp_path / "class0").mkdir()
    with pytest.raises(FileNotFoundError, match="expected image files"):
        from_folder(tmp_path)


def test_torchvision_dataset_with_train_argument(tmp_path: Path) -> None:
    images, labels = random_images(4, 28, 28), torch.tensor([3, 9, 0, 3])
    write_mnist(tmp_path, images, labels)
    data = TorchvisionDataModule("MNIST", tmp_path, batch_size=2)
    assert torch.equal(data.train_source.images, images.unsqueeze(1))
    assert torch.equal(data.val_source.labels, labels)
    assert (data.num_classes, data.image_shape) == (10, (1, 28, 28))


def test_torchvision_dataset_with_split_argument(tmp_path: Path) -> None:
    for part, number in {"train": 3, "test": 1}.items():
        write_folder(tmp_path / "country211" / part, random_images(number, 3, 9, 9), torch.zeros(number))
    train, test = (from_torchvision("Country211", tmp_path, train, image_size=4) for train in (True, False))
    assert (len(train), len(test), train.image_shape) == (3, 1, (3, 4, 4))


@pytest.mark.parametrize("name", ["Cifar10", "FakeData"])
def test_unknown_torchvision_datasets_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="name: expected a class of torchvision"):
        from_torchvision(name, tmp_path)


def test_channel_statistics_are_those_of_the_pixels() -> None:
    source = ImageSource(random_images(6, 3, 5, 5), torch.zeros(6, dtype=torch.int64), ("all",))
    pixels = source.images.double() / 255
    mean, std = source.channel_statistics()
    assert torch.allclose(torch.tensor(mean).double(), pixels.mean((0, 2, 3)), atol=1e-7)
    assert torch.allclose(torch.tensor(std).double(), pixels.std((0, 2, 3), unbiased=False), atol=1e-7)


@pytest.mark.parametrize(
    ("images", "labels", "named"),
    [
        (torch.zeros(2, 1, 4, 4), torch.tensor([0, 1]), "images"),
        (torch.zeros(0, 1, 4, 4, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64), "images"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.tensor([0]), "labels"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.tensor([0, 2]), "class_names"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(images: Tensor, labels: Tensor, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        ImageSource(images, labels, ("a", "b"))


def test_an_epoch_is_a_permutation_and_another_epoch_is_another() -> None:
    def epoch(number: int) -> list[int]:
        batches = ShuffledBatches(numbered(12), 4, seed=0, position=lambda: (number, 0))
        return torch.cat([labels for _, labels in batches]).tolist()

    assert sorted(epoch(0)) == list(range(12))
    assert epoch(0) == epoch(0)
    assert epoch(0) != epoch(1)


def test_images_and_labels_stay_together() -> None:
    for images, labels in ResumableLoader(ShuffledBatches(numbered(12), 4, seed=0, position=lambda: (0, 0))):
        assert torch.equal(images[:, 0, 0, 0].long(), labels)


def test_rows_come_with_the_images_if_asked_for() -> None:
    whole = ShuffledBatches(numbered(12), 4, seed=0, position=lambda: (1, 1))
    options = {"seed": 0, "position": lambda: (1, 1), "rank": 1, "world_size": 2}
    batches = list(ResumableLoader(ShuffledBatches(numbered(12), 4, with_rows=True, **options)))
    assert len(batches) == 2
    for (_, everyone), (images, labels, rows) in zip(whole, batches, strict=True):
        assert torch.equal(rows, labels)  # the label is the row
        assert torch.equal(images, numbered(12).images[rows])
        assert torch.equal(rows, everyone[1::2])


def test_a_datamodule_gives_rows_if_asked_for() -> None:
    data = DigitsDataModule(batch_size=400, seed=0)
    without = next(iter(data.train_dataloader()))
    data.with_rows = True
    images, labels, rows = next(iter(data.train_dataloader()))
    assert (len(without), data.train_size) == (2, 1297)
    assert torch.equal(without[0], images)
    assert torch.equal(data.train_source.images[rows], images)
    assert torch.equal(data.train_source.labels[rows], labels)


def test_the_leftover_is_not_used_and_batches_have_one_size() -> None:
    batches = ShuffledBatches(numbered(11), 4, seed=0, position=lambda: (0, 0))
    assert [len(labels) for _, labels in batches] == [4, 4]
    assert len(batches) == 2


def test_ranks_share_the_global_batches() -> None:
    def labels(rank: int, world_size: int) -> list[list[int]]:
        share = {"rank": rank, "world_size": world_size}
        batches = ShuffledBatches(numbered(12), 4, seed=0, position=lambda: (2, 0), **share)
        return [labels.tolist() for _, labels in batches]

    for whole, even, odd in zip(labels(0, 1), labels(0, 2), labels(1, 2), strict=True):
        assert (whole[::2], whole[1::2]) == (even, odd)


@pytest.mark.parametrize(("batch_size", "world_size"), [(13, 1), (0, 1), (3, 2)])
def test_batch_sizes_that_do_not_fit_are_refused(batch_size: int, world_size: int) -> None:
    with pytest.raises(ValueError, match="batch_size"):
        ShuffledBatches(numbered(12), batch_size, seed=0, position=lambda: (0, 0), world_size=world_size)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_evaluation_sees_every_image_once_in_equally_many_batches(world_size: int) -> None:
    ranks = [list(EvaluationBatches(numbered(9), 4, rank=r, world_size=world_size)) for r in range(world_size)]
    assert {len(batches) for batches in ranks} == {3}
    seen = Counter(int(label) for batches in ranks for _, labels in batches for label in labels)
    assert seen == Counter(range(9))


def test_the_global_random_stream_is_left_alone() -> None:
    state = torch.random.get_rng_state()
    list(ResumableLoader(ShuffledBatches(numbered(12), 4, seed=0, position=lambda: (0, 0))))
    assert torch.equal(state, torch.random.get_rng_state())


class Recorder(L.LightningModule):
    """Notes the labels of every batch; raises once at a chosen step."""

    def __init__(self, fail_at: int | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.fail_at = fail_at
        self.seen: list[tuple[int, int, list[int]]] = []

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        if self.global_step == self.fail_at:
            raise KeyError("stopped by the test")
        self.seen.append((self.current_epoch, batch_idx, batch[1].tolist()))
        return self.weight.sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(module: Recorder, root: Path, checkpoint: Path | None = None) -> None:
    saving = L.pytorch.callbacks.OnExceptionCheckpoint(root)
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=3,
        callbacks=[saving],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=root,
        limit_val_batches=0,
    )
    trainer.fit(module, DigitsDataModule(batch_size=400), ckpt_path=checkpoint)


@pytest.mark.parametrize("fail_at", [2, 4, 6])
@pytest.mark.filterwarnings("error:You're resuming from a checkpoint")
def test_a_resumed_run_sees_the_batches_of_an_uninterrupted_one(fail_at: int, tmp_path: Path) -> None:
    whole, first, second = Recorder(), Recorder(fail_at), Recorder()
    fit(whole, tmp_path / "whole")
    with pytest.raises(KeyError):
        fit(first, tmp_path / "cut")
    fit(second, tmp_path / "resumed", tmp_path / "cut" / "on_exception.ckpt")
    assert len(whole.seen) == 9
    assert first.seen + second.seen == whole.seen


def test_a_module_with_steps_is_served_numbers() -> None:
    data, module = DigitsDataModule(), Recorder()
    module.steps_per_epoch = 3  # type: ignore[assignment]
    data.trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    data.trainer.strategy.connect(module)
    assert list(data.train_dataloader()) == [0, 1, 2]


def test_parts_with_other_classes_are_refused(tmp_path: Path) -> None:
    write_folder(tmp_path / "train", random_images(2, 3, 8, 8), torch.tensor([0, 1]))
    write_folder(tmp_path / "test", random_images(1, 3, 8, 8), torch.tensor([0]))
    data = ImageFolderDataModule(tmp_path)
    assert len(data.train_source) == 2
    with pytest.raises(ValueError, match="class_names"):
        data.train_dataloader()


class _Parts(ImageDataModule):
    """Two parts that disagree, and a record of what was read."""

    def __init__(self) -> None:
        super().__init__(batch_size=1)
        self.read: list[bool] = []

    def load(self, train: bool) -> ImageSource:
        self.read.append(train)
        return ImageSource(torch.zeros(2, 1, 8, 8 if train else 9, dtype=torch.uint8), torch.tensor([0, 1]), ("a", "b"))


def test_measuring_needs_no_training_images() -> None:
    data = _Parts()
    data.setup("test")
    assert len(data.test_dataloader().dataset) == 1
    assert data.image_shape == (1, 8, 9)
    assert data.read == [False]


def test_parts_of_different_shape_are_refused_before_training() -> None:
    with pytest.raises(ValueError, match="image_shape"):
        _Parts().train_dataloader()
