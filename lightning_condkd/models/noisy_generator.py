"""NAYER's generator: class vectors through noisy linear layers, then a decoder to images."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from lightning_condkd.randomness import seeded_initialization


class NoisyGenerator(nn.Module):
    """Map class vectors to different images by linear layers whose weights are noise.

    The vectors pass a BatchNorm and a "noisy" linear layer, one for every ``chunk_size`` rows of the batch, and the
    decoder turns the results into images. With one row of each class in a chunk, two images of a class come from
    different layers. The BatchNorm uses the vectors of the global batch, on every rank the same.

    Args:
        decoder: network from ``(N, noise_size)`` to images ``(N, C, H, W)`` in the units of [0, 1].
        batch_size: rows of the global batch.
        chunk_size: rows that share a noisy layer.
        vector_size: length of a class vector.
        noise_size: length of a noisy layer's output.

    Example:
        >>> from lightning_condkd.models import ConvGenerator
        >>> decoder = ConvGenerator((1, 8, 8), latent_size=16, width=4)
        >>> generator = NoisyGenerator(decoder, batch_size=6, chunk_size=3, vector_size=5, noise_size=16)
        >>> generator(torch.randn(3, 5).repeat(2, 1)).shape, len(generator.noisy)
        (torch.Size([6, 1, 8, 8]), 2)

    References:
        Tran et al.: "NAYER: Noisy Layer Data Generation for Efficient and Effective Data-free Knowledge Distillation",
        CVPR 2024, arXiv 2310.00258.
    """

    def __init__(
        self, decoder: nn.Module, *, batch_size: int, chunk_size: int, vector_size: int, noise_size: int
    ) -> None:
        super().__init__()
        self.chunk_size = chunk_size
        self.norm = nn.BatchNorm1d(vector_size)
        self.noisy = nn.ModuleList(nn.Linear(vector_size, noise_size) for _ in range(-(-batch_size // chunk_size)))
        self.decoder = decoder

    def forward(self, vectors: Tensor, rows: slice = slice(None)) -> Tensor:
        """Return images ``(N, C, H, W)``, pixels in the units of [0, 1].

        Args:
            vectors: ``(B, vector_size)``, those of the global batch.
            rows: the N rows to render, in ascending order.
        """
        inputs = self.norm(vectors)[rows]
        chunks = torch.arange(len(vectors), device="cpu")[rows] // self.chunk_size
        parts = inputs.split(chunks.bincount(minlength=len(self.noisy)).tolist())
        noise = [layer(part) for layer, part in zip(self.noisy, parts, strict=True)]
        images: Tensor = self.decoder(torch.cat(noise))
        return images

    @torch.no_grad()
    def draw_noise(self, generator: torch.Generator) -> None:
        """Draw the noisy layers anew: weights N(0, 1), biases 0.

        Args:
            generator: source of the numbers, on the CPU; they do not depend on the device of the parameters.
        """
        for layer in self.noisy:
            weight = layer.get_parameter("weight")
            noise = torch.randn(weight.shape, generator=generator, device=generator.device, dtype=weight.dtype)
            weight.copy_(noise)
            layer.get_parameter("bias").zero_()


def parameters_without_reset(network: nn.Module) -> list[str]:
    """Return the names of the parameters that :func:`reset_layers` cannot reset.

    Args:
        network: any network.

    Example:
        >>> parameters_without_reset(nn.Sequential(nn.Linear(2, 2), nn.ParameterList([torch.zeros(2)])))
        ['1.0']
    """
    owners = ((name, layer) for name, layer in network.named_modules() if not hasattr(layer, "reset_parameters"))
    own = ((prefix, name) for prefix, layer in owners for name, _ in layer.named_parameters(recurse=False))
    return [f"{prefix}.{name}".removeprefix(".") for prefix, name in own]


@torch.no_grad()
def reset_layers(network: nn.Module, generator: torch.Generator) -> None:
    """Give every layer new initial values in place, those of its class (``reset_parameters``).

    Args:
        network: the network.
        generator: source of the numbers, on the CPU; they do not depend on the device of the parameters.

    Raises:
        ValueError: if a parameter belongs to a layer without ``reset_parameters``.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> reset_layers(layer, torch.Generator().manual_seed(0))
        >>> before = layer.weight.clone()
        >>> reset_layers(layer, torch.Generator().manual_seed(0))
        >>> torch.equal(layer.weight, before)
        True
    """
    if missing := parameters_without_reset(network):
        raise ValueError(f"no reset_parameters() resets {', '.join(missing)}: write it in their layers")
    fresh = copy.deepcopy(network).cpu()
    with seeded_initialization(generator):
        for layer in fresh.modules():
            reset = getattr(layer, "reset_parameters", None)
            if reset is not None:
                reset()
    network.load_state_dict(fresh.state_dict())
