"""Maps that show where a classifier sees its classes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_condkd.precision import at_least_float32


def class_activation_maps(maps: Tensor, weight: Tensor) -> Tensor:
    """Return the map of each class: the final layer's weights applied at every position, without bias.

    If the final layer reads the mean of the map over space, the mean of a class's map is its logit without bias.
    Nothing is detached.

    Args:
        maps: last map before the final layer, ``(N, C, H, W)``.
        weight: of the final layer, ``(K, C)``.

    Returns:
        ``(N, K, H, W)`` in float32 at least.

    Raises:
        ValueError: if the channels differ.

    Example:
        >>> class_activation_maps(torch.ones(1, 2, 1, 1), torch.tensor([[1.0, 2.0], [0.0, 4.0]])).flatten()
        tensor([3., 4.])

    References:
        Zhou et al.: "Learning Deep Features for Discriminative Localization", arXiv 1512.04150.
    """
    if maps.dim() != 4 or maps.shape[1] != weight.shape[1]:
        raise ValueError(
            f"expected maps (N, {weight.shape[1]}, H, W) for a final layer of weight {tuple(weight.shape)}, got "
            f"{tuple(maps.shape)}: name the map that this layer reads"
        )
    with torch.autocast(maps.device.type, enabled=False):
        values = at_least_float32(maps)
        return torch.einsum("kc,nchw->nkhw", at_least_float32(weight).to(values), values)


def gradient_weighted_maps(logits: Tensor, classes: Tensor, maps: Sequence[Tensor]) -> list[Tensor]:
    r"""Return each map's sum over channels, weighted by the gradient of a class's logit.

    It is :math:`\sum_c \alpha_c A_c` with :math:`\alpha_c = \mathrm{mean}_{hw} \, \partial z_{\hat y} / \partial A_c`,
    without ReLU. The weights are constants: gradients pass through the maps alone.

    Args:
        logits: ``(N, K)``, with a graph to the maps; the graph is kept.
        classes: class :math:`\hat y` of each image, ``(N,)`` int64.
        maps: one ``(N, C, H, W)`` for each layer.

    Returns:
        One ``(N, H, W)`` in float32 at least for each layer.

    Raises:
        ValueError: if there is no graph, or the logits were not computed from these maps, as where both are a selection
            of rows.

    Example:
        >>> maps = torch.tensor([[[[1.0, 3.0]], [[2.0, 0.0]]]], requires_grad=True)
        >>> logits = torch.stack([maps[:, 0].sum((1, 2)), 2 * maps[:, 1].sum((1, 2))], dim=1)
        >>> gradient_weighted_maps(logits, torch.tensor([1]), [maps])[0]
        tensor([[[4., 0.]]], grad_fn=<SumBackward1>)

    References:
        Selvaraju et al.: "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization",
        arXiv 1610.02391; without its ReLU.
    """
    if not (logits.requires_grad and all(one.requires_grad for one in maps)):
        raise ValueError(
            "expected logits with a graph to the maps: run the network with gradients enabled, a frozen one on images "
            "that require a gradient"
        )
    chosen = logits.gather(1, classes[:, None]).sum()
    gradients = torch.autograd.grad(chosen, list(maps), retain_graph=True, allow_unused=True)
    if any(gradient is None for gradient in gradients):
        raise ValueError(
            "expected maps that the logits were computed from, got others, such as a selection of rows: compare a "
            "whole batch at once, in CondKD with another mix than 'two_term'"
        )
    return [
        (at_least_float32(gradient).mean((2, 3), keepdim=True) * at_least_float32(one)).sum(1)
        for gradient, one in zip(gradients, maps, strict=True)
    ]
