"""Generative condensation: a conditional GAN, and a self-distillation term for its second stage.

Our reconstruction of arXiv 2501.04202, which has no public code, based on the recipe of DiM, arXiv 2303.04707.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from lightning_condkd.functional.adversarial import critic_loss, generator_loss, gradient_penalty
from lightning_condkd.functional.self_distillation import Distance, Pairing, check_choices, self_distillation_loss
from lightning_condkd.models.conditional_gan import ConditionalCritic, ConditionalGenerator
from lightning_condkd.precision import at_least_float32
from lightning_condkd.randomness import Draw, seeded_initialization
from lightning_condkd.types import LossTerms


@dataclass(frozen=True)
class SelfDistillation:
    """Matching stage: the divergence of a network's predictions on generated images from those on real images.

    Args:
        weight: weight of the term relative to the GAN's terms (our default: on the digits 10 is better than 1 at one
            image per class, and neither matters at ten); 0 leaves a plain conditional GAN, the ablation.
        temperature: divisor of the logits (our default).
        standardize: whether to standardise each sample's logits first.
        pairing: ``sample``, or ``class_mean`` for the mean logits of a class in each rank's batch.
        distance: ``kl``, or ``mse`` between log-probabilities. DiM's code uses ``mse``, weight 0.01, temperature 1,
            ``sample``, not standardised.
        learning_rate: learning rate of generator and critic in this stage (DiM 5e-6).
        batch_size: real images in a batch of this stage, over all ranks (DiM 64).

    Raises:
        ValueError: if a number is out of its range or a name is unknown.

    Example:
        >>> term = SelfDistillation()
        >>> logits = torch.tensor([[1.0, 2.0, 4.0]])
        >>> term(logits, 2 * logits + 1, torch.tensor([0])).item() < 1e-6
        True

    References:
        Li et al.: "Generative Dataset Distillation Based on Self-knowledge Distillation", arXiv 2501.04202.
    """

    weight: float = 10.0
    temperature: float = 4.0
    standardize: bool = True
    pairing: Pairing = "sample"
    distance: Distance = "kl"
    learning_rate: float = 5e-6
    batch_size: int = 64

    def __post_init__(self) -> None:
        check_choices(self.temperature, self.pairing, self.distance)
        _check_at_least(0, weight=self.weight)
        _check_at_least(1, batch_size=self.batch_size)

    def __call__(self, real_logits: Tensor, synthetic_logits: Tensor, labels: Tensor) -> Tensor:
        """Return the term without its weight, see :func:`self_distillation_loss`."""
        return self_distillation_loss(
            real_logits,
            synthetic_logits,
            labels,
            temperature=self.temperature,
            standardize=self.standardize,
            pairing=self.pairing,
            distance=self.distance,
        )


class ConditionalGAN(nn.Module):
    """Generator and critic with their losses: auxiliary classifier and Wasserstein distance with gradient penalty.

    Args:
        latent_size: width of a latent (DiM 100).
        width: channels of both networks (DiM 196).
        learning_rate: learning rate of Adam with betas (0, 0.9), for both (DiM 1e-4).
        batch_size: real images in a batch, over all ranks (DiM 128).
        penalty: weight of the gradient penalty (DiM 10), which is computed for pixels in [-1, 1] as in DiM.

    Raises:
        ValueError: if a count is not positive.

    Example:
        >>> gan = ConditionalGAN(latent_size=8, width=4)
        >>> gan.build((1, 8, 8), 3, torch.Generator().manual_seed(0))
        >>> images, labels, draw = torch.rand(5, 1, 8, 8), torch.tensor([0, 1, 2, 0, 1]), Draw(seed=0, step=0)
        >>> gan.render(labels, draw, "latents").shape
        torch.Size([5, 1, 8, 8])
        >>> sorted(gan.critic_loss(images, labels, draw).values)
        ['class_real', 'class_synthetic', 'distance', 'penalty']

    References:
        Wang et al.: "DiM: Distilling Dataset into Generative Model", arXiv 2303.04707; its code.
    """

    generator: ConditionalGenerator
    critic: ConditionalCritic
    image_shape: tuple[int, int, int]

    def __init__(
        self,
        *,
        latent_size: int = 100,
        width: int = 196,
        learning_rate: float = 1e-4,
        batch_size: int = 128,
        penalty: float = 10.0,
    ) -> None:
        super().__init__()
        _check_at_least(1, latent_size=latent_size, width=width, batch_size=batch_size)
        self.latent_size, self.width, self.batch_size = latent_size, width, batch_size
        self.learning_rate, self.penalty = learning_rate, penalty

    def build(self, image_shape: tuple[int, int, int], num_classes: int, generator: torch.Generator) -> None:
        """Create both networks on the CPU.

        Args:
            image_shape: ``(C, H, W)`` in pixels.
            num_classes: number of classes K.
            generator: source of their weights.
        """
        self.image_shape = image_shape
        with seeded_initialization(generator):
            self.generator = ConditionalGenerator(
                image_shape, num_classes, latent_size=self.latent_size, width=self.width
            )
            self.critic = ConditionalCritic(image_shape, num_classes, width=self.width)

    @property
    def built(self) -> bool:
        """``True`` if the networks have been created."""
        return hasattr(self, "generator")

    def optimizers(self) -> dict[str, Optimizer]:
        """Return a new optimizer for each network."""
        networks = {"generator": self.generator, "critic": self.critic}
        return {name: Adam(n.parameters(), self.learning_rate, betas=(0.0, 0.9)) for name, n in networks.items()}

    def render(self, labels: Tensor, draw: Draw, purpose: str) -> Tensor:
        """Return images ``(N, C, H, W)`` in the units of [0, 1] from new latents.

        Args:
            labels: classes of this rank's rows, ``(N,)`` int64.
            draw: randomness of the step.
            purpose: name of the stream of latents.
        """
        shape = len(labels) * draw.world_size, self.latent_size
        latents = torch.randn(shape, generator=draw.generator(purpose), device="cpu")[draw.rows]
        return cast(Tensor, self.generator(latents.to(self.generator.to_image.weight), labels))

    def generator_loss(self, images: Tensor, labels: Tensor) -> LossTerms:
        """Return the loss of the generator: negative realness, and the class loss of the critic's class head.

        Args:
            images: rendered images, ``(N, C, H, W)``.
            labels: their intended classes, ``(N,)`` int64.
        """
        realness, class_logits = self.critic(images)
        terms = {"realness": generator_loss(realness, "hinge"), "class": _cross_entropy(class_logits, labels)}
        return LossTerms(terms, dict.fromkeys(terms, 1.0))

    def critic_loss(self, images: Tensor, labels: Tensor, draw: Draw) -> LossTerms:
        """Return the loss of the critic, with new generated images of uniformly drawn classes, without their graph.

        Args:
            images: real images, this rank's share, ``(N, C, H, W)``, pixels in the units of [0, 1].
            labels: their classes, ``(N,)`` int64.
            draw: randomness of the step.
        """
        size, random = len(labels) * draw.world_size, draw.generator("critic")
        wanted = torch.randint(self.generator.num_classes, (size,), generator=random, device="cpu")
        mix = torch.rand(size, generator=random, device="cpu")[draw.rows]
        wanted = wanted[draw.rows].to(labels.device)
        with torch.no_grad():
            synthetic = self.render(wanted, draw, "critic latents")
        on_real, on_synthetic = self.critic(images), self.critic(synthetic)
        terms = {
            "distance": critic_loss(on_real.realness, on_synthetic.realness),
            "class_real": _cross_entropy(on_real.class_logits, labels),
            "class_synthetic": _cross_entropy(on_synthetic.class_logits, wanted),
            "penalty": gradient_penalty(lambda x: self.critic(x).realness, images, synthetic, mix, scale=0.5),
        }
        return LossTerms(terms, dict.fromkeys(terms, 1.0) | {"penalty": self.penalty})

    @torch.no_grad()
    def sample(self, labels: Tensor, random: torch.Generator) -> Tensor:
        """Return images on the CPU from the generator in eval mode; each depends only on its latent and class.

        Args:
            labels: classes, ``(N,)`` int64, on the CPU.
            random: source of the latents, on the CPU.
        """
        weight, training = self.generator.to_image.weight, self.generator.training
        latents = torch.randn(len(labels), self.latent_size, generator=random, device="cpu")
        pairs = zip(torch.split(latents.to(weight), 256), torch.split(labels.to(weight.device), 256), strict=True)
        self.generator.eval()
        images = torch.cat([self.generator(*pair) for pair in pairs])
        self.generator.train(training)
        return images.cpu()


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(at_least_float32(logits), labels)


def _check_at_least(least: int, **numbers: float) -> None:
    for name, value in numbers.items():
        if value < least:
            raise ValueError(f"{name}: expected at least {least}, got {value}")
