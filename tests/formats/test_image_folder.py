from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from lightning_condkd.data.condensed import CondensedSet
from lightning_condkd.data.image_source import from_folder
from tests.helpers.importers import import_condensed, import_folder


def write_images(root: Path, names: list[str], *, size: tuple[int, int] = (6, 4), mode: str = "RGB") -> Path:
    """Two flat JPEG images for each class: class k (as written) has the gray level 20 * k, the second one more."""
    for k, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for i in range(2):
            level = 20 * k + i
            image = Image.new(mode, size, (level,) * 3 if mode == "RGB" else level)
            image.save(root / name / f"class{k:03d}_id{i:03d}.jpg", quality=75)
    return root


def levels(condensed: CondensedSet) -> list[int]:
    """Gray levels of the images as whole numbers of tens, in the order of the set."""
    means: Tensor = condensed.images.double().mean((1, 2, 3))
    return [round(value / 10) for value in means.tolist()]


@pytest.mark.parametrize(
    "names",
    [[f"new{k:03d}" for k in range(12)], [f"{k:05d}" for k in range(12)]],
    ids=["SRe2L", "RDED"],
)
def test_numbered_folders_are_counted_in_sorted_order(tmp_path: Path, names: list[str]) -> None:
    condensed = CondensedSet.load(write_images(tmp_path / "syn", names))
    assert (condensed.images.dtype, condensed.image_shape) == (torch.uint8, (3, 4, 6))
    assert torch.equal(condensed.labels, torch.arange(12).repeat_interleave(2))
    assert levels(condensed) == [2 * k for k in range(12) for _ in range(2)]
    assert condensed.info.class_names is None
    assert condensed.info.provenance["format"] == "folder of images"


def test_class_names_put_named_folders_into_the_datasets_order(tmp_path: Path) -> None:
    root = write_images(tmp_path, ["dog", "cat", "T-shirt-top"])
    by_sorting = import_folder(root)
    assert by_sorting.info.class_names == ("T-shirt-top", "cat", "dog")
    assert levels(by_sorting) == [4, 4, 2, 2, 0, 0]
    condensed = import_condensed(root, class_names=("cat", "bird", "dog", "T-shirt/top"))
    by_label = {int(label): level for label, level in zip(condensed.labels, levels(condensed), strict=True)}
    assert by_label == {0: 2, 2: 0, 3: 4}
    assert condensed.info.class_names == ("cat", "bird", "dog", "T-shirt/top")
    assert condensed.missing_classes == (1,)


def test_wordnet_names_are_names_not_numbers(tmp_path: Path) -> None:
    root = write_images(tmp_path, ["n01440764", "n02102040", "n03888257"])
    assert import_folder(root).info.class_names == ("n01440764", "n02102040", "n03888257")


def test_an_order_of_classes_that_is_not_clear_is_refused(tmp_path: Path) -> None:
    unpadded = write_images(tmp_path / "unpadded", [str(k) for k in range(11)])
    with pytest.raises(ValueError, match=r"in sorted order they read 0, 1, 10, 2 and 7 more: .*--class_names"):
        import_folder(unpadded)
    ordered = import_folder(unpadded, class_names=[str(k) for k in range(11)])
    by_label = {int(label): level for label, level in zip(ordered.labels, levels(ordered), strict=True)}
    assert by_label == {k: 2 * k for k in range(11)}
    with pytest.raises(ValueError, match="classes are missing"):
        import_folder(write_images(tmp_path / "gap", ["new000", "new002"]))
    named = write_images(tmp_path / "named", ["cat", "dog"])
    with pytest.raises(ValueError, match=r"folders cat, dog are not among class_names"):
        import_folder(named, class_names=("Katze", "Hund"))
    with pytest.raises(ValueError, match="two classes have the same name"):
        import_folder(named, class_names=("cat", "dog", "dog"))
    with pytest.raises(ValueError, match=r"CIFAR10 has 10 classes, .* 2: pass class_names"):
        import_folder(named, dataset="CIFAR10")


FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


@pytest.mark.parametrize("prefixes", [[""] * 10, [f"{k}_" for k in (1, 0, *range(2, 10))]], ids=["named", "numbered"])
def test_a_named_dataset_puts_folders_with_its_names_into_its_order(tmp_path: Path, prefixes: list[str]) -> None:
    folders = [f"{prefix}{name.replace('/', '-').lower()}" for prefix, name in zip(prefixes, FASHION, strict=True)]
    condensed = import_condensed(write_images(tmp_path, folders), dataset="FashionMNIST")
    assert condensed.info.class_names == FASHION
    by_label = {int(label): level for label, level in zip(condensed.labels, levels(condensed), strict=True)}
    assert by_label == {k: 2 * k for k in range(10)}


def test_folders_with_other_names_than_those_of_the_dataset_are_refused(tmp_path: Path) -> None:
    names = ["plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    root = write_images(tmp_path / "tutorial", names)
    with pytest.raises(ValueError, match=r"folders car, plane are not among the classes of CIFAR10 .*--class_names"):
        import_folder(root, dataset="CIFAR10")
    ordered = import_folder(root, dataset="CIFAR10", class_names=names)
    assert sorted(zip(ordered.labels.tolist(), levels(ordered), strict=True))[::2] == [(k, 2 * k) for k in range(10)]
    assert import_folder(root).info.class_names == tuple(sorted(names))
    numbered = write_images(tmp_path / "numbered", [f"{k:05d}" for k in range(10)])
    assert import_folder(numbered, dataset="CIFAR10").info.class_names is None


def test_upper_case_matters_only_where_it_tells_classes_apart(tmp_path: Path) -> None:
    root = write_images(tmp_path / "one", ["Dog", "cat"])
    assert levels(import_folder(root, class_names=("cat", "dog"))) == [0, 0, 2, 2]
    assert import_folder(root, class_names=("cat", "dog")).labels.tolist() == [1, 1, 0, 0]
    both = write_images(tmp_path / "both", ["Crane", "crane"])
    assert import_folder(both, class_names=("crane", "Crane")).labels.tolist() == [1, 1, 0, 0]


def test_a_root_with_the_parts_of_a_dataset_is_refused(tmp_path: Path) -> None:
    for part in ("train", "test"):
        write_images(tmp_path / part, ["cat", "dog"])
    for read in (import_folder, from_folder):
        with pytest.raises(
            ValueError, match=r"test is no class: .* folders cat, dog .*whose subfolders are the classes"
        ):
            read(tmp_path)
        assert len(set(read(tmp_path / "train").labels.tolist())) == 2


def test_images_may_lie_one_folder_deeper_as_in_tiny_imagenet(tmp_path: Path) -> None:
    write_images(tmp_path, ["n01443537/images", "n01629819/images"])
    for read in (import_folder, from_folder):
        assert read(tmp_path).labels.tolist() == [0, 0, 1, 1]
    assert import_folder(tmp_path).info.class_names == ("n01443537", "n01629819")


def test_hidden_folders_and_files_and_those_of_macos_are_no_classes_and_no_images(tmp_path: Path) -> None:
    root = write_images(tmp_path, ["cat", "dog", ".thumbnails", "__MACOSX", "cat/.cache"])
    (root / "dog" / "._class001_id000.jpg").write_bytes(b"resource fork")
    assert import_folder(root).labels.tolist() == [0, 0, 1, 1]
    assert from_folder(root).class_names == ("cat", "dog")
    assert len(from_folder(root)) == 4


def test_a_folder_without_images_is_a_class_only_if_class_names_say_so(tmp_path: Path) -> None:
    root = write_images(tmp_path, ["cat", "dog"])
    (root / "bird").mkdir()
    (root / "logs").mkdir()
    with pytest.raises(ValueError, match=r"folders bird, logs in .* hold no images: .*--class_names"):
        import_folder(root)
    condensed = import_folder(root, class_names=("bird", "cat", "dog"))
    assert (condensed.labels.tolist(), condensed.missing_classes) == ([1, 1, 2, 2], (0,))


@pytest.mark.parametrize(("mode", "name"), [("I;16", "deep.png"), ("I", "deep.tiff"), ("F", "deep.tiff")])
def test_images_of_more_than_8_bits_are_refused(tmp_path: Path, mode: str, name: str) -> None:
    root = write_images(tmp_path, ["cat", "dog"])
    Image.new(mode, (6, 4), 1000).save(root / "cat" / name)
    for read in (import_folder, from_folder):
        with pytest.raises(ValueError, match=rf"expected 8 bits .* mode [IF].*{name}.*mogrify -depth 8"):
            read(root)


def test_images_of_several_sizes_and_broken_images_are_refused_with_a_cure(tmp_path: Path) -> None:
    root = write_images(tmp_path, ["cat", "dog"])
    Image.new("RGB", (9, 7)).save(root / "dog" / "odd.png")
    with pytest.raises(ValueError, match=r"images of one size, got 4x6 and 7x9 \(dog/odd.png\): resize them"):
        import_folder(root)
    (root / "dog" / "odd.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"odd.png is no image or is cut off"):
        import_folder(root)


def test_gray_images_stay_gray_unless_colour_is_among_them(tmp_path: Path) -> None:
    gray = write_images(tmp_path / "gray", ["0", "1"], mode="L")
    assert import_folder(gray).image_shape == (1, 4, 6)
    Image.new("RGB", (6, 4), (250, 0, 0)).save(gray / "1" / "red.png")
    mixed = import_folder(gray)
    assert mixed.image_shape == (3, 4, 6)
    assert mixed.images[-1, :, 0, 0].tolist() == [250, 0, 0]


def test_what_is_no_folder_of_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    with pytest.raises(FileNotFoundError, match="one for each class; found none"):
        CondensedSet.load(tmp_path)
    with pytest.raises(ValueError, match="is a folder of images, to which run=0 means nothing"):
        import_condensed(write_images(tmp_path / "set", ["a", "b"]), run=0)


def test_the_hash_of_a_folder_covers_names_and_contents(tmp_path: Path) -> None:
    first, second = (write_images(tmp_path / name / "syn", ["a", "b"]) for name in "xy")
    hashes = [import_folder(root).info.provenance["sha256"] for root in (first, second)]
    assert hashes[0] == hashes[1]
    (second / "b" / "class001_id000.jpg").rename(second / "b" / "other.jpg")
    assert import_folder(second).info.provenance["sha256"] != hashes[0]
