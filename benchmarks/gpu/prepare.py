"""Make the pack: all that a machine without network needs beside the working tree, in one git-ignored folder.

CIFAR-10 as sheets (test images exact, training images in a compact form whose loss is measured and written down), the
weights of the ResNet-20, a condensed set, and wheels of the packages that the machine lacks. ``packed.py`` is the other
side. The pack is made in a temporary folder and replaces the old one at the end.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.gpu import loss, packed, sheets
from lightning_condkd.data.image_source import ImageSource, from_folder

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 55 * 2**20  # the working tree travels beside the pack, and the two together have 64 MiB
PACKAGES = ("kornia", "kornia_rs", "jsonargparse", "docstring-parser", "typeshed-client")
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


def make(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Write the whole pack into an empty folder; return its facts.

    Args:
        options: of the command line.
        folder: an existing folder.
    """
    sources = pack_images(options.data, folder)
    for path in (options.weights, options.condensed):
        shutil.copyfile(path, folder / path.name)
    fetch_wheels(folder / packed.WHEELS, options.python)
    facts = {"commit": commit(), "code": packed.code(ROOT), "python": options.python}
    facts["loss"] = measure(folder, sources, options.weights)
    return write_facts(folder, facts)


def pack_images(data: Path, folder: Path) -> dict[str, ImageSource]:
    """Write the sheets, the names of the classes and the number of images of each; return the images.

    Args:
        data: folder with ``train/<class>/*.png`` and ``test/<class>/*.png``.
        folder: where all goes.

    Raises:
        ValueError: if the parts have different classes.
    """
    sources = {part: from_folder(data / part) for part in sheets.FORMS}
    names = {source.class_names for source in sources.values()}
    if len(names) != 1:
        raise ValueError(
            f"{data}: expected the same class folders in train and test, got {sorted(names)}: name them alike"
        )
    content: dict[str, Any] = {"class_names": names.pop()}
    for part, source in sources.items():
        sheets.write(source.images.numpy(), part, folder)
        content[part] = [len(rows) for rows in source.class_rows]  # images of a folder are sorted by class
    (folder / packed.LABELS).write_text(json.dumps(content))
    return sources


def fetch_wheels(folder: Path, python: str) -> None:
    """Download wheels of the versions installed here, without what they depend on.

    Args:
        folder: where they go.
        python: version of the Python that will use them, such as ``3.12``.

    Raises:
        RuntimeError: if pip fails, with what it said.
    """
    platforms = [f"--platform={name}" for name in PLATFORMS]
    wanted = [f"{name}=={version(name)}" for name in PACKAGES]
    flags = ["--quiet", "--no-deps", "--only-binary=:all:", f"--python-version={python}", f"--dest={folder}"]
    command = [sys.executable, "-m", "pip", "download", *flags, *platforms, *wanted]
    if (said := subprocess.run(command, capture_output=True, text=True, check=False)).returncode:
        raise RuntimeError(f"expected wheels of {', '.join(wanted)}; pip said: {said.stderr[-2000:]}")


def measure(folder: Path, sources: dict[str, ImageSource], weights: Path) -> dict[str, Any]:
    """Read the images back and return what the compact form of the training images loses.

    Args:
        folder: that of the sheets.
        sources: images before, by part.
        weights: file of the ResNet-20.

    Raises:
        RuntimeError: if test images came back changed.
    """
    train, test = sources["train"], sources["test"]
    back = {part: torch.from_numpy(sheets.read(folder, part, len(source))) for part, source in sources.items()}
    if not torch.equal(back["test"], test.images):
        raise RuntimeError("test images: expected the same bytes from the sheets, got others; use another Pillow")
    size = sum(path.stat().st_size for path in folder.glob("train-*"))
    return {
        "bytes_per_image": round(size / len(train), 1),
        **loss.distance(train.images, back["train"]),
        "resnet20_top1": loss.accuracies(train, back["train"], test, weights),
    }


def write_facts(folder: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """Write ``facts.json``, the last file of a pack, and return it.

    Args:
        folder: of the pack.
        facts: to which size and checksum of each file are added.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": packed.sha256(path)}
        for path in paths
    }
    whole = {**facts, "files": files}
    (folder / packed.FACTS).write_text(json.dumps(whole, indent=1) + "\n")
    return whole


def commit() -> str:
    """Return the commit of the working tree, with ``-dirty`` if tracked files differ from it."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    return git("rev-parse", "--short", "HEAD") + ("-dirty" if git("status", "--porcelain", "-uno") else "")


def check_size(facts: dict[str, Any]) -> dict[str, int]:
    """Return the bytes of a pack by part.

    Args:
        facts: of the pack.

    Raises:
        ValueError: if the pack is too large to travel.
    """
    parts: dict[str, int] = {}
    for name, file in facts["files"].items():
        part = next((part for part in (f"{packed.WHEELS}/", "train-", "test-") if name.startswith(part)), name)
        parts[part.rstrip("/-")] = parts.get(part.rstrip("/-"), 0) + file["bytes"]
    if (total := sum(parts.values())) >= LIMIT:
        raise ValueError(f"expected a pack below {LIMIT:,} bytes, got {total:,} from {parts}: raise STEP in sheets.py")
    return parts


def check_target(output: Path) -> None:
    """Raise if what the pack would replace is something else.

    Args:
        output: where the pack goes.

    Raises:
        FileExistsError: if a file is there, or a folder with other content.
    """
    if output.exists() and not (output / packed.FACTS).is_file() and (output.is_file() or any(output.iterdir())):
        raise FileExistsError(f"output: expected an old pack or nothing at {output}, found other files: choose another")


def replace(new: Path, output: Path) -> None:
    """Put a copy of a new pack in the place of the old one; the temporary folder may be on another disk."""
    if output.exists():
        shutil.rmtree(output)
    shutil.copytree(new, output)


def main() -> None:
    """Make the pack and print its size by part, and its loss."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT / "data/cifar10", help="holds train/ and test/")
    parser.add_argument("--weights", type=Path, default=ROOT / "data/resnet20-cifar10.safetensors")
    parser.add_argument("--condensed", type=Path, default=ROOT / "data/res_DM_CIFAR10_ConvNet_10ipc.pt")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/gpu/pack")
    parser.add_argument("--python", default="3.12", help="version of Python on the machine")
    options = parser.parse_args()
    check_target(options.output)
    with tempfile.TemporaryDirectory() as folder:
        facts = make(options, Path(folder))
        parts = check_size(facts)
        replace(Path(folder), options.output)
    for part, size in [*parts.items(), ("all", sum(parts.values()))]:
        print(f"{part:36} {size / 2**20:6.2f} MiB")
    print(json.dumps(facts["loss"], indent=1))


if __name__ == "__main__":
    main()
