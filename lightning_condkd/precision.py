"""Conversion to float32 at least, for losses and coordinates in any precision of the networks."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(tensor: Tensor) -> Tensor:
    """Return a tensor in float32, or unchanged if it is float32 or wider.

    Args:
        tensor: any floating point tensor.

    Example:
        >>> at_least_float32(torch.ones(1, dtype=torch.bfloat16)).dtype, at_least_float32(torch.ones(1).double()).dtype
        (torch.float32, torch.float64)
    """
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def at_least_float32_dtype() -> torch.dtype:
    """Return the default dtype, or float32 if that is a half type, as in a trainer with true half precision.

    Example:
        >>> at_least_float32_dtype()
        torch.float32
    """
    return torch.promote_types(torch.get_default_dtype(), torch.float32)
