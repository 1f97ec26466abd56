"""A device that is not there: its tensors are computed on the CPU, but refuse what tensors on an accelerator refuse.

Tensors of two devices in one operation, and draws on the device from a generator of the CPU, are errors. Within
:class:`VirtualDevice` anything can be sent to :data:`DEVICE`; runs on it have the numbers of the CPU to the bit.
"""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import torch
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("lazy", 0)  # autograd runs on it in the calling thread, and nothing of its own is ever loaded
aten = torch.ops.aten
COPIES = (aten._to_copy.default, aten.copy_.default)
INDEXING = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default)


class VirtualTensor(Tensor):
    """A tensor on the device; ``inner`` holds its numbers."""

    inner: Tensor

    @staticmethod
    def __new__(cls: type, inner: Tensor) -> VirtualTensor:
        layout = {"strides": inner.stride(), "storage_offset": inner.storage_offset(), "dtype": inner.dtype}
        made = Tensor._make_wrapper_subclass(cls, inner.shape, device=DEVICE, **layout)  # type: ignore[attr-defined]
        made.inner = inner
        return made  # type: ignore[no-any-return]

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _call(func, args, kwargs or {})


class VirtualDevice(TorchDispatchMode):
    """Inside, tensors can be made on the device and sent to it; ``convolutions`` counts those that ran there."""

    convolutions = 0

    def __enter__(self) -> VirtualDevice:
        VirtualDevice.convolutions = 0
        self.lifting = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=...) is then seen here
        self.patch = patch("torch.autocast", _autocast)
        self.patch.start()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.patch.stop()
        torch._C._set_only_lift_cpu_tensors(self.lifting)
        super().__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _call(func, args, kwargs or {})


def _autocast(device_type: str, **arguments: Any) -> Any:
    """Torch's own, which does not know the device."""
    return torch.amp.autocast("cpu" if device_type == DEVICE.type else device_type, **arguments)


def _call(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    there = {id(tensor.inner): tensor for tensor in tensors if isinstance(tensor, VirtualTensor)}
    _check_devices(func, args, tensors)
    on_device = bool(there)
    if kwargs.get("device") is not None:
        on_device = torch.device(kwargs["device"]).type == DEVICE.type
        kwargs = {**kwargs, "device": torch.device("cpu")}
    elif func is aten.copy_.default:
        on_device = isinstance(args[0], VirtualTensor)
    if on_device and kwargs.get("generator") is not None:
        raise RuntimeError(f"{func}: expected a generator on {DEVICE}, found one on the CPU")
    VirtualDevice.convolutions += on_device and "convolution" in str(func)
    result = func(*tree_map(_inner, args), **tree_map(_inner, kwargs))

    def place(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if id(value) in there:
            return there[id(value)]
        return VirtualTensor(value) if on_device else value

    return tree_map(place, result)


def _check_devices(func: Any, args: Any, tensors: list[Tensor]) -> None:
    here = [tensor for tensor in tensors if not isinstance(tensor, VirtualTensor)]
    if func in COPIES or len(here) in (0, len(tensors)):
        return
    if func in INDEXING and isinstance(args[0], VirtualTensor):
        here = [tensor for tensor in here if tensor.dtype not in (torch.int64, torch.bool)]
    if any(tensor.dim() for tensor in here):
        raise RuntimeError(f"{func}: expected all tensors on one device, found some on the CPU and some on {DEVICE}")


def _inner(value: Any) -> Any:
    return value.inner if isinstance(value, VirtualTensor) else value


class _Accelerator(CPUAccelerator):
    def setup_device(self, device: torch.device) -> None:
        """Nothing is there to be set up."""


def trainer_arguments() -> dict[str, Any]:
    """Arguments of a trainer that runs on the device, with it as the default one while the model is configured."""
    return {"accelerator": _Accelerator(), "strategy": SingleDeviceStrategy(DEVICE), "devices": 1}
