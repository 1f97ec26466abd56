"""Training recipe of the fresh networks that evaluate a condensed set."""

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

    An epoch is one pass through the set in a new order; the last batch may be smaller.
    :class:`~lightning_condkd.augment.SiameseAugment` draws one operator per batch; parameters are drawn per image.

    Args:
        epochs: number of passes through the set. Public code makes one more than its setting, so its 1000 is 1001 here.
        learning_rate: step size; ``None`` for 0.01 (official code of DC, DSA and DM), or 0.001 for AdamW (official code
            of RDED). With ``None`` and SGD the command ``evaluate`` uses the step size learned with the set, if any.
        drop_at: share of the epochs after which the learning rate is divided by 10 and the momentum starts from zero;
            rounded to whole epochs; 1 for never. Public code drops it after epoch ``E // 2 + 1`` counted from 0, which
            is 502 epochs of 1001.
        momentum: momentum of SGD (official code 0.9), or first beta of AdamW.
        weight_decay: weight decay on all parameters (official code 0.0005).
        batch_size: images in a batch (official code 256).
        augment: augmentation of training images: ``dsa``; ``dsa_digits`` (``dsa`` without its flip, as its authors use
            it on MNIST and SVHN); an :class:`~lightning_condkd.augment.Augment`; ``None`` disables it.
        mirrored: whether to add the mirror image of every image to the set. This applies to all rows of a comparison,
            the control included.
        optimizer: ``sgd`` or ``adamw``.
        cosine_stretch: the learning rate follows a cosine that would reach zero after this multiple of the epochs (1 to
            reach it, 2 for half the way); ``None`` disables it. It replaces the drop: ``drop_at`` must be 1.
        cutmix: whether to paste a box of another image of the batch into each image, after the augmentation, and mix
            their labels. The box's share of the area is uniform in [0, 1).

    Raises:
        ValueError: if a count or the learning rate is not positive, the share is outside [0, 1], or both a cosine and a
            drop are set.

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
            raise ValueError(f"drop_at: expected 1 if cosine_stretch is set, got {self.drop_at}; set it to 1")

    @classmethod
    def dsa(cls) -> Recipe:
        """Return the recipe of DSA, DM and MTT: 1000 epochs in the count of their code, and DSA."""
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
        """Return the recipe of RDED: AdamW, half a cosine, CutMix; SRe2L and later methods have similar ones.

        It is made for a teacher's labels. With one tile per image, RDED's choice for small images, its crop is the
        whole image, so only the flip remains. Three parts of its code are left out: it shuffles the tiles of an image;
        it enlarges test images of 64 px and more by an eighth and crops their centre; and it passes images before
        CutMix through the network, which changes the running statistics.

        Args:
            ipc: images per class. The batch size is 10, 50 and 100 for 1, 10 and 50 as in the official code, and that
                of the next smaller of these for others (our choice).
            num_classes: number of classes. From 100 on the batch size is doubled, as in the official code, except for
                Tiny ImageNet, where the code has 100.
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
        """Return the recipe with the step size learned with a set, if it uses SGD and sets no step size itself.

        Args:
            learned: the learned step size; ``None`` if there is none.
        """
        if learned is None or self.learning_rate is not None or self.optimizer != "sgd":
            return self
        return replace(self, learning_rate=float(learned))

    def without_augmentation(self) -> Recipe:
        """Return the recipe for the images as they are: no augmentation, mirror images or CutMix."""
        return replace(self, augment=None, mirrored=False, cutmix=False)

    @property
    def augments(self) -> bool:
        """Whether networks see other images than those of the set."""
        return self.augment is not None or self.mirrored or self.cutmix

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
            epoch: index of the epoch, from 0.
        """
        if self.cosine_stretch is not None:
            return self.full_rate * (1 + math.cos(math.pi * epoch / self.epochs / self.cosine_stretch)) / 2
        return self.full_rate if epoch < self.drop_epoch else self.full_rate / 10

    def make_optimizer(self, parameters: Iterable[Tensor]) -> Optimizer:
        """Return a fresh optimizer at the full learning rate.

        Args:
            parameters: parameters of the networks.
        """
        if self.optimizer == "adamw":
            return AdamW(parameters, self.full_rate, betas=(self.momentum, 0.999), weight_decay=self.weight_decay)
        return SGD(parameters, self.full_rate, momentum=self.momentum, weight_decay=self.weight_decay)

    def settings(self) -> dict[str, Any]:
        """Return the settings that a file records about the recipe, JSON values only."""
        augment = None if self.augment is None else str(self.augment)
        return {**vars(self), "learning_rate": self.full_rate, "drop_epoch": self.drop_epoch, "augment": augment}
