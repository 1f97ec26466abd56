"""Pool of networks trained on real images, to compare predictions on real and generated images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from lightning_condkd.augment import Augment, SiameseAugment
from lightning_condkd.distributed import mean_over_ranks, sync_buffers
from lightning_condkd.models import Observer
from lightning_condkd.models.fresh_networks import FreshNetworks, check_fresh, normalize_by_batch
from lightning_condkd.precision import at_least_float32
from lightning_condkd.randomness import Draw, seeded_generator

RealDraw = Callable[[str], tuple[Tensor, Tensor]]


class MatchingPool(nn.Module):
    """Pool of networks; a step draws one, trains it further on real images, and compares images by its predictions.

    DiM's code has one network, new in every epoch, trained on 16 real batches before every comparison. Here there are
    several of different ages. Networks, momenta and ages are in the state dict, so a run resumes exactly. Networks are
    trained by SGD on this rank's share of a batch, with gradients and running statistics averaged over ranks, and are
    in eval mode for comparisons (our choice: generated images then do not affect the statistics of BatchNorm). There is
    no dropout.

    Args:
        networks: factory of the networks, which include the normalisation of the data.
        augment: augmentation of the images: drawn for each image in training, the same for real and generated images in
            comparisons. ``None`` for :class:`~lightning_condkd.augment.SiameseAugment` with ``color_crop_cutout``
            (DiM).
        size: networks in the pool (our default; DiM 1).
        lifetime: number of comparisons after which a new network replaces one (our default; in DiM those of an epoch).
        training_batches: real batches before every comparison (DiM 16).
        learning_rate: learning rate of SGD (DiM 0.01).
        momentum: momentum of SGD (DiM 0.9).
        weight_decay: weight decay of SGD (DiM 5e-4).

    Raises:
        ValueError: if a count is out of its range.

    Example:
        >>> from lightning_condkd.models import ConvNet
        >>> networks = FreshNetworks(lambda: ConvNet(2, image_size=8, depth=1, width=4))
        >>> pool = MatchingPool(networks, size=2, training_batches=1)
        >>> pool.build((3, 8, 8), 2, seed=0)
        >>> images, labels, draw = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 0, 1]), Draw(seed=0, step=0)
        >>> network = pool.draw_network(draw, lambda purpose: (images, labels))
        >>> [logits.shape for logits in pool.predictions(network, images, 1 - images, draw)]
        [torch.Size([4, 2]), torch.Size([4, 2])]
    """

    ages: Tensor
    momenta: Tensor

    def __init__(
        self,
        networks: FreshNetworks,
        *,
        augment: Augment | None = None,
        size: int = 4,
        lifetime: int = 100,
        training_batches: int = 16,
        learning_rate: float = 0.01,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
    ) -> None:
        super().__init__()
        for name, number in {"size": size, "lifetime": lifetime, "training_batches": training_batches}.items():
            if number < (least := 0 if name == "training_batches" else 1):
                raise ValueError(f"{name}: expected at least {least}, got {number}")
        self.fresh = check_fresh(networks)
        self.augment = SiameseAugment("color_crop_cutout") if augment is None else augment
        self.size, self.lifetime, self.training_batches = size, lifetime, training_batches
        self.learning_rate, self.momentum, self.weight_decay = learning_rate, momentum, weight_decay
        self.networks = nn.ModuleList()

    def build(self, image_shape: tuple[int, int, int], num_classes: int, seed: int) -> None:
        """Create the networks on the CPU, frozen, and check that they fit the images.

        Args:
            image_shape: ``(C, H, W)`` in pixels.
            num_classes: number of classes K.
            seed: seed of the run.

        Raises:
            ValueError: if they have another number of classes or do not accept such images.
        """
        self.fresh.check(image_shape, num_classes)
        generators = [seeded_generator(seed, "first matching networks", slot) for slot in range(self.size)]
        self.networks = nn.ModuleList(self.fresh.make(generator).requires_grad_(False) for generator in generators)
        parameters = torch.zeros(self.size, self.fresh.num_parameters, device="cpu")
        self.register_buffer("momenta", parameters)
        self.register_buffer("ages", torch.zeros(self.size, dtype=torch.int64, device="cpu"))

    def draw_network(self, draw: Draw, real: RealDraw) -> Observer:
        """Return a network of the pool in eval mode, trained further on real images for this step.

        Args:
            draw: randomness of the step.
            real: function that returns this rank's share of a real batch, images and classes, for a stream's name.
        """
        slot = int(torch.randint(self.size, (), generator=draw.generator("matching slot"), device="cpu"))
        network = cast(Observer, self.networks[slot])
        if int(self.ages[slot]) >= self.lifetime:
            network.load_state_dict(self.fresh.make(draw.generator("matching network")).state_dict())
            self.momenta[slot], self.ages[slot] = 0, 0
        for batch in range(self.training_batches):
            images, labels = real(f"matching images/{batch}")
            view = self.augment.view(images, draw, f"matching augment/{batch}")
            self._train(normalize_by_batch(network), self.momenta[slot], view, labels)
        self.ages[slot] += 1
        sync_buffers([network])
        return network.eval()

    @torch.enable_grad()
    def _train(self, network: Observer, momenta: Tensor, images: Tensor, labels: Tensor) -> None:
        """Make one step of SGD on copies of the frozen parameters, which have no hooks of DDP."""
        parameters = {name: value.detach().requires_grad_() for name, value in network.named_parameters()}
        loss = F.cross_entropy(at_least_float32(functional_call(network, parameters, (images,)).logits), labels)
        gradients = torch.autograd.grad(loss, list(parameters.values()))
        gradient = mean_over_ranks(torch.cat([part.flatten() for part in gradients]))
        weights = torch.cat([value.detach().flatten() for value in parameters.values()])
        momenta.mul_(self.momentum).add_(gradient + self.weight_decay * weights)
        sizes = [value.numel() for value in parameters.values()]
        for parameter, step in zip(network.parameters(), torch.split(momenta, sizes), strict=True):
            parameter.data.sub_(self.learning_rate * step.view_as(parameter))

    def predictions(self, network: Observer, real: Tensor, synthetic: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        """Return the logits of real and of generated images under one view; the real ones have no graph.

        Args:
            network: from :meth:`draw_network`.
            real: ``(N, C, H, W)``, pixels in the units of [0, 1].
            synthetic: ``(N, C, H, W)``.
            draw: randomness of the step.
        """
        shared = self.augment.sample(1, draw.generator("matching view"))
        with torch.no_grad():
            of_real = network(self.augment(real, shared)).logits
        return of_real, network(self.augment(synthetic, shared)).logits

    def settings(self) -> dict[str, Any]:
        """Return the settings that a file records about the pool, JSON values only."""
        names = ("size", "lifetime", "training_batches", "learning_rate", "momentum", "weight_decay")
        numbers = {name: getattr(self, name) for name in names}
        return {**self.fresh.settings(), "augment": repr(self.augment), **numbers}
