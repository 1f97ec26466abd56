from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_condkd.augment import SiameseAugment
from lightning_condkd.condensation.expert_files import ExpertFolder, flatten, snapshot_path, unflatten
from lightning_condkd.data.image_datamodules import DigitsDataModule, ImageDataModule
from lightning_condkd.data.image_source import ImageSource
from lightning_condkd.models import ConvNet
from lightning_condkd.models.fresh_networks import FreshNetworks
from lightning_condkd.modules.experts import ExpertTrajectories
from lightning_condkd.randomness import seeded_generator
from tests.helpers.callbacks import SaveAt

MEAN, STD = (0.5,), (0.25,)
NETWORK = partial(ConvNet, 2, image_size=8, in_channels=1, depth=1, width=4)
BATCHES = 3


class Few(ImageDataModule):
    """Random images of two classes, three batches of four in an epoch."""

    def load(self, train: bool) -> ImageSource:
        images = torch.randint(256, (13, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        return ImageSource(images, torch.arange(13) % 2, ("even", "odd"))


def experts(folder: Path, **arguments: Any) -> ExpertTrajectories:
    augment = SiameseAugment("crop_scale_rotate", fill=0.0)
    arguments = {"epochs": 2, "learning_rate": 0.1, "augment": augment, "seed": 1, **arguments}
    return ExpertTrajectories(FreshNetworks(NETWORK, MEAN, STD), output=folder / "experts", **arguments)


def fit(
    module: ExpertTrajectories,
    *callbacks: L.Callback,
    data: Any = None,
    max_epochs: int = 4,
    limit: float = 1.0,
    max_steps: int = -1,
    **more: Any,
) -> L.Trainer:
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=max_epochs,
        max_steps=max_steps,
        limit_train_batches=limit,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=module.output.parent,
    )
    trainer.fit(module, Few(4, seed=0) if data is None else data, **more)
    return trainer


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "experts").iterdir()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run of two experts."""
    folder = tmp_path_factory.mktemp("whole")
    steps = [1, 2, 3, 4, 5, 6, 7, 11, 12]
    trainer = fit(experts(folder), *(SaveAt(step, folder / f"{step}.ckpt") for step in steps))
    assert "val/accuracy" in trainer.callback_metrics
    return folder


def test_every_expert_starts_from_new_weights_and_has_a_snapshot_of_every_epoch(whole: Path) -> None:
    found = ExpertFolder(whole / "experts")
    assert (found.experts, found.info.epochs) == ([0, 1], 2)
    assert (found.info.mean, found.info.std, found.info.training["batch_size"]) == ([0.5], [0.25], 4)
    vectors = [found.read(expert, epoch) for expert in (0, 1) for epoch in (0, 1, 2)]
    assert all(not torch.equal(a, b) for i, a in enumerate(vectors) for b in vectors[:i])
    for expert in (0, 1):
        fresh = FreshNetworks(NETWORK).make(seeded_generator(1, "expert", expert))
        assert torch.equal(found.read(expert, 0), flatten(fresh.network))


def test_an_epoch_is_plain_sgd_on_augmented_batches(whole: Path) -> None:
    found, module, network, data = ExpertFolder(whole / "experts"), experts(whole), NETWORK(), Few(4, seed=0)
    network.load_state_dict(unflatten(found.read(0, 0), found.info.names, found.info.shapes))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    batches: list[tuple[Tensor, Tensor]] = list(data.train_dataloader())  # type: ignore[arg-type]
    assert len(batches) == BATCHES
    for index, (images, labels) in enumerate(batches):
        views = module.augment.sample(4, seeded_generator(1, "augment/0", index))
        optimizer.zero_grad()
        F.cross_entropy(network((module.augment(images / 255, views) - 0.5) / 0.25), labels).backward()
        optimizer.step()
    torch.testing.assert_close(found.read(0, 1), flatten(network))


@pytest.mark.parametrize("step", [1, 2, 3, 4, 5, 6, 7, 11, 12])
def test_a_resumed_run_writes_the_same_bytes(whole: Path, step: int, tmp_path: Path) -> None:
    """In mid-epoch, at the end of an epoch, and at that of an expert."""
    (tmp_path / "experts").mkdir()
    # A snapshot is there from the step that ends its epoch, the one before training from the first step of the expert.
    written = {(e, n): BATCHES * (2 * e + n) + (n == 0) for e in (0, 1) for n in range(3)}
    for expert, epoch in [at for at, first in written.items() if first <= step]:
        source = snapshot_path(whole / "experts", expert, epoch)
        snapshot_path(tmp_path / "experts", expert, epoch).write_bytes(source.read_bytes())
    fit(experts(tmp_path, seed=9), data=Few(4, seed=9), ckpt_path=whole / f"{step}.ckpt")
    assert contents(tmp_path) == contents(whole)


def test_the_same_run_may_be_repeated_and_another_needs_a_folder_of_its_own(tmp_path: Path) -> None:
    fit(experts(tmp_path), max_epochs=2)
    before = contents(tmp_path)
    fit(experts(tmp_path), max_epochs=2)
    assert contents(tmp_path) == before
    with pytest.raises(ValueError, match=r"is of another run.*learning_rate"):
        fit(experts(tmp_path, learning_rate=0.2))
    assert contents(tmp_path) == before


def test_without_augmentation_an_epoch_is_plain_sgd(tmp_path: Path) -> None:
    fit(experts(tmp_path, augment=None, epochs=1), max_epochs=1)
    found, network = ExpertFolder(tmp_path / "experts"), NETWORK()
    network.load_state_dict(unflatten(found.read(0, 0), found.info.names, found.info.shapes))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    batches: list[tuple[Tensor, Tensor]] = list(Few(4, seed=0).train_dataloader())  # type: ignore[arg-type]
    for images, labels in batches:
        optimizer.zero_grad()
        F.cross_entropy(network((images / 255 - 0.5) / 0.25), labels).backward()
        optimizer.step()
    torch.testing.assert_close(found.read(0, 1), flatten(network))


class Others(Few):
    """As many images, but others."""

    def load(self, train: bool) -> ImageSource:
        source = super().load(train)
        return ImageSource(source.images.flip(0), source.labels, source.class_names)


def test_experts_of_other_images_need_a_folder_of_their_own(tmp_path: Path) -> None:
    fit(experts(tmp_path, epochs=1), max_epochs=1)
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=r"is of another run.*'data'"):
        fit(experts(tmp_path, epochs=1), data=Others(4, seed=0), max_epochs=1)
    assert contents(tmp_path) == before
    facts = ExpertFolder(tmp_path / "experts").info.data
    assert (facts["class_names"], facts["image_shape"], facts["images"]) == (["even", "odd"], [1, 8, 8], 13)


def test_a_limited_epoch_has_its_snapshot_too(tmp_path: Path) -> None:
    fit(experts(tmp_path), max_epochs=2, limit=2)
    assert ExpertFolder(tmp_path / "experts").experts == [0]


def test_a_run_that_ends_before_its_last_expert_says_so(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    steps = fit(experts(tmp_path / "whole"), max_epochs=4).global_step
    fit(experts(tmp_path / "same"), max_epochs=4, max_steps=steps)
    assert not [warning for warning in recwarn if "max_steps" in str(warning.message)]
    with pytest.warns(UserWarning, match=r"ends the run in epoch 1 of expert 1, before max_epochs"):
        fit(experts(tmp_path / "short"), max_epochs=4, max_steps=steps - 1)


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="max_epochs=3: expected a multiple of 2"):
        fit(experts(tmp_path), max_epochs=3)
    with pytest.raises(ValueError, match="network: expected 10 classes"):
        fit(experts(tmp_path), data=DigitsDataModule())
    with pytest.raises(TypeError, match="ImageDataModule"):
        fit(experts(tmp_path), data=L.LightningDataModule())
    with pytest.raises(ValueError, match="epochs"):
        experts(tmp_path, epochs=0)
    with pytest.raises(ValueError, match="norm='instance'"):
        ExpertTrajectories(FreshNetworks(partial(NETWORK, norm="batch")))
    assert not (tmp_path / "experts").exists()
