from __future__ import annotations

import hashlib
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_condkd.commands.convert import convert
from lightning_condkd.data.condensed import CondensedSet
from lightning_condkd.formats.normalizations import DC_CONSTANTS, MTT_CONSTANTS
from lightning_condkd.models.observer import Observer
from lightning_condkd.randomness import seeded_generator
from lightning_condkd.training.teacher_accuracy import teacher_accuracy
from tests.helpers.importers import import_condensed, import_dc, import_mtt

LABELS = torch.arange(10).repeat_interleave(2)
C10_MEAN, C10_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
C100_MEAN, C100_STD = (0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)


def pixels(channels: int = 3, seed: int = 0) -> Tensor:
    """Images that leave [0, 1] on both sides."""
    return torch.rand(20, channels, 4, 4, generator=seeded_generator(seed, "pixels")) * 1.6 - 0.3


def normalized(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    return (images - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)


def write_dc(path: Path, *images: Tensor) -> Path:
    accuracies = {"ConvNet": [np.float64(0.5), np.float64(0.25)]}
    torch.save({"data": [[x, LABELS] for x in images], "accs_all_exps": accuracies}, path)
    return path


def write_mtt(folder: Path, images: Tensor, labels: Tensor, prefix: str = "", suffix: str = "best") -> Path:
    torch.save(labels, folder / f"{prefix}labels_{suffix}.pt")
    torch.save(images, folder / f"{prefix}images_{suffix}.pt")
    return folder / f"{prefix}images_{suffix}.pt"


@pytest.mark.parametrize(
    ("dataset", "mean", "std", "classes"),
    [
        ("MNIST", (0.1307,), (0.3081,), 10),
        ("FashionMNIST", (0.2861,), (0.3530,), 10),
        ("SVHN", (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970), 10),
        ("CIFAR10", C10_MEAN, C10_STD, 10),
        ("CIFAR100", C100_MEAN, C100_STD, 100),
        ("TinyImageNet", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 200),
    ],
)
def test_dc_files_come_back_to_pixels_by_their_name(
    tmp_path: Path, dataset: str, mean: tuple[float, ...], std: tuple[float, ...], classes: int
) -> None:
    images = pixels(len(mean))
    path = write_dc(tmp_path / f"res_DSA_{dataset}_ConvNetD4_2ipc.pt", normalized(images, mean, std))
    condensed = CondensedSet.load(path)
    torch.testing.assert_close(condensed.images, images, rtol=0, atol=1e-6)
    assert condensed.images.min() < -0.2
    assert condensed.images.max() > 1.2
    assert torch.equal(condensed.labels, LABELS)
    assert (condensed.num_classes, condensed.info.method) == (classes, "DSA")
    assert (condensed.info.source_mean, condensed.info.source_std) == (mean, std)
    assert condensed.info.settings == {"dataset": dataset, "network": "ConvNetD4"}


def test_the_last_run_is_taken_unless_another_is_asked_for(tmp_path: Path) -> None:
    runs = [normalized(pixels(seed=seed), C10_MEAN, C10_STD) for seed in range(3)]
    path = write_dc(tmp_path / "res_DM_CIFAR10_ConvNet_2ipc.pt", *runs)
    for run, expected in ((-1, 2), (2, 2), (0, 0), (-2, 1)):
        condensed = import_dc(path, run=run)
        torch.testing.assert_close(condensed.images, pixels(seed=expected), rtol=0, atol=1e-6)
        assert condensed.info.provenance["run"] == f"{expected + 1} of 3"
    for default in (import_dc(path), import_condensed(path), CondensedSet.load(path)):
        assert torch.equal(default.images, import_dc(path, run=2).images)
    for run in (3, -4):
        with pytest.raises(ValueError, match="holds 3 runs: choose 0 to 2, or -1"):
            import_dc(path, run=run)


def test_the_source_is_recorded(tmp_path: Path) -> None:
    path = write_dc(tmp_path / "res_DC_CIFAR10_ConvNet_2ipc.pt", normalized(pixels(), C10_MEAN, C10_STD))
    provenance = import_dc(path).info.provenance
    assert provenance["file"] == path.name
    assert provenance["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert str(tmp_path) not in str(provenance)


def test_an_unknown_dataset_names_the_flags(tmp_path: Path) -> None:
    path = write_dc(tmp_path / "mine.pt", normalized(pixels(), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)))
    with pytest.raises(ValueError, match=r"--dataset.*cifar10.*--mean, --std"):
        CondensedSet.load(path)
    with pytest.raises(ValueError, match="pass both"):
        import_dc(path, mean=(0.5, 0.4, 0.3))
    with pytest.raises(ValueError, match="images have 3 channels, mean and std 1 and 1"):
        import_dc(path, dataset="MNIST")
    condensed = import_dc(path, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    torch.testing.assert_close(condensed.images, pixels(), rtol=0, atol=1e-6)
    assert condensed.num_classes == 10
    assert import_dc(path, dataset="cifar-100").info.source_mean == C100_MEAN
    named = write_dc(tmp_path / "res_DM_CIFAR10_ConvNet_2ipc.pt", normalized(pixels(), C10_MEAN, C10_STD))
    assert import_dc(named, dataset="SVHN").info.source_mean == DC_CONSTANTS["svhn"].mean


def test_the_flat_layout_of_released_datadam_sets_is_read(tmp_path: Path) -> None:
    torch.save({"data": [normalized(pixels(), C10_MEAN, C10_STD), LABELS]}, tmp_path / "syn_data_CIFAR10_ipc_2.pt")
    condensed = import_dc(tmp_path / "syn_data_CIFAR10_ipc_2.pt", dataset="CIFAR10")
    torch.testing.assert_close(condensed.images, pixels(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("core", ["core", "_core"])
def test_files_of_old_and_new_numpy_are_read(tmp_path: Path, core: str) -> None:
    path = write_dc(tmp_path / "res_DM_CIFAR10_ConvNet_2ipc.pt", normalized(pixels(), C10_MEAN, C10_STD))
    renamed = tmp_path / core / path.name
    renamed.parent.mkdir()
    wanted = f"cnumpy.{core}.multiarray\nscalar\n".encode()
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(renamed, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            for old in (b"cnumpy.core.multiarray\nscalar\n", b"cnumpy._core.multiarray\nscalar\n"):
                content = content.replace(old, wanted)
            target.writestr(name, content)
            assert name.endswith("data.pkl") == (wanted in content)
    assert torch.equal(import_dc(renamed).images, import_dc(path).images)


@pytest.mark.parametrize("kind", ["float16", "float32", "longdouble", "int64", "uint8", "bool_", "str_", "array"])
def test_accuracies_of_every_numpy_kind_are_let_through(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "res_DM_CIFAR10_ConvNet_2ipc.pt"
    accuracies = {"ConvNet": [getattr(np, kind)(1)]}
    torch.save({"data": [[normalized(pixels(), C10_MEAN, C10_STD), LABELS]], "accs_all_exps": accuracies}, path)
    torch.testing.assert_close(import_dc(path).images, pixels(), rtol=0, atol=1e-6)


class Payload:
    """Unpickles into a shell command that leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch '{self.mark}'",)


def test_a_file_that_would_run_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Payload(tmp_path / "proof")))
    assert (tmp_path / "proof").exists(), "the payload itself must work"
    path, mark = tmp_path / "res_DM_CIFAR10_ConvNet_2ipc.pt", tmp_path / "mark"
    torch.save({"data": [[pixels(), LABELS]], "accs_all_exps": Payload(mark)}, path)
    for load in (CondensedSet.load, import_dc, import_mtt, import_condensed):
        with pytest.raises(ValueError, match=r"refused to read .*system"):
            load(path)
    torch.save(pixels(), tmp_path / "images_best.pt")
    torch.save(Payload(mark), tmp_path / "labels_best.pt")
    with pytest.raises(ValueError, match=r"refused to read .*labels_best.pt"):
        import_mtt(tmp_path / "images_best.pt", dataset="CIFAR10", whitened=False)
    assert not mark.exists()


@pytest.mark.parametrize("content", [b"", b"no tensors here", b"PK\x03\x04 cut"])
def test_what_is_no_torch_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="refused to read"):
        CondensedSet.load(path)


@pytest.mark.parametrize("prefix", ["", "ema_"])
def test_mtt_pairs_go_by_the_constants_of_cifar10(tmp_path: Path, prefix: str) -> None:
    path = write_mtt(tmp_path, normalized(pixels(), C10_MEAN, C10_STD), LABELS, prefix)
    condensed = import_mtt(path, dataset="CIFAR100")
    torch.testing.assert_close(condensed.images, pixels(), rtol=0, atol=1e-6)
    assert condensed.num_classes == 100
    assert condensed.info.source_std == C10_STD
    assert condensed.info.provenance["labels"] == f"{prefix}labels_best.pt"
    assert MTT_CONSTANTS["cifar100"].mean != DC_CONSTANTS["cifar100"].mean


def test_labels_are_told_apart_and_kept(tmp_path: Path) -> None:
    logits = torch.randn(20, 10, generator=seeded_generator(0, "logits"))
    images = normalized(pixels(), C10_MEAN, C10_STD)
    for labels, kind in ((LABELS, "hard"), (LABELS.float(), "hard"), (LABELS.int(), "hard")):
        condensed = import_mtt(write_mtt(tmp_path, images, labels), dataset="CIFAR10")
        assert torch.equal(condensed.labels, LABELS)
        assert (condensed.info.label_kind, condensed.soft_labels) == (kind, None)
    for labels, kind in ((logits, "logits"), (logits.softmax(1), "probabilities")):
        condensed = import_mtt(write_mtt(tmp_path, images, labels), dataset="CIFAR10")
        assert condensed.info.label_kind == kind
        assert condensed.soft_labels is not None
        assert torch.equal(condensed.soft_labels, labels)
        assert torch.equal(condensed.labels, labels.argmax(1))
    for wrong in (LABELS + 0.5, torch.ones(20, 10).long()):
        with pytest.raises(ValueError, match="expected labels as whole numbers"):
            import_mtt(write_mtt(tmp_path, images, wrong), dataset="CIFAR10")


def test_whitened_images_are_refused_with_the_reason(tmp_path: Path) -> None:
    whitened = torch.randn(20, 3, 4, 4, generator=seeded_generator(0, "white")) * 0.26
    path = write_mtt(tmp_path, whitened, LABELS)
    with pytest.raises(ValueError, match=r"looks whitened.*std 0\.2.*images_zca.*whitened=False"):
        import_mtt(path, dataset="CIFAR10")
    with pytest.raises(ValueError, match="is whitened"):
        import_mtt(write_mtt(tmp_path, torch.randn(20, 3, 4, 4), LABELS), dataset="CIFAR10", whitened=True)
    flat = import_mtt(write_mtt(tmp_path, whitened, LABELS), dataset="CIFAR10", whitened=False)
    expected = whitened * torch.tensor(C10_STD).view(-1, 1, 1) + torch.tensor(C10_MEAN).view(-1, 1, 1)
    torch.testing.assert_close(flat.images, expected)


def test_the_view_with_whitening_undone_is_taken_as_it_is(tmp_path: Path) -> None:
    path = write_mtt(tmp_path, pixels(), LABELS).rename(tmp_path / "images_zca_best.pt")
    condensed = CondensedSet.load(path)
    assert torch.equal(condensed.images, pixels())
    assert condensed.info.source_mean is None
    assert condensed.num_classes == 10
    assert import_mtt(path, dataset="CIFAR100").num_classes == 100
    with pytest.raises(ValueError, match="leave out mean, std and whitened"):
        import_mtt(path, mean=C10_MEAN, std=C10_STD)


def test_the_labels_file_is_found_or_asked_for(tmp_path: Path) -> None:
    images = normalized(pixels(), C10_MEAN, C10_STD)
    torch.save(images, tmp_path / "images_400.pt")
    with pytest.raises(FileNotFoundError, match=r"no labels file labels_400.pt .*--labels"):
        import_mtt(tmp_path / "images_400.pt", dataset="CIFAR10")
    torch.save(images, tmp_path / "set.pt")
    with pytest.raises(FileNotFoundError, match="--labels"):
        import_mtt(tmp_path / "set.pt", dataset="CIFAR10")
    torch.save(LABELS, tmp_path / "classes.pt")
    condensed = import_mtt(tmp_path / "set.pt", tmp_path / "classes.pt", dataset="CIFAR10")
    assert torch.equal(condensed.labels, LABELS)
    with pytest.raises(ValueError, match="give the images file, not the labels"):
        CondensedSet.load(tmp_path / "classes.pt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.rand(2, 3, 4, 4), torch.tensor([0, 1])], "IDC, DREAM and NCFM"),
        ({"conv.weight": torch.rand(2, 2)}, "but a dict"),
        ({"data": []}, "neither a dict with a list"),
        ({"data": [[torch.rand(2, 3, 4, 4), "labels"]]}, "neither a dict with a list"),
    ],
)
def test_other_contents_are_named(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "file.pt")
    with pytest.raises(ValueError, match=message):
        CondensedSet.load(tmp_path / "file.pt")


def test_options_of_the_other_family_are_refused(tmp_path: Path) -> None:
    dc = write_dc(tmp_path / "res_DM_CIFAR10_ConvNet_2ipc.pt", normalized(pixels(), C10_MEAN, C10_STD))
    mtt = write_mtt(tmp_path, normalized(pixels(), C10_MEAN, C10_STD), LABELS)
    with pytest.raises(ValueError, match="do not apply: run=0"):
        import_condensed(mtt, dataset="CIFAR10", run=0)
    for options in ({"labels": mtt}, {"whitened": False}):
        with pytest.raises(ValueError, match="drop them"):
            import_condensed(dc, **options)  # type: ignore[arg-type]
    assert import_condensed(dc, run=0).info.method == "DM"
    assert import_condensed(mtt, dataset="CIFAR10").info.method == "MTT family"


def one_pixel_set(folder: Path) -> Path:
    """Class k lights pixel k."""
    images = torch.eye(10)[LABELS].view(20, 1, 2, 5)
    torch.save({"data": [[normalized(images, (0.1307,), (0.3081,)), LABELS]]}, folder / "res_DM_MNIST_ConvNet_2ipc.pt")
    return folder / "res_DM_MNIST_ConvNet_2ipc.pt"


def pixel_reader(shift: int = 0) -> Observer:
    linear = nn.Linear(10, 10, bias=False)
    linear.weight = nn.Parameter(torch.eye(10).roll(shift, 0))
    return Observer(nn.Sequential(nn.Flatten(), nn.Dropout(0.9), linear))


def test_convert_writes_the_set_and_reports(tmp_path: Path) -> None:
    source, output = one_pixel_set(tmp_path), tmp_path / "out" / "set.safetensors"
    report = convert(source, output, teacher=pixel_reader())
    written = CondensedSet.load(output)
    assert torch.equal(written.images, CondensedSet.load(source).images)
    assert report.startswith(written.describe())
    assert "teacher top-1: 100.0 % (20 of 20)" in report
    assert "warning" not in report
    assert "teacher" not in convert(source, output)


def test_convert_warns_when_the_teacher_guesses(tmp_path: Path) -> None:
    report = convert(one_pixel_set(tmp_path), tmp_path / "set.safetensors", teacher=pixel_reader(shift=1))
    assert "teacher top-1: 0.0 % (0 of 20)" in report
    assert "warning: this is close to chance (10.0 %)" in report


def test_the_teacher_must_know_the_classes(tmp_path: Path) -> None:
    images = torch.eye(10)[LABELS].view(20, 1, 2, 5)
    wrong = LABELS.clone()
    wrong[:5] = 9
    condensed = CondensedSet(images, wrong)
    assert teacher_accuracy(condensed, pixel_reader()) == 0.75
    with pytest.raises(ValueError, match="teacher has 10 classes, the condensed set has 2"):
        teacher_accuracy(CondensedSet(images, LABELS % 2), pixel_reader())


@pytest.mark.real_data
def test_the_released_format_with_a_real_teacher(real_data: Path, tmp_path: Path) -> None:
    from lightning_condkd.models.resnet import CifarResNet

    path = real_data / "res_DM_CIFAR10_ConvNet_10ipc.pt"
    weights = real_data / "resnet20-cifar10.safetensors"
    teacher = Observer(CifarResNet(20), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), weights=weights)
    report = convert(path, tmp_path / "dm.safetensors", teacher=teacher)
    condensed = CondensedSet.load(tmp_path / "dm.safetensors")
    assert (len(condensed), condensed.ipc, condensed.image_shape) == (100, 10, (3, 32, 32))
    assert "pixels -0.279 to 1.190" in report
    assert "teacher top-1: 66.0 % (66 of 100)" in report
