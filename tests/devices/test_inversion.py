"""Every method, guided, on a device of its own: the run is that of the CPU to the bit."""

import json
import subprocess
import sys
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
from tests.conftest import ROOT
from tests.helpers import contract, toy
from tests.helpers.environment import environment
from tests.helpers.virtual_device import VirtualDevice, trainer_arguments

SILU = {"DiffDFKD"}  # networks of diffusers have it, and its gradient has another last digit on this device


@pytest.fixture(scope="module")
def differences() -> dict[str, dict[str, float]]:
    """Of all methods, from a process of its own: what other tests leave in this one may change a last digit."""
    line = [sys.executable, "-m", "tests.devices.method_runs"]
    variables = environment(OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT))
    done = subprocess.run(line, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, float]] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("name", contract.methods())
def test_every_method_runs_on_a_device(name: str, differences: dict[str, dict[str, float]]) -> None:
    if name in SILU:
        for key, apart in differences[name].items():
            assert apart <= (1 if key == "bank" else 1e-3), key
    else:
        assert differences[name] == {}


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
