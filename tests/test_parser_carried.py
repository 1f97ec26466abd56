"""A class that takes another's place on the command line says which arguments of that one it keeps."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from lightning_condkd.cli import CondKDCLI
from tests.conftest import ROOT

QUICK = ["fit", "--config", str(ROOT / "configs" / "quickstart.yaml")]
INVERSION = "--model.init_args.inversion"
CADENCE = "cadence.synthesis_steps=5, cadence.distill_steps=60, cadence.warmup_rounds=1"
REST = "generator.width=16, generator.latent_size=64, generator.lr=0.01"


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder) -> Any:
    """What is said of a command line, of which nothing is run."""
    monkeypatch.setattr(CondKDCLI, "instantiate_classes", lambda self: None)
    monkeypatch.setattr(CondKDCLI, "_run_subcommand", lambda self, name: None)

    def said(*flags: str) -> list[str]:
        recwarn.clear()
        CondKDCLI([*QUICK, *flags])
        return [text for text in (str(warning.message) for warning in recwarn) if " replaces " in text]

    return said


@pytest.mark.parametrize(
    ("flags", "kept"),
    [
        ([f"{INVERSION}=DFAD"], f"DFAD replaces Fast .* {CADENCE}, batch_size=128, {REST}, wh"),
        ([INVERSION, "DFAD", f"{INVERSION}.init_args.batch_size=64"], f"{CADENCE}, {REST}, which"),
        ([f"{INVERSION}.class_path=DFAD"], f"{CADENCE}, batch_size=128, {REST},"),
        ([f"{INVERSION}=CMI"], "augment.init_args.padding=1"),
        ([f"{INVERSION}=DAFL", f"{INVERSION}=DFAD"], f"DFAD replaces DAFL .* {CADENCE}"),
        (["--model.init_args.student_optimizer=torch.optim.SGD"], "SGD replaces Adam .* lr=0.003, which"),
        ([f"{INVERSION}=NoInversion", f"{INVERSION}.init_args.cadence.synthesis_steps=0"], "distill_steps=60"),
    ],
)
def test_what_is_kept_is_said(said: Any, flags: list[str], kept: str) -> None:
    [text] = said(*flags)
    assert re.search(kept, text), text


@pytest.mark.parametrize(
    "flags",
    [
        [],
        [f"{INVERSION}.init_args.batch_size=64"],
        [f"{INVERSION}=Fast"],
        ["--model.init_args.alignment.init_args.discriminator=ACGANDiscriminator"],
        ["--model.init_args.alignment=null"],
        ["--trainer.callbacks=[]"],
        *([f"--config={path}"] for path in sorted((ROOT / "configs" / "methods").glob("*.yaml"))),
    ],
    ids=lambda flags: Path(flags[-1]).name if flags else "none",
)
def test_nothing_kept_is_nothing_said(said: Any, flags: list[str]) -> None:
    assert said(*flags) == []


def test_a_configuration_over_another_says_it_too(said: Any, tmp_path: Path) -> None:
    """It states one number of its method."""
    path = tmp_path / "dfad.yaml"
    path.write_text("model: {init_args: {inversion: {class_path: DFAD, init_args: {cadence: {distill_steps: 7}}}}}")
    [text] = said(f"--config={path}")
    assert "cadence.synthesis_steps=5, cadence.warmup_rounds=1, batch_size=128" in text
    assert "distill_steps" not in text
