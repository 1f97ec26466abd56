import math
import os
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from benchmarks.gpu import packed, packed_data, prepare, sheets
from lightning_condkd.data.image_source import ImageSource, from_folder
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Smooth training images and noisy test images: 10 classes of 3."""
    folder = tmp_path_factory.mktemp("png")
    generator = torch.Generator().manual_seed(0)
    for part, side in (("train", 3), ("test", 32)):
        for label in range(10):
            (folder / part / f"class {label}").mkdir(parents=True)
            for number in range(3):
                image = to_pil_image(torch.rand(3, side, side, generator=generator))
                large = image.resize((32, 32), Image.Resampling.BICUBIC)
                large.save(folder / part / f"class {label}" / f"{number}.png")
    return folder


@pytest.fixture
def pack(data: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "pack"
    folder.mkdir()
    prepare.pack_images(data, folder)
    prepare.write_facts(folder, {})
    return folder


def psnr(images: Tensor, others: Tensor) -> float:
    return 10 * math.log10(255**2 / (images.double() - others.double()).square().mean().item())


def loaded(pack: Path, folder: Path) -> tuple[ImageSource, ImageSource]:
    packed.unpack(pack, folder)
    module = packed_data.PackedCifar10(folder)
    module.check_parts()
    return module.train_source, module.val_source


def test_round_trip(data: Path, pack: Path, tmp_path: Path) -> None:
    train, test = loaded(pack, tmp_path / "unpacked")
    originals = {part: from_folder(data / part) for part in ("train", "test")}
    torch.testing.assert_close(test.images, originals["test"].images, rtol=0, atol=0)
    for source, part in ((train, "train"), (test, "test")):
        torch.testing.assert_close(source.labels, originals[part].labels, rtol=0, atol=0)
        assert source.class_names == originals[part].class_names
    assert psnr(train.images, originals["train"].images) > 25


def test_uneven_classes_over_several_sheets(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sheets, "PER_SHEET", 7)
    few, pack = tmp_path / "few", tmp_path / "pack"
    for part in ("train", "test"):
        (few / part).mkdir(parents=True)
        for label, kept in enumerate((3, 0, 2, 3)):
            folder = few / part / f"class {label}"
            folder.mkdir()
            for number in range(kept):
                (folder / f"{number}.png").symlink_to(data / part / f"class {label}" / f"{number}.png")
    pack.mkdir()
    prepare.pack_images(few, pack)
    prepare.write_facts(pack, {})
    assert len(list(pack.glob("test-*.webp"))) == 2
    _, test = loaded(pack, tmp_path / "unpacked")
    original = from_folder(few / "test")
    assert test.labels.tolist() == original.labels.tolist() == [0, 0, 0, 2, 2, 3, 3, 3]
    torch.testing.assert_close(test.images, original.images, rtol=0, atol=0)


def test_a_tampered_sheet_is_refused(pack: Path, tmp_path: Path) -> None:
    sheet = pack / "train-00.jpg"
    sheet.write_bytes(sheet.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match=r"train-00\.jpg: expected sha256 .*prepare\.py"):
        packed.unpack(pack, tmp_path / "unpacked")


@pytest.mark.parametrize("name", ["test-00.webp", "labels.json", "facts.json"])
def test_a_missing_file_is_refused(pack: Path, tmp_path: Path, name: str) -> None:
    (pack / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"{name}.*prepare\.py"):
        packed.unpack(pack, tmp_path / "unpacked")


def test_data_that_is_not_unpacked_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"expected train\.safetensors .*packed\.unpack"):
        packed_data.PackedCifar10(tmp_path).load(train=True)


def test_too_large_packs_and_foreign_folders_are_refused(tmp_path: Path) -> None:
    sizes = {"train-00.jpg": 40 * 2**20, "train-01.jpg": 10 * 2**20, "wheels/a.whl": 4 * 2**20}
    facts = {"files": {name: {"bytes": size} for name, size in sizes.items()}}
    assert prepare.check_size(facts) == {"train": 50 * 2**20, "wheels": 4 * 2**20}
    facts["files"]["labels.json"] = {"bytes": 2**20}
    with pytest.raises(ValueError, match="raise STEP"):
        prepare.check_size(facts)
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(FileExistsError, match="choose another"):
        prepare.check_target(tmp_path)


def test_wheels_serve_children_and_leave_out_what_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("PYTHONPATH", "before")
    (tmp_path / "wheels").mkdir()
    for name in ("torch-1.0-cp31-cp31-any", "absent_package-1.0-py3-none-any"):
        with zipfile.ZipFile(tmp_path / "wheels" / f"{name}.whl", "w") as archive:
            archive.writestr(f"{name.split('-')[0]}.py", "answer = 42\n")
    site = tmp_path / "site"
    packed.add_wheels(tmp_path, site)
    packed.add_wheels(tmp_path, site)
    assert [path.name for path in site.iterdir()] == ["absent_package.py"]
    assert os.environ["PYTHONPATH"].split(os.pathsep) == [str(site), "before"]
    assert sys.path[0] == str(site)
    assert sys.path.count(str(site)) == 1
    found = find_spec("absent_package")
    assert found is not None
    assert found.origin == str(site / "absent_package.py")


def test_a_wheel_of_another_python_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"wheels.*prepare\.py"):
        packed.add_wheels(tmp_path, tmp_path / "site")
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / "absent_package-1.0-cp31-cp31-linux_x86_64.whl").touch()
    with pytest.raises(ValueError, match=r"absent_package.*--python="):
        packed.add_wheels(tmp_path, tmp_path / "site")


def test_the_path_can_be_set_before_torch_comes() -> None:
    code = "import sys, benchmarks.gpu.packed; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
