"""The memory of PRE-DFKD: a variational autoencoder that replays images without storing any."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from lightning_condkd.functional import replay
from lightning_condkd.functional.divergence import logits_l1
from lightning_condkd.functional.inversion import balance_loss, class_loss
from lightning_condkd.inversion.interfaces import Observe
from lightning_condkd.randomness import Draw
from lightning_condkd.types import LossTerms


@dataclass(frozen=True)
class LatentStep:
    """Settings of the single step of Adam on memory latents before they are decoded.

    Args:
        lr: learning rate of Adam.
        class_weight: weight of the cross-entropy to the class predicted by the teacher.
        balance_weight: weight of the negative entropy of the mean prediction.
        variance_weight: weight of the distance of the latents' variance from 1.
        mean_weight: weight of the distance of the latents' mean from 0.
        gradient_leak: whether the loss of the step is added to the replay loss, so that its gradient also updates the
            memory generator. This happens in the official code, which does not clear the gradient.

    Raises:
        ValueError: if the learning rate is negative.
    """

    lr: float = 0.02
    class_weight: float = 1.0
    balance_weight: float = 5.0
    variance_weight: float = 1.0
    mean_weight: float = 1.0
    gradient_leak: bool = False

    def __post_init__(self) -> None:
        if self.lr < 0:
            raise ValueError(f"expected lr of the latents' step of at least 0, got {self.lr}: 0 leaves them as drawn")


@dataclass(frozen=True)
class Memory:
    """Settings of PRE-DFKD's memory; defaults are those of the official code for CIFAR.

    At these shapes the memory is an autoencoder of 12.7 million parameters, 49 MiB in float32 and twice that for its
    Adam, for any number of images.

    Args:
        share: share of memory images in the synthetic images of a student step, rounded to whole images; 0 disables the
            memory, so neither its networks nor their optimizer are created.
        batch_size: memory images of a replay step.
        lr: learning rate of Adam for memory generator and encoder.
        width: width of the default memory generator and encoder.
        replay_steps: number of student steps at the start of a block that are followed by a replay step.
        replay_novel: largest number of novel images in a replay step; those of the student step are used.
        image_weight: weight of the L1 distance between images and their reconstructions.
        logits_weight: weight of the L1 distance between the teacher's logits for images and reconstructions.
        divergence_weight: weight of the divergence of encoded latents from standard normal ones.
        latents: the step of memory latents.
        generator: network from latents ``(N, latent_size)`` to images ``(N, C, H, W)`` in the units of [0, 1]; ``None``
            builds a :class:`~lightning_condkd.models.NormalizedGenerator` of ``width`` without spectral norm.
        encoder: network from images to mean and log variance of their latents, ``(N, latent_size)`` each; ``None``
            builds an :class:`~lightning_condkd.models.encoder.Encoder` of ``width``.

    Raises:
        ValueError: if an argument is out of its range.
    """

    share: float = 128 / 1152
    batch_size: int = 128
    lr: float = 5e-4
    width: int = 128
    replay_steps: int = 4
    replay_novel: int = 512
    image_weight: float = 1.0
    logits_weight: float = 1.0
    divergence_weight: float = 1e-5
    latents: LatentStep = LatentStep()
    generator: nn.Module | None = None
    encoder: nn.Module | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise ValueError(f"expected share of memory images in [0, 1), got {self.share}: 0 is for no memory")
        if self.lr < 0:
            raise ValueError(f"expected lr of the memory of at least 0, got {self.lr}")
        for name in ("batch_size", "replay_steps", "replay_novel"):
            if getattr(self, name) < 1:
                cure = "share=0 is for no memory"
                raise ValueError(f"expected {name} of the memory of at least 1, got {getattr(self, name)}: {cure}")


class Recalled(NamedTuple):
    """Latents from which the memory decodes images.

    Args:
        latents: this rank's rows after their step, ``(N, latent_size)``, without graph.
        terms: loss terms of the step; they have a graph only with ``gradient_leak``.
    """

    latents: Tensor
    terms: LossTerms


class ReplayMemory(nn.Module):
    """A generator that decodes latents to earlier images, and the encoder for its training.

    Args:
        generator: network from latents ``(N, latent_size)`` to images ``(N, C, H, W)`` in the units of [0, 1].
        encoder: network from images to mean and log variance of their latents, ``(N, latent_size)`` each.
        latent_size: length of a latent.
        std: the teacher's standard deviation of each channel; empty for none.
        memory: weights of the terms of :meth:`reconstruction`, and settings of the step in :meth:`recall`.
        log10: whether the entropy of ``latent_balance`` is to base 10.
    """

    std: Tensor

    def __init__(
        self,
        generator: nn.Module,
        encoder: nn.Module,
        *,
        latent_size: int,
        std: tuple[float, ...],
        memory: Memory,
        log10: bool,
    ) -> None:
        super().__init__()
        self.generator, self.encoder = generator, encoder
        self.latent_size, self.memory, self.log10 = latent_size, memory, log10
        self.register_buffer("std", torch.tensor(std or (1.0,)).view(-1, 1, 1), persistent=False)

    def _normal(self, count: int, purpose: str, draw: Draw) -> Tensor:
        numbers = torch.randn((count, self.latent_size), generator=draw.generator(purpose))[draw.rows]
        return numbers.to(next(self.generator.parameters()))

    @torch.enable_grad()
    def recall(self, count: int, purpose: str, observe: Observe, draw: Draw) -> Recalled:
        """Draw latents and update them by one step of Adam towards confident and balanced predictions.

        The gradient is taken with respect to the latents alone, also inside ``no_grad``.

        Args:
            count: latents in the global batch.
            purpose: name of the stream of latents.
            observe: the frozen teacher.
            draw: randomness of the unit.
        """
        step = self.memory.latents
        latents = self._normal(count, purpose, draw).requires_grad_()
        # In full precision: the first step of Adam is nearly a sign, which half precision would often lose.
        with torch.autocast(latents.device.type, enabled=False):
            terms = self._latent_terms(latents, observe)
            if not terms.values:
                return Recalled(latents.detach(), terms)
            (gradient,) = torch.autograd.grad(terms.total(), latents, retain_graph=step.gradient_leak)
        return Recalled(replay.first_adam_step(latents.detach(), gradient, step.lr), terms)

    @torch.enable_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Return the images of latents, ``(N, C, H, W)``, without their graph.

        Args:
            latents: ``(N, latent_size)``.
        """
        # Not under no_grad: autocast may keep weights that it cast there, and later losses would lack their gradient.
        return cast(Tensor, self.generator(latents).detach())

    def _latent_terms(self, latents: Tensor, observe: Observe) -> LossTerms:
        step = self.memory.latents
        looks = step.class_weight or step.balance_weight
        logits = observe(self.generator(latents)).logits if looks else latents
        terms: dict[str, Callable[[], Tensor]] = {
            "latent_class": lambda: class_loss(logits, logits.argmax(1)),
            "latent_balance": lambda: balance_loss(logits, log10=self.log10),
            "latent_variance": lambda: replay.latent_variance_distance(latents),
            "latent_mean": lambda: replay.latent_mean_distance(latents),
        }
        weights = {
            "latent_class": step.class_weight,
            "latent_balance": step.balance_weight,
            "latent_variance": step.variance_weight,
            "latent_mean": step.mean_weight,
        }
        return LossTerms(terms, weights)

    def reconstruction(self, images: Tensor, observe: Observe, draw: Draw) -> LossTerms:
        """Return the distances between images and their reconstructions by the memory.

        Args:
            images: this rank's rows, ``(N, C, H, W)``, pixels in the units of [0, 1]; no gradient reaches them.
            observe: the frozen teacher.
            draw: randomness of the unit.
        """
        images = images.detach()
        mean, log_variance = self.encoder(images)
        noise = self._normal(len(images) * draw.world_size, "replay noise", draw)
        decoded = self.generator(replay.reparameterize(mean, log_variance, noise))
        terms: dict[str, Callable[[], Tensor]] = {
            "image": lambda: replay.image_l1(decoded, images, self.std),
            "logits": lambda: logits_l1(observe(decoded).logits, observe(images).logits),
            "divergence": lambda: replay.gaussian_divergence(mean, log_variance),
        }
        weights = {
            "image": self.memory.image_weight,
            "logits": self.memory.logits_weight,
            "divergence": self.memory.divergence_weight,
        }
        return LossTerms(terms, weights)
