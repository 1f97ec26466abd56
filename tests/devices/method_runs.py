"""Runs every method on the CPU and on the virtual device, in a process that no other test has used; prints JSON."""

from __future__ import annotations

import json

import torch

from tests.helpers import contract
from tests.helpers.virtual_device import VirtualDevice, trainer_arguments


def differences(name: str) -> dict[str, float]:
    """The largest difference of every tensor that is not equal to the bit."""
    torch.manual_seed(0)
    here = contract.fit(name, weight=5.0).state()
    with VirtualDevice():
        there = contract.fit(name, weight=5.0, **trainer_arguments()).state()
    assert VirtualDevice.convolutions > 0
    assert here.keys() == there.keys()
    unequal = (key for key in here if not torch.equal(here[key], there[key]))
    return {key: float((here[key].double() - there[key].double()).abs().max()) for key in unequal}


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps({name: differences(name) for name in contract.methods()}))
