"""DataModules of real images in memory."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_condkd import distributed
from lightning_condkd.data.digits import load_digits_split
from lightning_condkd.data.image_source import ImageSource, UnlabeledImages, from_folder, unlabeled_images
from lightning_condkd.data.loaders import Batch, EvaluationBatches, ResumableLoader, ShuffledBatches
from lightning_condkd.data.shuffled_datamodule import (
    Share,
    ShuffledDataModule,
    TrainingLoader,
    check_enough_to_predict,
    check_same,
    share_of_this_process,
    warn_of_empty_classes,
)
from lightning_condkd.data.torchvision_sets import Choice, from_torchvision
from lightning_condkd.hashing import content_hash
from lightning_condkd.messages import listed


class ImageDataModule(ShuffledDataModule):
    """Base of the datamodules of real images in memory: also served in order for prediction.

    A subclass reads the images in :meth:`load`, which is called at their first use.

    Args:
        batch_size: images in a training batch, over all ranks; images left over at the end of an epoch are dropped.
        eval_batch_size: images in a validation or test batch, over all ranks.
        seed: seed of the order; ``None`` for that of ``seed_everything``, else 0. A resumed run keeps its seed.
    """

    def __init__(self, batch_size: int = 128, *, eval_batch_size: int = 500, seed: int | None = None) -> None:
        super().__init__(batch_size, eval_batch_size=eval_batch_size, seed=seed)
        self._only_held_out = False

    @abstractmethod
    def load(self, train: bool) -> ImageSource:
        """Read one part of the data.

        Args:
            train: ``True`` for the training images, ``False`` for the held-out ones.
        """

    @cached_property
    def train_source(self) -> ImageSource:
        """The training images."""
        source = _said(self, "training", self.load(train=True))
        warn_of_empty_classes(source.empty_classes, source.num_classes)
        return source

    @cached_property
    def val_source(self) -> ImageSource:
        """The held-out images, for validation and test; they do not require training images."""
        return _said(self, "held-out", self.load(train=False))

    @cached_property
    def predict_images(self) -> UnlabeledImages:
        """The images for prediction: the held-out ones."""
        return UnlabeledImages(self.val_source.images, self.val_source.files, self.val_source.class_names)

    @property
    def _known(self) -> ImageSource:
        # Without training data, classes and shape are those of the held-out images.
        return self.val_source if self._only_held_out else self.train_source

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        return self._known.num_classes

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(C, H, W)`` in pixels."""
        return self._known.image_shape

    @property
    def train_size(self) -> int:
        """Number of training images."""
        return len(self.train_source)

    def describe_train(self) -> str:
        """Return a line that identifies the training images: their number, and hashes of pixels and class names."""
        source, names = self.train_source, content_hash(repr(list(self.train_source.class_names)))
        return f"{len(source)} images of {source.num_classes} classes, sha256 {source.sha256[:8]} {names[:8]}"

    def setup(self, stage: str) -> None:
        """Store which part of the data the stage needs; read and check the images to predict.

        Args:
            stage: ``fit``, ``validate``, ``test`` or ``predict``.

        Raises:
            ValueError: if there are fewer images to predict than processes.
        """
        self._only_held_out = stage != "fit"
        # Not in predict_dataloader: an error there makes Lightning leave every DataLoader of the process patched.
        if stage == "predict":
            check_enough_to_predict(len(self.predict_images))

    def check_parts(self) -> None:
        """Check that training and held-out images have the same classes and shape.

        Raises:
            ValueError: if they differ.
        """
        for what in ("class_names", "image_shape"):
            check_same(what, getattr(self.train_source, what), getattr(self.val_source, what))

    def train_batches(self, share: Share) -> TrainingLoader:
        """Return the loader of an epoch of shuffled batches ``(uint8 images, labels)``.

        Args:
            share: rank of this process and number of processes.
        """
        batches = ShuffledBatches(
            self.train_source,
            self.batch_size,
            seed=self.seed,
            position=self._position,
            with_rows=self.with_rows,
            **share,
        )
        return ResumableLoader(batches)

    def val_dataloader(self) -> ResumableLoader[Batch]:
        """Return all held-out images once, in order."""
        return ResumableLoader(EvaluationBatches(self.val_source, self.eval_batch_size, **share_of_this_process()))

    def test_dataloader(self) -> ResumableLoader[Batch]:
        """Return the same as :meth:`val_dataloader`."""
        return self.val_dataloader()

    def predict_dataloader(self) -> DataLoader[Tensor]:
        """Return the images to predict once, in order and without labels; Lightning divides them among the ranks."""
        return DataLoader(self.predict_images, batch_size=max(1, self.eval_batch_size // distributed.world_size()))


def _said(data: ImageDataModule, part: str, source: ImageSource) -> ImageSource:
    """Log a summary of the images that were read, with empty classes, which would otherwise go unnoticed."""
    empty = f", none of {listed(source.empty_classes)}" if source.empty_classes else ""
    rank_zero_info(f"{part} images of {type(data).__name__}: {source.describe()}{empty}")
    return source


class DigitsDataModule(ImageDataModule):
    """The handwritten digits of scikit-learn, 8x8 pixels, see :func:`load_digits_split`.

    Args:
        batch_size: images in a training batch, over all ranks.
        eval_batch_size: images in a validation or test batch, over all ranks.
        seed: seed of the order; ``None`` takes the one of ``seed_everything``, else 0.

    Example:
        >>> data = DigitsDataModule()
        >>> data.num_classes, data.image_shape, len(data.train_source), len(data.val_source)
        (10, (1, 8, 8), 1297, 500)
    """

    def load(self, train: bool) -> ImageSource:
        """Read one part of the data.

        Args:
            train: ``True`` for the first 1297 images, ``False`` for the last 500.
        """
        return load_digits_split(train)


class ImageFolderDataModule(ImageDataModule):
    """Image files with one subfolder for each class, decoded once; images for prediction may be in any folder.

    Args:
        root: folder that contains the parts; for prediction also a folder of images without classes.
        train: name of the folder of training images in ``root``.
        val: name of the folder of held-out images in ``root``.
        predict: name of a folder in ``root`` with images to predict, at any depth and without classes, ``.`` for all in
            ``root``; ``None`` for the held-out images, or if there are none for the images directly in ``root``.
        image_size: size in pixels to which the shorter side is resized before the central square is cropped; ``None``
            keeps the size, which must be the same for all images.
        channels: 3 for RGB, 1 for gray; ``None`` for gray, with a warning, if all images of a part are stored without
            colour, else RGB.
        class_names: names of all classes in the order of the labels, such as those of a condensed set; ``None`` sorts
            the folders by number if all are numbered alike, else as text.
        batch_size: images in a training batch, over all ranks.
        eval_batch_size: images in a validation or test batch, over all ranks.
        seed: seed of the order; ``None`` for that of ``seed_everything``, else 0.
    """

    def __init__(
        self,
        root: str | Path,
        train: str = "train",
        val: str = "test",
        *,
        predict: str | None = None,
        image_size: int | None = None,
        channels: Literal[1, 3] | None = None,
        class_names: Sequence[str] | None = None,
        batch_size: int = 128,
        eval_batch_size: int = 500,
        seed: int | None = None,
    ) -> None:
        super().__init__(batch_size, eval_batch_size=eval_batch_size, seed=seed)
        self.root, self.folders, self.image_size, self.channels = Path(root), (val, train), image_size, channels
        self.predict, self.class_names = predict, class_names

    @cached_property
    def predict_images(self) -> UnlabeledImages:
        """The images for prediction."""
        if self.predict is None and (self.root / self.folders[False]).is_dir():
            return super().predict_images
        folder, deep = self.root / (self.predict or "."), self.predict is not None
        images = unlabeled_images(folder, self.image_size, self.channels, self.class_names, deep=deep)
        rank_zero_info(f"images to predict of {type(self).__name__}: {images.describe()}")
        return images

    def load(self, train: bool) -> ImageSource:
        """Read one part of the data.

        Args:
            train: ``True`` for the training images, ``False`` for the held-out ones.
        """
        return from_folder(self.root / self.folders[train], self.image_size, self.channels, self.class_names)


class TorchvisionDataModule(ImageDataModule):
    """A classification dataset of torchvision with a train and a test part, such as CIFAR10, SVHN or Imagenette.

    Args:
        name: name of its class in ``torchvision.datasets``.
        root: folder of the dataset.
        download: whether to download missing files.
        train: the dataset's name of its training part; ``None`` for ``train``, or ``trainval`` and the like if that is
            torchvision's default.
        val: the dataset's name of its held-out part; ``None`` for ``test``, or ``val`` if there is no ``test``.
        options: further arguments of torchvision's class, such as ``size`` of Imagenette or ``split`` of EMNIST.
        image_size: size in pixels to which the shorter side is resized before the central square is cropped; ``None``
            keeps the size, which must be the same for all images.
        channels: 3 for RGB, 1 for gray; ``None`` for gray if images are stored without colour, else RGB.
        batch_size: images in a training batch, over all ranks.
        eval_batch_size: images in a validation or test batch, over all ranks.
        seed: seed of the order; ``None`` for that of ``seed_everything``, else 0.

    Raises:
        ValueError: if torchvision has no such dataset, or it does not have two parts or does not accept the arguments.
    """

    def __init__(
        self,
        name: str,
        root: str | Path,
        *,
        download: bool = False,
        train: str | None = None,
        val: str | None = None,
        options: dict[str, Any] | None = None,
        image_size: int | None = None,
        channels: Literal[1, 3] | None = None,
        batch_size: int = 128,
        eval_batch_size: int = 500,
        seed: int | None = None,
    ) -> None:
        super().__init__(batch_size, eval_batch_size=eval_batch_size, seed=seed)
        self.choice = Choice(name, download, train, val, options or {})
        self.choice.check()
        self.root, self.image_size, self.channels = root, image_size, channels

    def prepare_data(self) -> None:
        """Download missing files, in one process only."""
        if self.choice.download:
            for train in (True, False):
                self.choice.open(self.root, train)

    def load(self, train: bool) -> ImageSource:
        """Read one part of the data.

        Args:
            train: ``True`` for the training images, ``False`` for the held-out ones.
        """
        # Linked arguments of the command line need the data before a trainer exists, and it may not be downloaded yet.
        choice = self.choice._replace(download=self.choice.download and self.trainer is None)
        return from_torchvision(choice, self.root, train, self.image_size, self.channels)
