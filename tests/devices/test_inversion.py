"""Every method, guided, on a device of its own: the run is that of the CPU up to rounding.

SiLU's gradient has another last digit there, and in a whole run of the tests a method's state may have one too.
"""

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


@pytest.mark.parametrize("name", contract.methods())
def test_every_method_runs_on_a_device(name: str) -> None:
    here = contract.fit(name, weight=5.0)
    with VirtualDevice():
        there = contract.fit(name, weight=5.0, **trainer_arguments())
    assert VirtualDevice.convolutions > 0
    ours, theirs = here.state(), there.state()
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        apart = (value.double() - theirs[key].double()).abs().nan_to_num()  # two infinities are equal
        assert bool((apart <= (1 if key == "bank" else 1e-3)).all()), key  # a byte, where a pixel lies between two


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
