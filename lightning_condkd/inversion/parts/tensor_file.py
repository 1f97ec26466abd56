"""Reading of a named tensor from a file given by the user."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from lightning_condkd.files import open_tensors


def read_tensor(path: str | Path, name: str, content: str, cure: str) -> Tensor:
    """Return a tensor of a ``.safetensors`` file by name.

    Args:
        path: the file.
        name: name of the tensor.
        content: what the file should hold, for the message.
        cure: how to write such a file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is of another format, or has no such tensor.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"expected a .safetensors file of {content}, found none at {path}")
    with open_tensors(file) as stream:
        names = list(stream.keys())
        if name in names:
            found: Tensor = stream.get_tensor(name)
            return found
    got = ", ".join(sorted(names)) or "no tensor"
    raise ValueError(f"expected a tensor {name!r} in {path}, got {got}: write the file with {cure}")
