from collections.abc import Iterator
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.cli import LightningCLI

from lightning_condkd.data.condensed import CondensedSet
from lightning_condkd.data.image_datamodules import load_digits_split
from lightning_condkd.models import DigitsNet, Observer
from lightning_condkd.modules.classification import Classification
from lightning_condkd.modules.condensation import Condensation

RECIPES = Path(__file__).parents[2] / "configs" / "digits"


@pytest.fixture(autouse=True)
def _own_seed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Undo what seed_everything sets."""
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
        monkeypatch.setenv(name, "0")
    with torch.random.fork_rng():
        yield


def run(recipe: str, folder: Path, *arguments: str) -> LightningCLI:
    given = ["fit", "--config", str(RECIPES / recipe), "--trainer.default_root_dir", str(folder)]
    quiet = ["--trainer.logger", "false", "--trainer.enable_progress_bar", "false"]
    return LightningCLI(
        L.LightningModule,
        L.LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        save_config_callback=None,
        args=[*given, *quiet, *arguments],
    )


def test_normalisation_constants_are_those_of_the_training_pixels() -> None:
    (mean,), (std,) = load_digits_split(train=True).channel_statistics()
    for recipe in RECIPES.glob("*.yaml"):
        text = recipe.read_text()
        assert f"mean: [{mean:.4f}]" in text
        assert f"std: [{std:.4f}]" in text


def test_teacher_recipe_in_small(tmp_path: Path) -> None:
    output = tmp_path / "teacher.safetensors"
    short = [
        "--trainer.max_epochs",
        "1",
        "--trainer.limit_train_batches",
        "2",
        "--trainer.check_val_every_n_epoch",
        "1",
    ]
    cli = run("teacher.yaml", tmp_path, *short, "--model.output", str(output))
    assert isinstance(cli.model, Classification)
    assert cli.trainer.global_step == 2
    assert "val/accuracy" in cli.trainer.callback_metrics
    Observer(DigitsNet(), weights=output)


def test_dm_recipe_in_small(tmp_path: Path) -> None:
    output = tmp_path / "set.safetensors"
    short = ["--trainer.max_epochs", "1", "--model.steps_per_epoch", "2", "--model.output", str(output)]
    cli = run("dm.yaml", tmp_path, *short)
    assert isinstance(cli.model, Condensation)
    condensed = CondensedSet.load(output)
    assert (condensed.ipc, condensed.info.settings["iterations"]) == (1, 2)


@pytest.fixture(scope="module")
def teacher() -> Observer:
    return Observer(DigitsNet(), (0.3059,), (0.3754,), weights="package:digits-teacher.safetensors").freeze()


def test_packaged_teacher_is_as_good_as_claimed(teacher: Observer) -> None:
    source = load_digits_split(train=False)
    accuracy = (teacher(source.images / 255).logits.argmax(1) == source.labels).float().mean()
    assert accuracy >= 0.985


def test_packaged_set_is_one_image_per_class_that_the_teacher_reads(teacher: Observer) -> None:
    condensed = CondensedSet.load("package:digits-dm-1ipc.safetensors")
    assert (len(condensed), condensed.ipc, condensed.image_shape) == (10, 1, (1, 8, 8))
    assert (condensed.info.method, condensed.info.class_names) == ("DM", tuple("0123456789"))
    right = teacher(condensed.images).logits.argmax(1) == condensed.labels
    assert int(right.sum()) >= 9
    assert torch.isfinite(condensed.images).all()
