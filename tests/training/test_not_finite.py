"""What holds NaN or infinity before a run is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_condkd.alignment import ACGANDiscriminator, FeatureAlignment
from lightning_condkd.data import CondensedDataModule
from lightning_condkd.inversion import GeneratorSettings
from lightning_condkd.models import Observer
from lightning_condkd.models.finite import all_finite, broken_parts
from lightning_condkd.models.weights import load_weights
from lightning_condkd.modules import CondKD
from lightning_condkd.training.batches import real_batch
from tests.helpers import contract, toy

TENSORS = ("features.0.weight", "features.1.running_mean", "features.1.running_var", "linear.bias")


def broken(name: str, tensor: str, value: float = torch.nan) -> nn.Module:
    network = toy.network(name)
    network.state_dict()[tensor].view(-1)[-1] = value
    return network


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("tensor", TENSORS)
def test_a_broken_teacher_is_refused(tensor: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"holds NaN or infinity in network.{tensor}: load the weights"):
        toy.condkd(teacher=toy.observed(broken("teacher", tensor, value)))


@pytest.mark.parametrize("name", contract.methods())
def test_a_teacher_that_breaks_before_the_fit_is_refused(name: str) -> None:
    model = toy.condkd(contract.make(name))
    model.teacher.network.features[1].running_var[0] = torch.nan  # type: ignore[index, union-attr]
    with pytest.raises(ValueError, match=r"the teacher holds NaN or infinity in network.features.1.running_var"):
        toy.fit(model, mix=contract.mix(model.inversion))


@pytest.mark.parametrize("tensor", TENSORS)
def test_a_broken_student_is_refused(tensor: str) -> None:
    with pytest.raises(ValueError, match=f"the student to begin with holds NaN or infinity in network.{tensor}"):
        toy.fit(toy.condkd(student=broken("student 1", tensor)))


class Broken(ACGANDiscriminator):
    def build_heads(self, width: int, num_classes: int) -> None:
        super().build_heads(width, num_classes)
        next(self.parameters()).data.fill_(torch.nan)


def _spoiled_generator() -> nn.Module:
    generator = toy.small_generator()
    generator.project.bias.data[0] = torch.nan
    return generator


@pytest.mark.parametrize(
    ("model", "match"),
    [
        (
            lambda: toy.condkd(alignment=FeatureAlignment(Broken())),
            "the alignment holds NaN or infinity in discriminator",
        ),
        (
            lambda: toy.condkd(toy.fast(generator=GeneratorSettings(network=_spoiled_generator()))),
            r"the inversion holds .*meta.project.bias",
        ),
    ],
    ids=["discriminator", "generator"],
)
def test_a_broken_part_is_refused(model: Callable[[], CondKD], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        toy.fit(model())


def test_measuring_a_broken_student_is_refused() -> None:
    model = toy.condkd(student=broken("student 1", "linear.bias"))
    loader = DataLoader(TensorDataset(torch.rand(4, *toy.SHAPE), torch.zeros(4).long()))
    for call in (toy.silent_trainer().validate, toy.silent_trainer().test):
        with pytest.raises(ValueError, match=r"the student holds NaN or infinity in network.linear.bias"):
            call(model, loader)


@pytest.mark.parametrize("ending", ["pt", "safetensors"])
def test_weights_of_a_diverged_run_are_not_loaded(ending: str, tmp_path: Path) -> None:
    state = broken("teacher", "features.1.running_var", torch.inf).state_dict()
    path = tmp_path / f"weights.{ending}"
    torch.save(state, path) if ending == "pt" else save_file(state, path)
    network = toy.network("teacher")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(ValueError, match=r"weights.* holds NaN or infinity in features.1.running_var"):
        load_weights(network, path)
    assert toy.same(before, dict(network.state_dict()))


@pytest.mark.parametrize("normalization", [{"mean": [torch.nan]}, {"std": [torch.inf]}, {"std": [torch.nan]}])
def test_a_normalisation_is_of_numbers(normalization: dict[str, list[float]]) -> None:
    with pytest.raises(ValueError, match="expected a finite number for each channel"):
        Observer(toy.network("teacher"), **normalization)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_real_images_are_of_numbers(value: float) -> None:
    images = torch.rand(4, *toy.SHAPE)
    images[2, 0, 3, 3] = value
    with pytest.raises(ValueError, match="real images hold NaN or infinity"):
        real_batch((images, torch.zeros(4).long()))
    data = CondensedDataModule(
        toy.condensed_set(), batch_size=8, val_dataloaders=DataLoader(TensorDataset(images, torch.zeros(4).long()))
    )
    with pytest.raises(ValueError, match="real images hold NaN or infinity"):
        toy.silent_trainer(max_epochs=2).fit(toy.condkd(), data)


class Masked(nn.Module):
    """A network with a mask, as attention layers have."""

    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.network = toy.network("student 1")
        self.register_buffer("mask", torch.full((3,), -torch.inf))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        return logits + self.mask.exp()


def test_a_mask_may_be_infinite() -> None:
    run = toy.fit(toy.condkd(teacher=toy.observed(Masked()), student=Masked()), max_epochs=2)
    assert run.trainer.global_step == 2 * toy.CADENCE.length


def test_large_weights_are_finite() -> None:
    """Their squares are not."""
    network = toy.network("teacher")
    network.linear.weight.data.fill_(1e30)
    assert bool(all_finite([network]))
    assert not broken_parts(network)
    network.linear.weight.data[0, 0] = -torch.inf
    assert not bool(all_finite([network]))
    assert bool(all_finite([nn.ReLU()]))
