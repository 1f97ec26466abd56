"""The device refuses what an accelerator refuses, and computes what the CPU computes."""

import pytest
import torch
from torch import nn

from tests.helpers.virtual_device import DEVICE, VirtualDevice, VirtualTensor


def test_tensors_of_two_devices_do_not_mix() -> None:
    here = torch.arange(6.0).view(2, 3)
    with VirtualDevice():
        there = here.to(DEVICE)
        assert (type(there), there.device) == (VirtualTensor, DEVICE)
        assert (there + torch.tensor(1.0)).device == DEVICE
        assert (there[torch.tensor([1])].device, there.cpu().device.type) == (DEVICE, "cpu")
        for mix in (lambda: there + here, lambda: torch.cat([here, there]), lambda: here[torch.tensor([1]).to(DEVICE)]):
            with pytest.raises(RuntimeError, match="one device"):
                mix()


def test_generators_of_the_cpu_do_not_draw_on_the_device() -> None:
    generator = torch.Generator()
    with VirtualDevice(), torch.device(DEVICE):
        assert torch.rand(2).device == DEVICE
        assert torch.rand(2, generator=generator, device="cpu").device.type == "cpu"
        for draw in (torch.rand, torch.randperm):
            with pytest.raises(RuntimeError, match="expected a generator"):
                draw(2, generator=generator)


def test_a_network_is_trained_to_the_same_bits() -> None:
    images = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))

    def trained(device: torch.device | str) -> torch.Tensor:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 2)).to(device)
        optimizer = torch.optim.Adam(network.parameters())
        for _ in range(3):
            optimizer.zero_grad()
            network(images.to(device)).square().mean().backward()
            optimizer.step()
        assert next(network.parameters()).device == torch.device(device)
        return torch.cat([value.detach().flatten().float() for value in network.state_dict().values()]).cpu()

    with VirtualDevice():
        assert torch.equal(trained(DEVICE), trained("cpu"))
