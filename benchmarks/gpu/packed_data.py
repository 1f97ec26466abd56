"""The unpacked CIFAR-10 as a datamodule; apart from ``packed``, whose wheels this import needs."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import safe_open

from lightning_condkd.data.image_datamodules import ImageDataModule
from lightning_condkd.data.image_source import ImageSource


class PackedCifar10(ImageDataModule):
    """CIFAR-10 from the files of ``packed.unpack``: training images nearly, test images exactly as they were.

    Args:
        root: folder that holds ``train.safetensors`` and ``test.safetensors``.
        batch_size: images in a training batch, over all ranks.
        eval_batch_size: images in a validation or test batch, over all ranks.
        seed: seed of the order; ``None`` takes the one of ``seed_everything``, else 0.
    """

    def __init__(
        self, root: str | Path, batch_size: int = 128, *, eval_batch_size: int = 1000, seed: int | None = None
    ) -> None:
        super().__init__(batch_size, eval_batch_size=eval_batch_size, seed=seed)
        self.root = Path(root)

    def load(self, train: bool) -> ImageSource:
        """Read one part of the data.

        Args:
            train: the training images, or the test images.

        Raises:
            FileNotFoundError: if the file is not there.
        """
        path = self.root / ("train.safetensors" if train else "test.safetensors")
        if not path.is_file():
            raise FileNotFoundError(f"root: expected {path.name} in {self.root}, found none: call packed.unpack first")
        with safe_open(path, "pt") as stream:
            names = json.loads(stream.metadata()["class_names"])
            return ImageSource(stream.get_tensor("images"), stream.get_tensor("labels"), tuple(names))
