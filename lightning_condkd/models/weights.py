"""Reading weights from disk and putting them into a network, whole or not at all."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lightning_condkd.assets import resolve_asset
from lightning_condkd.files import read_tensors
from lightning_condkd.messages import listed
from lightning_condkd.models.finite import broken_tensors
from lightning_condkd.unpickling import damage, load_without_code, refused_names

# In the order in which they are taken, where a file has several.
_NESTS = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model_dict",
    "model",
    "net",
    "network",
    "net_state_dict",
    "module",
    "weights",
    "params",
    "student_state_dict",
    "state_dict_ema",
    "model_ema",
    "params_ema",
    "ema",
)
_RECORDS = ("optimizer", "optimiser", "scheduler", "scaler", "callbacks", "loops")  # of a run, not of a network
_PICKLED = (".pt", ".pth", ".ckpt", ".th", ".tar", ".bin", ".pyth")
_KNOWN = ", ".join((".safetensors", *_PICKLED[:-1])) + f" or {_PICKLED[-1]}"
_COMPILED = "_orig_mod."
_listed = partial(listed, most=10)


def plain_name(name: str) -> str:
    """Return the name that a weight has in the network as it is before ``torch.compile`` wraps it or parts of it.

    Args:
        name: a key of a state dict.

    Example:
        >>> plain_name("_orig_mod.layer1._orig_mod.weight")
        'layer1.weight'
    """
    return name.replace(_COMPILED, "")


def plain_state(network: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a network's state dict under their :func:`plain_name`.

    Args:
        network: any module, compiled or not.
    """
    state = network.state_dict()
    return {plain_name(name): value for name, value in state.items() if isinstance(value, Tensor)}


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict on the CPU, without running any code of the file.

    Args:
        path: a file that ends in ``.safetensors``, ``.pt``, ``.pth``, ``.ckpt``, ``.th``, ``.tar`` (``.pth.tar``),
            ``.bin`` or ``.pyth``, or ``package:<name>``. In pickled files the state dict may lie under a name such as
            ``state_dict``, ``model_state_dict`` or ``net``, or be all that holds tensors; epochs, settings, optimizers
            and the like beside it are left out.

    Returns:
        Tensors by name.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is of another kind, holds no weights or several, asks for code, or is damaged.

    Example:
        >>> read_state_dict("weights.onnx")
        Traceback (most recent call last):
        ...
        ValueError: expected a file that ends in .safetensors, .pt, .pth, .ckpt, .th, .tar, .bin or .pyth, got
        weights.onnx: rename it if torch.save wrote it, else save network.state_dict() with torch.save
    """
    file = resolve_asset(path)
    if file.suffix.lower() not in (".safetensors", *_PICKLED):
        raise ValueError(
            f"expected a file that ends in {_KNOWN}, got {path}: rename it if torch.save wrote it, else save "
            "network.state_dict() with torch.save"
        )
    if not file.is_file():
        raise FileNotFoundError(f"expected a file with weights, found none at {path}")
    content = _read(file)
    while isinstance(content, Mapping) and (nest := _nest(content, path)):
        content = content[nest]
    tensors = _tensors(content)
    if not tensors:
        raise ValueError(f"expected tensors by name in {path}, got {_describe(content)}; save network.state_dict()")
    return tensors


def load_weights(network: nn.Module, path: str | Path) -> None:
    """Load a file into a network; nothing is changed unless every key and shape fits.

    A prefix that a wrapper leaves (``module.``, ``model.``, ``net.``, whatever its attribute is called) is taken off
    where the weights then fit, and what lies outside it, such as that of a loss, is left out with a warning. The
    ``_orig_mod.`` of ``torch.compile`` counts for nothing on either side. Counters of seen batches
    (``num_batches_tracked``), which old files lack, may be absent.

    Args:
        network: receives the weights, in its own dtype and on its own device.
        path: see :func:`read_state_dict`.

    Raises:
        ValueError: if keys are missing or unexpected, shapes differ, several parts of the file fit, or values are NaN
            or infinite; the message lists them.
    """
    expected, given = plain_state(network), _plain(read_state_dict(path), path)
    prefix = _prefix(expected, given, path)
    state = _complete(expected, _under(prefix, given))
    if problems := "\n".join(_mismatches(expected, state)):
        raise ValueError(f"expected weights of {type(network).__name__} in {path}, but they do not fit:\n{problems}")
    if others := [name for name in given if not name.startswith(prefix)]:
        _warn(f"{path}: the weights under {prefix!r} fit, left out {_listed(others)}")
    if broken := broken_tensors(state):
        raise ValueError(f"{path} holds NaN or infinity in {listed(broken)}: take the weights of a run that went well")
    network.load_state_dict({n: state[plain_name(n)] for n, v in network.state_dict().items() if isinstance(v, Tensor)})


def _read(file: Path) -> Any:  # noqa: ANN401
    if file.suffix.lower() == ".safetensors":
        return read_tensors(file)
    try:
        return load_without_code(file)
    except Exception as error:
        raise ValueError(_refusal(file, error)) from error


def _refusal(file: Path, error: Exception) -> str:
    if names := refused_names(file, error):
        return (
            f"expected only tensors in {file}, but it asks for {', '.join(names)}, which could run code. If you trust "
            f"its source, load it yourself by torch.load({str(file)!r}, weights_only=False) and take these out: save "
            "network.state_dict() where it is a whole network, else the entry with the weights alone"
        )
    if "TorchScript" in str(error):
        return f"expected weights in {file}, got a TorchScript archive: save torch.jit.load(...).state_dict()"
    return f"expected weights in {file}, but {damage(file, error)} ({_reason(error)}): copy or download it again"


def _reason(error: Exception) -> str:
    # What torch says of its own argument is no advice for a file that is damaged.
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and "weights_only" not in line]
    return ": ".join([type(error).__name__, *lines[:1]])


def _tensors(content: object) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        return {}
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


def _nest(content: Mapping[str, Any], path: str | Path) -> str | None:
    """Name of the entry that holds the weights; ``None`` where they lie here."""
    nests = [name for name, value in content.items() if _is_weights(name, value)]
    known = [name for name in _NESTS if name in nests]
    if known:
        if others := [name for name in nests if name != known[0]]:
            _warn(f"{path}: took the weights under {known[0]!r}, left out those under {_listed(others)}")
        return known[0]
    if not nests or any(value.dim() for value in _tensors(content).values()):
        return None
    if len(nests) > 1:
        raise ValueError(
            f"expected the weights of one network in {path}, got several, under {_listed(nests)}: save the entry that "
            "you mean to a file of its own"
        )
    return nests[0]


def _is_weights(name: object, content: object) -> bool:
    if not isinstance(content, Mapping) or not isinstance(name, str) or any(part in name for part in _RECORDS):
        return False
    return any(value.dim() for value in _tensors(content).values()) or any(_is_weights(*n) for n in content.items())


def _describe(content: object) -> str:
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}"
    others = [f"{key}: {type(value).__name__}" for key, value in content.items() if not isinstance(value, Tensor)]
    return listed(others, 5) or "nothing"


def _plain(state: Mapping[str, Tensor], path: str | Path) -> dict[str, Tensor]:
    plain = {plain_name(name): value for name, value in state.items()}
    if len(plain) < len(state):
        twice = [name for name in state if plain_name(name) != name and plain_name(name) in state]
        raise ValueError(f"expected every weight once in {path}, got {_listed(twice)} and the same without {_COMPILED}")
    return plain


def _prefix(expected: Mapping[str, Tensor], given: Mapping[str, Tensor], path: str | Path) -> str:
    """The prefix under which the weights fit, or nearly."""
    found = Counter(
        name[: len(name) - len(rest)] for name in given for rest in _endings(name) if rest in expected
    ).most_common()
    prefixes = [prefix for prefix, _ in found] or [""]
    fitting = [p for p in prefixes if not any(_mismatches(expected, _complete(expected, _under(p, given))))]
    if len(fitting) > 1 and "" not in fitting:
        raise ValueError(
            f"expected one set of weights in {path}, but they fit under each of {_listed(fitting)}: save those that "
            "you mean to a file of its own"
        )
    return "" if "" in fitting else (fitting or prefixes)[0]


def _endings(name: str) -> Iterator[str]:
    parts = name.split(".")
    return (".".join(parts[first:]) for first in range(len(parts)))


def _under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _complete(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {**{name: value for name, value in expected.items() if name.endswith("num_batches_tracked")}, **state}


def _mismatches(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Iterator[str]:
    yield from (f"  missing: {name} {tuple(value.shape)}" for name, value in expected.items() if name not in state)
    yield from (f"  unexpected: {name} {tuple(value.shape)}" for name, value in state.items() if name not in expected)
    for name in (n for n in expected if n in state and expected[n].shape != state[n].shape):
        yield f"  other shape: {name} expected {tuple(expected[name].shape)}, got {tuple(state[name].shape)}"


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=3)
