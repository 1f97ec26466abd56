"""Every method, guided, on a device of its own: the run is that of the CPU to the bit."""

from typing import Any

import pytest

from lightning_condkd.alignment import (
    ACGANDiscriminator,
    Discriminator,
    FeatureAlignment,
    ProjectionDiscriminator,
    UnconditionalDiscriminator,
)
from lightning_condkd.augment import DifferentiableAugment
from lightning_condkd.modules import CondKD
from tests.helpers import contract, toy
from tests.helpers.virtual_device import VirtualDevice, trainer_arguments

SILU = {"DiffDFKD"}  # networks of diffusers have it, and its gradient has another last digit on this device


@pytest.mark.parametrize("name", contract.methods())
def test_every_method_runs_on_a_device(name: str) -> None:
    here = contract.fit(name, weight=5.0)
    with VirtualDevice():
        there = contract.fit(name, weight=5.0, **trainer_arguments())
    assert VirtualDevice.convolutions > 0
    if name in SILU:
        for key, value in here.state().items():
            apart = float((value.double() - there.state()[key].double()).abs().nan_to_num().max())
            assert apart <= (1 if key == "bank" else 1e-3), key
    else:
        assert toy.same(here.state(), there.state())


@pytest.mark.parametrize("kind", [ACGANDiscriminator, ProjectionDiscriminator, UnconditionalDiscriminator])
@pytest.mark.parametrize("mix", ["union", 0.5, "two_term"])
def test_every_discriminator_and_mixture_runs_on_a_device(kind: type[Discriminator], mix: Any) -> None:
    def module() -> CondKD:
        augment = DifferentiableAugment(("flip", "translation", "cutout", "color"))
        return toy.condkd(alignment=FeatureAlignment(kind((16,)), weight=5.0, augment=augment))

    here = toy.fit(module(), mix=mix)
    with VirtualDevice():
        there = toy.fit(module(), mix=mix, **trainer_arguments())
    assert VirtualDevice.convolutions > 0
    assert toy.same(here.state(), there.state())
