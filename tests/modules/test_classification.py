import json
from pathlib import Path

import lightning as L
import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_condkd.augment import CropFlip
from lightning_condkd.data.image_datamodules import DigitsDataModule, ImageDataModule
from lightning_condkd.data.image_source import ImageSource
from lightning_condkd.models import DigitsNet, Observer
from lightning_condkd.models.weights import load_weights
from lightning_condkd.modules.classification import Classification
from tests.helpers.callbacks import SaveAt

MEAN, STD = (0.3059,), (0.3754,)


def classifier(weights: int = 0, /, **arguments: object) -> Classification:
    with torch.random.fork_rng():
        torch.manual_seed(weights)
        network = Observer(DigitsNet(width=8), MEAN, STD)
    return Classification(network, augment=CropFlip(1, 0.0), **arguments)  # type: ignore[arg-type]


def trainer(root: Path, **arguments: object) -> L.Trainer:
    defaults: dict[str, object] = {
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "num_sanity_val_steps": 0,
        "max_epochs": 2,
        "default_root_dir": root,
    }
    return L.Trainer(**{**defaults, **arguments})  # type: ignore[arg-type]


class Lopsided(ImageDataModule):
    """Two classes, three held-out images of one and one of the other."""

    def load(self, train: bool) -> ImageSource:
        labels = torch.tensor([0, 0, 0, 1])
        return ImageSource(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), labels, ("many", "few"))


class Always(nn.Module):
    """Answers class 0 and keeps a last linear layer to be looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 2)
        nn.init.zeros_(self.linear.weight)
        self.linear.bias.data = torch.tensor([1.0, 0.0])

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.linear(images.flatten(1))
        return logits


@pytest.mark.parametrize("eval_batch_size", [3, 500])
def test_accuracy_counts_images_and_loss_is_their_mean(eval_batch_size: int, tmp_path: Path) -> None:
    data = Lopsided(batch_size=4, eval_batch_size=eval_batch_size)
    [values] = trainer(tmp_path).validate(Classification(Observer(Always())), data, verbose=False)
    assert values["val/accuracy"] == pytest.approx(0.75)
    losses = -torch.tensor([1.0, 0.0]).log_softmax(0)
    assert values["val/loss"] == pytest.approx(float(0.75 * losses[0] + 0.25 * losses[1]))
    [values] = trainer(tmp_path).test(Classification(Observer(Always())), data, verbose=False)
    assert values["test/accuracy"] == pytest.approx(0.75)


def test_an_empty_batch_is_skipped(tmp_path: Path) -> None:
    images, labels = torch.zeros(2, 1, 8, 8), torch.tensor([0, 1])
    loader = DataLoader([(images, labels), (images[:0], labels[:0])], batch_size=None)  # type: ignore[arg-type]
    [values] = trainer(tmp_path).validate(Classification(Observer(Always())), loader, verbose=False)
    assert values["val/accuracy"] == 0.5


def test_digits_are_learned_and_the_weights_exported(tmp_path: Path) -> None:
    module, output = classifier(output=tmp_path / "weights.safetensors"), tmp_path / "weights.safetensors"
    trainer(tmp_path, max_epochs=6, limit_val_batches=0).fit(module, DigitsDataModule(batch_size=64))
    [values] = trainer(tmp_path).validate(module, DigitsDataModule(), verbose=False)
    assert values["val/accuracy"] > 0.7
    fresh = DigitsNet(width=8)
    load_weights(fresh, output)
    for name, value in module.network.network.state_dict().items():
        assert torch.equal(value, fresh.state_dict()[name])
    with safe_open(output, framework="pt") as stream:
        assert set(stream.keys()) == set(fresh.state_dict())
        normalization = json.loads(stream.metadata()["normalisation"])
    assert normalization["mean"] == pytest.approx(MEAN)
    assert normalization["std"] == pytest.approx(STD)


@pytest.mark.parametrize("step", [2, 3, 5])
def test_a_resumed_run_equals_an_uninterrupted_one(step: int, tmp_path: Path) -> None:
    path = tmp_path / "middle.ckpt"
    whole, resumed = classifier(0, seed=1), classifier(7, seed=2)
    trainer(tmp_path, callbacks=[SaveAt(step, path)]).fit(whole, DigitsDataModule(batch_size=400, seed=3))
    assert torch.load(path, weights_only=True)["global_step"] == step
    trainer(tmp_path).fit(resumed, DigitsDataModule(batch_size=400, seed=4), ckpt_path=path)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_optimizer_and_schedule_by_default_and_as_given(tmp_path: Path) -> None:
    module = classifier()
    run = trainer(tmp_path, limit_val_batches=0)
    run.fit(module, DigitsDataModule(batch_size=400))
    assert isinstance(run.optimizers[0], torch.optim.SGD)
    assert run.optimizers[0].param_groups[0]["lr"] == pytest.approx(0, abs=1e-8)
    module = classifier(
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=0.25),
        scheduler=lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5),
    )
    run = trainer(tmp_path, limit_val_batches=0)
    run.fit(module, DigitsDataModule(batch_size=400))
    assert isinstance(run.optimizers[0], torch.optim.Adam)
    assert run.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.25 * 0.5**2)


def test_label_smoothing_and_augmentation_reach_the_loss(tmp_path: Path) -> None:
    losses = []
    for arguments in ({}, {"label_smoothing": 0.3}, {"seed": 5}):
        module = classifier(**arguments)
        run = trainer(tmp_path, max_steps=1, max_epochs=1, limit_val_batches=0)
        run.fit(module, DigitsDataModule(batch_size=400, seed=0))
        losses.append(float(run.callback_metrics["train/loss"]))
    assert len(set(losses)) == 3


def test_mistakes_are_named_before_training(tmp_path: Path) -> None:
    module = Classification(Observer(DigitsNet(7, width=8)))
    with pytest.raises(ValueError, match="the data has 10 classes, the network 7"):
        trainer(tmp_path).fit(module, DigitsDataModule())
    with pytest.raises(ValueError, match=r"output: expected a path that ends in \.safetensors"):
        classifier(output="weights.pth")
    with pytest.raises(ValueError, match="max_epochs"):
        trainer(tmp_path, max_epochs=-1).fit(classifier(), DigitsDataModule())
