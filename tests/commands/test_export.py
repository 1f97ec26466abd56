"""The command ``export``: its files predict as the run's ``test`` did, without this package."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors import safe_open
from torch import Tensor

from lightning_condkd.cli import main
from lightning_condkd.commands.export import export
from lightning_condkd.data.image_datamodules import load_digits_split
from lightning_condkd.distillation import SimKD
from lightning_condkd.models import DigitsNet, Observer, graph_files
from lightning_condkd.modules import Classification, Distillation
from tests.helpers.environment import environment

MEAN, STD = (0.3059,), (0.3754,)
RUNS = {
    "student": ["package:digits/distillation.yaml"],
    "simkd": ["package:digits/distillation.yaml", "package:losses/simkd.yaml"],
    "teacher": ["package:digits/teacher.yaml"],
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the folder of a short run of the command line, made once."""
    root, made = tmp_path_factory.mktemp("runs"), dict[str, Path]()

    def run(name: str) -> Path:
        if name not in made:
            short = ["--trainer.max_epochs=1", "--trainer.check_val_every_n_epoch=1", "--trainer.callbacks=[]"]
            short += ["--trainer.enable_progress_bar=false", f"--trainer.default_root_dir={root / name}"]
            short += ["--model.init_args.output=null"] if name == "teacher" else []
            main(["fit", *(f"--config={recipe}" for recipe in RUNS[name]), *short])
            made[name] = root / name / "lightning_logs" / "version_0"
        return made[name]

    return run


def best(run: Path) -> Path:
    (found,) = (run / "checkpoints").glob("best_*.ckpt")
    return found


def module(name: str, run: Path) -> Distillation | Classification:
    """Return the module of a run as a user loads it, whose logits its ``test`` measures."""
    if name == "teacher":
        network = Observer(DigitsNet(width=32), MEAN, STD)
        return Classification.load_from_checkpoint(best(run), network=network).eval()
    teacher = Observer(DigitsNet(width=32), MEAN, STD, weights="package:digits-teacher.safetensors")
    loss = {"distillation": SimKD()} if name == "simkd" else {}
    return Distillation.load_from_checkpoint(best(run), teacher=teacher, student=DigitsNet(width=16), **loss).eval()


def images() -> Tensor:
    return load_digits_split(train=False).images[:8]


@pytest.mark.parametrize("normalization", ["folded", "none"])
@pytest.mark.parametrize("name", RUNS)
def test_onnx_predicts_what_the_module_does(
    name: str, normalization: str, runs: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of uint8 images, divided by 255 as the file's metadata say, in batches of other sizes than it was made with."""
    runtime, target, run = pytest.importorskip("onnxruntime"), tmp_path / "s.onnx", runs(name)
    capsys.readouterr()
    options = [] if normalization == "folded" else ["--normalization=none"]
    main(["export", str(run), str(target), *options])
    said = capsys.readouterr().out
    assert f"of {best(run)} to {target} (onnx): input images (N, 1, 8, 8), float32 in [0, 1]" in said
    assert (", minus [0.3059], divided by [0.3754]" in said) == (normalization == "none")
    assert "largest difference to the" in said
    assert [path.name for path in tmp_path.iterdir()] == ["s.onnx"]

    session = runtime.InferenceSession(target, providers=["CPUExecutionProvider"])
    pixels = images().numpy().astype(np.float32) / 255
    given = pixels if normalization == "folded" else (pixels - np.float32(MEAN[0])) / np.float32(STD[0])
    expected = module(name, run)(images()).detach().numpy()
    for rows in (slice(0, 1), slice(1, 8)):
        (logits,) = session.run(["logits"], {"images": given[rows]})
        np.testing.assert_allclose(logits, expected[rows], rtol=1e-4, atol=1e-5)
    facts = {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}
    assert facts.pop("input").startswith("images (N, 1, 8, 8), float32 in [0, 1]")
    assert facts.pop("made_by").startswith("lightning-condkd ")
    names = [str(digit) for digit in range(10)]
    stated = {"image_shape": [1, 8, 8], "mean": list(MEAN), "std": list(STD), "class_names": names}
    assert facts == stated | {"normalization": normalization}


FRESH = """
import json, sys, torch
sys.modules["lightning_condkd"] = None
pixels, facts, found = torch.load("images.pt").float() / 255, [{"metadata.json": ""} for _ in range(3)], []
networks = [torch.export.load("s.pt2", extra_files=facts[0]).module()]
networks += [torch.jit.load(f"s.{end}", _extra_files=one) for end, one in zip(("ts", "torchscript"), facts[1:])]
for network in networks:
    logits = torch.cat([network(pixels[:1]), network(pixels[1:])])
    torch.testing.assert_close(logits, torch.load("expected.pt"), rtol=1e-5, atol=1e-5)
print(*(json.loads(json.loads(one["metadata.json"])["normalization"]) for one in facts))
"""


def test_files_of_torch_predict_it_in_a_process_without_this_package(
    runs: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = runs("simkd")
    torch.save(images(), tmp_path / "images.pt")
    torch.save(module("simkd", run)(images()).detach(), tmp_path / "expected.pt")
    for ending in ("ts", "torchscript", "pt2"):
        capsys.readouterr()
        main(["export", str(best(run)), str(tmp_path / f"s.{ending}")])
        said = capsys.readouterr().out
        assert "largest difference to the student's own logits" in said
        assert ("deprecated" in said) == (ending != "pt2")
    command = [sys.executable, "-I", "-c", FRESH]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment())
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["folded"] * 3


@pytest.mark.parametrize("ending", ["safetensors", "pt", "pth"])
def test_weights_of_a_classifier_load_into_its_network(
    ending: str, runs: Callable[[str], Path], tmp_path: Path
) -> None:
    target = tmp_path / f"t.{ending}"
    main(["export", str(runs("teacher")), str(target)])
    loaded = Observer(DigitsNet(width=32), MEAN, STD, weights=target).eval()
    assert torch.equal(loaded(images() / 255).logits, module("teacher", runs("teacher"))(images()))
    if ending == "safetensors":
        with safe_open(target, "pt") as file:
            stated = json.loads(file.metadata()["normalisation"])
        assert stated == {"mean": pytest.approx(MEAN), "std": pytest.approx(STD)}


def changed_config(run: Path, target: Path, **changes: Any) -> Path:
    content = yaml.safe_load((run / "config.yaml").read_text())
    content["model"]["init_args"] |= changes
    target.write_text(yaml.safe_dump(content))
    return target


def test_the_teachers_weights_are_not_needed(runs: Callable[[str], Path], tmp_path: Path) -> None:
    """As on a machine to which only the folder of the run was copied."""
    for name in ("student", "simkd"):
        teacher = yaml.safe_load((runs(name) / "config.yaml").read_text())["model"]["init_args"]["teacher"]
        teacher["init_args"]["weights"] = "gone.safetensors"
        config = changed_config(runs(name), tmp_path / "c.yaml", teacher=teacher)
        main(["export", str(best(runs(name))), str(tmp_path / f"{name}.pt2"), f"--run_config={config}"])
        network = torch.export.load(tmp_path / f"{name}.pt2").module()
        torch.testing.assert_close(network(images() / 255), module(name, runs(name))(images()))


@pytest.mark.parametrize(
    ("output", "options", "said"),
    [
        ("s.bin", {}, r"ending in \.safetensors, \.pt, \.pth, \.onnx, .* or \.torchscript, got '.*s\.bin'"),
        ("s.onnx", {"format": "pt"}, r"--format pt with 's\.onnx', which ends as onnx: end it in \.pt or \.pth"),
        ("s.pt", {"format": "torchscript"}, r"--format torchscript .* end it in \.ts or \.torchscript"),
        ("s.pt", {"normalization": "folded"}, r"--normalization: expected for a file with a graph .* leave it out"),
        ("s.safetensors", {"image_shape": (1, 8, 8)}, r"--image_shape: expected for a file with a graph"),
        ("s.pt2", {"image_shape": (1, 16, 16)}, r"--image_shape is \[1, 16, 16\], but the run had .* \[1, 8, 8\]"),
    ],
)
def test_what_contradicts_is_refused(
    output: str, options: dict[str, Any], said: str, runs: Callable[[str], Path], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=said):
        export(str(runs("student")), str(tmp_path / output), **options)
    assert list(tmp_path.iterdir()) == []


def test_a_format_may_be_given_for_any_other_ending(runs: Callable[[str], Path], tmp_path: Path) -> None:
    main(["export", str(runs("student")), str(tmp_path / "model"), "--format=pt2", "--image_shape=[1, 8, 8]"])
    assert torch.export.load(tmp_path / "model").module()(torch.rand(3, 1, 8, 8)).shape == (3, 10)


def test_a_configuration_that_is_missing_or_of_another_run_is_named(
    runs: Callable[[str], Path], tmp_path: Path
) -> None:
    run, target = runs("simkd"), str(tmp_path / "s.pt2")
    alone = tmp_path / "alone.ckpt"
    alone.write_bytes(best(run).read_bytes())
    with pytest.raises(FileNotFoundError, match=r"expected the configuration .* at .*config\.yaml.*--run_config"):
        export(str(alone), target)
    plain = {"class_path": "lightning_condkd.models.DigitsNet", "init_args": {"width": 8}}
    for changes, said in (
        ({"student": plain}, "size mismatch for"),
        ({"distillation": None}, "no model.init_args.distillation or teacher"),
        ({"student": {"class_path": "NoSuch"}}, "found no class or file 'NoSuch'"),
        ({"student": None}, "expected model.init_args.student"),
    ):
        config = changed_config(run, tmp_path / "c.yaml", **changes)
        with pytest.raises(ValueError, match=said):
            export(str(alone), target, run_config=config)
    with pytest.raises(ValueError, match=r"expected model\.init_args\.student in .* found none"):
        export(str(best(run)), target, run_config=runs("teacher") / "config.yaml")
    (tmp_path / "c.yaml").write_text("- 1")
    with pytest.raises(ValueError, match=r"expected model\.init_args in"):
        export(str(alone), target, run_config=tmp_path / "c.yaml")
    assert not Path(target).exists()


def test_a_run_with_loaders_of_its_own_needs_the_shape(runs: Callable[[str], Path], tmp_path: Path) -> None:
    content = torch.load(best(runs("teacher")), weights_only=True)
    content["classification"]["image_shape"] = None
    torch.save(content, tmp_path / "own.ckpt")
    target, config = tmp_path / "s.pt2", runs("teacher") / "config.yaml"
    with pytest.raises(ValueError, match=r"give --image_shape '\[C, H, W\]'"):
        export(str(tmp_path / "own.ckpt"), str(target), run_config=config)
    with pytest.raises(ValueError, match="cannot read images of"):
        export(str(tmp_path / "own.ckpt"), str(target), run_config=config, image_shape=(3, 8, 8))
    assert not target.exists()
    export(str(tmp_path / "own.ckpt"), str(target), run_config=config, image_shape=(1, 8, 8))
    assert target.exists()


def test_a_file_that_cannot_be_run_here_is_said_to_be_unchecked(
    runs: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnx")
    monkeypatch.setattr(graph_files, "find_spec", lambda name: None)
    export(str(runs("student")), str(tmp_path / "s.onnx"))
    said = capsys.readouterr().out
    assert "not checked, since onnxruntime is not installed: pip install 'lightning-condkd[onnx]'" in said
    assert "largest difference" not in said


def test_the_folder_of_checkpoints_is_that_of_its_run_and_one_of_several_runs_names_them(
    runs: Callable[[str], Path], tmp_path: Path
) -> None:
    run = runs("student")
    export(str(run / "checkpoints"), str(tmp_path / "s.pt"))
    export(str(best(run)), str(tmp_path / "best.pt"))
    assert (tmp_path / "s.pt").read_bytes() == (tmp_path / "best.pt").read_bytes()
    for above in (run.parent, run.parents[1]):
        with pytest.raises(FileNotFoundError, match=rf"found none, but in {run}: name the file"):
            export(str(above), str(tmp_path / "s.pt"))
    with pytest.raises(FileNotFoundError, match="found none: name the file of one, or the folder of a run"):
        export(str(tmp_path), str(tmp_path / "t.pt"))
