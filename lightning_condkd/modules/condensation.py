"""Learning a condensed set: the pixels are the only parameters."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from lightning_condkd.condensation import CondensationMethod, RealBatch
from lightning_condkd.condensation.base import draw_rows
from lightning_condkd.data.condensed import CondensedInfo, CondensedSet
from lightning_condkd.data.images import ImageSource
from lightning_condkd.distributed import mean_over_ranks
from lightning_condkd.modules.batches import real_batch
from lightning_condkd.randomness import Draw, seeded_generator

STATE_KEY = "condensation"


class Condensation(L.LightningModule):
    """Learn a few images per class that stand for a dataset.

    One ``training_step`` is one iteration of the method on real images that it draws by class from the datamodule. The
    condensed set is written when training ends and with every checkpoint.

    Args:
        method: how the images are learned.
        ipc: images per class.
        learning_rate: step size on pixels in the units of [0, 1]. A published step size for normalised pixels is to be
            multiplied by the squared standard deviation of the data: DM's 1 becomes 0.04 on CIFAR.
        momentum: momentum of SGD (official code of DM 0.5).
        init: start from real images, or from noise with the data's mean and standard deviation.
        output: file to which the condensed set is written.
        steps_per_epoch: iterations in what the trainer counts as an epoch.
        seed: seed of all draws; ``None`` takes the one of ``seed_everything``, else 0. A resumed run keeps its own.

    Raises:
        ValueError: at setup, if a class has no image, or fewer than are to be drawn from it.

    Example:
        >>> from lightning_condkd.condensation import DistributionMatching
        >>> from lightning_condkd.models import ConvNet
        >>> method = DistributionMatching(lambda: ConvNet(10, image_size=8, in_channels=1, depth=2))
        >>> Condensation(method, ipc=5, output="digits.safetensors").ipc
        5
    """

    def __init__(
        self,
        method: CondensationMethod,
        ipc: int = 1,
        *,
        learning_rate: float = 0.04,
        momentum: float = 0.5,
        init: Literal["real", "noise"] = "real",
        output: str | Path = "condensed.safetensors",
        steps_per_epoch: int = 100,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        if ipc < 1:
            raise ValueError(f"ipc: expected a positive number of images per class, got {ipc}")
        if Path(output).suffix != ".safetensors":
            raise ValueError(f"output: expected a path that ends in .safetensors, got {str(output)!r}")
        self.method = method
        self.ipc = ipc
        self.learning_rate, self.momentum = learning_rate, momentum
        self.init = init
        self.output = Path(output)
        self.steps_per_epoch = steps_per_epoch
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if seed is None else seed
        self.pixels: nn.Parameter | None = None
        self._source: ImageSource | None = None
        self._last_good: Tensor | None = None
        self._undone = 0

    def configure_model(self) -> None:
        """Make the pixels from the datamodule's training images."""
        if self._source is not None:
            return
        source = getattr(getattr(self.trainer, "datamodule", None), "train_source", None)
        if not isinstance(source, ImageSource):
            raise TypeError("Condensation needs real images: fit it with an ImageDataModule, such as DigitsDataModule")
        _check_classes(source, self.ipc if self.init == "real" else 1)
        self._source = source
        self.pixels = nn.Parameter(_initial_pixels(source, self.ipc, self.init, self.seed))

    @property
    def labels(self) -> Tensor:
        """Classes of the pixels, ``(N,)`` int64 on the CPU."""
        return torch.arange(self._data.num_classes).repeat_interleave(self.ipc)

    def training_step(self, batch: object, batch_idx: int) -> Tensor:
        """Return the loss of an iteration.

        Args:
            batch: not used; the method's images are drawn by class.
            batch_idx: position in the epoch.
        """
        step = self.current_epoch * self.steps_per_epoch + batch_idx
        draw = Draw(self.seed, step, self.global_rank, self.trainer.world_size)
        rows = draw_rows(self._data.class_rows, self.method.real_batch, draw)
        images, labels = real_batch((self._data.images[rows].to(self.device), self._data.labels[rows]))
        loss = self.method.loss(self._pixels, self.labels, RealBatch(images, labels), draw).total()
        self._guard(loss)
        self.log("train/loss", loss, prog_bar=True, batch_size=1)
        return loss

    def _guard(self, loss: Tensor) -> None:
        """Stop at the first loss that is not finite, with the last pixels that had a finite one."""
        if bool(mean_over_ranks(loss).isfinite()):
            self._last_good = self._pixels.detach().clone()
            return
        self._restore()
        self.write()
        raise FloatingPointError(
            f"the loss of iteration {self.global_step} is {float(loss)}; {self.output} holds the last good set. "
            "Lower learning_rate"
        )

    def _restore(self) -> None:
        if self._last_good is not None:
            self._pixels.data.copy_(self._last_good)
            self._undone = 1

    def configure_optimizers(self) -> Optimizer:
        """Return SGD on the pixels."""
        return SGD([self._pixels], lr=self.learning_rate, momentum=self.momentum)

    def condensed(self) -> CondensedSet:
        """Return the set as it is now."""
        settings = {
            "ipc": self.ipc,
            "iterations": self.global_step - self._undone,
            "learning_rate": self.learning_rate,
            "momentum": self.momentum,
            "init": self.init,
            **self.method.settings(),
        }
        names = self._data.class_names
        info = CondensedInfo(len(names), names, method=self.method.name, settings=settings, seed=self.seed)
        return CondensedSet(self._pixels.detach().cpu().float(), self.labels, info=info)

    def write(self) -> None:
        """Write the set to its file, on rank 0; if the last step broke the pixels, as it was before that step."""
        if not bool(self._pixels.isfinite().all()):
            self._restore()
        if self.trainer.is_global_zero:
            self.condensed().save(self.output)

    def on_train_end(self) -> None:
        """Write the set."""
        self.write()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write the set, and add the seed to what the checkpoint holds.

        Args:
            checkpoint: what Lightning is about to write.
        """
        checkpoint[STATE_KEY] = {"seed": self.seed}
        self.write()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the seed of the run that is resumed.

        Args:
            checkpoint: what Lightning has read.
        """
        self.seed = checkpoint[STATE_KEY]["seed"]

    @property
    def _pixels(self) -> nn.Parameter:
        if self.pixels is None:
            raise RuntimeError("the pixels are made when Trainer.fit begins")
        return self.pixels

    @property
    def _data(self) -> ImageSource:
        if self._source is None:
            raise RuntimeError("the images are known when Trainer.fit begins")
        return self._source


def _check_classes(source: ImageSource, needed: int) -> None:
    for name, rows in zip(source.class_names, source.class_rows, strict=True):
        if len(rows) < needed:
            raise ValueError(
                f"class {name!r} has {len(rows)} training images, expected at least {needed}: "
                "lower ipc, set init to noise, or leave the class out of the data"
            )


def _initial_pixels(source: ImageSource, ipc: int, init: Literal["real", "noise"], seed: int) -> Tensor:
    generator = seeded_generator(seed, "initial pixels")
    dtype = torch.get_default_dtype()
    if init == "real":
        chosen = [rows[torch.randperm(len(rows), generator=generator)[:ipc]] for rows in source.class_rows]
        return source.images[torch.cat(chosen)].to(dtype) / 255
    mean, std = (torch.tensor(values, dtype=dtype).view(-1, 1, 1) for values in source.channel_statistics())
    noise = torch.randn(source.num_classes * ipc, *source.image_shape, generator=generator, dtype=dtype)
    return mean + std * noise
