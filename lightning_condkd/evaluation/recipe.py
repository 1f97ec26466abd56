"""How fresh networks are trained when a condensed set is evaluated."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor
from torch.optim import SGD, AdamW, Optimizer

from lightning_condkd.augment import Augment, AugmentName, CropFlip, ResizedCrop

LEARNING_RATES = {"sgd": 0.01, "adamw": 0.001}


@dataclass(frozen=True)
class Recipe:
    """SGD with one drop of the learning rate; the defaults are the recipe of DSA, DM and MTT.

    An epoch is one pass through the set in a new order; the last batch may be smaller. The augmentation draws one
    operator for a batch where it is :class:`~lightning_condkd.augment.SiameseAugment`, and parameters for each image.

    Args:
        epochs: passes through the set, exactly so many. The public loops make one more than their setting, so 1001 is
            what they call 1000.
        learning_rate: step size; ``None`` for 0.01 (official code of DC, DSA and DM), or 0.001 for AdamW (that of
            RDED), and in the command ``evaluate`` for the step size that was learned with the set, where there is one
            and the optimizer is SGD.
        drop_at: share of the epochs after which the learning rate is divided by 10 and the momentum starts from zero;
            rounded to whole epochs; 1 for never. The public loops drop it after epoch ``E // 2 + 1`` counted from 0,
            which is 502 epochs of 1001.
        momentum: momentum of SGD (official code 0.9), or first beta of AdamW.
        weight_decay: weight decay on all parameters (official code 0.0005).
        batch_size: images in a batch (official code 256).
        augment: what training images go through: ``dsa``, or ``dsa_digits`` without its flip, as its authors have it on
            MNIST and SVHN; ``None`` for nothing, or one of your own.
        mirrored: add the mirror image of every image to the set. The control is mirrored as well: a recipe is one for
            all rows.
        optimizer: ``sgd`` or ``adamw``.
        cosine_stretch: the learning rate falls by a cosine that would reach zero after so many times the epochs (1 for
            all of it, 2 for its first half); ``None`` for none. It takes the place of the drop: ``drop_at`` must be 1.
        cutmix: put a box of another image of the batch into each image, after the augmentation, and mix their labels.
            Its share of the area is uniform in [0, 1).

    Raises:
        ValueError: if a count or the learning rate is not positive, the share is outside [0, 1], or the learning rate
            is to follow a cosine and to drop.

    Example:
        >>> recipe = Recipe(epochs=10, drop_at=0.5, augment=None)
        >>> [recipe.rate(epoch) for epoch in (0, 4, 5, 9)]
        [0.01, 0.01, 0.001, 0.001]
        >>> Recipe.dsa().epochs, Recipe.dsa().drop_epoch, Recipe.dc().epochs, Recipe.dc().drop_epoch
        (1001, 502, 301, 152)
        >>> [Recipe.rded().rate(epoch) for epoch in (0, 300)]
        [0.001, 0.0005]

    References:
        Zhao and Bilen, "Dataset Condensation with Differentiable Siamese Augmentation", arXiv 2102.08259, and the code
        VICO-UoE/DatasetCondensation.
    """

    epochs: int = 1001
    learning_rate: float | None = None
    drop_at: float = 502 / 1001
    momentum: float = 0.9
    weight_decay: float = 5e-4
    batch_size: int = 256
    augment: AugmentName | Augment | None = "dsa"
    mirrored: bool = False
    optimizer: Literal["sgd", "adamw"] = "sgd"
    cosine_stretch: float | None = None
    cutmix: bool = False

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected a positive number, got {getattr(self, name)}")
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise ValueError(f"learning_rate: expected a positive number, got {self.learning_rate}; 0.01 is usual")
        if not 0 <= self.drop_at <= 1:
            raise ValueError(f"drop_at: expected a share of the epochs from 0 to 1, got {self.drop_at}")
        if self.optimizer not in LEARNING_RATES:
            raise ValueError(f"optimizer: expected one of {', '.join(LEARNING_RATES)}, got {self.optimizer!r}")
        if self.cosine_stretch is not None:
            self._check_cosine(self.cosine_stretch)

    def _check_cosine(self, stretch: float) -> None:
        if stretch < 1:
            raise ValueError(f"cosine_stretch: expected at least 1, for a cosine that ends at zero, got {stretch}")
        if self.drop_at != 1:
            raise ValueError(f"drop_at: expected 1 where the rate follows a cosine, got {self.drop_at}; set it to 1")

    @classmethod
    def dsa(cls) -> Recipe:
        """Return the recipe of DSA, DM and MTT: 1000 epochs as their code counts, with all of DSA."""
        return cls()

    @classmethod
    def dc(cls) -> Recipe:
        """Return the recipe of DC for natural images and networks without BatchNorm: 300 epochs, no augmentation.

        References:
            Zhao et al., "Dataset Condensation with Gradient Matching", arXiv 2006.05929 (and its code).
        """
        return cls(epochs=301, drop_at=152 / 301, augment=None)

    @classmethod
    def rded(cls, ipc: int = 10, num_classes: int = 10, factor: int = 1) -> Recipe:
        """Return the recipe of RDED: AdamW, half a cosine, CutMix; SRe2L and later methods train much the same.

        It is made for a teacher's labels. At one tile an image, which is RDED's choice for small images, its crop is
        the whole image, and what is left is the flip. Three things of its code are left out: tiles of an image do not
        change places, test images of 64 px and more are not made larger by an eighth and cut to their middle, and
        images before CutMix do not go through the network, which would move its running statistics.

        Args:
            ipc: images per class; batches are of 10, 50 and 100 for 1, 10 and 50 as in the official code, and of the
                next smaller of these for others (our choice).
            num_classes: number of classes; twice the batch from 100 on, as in the official code, except for Tiny
                ImageNet, where it has 100.
            factor: tiles along a side of an image (official code 1 up to 64 px, 2 above).

        References:
            Sun et al., "On the Diversity and Realism of Distilled Dataset", arXiv 2312.03526, and the code
            LINs-lab/RDED.
        """
        batch = next(size for least, size in ((50, 100), (10, 50), (0, 10)) if ipc >= least)
        return cls(
            epochs=300,
            drop_at=1,
            weight_decay=0.01,
            batch_size=batch * (2 if num_classes >= 100 else 1),
            augment=CropFlip(padding=0) if factor == 1 else ResizedCrop(scale=(1 / factor, 1.0)),
            optimizer="adamw",
            cosine_stretch=2,
            cutmix=True,
        )

    def with_learned_rate(self, learned: float | None) -> Recipe:
        """Return the recipe with the step size that was learned with a set, if it is SGD and has none of its own.

        Args:
            learned: the step size; ``None`` if there is none.
        """
        if learned is None or self.learning_rate is not None or self.optimizer != "sgd":
            return self
        return replace(self, learning_rate=float(learned))

    @property
    def drop_epoch(self) -> int:
        """Number of epochs at the full learning rate."""
        return round(self.drop_at * self.epochs)

    @property
    def full_rate(self) -> float:
        """The learning rate of the first epoch."""
        return LEARNING_RATES[self.optimizer] if self.learning_rate is None else self.learning_rate

    def rate(self, epoch: int) -> float:
        """Return the learning rate of an epoch.

        Args:
            epoch: counted from 0.
        """
        if self.cosine_stretch is not None:
            return self.full_rate * (1 + math.cos(math.pi * epoch / self.epochs / self.cosine_stretch)) / 2
        return self.full_rate if epoch < self.drop_epoch else self.full_rate / 10

    def make_optimizer(self, parameters: Iterable[Tensor]) -> Optimizer:
        """Return a fresh optimizer at the full learning rate.

        Args:
            parameters: of the networks.
        """
        if self.optimizer == "adamw":
            return AdamW(parameters, self.full_rate, betas=(self.momentum, 0.999), weight_decay=self.weight_decay)
        return SGD(parameters, self.full_rate, momentum=self.momentum, weight_decay=self.weight_decay)

    def settings(self) -> dict[str, Any]:
        """Return what a file records of the recipe, JSON values only."""
        augment = None if self.augment is None else str(self.augment)
        return {**vars(self), "learning_rate": self.full_rate, "drop_epoch": self.drop_epoch, "augment": augment}
