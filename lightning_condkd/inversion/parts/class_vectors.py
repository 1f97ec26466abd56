"""Class vectors: one fixed vector for each class, the input of a class-conditional generator."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor

from lightning_condkd.inversion.parts.tensor_file import read_tensor
from lightning_condkd.messages import listed
from lightning_condkd.precision import at_least_float32
from lightning_condkd.types import TaskSpec

ClassRows = Literal["teacher_head", "class_means"]


class ClassVectors:
    """Base of the kinds of class vectors.

    A subclass either makes them from the task alone (:meth:`own`), or from rows that a run computes for it before the
    first block (:attr:`rows_from` and :meth:`prepare`).

    Attributes:
        rows_from: source of the rows: ``teacher_head`` for the weights of the teacher's final linear layer,
            ``class_means`` for the means of the condensed images' embeddings in the teacher, ``(K, D)`` both;
            ``None`` if :meth:`own` makes the vectors.
    """

    rows_from: ClassVar[ClassRows | None] = None

    def own(self, spec: TaskSpec, generator: torch.Generator) -> Tensor:
        """Return the vectors ``(K, D)`` of a kind that needs no rows.

        Args:
            spec: shapes of the task.
            generator: source of random numbers.
        """
        raise NotImplementedError(f"{type(self).__name__}.own: write which vectors the classes have")

    def prepare(self, rows: Tensor) -> Tensor:
        """Return the vectors of given rows; by default :func:`standardized`.

        Args:
            rows: ``(K, D)``.
        """
        return standardized(rows)


class TeacherHeadVectors(ClassVectors):
    """Rows of the teacher's final linear layer, each standardized to mean 0 and standard deviation 1 (our choice).

    They need no download and no images: the layer's weights say what the teacher looks for in an embedding.

    Example:
        >>> TeacherHeadVectors().prepare(torch.tensor([[1.0, 3.0], [8.0, 4.0]]))
        tensor([[-1.,  1.],
                [ 1., -1.]])
    """

    rows_from = "teacher_head"


class CondensedMeanVectors(ClassVectors):
    """Mean of the condensed images' embeddings in the teacher for each class, standardized (our proposal).

    Example:
        >>> CondensedMeanVectors().rows_from
        'class_means'
    """

    rows_from = "class_means"


class OrthogonalVectors(ClassVectors):
    """Vectors without any meaning, all at right angles, as a control: one-hot, or random ones.

    Args:
        size: length of a random vector, K at least; ``None`` for one-hot vectors, of length K.

    Raises:
        ValueError: when the method is built, if the size is below the number of classes.

    Example:
        >>> OrthogonalVectors().own(TaskSpec((1, 8, 8), 2, 0), torch.Generator())
        tensor([[1., 0.],
                [0., 1.]])
    """

    def __init__(self, size: int | None = None) -> None:
        self.size = size

    def own(self, spec: TaskSpec, generator: torch.Generator) -> Tensor:
        """Return one-hot vectors or random orthonormal ones."""
        classes = spec.num_classes
        if self.size is None:
            return torch.eye(classes, device="cpu")
        if self.size < classes:
            raise ValueError(
                f"class_vectors: {classes} orthogonal vectors need a size of at least {classes}, got {self.size}"
            )
        columns = torch.randn(self.size, classes, generator=generator, device="cpu", dtype=torch.float64)
        vectors: Tensor = torch.linalg.qr(columns).Q.T
        return vectors.to(torch.get_default_dtype())


class FileVectors(ClassVectors):
    """Vectors of a file, such as text embeddings of the class names (the published kind: CLIP ViT-B/32, 512 long).

    They are used as they are. A resumed run needs the file again.

    Args:
        path: a ``.safetensors`` file.
        tensor: name of a floating point tensor ``(K, D)`` in it, one row for each class in the order of the labels.

    Raises:
        FileNotFoundError: when the method is built, if there is no such file.
        ValueError: when the method is built, if the file has no such tensor, or it has another shape or type.

    Example:
        >>> FileVectors("clip-cifar10.safetensors").tensor
        'class_vectors'
    """

    def __init__(self, path: str | Path, tensor: str = "class_vectors") -> None:
        self.path, self.tensor = path, tensor

    def own(self, spec: TaskSpec, generator: torch.Generator) -> Tensor:
        """Return the file's tensor."""
        cure = f'safetensors.torch.save_file({{"{self.tensor}": vectors}}, path)'
        found = read_tensor(self.path, self.tensor, "class vectors", cure)
        if not found.is_floating_point():
            raise ValueError(f"class_vectors: expected floating point vectors in {self.path}, got {found.dtype}")
        return found


def standardized(rows: Tensor) -> Tensor:
    """Return rows shifted and scaled to mean 0 and standard deviation 1, in float32 at least.

    Args:
        rows: ``(K, D)``.

    Example:
        >>> standardized(torch.tensor([[1.0, 3.0]]))
        tensor([[-1.,  1.]])
    """
    values = at_least_float32(rows)
    centered = values - values.mean(1, keepdim=True)
    return centered / centered.square().mean(1, keepdim=True).sqrt().clamp(min=torch.finfo(values.dtype).tiny)


def check_class_rows(what: str, rows: object, num_classes: int, size: int | None = None) -> Tensor:
    """Return values of the classes if they are a finite matrix with a different row for each class.

    Args:
        what: name of the values, for the message.
        rows: the values.
        num_classes: number of classes K.
        size: length of a row; ``None`` for any.

    Raises:
        TypeError: if they are no tensor.
        ValueError: if they have another shape, NaN or infinity, or two classes have the same row.

    Example:
        >>> check_class_rows("class_vectors", torch.eye(3), num_classes=2)
        Traceback (most recent call last):
        ValueError: class_vectors: expected a row for each of 2 classes, (2, D), got (3, 3)
    """
    if not isinstance(rows, Tensor):
        raise TypeError(f"{what}: expected a tensor, got {type(rows).__name__}")
    if rows.dim() != 2 or len(rows) != num_classes or not rows.shape[1] or size not in (None, rows.shape[1]):
        shape = f"({num_classes}, {'D' if size is None else size})"
        raise ValueError(f"{what}: expected a row for each of {num_classes} classes, {shape}, got {tuple(rows.shape)}")
    values = at_least_float32(rows.detach()).cpu()
    if broken := (~values.isfinite().all(1)).nonzero().flatten().tolist():
        raise ValueError(f"{what}: expected finite values, got NaN or infinity in class {_numbers(broken)}")
    distinct, group = torch.unique(values, dim=0, return_inverse=True)
    if len(distinct) < num_classes:
        alike = (group == group.mode().values).nonzero().flatten().tolist()
        raise ValueError(
            f"{what}: classes {_numbers(alike)} have the same row, so their images would be alike: give each "
            "class its own"
        )
    return rows


def _numbers(classes: list[int]) -> str:
    return listed([str(label) for label in classes])
