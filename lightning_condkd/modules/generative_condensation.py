"""Module that trains a generator of a dataset, and exports a condensed set from it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.optim import Optimizer

from lightning_condkd.condensation import MatchingPool
from lightning_condkd.condensation.generative import ConditionalGAN, SelfDistillation
from lightning_condkd.data.condensed import CondensedSet
from lightning_condkd.data.image_source import ImageSource
from lightning_condkd.distributed import mean_over_ranks, sync_buffers
from lightning_condkd.formats.contents import CondensedInfo
from lightning_condkd.modules.parts.checks import check_batch, check_strategy
from lightning_condkd.randomness import Draw, seeded_generator
from lightning_condkd.training.batches import check_class_sizes, log_written, real_batch, real_images
from lightning_condkd.training.loop_counters import count_step
from lightning_condkd.training.manual_optimization import ManualOptimization
from lightning_condkd.training.meters import Meters
from lightning_condkd.training.resumable import ResumableModule
from lightning_condkd.training.run_length import dev_steps, run_steps
from lightning_condkd.types import LossTerms
from lightning_condkd.writing import Target


class GenerativeCondensation(ResumableModule):
    """Train a conditional GAN on a dataset, then with a term from networks trained on the data, and export a set.

    OUR RECONSTRUCTION of generative condensation by self-distillation. The paper has no public code, and its weight,
    temperature, pool and schedule are unknown: do not expect its numbers here. The base is DiM's recipe. First the GAN
    is trained alone for ``gan_epochs``. In the epochs after that both optimizers restart with the learning rate of the
    matching stage, and the generator also minimises the divergence between the predictions of a network of the pool on
    real and on generated images of the same classes, under one augmentation. DiM starts its second stage from the best
    GAN by accuracy, this module from the last.

    One ``training_step`` is a step of the generator, then one of the critic. Real images are drawn uniformly from the
    datamodule's. The generator is stored in the checkpoint; a set of its images in eval mode is written when training
    ends and with every checkpoint.

    With several ranks each takes its share of every batch and gradients are averaged. Statistics of the generator's
    BatchNorm, and class means with that pairing, are computed on each rank's share.

    Args:
        pool: the networks for the comparison, which include the normalisation of the data and the augmentation.
        ipc: images per class of the written set.
        gan: the GAN; ``None`` for :class:`ConditionalGAN` with its defaults.
        matching: the second stage; ``None`` for :class:`SelfDistillation` with its defaults.
        gan_epochs: epochs before the second stage (DiM 150).
        output: file to which a condensed set is written.
        steps_per_epoch: steps in an epoch of the trainer (DiM's batches of 128 CIFAR images: 390).
        seed: seed of all draws and of the written set; ``None`` for that of ``seed_everything``, else 0. A resumed run
            keeps its seed.

    Raises:
        ValueError: at setup, if a class has no image, a batch is not divisible by the number of ranks or the pool's
            networks do not fit the data.

    Example:
        >>> from functools import partial
        >>> from lightning_condkd.models import ConvNet, FreshNetworks
        >>> network = partial(ConvNet, 10, image_size=8, in_channels=1, depth=2)
        >>> pool = MatchingPool(FreshNetworks(network, mean=(0.31,), std=(0.38,)))
        >>> GenerativeCondensation(pool, ipc=10, gan=ConditionalGAN(width=32)).gan.batch_size
        128

    References:
        Li et al.: "Generative Dataset Distillation Based on Self-knowledge Distillation", arXiv 2501.04202.
        Wang et al.: "DiM: Distilling Dataset into Generative Model", arXiv 2303.04707; its code.
    """

    state_key = "generative condensation"
    fixed_settings: ClassVar[Mapping[str, str]] = {
        "steps_per_epoch": "resume with as many: they number the steps and seed the draws"
    }
    takes_new_rates = True
    metrics: ClassVar[tuple[str, ...]] = ("generator/", "critic/")

    def __init__(
        self,
        pool: MatchingPool,
        ipc: int = 10,
        *,
        gan: ConditionalGAN | None = None,
        matching: SelfDistillation | None = None,
        gan_epochs: int = 150,
        output: str | Path = "condensed.safetensors",
        steps_per_epoch: int = 390,
        seed: int | None = None,
    ) -> None:
        super().__init__(seed)
        for name, n, least in (("ipc", ipc, 1), ("gan_epochs", gan_epochs, 0), ("steps_per_epoch", steps_per_epoch, 1)):
            if n < least:
                raise ValueError(f"{name}: expected at least {least}, got {n}")
        if Path(output).suffix != ".safetensors":
            raise ValueError(f"output: expected a path that ends in .safetensors, got {str(output)!r}")
        self.automatic_optimization = False
        self.pool, self.ipc = pool, ipc
        self.gan = ConditionalGAN() if gan is None else gan
        self.matching = SelfDistillation() if matching is None else matching
        self.gan_epochs, self.steps_per_epoch = gan_epochs, steps_per_epoch
        self.output = Path(output)
        self.class_names: tuple[str, ...] = ()
        self.meters = Meters()
        self.iterations = 0
        self._source: ImageSource | None = None
        self._last_good: tuple[int, dict[str, Tensor]] | None = None

    def setup(self, stage: str) -> None:
        """Check batches, strategy and length, and find the real images.

        Args:
            stage: ``fit``; validation and test are not supported.
        """
        super().setup(stage)
        check_strategy(self.trainer)
        for name, size in {"gan": self.gan.batch_size, "matching": self.matching.batch_size}.items():
            check_batch(f"{name}.batch_size", size, self.trainer.world_size)
        self._source = real_images(self).train_source
        check_class_sizes(self._source, 1, cure="add one")
        self._check_stages()

    def _check_stages(self) -> None:
        steps, first = run_steps(self.trainer, self.steps_per_epoch), self.gan_epochs * self.steps_per_epoch
        if not self.matching.weight or dev_steps(self.trainer) or steps is None or steps > first:
            return
        ends = f"max_epochs={self.trainer.max_epochs}"
        if self.trainer.max_steps == steps:
            ends = f"max_steps={steps} (epochs of {self.steps_per_epoch})"
        cure = "lower gan_epochs, raise max_epochs or max_steps, or set matching.weight to 0"
        rank_zero_warn(f"{ends} ends in the first of two stages, which has gan_epochs={self.gan_epochs}: {cure}")

    def configure_model(self) -> None:
        """Create the networks for the data, on the CPU; a second run must have data of the same shapes."""
        if self._source is None:
            return  # loaded without a trainer: the shapes come from the checkpoint
        with torch.device("cpu"):  # the trainer calls this with its device as the default
            self._build(self._source.image_shape, self._source.class_names)

    def _build(self, image_shape: tuple[int, int, int], class_names: tuple[str, ...]) -> None:
        if self.gan.built:
            known = self.gan.image_shape, self.class_names
            if known != (image_shape, class_names):
                raise ValueError(f"the GAN was built for {known}, got {image_shape}, {class_names}: make a new module")
            return
        self.class_names = class_names
        self.gan.build(image_shape, len(class_names), seeded_generator(self.seed, "GAN"))
        if self.matching.weight:
            self.pool.build(image_shape, len(class_names), self.seed)

    def outputs(self) -> list[Target]:
        """Return the file of the set."""
        return [Target(self.output, 4 * len(self.class_names) * self.ipc * math.prod(self.gan.image_shape))]

    def configure_optimizers(self) -> list[Optimizer]:
        """Return the optimizers of generator and critic."""
        optimizers = self.gan.optimizers()
        self._optimizer_names = list(optimizers)
        return list(optimizers.values())

    def optimizer_names(self) -> list[str]:
        """Return the names of the optimizers."""
        return self._optimizer_names

    @property
    def _turns(self) -> ManualOptimization:
        return ManualOptimization(self, self._optimizer_names)

    def training_step(self, batch: object, batch_idx: int) -> None:
        """Update the generator, then the critic.

        Args:
            batch: not used; real images are drawn by step.
            batch_idx: position in the epoch.
        """
        count_step(self)
        step = self.current_epoch * self.steps_per_epoch + batch_idx
        draw = Draw(self.seed, step, self.global_rank, self.trainer.world_size)
        self._set_stage(step)
        images, labels = self._draw_real("real", draw)
        before = self.iterations, {n: v.detach().clone() for n, v in self.gan.generator.state_dict().items()}
        generated = self._generator_step(images, labels, draw)
        critic = self._critic_step(images, labels, draw)
        self._last_good, self.iterations = before, self.iterations + 1
        values = {f"{n}/{k}": v for n, t in (("generator", generated), ("critic", critic)) for k, v in t.values.items()}
        self.meters.add(values)
        sync_buffers([], statistics_of=[self.gan, self.pool])
        if batch_idx == self.trainer.num_training_batches - 1 or self.global_step == self.trainer.max_steps:
            self.log_dict(self.meters.pop(), on_step=False, on_epoch=True, batch_size=1, sync_dist=True)

    @property
    def _is_matching(self) -> bool:
        if dev := dev_steps(self.trainer):
            return 2 * self.iterations >= dev - 1  # both stages; the second includes the terms of the first
        return self.current_epoch >= self.gan_epochs

    def _set_stage(self, step: int) -> None:
        rate = self.matching.learning_rate if self._is_matching else self.gan.learning_rate
        for name, network in (("generator", self.gan.generator), ("critic", self.gan.critic)):
            for group in self._turns.optimizers[name].param_groups:
                group["lr"] = rate
            if step == self.gan_epochs * self.steps_per_epoch:
                self._turns.forget(name, list(network.parameters()))

    def _draw_real(self, purpose: str, draw: Draw) -> tuple[Tensor, Tensor]:
        size = self.matching.batch_size if self._is_matching else self.gan.batch_size
        rows = torch.randint(len(self._data), (size,), generator=draw.generator(purpose), device="cpu")[draw.rows]
        images, labels = real_batch((self._data.images[rows].to(self.device), self._data.labels[rows].to(self.device)))
        return images.to(self.gan.generator.to_image.weight.dtype), labels

    def _generator_step(self, real: Tensor, labels: Tensor, draw: Draw) -> LossTerms:
        with self._turns.turn("generator") as update:
            images = self.gan.render(labels, draw, "latents")
            terms = self.gan.generator_loss(images, labels)
            if self._is_matching and self.matching.weight:
                terms = terms.merge(self._matching_loss(real, images, labels, draw))
            self._guard(terms)
            update(terms.total())
        return terms

    def _matching_loss(self, real: Tensor, images: Tensor, labels: Tensor, draw: Draw) -> LossTerms:
        network = self.pool.draw_network(draw, lambda purpose: self._draw_real(purpose, draw))
        term = self.matching(*self.pool.predictions(network, real, images, draw), labels)
        return LossTerms({"matching": term}, {"matching": self.matching.weight})

    def _critic_step(self, real: Tensor, labels: Tensor, draw: Draw) -> LossTerms:
        with self._turns.turn("critic") as update:
            terms = self.gan.critic_loss(real, labels, draw)
            self._guard(terms)
            update(terms.total())
        return terms

    def _guard(self, terms: LossTerms) -> None:
        """Stop at the first loss that is not finite, with the last good generator restored."""
        if bool(mean_over_ranks(terms.total()).isfinite()):
            return
        found = ", ".join(f"{name} {float(value.detach()):.4g}" for name, value in terms.values.items())
        cure = "matching.learning_rate or matching.weight" if self._is_matching else "gan.learning_rate"
        self._restore()
        self.write()
        raise FloatingPointError(
            f"the loss of step {self.iterations} is not finite ({found}); {self.output} holds a set of the last good "
            f"generator. Lower {cure}"
        )

    def _restore(self) -> None:
        if self._last_good is not None:
            self.iterations, state = self._last_good
            self.gan.generator.load_state_dict(state)

    def export(self, ipc: int, seed: int) -> CondensedSet:
        """Return a set of generated images, the same for the same generator and seed.

        The generator is in eval mode: its BatchNorm layers use their running statistics, so images do not depend on
        each other. There is no selection: the first images of the seed are used.

        Args:
            ipc: images of each class.
            seed: seed of the latents.

        Raises:
            RuntimeError: before the networks are created, by ``Trainer.fit`` or from a checkpoint.
        """
        if not self.gan.built:
            raise RuntimeError("the generator is made when Trainer.fit begins, or from a checkpoint")
        labels = torch.arange(len(self.class_names)).repeat_interleave(ipc)
        images = self.gan.sample(labels, seeded_generator(seed, "export")).float()
        settings = {**self.settings(), "ipc": ipc}
        matched = self.matching.weight and settings["iterations"] > settings["gan_iterations"]
        name = "generative self-distillation (our reconstruction)" if matched else "conditional GAN"
        info = CondensedInfo(len(self.class_names), self.class_names, method=name, settings=settings, seed=seed)
        return CondensedSet(images, labels, info=info)

    def settings(self) -> dict[str, Any]:
        """Return the settings that a file of this method records, JSON values only."""
        names = ("latent_size", "width", "learning_rate", "batch_size", "penalty")
        return {
            "gan": {name: getattr(self.gan, name) for name in names},
            "matching": asdict(self.matching),
            "pool": self.pool.settings() if self.matching.weight else None,
            "iterations": self.iterations,
            "gan_iterations": min(self.iterations, self.gan_epochs * self.steps_per_epoch),
            "training_seed": self.seed,
        }

    def write(self) -> None:
        """Write a set to its file, on rank 0; if the last step made the generator invalid, the one before it is used.

        A ``fast_dev_run`` writes nothing.
        """
        sync_buffers([self.gan.generator])
        if not all(bool(value.isfinite().all()) for value in self.gan.generator.state_dict().values()):
            self._restore()
        if self.trainer.is_global_zero and not dev_steps(self.trainer):
            self.export(self.ipc, self.seed).save(self.output)

    def on_train_end(self) -> None:
        """Write a set, and log the path."""
        self.write()
        log_written(
            "condensed set",
            self.output,
            f"evaluate it with 'lightning-condkd evaluate {self.output} --data ...'",
            self.trainer,
        )

    def save_state(self, checkpoint: Mapping[str, Any]) -> dict[str, Any]:
        """Write a set; return shapes and progress.

        Args:
            checkpoint: not used.
        """
        sync_buffers([self.pool])
        self.write()
        return {
            "iterations": self.iterations,
            "meters": self.meters.state(),
            "image_shape": list(self.gan.image_shape),
            "class_names": list(self.class_names),
        }

    def restore(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Restore the progress, and create the networks if no fit has done so.

        Args:
            state: result of :meth:`save_state`.
            tensors: not used.
        """
        self.iterations = state["iterations"]
        if self.is_fitting:
            self.meters.load(state["meters"])
        self._build(tuple(state["image_shape"]), tuple(state["class_names"]))

    @property
    def _data(self) -> ImageSource:
        if self._source is None:
            raise RuntimeError("the images are known when Trainer.fit begins")
        return self._source
