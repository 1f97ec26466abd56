"""Last maps of networks, and checks that they are those that the final layers read."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_condkd.distillation.inputs import NetworkShapes
from lightning_condkd.precision import at_least_float32
from lightning_condkd.types import NetworkOutput

_TOLERANCE = 0.1  # of the length; half precision differs by less, another map by more


def check_width(loss: str, name: str, shapes: NetworkShapes) -> None:
    """Check that the last of the maps has a channel for each input of the final layer.

    Args:
        loss: name of the loss in the message.
        name: the module whose output is the map.
        shapes: of the network's outputs, with the width of the embedding.

    Raises:
        ValueError: if it has another number of channels.
    """
    shape = shapes.maps[-1]
    if shape[0] != shapes.embedding_size:
        raise ValueError(
            f"{loss}: expected the last map before the final layer, which reads the mean over space of "
            f"{shapes.embedding_size} channels, got {shape} (channels, height, width) from {name}: name the last stage"
        )


@torch.no_grad()
def check_read(loss: str, name: str, found: Tensor, expected: Tensor) -> None:
    """Check that values computed from a map are those of the network, up to a factor and where dropout left them.

    Args:
        loss: name of the loss in the message.
        name: the module whose output is the map.
        found: values computed from the map, ``(N, D)``.
        expected: the network's, the same shape.

    Raises:
        ValueError: if they are others.

    Example:
        >>> check_read("CATKD", "layer3", torch.tensor([[1.0, 2.0]]), torch.tensor([[2.0, 0.0]]))
    """
    expected = at_least_float32(expected)
    found = torch.where(expected == 0, 0, at_least_float32(found))
    scale = (found * expected).sum() / found.square().sum().clamp(min=torch.finfo(found.dtype).tiny)
    if not (expected - scale * found).norm() <= _TOLERANCE * expected.norm():
        raise ValueError(
            f"{loss}: expected the last map before the final layer, whose mean over space (or whose values) that layer "
            f"reads, {name} is another: name the last stage, in WideResNet 'bn1', in SmallImageVGG 'block4'. ReLU is "
            "applied to it: a network whose last activation is another needs rectify=False where the loss has it"
        )


def last_maps(
    loss: str, student: NetworkOutput, teacher: NetworkOutput, *, rectify: bool, check: bool
) -> tuple[Tensor, Tensor]:
    """Return the last map of the student's record and of the teacher's, after ReLU if asked.

    Args:
        loss: name of the loss in the message.
        student: output of the student with embedding and maps.
        teacher: output of the teacher, likewise.
        rectify: whether to apply ReLU.
        check: whether to check that their means over space are the embeddings.

    Raises:
        ValueError: if they are others.
    """
    maps = []
    for who, output in (("student", student), ("teacher", teacher)):
        maps.append(F.relu(output.maps[-1]) if rectify else output.maps[-1])
        if check:
            check_read(loss, f"the {who}'s", maps[-1].mean((2, 3)), cast(Tensor, output.embedding))
    return maps[0], maps[1]
