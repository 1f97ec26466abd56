"""Training a classifier on real images: the teacher, or a student to compare with."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch.nn.functional as F
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from safetensors.torch import save
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassAccuracy

from lightning_condkd.augment import Augment, take
from lightning_condkd.data.files import write_atomic
from lightning_condkd.distributed import sync_buffers
from lightning_condkd.models import Observer
from lightning_condkd.modules.batches import real_batch
from lightning_condkd.modules.requeue import RequeueBetweenSteps
from lightning_condkd.randomness import Draw

STATE_KEY = "classification"


class Classification(L.LightningModule):
    """Train a classifier on labelled images by cross-entropy, and measure its top-1 accuracy (micro average).

    Args:
        network: the classifier with its normalisation; it is trained in place.
        augment: augmentation of the training images; ``None`` leaves them as they are.
        optimizer: ``None`` for SGD, lr 0.1, Nesterov momentum 0.9, weight decay 5e-4 (our default).
        scheduler: stepped once an epoch; ``None`` for a cosine to 0 over the steps of the run (our default).
        label_smoothing: share of the target that is spread evenly over all classes.
        output: file to which the network's weights are written when training ends, see :meth:`export`.
        seed: seed of the augmentation; ``None`` takes the one of ``seed_everything``, else 0. A resumed run keeps its
            own.

    Raises:
        ValueError: at setup, if the network has another number of classes than the data.

    Example:
        >>> from lightning_condkd.models import DigitsNet
        >>> module = Classification(Observer(DigitsNet(width=8), mean=(0.31,), std=(0.38,)))
        >>> sum(parameter.numel() for parameter in module.parameters())
        2034
    """

    def __init__(
        self,
        network: Observer,
        *,
        augment: Augment | None = None,
        optimizer: OptimizerCallable | None = None,
        scheduler: LRSchedulerCallable | None = None,
        label_smoothing: float = 0.0,
        output: str | Path | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        if output is not None:
            _check_ending(Path(output))
        self.network = network
        self.augment = augment
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.label_smoothing = label_smoothing
        self.output = output
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if seed is None else seed
        self.scores = nn.ModuleDict({f"{stage}_scores": _scores(network.num_classes) for stage in ("val", "test")})

    def setup(self, stage: str) -> None:
        """Check the network against the data.

        Args:
            stage: ``fit``, ``validate`` or ``test``.
        """
        classes = getattr(getattr(self.trainer, "datamodule", None), "num_classes", None)
        if classes is not None and classes != self.network.num_classes:
            raise ValueError(
                f"the data has {classes} classes, the network {self.network.num_classes}: set the network's num_classes"
            )

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a batch.

        Args:
            batch: images ``(N, C, H, W)``, in [0, 1] or uint8, and labels ``(N,)``.
            batch_idx: position in the epoch.
        """
        images, labels = real_batch(batch)
        logits = self.network(self._augmented(images, batch_idx)).logits
        loss = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(labels))
        return loss

    def _augmented(self, images: Tensor, batch_idx: int) -> Tensor:
        if self.augment is None:
            return images
        draw = Draw(self.seed, batch_idx, self.global_rank, self.trainer.world_size)
        generator = draw.generator(f"augment/{self.current_epoch}")
        parameters = self.augment.sample(len(images) * draw.world_size, generator)
        return cast(Tensor, self.augment(images, take(parameters, draw.rows)))

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Measure a batch.

        Args:
            batch: as in :meth:`training_step`; it may be empty.
            batch_idx: position in the loader.
        """
        self._measure("val", batch)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Measure a batch.

        Args:
            batch: as in :meth:`training_step`; it may be empty.
            batch_idx: position in the loader.
        """
        self._measure("test", batch)

    def _measure(self, stage: str, batch: tuple[Tensor, Tensor]) -> None:
        images, labels = real_batch(batch)
        scores = cast(nn.ModuleDict, self.scores[f"{stage}_scores"])
        if len(labels):
            logits = self.network(images).logits
            cast(Metric, scores["accuracy"]).update(logits, labels)
            cast(Metric, scores["loss"]).update(F.cross_entropy(logits, labels, reduction="none"))
        for name, metric in scores.items():
            self.log(f"{stage}/{name}", cast(Metric, metric), on_step=False, on_epoch=True, prog_bar=stage == "val")

    def configure_callbacks(self) -> list[L.Callback]:
        """Return what takes SLURM's requeue signal between two steps."""
        return [RequeueBetweenSteps()]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return the optimizer and its schedule."""
        parameters = self.network.parameters()
        if self.optimizer is None:
            optimizer: Optimizer = SGD(parameters, lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
        else:
            optimizer = self.optimizer(parameters)
        if self.scheduler is None:
            return {
                "optimizer": optimizer,
                "lr_scheduler": {"scheduler": self._cosine(optimizer), "interval": "step"},
            }
        scheduler = self.scheduler(optimizer)
        monitor = getattr(scheduler, "monitor", None)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": monitor}}

    def _cosine(self, optimizer: Optimizer) -> CosineAnnealingLR:
        steps = self.trainer.estimated_stepping_batches
        if steps == float("inf"):
            raise ValueError(
                "the default scheduler needs the run's length: set --trainer.max_epochs or give a scheduler"
            )
        return CosineAnnealingLR(optimizer, T_max=int(steps))

    def on_validation_start(self) -> None:
        """Make the network's statistics the same on all ranks."""
        sync_buffers([self.network])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make the network's statistics the same on all ranks before rank 0 writes them, and add the seed.

        Args:
            checkpoint: what Lightning is about to write; its tensors share memory with the module's.
        """
        sync_buffers([self.network])
        checkpoint[STATE_KEY] = {"seed": self.seed}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the seed of the run that is resumed.

        Args:
            checkpoint: what Lightning has read.
        """
        self.seed = checkpoint[STATE_KEY]["seed"]

    def on_train_end(self) -> None:
        """Write the weights if an output file is set."""
        sync_buffers([self.network])
        if self.output is not None and self.trainer.is_global_zero:
            self.export(self.output)

    def export(self, path: str | Path) -> None:
        """Write the network's weights under its own names; the normalisation goes into the metadata.

        Args:
            path: target, ending in ``.safetensors``; replaced whole.

        Raises:
            ValueError: another ending.
        """
        _check_ending(Path(path))
        state = self.network.network.state_dict()
        tensors = {name: value.detach().cpu().clone().contiguous() for name, value in state.items()}
        statistics = {"mean": self.network.mean, "std": self.network.std}
        normalisation = {name: None if value is None else value.tolist() for name, value in statistics.items()}
        write_atomic(Path(path), save(tensors, {"normalisation": json.dumps(normalisation)}))


def _scores(num_classes: int) -> nn.ModuleDict:
    return nn.ModuleDict({"accuracy": MulticlassAccuracy(num_classes, average="micro"), "loss": MeanMetric()})


def _check_ending(path: Path) -> None:
    if path.suffix != ".safetensors":
        raise ValueError(f"output: expected a path that ends in .safetensors, got {path.name!r}")
