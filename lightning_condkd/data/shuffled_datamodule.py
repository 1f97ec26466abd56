"""Base of the datamodules of real images: seeded order, exact resume and the same batches for any number of ranks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, TypedDict

import lightning as L
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader

from lightning_condkd import distributed
from lightning_condkd.data.loaders import Batch, BatchWithRows, DrawsByStep, step_loader
from lightning_condkd.messages import listed
from lightning_condkd.randomness import run_seed

TrainingLoader = DataLoader[Batch | BatchWithRows]


class Share(TypedDict):
    """This process among those of the run."""

    rank: int
    world_size: int


class ShuffledDataModule(L.LightningDataModule, ABC):
    """Base of the datamodules of real images (uint8): shuffled for training, in order for evaluation.

    The module converts the images to the units of [0, 1] and augments them on its device. A module that draws its own
    images (:class:`~lightning_condkd.data.loaders.DrawsByStep`) gets step numbers.

    Args:
        batch_size: images in a training batch, over all ranks; images left over at the end of an epoch are dropped.
        eval_batch_size: images in a validation or test batch, over all ranks.
        seed: seed of the order; ``None`` for that of ``seed_everything``, else 0. A resumed run keeps its seed.

    Attributes:
        with_rows: whether training batches carry the rows of their images, ``(N,)`` int64 from 0 to
            :attr:`train_size` - 1, as a third element. A module that needs them sets it before the loader is made, such
            as in its ``setup``.
        labeled: whether the classes of the training images are known; the labels are -1 where they are not.
    """

    labeled: bool = True

    def __init__(self, batch_size: int = 128, *, eval_batch_size: int = 500, seed: int | None = None) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.seed = run_seed(seed)
        self.with_rows = False

    @property
    @abstractmethod
    def num_classes(self) -> int | None:
        """Number of classes K; ``None`` if it is unknown."""

    @property
    @abstractmethod
    def image_shape(self) -> tuple[int, int, int]:
        """``(C, H, W)`` in pixels."""

    @property
    @abstractmethod
    def train_size(self) -> int:
        """Number of training images."""

    @abstractmethod
    def describe_train(self) -> str:
        """Return a line that identifies the training images, for the comparison with a resumed run."""

    @abstractmethod
    def check_parts(self) -> None:
        """Check that training and held-out images have the same classes and shape.

        Raises:
            ValueError: if they differ.
        """

    @abstractmethod
    def train_batches(self, share: Share) -> TrainingLoader:
        """Return the loader of an epoch of shuffled batches ``(uint8 images, labels)``.

        Args:
            share: rank of this process and number of processes.
        """

    def train_dataloader(self) -> TrainingLoader | DataLoader[int]:
        """Return an epoch of batches ``(uint8 images, labels)``, or of step numbers."""
        module: object = None if self.trainer is None else self.trainer.lightning_module
        if isinstance(module, DrawsByStep):
            return step_loader(module.steps_per_epoch)
        self.check_parts()
        return self.train_batches(share_of_this_process())

    def state_dict(self) -> dict[str, Any]:
        """Return the seed of the order."""
        return {"seed": self.seed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the seed of the resumed run's order.

        Args:
            state_dict: result of :meth:`state_dict`.
        """
        self.seed = state_dict["seed"]

    def _position(self) -> tuple[int, int]:
        if self.trainer is None:
            return 0, 0
        return self.trainer.current_epoch, self.trainer.fit_loop.epoch_loop.batch_idx + 1


def share_of_this_process() -> Share:
    """Return the rank of this process and the number of processes."""
    return {"rank": distributed.rank(), "world_size": distributed.world_size()}


def check_enough_to_predict(count: int) -> None:
    """Check that every process has an image to predict.

    Args:
        count: number of images to predict.

    Raises:
        ValueError: if there are fewer than processes.
    """
    if count < (ranks := distributed.world_size()):
        raise ValueError(f"{count} images cannot be divided among {ranks} processes: predict on one")


def check_same(what: str, train: object, held_out: object) -> None:
    """Check that training and held-out images agree.

    Args:
        what: ``class_names`` or ``image_shape``.
        train: that of the training images.
        held_out: that of the held-out images.

    Raises:
        ValueError: if they differ.
    """
    if train != held_out:
        cure = "or give class_names, the names of all" if what == "class_names" else "or set image_size"
        raise ValueError(f"{what}: training images have {train}, held-out ones {held_out}; make them the same, {cure}")


def warn_of_empty_classes(empty: Sequence[str], num_classes: int) -> None:
    """Warn of classes without training images.

    Args:
        empty: their names.
        num_classes: number of all classes.
    """
    if empty:
        rank_zero_warn(
            f"{len(empty)} of {num_classes} classes have no training image, {listed(empty)}: no network can learn them."
            " Add images, or, if they are no classes of the data, remove their folders or names"
        )
