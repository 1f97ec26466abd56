"""Names that other projects rely on, and what it takes to import them."""

from __future__ import annotations

import subprocess
import sys

import pytest

import lightning_condkd
from lightning_condkd import data
from tests.conftest import ROOT

PARTS = ("alignment", "augment", "condensation", "distillation", "evaluation", "formats", "functional", "inversion")
README = {
    *("CondKD", "CondensedDataModule", "CondensedSet", "Fast", "FeatureAlignment", "KLDistillation", "Observer"),
    *("Cadence", "CropFlip", "DigitsNet", "Draw", "MemoryBank", "TaskSpec", "TransferSet", "seeded_generator"),
}


def python(code: str) -> str:
    """Run code in a process of its own, and return what it printed."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("package", [lightning_condkd, data], ids=lambda package: package.__name__)
def test_all_public_names_are_there_and_listed(package: object) -> None:
    assert package.__all__ == list(dict.fromkeys(package.__all__))
    assert [name for name in package.__all__ if not hasattr(package, name)] == []
    assert set(package.__all__) <= set(dir(package))


def test_what_the_readme_uses_is_at_the_top() -> None:
    assert set(lightning_condkd.__all__) >= README


def test_a_name_is_the_same_class_wherever_it_is_imported_from() -> None:
    from lightning_condkd.inversion import Fast
    from lightning_condkd.modules.condkd import CondKD

    assert lightning_condkd.Fast is Fast
    assert lightning_condkd.CondKD is CondKD


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(AttributeError, match="module 'lightning_condkd' has no attribute 'Observr'"):
        lightning_condkd.Observr  # noqa: B018
    with pytest.raises(ImportError, match="Dataset"):
        from lightning_condkd.data import Dataset  # type: ignore[attr-defined]  # noqa: F401


def test_the_parts_import_neither_lightning_nor_draw_random_numbers() -> None:
    imports = "\n".join(f"import lightning_condkd.{name}" for name in (*PARTS, "models", "functional.divergence"))
    code = f"""
import sys, torch
state = torch.get_rng_state()
{imports}
from lightning_condkd import CondensedSet, Fast, FeatureAlignment, KLDistillation, Observer, TransferSet
from lightning_condkd.data import CondensedSet
print([name for name in ("lightning", "pytorch_lightning", "diffusers") if name in sys.modules], end=" ")
print(state.equal(torch.get_rng_state()))
"""
    assert python(code) == "[] True\n"


def test_the_package_alone_imports_nothing_heavy_and_the_command_line_all_of_it() -> None:
    code = """
import sys, lightning_condkd
print("torch" in sys.modules)
import lightning_condkd.cli
print(*(name for name in sys.modules if name.startswith("lightning_condkd")))
"""
    heavy, modules = python(code).splitlines()
    package = ROOT / "lightning_condkd"
    files = (".".join(path.relative_to(ROOT).with_suffix("").parts) for path in package.rglob("*.py"))
    assert heavy == "False"
    assert {file.removesuffix(".__init__") for file in files} - set(modules.split()) == {
        "lightning_condkd.__main__",
        "lightning_condkd.entry",
    }
