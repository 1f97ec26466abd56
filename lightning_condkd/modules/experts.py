"""Module that trains experts for trajectory matching: networks one after the other, with a file for every epoch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import torch.nn.functional as F
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.optim import SGD, Optimizer

from lightning_condkd.augment import Augment, AugmentName, resolve_augment
from lightning_condkd.condensation.expert_files import (
    KIND,
    TENSOR,
    ExpertInfo,
    architecture,
    flatten,
    layout,
    read_snapshot_header,
    snapshot_path,
)
from lightning_condkd.files import plain_json, save_packed
from lightning_condkd.models.finite import check_finite
from lightning_condkd.models.fresh_networks import FreshNetworks, check_fresh
from lightning_condkd.modules.parts.checks import check_dtypes
from lightning_condkd.randomness import Draw, seeded_generator
from lightning_condkd.training.batches import check_class_sizes, log_written, real_batch, real_images, source_facts
from lightning_condkd.training.divergence import (
    LogitsWatch,
    LossWatch,
    check_checkpoint,
    check_logits,
    stop_if_diverged,
)
from lightning_condkd.training.held_out import loaders_in_turn
from lightning_condkd.training.outputs import state_size
from lightning_condkd.training.resumable import ResumableModule
from lightning_condkd.training.run_length import dev_steps
from lightning_condkd.training.scores import Scores
from lightning_condkd.writing import Target


class ExpertTrajectories(ResumableModule):
    """Train experts on real images, one after the other, and write their parameters before and after every epoch.

    Training is plain SGD without momentum, weight decay or schedule, as in the official code; a network with random
    weights replaces the expert after every ``epochs`` epochs of the trainer. So its ``max_epochs`` is the number of
    experts times ``epochs`` (published 100 times 50), and a run can be resumed within an expert. Unlike in the official
    code, images left over at the end of an epoch are not used in it. A snapshot is one vector of float32 in a
    ``.safetensors`` file: 1.3 MB for the usual ConvNet, 6.5 GB for 100 experts.

    Fit it with an :class:`~lightning_condkd.data.image_datamodules.ImageDataModule` (published batch size 256). Several
    ranks share the batches of one expert.

    Args:
        networks: factory of the networks, which include the normalisation of the data.
        output: folder for the snapshots of one run.
        epochs: epochs of each expert (published 50).
        learning_rate: step size (published 0.01).
        augment: one operator for each batch, with separate parameters for each image: ``dsa`` (official code),
            ``dsa_digits`` without its flip, or an :class:`~lightning_condkd.augment.Augment`; ``None`` disables it.
        seed: seed of the networks and the augmentation; ``None`` for that of ``seed_everything``, else 0. A resumed run
            keeps its seed.

    Raises:
        ValueError: if the network has running statistics or dropout, or a count is not positive; when fitting begins,
            if the network or ``max_epochs`` does not fit, or the folder contains snapshots of another run.
        FloatingPointError: before a snapshot is written, if training diverged.

    Example:
        >>> from lightning_condkd.models import ConvNet
        >>> networks = FreshNetworks(lambda: ConvNet(10, image_size=8, in_channels=1, depth=2, width=4))
        >>> experts = ExpertTrajectories(networks, epochs=5)
        >>> experts.position(epoch=13)
        (2, 3)
    """

    state_key = "experts"
    fixed_settings: ClassVar[Mapping[str, str]] = {"epochs": "resume with as many: they number the experts"}
    metrics: ClassVar[tuple[str, ...]] = ("train/", "val/")
    plain_steps: ClassVar[bool] = True

    def __init__(
        self,
        networks: FreshNetworks,
        *,
        output: str | Path = "experts",
        epochs: int = 50,
        learning_rate: float = 0.01,
        augment: AugmentName | Augment | None = "dsa",
        seed: int | None = None,
    ) -> None:
        super().__init__(seed)
        if epochs < 1:
            raise ValueError(f"epochs: expected a positive number for each expert, got {epochs}")
        self.networks = check_fresh(networks)
        self.output, self.epochs, self.learning_rate = Path(output), epochs, learning_rate
        self.augment = resolve_augment(augment, networks.mean, networks.std)
        self.network = self.networks.make(seeded_generator(self.seed, "expert"))
        self._layout = layout(self.network.network)
        self.losses, self._logits = LossWatch(), LogitsWatch()
        self._data_facts: dict[str, Any] = {}
        self.scores = Scores(self.networks.num_classes)

    def position(self, epoch: int) -> tuple[int, int]:
        """Return the number of the expert at an epoch of the trainer, and the number of epochs of its training so far.

        Args:
            epoch: epoch of the trainer.
        """
        return divmod(epoch, self.epochs)

    @property
    def info(self) -> ExpertInfo:
        """Facts that all snapshots of this run share."""
        data = real_images(self)
        training = {
            "learning_rate": self.learning_rate,
            "batch_size": data.batch_size,
            "augment": repr(self.augment),
            "seed": self.seed,
            "data_seed": data.seed,
        }
        names, shapes = self._layout
        own = self.networks.settings()
        return ExpertInfo(
            **own,
            names=names,
            shapes=shapes,
            architecture=architecture(self.network.network),
            epochs=self.epochs,
            training=plain_json("training", training),
            data=self._data_facts,
        )

    def on_fit_start(self) -> None:
        """Check the run before it starts."""
        super().on_fit_start()
        check_dtypes(self.trainer, network=self.network)
        data = real_images(self)
        self.networks.check(data.image_shape, data.num_classes)
        check_class_sizes(data.train_source, 1, cure="add one")
        self._data_facts = source_facts(data.train_source)
        epochs = self.trainer.max_epochs or 0
        if not dev_steps(self.trainer) and (epochs < 1 or epochs % self.epochs):
            raise ValueError(
                f"max_epochs={self.trainer.max_epochs}: expected a multiple of {self.epochs}, the epochs of an expert; "
                f"set --trainer.max_epochs to {self.epochs} times the number of experts"
            )
        self._check_folder()

    def outputs(self) -> list[Target]:
        """Return the folder of the snapshots, with the size of those not written yet."""
        experts, _ = self.position(self.trainer.max_epochs or 0)
        absent = experts * (self.epochs + 1) - len(list(self.output.glob("expert_*.safetensors")))
        return [Target(self.output, max(0, absent) * state_size(self.network), folder=True)]

    def on_train_start(self) -> None:
        """Check the validation loaders; warn if the run ends before its last expert is finished."""
        loaders_in_turn(self.trainer)
        steps, length = self.trainer.max_steps, int(self.trainer.num_training_batches)
        if not dev_steps(self.trainer) and 0 <= steps < (self.trainer.max_epochs or 0) * length:
            expert, epoch = self.position(steps // length)
            rank_zero_warn(
                f"max_steps={steps} ends the run in epoch {epoch} of expert {expert}, before max_epochs: leave it out, "
                "or resume the run, else the later snapshots are missing"
            )

    def _check_folder(self) -> None:
        for path in sorted(self.output.glob("expert_*.safetensors")):
            if different := self.info.differences(read_snapshot_header(path)[0]):
                raise ValueError(
                    f"output: {path} is of another run, which differs in (here, there) {different}: choose another "
                    "folder, remove this one, or resume that run from its checkpoint"
                )

    def on_train_batch_start(self, batch: object, batch_idx: int) -> None:
        """Replace a finished expert by a network with random weights.

        Args:
            batch: not used.
            batch_idx: position in the epoch.
        """
        super().on_train_batch_start(batch, batch_idx)
        expert, epoch = self.position(self.current_epoch)
        if batch_idx or epoch:
            return
        fresh = self.networks.make(seeded_generator(self.seed, "expert", expert))
        check_finite(f"expert {expert} before training", fresh, "mend the initial values of network")
        self.network.load_state_dict(fresh.state_dict())
        self._write(expert, 0)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a batch.

        Args:
            batch: images ``(N, C, H, W)``, in [0, 1] or uint8, and labels ``(N,)``.
            batch_idx: position in the epoch.
        """
        images, labels = real_batch(batch)
        if self.augment is not None:
            draw = Draw(self.seed, batch_idx, self.global_rank, self.trainer.world_size)
            images = self.augment.view(images, draw, f"augment/{self.current_epoch}")
        loss = F.cross_entropy(self.network(images).logits, labels)
        self.losses.add("network", self.global_step, {"loss": loss})
        self.log("train/loss", loss, prog_bar=True, batch_size=len(labels))
        return loss

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - Lightning's own signature
        """Step the optimizer; after the last step of an epoch, write the snapshot.

        Args:
            args: arguments of Lightning.
            kwargs: arguments of Lightning.
        """
        super().optimizer_step(*args, **kwargs)
        # Not in on_train_epoch_end, which Lightning skips after a resume from a checkpoint of the last batch.
        if self.trainer.is_last_batch:
            self.stop_if_diverged()
            expert, epoch = self.position(self.current_epoch)
            self._write(expert, epoch + 1)

    def stop_if_diverged(self) -> None:
        """End the run if a loss, weight or statistic is not finite.

        Raises:
            FloatingPointError: if one is.
        """
        expert, epoch = self.position(self.current_epoch)
        what = f"expert {expert}, trained for {epoch} epochs that are in {self.output},"
        stop_if_diverged(self, self.losses, self.network, what, f"Lower learning_rate ({self.learning_rate:g})")

    def on_validation_start(self) -> None:
        """Check the expert, and start the scores."""
        self.scores.begin(self.trainer)
        self.stop_if_diverged()

    def on_validation_epoch_end(self) -> None:
        """Check that the outputs were finite, and log the scores."""
        check_logits(self._logits, "val", "the expert", self)
        self.log_dict(self.scores.pop(), prog_bar=True, sync_dist=True)  # already equal on all ranks

    def on_train_end(self) -> None:
        """End a run that diverged after its last snapshot; log the folder of the snapshots."""
        self.stop_if_diverged()
        log_written("experts", self.output, "give the folder to TrajectoryMatching as its experts", self.trainer)

    def _write(self, expert: int, epoch: int) -> None:
        if not self.trainer.is_global_zero or dev_steps(self.trainer):
            return
        header = {**asdict(self.info), "expert": expert, "epoch": epoch}
        save_packed(snapshot_path(self.output, expert, epoch), KIND, {TENSOR: flatten(self.network.network)}, header)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Evaluate the expert on a batch of held-out images.

        Args:
            batch: as in :meth:`training_step`; it may be empty.
            batch_idx: position in the loader.
            dataloader_idx: index of the loader; the first one's accuracy is ``val/accuracy``.
        """
        images, labels = real_batch(batch, self.networks.num_classes)
        logits = self.network(images).logits if len(labels) else images.new_empty(0)
        self._logits.add("val", logits)
        self.scores.add_accuracy("val/accuracy", dataloader_idx, logits, labels)

    def configure_optimizers(self) -> Optimizer:
        """Return plain SGD."""
        return SGD(self.network.parameters(), lr=self.learning_rate)

    def save_state(self, checkpoint: Mapping[str, Any]) -> dict[str, Any]:
        """Refuse to write a checkpoint of a diverged run.

        Args:
            checkpoint: not used.
        """
        self.stop_if_diverged()
        return {}

    def restore(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Check the expert's weights.

        Args:
            state: not used.
            tensors: state dict of the checkpoint.

        Raises:
            ValueError: if it does not fit the network, or comes from a diverged run.
        """
        check_checkpoint(tensors)
        self.check_state(tensors)
