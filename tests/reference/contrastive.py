"""Instance discrimination in the teacher's feature space, pair by pair: arXiv 2105.08584 and its code."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.reference.kd import softmax


def contrastive_loss(
    local: list[Tensor], main: list[Tensor], bank_local: list[Tensor], bank_main: list[Tensor], temperature: float
) -> Tensor:
    """Mean over current images plus mean over remembered ones, each against all images."""
    losses = []
    for position, view in enumerate([*local, *bank_local]):
        similarities = []
        for other in [*main, *bank_main]:
            similarities.append(sum((a * b for a, b in zip(view, other.detach(), strict=True)), torch.zeros(())))
        losses.append(-torch.log(softmax(torch.stack(similarities), temperature)[position]))
    current, remembered = losses[: len(local)], losses[len(local) :]
    total = sum(current, torch.zeros(())) / len(current)
    return total + sum(remembered, torch.zeros(())) / len(remembered) if remembered else total


def features(network: nn.Module, images: Tensor) -> Tensor:
    """For each image the means of every channel that enters a BatchNorm layer, layer after layer."""
    inputs: list[Tensor] = []
    layers = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    handles = [layer.register_forward_pre_hook(lambda _, args: inputs.append(args[0])) for layer in layers]
    network(images)
    for handle in handles:
        handle.remove()
    return torch.stack([torch.stack([c.mean() for maps in inputs for c in maps[n]]) for n in range(len(images))])


def projected(rows: Tensor, first: nn.Linear, second: nn.Linear) -> list[Tensor]:
    """Two layers with a ReLU between them, every result brought to length 1."""
    vectors = []
    for row in rows:
        hidden = first.weight @ row + first.bias
        out = second.weight @ torch.where(hidden > 0, hidden, 0.0) + second.bias
        vectors.append(out / torch.sqrt((out * out).sum()))
    return vectors
