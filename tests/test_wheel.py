"""The wheel, installed without the repository: what it holds, and that its recipes run from an empty folder."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.helpers.environment import environment

pytest.importorskip("hatchling", reason="builds the wheel without the network: pip install 'lightning-condkd[test]'")
pytest.importorskip("pip", reason="installs the wheel")

RECIPES = sorted(path.relative_to(ROOT / "configs").as_posix() for path in (ROOT / "configs").rglob("*.yaml"))
FIT = ["--trainer.max_epochs=1", "--trainer.enable_progress_bar=false", "--trainer.callbacks=[]"]
FIT += [f"--model.init_args.inversion.init_args.cadence.{name}_steps=2" for name in ("synthesis", "distill")]
FIT += ["--model.init_args.inversion.init_args.cadence.warmup_rounds=0"]


def python(*args: str, cwd: Path | None = None) -> None:
    done = subprocess.run([sys.executable, *args], capture_output=True, text=True, env=environment(), cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr


def wheel_of(source: Path, folder: Path) -> Path:
    python("-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", f"--wheel-dir={folder}", str(source))
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wheel_of(ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def program(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command of the wheel in an environment of its own, after which come the packages that are here."""
    folder = tmp_path_factory.mktemp("environment")
    python("-m", "venv", "--without-pip", str(folder))
    interpreter = str(folder / "bin" / "python")
    python("-m", "pip", "--python", interpreter, "install", "--no-deps", "--no-index", "-q", str(wheel))
    (packages,) = folder.glob("lib/python*/site-packages")
    places = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    (packages / "others.pth").write_text("\n".join(places))  # their own .pth files, such as ours, are not read
    return folder / "bin" / "lightning-condkd"


def say(program: Path, *args: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in environment().items() if name != "PYTHONPATH"}
    return subprocess.run([program, *args], capture_output=True, text=True, cwd=cwd, env=kept | variables)


def test_a_wheel_holds_recipes_and_assets_and_no_tests(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert sorted(name.removeprefix("lightning_condkd/configs/") for name in names if ".yaml" in name) == RECIPES
    own = sorted(path.name for path in (ROOT / "lightning_condkd" / "assets").iterdir() if path.suffix[:3] != ".py")
    kept = {f"lightning_condkd/assets/{name}" for name in own if name != "__pycache__"}
    assert len(kept) >= 3
    assert kept | {"lightning_condkd/py.typed"} <= set(names)
    info = re.compile(r"lightning_condkd-[\d.]+\.dist-info/")
    assert [name for name in names if not name.startswith("lightning_condkd/") and not info.match(name)] == []
    assert [name for name in names if "test" in name] == []


def test_a_source_distribution_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    python("-m", "hatchling", "build", "--target=sdist", f"--directory={tmp_path}", cwd=ROOT)
    (source,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(source) as held:
        tops = {name.split("/")[1] for name in held.getnames()}
    assert {"configs", "lightning_condkd", "tests", "pyproject.toml", "LICENSE"} <= tops
    assert not tops & {"data", "lightning_logs", "dist", ".git"}
    first, second = (zipfile.ZipFile(one) for one in (wheel, wheel_of(source, tmp_path / "wheel")))
    assert {one.filename: one.CRC for one in second.infolist()} == {one.filename: one.CRC for one in first.infolist()}


def test_the_quickstart_runs_from_an_empty_folder(program: Path, tmp_path: Path) -> None:
    recipes = ["--config=package:quickstart.yaml", "--config=package:methods/fast.yaml"]
    done = say(program, "fit", *recipes, *FIT, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "lightning_logs" / "version_0"
    assert json.loads((run / "summary.json").read_text())["images_synthesized"] > 0
    assert "package:quickstart" not in (run / "config.yaml").read_text()
    (tmp_path / "moved").mkdir()
    own = [f"--config={run / 'config.yaml'}", f"--ckpt_path={next(run.glob('checkpoints/epoch=*.ckpt'))}"]
    again = say(program, "test", *own, "--trainer.logger=false", cwd=tmp_path / "moved")
    assert again.returncode == 0, again.stderr
    assert "test/student_accuracy" in again.stdout


def test_the_package_that_runs_is_the_wheels(program: Path, tmp_path: Path) -> None:
    code = "import lightning_condkd; from lightning_condkd.assets import recipes; "
    code += "print(lightning_condkd.__file__); print(recipes.recipe_path('quickstart.yaml'))"
    done = say(program.with_name("python"), "-c", code, cwd=tmp_path)
    package, recipe = map(Path, done.stdout.split())
    assert package.is_relative_to(program.parents[1])
    assert recipe == package.parent / "configs" / "quickstart.yaml"
