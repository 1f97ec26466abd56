"""Training batches of the fresh networks that evaluate a condensed set."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_condkd.augment import Augment
from lightning_condkd.evaluation.recipe import Recipe
from lightning_condkd.functional.cutmix import cutmix, mix_labels
from lightning_condkd.functional.divergence import kd_divergence
from lightning_condkd.models import Observer
from lightning_condkd.models.fresh_networks import FreshNetworks, normalize_by_batch
from lightning_condkd.pixels import to_pixels
from lightning_condkd.randomness import seeded_generator


class TeacherLabels(NamedTuple):
    """Predictions of a teacher for every view of an image, in place of stored labels.

    Args:
        teacher: the trained network with its normalisation; moved to the device of the training, and set to eval.
        temperature: divisor of both logits in :func:`~lightning_condkd.functional.divergence.kd_divergence`, which is
            the loss; 20 is the value in the code of Fast and, with CutMix, of RDED.
    """

    teacher: Observer
    temperature: float = 20.0

    @torch.no_grad()
    def __call__(self, views: Tensor) -> Tensor:
        """Return logits ``(R, N, K)``.

        Args:
            views: ``(R, N, C, H, W)``, pixels in the units of [0, 1].
        """
        weights = next(self.teacher.parameters())
        logits: Tensor = self.teacher(views.flatten(0, 1).to(weights)).logits
        return logits.to(views).view(*views.shape[:2], -1)

    def loss(self, logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """Return the divergence from the teacher, a scalar.

        Args:
            logits: ``(N, K)``.
            teacher_logits: ``(N, K)``.
        """
        return kd_divergence(logits, teacher_logits, self.temperature)


Labels = Tensor | TeacherLabels


class Batches(NamedTuple):
    """The training batches of some runs, each with its own order, augmentation and CutMix boxes.

    Args:
        images: the set, ``(N, C, H, W)``, uint8, or pixels in the units of [0, 1] in the type of the views.
        labels: classes ``(N,)``, probabilities ``(N, K)``, or a teacher that predicts them.
        recipe: the training recipe.
        augment: augmentation of the recipe, for the networks' normalisation.
        seed: seed of all draws.
        runs: indices of the runs.
        joined: whether a single leftover image is added to the batch before it, see :func:`joins_leftover`.
        dtype: floating point type of the views.
    """

    images: Tensor
    labels: Labels
    recipe: Recipe
    augment: Augment | None
    seed: int
    runs: Sequence[int]
    joined: bool = False
    dtype: torch.dtype = torch.float32

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield views ``(R, B, C, H, W)`` and their targets ``(R, B)`` or ``(R, B, K)`` for R runs.

        Args:
            epoch: index of the epoch, from 0.
        """
        generators = [seeded_generator(self.seed, f"order/{run}", epoch) for run in self.runs]
        orders = torch.stack([torch.randperm(len(self.images), generator=generator) for generator in generators])
        batches = list(torch.split(orders.to(self.images.device), self.recipe.batch_size, dim=1))
        if self.joined:
            batches[-2:] = [torch.cat(batches[-2:], dim=1)]
        for step, rows in enumerate(batches, start=epoch * len(batches)):
            pairs = [self._batch(own, run, step) for own, run in zip(rows, self.runs, strict=True)]
            views = torch.stack([view for view, _ in pairs])
            stored = [target for _, target in pairs]
            yield views, self.labels(views) if isinstance(self.labels, TeacherLabels) else torch.stack(stored)

    def _batch(self, rows: Tensor, run: int, step: int) -> tuple[Tensor, Tensor]:
        images = self.images[rows]
        view = self._view(to_pixels(images, dtype=self.dtype) if images.dtype == torch.uint8 else images, run, step)
        targets = rows if isinstance(self.labels, TeacherLabels) else self.labels[rows]
        return self._mixed(view, targets, run, step) if self.recipe.cutmix else (view, targets)

    def _view(self, images: Tensor, run: int, step: int) -> Tensor:
        if self.augment is None:
            return images
        generator = seeded_generator(self.seed, f"augment/{run}", step)
        view: Tensor = self.augment(images, self.augment.sample(len(images), generator))
        return view

    def _mixed(self, view: Tensor, targets: Tensor, run: int, step: int) -> tuple[Tensor, Tensor]:
        generator = seeded_generator(self.seed, f"cutmix/{run}", step)
        partners = torch.randperm(len(view), generator=generator).to(view.device)
        share, row, column = torch.rand(3, generator=generator).tolist()
        view, share = cutmix(view, partners, share, (row, column))
        return view, mix_labels(targets, partners, share) if targets.is_floating_point() else targets

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of one network on one batch, a scalar.

        Args:
            logits: ``(B, K)``.
            targets: targets from :meth:`epoch` for that network.
        """
        labels = self.labels
        return labels.loss(logits, targets) if isinstance(labels, TeacherLabels) else F.cross_entropy(logits, targets)


def joins_leftover(images: Tensor, networks: FreshNetworks, recipe: Recipe) -> bool:
    """Return whether a last batch of one image must be added to the batch before it.

    A BatchNorm over vectors, or over maps of one pixel, cannot normalise a batch of one image. Other networks train on
    it alone, as in the code of published evaluations.

    Args:
        images: the set, ``(N, C, H, W)``, pixels in the units of [0, 1].
        networks: networks to train.
        recipe: the training recipe.

    Raises:
        ValueError: if every batch has one image.
    """
    alone = recipe.batch_size == 1 or len(images) % recipe.batch_size == 1
    if not alone or _takes_one(images, networks):
        return False
    if 1 in (len(images), recipe.batch_size):
        raise ValueError(
            f"{networks.name} has a BatchNorm that needs two images or more, got {len(images)} images in batches of "
            f"{recipe.batch_size}: set the recipe's batch_size to 2 or more, give more images, or use a network "
            "without such a BatchNorm (ConvNet)"
        )
    warnings.warn(
        f"{len(images)} images in batches of {recipe.batch_size} leave one over, too few for a BatchNorm of "
        f"{networks.name}: it is added to the batch before it",
        stacklevel=3,
    )
    return True


def _takes_one(images: Tensor, networks: FreshNetworks) -> bool:
    network = normalize_by_batch(networks.make(seeded_generator(0, "network")))
    try:
        network(images[:1].to(next(network.parameters())))
    except ValueError as error:
        if "more than 1 value per channel" in str(error):
            return False
        raise
    return True
