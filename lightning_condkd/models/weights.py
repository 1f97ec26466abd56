"""Reading weights from disk and putting them into a network, whole or not at all."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lightning_condkd.assets import resolve_asset
from lightning_condkd.models.finite import broken_tensors, listed

_NESTS = ("state_dict", "model", "net")
_PREFIXES = ("module.", "model.", "network.", "net.", "_orig_mod.")
_PICKLED = (".pt", ".pth", ".ckpt")


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict on the CPU, without running any code of the file.

    Args:
        path: a ``.safetensors``, ``.pt``, ``.pth`` or ``.ckpt`` file, or ``package:<name>``. In pickled files the state
            dict may lie under ``state_dict``, ``model`` or ``net``.

    Returns:
        Tensors by name.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is of another kind, holds other objects than tensors, or is damaged.

    Example:
        >>> read_state_dict("weights.onnx")
        Traceback (most recent call last):
        ...
        ValueError: expected a file that ends in .safetensors, .pt, .pth or .ckpt, got weights.onnx
    """
    file = resolve_asset(path)
    if file.suffix not in (".safetensors", *_PICKLED):
        raise ValueError(f"expected a file that ends in .safetensors, .pt, .pth or .ckpt, got {path}")
    if not file.is_file():
        raise FileNotFoundError(f"expected a file with weights, found none at {path}")
    content = _read(file)
    while isinstance(content, Mapping) and (nest := _nest(content)):
        content = content[nest]
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise ValueError(f"expected tensors by name in {path}, got {_describe(content)}; save network.state_dict()")
    return dict(content)


def load_weights(network: nn.Module, path: str | Path) -> None:
    """Load a file into a network; nothing is changed unless every key and shape fits.

    Prefixes that wrappers leave (``module.``, ``model.``, ``network.``, ``net.``, ``_orig_mod.``) are taken off where
    that makes keys match. Counters of seen batches (``num_batches_tracked``), which old files lack, may be absent.

    Args:
        network: receives the weights, in its own dtype and on its own device.
        path: see :func:`read_state_dict`.

    Raises:
        ValueError: if keys are missing or unexpected, shapes differ, or values are NaN or infinite; the message lists
            them.
    """
    expected = {name: value for name, value in network.state_dict().items() if isinstance(value, Tensor)}
    state = max(_without_prefixes(read_state_dict(path)), key=lambda candidate: len(candidate.keys() & expected.keys()))
    counters = {name: value for name, value in expected.items() if name.endswith("num_batches_tracked")}
    state = {**counters, **state}
    if problems := "\n".join(_mismatches(expected, state)):
        raise ValueError(f"expected weights of {type(network).__name__} in {path}, but they do not fit:\n{problems}")
    if broken := broken_tensors(state):
        raise ValueError(f"{path} holds NaN or infinity in {listed(broken)}: take the weights of a run that went well")
    network.load_state_dict(state)


def _read(file: Path) -> Any:  # noqa: ANN401
    try:
        return load_file(file) if file.suffix == ".safetensors" else torch.load(file, "cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"expected only tensors in {file}; it is damaged or holds other objects, which could run code: "
            "save network.state_dict(), best as .safetensors"
        ) from error
    except Exception as error:
        raise ValueError(f"expected weights in {file}, but it cannot be read: {error}") from error


def _nest(content: Mapping[str, Any]) -> str | None:
    return next((key for key in _NESTS if isinstance(content.get(key), Mapping)), None)


def _describe(content: object) -> str:
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}"
    others = [f"{key}: {type(value).__name__}" for key, value in content.items() if not isinstance(value, Tensor)]
    return ", ".join(others[:5]) or "nothing"


def _without_prefixes(state: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    yield state
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in state):
            yield from _without_prefixes({name.removeprefix(prefix): value for name, value in state.items()})


def _mismatches(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Iterator[str]:
    yield from (f"  missing: {name} {tuple(value.shape)}" for name, value in expected.items() if name not in state)
    yield from (f"  unexpected: {name} {tuple(value.shape)}" for name, value in state.items() if name not in expected)
    for name in (n for n in expected if n in state and expected[n].shape != state[n].shape):
        yield f"  other shape: {name} expected {tuple(expected[name].shape)}, got {tuple(state[name].shape)}"
