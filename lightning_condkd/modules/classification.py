"""Module that trains a classifier on real images: a teacher, or a student for comparison."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, cast

import torch.nn.functional as F
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import SGD, Optimizer

from lightning_condkd.augment import Augment, take
from lightning_condkd.distributed import sync_buffers
from lightning_condkd.models import Observer
from lightning_condkd.models.finite import check_finite
from lightning_condkd.models.weights import plain_state
from lightning_condkd.modules.image_classifier import ImageClassifier
from lightning_condkd.modules.parts.checks import check_dtypes
from lightning_condkd.randomness import Draw
from lightning_condkd.training.batches import log_written, real_batch
from lightning_condkd.training.divergence import (
    LossWatch,
    check_checkpoint,
    check_logits,
    check_measured,
    stop_if_diverged,
)
from lightning_condkd.training.held_out import check_parts, class_names_of
from lightning_condkd.training.optimizers import (
    check_count,
    check_covers,
    check_makers,
    check_trainable,
    make_optimizer,
    make_scheduler,
)
from lightning_condkd.training.outputs import state_size
from lightning_condkd.training.run_length import dev_steps
from lightning_condkd.training.schedules import run_cosine
from lightning_condkd.training.scores import Scores
from lightning_condkd.training.trainer_access import monitored_by, num_classes_of, real_data_of
from lightning_condkd.writing import Target, save_tensors


class Classification(ImageClassifier):
    """Train a classifier on labelled images by cross-entropy, and measure its top-1 accuracy (micro average).

    Of several validation or test loaders the first has the plain names ``val/accuracy`` and ``val/loss``, see
    :class:`~lightning_condkd.training.scores.Scores`.

    Args:
        network: the classifier with its normalisation; it is trained in place.
        augment: augmentation of the training images; ``None`` disables it.
        optimizer: ``None`` for SGD, lr 0.1, Nesterov momentum 0.9, weight decay 5e-4 (our default).
        scheduler: stepped once an epoch; ``None`` for a cosine to 0 over the steps of the run (our default), which ends
            with the run even if a resumed run has another length.
        label_smoothing: share of the target that is distributed uniformly over all classes.
        output: file to which the network's weights are written when training ends, see :meth:`export`.
        seed: seed of the augmentation; ``None`` for that of ``seed_everything``, else 0. A resumed run keeps its seed.

    Raises:
        ValueError: at setup, if the network and the data differ in the number of classes, or the network contains NaN.
        FloatingPointError: at the end of an epoch, before evaluation and writing, if training diverged.

    Example:
        >>> from lightning_condkd.models import DigitsNet
        >>> module = Classification(Observer(DigitsNet(width=8), mean=(0.31,), std=(0.38,)))
        >>> sum(parameter.numel() for parameter in module.parameters())
        2034
    """

    state_key = "classification"
    best_metric = "val/accuracy"
    trains_one_network: ClassVar[bool] = True
    metrics: ClassVar[tuple[str, ...]] = ("train/", "val/")

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
        super().__init__(seed)
        check_makers(optimizer=optimizer, scheduler=scheduler)
        if output is not None:
            _check_ending(Path(output))
        self.network = network
        self.augment = augment
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.label_smoothing = label_smoothing
        self.output = output
        self.losses = LossWatch()
        self.scores = Scores(network.num_classes)

    def setup(self, stage: str) -> None:
        """Check that the network fits the data.

        Args:
            stage: ``fit``, ``validate``, ``test`` or ``predict``.
        """
        super().setup(stage)
        if stage == "fit":
            check_finite("the network to begin with", self.network, "build it anew, or load other weights")
        classes = num_classes_of(self.trainer) if stage != "predict" else None
        if stage == "fit":
            check_trainable("network", self.network)
        if classes is not None and classes != self.network.num_classes:
            raise ValueError(
                f"the data has {classes} classes, the network {self.network.num_classes}: set the network's num_classes"
            )

    def on_fit_start(self) -> None:
        """Check the network in the precision of the run."""
        super().on_fit_start()
        check_dtypes(self.trainer, network=self.network)

    def outputs(self) -> list[Target]:
        """Return the file of the weights, if one is set."""
        return [] if self.output is None else [Target(Path(self.output), state_size(self.network))]

    def on_train_start(self) -> None:
        """Check that the loaders' datasets have the same class names, and store them."""
        check_parts(self.trainer)
        loaders = CombinedLoader(self.trainer.train_dataloader).flattened
        self.class_names = next(class_names_of(loaders), self.class_names)

    @property
    def classifier(self) -> Observer:
        """The network."""
        return self.network

    @property
    def _label_range(self) -> int | None:
        """Limit of training labels; ``None`` for data checked by its datamodule, because a check waits for a GPU."""
        data = real_data_of(self.trainer)
        return self.network.num_classes if data is None or not data.labeled else None

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a batch.

        Args:
            batch: images ``(N, C, H, W)``, in [0, 1] or uint8, and labels ``(N,)``.
            batch_idx: position in the epoch.
        """
        images, labels = real_batch(batch, self._label_range)
        logits = self.network(self._augmented(images, batch_idx)).logits
        loss = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        self.losses.add("network", self.global_step, {"loss": loss})
        self.log("train/loss", loss, prog_bar=True, batch_size=len(labels))
        return loss

    def on_after_backward(self) -> None:
        """Synchronise the network's buffers over ranks, even if no checkpoint follows."""
        sync_buffers([self.network])

    def _augmented(self, images: Tensor, batch_idx: int) -> Tensor:
        if self.augment is None:
            return images
        draw = Draw(self.seed, batch_idx, self.global_rank, self.trainer.world_size)
        generator = draw.generator(f"augment/{self.current_epoch}")
        parameters = self.augment.sample(len(images) * draw.world_size, generator)
        return cast(Tensor, self.augment(images, take(parameters, draw.rows)))

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Evaluate a batch.

        Args:
            batch: as in :meth:`training_step`; it may be empty.
            batch_idx: position in the loader.
            dataloader_idx: index of the loader.
        """
        self._measure("val", batch, dataloader_idx)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Evaluate a batch.

        Args:
            batch: as in :meth:`training_step`; it may be empty.
            batch_idx: position in the loader.
            dataloader_idx: index of the loader.
        """
        self._measure("test", batch, dataloader_idx)

    def _measure(self, stage: str, batch: tuple[Tensor, Tensor], loader: int) -> None:
        images, labels = real_batch(batch, self.network.num_classes)
        logits = self.network(images).logits if len(labels) else images.new_empty(0, self.network.num_classes)
        self._logits.add(stage, logits)
        self.scores.add_accuracy(f"{stage}/accuracy", loader, logits, labels)
        self.scores.add_mean(f"{stage}/loss", loader, F.cross_entropy(logits, labels, reduction="none"))

    def _log_scores(self, stage: str) -> None:
        check_logits(self._logits, stage, "the network", self)
        self.log_dict(self.scores.pop(), prog_bar=stage == "val", sync_dist=True)  # already equal on all ranks

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return the optimizer and its schedule."""
        parameters = self.network.parameters()
        if self.optimizer is None:
            optimizer: Optimizer = SGD(parameters, lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
        else:
            optimizer = make_optimizer("optimizer", self.optimizer, self.network.parameters())
        check_covers("optimizer", optimizer, self.network)
        if self.scheduler is None:
            return {
                "optimizer": optimizer,
                "lr_scheduler": {"scheduler": run_cosine("scheduler", optimizer, self.trainer), "interval": "step"},
            }
        scheduler = make_scheduler("scheduler", self.scheduler, optimizer)
        epochs = self.trainer.max_epochs
        check_count("scheduler", scheduler, epochs if epochs and epochs > 0 else None, "once an epoch")
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": monitored_by(scheduler)}}

    def on_validation_start(self) -> None:
        """Synchronise the network's statistics over ranks, and start the scores."""
        check_dtypes(self.trainer, network=self.network)
        self.scores.begin(self.trainer)
        sync_buffers([self.network])
        if self.trainer.state.fn == TrainerFn.FITTING:
            self.stop_if_diverged()
        else:
            check_measured(self.network, "the network")

    def on_test_start(self) -> None:
        """Check the network, and start the scores."""
        check_dtypes(self.trainer, network=self.network)
        self.scores.begin(self.trainer)
        check_measured(self.network, "the network")

    def on_validation_epoch_end(self) -> None:
        """Check that the outputs were finite, and log the scores."""
        self._log_scores("val")

    def on_test_epoch_end(self) -> None:
        """Check that the outputs were finite, and log the scores."""
        self._log_scores("test")

    def on_train_epoch_end(self) -> None:
        """End a run that has diverged."""
        self.stop_if_diverged()

    def stop_if_diverged(self) -> None:
        """End the run if a loss, weight or statistic is not finite.

        Raises:
            FloatingPointError: if one is.
        """
        cure = "Lower the learning rate of optimizer"
        stop_if_diverged(self, self.losses, self.network, "the network", cure)

    def save_state(self, checkpoint: Mapping[str, Any]) -> dict[str, Any]:
        """Synchronise the network's statistics over ranks before rank 0 writes them.

        Args:
            checkpoint: not used.
        """
        sync_buffers([self.network])
        self.stop_if_diverged()
        return super().save_state(checkpoint)

    def restore(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Check the network's weights.

        Args:
            state: result of :meth:`save_state`.
            tensors: state dict of the checkpoint.

        Raises:
            ValueError: if it does not fit the network, or comes from a diverged run.
        """
        super().restore(state, tensors)
        check_checkpoint(tensors)
        self.check_state(tensors)

    def on_train_end(self) -> None:
        """Write the weights if an output file is set, except in a ``fast_dev_run``, and log the path."""
        sync_buffers([self.network])
        self.stop_if_diverged()
        if self.output is None:
            return
        if self.trainer.is_global_zero and not dev_steps(self.trainer):
            self.export(self.output)
        log_written("last weights", self.output, "give them to an Observer as its weights", self.trainer)

    def export(self, path: str | Path) -> None:
        """Write the network's weights under its own names; the normalisation goes into the metadata.

        Args:
            path: target file, ending in ``.safetensors``; replaced atomically.

        Raises:
            ValueError: if the path has another ending, or the network contains NaN or infinity.
        """
        _check_ending(Path(path))
        check_finite("the network", self.network, "it has diverged, nothing was written")
        state = plain_state(self.network.network)
        tensors = {name: value.detach().cpu().clone().contiguous() for name, value in state.items()}
        statistics = {"mean": self.network.mean, "std": self.network.std}
        normalization = {name: None if value is None else value.tolist() for name, value in statistics.items()}
        save_tensors(Path(path), tensors, {"normalisation": json.dumps(normalization)})


def _check_ending(path: Path) -> None:
    if path.suffix != ".safetensors":
        raise ValueError(f"output: expected a path that ends in .safetensors, got {path.name!r}")
