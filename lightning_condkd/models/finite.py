"""Whether the weights and statistics of a network are numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedTensorMixin  # type: ignore[attr-defined]
from torch.nn.utils import get_total_norm

from lightning_condkd.messages import listed

_BOUNDED = ("weight", "bias", "running_mean", "running_var")


def broken_tensors(state: Mapping[str, Tensor]) -> list[str]:
    """Return the names of tensors that hold NaN, or infinity where weights or BatchNorm statistics should be.

    Infinity elsewhere may be meant, as in the mask of an attention layer.

    Args:
        state: tensors by name, as of ``state_dict``.

    Example:
        >>> broken_tensors({"linear.weight": torch.tensor([torch.inf]), "mask": torch.tensor([-torch.inf])})
        ['linear.weight']
    """
    return [name for name, value in state.items() if _is_broken(value, bounded=name.split(".")[-1] in _BOUNDED)]


def broken_parts(module: nn.Module) -> list[str]:
    """Return the names of a module's parameters and buffers that are not finite, see :func:`broken_tensors`.

    Args:
        module: the module; parameters must be finite whatever they are called.

    Example:
        >>> linear = nn.Linear(2, 1)
        >>> _ = linear.bias.data.fill_(torch.nan)
        >>> broken_parts(linear)
        ['bias']
    """
    parameters = [name for name, value in module.named_parameters() if _is_broken(value, bounded=True)]
    return [*parameters, *broken_tensors(dict(module.named_buffers()))]


def all_finite(modules: Iterable[nn.Module], but: tuple[str, ...] = ()) -> Tensor:
    """Return whether modules are free of what :func:`broken_parts` names, a boolean scalar on their device.

    Nothing waits for the device, and large weights do not count as infinite.

    Args:
        modules: the modules.
        but: beginnings of the names of buffers that are not looked at.
    """
    bounded: list[Tensor] = []
    others: list[Tensor] = []
    for module in modules:
        bounded += module.parameters()
        for name, buffer in module.named_buffers():
            leaf = name.split(".")[-1]
            if not leaf.startswith(but):
                (bounded if leaf in _BOUNDED else others).append(buffer)
    largest, other = _largest(bounded), _largest(others)
    return largest.isfinite() & other.isnan().logical_not().to(largest.device)


def check_finite(name: str, module: nn.Module, cure: str) -> None:
    """Check that a module is free of what :func:`broken_parts` names.

    Args:
        name: what it is, for the message.
        module: the module.
        cure: what to do if it is not.

    Raises:
        ValueError: if it is not.
    """
    if broken := broken_parts(module):
        raise ValueError(f"{name} holds NaN or infinity in {listed(broken)}: {cure}")


def _has_numbers(tensor: Tensor) -> bool:
    ready = not (isinstance(tensor, UninitializedTensorMixin) or tensor.is_meta)
    return ready and (tensor.is_floating_point() or tensor.is_complex()) and tensor.numel() > 0


def _is_broken(tensor: Tensor, bounded: bool) -> bool:
    if not _has_numbers(tensor):
        return False
    bad = tensor.isfinite().logical_not() if bounded else tensor.isnan()
    return bool(bad.any())


def _largest(tensors: list[Tensor]) -> Tensor:
    """Return the largest magnitude, NaN where there is one: a norm that cannot overflow."""
    there = [tensor.detach() for tensor in tensors if _has_numbers(tensor)]
    return get_total_norm(there, norm_type=torch.inf) if there else torch.zeros(())
