"""DataDAM, IDC / DREAM / NCFM, DATM, FTD, TESLA and DC-BENCH: each fixture has the structure that the source writes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_condkd.data.condensed import CondensedSet
from lightning_condkd.formats.idc import decode_tiles
from lightning_condkd.formats.normalizations import DC_CONSTANTS
from lightning_condkd.randomness import seeded_generator
from tests.helpers.importers import import_condensed, import_dc, import_idc, import_mtt

LABELS = torch.arange(10).repeat_interleave(2)
CIFAR10, CIFAR100 = DC_CONSTANTS["cifar10"], DC_CONSTANTS["cifar100"]


def pixels(seed: int = 0, size: int = 4, unit: bool = False) -> Tensor:
    images = torch.rand(20, 3, size, size, generator=seeded_generator(seed, "pixels"))
    return images if unit else images * 1.6 - 0.3


def save(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path


def assert_pixels(condensed: CondensedSet, expected: Tensor) -> None:
    torch.testing.assert_close(condensed.images, expected, rtol=0, atol=1e-6)


def test_released_datadam_sets_tell_their_dataset_by_name(tmp_path: Path) -> None:
    path = save(tmp_path / "syn_data_cifar10_ipc_2.pt", {"data": [CIFAR10.apply(pixels()), LABELS]})
    condensed = CondensedSet.load(path)
    assert_pixels(condensed, pixels())
    assert (condensed.info.method, condensed.info.settings["dataset"]) == ("DataDAM", "cifar10")


def test_datadams_own_file_gives_its_last_evaluation_and_says_so(tmp_path: Path) -> None:
    evaluations = [[CIFAR10.apply(pixels(seed)), LABELS] for seed in range(3)]
    content = {"data": evaluations, "accs_all_exps": {"ConvNet": [np.float64(0.5)]}}
    path = save(tmp_path / "res_DataDAM_CIFAR10_ConvNet_2ipc_.pt", content)  # its code does write this underscore
    condensed = import_condensed(path)
    assert_pixels(condensed, pixels(2))
    provenance = "3 of 3 evaluations of one run, of which the last is the finished set"
    assert condensed.info.provenance["run"] == provenance
    assert condensed.info.settings == {"dataset": "CIFAR10", "network": "ConvNet"}
    assert_pixels(import_dc(path, run=0), pixels(0))


@pytest.mark.parametrize(
    ("images", "looks", "constants"),
    [
        (pixels(unit=True), r"whitened or already in pixels \(std 0\.29", (0.0, 1.0)),
        (CIFAR10.apply(pixels()) * 0.1, r"whitened or already in pixels \(std 0\.\d", (0.0, 1.0)),
        (pixels(unit=True) * 255, r"like pixels of 0 to 255 \(std 7\d\.", (0.0, 1 / 255)),
    ],
    ids=["pixels", "whitened", "bytes"],
)
@pytest.mark.parametrize("name", ["syn_data_cifar10_ipc_2.pt", "res_Mine_CIFAR10_ConvNet_2ipc.pt"])
def test_dc_files_that_do_not_look_normalised_are_refused(
    tmp_path: Path, name: str, images: Tensor, looks: str, constants: tuple[float, float]
) -> None:
    path = save(tmp_path / name, {"data": [images, LABELS]})
    with pytest.raises(ValueError, match=rf"looks {looks}.*--zca.*--mean, --std.*\[0\.4914, .*0 and 1 for pixels"):
        import_dc(path)
    mean, std = constants
    assert_pixels(import_dc(path, mean=(mean,) * 3, std=(std,) * 3), images * std + mean)


@pytest.mark.parametrize("factor", [0.7, 6.0])
def test_learned_images_may_spread_less_or_farther_than_real_ones(tmp_path: Path, factor: float) -> None:
    images = torch.randn(20, 3, 4, 4, generator=seeded_generator(0, "learned")) * factor
    path = save(tmp_path / "res_DM_CIFAR10_ConvNet_2ipc.pt", {"data": [[images, LABELS]]})
    assert_pixels(import_dc(path), CIFAR10.undo(images))


@pytest.mark.parametrize("name", ["CIFAR100_IPC2_images.pt", "CIFAR100_IPC2_normalize_images.pt"])
def test_images_to_start_from_have_float_labels_and_the_constants_of_dc(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / name, CIFAR100.apply(pixels()))
    save(tmp_path / name.replace("images", "labels"), LABELS.float())
    condensed = CondensedSet.load(path)
    assert_pixels(condensed, pixels())
    assert torch.equal(condensed.labels, LABELS)
    assert (condensed.num_classes, condensed.info.method) == (100, "real images")


def decoded_by_hand(images: Tensor, labels: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """Loops over tiles, images and pixels, with bilinear weights from their definition."""
    _, channels, height, width = images.shape
    tile_h, tile_w = math.ceil(height / factor), math.ceil(width / factor)
    out, out_labels = [], []
    for row in range(factor):
        for column in range(factor):
            for image, label in zip(images, labels, strict=True):
                full = torch.full((channels, tile_h * factor, tile_w * factor), 0.5)
                full[:, :height, :width] = image
                tile = full[:, row * tile_h : (row + 1) * tile_h, column * tile_w : (column + 1) * tile_w]
                out.append(enlarged_by_hand(tile, height, width))
                out_labels.append(label)
    return torch.stack(out), torch.stack(out_labels)


def enlarged_by_hand(tile: Tensor, height: int, width: int) -> Tensor:
    result = torch.zeros(len(tile), height, width)
    for y in range(height):
        for x in range(width):
            top, bottom, down = neighbours(y, height, tile.shape[1])
            left, right, along = neighbours(x, width, tile.shape[2])
            upper = tile[:, top, left] * (1 - along) + tile[:, top, right] * along
            lower = tile[:, bottom, left] * (1 - along) + tile[:, bottom, right] * along
            result[:, y, x] = upper * (1 - down) + lower * down
    return result


def neighbours(position: int, length: int, tile_length: int) -> tuple[int, int, float]:
    place = max((position + 0.5) * tile_length / length - 0.5, 0.0)
    first = min(int(place), tile_length - 1)
    return first, min(first + 1, tile_length - 1), place - first


@pytest.mark.parametrize(("size", "factor"), [((4, 4), 2), ((8, 8), 3), ((6, 4), 2), ((4, 4), 1)])
def test_decoding_agrees_with_loops(size: tuple[int, int], factor: int) -> None:
    images = torch.rand(3, 2, *size, generator=seeded_generator(0, "packed"))
    labels = torch.tensor([4, 1, 1])
    for found, expected in zip(
        decode_tiles(images, labels, factor), decoded_by_hand(images, labels, factor), strict=True
    ):
        torch.testing.assert_close(found, expected)


def test_decoded_images_are_tile_major_and_row_by_row() -> None:
    packed = torch.tensor([[[[0.1, 0.2], [0.3, 0.4]]], [[[0.5, 0.6], [0.7, 0.8]]]])
    images, labels = decode_tiles(packed, torch.tensor([0, 1]), factor=2)
    torch.testing.assert_close(images[:, 0, 0, 0], torch.tensor([0.1, 0.5, 0.2, 0.6, 0.3, 0.7, 0.4, 0.8]))
    assert labels.tolist() == [0, 1] * 4
    for factor in (0, 3):
        with pytest.raises(ValueError, match=r"expected 1 to 2 tiles"):
            decode_tiles(packed, torch.tensor([0, 1]), factor)


@pytest.mark.parametrize("name", ["data.pt", "data400.pt", "data_20000.pt"])
def test_lists_are_unpacked_and_no_normalisation_is_undone(tmp_path: Path, name: str) -> None:
    packed = pixels(unit=True)
    packed[0, 0, 0, 0] = 1.0625  # the last step before saving is not clamped
    path = save(tmp_path / name, [packed, LABELS])
    plain = import_idc(path, factor=1)
    assert torch.equal(plain.images, packed)
    condensed = import_condensed(path, factor=2, dataset="CIFAR100")
    assert torch.equal(condensed.images, decode_tiles(packed, LABELS, 2)[0])
    assert torch.equal(condensed.labels, LABELS.repeat(4))
    assert (condensed.num_classes, condensed.info.source_mean) == (100, None)
    assert condensed.info.settings == {"dataset": "CIFAR100", "factor": 2}
    assert condensed.info.provenance["stored images"] == "20"


def test_the_factor_of_a_list_must_be_said_and_normalised_lists_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "data.pt", [pixels(unit=True), LABELS])
    with pytest.raises(ValueError, match=r"does not record it: pass factor \(--factor\).*1 means plain images"):
        CondensedSet.load(path)
    with pytest.raises(
        ValueError, match=r"list \[images, labels\] in pixels, to which these options do not apply: mean=.*drop them"
    ):
        import_condensed(path, factor=1, mean=(0.5,) * 3, std=(0.2,) * 3)
    normalized = save(tmp_path / "other.pt", [CIFAR10.apply(pixels()), LABELS])
    with pytest.raises(ValueError, match=r"pixels in \[0, 1\].*images_best.pt"):
        import_idc(normalized, factor=1)
    with pytest.raises(ValueError, match=r"expected a list \[images, labels\]"):
        import_idc(save(tmp_path / "bare.pt", pixels()), factor=1)


def write_pair(folder: Path, name: str, labels: Tensor, images: Tensor | None = None) -> Path:
    save(folder / name.replace("images", "labels"), labels)
    return save(folder / name, CIFAR10.apply(pixels()) if images is None else images)


def test_datm_pairs_bring_logits_and_the_learned_step_size(tmp_path: Path) -> None:
    logits = nn.Parameter(torch.randn(20, 10, generator=seeded_generator(0, "logits")))
    path = write_pair(tmp_path, "images_best.pt", logits)
    save(tmp_path / "lr_best.pt", torch.tensor(0.02))
    condensed = import_condensed(path, dataset="CIFAR10")
    assert condensed.info.label_kind == "logits"
    assert condensed.soft_labels is not None
    assert torch.equal(condensed.soft_labels, logits)
    assert condensed.info.settings["train_lr"] == 0.02
    assert condensed.info.provenance["train_lr"] == "lr_best.pt"
    assert not condensed.soft_labels.requires_grad


def test_the_step_size_that_the_user_gives_comes_first_and_must_be_one(tmp_path: Path) -> None:
    path = write_pair(tmp_path, "images_best.pt", LABELS)
    assert "train_lr" not in import_mtt(path, dataset="CIFAR10").info.settings
    assert import_mtt(path, dataset="CIFAR10", train_lr=0.03).info.settings["train_lr"] == 0.03
    lr = save(tmp_path / "lr_best.pt", torch.tensor(0.02))
    given = import_condensed(path, dataset="CIFAR10", train_lr=0.03)
    assert given.info.settings == {"dataset": "CIFAR10", "train_lr": 0.03}
    assert given.info.provenance["train_lr"] == "given on import"
    for wrong in (-0.01, 0.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="expected a positive step size"):
            import_mtt(path, dataset="CIFAR10", train_lr=wrong)
    save(lr, torch.ones(3))
    with pytest.raises(ValueError, match=r"one step size in .*lr_best.pt"):
        import_mtt(path, dataset="CIFAR10")


def test_tesla_pairs_bring_probabilities(tmp_path: Path) -> None:
    probabilities = torch.randn(20, 10, generator=seeded_generator(0, "logits")).softmax(1)
    condensed = import_mtt(write_pair(tmp_path, "images_5000.pt", probabilities), dataset="CIFAR10")
    assert condensed.info.label_kind == "probabilities"


def test_soft_labels_that_may_be_either_are_asked_for(tmp_path: Path) -> None:
    soft = torch.randn(20, 10, generator=seeded_generator(0, "logits")).softmax(1)
    soft[3] *= 0.98
    pair = write_pair(tmp_path, "images_best.pt", soft)
    dc = save(tmp_path / "dc.pt", {"data": [[CIFAR10.apply(pixels()), soft]]})
    decoded = save(tmp_path / "data.pt", [pixels(unit=True), soft])
    for path, options in ((pair, {}), (dc, {}), (decoded, {"factor": 1})):
        options["dataset"] = "CIFAR10"
        with pytest.raises(ValueError, match=r"misses it by 0\.020: are they .*label_kind \(--label_kind\)"):
            import_condensed(path, **options)
        for kind in ("probabilities", "logits"):
            condensed = import_condensed(path, label_kind=kind, **options)
            assert condensed.info.label_kind == kind
            assert torch.equal(condensed.soft_labels, soft)


def test_a_kind_of_labels_must_exist_and_fit(tmp_path: Path) -> None:
    path = write_pair(tmp_path, "images_best.pt", torch.randn(20, 10) * 5)
    kinds: Any = {"probabilities": "these are logits", "hard": "expected 'probabilities' or 'logits', got 'hard'"}
    for kind, message in kinds.items():
        with pytest.raises(ValueError, match=message):
            import_mtt(path, dataset="CIFAR10", label_kind=kind)
    with pytest.raises(ValueError, match=r"label_kind=logits, but the labels are classes"):
        import_mtt(write_pair(tmp_path, "images_best.pt", LABELS), dataset="CIFAR10", label_kind="logits")


def test_averaged_sets_of_ftd_and_their_unwhitened_view_find_their_labels(tmp_path: Path) -> None:
    path = write_pair(tmp_path, "ema_images_400.pt", LABELS)
    assert_pixels(import_mtt(path, dataset="CIFAR10"), pixels())
    view = import_mtt(save(tmp_path / "images_zca_400.pt", pixels()))
    assert view.info.provenance["labels"] == "ema_labels_400.pt"
    assert_pixels(view, pixels())


def test_shards_are_read_whole(tmp_path: Path) -> None:
    for number, rows in enumerate(torch.arange(20).split(4)):
        name = f"images_best_{number}.pt"
        write_pair(tmp_path, name, LABELS[rows], CIFAR10.apply(pixels()[rows]))
    condensed = import_mtt(tmp_path / "images_best_0.pt", dataset="CIFAR10")
    assert_pixels(condensed, pixels())
    assert torch.equal(condensed.labels, LABELS)
    assert condensed.info.provenance["file"].endswith("images_best_4.pt")
    with pytest.raises(ValueError, match=r"give the first, images_best_0\.pt"):
        import_mtt(tmp_path / "images_best_2.pt", dataset="CIFAR10")


@pytest.mark.parametrize("missing", ["images_best_2.pt", "labels_best_2.pt", "images_best_4.pt"])
def test_a_missing_shard_is_named(tmp_path: Path, missing: str) -> None:
    for number in range(5):
        write_pair(tmp_path, f"images_best_{number}.pt", LABELS[:4], CIFAR10.apply(pixels()[:4]))
    (tmp_path / missing).unlink()
    with pytest.raises((ValueError, FileNotFoundError), match=missing):
        import_mtt(tmp_path / "images_best_0.pt", dataset="CIFAR10")


def test_class_names_are_recorded_and_counted(tmp_path: Path) -> None:
    path = write_pair(tmp_path, "images_best.pt", LABELS)
    names = tuple("abcdefghij")
    assert import_condensed(path, dataset="CIFAR10", class_names=names).info.class_names == names
    with pytest.raises(ValueError, match="expected 10 class_names, got 3"):
        import_condensed(path, dataset="CIFAR10", class_names=names[:3])


def test_unknown_and_foreign_options_are_refused(tmp_path: Path) -> None:
    path: Any = write_pair(tmp_path, "images_best.pt", LABELS)
    with pytest.raises(ValueError, match="do not apply: factor=2"):
        import_condensed(path, dataset="CIFAR10", factor=2)
    with pytest.raises(TypeError, match="unknown options datset: choose from dataset, mean"):
        import_condensed(path, datset="CIFAR10")  # type: ignore[call-arg]
    with pytest.raises(FileNotFoundError, match="check the path"):
        import_condensed(tmp_path / "absent.pt")
