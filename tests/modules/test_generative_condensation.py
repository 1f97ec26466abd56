from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor

from lightning_condkd.augment import SiameseAugment
from lightning_condkd.cli import main
from lightning_condkd.condensation.generative import ConditionalGAN, SelfDistillation
from lightning_condkd.condensation.parts.matching_pool import MatchingPool
from lightning_condkd.data.condensed import CondensedSet
from lightning_condkd.data.image_datamodules import DigitsDataModule, ImageDataModule
from lightning_condkd.data.image_source import ImageSource
from lightning_condkd.models import ConvNet, DigitsNet, FreshNetworks, Observer
from lightning_condkd.modules.generative_condensation import GenerativeCondensation
from tests.conftest import ROOT
from tests.modules.test_condensation import SaveAt, Uneven

MEAN, STD = (0.3059,), (0.3754,)


class Recorded(GenerativeCondensation):
    """Notes which parameters each backward pass changes the gradient of, and may break a loss at a step."""

    breaks: tuple[int, str] | None = None

    def on_fit_start(self) -> None:
        self.known: dict[str, Tensor] = {}
        self.reached: list[set[str]] = []

    def on_after_backward(self) -> None:
        gradients = {name: p.grad.clone() for name, p in self.named_parameters() if p.grad is not None}
        same = {name for name, g in gradients.items() if name in self.known and torch.equal(g, self.known[name])}
        self.reached.append({name.rsplit(".", 1)[0] for name in set(gradients) - same})
        self.known = gradients

    def on_train_batch_start(self, batch: object, batch_idx: int) -> None:
        if self.breaks and self.iterations == self.breaks[0]:
            network = getattr(self.gan, self.breaks[1])
            next(network.parameters()).data.fill_(float("nan"))


def module(folder: Path, channels: int = 3, classes: int = 3, **arguments: Any) -> Recorded:
    network = partial(ConvNet, classes, image_size=8, in_channels=channels, depth=1, width=4, norm="batch")
    networks, augment = FreshNetworks(network), SiameseAugment("crop_cutout")
    pool = MatchingPool(networks, size=2, lifetime=2, training_batches=1, augment=augment)
    gan = ConditionalGAN(latent_size=4, width=4, batch_size=8)
    defaults = {
        "gan": gan,
        "matching": SelfDistillation(batch_size=6),
        "gan_epochs": 1,
        "steps_per_epoch": 3,
        "ipc": 2,
        "seed": 1,
        "output": folder / "set.safetensors",
    }
    return Recorded(pool, **{**defaults, **arguments})


def fit(
    model: GenerativeCondensation,
    *callbacks: L.Callback,
    epochs: int = 3,
    data: Any = None,
    max_steps: int = -1,
    **more: Any,
) -> L.Trainer:
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        max_steps=max_steps,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=model.output.parent,
    )
    trainer.fit(model, Uneven() if data is None else data, **more)
    return trainer


def test_each_step_reaches_its_own_network_and_never_the_pool(tmp_path: Path) -> None:
    model = module(tmp_path)
    assert fit(model).global_step == 9
    assert len(model.reached) == 18
    for turn, name in enumerate(("gan.generator.", "gan.critic.")):
        for reached in model.reached[turn::2]:
            assert reached
            assert all(layer.startswith(name) for layer in reached)
    every = {name.rsplit(".", 1)[0] for name, _ in model.gan.named_parameters()}
    assert {layer.removeprefix("gan.") for layer in set().union(*model.reached)} == every
    assert all(parameter.grad is None for parameter in model.pool.parameters())
    assert int(model.pool.ages.sum()) > 0


def test_both_stages_run_with_their_own_rate_and_batch(tmp_path: Path) -> None:
    seen = []

    class Watch(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
            rates = {group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups}
            steps = {int(s["step"]) for optimizer in trainer.optimizers for s in optimizer.state.values()}
            seen.append((*rates, *steps, "generator/matching" in trainer.callback_metrics))

    fit(module(tmp_path), Watch(), epochs=2)
    first, second = [(1e-4, n, False) for n in (1, 2, 3)], [(pytest.approx(5e-6), n) for n in (1, 2, 3)]
    assert seen[:3] == first
    assert [entry[:2] for entry in seen[3:]] == second


def test_a_resumed_run_takes_the_rates_that_it_is_given(tmp_path: Path) -> None:
    path, rates = tmp_path / "middle.ckpt", []

    class Watch(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
            rates.append({group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups})

    fit(module(tmp_path), SaveAt(2, path))
    gan = ConditionalGAN(latent_size=4, width=4, batch_size=8, learning_rate=1e-6)
    fit(module(tmp_path, gan=gan, matching=SelfDistillation(batch_size=6, learning_rate=3e-5)), Watch(), ckpt_path=path)
    assert rates == [{1e-6}] + 6 * [{3e-5}]


def test_a_run_without_its_second_stage_says_so(tmp_path: Path) -> None:
    model = module(tmp_path, gan_epochs=2)
    with pytest.warns(UserWarning, match="max_epochs=2 ends in the first of two stages"):
        fit(model, epochs=2)
    assert CondensedSet.load(model.output).info.method == "conditional GAN"
    with pytest.warns(UserWarning, match=r"max_steps=3 \(epochs of 3\) ends in the first of two stages"):
        fit(module(tmp_path), epochs=2, max_steps=3)
    model = module(tmp_path)
    fit(model, epochs=2, max_steps=4)
    assert CondensedSet.load(model.output).info.method.startswith("generative self-distillation")


@pytest.mark.parametrize("step", [2, 3, 5])
def test_a_resumed_run_equals_an_uninterrupted_one(step: int, tmp_path: Path) -> None:
    path = tmp_path / "middle.ckpt"
    whole, resumed = module(tmp_path / "whole"), module(tmp_path / "resumed", seed=2)
    fit(whole, SaveAt(step, path))
    fit(resumed, ckpt_path=path)
    assert whole.output.read_bytes() == resumed.output.read_bytes()
    states = whole.state_dict(), resumed.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    other = module(tmp_path / "other", seed=2)
    fit(other)
    assert not torch.equal(other.gan.generator.to_image.weight, whole.gan.generator.to_image.weight)


def test_an_exported_set_is_balanced_recorded_and_depends_on_its_seed_alone(tmp_path: Path) -> None:
    model = module(tmp_path)
    fit(model)
    condensed = CondensedSet.load(model.output)
    assert condensed.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert condensed.image_shape == (3, 8, 8)
    assert condensed.images.min() >= 0
    assert condensed.images.max() <= 1
    assert condensed.info.method == "generative self-distillation (our reconstruction)"
    assert (condensed.info.seed, condensed.info.class_names) == (1, ("many", "some", "few"))
    assert (condensed.info.settings["iterations"], condensed.info.settings["gan_iterations"]) == (9, 3)
    assert condensed.info.settings["matching"]["temperature"] == 4.0
    assert torch.equal(model.export(2, seed=1).images, condensed.images)
    assert not torch.equal(model.export(2, seed=2).images, condensed.images)
    assert model.export(5, seed=0).counts.tolist() == [5, 5, 5]


def test_a_set_can_be_exported_from_a_checkpoint_without_the_data(tmp_path: Path) -> None:
    model, path = module(tmp_path), tmp_path / "last.ckpt"
    fit(model, SaveAt(9, path))
    fresh = GenerativeCondensation.load_from_checkpoint(
        path, pool=module(tmp_path).pool, gan=ConditionalGAN(latent_size=4, width=4)
    )
    assert torch.equal(fresh.export(3, seed=5).images, model.export(3, seed=5).images)
    assert fresh.export(1, seed=5).info.settings["iterations"] == 9


def test_with_weight_zero_there_is_only_a_gan(tmp_path: Path) -> None:
    model = module(tmp_path, matching=SelfDistillation(weight=0.0, batch_size=6))
    trainer = fit(model)
    assert not any(name.startswith("pool") for name in model.state_dict())
    assert "generator/matching" not in trainer.callback_metrics
    assert CondensedSet.load(model.output).info.method == "conditional GAN"
    matched = module(tmp_path / "matched")
    assert "generator/matching" in fit(matched).callback_metrics
    first = (m.gan.generator.to_image.weight for m in (model, matched))
    assert not torch.equal(*first)


def test_the_first_stage_does_not_depend_on_the_second(tmp_path: Path) -> None:
    states = []
    for matching in (SelfDistillation(weight=0.0), SelfDistillation(weight=3.0, batch_size=6)):
        model = module(tmp_path, matching=matching)
        fit(model, epochs=1)
        states.append(model.gan.state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


@pytest.mark.parametrize(("network", "step"), [("critic", 0), ("critic", 4), ("generator", 2), ("generator", 4)])
def test_a_loss_that_is_not_finite_stops_with_the_last_good_set(network: str, step: int, tmp_path: Path) -> None:
    model = module(tmp_path)
    model.breaks = (step, network)
    cure = "matching.learning_rate or" if step >= 3 else "Lower gan.learning_rate"
    with pytest.raises(FloatingPointError, match=cure):
        fit(model)
    condensed = CondensedSet.load(model.output)
    assert condensed.info.settings["iterations"] == max(0, step - 1)
    assert condensed.images.isfinite().all()


def test_a_last_step_that_breaks_the_generator_is_undone(tmp_path: Path) -> None:
    class Break(L.Callback):
        def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
            next(pl_module.gan.generator.parameters()).data.fill_(float("nan"))

    model = module(tmp_path)
    fit(model, Break(), epochs=1)
    assert CondensedSet.load(model.output).info.settings["iterations"] == 2


class WithoutClass(ImageDataModule):
    """A class that nobody has seen."""

    def load(self, train: bool) -> ImageSource:
        return ImageSource(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.tensor([0, 0, 2, 2]), ("a", "b", "c"))


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="class 'b' has 0 training images, expected at least 1: add one"):
        fit(module(tmp_path), data=WithoutClass())
    with pytest.raises(TypeError, match="ImageDataModule"):
        fit(module(tmp_path), data=L.LightningDataModule())
    with pytest.raises(ValueError, match=r"expected 3 classes as in the data, ConvNet returns logits of shape .2, 4"):
        fit(module(tmp_path, classes=4))
    with pytest.raises(RuntimeError, match="generator is made when"):
        module(tmp_path).export(1, 0)
    for name in ("ipc", "steps_per_epoch"):
        with pytest.raises(ValueError, match=name):
            module(tmp_path, **{name: 0})
    with pytest.raises(ValueError, match="safetensors"):
        module(tmp_path, output="set.pt")
    model = module(tmp_path)
    fit(model, epochs=1)
    with pytest.raises(ValueError, match="make a new module"):
        fit(model, data=DigitsDataModule())


def test_the_recipe_runs_from_the_command_line(tmp_path: Path) -> None:
    output = tmp_path / "set.safetensors"
    small = ["--trainer.max_epochs=2", "--model.init_args.gan_epochs=1", "--model.init_args.steps_per_epoch=2"]
    quiet = [f"--trainer.default_root_dir={tmp_path}", "--trainer.enable_progress_bar=false", "--trainer.logger=false"]
    recipe = str(ROOT / "configs" / "digits" / "generative.yaml")
    with torch.random.fork_rng():
        main(["fit", "--config", recipe, *small, *quiet, f"--model.init_args.output={output}"])
    condensed = CondensedSet.load(output)
    assert (condensed.ipc, condensed.num_classes, condensed.info.settings["iterations"]) == (10, 10, 4)


def test_the_gan_learns_classes_that_a_teacher_reads(tmp_path: Path) -> None:
    teacher = Observer(DigitsNet(), MEAN, STD, weights="package:digits-teacher.safetensors").freeze()

    def accuracy(steps: int) -> float:
        gan = ConditionalGAN(latent_size=16, width=16, batch_size=32, learning_rate=4e-3)
        model = module(tmp_path, 1, 10, gan=gan, gan_epochs=1, steps_per_epoch=steps)
        fit(model, epochs=1, data=DigitsDataModule())
        condensed = model.export(20, seed=0)
        return float((teacher(condensed.images).logits.argmax(1) == condensed.labels).float().mean())

    assert accuracy(1) < 0.25
    assert accuracy(150) > 0.5
