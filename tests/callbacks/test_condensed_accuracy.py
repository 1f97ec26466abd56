from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel

from lightning_condkd.augment import SiameseAugment
from lightning_condkd.callbacks import CondensedAccuracy
from lightning_condkd.condensation import DistributionMatching
from lightning_condkd.data import CondensedSet, DigitsDataModule
from lightning_condkd.data.image_source import ImageSource
from lightning_condkd.evaluation import Recipe, evaluate
from lightning_condkd.models import ConvNet, FreshNetworks
from lightning_condkd.modules import Condensation

NETWORK = partial(ConvNet, 10, image_size=8, in_channels=1, depth=1, width=8)
RECIPE = Recipe(epochs=30, augment=None)


class WithStepSize(DistributionMatching):
    """Says that it learns a step size."""

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "train_lr": 0.05}


def run(
    folder: Path,
    *callbacks: L.Callback,
    steps: int = 4,
    kind: type[DistributionMatching] = DistributionMatching,
    accumulate: int = 1,
    **more: Any,
) -> Condensation:
    method = kind(FreshNetworks(NETWORK), augment=SiameseAugment("crop_rotate", fill=0.0), real_batch=8)
    module = Condensation(method, 2, output=folder / "set.safetensors", steps_per_epoch=steps, seed=1)
    trainer = L.Trainer(
        max_epochs=1,
        accelerator="cpu",
        accumulate_grad_batches=accumulate,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    trainer.fit(module, more.pop("data", None) or DigitsDataModule(), **more)
    return module


def test_the_curve_is_that_of_the_evaluator_and_the_learning_does_not_depend_on_it(tmp_path: Path) -> None:
    accuracy = CondensedAccuracy(2, recipe=RECIPE, runs=2, test_images=200)
    evaluated, without = run(tmp_path / "a", accuracy), run(tmp_path / "b")
    assert evaluated.output.read_bytes() == without.output.read_bytes()
    assert [step for step, _ in accuracy.curve] == [0, 2, 4]
    condensed, source = CondensedSet.load(without.output), DigitsDataModule().val_source
    rows = torch.linspace(0, len(source) - 1, 200).long()
    test = source.images[rows], source.labels[rows]
    networks = without.method.networks
    expected = evaluate(condensed.images, condensed.labels, *test, networks, RECIPE, runs=2).last
    assert accuracy.curve[-1][1] == pytest.approx(sum(expected) / 2)
    assert accuracy.curve[-1][1] > 0.3


def test_a_step_size_that_is_learned_with_the_set_trains_the_networks(tmp_path: Path) -> None:
    short = replace(RECIPE, epochs=4)
    callbacks = [CondensedAccuracy(2, recipe=recipe) for recipe in (short, replace(short, learning_rate=0.05), short)]
    for accuracy, kind in zip(callbacks, (WithStepSize, DistributionMatching, DistributionMatching), strict=True):
        run(tmp_path, accuracy, steps=2, kind=kind)
    assert callbacks[0].curve == callbacks[1].curve != callbacks[2].curve


def test_a_step_of_several_batches_is_judged_once(tmp_path: Path) -> None:
    accuracy = CondensedAccuracy(2, recipe=replace(RECIPE, epochs=1), test_images=50)
    run(tmp_path, accuracy, steps=8, accumulate=2)
    assert [step for step, _ in accuracy.curve] == [0, 2, 4]


def test_other_networks_may_judge_and_the_curve_travels_with_the_checkpoint(tmp_path: Path) -> None:
    networks = {"own": None, "other": partial(NETWORK, width=4)}
    networks = {"own": None, "other": partial(NETWORK, width=4)}
    own, other = (CondensedAccuracy(4, network=network, recipe=RECIPE, name=name) for name, network in networks.items())
    run(tmp_path, own, other)
    assert own.curve != other.curve
    resumed = CondensedAccuracy()
    resumed.load_state_dict(own.state_dict())
    assert resumed.curve == own.curve


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="every_n_steps"):
        CondensedAccuracy(0)
    with pytest.raises(TypeError, match="CondensedAccuracy needs a Condensation"):
        L.Trainer(callbacks=[CondensedAccuracy()], logger=False, default_root_dir=tmp_path).fit(BoringModel())


class OtherHeldOut(DigitsDataModule):
    """Held-out images whose classes are in another order."""

    def load(self, train: bool) -> ImageSource:
        source = super().load(train)
        return source if train else replace(source, class_names=source.class_names[::-1])


def test_held_out_images_have_the_classes_of_the_training_images(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"class_names: training images have .*give class_names"):
        run(tmp_path, CondensedAccuracy(2, recipe=RECIPE), data=OtherHeldOut())
