"""Without a loss of the user's the student minimises that of the method's official code, or the run says why not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from lightning_condkd.cli import main
from lightning_condkd.distillation import AttentionDistillation, KLDistillation
from tests.conftest import ROOT
from tests.helpers import contract, toy

LOSSES = {
    "DFAD": "LogitsL1Distillation()",
    "PREDFKD": "LogitsL1Distillation()",
    "DiffDFKD": "KLDistillation(temperature=30.0)",
    **dict.fromkeys(("DAFL", "DFQ", "ZSKT"), "KLDistillation(temperature=1.0)"),
    **dict.fromkeys(
        ("Fast", "CMI", "DeepInversion", "NAYER", "RealSubset", "SmoothNoise", "BatchStatisticsNoise"),
        "KLDistillation(temperature=20.0)",
    ),
}


def test_every_method_has_its_loss() -> None:
    assert {name: repr(contract.model(name).distillation) for name in contract.methods()} == LOSSES


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "methods").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_recipe_states_the_default(path: Path) -> None:
    stated = yaml.safe_load(path.read_text())["model"]["init_args"]
    loss = LOSSES[stated["inversion"]["class_path"]]
    kind = stated.get("distillation", loss)
    assert re.match(r"\w+", loss)[0] == (kind if isinstance(kind, str) else kind["class_path"]).split("(")[0]  # type: ignore[index]
    if isinstance(kind, dict):
        assert f"={kind['init_args']['temperature']})" in loss


def test_a_method_keeps_its_loss_where_its_images_are_stored() -> None:
    losses = [toy.condkd(contract.make(name, source="bank")).distillation for name in ("DFAD", "DAFL")]
    assert list(map(repr, losses)) == ["LogitsL1Distillation()", "KLDistillation(temperature=20.0)"]


def test_attention_that_cannot_be_named_is_said_once(recwarn: pytest.WarningsRecorder) -> None:
    contract.fit("ZSKT")
    said = [str(warning.message) for warning in recwarn if "attention maps" in str(warning.message)]
    assert len(said) == 1
    assert "official code of ZSKT" in said[0]
    assert "minimises KLDistillation(temperature=1.0) alone: pass distillation=AttentionDistillation" in said[0]


@pytest.mark.parametrize("loss", [KLDistillation(1.0), AttentionDistillation(["features"])], ids=["kl", "attention"])
def test_a_loss_of_ones_own_is_taken_in_silence(
    loss: KLDistillation | AttentionDistillation, recwarn: pytest.WarningsRecorder
) -> None:
    model = toy.condkd(contract.make("ZSKT"), distillation=loss)
    assert model.distillation is loss
    toy.fit(model, mix=0.25, fast_dev_run=1)
    assert not [warning for warning in recwarn if "attention maps" in str(warning.message)]


def test_the_command_line_says_it_too(tmp_path: Path) -> None:
    quick = ["fit", "--config", str(ROOT / "configs" / "quickstart.yaml"), f"--trainer.default_root_dir={tmp_path}"]
    zskt = ["--model.init_args.inversion=ZSKT", "--data.init_args.mix=0.5", "--trainer.fast_dev_run=1"]
    with pytest.warns(UserWarning, match="the official code of ZSKT adds attention maps"):
        main([*quick, *zskt])
