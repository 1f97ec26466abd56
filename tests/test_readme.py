"""The README's Python runs as written, and what the pages name is there."""

from __future__ import annotations

import pkgutil
import re
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from lightning_condkd import CondensedDataModule, CondensedSet, CondKD, FeatureAlignment, Observer
from lightning_condkd.assets import available_assets
from lightning_condkd.data import DigitsDataModule
from lightning_condkd.inversion import Fast, GeneratorSettings
from lightning_condkd.models import CifarResNet, DigitsNet
from lightning_condkd.rounds import Cadence
from tests.conftest import ROOT
from tests.helpers.pages import PAGES, blocks, code

FIRST, PLAIN = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)

FOLDERS = ("benchmarks", "configs", "docs", "examples", "lightning_condkd", "tests")
FILES = [path for folder in (ROOT / name for name in FOLDERS) for path in (folder, *folder.rglob("*")) if path.exists()]
NAMES = {f"/{path.relative_to(ROOT).as_posix()}" for path in [*FILES, *ROOT.glob("*.*")]}
SOURCES = "\n".join(path.read_text() for path in (ROOT / "lightning_condkd").rglob("*.py"))
CLASSES = set(re.findall(r"^class (\w+)", SOURCES, flags=re.MULTILINE))
PATH = re.compile(
    rf"(?<![\w./-])(?:[\w./-]+\.(?:py|yaml|md)|(?:[\w-]+/)+|(?:{'|'.join(FOLDERS)})/[\w./-]*\w)(?![\w/*<-])"
)
ELSEWHERE = re.compile(  # made by a user or a run
    "data/|benchmarks/gpu/pack|docs/_build/|RUN/|runs/|lightning_logs/|animals/|(bank|checkpoints|replay)/$|(config|hparams).yaml$"
)


def missing(text: str) -> list[str]:
    """Return the paths, dotted names and classes of this package in a piece of code that are not there."""
    paths = [path for path in PATH.findall(text) if not ELSEWHERE.match(path)]
    packaged = [name for name in re.findall(r"package:([\w.-]+)", text) if name not in ("NAME", "quickstart.yaml")]
    lost = [path for path in paths if not any(name.endswith(f"/{path.strip('./')}") for name in NAMES)]
    lost += [f"package:{name}" for name in packaged if name not in available_assets()]
    dotted = [name for name in re.findall(r"lightning_condkd(?:\.\w+)+", text) if not resolves(name)]
    classes = re.findall(r"^[A-Z]+[a-z]\w*[A-Z]\w*$", text)
    return [*lost, *dotted, *(name for name in classes if name not in CLASSES)]


def resolves(name: str) -> bool:
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_names_is_there(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []
    shown = {block.name for block in blocks(page, "yaml", "python", "text")}
    assert [name for text in code(page) for name in missing(text) if name not in shown] == []


@pytest.mark.parametrize(
    "text",
    [
        "python benchmarks/rows.py digits",
        "sets.py digits",
        "--config configs/digits/none.yaml",
        "quality/none/",
        "configs/none",
        "nowhere/",
        "package:none.safetensors",
        "from lightning_condkd.inversion.dm import DM",
        "lightning_condkd.models.NoNetwork",
        "NoSuchClass",
    ],
)
def test_what_is_not_there_is_found(text: str) -> None:
    assert missing(text)


def write_condensed_file(path: Path) -> None:
    """Write a file as the DC family does: normalised floats, labels, and accuracies as NumPy scalars."""
    images, labels = torch.randn(100, 3, 32, 32), torch.arange(100)
    torch.save({"data": [[images, labels]], "accs_all_exps": {"ConvNet": [np.float64(0.3)]}}, path)


def test_first_screen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_condensed_file(tmp_path / "res_DM_CIFAR100_ConvNet_10ipc.pt")
    student = CifarResNet(8, num_classes=100, width=4)
    before = student.linear.weight.clone()

    def quick_fast() -> Fast:
        return Fast(
            cadence=Cadence(synthesis_steps=1, distill_steps=2), batch_size=8, generator=GeneratorSettings(width=4)
        )

    def quick_trainer(**given: Any) -> L.Trainer:
        assert given.pop("max_epochs") == 220
        return L.Trainer(max_epochs=1, accelerator="cpu", devices=1, enable_progress_bar=False, logger=False, **given)

    names = {
        "torch": torch,
        "my_resnet34": CifarResNet(8, num_classes=100, width=4),
        "my_mobilenet": student,
        "MEAN": (0.5071, 0.4867, 0.4408),
        "STD": (0.2675, 0.2565, 0.2761),
        "my_val_loader": DataLoader(TensorDataset(torch.rand(4, 3, 32, 32), torch.arange(4)), batch_size=4),
        "images": torch.rand(2, 3, 32, 32),
        "Observer": Observer,
        "CondensedDataModule": CondensedDataModule,
        "CondensedSet": CondensedSet,
        "CondKD": CondKD,
        "FeatureAlignment": FeatureAlignment,
        "Fast": quick_fast,
        "Trainer": quick_trainer,
    }
    exec(FIRST, names)
    torch.distributed.destroy_process_group()
    saved = torch.load(tmp_path / "student.pt", weights_only=True)
    assert not torch.equal(saved["linear.weight"], before)


def test_parts_alone_expand_and_distil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sum(bool(line.strip()) for line in PLAIN.splitlines()) <= 30
    assert "lightning as" not in PLAIN
    assert "Trainer" not in PLAIN
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    exec(PLAIN, {})
    student = Observer(DigitsNet(width=16), mean=[0.3059], std=[0.3754], weights="student.pt").eval()
    held_out = DigitsDataModule().val_source
    accuracy = (student(held_out.images / 255).logits.argmax(1) == held_out.labels).float().mean()
    # The same student on the ten condensed images alone stays near 27 %.
    assert accuracy > 0.6
