"""The command line, in process."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
import warnings
from importlib.metadata import version
from operator import attrgetter
from pathlib import Path
from unittest.mock import patch

import lightning as L
import pytest
import torch
import torch.distributed as dist
import yaml
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from lightning_condkd import entry
from lightning_condkd.__main__ import HELP
from lightning_condkd.__main__ import run as run_process
from lightning_condkd.cli import COMMANDS, CondKDCLI, claim_version, main, newest_checkpoint
from lightning_condkd.data.digits import load_digits_split
from tests.conftest import ROOT
from tests.helpers.environment import environment

OVERLAYS = ("methods", "losses")  # see test_recipes.py and test_loss_recipes.py
CONFIGS = sorted(p for p in (ROOT / "configs").rglob("*.yaml") if p.parent.name not in OVERLAYS)
QUICK = ["fit", "--config", str(ROOT / "configs" / "quickstart.yaml")]
SMALL = [
    "--trainer.max_epochs=2",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--model.init_args.inversion.init_args.cadence.distill_steps=4",
    "--model.init_args.inversion.init_args.batch_size=32",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small quickstart run."""
    root = tmp_path_factory.mktemp("run")
    main([*QUICK, *SMALL, f"--trainer.default_root_dir={root}"])
    return root / "lightning_logs" / "version_0"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_shipped_config_prints_and_parses_back(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["fit", "--config", str(path), "--print_config"])
    assert end.value.code == 0
    first = capsys.readouterr().out
    again = tmp_path / "again.yaml"
    again.write_text(first)
    with pytest.raises(SystemExit):
        main(["fit", "--config", str(again), "--print_config"])
    assert yaml.safe_load(capsys.readouterr().out) == yaml.safe_load(first)


FRESH = {
    "Condensation": ("--model.method=DistributionMatching", "model.method.networks", "method.networks"),
    "GenerativeCondensation": ("--model.pool=MatchingPool", "model.pool.networks", "pool.fresh"),
    "ExpertTrajectories": ("--model.epochs=2", "model.networks", "networks"),
}


@pytest.mark.parametrize("model", FRESH)
def test_networks_are_one_argument_of_flags_and_files(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more, flag, attribute = FRESH[model]
    size = [f"--{flag}.network.{name}" for name in ("image_size=8", "in_channels=1", "depth=1", "width=4")]
    networks = [f"--{flag}.network=ConvNet", *size, f"--{flag}.mean=[0.3]", f"--{flag}.std=[0.4]"]
    with pytest.raises(SystemExit):
        main(["fit", f"--model={model}", more, *networks, "--data=DigitsDataModule", "--print_config"])
    (tmp_path / "printed.yaml").write_text(capsys.readouterr().out)
    with patch.object(L.Trainer, "fit", autospec=True) as fit:
        main(["fit", "--config", str(tmp_path / "printed.yaml")])
    made = attrgetter(attribute)(fit.call_args.kwargs["model"])
    assert (made.name, made.mean, made.std, made.num_parameters) == ("ConvNet", [0.3], [0.4], 698)


def test_a_run_leaves_summary_curve_config_pictures_and_checkpoint(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    assert summary["teacher_accuracy"] >= 0.985
    assert {"condensed_only_accuracy", "student_accuracy_last", "student_accuracy_best"} <= set(summary)
    assert summary["images_synthesized"] == 64
    assert summary["seconds"]["total"] >= summary["seconds"]["synthesize"] > 0
    assert len((run / "metrics.csv").read_text().splitlines()) == 3
    assert "CondKD" in (run / "config.yaml").read_text()
    assert list((run / "checkpoints").glob("*.ckpt"))
    assert list((run / "bank").glob("chunk_*.safetensors"))
    events = b"".join(file.read_bytes() for file in run.glob("events*"))
    assert b"condensed" in events
    assert b"synthetic" in events
    assert b"discriminator_accuracy_condensed" in events


def test_the_closing_table_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([*QUICK, *SMALL, f"--trainer.default_root_dir={tmp_path}"])
    out = capsys.readouterr().out
    for title in ("teacher", "condensed images only", "student, last", "student, best", "images synth", "seconds"):
        assert title in out


def test_the_saved_config_repeats_the_run(run: Path, tmp_path: Path) -> None:
    main(["fit", "--config", str(run / "config.yaml"), f"--trainer.default_root_dir={tmp_path}"])
    again = json.loads(next(tmp_path.rglob("summary.json")).read_text())
    first = json.loads((run / "summary.json").read_text())
    assert again["student_accuracy_last"] == first["student_accuracy_last"]


@pytest.mark.parametrize("ending", [".safetensors", ".pt"])
def test_export_leaves_weights_that_a_plain_script_loads(run: Path, tmp_path: Path, ending: str) -> None:
    target = tmp_path / f"student{ending}"
    main(["export", str(next((run / "checkpoints").glob("*.ckpt"))), str(target)])
    state = load_file(target) if ending == ".safetensors" else torch.load(target, weights_only=True)
    # Not our DigitsNet: the layers written out, as someone without the package would.
    from lightning_condkd.models import DigitsNet

    network: nn.Module = DigitsNet(width=16)
    network.load_state_dict(state, strict=True)
    assert not any(name.startswith(("student", "network", "teacher")) for name in state)


def test_test_measures_student_and_teacher(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = next((run / "checkpoints").glob("*.ckpt"))
    main(["test", "--config", str(run / "config.yaml"), "--ckpt_path", str(checkpoint)])
    out = capsys.readouterr().out
    assert "test/student_accuracy" in out
    assert "test/teacher_accuracy" in out


def test_an_unknown_key_is_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = yaml.safe_load((ROOT / "configs" / "quickstart.yaml").read_text())
    config["model"]["init_args"]["inversion"]["init_args"]["bn_wieght"] = 1.0
    broken = tmp_path / "broken.yaml"
    broken.write_text(yaml.safe_dump(config))
    with pytest.raises(SystemExit):
        main(["fit", "--config", str(broken)])
    assert "bn_wieght" in capsys.readouterr().err


def test_convert_reports_what_it_found(real_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "set.safetensors"
    teacher = {
        "class_path": "Observer",
        "init_args": {
            "network": {"class_path": "CifarResNet", "init_args": {"depth": 20}},
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
            "weights": str(real_data / "resnet20-cifar10.safetensors"),
        },
    }
    source = str(real_data / "res_DM_CIFAR10_ConvNet_10ipc.pt")
    main(["convert", source, str(target), f"--teacher={json.dumps(teacher)}"])
    out = capsys.readouterr().out
    assert "100 images" in out
    assert "66" in out
    assert target.is_file()


def test_the_arguments_of_the_process_are_read_without_a_warning(
    monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setattr(sys, "argv", ["lightning-condkd", "--help"])
    with pytest.raises(SystemExit):
        main()
    assert not [warning for warning in recwarn if "args parameter" in str(warning.message)]


def test_the_last_checkpoint_is_that_of_the_run_before(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = run.parents[1]
    command = ["test", "--config", str(run / "config.yaml"), f"--trainer.default_root_dir={root}"]
    main([*command, "--ckpt_path=last"])
    named = next((run / "checkpoints").glob("epoch=*.ckpt"))
    last = capsys.readouterr().out
    main([*command, f"--ckpt_path={named}"])
    accuracy = [line for line in capsys.readouterr().out.splitlines() if "test/student_accuracy" in line]
    assert accuracy
    assert accuracy[0] in last


def test_a_run_goes_on_from_the_last_checkpoint(tmp_path: Path) -> None:
    command = [*QUICK, *SMALL, f"--trainer.default_root_dir={tmp_path}"]
    main(command)
    main([*command, "--trainer.max_epochs=3", "--ckpt_path=last"])
    summary = json.loads((tmp_path / "lightning_logs" / "version_1" / "summary.json").read_text())
    assert (summary["rounds"], summary["images_synthesized"]) == (3, 3 * 32)


def test_the_last_checkpoint_may_be_one_for_a_requeue(tmp_path: Path) -> None:
    places = [
        "lightning_logs/version_0/checkpoints/a.ckpt",
        "hpc_ckpt_1.ckpt",
        "lightning_logs/version_1/checkpoints/b.ckpt",
    ]
    for seconds, place in enumerate(places):
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.utime(path, (seconds, seconds))
        assert newest_checkpoint(tmp_path, resumable=True) == path


@pytest.mark.parametrize("what", ["fit", "test"])
def test_a_last_checkpoint_that_is_not_there_is_refused(what: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"--ckpt_path last: expected a checkpoint in .*: name its file"):
        main([what, *QUICK[1:], *SMALL, f"--trainer.default_root_dir={tmp_path}", "--ckpt_path=last"])


@pytest.mark.parametrize("what", ["validate", "test", "predict"])
def test_measuring_a_student_that_was_never_trained_is_remarked(what: str, run: Path, tmp_path: Path) -> None:
    command = [what, *QUICK[1:], *SMALL, f"--trainer.default_root_dir={tmp_path}"]
    with pytest.warns(UserWarning, match="without a checkpoint takes the student as it was made"):
        main(command)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*without a checkpoint takes")
        main([*command, f"--ckpt_path={next((run / 'checkpoints').glob('*.ckpt'))}"])


@pytest.mark.parametrize("name", ["last", "best"])
def test_predict_writes_a_row_for_each_image_and_says_where(
    name: str, run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = run.parents[1]
    with caplog.at_level("INFO"):
        main(["predict", *QUICK[1:], *SMALL, f"--trainer.default_root_dir={root}", f"--ckpt_path={name}"])
    written = newest(root, "predictions.csv")
    assert f"predictions written to {written}: a row for each image" in caplog.text
    rows = list(csv.DictReader(written.open()))
    held_out = load_digits_split(train=False)
    right = sum(int(row["label"]) == label for row, label in zip(rows, held_out.labels.tolist(), strict=True))
    assert [row["image"] for row in rows] == [str(number) for number in range(500)]
    assert all(row["class"] == row["label"] and 0 < float(row["probability"]) <= 1 for row in rows)
    assert right / 500 == pytest.approx(json.loads((run / "summary.json").read_text())[f"student_accuracy_{name}"])


def newest(root: Path, name: str) -> Path:
    return max(root.rglob(name), key=lambda path: path.stat().st_mtime)


def test_predict_takes_a_folder_of_images_and_no_condensed_set(run: Path, tmp_path: Path) -> None:
    held_out = load_digits_split(train=False)
    for row in range(3):
        Image.fromarray(held_out.images[row, 0].numpy()).save(tmp_path / f'{row}, "a".png')
    given = [
        "predict",
        "--config",
        str(run / "config.yaml"),
        f"--ckpt_path={next((run / 'checkpoints').glob('epoch*.ckpt'))}",
    ]
    folder = ["--data", "ImageFolderDataModule", f"--data.root={tmp_path}", "--data.channels=1"]
    main([*given, *folder, f"--trainer.default_root_dir={tmp_path}"])
    rows = list(csv.DictReader(newest(tmp_path, "predictions.csv").open()))
    main([*given, f"--output={tmp_path / 'all.csv'}"])
    of_digits = list(csv.DictReader((tmp_path / "all.csv").open()))[:3]
    assert [row.pop("file") for row in rows] == [str(tmp_path / f'{row}, "a".png') for row in range(3)]
    for row, expected in zip(rows, of_digits, strict=True):  # of other batches, so up to rounding
        assert float(row.pop("probability")) == pytest.approx(float(expected.pop("probability")), rel=1e-4)
        assert row == {name: value for name, value in expected.items() if name != "file"}


def test_output_is_for_predictions_alone_and_is_checked_before(run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    given = ["--config", str(run / "config.yaml"), f"--trainer.default_root_dir={tmp_path}"]
    with pytest.raises(OSError, match="would lie below"):
        main(["predict", *given, f"--output={tmp_path / 'file' / 'out.csv'}"])
    with pytest.raises(SystemExit):
        main(["test", *given, "--output=out.csv"])


def typed(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "lightning_condkd", *arguments]
    everything = environment(OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT), **variables)
    return subprocess.run(line, cwd=ROOT, env=everything, capture_output=True, text=True, timeout=100, check=False)


def test_a_refusal_is_one_line_unless_more_is_asked_for() -> None:
    wrong = (*QUICK, "--data.init_args.condensed=nowhere.safetensors")
    short, whole = typed(*wrong), typed(*wrong, LIGHTNING_CONDKD_TRACEBACK="1")
    assert (short.returncode, whole.returncode) == (1, 1)
    assert "error: no condensed set at nowhere.safetensors: check the path" in short.stderr
    assert "Traceback" not in short.stderr
    assert len(short.stderr.splitlines()) < 6, short.stderr
    assert "Traceback" in whole.stderr


def test_an_error_of_others_keeps_its_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        json.loads("{")

    monkeypatch.setattr(entry, "main", fails)
    monkeypatch.setattr(sys, "argv", ["lightning-condkd", "fit"])
    with pytest.raises(json.JSONDecodeError):
        entry.run_command(sys.argv[1:])


def test_a_file_that_is_not_there_is_one_line_whoever_opened_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "argv", ["lightning-condkd", "export", "nowhere.ckpt", str(tmp_path / "s.safetensors")])
    with pytest.raises(SystemExit):
        entry.run_command(sys.argv[1:])
    assert "nowhere.ckpt" in capsys.readouterr().err.splitlines()[0]


def test_a_missing_optional_package_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    given = [f"--config={ROOT / 'configs' / 'digits' / 'diff_dfkd.yaml'}", f"--trainer.default_root_dir={tmp_path}"]
    monkeypatch.setattr(sys, "argv", ["lightning-condkd", "fit", *given])
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(SystemExit):
        entry.run_command(sys.argv[1:])
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert lines == ['error: DiffDFKD needs the package diffusers: pip install "lightning-condkd[diffusion]"']


def test_a_class_in_the_working_folder_is_found_by_the_installed_script(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "losses_here.py").write_text(
        "from lightning_condkd.distillation import DistillationLoss\nclass Squared(DistillationLoss): ...\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder])  # a script's has no working folder
    given = ["--model.init_args.distillation", "losses_here.Squared", "--print_config"]
    monkeypatch.setattr(sys, "argv", ["lightning-condkd", *QUICK, *given])
    with pytest.raises(SystemExit) as end:
        entry.run_command(sys.argv[1:])
    assert end.value.code == 0
    assert sys.path[-1] == str(tmp_path)
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["model"]["init_args"]["distillation"]["class_path"] == "losses_here.Squared"


def test_an_interrupted_command_ends_in_a_word(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(entry, "main", interrupted)
    monkeypatch.setattr(sys, "argv", ["lightning-condkd", "evaluate"])
    with pytest.raises(SystemExit) as end:
        entry.run_command(sys.argv[1:])
    assert end.value.code == 130
    said = "ended by Ctrl-C (SIGINT) before it was finished: nothing was written: type the command again\n"
    assert capsys.readouterr().err == said


@pytest.mark.parametrize("recipe", ["quickstart", "experts"])
def test_ctrl_c_ends_a_fit_with_its_code_and_the_cure(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ROOT / "configs" / "digits" / "experts.yaml"
    experts = ["fit", f"--config={config}", "--trainer.max_epochs=20", f"--model.init_args.output={tmp_path / 'out'}"]
    command = [*QUICK, *SMALL] if recipe == "quickstart" else experts
    die = [
        "--trainer.callbacks+=tests.helpers.callbacks.DieAt",
        "--trainer.callbacks.rank=0",
        "--trainer.callbacks.step=3",
    ]
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as end:
        main([*command, *die, "--trainer.callbacks.how=SIGINT", f"--trainer.default_root_dir={tmp_path}"])
    assert end.value.code == 128 + signal.SIGINT
    assert "ended by Ctrl-C (SIGINT) before it was finished: it was before its first" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) == before


@pytest.mark.parametrize("end", [None, SystemExit(143), ValueError("a cause")])
def test_a_command_leaves_its_process_group(
    end: BaseException | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def main() -> None:
        dist.init_process_group("gloo", (tmp_path / "store").as_uri(), rank=0, world_size=1)
        if end is not None:
            raise end

    monkeypatch.setattr(entry, "main", main)
    monkeypatch.setattr(sys, "argv", ["lightning-condkd", "fit"])
    with contextlib.nullcontext() if end is None else pytest.raises((SystemExit, ValueError)):
        entry.run_command(sys.argv[1:])
    assert not dist.is_initialized()


def test_version_and_unknown_commands(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["lightning-condkd", "--version"])
    run_process()
    assert capsys.readouterr().out == f"lightning-condkd {version('lightning-condkd')}\n"
    for given, got in (["destil"], "'destil'"), ([], "nothing"):
        monkeypatch.setattr(sys, "argv", ["lightning-condkd", *given])
        with pytest.raises(
            SystemExit, match=rf"expected one of fit, .*, convert, describe, draw, evaluate, .* got {got}"
        ):
            entry.run_command(sys.argv[1:])


def test_the_first_help_names_every_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for flag in ("--help", "-h"):
        monkeypatch.setattr(sys, "argv", ["lightning-condkd", flag])
        run_process()
        assert capsys.readouterr().out == HELP
    named = [line.split()[0] for line in HELP.splitlines() if line.startswith("  ") and not line.startswith("  -")]
    assert sorted(named) == sorted([*entry.STAGES, *COMMANDS])


HEAVY = ("torch", "lightning", "torchvision", "jsonargparse", "numpy")
LATER = ("sklearn", "diffusers", "onnx")  # torchmetrics, which Lightning imports, brings torchvision and more


@pytest.mark.parametrize(("arguments", "left_out"), [("--version", HEAVY), ("--help", HEAVY), ("fit --help", LATER)])
def test_what_a_short_answer_does_not_import(arguments: str, left_out: tuple[str, ...]) -> None:
    code = (
        "import contextlib, sys\n"
        "from lightning_condkd.__main__ import run\n"
        f"sys.argv = ['lightning-condkd', *{arguments.split()}]\n"
        "with contextlib.suppress(SystemExit):\n    run()\n"
        f"print('imported:', *(name for name in {left_out} if name in sys.modules))\n"
    )
    everything = environment(PYTHONPATH=str(ROOT))
    done = subprocess.run([sys.executable, "-c", code], env=everything, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].split() == ["imported:"]
    assert len(done.stdout.splitlines()) > 1


def test_lightning_s_advertisements_are_left_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "argv", ["lightning-condkd", "destil"])
    with pytest.raises(SystemExit):
        run_process()
    with caplog.at_level("INFO", logger="lightning.pytorch"):
        rank_zero_info("Tip: install something")
        rank_zero_info("a result")
    assert [record.message for record in caplog.records] == ["a result"]


STUCK = """
import signal, threading
from lightning_condkd import entry
entry.TERMINATION_SECONDS = 0.5
entry.bound_termination()
signal.signal(signal.SIGTERM, lambda *_: None)
print("ready", flush=True)
lock = threading.Lock()
lock.acquire()
lock.acquire()
"""


def test_a_process_that_waits_for_ever_ends_after_sigterm() -> None:
    everything = environment(PYTHONPATH=str(ROOT))
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK], cwd=ROOT, env=everything, stdout=pipe, stderr=pipe, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.terminate()
    _, said = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM
    assert "after SIGTERM: ended now" in said


def test_runs_started_together_take_folders_of_their_own(tmp_path: Path) -> None:
    """Two trainers at once, before either has written anything."""
    trainers = [L.Trainer(logger=[CSVLogger(tmp_path), CSVLogger(tmp_path)], accelerator="cpu") for _ in range(2)]
    assert {trainer.loggers[0]._get_next_version() for trainer in trainers} == {0}
    for trainer in trainers:
        claim_version(trainer)
    assert [[logger.version for logger in trainer.loggers] for trainer in trainers] == [[0, 0], [1, 1]]
    chosen = L.Trainer(logger=CSVLogger(tmp_path, version=7), accelerator="cpu")
    claim_version(chosen)
    assert chosen.loggers[0].version == 7
    assert not (tmp_path / "lightning_logs" / "version_7").exists()


def test_a_number_that_is_taken_in_between_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lightning_logs" / "version_3").mkdir(parents=True)
    trainer, numbers = L.Trainer(logger=TensorBoardLogger(tmp_path), accelerator="cpu"), iter((3, 3, 4))
    monkeypatch.setattr(trainer.loggers[0], "_get_next_version", lambda: next(numbers))
    claim_version(trainer)
    assert trainer.loggers[0].version == 4
    assert (tmp_path / "lightning_logs" / "version_4").is_dir()


def test_the_command_line_claims_its_folder_before_the_run(tmp_path: Path) -> None:
    """Another rank claims none: it is told."""
    for rank, expected in ((0, True), (1, False)):
        root = tmp_path / str(rank)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(L.Trainer, "is_global_zero", rank == 0)
            patch.setattr(CondKDCLI, "_run_subcommand", lambda *_: None)
            main([*QUICK, *SMALL, f"--trainer.default_root_dir={root}"])
        assert (root / "lightning_logs" / "version_0").is_dir() is expected
