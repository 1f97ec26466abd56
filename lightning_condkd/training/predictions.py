"""Predictions of a network for each image, with the position of the image in its data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import lightning as L
from lightning.pytorch.overrides.distributed import _IndexBatchSamplerWrapper
from torch import Tensor
from torch.utils.data import Subset

from lightning_condkd.training.held_out import class_names_of


class Prediction(NamedTuple):
    """The most probable class of one image.

    Args:
        label: the class.
        probability: what the network gives it, in [0, 1].
        class_name: its name; ``None`` where it is not known.
        file: the image's file; ``None`` where it is not known.
        row: number of the image in its dataset; ``None`` where it is not known.
    """

    label: int
    probability: float
    class_name: str | None = None
    file: str | None = None
    row: int | None = None


@runtime_checkable
class HasFiles(Protocol):
    """A dataset that was read from files, such as those of ``ImageFolderDataModule``."""

    files: Sequence[str]


@runtime_checkable
class HasSamples(Protocol):
    """A dataset with a file and a label for each row, such as torchvision's ``ImageFolder``."""

    samples: Sequence[tuple[str, int]]


def predictions_of(
    logits: Tensor, loader: object, batch_idx: int, class_names: Sequence[str] | None = None
) -> list[Prediction]:
    """Return what a network predicts of a batch.

    Args:
        logits: ``(N, K)``.
        loader: where the batch comes from, as Lightning prepared it for ``Trainer.predict``; ``None`` if not from one.
        batch_idx: position of the batch in the loader.
        class_names: names of the K classes; ``None`` takes those of the loader's dataset, if it has as many.

    Example:
        >>> import torch
        >>> predictions_of(torch.tensor([[0.0, 0.0, 9.0]]), None, 0, ["cat", "dog", "owl"])
        [Prediction(label=2, probability=0.999..., class_name='owl', file=None, row=None)]
    """
    probabilities, labels = (values.tolist() for values in logits.float().softmax(1).max(1))
    names = _class_names(loader, logits.shape[1]) if class_names is None else class_names
    rows: Sequence[int | None] = _rows(loader, batch_idx) or [None] * len(labels)
    dataset = getattr(loader, "dataset", None)
    return [
        Prediction(label, probability, names[label] if names else None, _file(dataset, row), row)
        for label, probability, row in zip(labels, probabilities, rows, strict=True)
    ]


def predicted_loader(module: L.LightningModule, dataloader_idx: int) -> object:
    """Return the loader that is predicted, as Lightning prepared it; ``None`` outside of ``Trainer.predict``.

    Args:
        module: the predicting module.
        dataloader_idx: number of the loader.
    """
    combined = None if module._trainer is None else module._trainer.predict_loop._combined_loader
    return None if combined is None else combined.flattened[dataloader_idx]


def _class_names(loader: object, num_classes: int) -> Sequence[str] | None:
    return next((names for names in class_names_of([loader]) if len(names) == num_classes), None)


def _rows(loader: object, batch_idx: int) -> list[int] | None:
    sampler: object = getattr(loader, "batch_sampler", None)
    if not isinstance(sampler, _IndexBatchSamplerWrapper) or batch_idx >= len(sampler.seen_batch_indices):
        return None
    return sampler.seen_batch_indices[batch_idx]


def _file(dataset: Any, row: int | None) -> str | None:  # noqa: ANN401 - of any loader
    if row is None:
        return None
    if isinstance(dataset, Subset):
        return _file(dataset.dataset, dataset.indices[row])
    if isinstance(dataset, HasFiles):
        return str(dataset.files[row]) if len(dataset.files) else None
    return str(dataset.samples[row][0]) if isinstance(dataset, HasSamples) else None
