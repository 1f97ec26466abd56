"""Every recipe and callback of ours on two ranks through the command line, and what becomes of a run that dies."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.distributed.command_jobs import command, refused
from tests.distributed.conftest import ROOT, Launch
from tests.helpers import diffusion
from tests.helpers.environment import environment

pytestmark = pytest.mark.ddp

WARNED = re.compile(r"Warning|\.py:\d+: ")  # on any rank
TWO = ["--trainer.devices=2", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
DDP = "--trainer.strategy=ddp_find_unused_parameters_true"
CADENCE = "--model.init_args.inversion.init_args.cadence"
QUICK = [
    "--config=configs/quickstart.yaml",
    "--trainer.max_epochs=3",
    f"{CADENCE}.synthesis_steps=2",
    f"{CADENCE}.distill_steps=3",
    "--trainer.log_every_n_steps=1",
    "--model.init_args.inversion.init_args.batch_size=16",
]
LIVE = [
    "--model.init_args.inversion=DAFL",
    f"{CADENCE}.repeats=8",  # 80 are the method's own
    "--model.init_args.inversion.init_args.generator.width=8",
    "--data.init_args.mix=0.25",
]
COMPILED = ["--trainer.callbacks+=CompileNetworks", "--trainer.callbacks.backend=eager"]
FEATURES = ["--trainer.callbacks+=FeatureTSNE", "--trainer.callbacks.every_n_rounds=2"]
STEPS = "--model.init_args.steps_per_epoch=2"
ACCURACY = [
    "--trainer.callbacks=CondensedAccuracy",
    "--trainer.callbacks.every_n_steps=2",
    "--trainer.callbacks.recipe.epochs=2",
]
RECIPES = {
    "quickstart": [*QUICK, DDP],
    "quickstart, features": [*QUICK, *FEATURES, DDP],
    "quickstart, live, features": [*QUICK, *LIVE, *FEATURES, DDP],
    "quickstart, compiled": [*QUICK, *COMPILED, DDP],
    "teacher": [
        "--config=configs/digits/teacher.yaml",
        "--trainer.max_epochs=2",
        "--trainer.check_val_every_n_epoch=1",
        "--trainer.strategy=ddp",
    ],
    "distillation": [
        "--config=configs/digits/distillation.yaml",
        "--config=configs/losses/fitnet.yaml",
        "--trainer.max_epochs=2",
        "--trainer.check_val_every_n_epoch=1",
        "--trainer.strategy=ddp",
    ],
    "distillation, simkd": [
        "--config=configs/digits/distillation.yaml",
        "--config=configs/losses/simkd.yaml",
        "--trainer.max_epochs=2",
        "--trainer.check_val_every_n_epoch=1",
        DDP,
    ],
    "dm": ["--config=configs/digits/dm.yaml", "--trainer.max_epochs=2", STEPS, *ACCURACY, DDP],
    "dsa": ["--config=configs/digits/dsa.yaml", "--trainer.max_epochs=1", STEPS, DDP],
    "experts": [
        "--config=configs/digits/experts.yaml",
        "--trainer.max_epochs=2",
        "--model.init_args.epochs=2",
        "--trainer.strategy=ddp",
    ],
    "generative": [
        "--config=configs/digits/generative.yaml",
        "--trainer.max_epochs=2",
        "--model.init_args.gan_epochs=1",
        STEPS,
        DDP,
    ],
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_runs_on_two_ranks_with_the_default_callbacks(name: str, launch: Launch, tmp_path: Path) -> None:
    written = [f"--trainer.default_root_dir={tmp_path}"]
    students = name.startswith(("quickstart", "distillation"))
    if not students:
        written.append(f"--model.init_args.output={tmp_path / ('out' if name == 'experts' else 'out.safetensors')}")
    launch(command, world_size=2, arguments=["fit", *RECIPES[name], *TWO, *written])
    made = {path.name for path in tmp_path.rglob("*.*")}
    assert made >= {"summary.json", "metrics.csv", "config.yaml"}
    assert ("features.png" in made) is ("features" in name)
    assert ("condensed.png" in made) is (name in ("dm", "dsa", "generative"))
    assert any(file.startswith("best_") for file in made) is (name == "teacher" or students)
    if not students:
        assert list(tmp_path.glob("out*"))


def test_a_diffusion_model_is_inverted_on_two_ranks(launch: Launch, tmp_path: Path) -> None:
    folder = diffusion.save(diffusion.class_pipeline(classes=11), tmp_path / "pipeline")
    short = ["--config=configs/digits/diff_dfkd.yaml", "--trainer.max_epochs=2", f"{CADENCE}.synthesis_steps=5"]
    method = "--model.init_args.inversion.init_args"
    more = [f"{CADENCE}.distill_steps=2", f"{method}.pipeline={folder}", f"{method}.cutmix.law=nested"]
    written = f"--trainer.default_root_dir={tmp_path}"
    launch(command, world_size=2, timeout=180, arguments=["fit", *short, *more, *TWO, DDP, written])
    assert {path.name for path in tmp_path.rglob("*.*")} >= {"summary.json", "metrics.csv", "config.yaml"}


def test_an_output_that_cannot_be_written_ends_both_ranks(launch: Launch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    written = [f"--trainer.default_root_dir={tmp_path}", f"--model.init_args.output={tmp_path}/file/a.safetensors"]
    first, second = launch(refused, world_size=2, arguments=["fit", *RECIPES["teacher"], *TWO, *written])
    assert first == second
    assert "would lie below" in first["error"]


def run_in_two_processes(tmp_path: Path, *arguments: str) -> tuple[int, str]:
    """Type the command as a user does; Lightning starts the second process."""
    line = [
        sys.executable,
        "-m",
        "lightning_condkd",
        "fit",
        *QUICK,
        DDP,
        *TWO,
        f"--trainer.default_root_dir={tmp_path}",
    ]
    variables = environment(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE", PYTHONPATH=str(ROOT))
    process = subprocess.Popen(
        [*line, *arguments],
        cwd=ROOT,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(timeout=100)
    finally:
        left = _processes_of(process.pid)
        if left:
            os.killpg(process.pid, signal.SIGKILL)
    assert not left, f"processes {left} outlive the command"
    return process.returncode, said


def _processes_of(session: int) -> list[int]:
    """Return those of a session that are alive after a moment."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        fields = {p: p.read_text().rsplit(")", 1)[1].split() for p in Path("/proc").glob("[0-9]*/stat") if p.exists()}
        alive = [int(path.parent.name) for path, of in fields.items() if int(of[3]) == session and of[0] != "Z"]
        if not alive:
            return []
        time.sleep(0.1)
    return alive


@pytest.mark.parametrize(("rank", "how"), [(1, "raise"), (0, "SIGKILL"), (1, "SIGKILL")])
def test_a_death_on_one_rank_ends_the_other(rank: int, how: str, tmp_path: Path) -> None:
    die = ["--trainer.callbacks+=tests.helpers.callbacks.DieAt", f"--trainer.callbacks.rank={rank}"]
    code, said = run_in_two_processes(tmp_path, *die, "--trainer.callbacks.step=9", f"--trainer.callbacks.how={how}")
    assert code != 0
    assert "the cause" in said if how == "raise" else "closed by peer" in said or "reset by peer" in said or code < 0


@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT"])
def test_an_interrupted_run_does_not_look_finished_and_says_how_to_go_on(how: str, tmp_path: Path) -> None:
    die = [
        "--trainer.callbacks+=tests.helpers.callbacks.DieAt",
        "--trainer.callbacks.rank=0",
        "--trainer.callbacks.step=9",
    ]
    code, said = run_in_two_processes(tmp_path, *die, f"--trainer.callbacks.how={how}")
    assert code == 128 + signal.Signals[how], said[-3000:]
    assert said.count("before it was finished: resume with --ckpt_path last") == 1
    assert "Traceback" not in said
    assert not WARNED.search(said)
    assert not list(tmp_path.rglob("summary.json"))
