"""Runs with compiled networks are the runs without."""

from pathlib import Path

import lightning as L
import pytest
import torch
from torch import nn

from lightning_condkd.alignment import FeatureAlignment
from lightning_condkd.callbacks import CompileNetworks
from lightning_condkd.cli import main
from tests.helpers import contract, toy


@pytest.mark.parametrize("name", ["Fast", "DAFL", "PREDFKD"])
def test_a_compiled_run_is_the_plain_one(name: str) -> None:
    torch.compiler.reset()
    plain = contract.fit(name, weight=5.0)
    compiled = contract.fit(name, weight=5.0, callbacks=[CompileNetworks(backend="eager")])
    assert compiled.model.student._compiled is not None
    assert compiled.model.teacher._compiled is not None
    assert toy.same(plain.state(), compiled.state())


def test_a_checkpoint_of_a_compiled_run_has_the_plain_names(tmp_path: Path) -> None:
    def fit(**arguments: object) -> toy.Run:
        model = toy.condkd(alignment=FeatureAlignment())
        return toy.fit(model, default_root_dir=tmp_path, **arguments)

    whole = fit(max_epochs=4)
    first = fit(max_epochs=2, callbacks=[CompileNetworks(backend="eager")])
    first.trainer.save_checkpoint(tmp_path / "half.ckpt")
    names = torch.load(tmp_path / "half.ckpt", weights_only=True)["state_dict"]
    assert not any("_orig_mod" in name for name in names)
    assert names.keys() == whole.model.state_dict().keys()


def test_nothing_to_compile_is_refused() -> None:
    module = L.LightningModule()
    module.layer = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="found no Observer in LightningModule: wrap the network"):
        CompileNetworks().on_fit_start(L.Trainer(logger=False, accelerator="cpu"), module)


def test_networks_are_compiled_from_the_command_line(tmp_path: Path) -> None:
    torch.compiler.reset()
    cadence = "--model.init_args.inversion.init_args.cadence"
    main(
        [
            "fit",
            "--config=configs/quickstart.yaml",
            "--trainer.callbacks=CompileNetworks",
            "--trainer.callbacks.backend=aot_eager",
            "--trainer.callbacks+=CondensedOnlyBaseline",
            f"--trainer.default_root_dir={tmp_path}",
            "--trainer.max_epochs=2",
            f"{cadence}.synthesis_steps=2",
            f"{cadence}.distill_steps=2",
        ]
    )
    assert next(tmp_path.rglob("summary.json")).is_file()
