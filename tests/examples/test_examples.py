"""Every example runs in small, and the page of the examples lists it."""

from __future__ import annotations

import importlib.util
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from lightning_condkd.cli import main
from lightning_condkd.models import DigitsNet
from tests.conftest import ROOT
from tests.helpers.environment import environment

EXAMPLES = ROOT / "examples"
SCRIPTS = sorted(path.stem for path in EXAMPLES.glob("*.py"))


def run(folder: Path, *command: str) -> str:
    """Run a command in a folder, and return what it printed."""
    variables = environment(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE", PYTHONPATH=str(ROOT))
    line = [sys.executable, *command]
    done = subprocess.run(line, cwd=folder, env=variables, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def script(name: str) -> str:
    return str(EXAMPLES / f"{name}.py")


Here = Callable[..., str]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Here:
    """Return a function that runs an example in this process, since imports take longer, and returns what it prints."""

    def run_here(name: str, *arguments: str) -> str:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [script(name), *arguments])
        runpy.run_path(script(name), run_name="__main__")
        return capsys.readouterr().out

    return run_here


def test_the_parts_work_inside_another_module(here: Here) -> None:
    said = here("lightning_project", "--epochs=5", "--steps=25")
    rounds = re.findall(r"epoch (\d): .*'teacher': '0.988'.*, (\d+) synthetic", said)
    assert rounds == [(str(epoch), str(128 * epoch)) for epoch in range(1, 6)]
    accuracies = [float(one) for one in re.findall(r"'student': '([\d.]+)'", said)]
    assert max(accuracies) > 0.25  # chance is 0.1


def test_the_parts_work_without_lightning(tmp_path: Path) -> None:
    code = "import sys, runpy; sys.argv[1:] = ['--rounds=5', '--steps=25']; "
    code += f"runpy.run_path({script('bare_loop')!r}, run_name='__main__'); print('lightning' in sys.modules)"
    *rounds, written, lightning = run(tmp_path, "-c", code).splitlines()
    assert len(rounds) == 5
    assert float(rounds[-1].split("accuracy ")[1].split(",")[0]) > 0.25
    assert lightning == "False"
    assert written.endswith("student.pt")
    DigitsNet(width=16).load_state_dict(torch.load(tmp_path / "student.pt", weights_only=True))


def test_an_own_method_works_from_python(here: Here) -> None:
    said = here("own_method", "--rounds=3", "--steps=5")
    assert re.search(r"^teacher +98.80 %$", said, re.MULTILINE)
    assert re.search(r"^images synthesised +192$", said, re.MULTILINE)


def test_an_own_method_works_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command of the docstring, in small."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    text = Path(script("own_method")).read_text()
    command = text.split("lightning-condkd ", 1)[1].split("\n\n", 1)[0].replace("\\\n", " ").split()
    small = ["--trainer.max_epochs=2", "--trainer.callbacks=[]", f"--trainer.default_root_dir={tmp_path}"]
    cadence = "--model.init_args.inversion.init_args.cadence"
    monkeypatch.chdir(ROOT)
    main([*command, *small, f"{cadence}.synthesis_steps=2", f"{cadence}.distill_steps=2"])
    config = next(tmp_path.rglob("config.yaml")).read_text()
    assert "own_method.PixelAscent" in config
    assert "own_method.ScaledDiscriminator" in config


@pytest.mark.ddp
def test_two_ranks_end_with_the_same_student(tmp_path: Path) -> None:
    torchrun = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    said = run(tmp_path, *torchrun, script("two_ranks"), "--rounds=2", "--steps=4")
    assert "256 images in the bank of each of 2 processes" in said
    assert "largest difference between their students: 0.0\n" in said


def test_one_process_says_how_to_start_two(here: Here) -> None:
    with pytest.raises(SystemExit, match="start it by torchrun --nproc_per_node 2"):
        here("two_ranks")


def shapes(root: Path) -> Path:
    """Draw a folder of two classes of 70 pixels, uneven."""
    for part in ("train", "test"):
        for name, count, shade in (("left-handed", 9, 40), ("other ones", 6, 200)):
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (70, 76), (shade, 5 * number, shade)).save(folder / f"{number}.png")
    return root


@pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="needs timm")
@pytest.mark.parametrize("given", [True, False], ids=["own folder", "shapes"])
def test_a_teacher_of_timm_is_trained_and_distilled(given: bool, here: Here, tmp_path: Path) -> None:
    folder = [f"--image-folder={shapes(tmp_path / 'images')}"] if given else []
    said = here("timm_teacher", *folder, "--batch-size=6", "--epochs=1", "--rounds=2", "--steps=2")
    assert len(re.findall(r"accuracy [01]\.\d{3}$", said, re.MULTILINE)) == 2
    weights = torch.load(tmp_path / "student.pt", weights_only=True)
    assert weights["fc.weight"].shape[0] == (2 if given else 3)


@pytest.mark.parametrize("name", SCRIPTS)
def test_an_example_is_listed_says_how_to_run_it_and_is_short(name: str) -> None:
    text = Path(script(name)).read_text()
    assert f"({name}.py)" in (EXAMPLES / "README.md").read_text()
    assert f"examples/{name}.py" in text.split('"""')[1]
    assert len(text.splitlines()) <= 110
