from pathlib import Path

import pytest

from lightning_condkd import assets


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "__init__.py").touch()
    (tmp_path / "digits.safetensors").touch()
    monkeypatch.setattr(assets, "_FOLDER", tmp_path)
    return tmp_path


def test_a_packaged_file_is_found_by_its_name(folder: Path) -> None:
    assert assets.resolve_asset("package:digits.safetensors") == folder / "digits.safetensors"


def test_other_paths_stay_as_they_are() -> None:
    assert assets.resolve_asset("runs/a.pt") == Path("runs/a.pt")
    assert assets.resolve_asset(Path("runs/a.pt")) == Path("runs/a.pt")


@pytest.mark.parametrize("name", ["other.safetensors", "__init__.py", "../digits.safetensors", ""])
def test_an_unknown_name_lists_what_there_is(folder: Path, name: str) -> None:
    with pytest.raises(FileNotFoundError, match=r"there are: digits\.safetensors"):
        assets.resolve_asset(f"package:{name}")


def test_every_shipped_asset_resolves_to_a_file() -> None:
    assert all(assets.resolve_asset(f"package:{name}").is_file() for name in assets.available_assets())
