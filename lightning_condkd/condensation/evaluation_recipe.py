"""How a network is trained on a condensed set when the set is judged."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lightning_condkd.augment import Augment, SiameseAugment

LEARNING_RATE = 0.01


@dataclass(frozen=True)
class Recipe:
    """SGD with one drop of the learning rate; the defaults are the recipe of DSA, DM and MTT.

    An epoch is one pass through the set in a new order; the last batch may be smaller. The augmentation draws one
    operator for a batch where it is :class:`~lightning_condkd.augment.SiameseAugment`, and parameters for each image.

    Args:
        epochs: passes through the set, exactly so many. The public loops make one more than their setting, so 1001 is
            what they call 1000.
        learning_rate: step size; ``None`` for 0.01 (official code of DC, DSA and DM), and in the command ``evaluate``
            for the step size that was learned with the set, where there is one.
        drop_at: share of the epochs after which the learning rate is divided by 10 and the momentum starts from zero;
            rounded to whole epochs; 1 for never. The public loops drop it after epoch ``E // 2 + 1`` counted from 0,
            which is 502 epochs of 1001.
        momentum: momentum of SGD (official code 0.9).
        weight_decay: weight decay of SGD, on all parameters (official code 0.0005).
        batch_size: images in a batch (official code 256).
        augment: what training images go through; ``None`` for nothing. DSA leaves out ``flip`` on digits.
        mirrored: add the mirror image of every image to the set. The control is mirrored as well: a recipe is one for
            all rows.

    Raises:
        ValueError: if a count or the learning rate is not positive, or the share is outside [0, 1].

    Example:
        >>> recipe = Recipe(epochs=10, drop_at=0.5, augment=None)
        >>> [recipe.rate(epoch) for epoch in (0, 4, 5, 9)]
        [0.01, 0.01, 0.001, 0.001]
        >>> Recipe.dsa().epochs, Recipe.dsa().drop_epoch, Recipe.dc().epochs, Recipe.dc().drop_epoch
        (1001, 502, 301, 152)

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
    augment: Augment | None = field(default_factory=SiameseAugment)
    mirrored: bool = False

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected a positive number, got {getattr(self, name)}")
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise ValueError(f"learning_rate: expected a positive number, got {self.learning_rate}; 0.01 is usual")
        if not 0 <= self.drop_at <= 1:
            raise ValueError(f"drop_at: expected a share of the epochs from 0 to 1, got {self.drop_at}")

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

    @property
    def drop_epoch(self) -> int:
        """Number of epochs at the full learning rate."""
        return round(self.drop_at * self.epochs)

    @property
    def full_rate(self) -> float:
        """The learning rate before the drop."""
        return LEARNING_RATE if self.learning_rate is None else self.learning_rate

    def rate(self, epoch: int) -> float:
        """Return the learning rate of an epoch.

        Args:
            epoch: counted from 0.
        """
        return self.full_rate if epoch < self.drop_epoch else self.full_rate / 10

    def settings(self) -> dict[str, Any]:
        """Return what a file records of the recipe, JSON values only."""
        augment = None if self.augment is None else repr(self.augment)
        return {**vars(self), "learning_rate": self.full_rate, "drop_epoch": self.drop_epoch, "augment": augment}
