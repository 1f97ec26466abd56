"""Trajectory matching: comparison of training on the learned set with experts trained on real images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from lightning_condkd.augment import Augment, AugmentName, AugmentParameters, resolve_augment, take
from lightning_condkd.condensation.base import CondensationMethod, RealImages
from lightning_condkd.condensation.expert_files import ExpertFolder, architecture, layout, unflatten
from lightning_condkd.condensation.parts.class_matching import CHUNK_PIXELS
from lightning_condkd.condensation.parts.published_schedules import (
    PublishedName,
    TrajectorySchedule,
    published_schedule,
)
from lightning_condkd.functional.augmentation import mirror
from lightning_condkd.functional.trajectory import Part, Segment, positive_step_size, recomputed, tesla, unrolled
from lightning_condkd.messages import listed
from lightning_condkd.models import Observer
from lightning_condkd.models.fresh_networks import FreshNetworks, check_fresh
from lightning_condkd.randomness import Draw, seeded_generator
from lightning_condkd.types import LossTerms, NetworkOutput

GRADIENTS = {"unrolled": unrolled, "recomputed": recomputed, "tesla": tesla}


class TrajectoryMatching(CondensationMethod):
    """MTT: match a few training steps on the learned set with some epochs of an expert's training on real images.

    An iteration starts from an expert's weights after a random number of epochs, and trains from there on the learned
    set, by plain SGD with a learned step size. The loss is the squared distance to the expert some epochs later,
    divided by the squared distance between the expert's two points. Every expert is used once before one is used again.

    The images of each inner step are augmented by one operator, each image with its own parameters. The step size is
    learned as its logarithm, so that it stays positive, with a gradient for which published learning rates apply, see
    :func:`~lightning_condkd.functional.trajectory.positive_step_size`. Its last value is ``train_lr`` in the settings
    of the file: train networks on the set with it. All ranks do the same work.

    Args:
        networks: factory of networks like the experts, with the same mean and std; without running statistics or
            dropout, since their output must depend only on parameters and images.
        experts: folder that :class:`~lightning_condkd.modules.experts.ExpertTrajectories` wrote.
        schedule: settings that depend on the data, or ``cifar10``, ``cifar100`` or ``tiny`` for those published for
            that data set and the number of images per class, see
            :func:`~lightning_condkd.condensation.parts.published_schedules.published_schedule`.
        augment: ``dsa`` (official code), ``dsa_digits``, or an :class:`~lightning_condkd.augment.Augment`; ``None``
            disables it.
        gradient: ``unrolled`` keeps the graph of all inner steps, as in the official code. ``recomputed`` gives the
            same gradient with the graph of one chunk of one step at a time (our default: for 100 images of 32x32 and 30
            steps it took 0.4 GB instead of 10.4, in no more time). ``tesla`` is TESLA's, which leaves out the effect of
            a step's images on the gradients of later steps, so it is not the gradient of the loss, see
            :func:`~lightning_condkd.functional.trajectory.tesla`; it is no cheaper.
        mirrored: whether networks are also trained on the mirror images of learned images (FYI); ``dsa`` then has no
            flip. A step has twice the images.
        chunk: images in a forward pass; ``None`` for the number with the pixels of 32 images of 32x32, which was the
            fastest on a CPU with 128 channels.

    Raises:
        ValueError: if the network or an argument does not fit.

    Example:
        >>> from lightning_condkd.models import ConvNet
        >>> schedule = TrajectorySchedule(30, 2, 20, pixel_lr=100, step_size=0.001, step_size_lr=1e-5)
        >>> TrajectoryMatching(FreshNetworks(ConvNet), experts="experts", schedule=schedule).pixel_lr
        100

    References:
        Cazenavette et al., "Dataset Distillation by Matching Training Trajectories", arXiv 2203.11932.
        Son et al., "FYI: Flip Your Images for Dataset Distillation", ECCV 2024.
    """

    name = "MTT"

    def __init__(
        self,
        networks: FreshNetworks,
        *,
        experts: str | Path,
        schedule: TrajectorySchedule | PublishedName,
        augment: AugmentName | Augment | None = "dsa",
        gradient: Literal["unrolled", "recomputed", "tesla"] = "recomputed",
        mirrored: bool = False,
        chunk: int | None = None,
    ) -> None:
        super().__init__()
        if gradient not in GRADIENTS:
            raise ValueError(f"gradient: expected one of {', '.join(GRADIENTS)}, got {gradient!r}")
        if chunk is not None and chunk < 1:
            raise ValueError(f"chunk: expected a positive number of images, got {chunk}")
        self.networks = check_fresh(networks)
        self.folder = Path(experts)
        self.augment = resolve_augment(augment, networks.mean, networks.std, mirrored)
        self.gradient, self.chunk, self.mirrored = gradient, chunk, mirrored
        self.log_step_size = nn.Parameter(torch.empty(()))
        self._published = None if isinstance(schedule, TrajectorySchedule) else schedule
        self._schedule: TrajectorySchedule | None = None
        if isinstance(schedule, TrajectorySchedule):
            self._follow(schedule)
        self._layout = layout(self._network().network)
        self._experts: ExpertFolder | None = None

    def _follow(self, schedule: TrajectorySchedule) -> None:
        self._schedule, self.pixel_lr = schedule, schedule.pixel_lr
        self.log_step_size.data.fill_(math.log(schedule.step_size))

    @property
    def schedule(self) -> TrajectorySchedule:
        """The settings in use; published ones are known after :meth:`build`."""
        if self._schedule is None:
            raise RuntimeError("schedule: the published numbers depend on the images per class; call build first")
        return self._schedule

    def _network(self) -> Observer:
        # Its weights are replaced by those of experts.
        return self.networks.make(seeded_generator(0, "network")).requires_grad_(False)

    def make(self, image_shape: tuple[int, int, int], num_classes: int, ipc: int) -> None:
        """Open the experts, and check that they fit the data.

        Args:
            image_shape: ``(C, H, W)`` in pixels.
            num_classes: number of classes K.
            ipc: images per class.

        Raises:
            ValueError: if something does not fit.
        """
        if self._published is not None:
            self._follow(published_schedule(self._published, ipc))
        if (self.schedule.batch_size or 1) > num_classes * ipc:
            raise ValueError(
                f"batch_size: expected at most {num_classes * ipc}, the images of the set, got "
                f"{self.schedule.batch_size}; leave it out to train on all of them"
            )
        self._experts = ExpertFolder(self.folder)
        self._check_experts(self._experts)

    def _check_experts(self, experts: ExpertFolder) -> None:
        names, shapes = self._layout
        kind = architecture(self._network().network)
        own = {**self.networks.settings(), "names": names, "shapes": shapes, "architecture": kind}
        there = {name: getattr(experts.info, name) for name in own}
        if different := {name: (own[name], there[name]) for name in own if own[name] != there[name]}:
            raise ValueError(
                f"experts: those in {self.folder} differ from the network here (here, there): {different}; "
                "give networks as they were given to ExpertTrajectories"
            )
        needed = self.schedule.max_start_epoch - 1 + self.schedule.expert_epochs
        if needed > experts.info.epochs:
            raise ValueError(
                f"schedule: max_start_epoch - 1 + expert_epochs = {needed}, but the experts in {self.folder} were "
                f"trained for {experts.info.epochs} epochs; lower max_start_epoch or train them for longer"
            )

    def check_classes(self, class_names: Sequence[str]) -> None:
        """Check that the experts were trained on these classes, in this order.

        Args:
            class_names: class names of the data.

        Raises:
            ValueError: if they were trained on others.
        """
        there = None if self._experts is None else self._experts.info.data["class_names"]
        if there != list(class_names):
            raise ValueError(
                f"experts: those in {self.folder} were trained on the classes {listed(there or [], 5)}, the data has "
                f"{listed(class_names, 5)}; give the experts of this data"
            )

    def losses(self, images: Tensor, labels: Tensor, real: RealImages, draw: Draw) -> Iterator[LossTerms]:
        """Yield the distance to an expert after training on the learned set.

        Args:
            images: the learned pixels of the whole set, ``(N, C, H, W)``, in the units of [0, 1].
            labels: their classes, ``(N,)`` int64, on the CPU.
            real: not used, since the experts were trained on the real images.
            draw: the randomness of the iteration.
        """
        start, target = self._expert(draw)
        observer = self._network().to(images.device, images.dtype)
        batches = self._batches(len(labels), draw)
        steps = [self._parts(observer, rows, labels, images, step, draw) for step, rows in enumerate(batches)]
        segment = Segment(start.to(images), target.to(images), steps)
        distance = GRADIENTS[self.gradient](segment, images, positive_step_size(self.log_step_size))
        yield LossTerms({"trajectory": distance}, {"trajectory": 1.0})

    def _expert(self, draw: Draw) -> tuple[Tensor, Tensor]:
        """Return the parameters of the iteration's expert at the start and at the target epoch."""
        if self._experts is None:
            raise RuntimeError("experts: they are opened by build(num_classes, ipc), which Condensation calls")
        turn, position = divmod(draw.step, len(self._experts.experts))
        order = torch.randperm(len(self._experts.experts), generator=seeded_generator(draw.seed, "experts", turn))
        expert = self._experts.experts[int(order[position])]
        first = int(torch.randint(self.schedule.max_start_epoch, (), generator=draw.generator("start epoch")))
        last = first + self.schedule.expert_epochs
        start, target = (self._experts.read(expert, epoch) for epoch in (first, last))
        if torch.equal(start, target):
            raise ValueError(
                f"experts: expert {expert} in {self.folder} is the same after {first} and {last} epochs: "
                "it was not trained; make it again with a learning rate above 0"
            )
        return start, target

    def _batches(self, count: int, draw: Draw) -> list[Tensor]:
        size = self.schedule.batch_size
        if size is None:
            return [torch.arange(count)] * self.schedule.inner_steps
        generator, batches = draw.generator("batches"), list[Tensor]()
        while len(batches) < self.schedule.inner_steps:
            batches += torch.split(torch.randperm(count, generator=generator), size)
        return batches[: self.schedule.inner_steps]

    def _parts(
        self, observer: Observer, rows: Tensor, labels: Tensor, images: Tensor, step: int, draw: Draw
    ) -> list[Part]:
        """Return the chunks of an inner step."""
        copies = 2 if self.mirrored else 1
        generator = draw.generator(f"augment/{step}")
        views = {} if self.augment is None else self.augment.sample(copies * len(rows), generator)
        places = torch.split(torch.arange(len(rows)), self.chunk or max(1, CHUNK_PIXELS // images[0, 0].numel()))

        def part(chosen: Tensor) -> Part:
            own = take(views, torch.cat([chosen + copy * len(rows) for copy in range(copies)]))
            classes = labels[rows[chosen]].repeat(copies).to(images.device)

            def loss(parameters: Tensor, batch: Tensor) -> Tensor:
                logits = self._logits(observer, parameters, self._view(batch, own))
                return F.cross_entropy(logits, classes, reduction="sum") / (copies * len(rows))

            return Part(rows[chosen].to(images.device), loss)

        return [part(chosen) for chosen in places]

    def _view(self, batch: Tensor, parameters: AugmentParameters) -> Tensor:
        both = torch.cat([batch, mirror(batch)]) if self.mirrored else batch
        return both if self.augment is None else cast(Tensor, self.augment(both, parameters))

    def _logits(self, observer: Observer, parameters: Tensor, images: Tensor) -> Tensor:
        by_name = {f"network.{name}": value for name, value in unflatten(parameters, *self._layout).items()}
        output: NetworkOutput = functional_call(observer, by_name, (images,))
        return output.logits

    def settings(self) -> dict[str, Any]:
        """Return the settings that a file of this method records; ``train_lr`` is the learned step size."""
        return {
            **self.networks.settings(),
            **asdict(self.schedule),
            "augment": repr(self.augment),
            "gradient": self.gradient,
            "mirrored": self.mirrored,
            "experts": None if self._experts is None else self._experts.settings(),
            "train_lr": float(self.log_step_size.detach().double().exp()),
        }

    def is_sound(self) -> bool:
        """Return whether the step size is finite, which its logarithm does not guarantee."""
        step_size = self.log_step_size.detach().exp()
        return bool(step_size.isfinite() & (step_size > 0))

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the group of the step size."""
        return [{"params": [self.log_step_size], "lr": self.schedule.step_size_lr}]
