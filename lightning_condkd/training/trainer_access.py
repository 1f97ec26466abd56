"""Typed access to a trainer and its datamodule, module and callbacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import lightning as L
from torch import nn

from lightning_condkd.data.condensed_datamodule import CondensedDataModule
from lightning_condkd.data.image_datamodules import ImageDataModule
from lightning_condkd.data.shuffled_datamodule import ShuffledDataModule
from lightning_condkd.data.transfer import TransferSet
from lightning_condkd.rounds import Unit


@runtime_checkable
class HoldsTransferSet(Protocol):
    """A datamodule with a transfer set for a student, such as ``CondensedDataModule``."""

    transfer_set: TransferSet | None


@runtime_checkable
class KnowsClasses(Protocol):
    """A datamodule with a known number of classes."""

    @property
    def num_classes(self) -> int | None:
        """Number of classes K; ``None`` if it is unknown."""


@runtime_checkable
class CountsUnits(Protocol):
    """A module whose training step is one update of one of several networks."""

    unit: Unit | None


@runtime_checkable
class Monitors(Protocol):
    """A callback that monitors a metric."""

    monitor: str | None


@runtime_checkable
class WritesCheckpoints(Protocol):
    """A callback that writes checkpoints into a folder."""

    dirpath: str | Path | None


def datamodule_of(trainer: L.Trainer) -> L.LightningDataModule | None:
    """Return the datamodule of the running fit, validation, test or prediction; ``None`` if it uses loaders.

    ``trainer.datamodule`` may also be that of an earlier call.

    Args:
        trainer: the trainer.
    """
    hooks = trainer._data_connector._datahook_selector
    return None if hooks is None else hooks.datamodule


def real_data_of(trainer: L.Trainer) -> ShuffledDataModule | None:
    """Return the datamodule if it has real images, in memory or read by workers, else ``None``.

    Args:
        trainer: the trainer.
    """
    data = datamodule_of(trainer)
    return data if isinstance(data, ShuffledDataModule) else None


def image_data_of(trainer: L.Trainer) -> ImageDataModule | None:
    """Return the datamodule if it has real images in memory, else ``None``.

    Args:
        trainer: the trainer.
    """
    data = datamodule_of(trainer)
    return data if isinstance(data, ImageDataModule) else None


def held_out_data_of(trainer: L.Trainer) -> ImageDataModule | None:
    """Return the datamodule of the real images for evaluation if it has them in memory, else ``None``.

    Args:
        trainer: the trainer.
    """
    data = datamodule_of(trainer)
    if isinstance(data, CondensedDataModule):
        data = data.val_data
    return data if isinstance(data, ImageDataModule) else None


def transfer_set_of(trainer: L.Trainer) -> TransferSet | None:
    """Return the transfer set of the datamodule; ``None`` if it has none.

    Args:
        trainer: the trainer.
    """
    data = datamodule_of(trainer)
    return data.transfer_set if isinstance(data, HoldsTransferSet) else None


def num_classes_of(trainer: L.Trainer) -> int | None:
    """Return the number of classes of the datamodule; ``None`` if it is unknown.

    Args:
        trainer: the trainer.
    """
    data = datamodule_of(trainer)
    return data.num_classes if isinstance(data, KnowsClasses) else None


def student_of(module: L.LightningModule) -> nn.Module | None:
    """Return the student of a module; ``None`` if it has none.

    Args:
        module: any module.
    """
    return dict(module.named_children()).get("student")


def monitored_by(callback: object) -> str | None:
    """Return the metric that a callback monitors; ``None`` if there is none.

    Args:
        callback: any callback.
    """
    return callback.monitor if isinstance(callback, Monitors) else None


def checkpoint_folder(callback: object) -> str | Path | None:
    """Return the folder into which a callback writes checkpoints; ``None`` if unknown yet, or if it writes none.

    Args:
        callback: any callback, such as ``trainer.checkpoint_callback``.
    """
    return callback.dirpath if isinstance(callback, WritesCheckpoints) else None


def callbacks_of(trainer: L.Trainer, kind: type[L.Callback]) -> list[Any]:
    """Return the callbacks of a trainer that are of a class.

    Args:
        trainer: the trainer.
        kind: their class.
    """
    return [callback for callback in trainer.callbacks if isinstance(callback, kind)]  # type: ignore[attr-defined]
