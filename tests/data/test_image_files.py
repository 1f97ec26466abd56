"""Image files decoded at every use, and the loader of their batches."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional as transforms

from lightning_condkd.augment import ResizedCrop
from lightning_condkd.data import image_files as module
from lightning_condkd.data.class_files import list_class_files
from lightning_condkd.data.file_batches import FileBatches, FileLoader
from lightning_condkd.data.image_files import FileNames, ImageFiles, RandomBoxes
from lightning_condkd.data.row_orders import RowsInOrder, ShuffledRows
from tests.helpers import photos


def start() -> tuple[int, int]:
    return 0, 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photos.write(tmp_path_factory.mktemp("photos"), ["ant", "bee"], 6)


@pytest.fixture
def images(folder: Path) -> ImageFiles:
    found = list_class_files(folder)
    return ImageFiles(FileNames(found.files), found.labels, found.class_names, image_size=8)


def epoch(images: ImageFiles, workers: int = 0, position: Any = start, **options: Any) -> list[tuple[Tensor, ...]]:
    """The batches of an epoch from a position on."""
    share = {name: options.pop(name) for name in ("rank", "world_size") if name in options}
    order = ShuffledRows(len(images), 4, seed=3, **share)
    return list(FileLoader(FileBatches(images, order, seed=3, **options), position, workers))


def equal(ours: list[tuple[Tensor, ...]], theirs: list[tuple[Tensor, ...]]) -> bool:
    return len(ours) == len(theirs) and all(
        len(one) == len(two) and all(map(torch.equal, one, two)) for one, two in zip(ours, theirs, strict=True)
    )


def test_names_survive_as_they_are() -> None:
    names = ["a b.png", "ü/\udcff.png", "", "z" * 300]
    packed = FileNames(names)
    assert list(packed) == names
    assert (packed[-1], len(packed[1:3]), packed.index("")) == ("z" * 300, 2, 2)
    assert list(pickle.loads(pickle.dumps(packed))) == names
    with pytest.raises(IndexError):
        packed[4]


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker")
def test_batches_are_the_shuffled_rows_for_any_number_of_workers(images: ImageFiles, workers: int) -> None:
    found = epoch(images, workers, with_rows=True)
    rows = list(ShuffledRows(13, 4, seed=3).batches())
    assert [batch[2].tolist() for batch in found] == [one.tolist() for one in rows]
    for pixels, labels, own in found:
        assert torch.equal(labels, images.labels[own])
        for image, row in zip(pixels, own.tolist(), strict=True):
            square = transforms.center_crop(transforms.resize(Image.open(images.files[row]), 8), 8)
            assert torch.equal(image, transforms.pil_to_tensor(square))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("first", [0, 1, 2, 3])
def test_the_rest_of_an_epoch_is_what_an_uninterrupted_one_has_left(
    images: ImageFiles, workers: int, first: int
) -> None:
    options: dict[str, Any] = {"crop": ResizedCrop(), "with_rows": True}
    whole = epoch(images, position=lambda: (2, 0), **options)
    assert equal(epoch(images, workers, position=lambda: (2, first), **options), whole[first:])


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    opened: list[str] = []
    original: Callable[..., Image.Image] = module.open_image

    def noting(file: str, channels: int) -> Image.Image:
        opened.append(file)
        return original(file, channels)

    monkeypatch.setattr(module, "open_image", noting)
    return opened


def test_batches_before_the_position_are_not_decoded(images: ImageFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = counted(monkeypatch)
    (batch,) = epoch(images, position=lambda: (0, 2), with_rows=True)
    assert opened == [images.files[row] for row in batch[2].tolist()]


def test_the_position_is_asked_for_with_the_first_batch(images: ImageFiles) -> None:
    place = [0, 0]
    batches = FileBatches(images, ShuffledRows(13, 4, seed=3), with_rows=True)
    iterator = iter(FileLoader(batches, lambda: (place[0], place[1]), 0))
    place[:] = [1, 2]
    assert torch.equal(next(iterator)[2], list(ShuffledRows(13, 4, seed=3).batches(1))[2])


@pytest.mark.parametrize("crop", [None, ResizedCrop()], ids=["square", "boxes"])
def test_ranks_share_the_global_batches(images: ImageFiles, crop: ResizedCrop | None) -> None:
    whole = epoch(images, crop=crop)
    for rank in range(2):
        own = epoch(images, 2, crop=crop, rank=rank, world_size=2)
        assert equal(own, [tuple(part[rank::2] for part in batch) for batch in whole])


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_sees_every_image_once(images: ImageFiles, world_size: int, workers: int) -> None:
    seen: list[int] = []
    for rank in range(world_size):
        order = RowsInOrder(len(images), 4, rank=rank, world_size=world_size)
        batches = list(FileLoader(FileBatches(images, order, with_rows=True), start, workers))
        assert len(batches) == 4  # the last of one image alone, which is of one rank
        seen += torch.cat([batch[2] for batch in batches]).tolist()
        assert [batch[0].shape[1:] for batch in batches] == [(3, 8, 8)] * 4
    assert sorted(seen) == list(range(13))


def test_the_global_random_stream_is_left_alone(images: ImageFiles) -> None:
    state = torch.random.get_rng_state()
    epoch(images, 2, crop=ResizedCrop())
    assert torch.equal(state, torch.random.get_rng_state())


def test_boxes_depend_on_seed_epoch_and_row_alone(images: ImageFiles) -> None:
    def row(number: int, epoch: int = 0, seed: int = 0, among: tuple[int, ...] = ()) -> Tensor:
        boxes = RandomBoxes(ResizedCrop(flip_probability=0.0), seed, epoch)
        return images.read(torch.tensor([*among, number]), boxes)[-1]

    assert torch.equal(row(5), row(5, among=(1, 2)))
    assert not torch.equal(row(5), row(5, epoch=1))
    assert not torch.equal(row(5), row(5, seed=1))


def test_a_box_is_the_crop_of_the_same_parameters(tmp_path: Path) -> None:
    smooth = torch.linspace(0, 255, 30).view(1, 30, 1) * 0.5 + torch.linspace(0, 127, 50).view(1, 1, 50)
    transforms.to_pil_image(smooth.byte().expand(3, -1, -1)).save(tmp_path / "0.png")
    files = ImageFiles(FileNames([str(tmp_path / "0.png")]), torch.tensor([0]), ("one",), image_size=64)
    flips = set()
    for epoch in range(12):
        crop = ResizedCrop(scale=(0.1, 0.6))
        drawn = crop.sample(1, module.seeded_generator(7, f"crop/{epoch}", 0))
        flips.add(bool(drawn["flip"]))
        on_tensors = ResizedCrop(scale=(0.1, 0.6), size=64)(smooth.byte().expand(1, 3, -1, -1) / 255, drawn) * 255
        found = files.read(torch.tensor([0]), RandomBoxes(crop, 7, epoch))
        assert (found.float() - on_tensors).abs().max() < 1.01  # a pixel is 2.6 brighter than the one before it
    assert flips == {True, False}


def test_a_box_of_the_whole_image_is_smoothed(tmp_path: Path) -> None:
    stripes = (torch.arange(64) % 2 * 255).byte().expand(3, 64, 64)
    transforms.to_pil_image(stripes).save(tmp_path / "0.png")
    files = ImageFiles(FileNames([str(tmp_path / "0.png")]), torch.tensor([0]), ("one",), image_size=8)
    whole = RandomBoxes(ResizedCrop((1.0, 1.0), (1.0, 1.0)), 0, 0)
    assert (files.read(torch.tensor([0]), whole)[..., 1:-1].float() - 127.5).abs().max() < 5


def test_the_shorter_side_is_resized_before_the_crop(images: ImageFiles, folder: Path) -> None:
    wide = ImageFiles(images.files, images.labels, images.classes, image_size=6, shorter_side=10)
    expected = transforms.center_crop(transforms.resize(Image.open(images.files[2]), 10), 6)
    assert torch.equal(wide[2], transforms.pil_to_tensor(expected))


def test_images_of_one_size_may_keep_it(tmp_path: Path) -> None:
    found = list_class_files(photos.write(tmp_path, ["a"], 3, sizes=[(5, 7)]))
    gray = ImageFiles(FileNames(found.files), found.labels, found.class_names, channels=1)
    assert gray.image_shape == (1, 5, 7)
    assert torch.equal(gray[1], transforms.pil_to_tensor(Image.open(found.files[1]).convert("L")))


@pytest.mark.parametrize("workers", [0, 2])
def test_another_size_is_named_with_its_file(folder: Path, workers: int) -> None:
    found = list_class_files(folder)
    files = ImageFiles(FileNames(found.files), found.labels, found.class_names)
    loader = FileLoader(FileBatches(files, RowsInOrder(13, 4)), start, workers)
    with pytest.raises(ValueError, match=r"^expected images of one size, .*1\.png\): set image_size") as caught:
        list(loader)
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_file_is_named_when_it_is_its_turn(tmp_path: Path, workers: int) -> None:
    found = list_class_files(photos.write(tmp_path, ["a"], 6))
    Path(found.files[4]).write_bytes(Path(found.files[4]).read_bytes()[:50])
    files = ImageFiles(FileNames(found.files), found.labels, found.class_names, image_size=8)
    iterator = iter(FileLoader(FileBatches(files, RowsInOrder(6, 2)), start, workers))
    assert [len(next(iterator)[1]), len(next(iterator)[1])] == [2, 2]
    with pytest.raises(ValueError, match=r"^.*4\.png is no image or is cut off .*: copy it again, or remove it$"):
        next(iterator)
