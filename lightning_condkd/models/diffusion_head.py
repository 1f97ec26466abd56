"""The network of a diffusion model of vectors: residual blocks that a condition modulates."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from lightning_condkd.precision import at_least_float32

FREQUENCIES = 256
LONGEST_PERIOD = 10_000


class DiffusionHead(nn.Module):
    """Perceptron that predicts the noise in a token of a feature from the timestep, its place and a condition.

    A linear layer, ``depth`` residual blocks with adaptive layer norm, and a linear output. The sum of embeddings of
    timestep, condition and place modulates all blocks. At first the output is zero: the layers that modulate and the
    last layer are. The other linear layers have Xavier-uniform weights and zero biases, those of the timestep N(0,
    0.02), the places N(0, 1).

    With the published size and tokens of 64 it has about 20 million parameters and as many multiplications for each
    token.

    Args:
        token_size: width d of a token.
        tokens: number of places.
        condition_size: width of the condition.
        width: width of the blocks; 1024 in GenDD.
        depth: number of blocks; 3 in GenDD.
        learn_sigma: whether to predict d more values for the variance, see
            :func:`~lightning_condkd.functional.diffusion.learned_log_variance`.

    Example:
        >>> head = DiffusionHead(token_size=8, tokens=4, condition_size=16, width=32)
        >>> places, timesteps = torch.tensor([0, 3]), torch.tensor([0, 999])
        >>> noise, interpolation = head(torch.randn(2, 8), timesteps, places, torch.randn(2, 16))
        >>> noise.shape, interpolation.shape
        (torch.Size([2, 8]), torch.Size([2, 8]))

    References:
        Li et al.: "Autoregressive Image Generation without Vector Quantization", arXiv 2406.11838.
        Cui et al.: "Generative Distribution Distillation", arXiv 2507.14503.
    """

    def __init__(
        self,
        token_size: int,
        tokens: int,
        condition_size: int,
        *,
        width: int = 1024,
        depth: int = 3,
        learn_sigma: bool = True,
    ) -> None:
        super().__init__()
        self.token_size, self.tokens, self.learn_sigma = token_size, tokens, learn_sigma
        self.input = nn.Linear(token_size, width)
        self.time = nn.Sequential(nn.Linear(FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))
        self.condition = nn.Linear(condition_size, width)
        self.place = nn.Embedding(tokens, width)
        self.blocks = nn.ModuleList(_Block(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))
        self.output = nn.Linear(width, 2 * token_size if learn_sigma else token_size)
        self._initialize()

    def forward(
        self, noisy: Tensor, timesteps: Tensor, places: Tensor, condition: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Return the predicted noise and the values for the variance.

        Args:
            noisy: noisy tokens, ``(N, d)``.
            timesteps: ``(N,)``, counted from 0.
            places: place of each token in its feature, ``(N,)`` int64.
            condition: ``(N, condition_size)``; zeros for none.

        Returns:
            Two of ``(N, d)`` in float32 at least; ``None`` in place of the second without ``learn_sigma``.
        """
        dtype = self.input.weight.dtype
        given = self.time(time_embedding(timesteps, at_least_float32(noisy).dtype).to(dtype)) + self.condition(
            condition.to(dtype)
        )
        given = given + self.place(places)
        hidden = self.input(noisy.to(dtype))
        for block in self.blocks:
            hidden = block(hidden, given)
        shift, scale = self.modulation(given).chunk(2, dim=1)
        output = at_least_float32(self.output(self.norm(hidden) * (1 + scale) + shift))
        return output[:, : self.token_size], output[:, self.token_size :] if self.learn_sigma else None

    def _initialize(self) -> None:
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
        for layer in (self.time[0], self.time[2]):
            nn.init.normal_(cast(nn.Linear, layer).weight, std=0.02)
        modulations = [self.modulation, *(cast(_Block, block).modulation for block in self.blocks)]
        for layer in (self.output, *(modulation[1] for modulation in modulations)):
            nn.init.zeros_(cast(nn.Linear, layer).weight)


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.layers = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 3 * width))

    def forward(self, hidden: Tensor, given: Tensor) -> Tensor:
        shift, scale, gate = self.modulation(given).chunk(3, dim=1)
        return hidden + cast(Tensor, gate * self.layers(self.norm(hidden) * (1 + scale) + shift))


def time_embedding(timesteps: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    r"""Return cosines, then sines of timesteps with 128 periods from :math:`2 \pi` to nearly :math:`20000 \pi`.

    Args:
        timesteps: ``(N,)``.
        dtype: of the result, in which the angles are computed.

    Returns:
        ``(N, 256)``.

    Example:
        >>> time_embedding(torch.tensor([0]))[0, [0, 127, 128, 255]]
        tensor([1., 1., 0., 0.])
    """
    half = FREQUENCIES // 2
    steps = torch.arange(half, dtype=dtype, device=timesteps.device)
    angles = timesteps[:, None] * torch.exp(-math.log(LONGEST_PERIOD) * steps / half)
    return torch.cat([angles.cos(), angles.sin()], dim=1)
