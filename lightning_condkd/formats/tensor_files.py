"""Files of one tensor each: images, labels and a learned step size, as the MTT family and DD-Ranking store them."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from lightning_condkd.files import read_untrusted
from lightning_condkd.formats.contents import check_images, what_is
from lightning_condkd.hashing import file_hash


def read_images(path: Path) -> Tensor:
    """Return the images of a file, ``(N, C, H, W)`` floating point.

    Args:
        path: the file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if its content is another, or the file is damaged or needs code to be run.
    """
    return checked_images(read_untrusted(path), path)


def checked_images(content: object, path: Path) -> Tensor:
    """Return the content of a file of images, after a check.

    Args:
        content: the content of the file.
        path: the file.

    Raises:
        ValueError: if it is no floating point tensor ``(N, C, H, W)``.
    """
    if not isinstance(content, Tensor) or content.dim() != 4:
        raise ValueError(f"expected a tensor of images (N, C, H, W) in {path}, got {what_is(content)}")
    check_images(content, path)
    return content


def read_labels(path: Path) -> Tensor:
    """Return the labels of a file: classes ``(N,)``, or probabilities or logits ``(N, K)``.

    Args:
        path: the file.

    Raises:
        ValueError: if its content is another, or the file is damaged or needs code to be run.
    """
    labels = read_untrusted(path)
    if not isinstance(labels, Tensor) or labels.dim() not in (1, 2):
        raise ValueError(
            f"expected labels as whole numbers (N,), or probabilities or logits (N, K), in {path}, got "
            f"{what_is(labels)}: give the labels file"
        )
    return labels


def read_step_size(file: Path) -> tuple[float | None, dict[str, str]]:
    """Return the learned step size of a file and its provenance; ``None`` and nothing if there is no such file.

    Args:
        file: the file.

    Raises:
        ValueError: if it holds something else.
    """
    if not file.is_file():
        return None, {}
    value = read_untrusted(file)
    if isinstance(value, float):
        return value, {"train_lr": file.name, "train_lr_sha256": file_hash(file)}
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise ValueError(f"expected one step size in {file}, got {what_is(value)}: move the file away, pass train_lr")
    # The shortest decimal number that is this float32, so that 0.02 is recorded as 0.02
    return float(str(value.detach().reshape(()).numpy())), {"train_lr": file.name, "train_lr_sha256": file_hash(file)}
