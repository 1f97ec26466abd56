"""Contrast of the embeddings of student and teacher with those of other images in a memory."""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_condkd.distillation.base import DistillationLoss
from lightning_condkd.distillation.inputs import LossSpec
from lightning_condkd.distillation.parts.contrast_memory import ContrastMemory, Entries, gather_entries
from lightning_condkd.distributed import gather_rows
from lightning_condkd.functional.contrastive import contrastive_estimate, draw_other_classes
from lightning_condkd.precision import at_least_float32
from lightning_condkd.randomness import send
from lightning_condkd.types import NetworkOutput


class CRD(DistillationLoss):
    """Noise-contrastive loss that draws the embeddings of an image in both networks together, away from other images.

    Linear layers, trained with the student, map both embeddings to unit vectors. Two memories hold a running mean of
    them for every image of the run. The student's vector is compared with the teacher's memory and the other way round:
    with the image's own row, and with negatives drawn for every image from the rows of other classes. The sum of both
    losses is returned. The official code adds the cross-entropy with labels, weight 1, and gives this loss weight 0.8.

    It differs from the official code in the memory's first values: that starts with random rows, which serve as
    positives and negatives until their images are seen. Here a row is empty until its image is seen, then it starts
    with the image's own vector, and empty rows are never drawn; so a pool that grows during the run is fine. In a bank
    of limited capacity, where a new image takes the row of an old one, the row starts anew if the class is another;
    otherwise it turns to the new image step by step. Negatives are drawn with replacement. The normalization constants
    come from the first batch as published, and stay in the state.

    Time and memory grow with the batch size times the number of images.

    Args:
        negatives: number of negatives drawn for each image, 16384 in the official code.
        size: length of the unit vectors, 128 in the official code.
        temperature: divisor of their products, positive, 0.07 in the official code.
        momentum: share of the old row in a new one, in [0, 1), 0.5 in the official code.
        other_classes: whether negatives are of other classes as published, which needs labels; else they are any other
            images.

    Raises:
        ValueError: if a number is out of range; at setup, if there are fewer than two images.

    Example:
        >>> from lightning_condkd.distillation import LossContext
        >>> from lightning_condkd.models import DigitsNet, Observer
        >>> teacher, student = Observer(DigitsNet(width=8)).freeze(), Observer(DigitsNet(width=4))
        >>> loss = CRD(negatives=64, size=16).build(teacher, student, image_shape=(1, 8, 8), slots=100)
        >>> from lightning_condkd.randomness import Draw
        >>> images, labels = torch.rand(4, 1, 8, 8), torch.arange(4)
        >>> context = LossContext(slots=torch.arange(4), draw=Draw(seed=0, step=0))
        >>> loss(student(images, embedding=True), teacher(images, embedding=True), labels, context).shape
        torch.Size([])

    References:
        Tian et al.: "Contrastive Representation Distillation", arXiv 1910.10699.
    """

    needs_embedding = True
    needs_slots = True
    needs_draw = True
    log_normalizers: Tensor
    has_normalizers: Tensor

    def __init__(
        self,
        *,
        negatives: int = 16384,
        size: int = 128,
        temperature: float = 0.07,
        momentum: float = 0.5,
        other_classes: bool = True,
    ) -> None:
        super().__init__()
        if negatives < 1 or size < 1:
            raise ValueError(f"expected positive negatives and size, got {negatives} and {size}")
        if not temperature > 0:
            raise ValueError(f"temperature: expected a positive number, got {temperature}; 0.07 is published")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum: expected a share in [0, 1), got {momentum}; 0.5 is published")
        self.negatives, self.size = negatives, size
        self.temperature, self.momentum = temperature, momentum
        self.needs_labels = other_classes

    def make(self, spec: LossSpec) -> None:
        """Create the linear layers and the memories.

        Args:
            spec: shapes of the task.
        """
        if spec.slots < 2:
            raise ValueError(
                f"CRD: expected the number of different images of the run, 2 at least, got {spec.slots}: give slots to "
                "build(teacher, student, image_shape, slots=...)"
            )
        self.student_layer = nn.Linear(spec.student.embedding_size, self.size)
        self.teacher_layer = nn.Linear(spec.teacher.embedding_size, self.size)
        self.memory = ContrastMemory(spec.slots, self.size, self.momentum)
        self.register_buffer("log_normalizers", torch.zeros(2))
        self.register_buffer("has_normalizers", torch.zeros((), dtype=torch.bool))

    def forward(self, student: NetworkOutput, teacher: NetworkOutput, labels: Tensor | None = None) -> Tensor:
        """Return the mean over the batch, see :class:`DistillationLoss`; in train mode the memories are updated."""
        slots = cast(Tensor, self.context.slots)
        with torch.autocast(slots.device.type, enabled=False):
            ours = _unit_vectors(self.student_layer, cast(Tensor, student.embedding))
            theirs = _unit_vectors(self.teacher_layer, cast(Tensor, teacher.embedding))
            classes = labels if labels is not None and self.needs_labels else slots
            batch, most = gather_entries(Entries(slots, classes, ours, theirs))
            memory = self.memory.entered(batch)
            drawn = draw_other_classes(slots, memory.classes, self._uniform(most, slots))
            loss = self._contrast(ours, theirs, memory, slots, drawn)
            if self.training:
                self.memory.update(batch)
            return loss

    def _uniform(self, most: int, slots: Tensor) -> Tensor:
        draw = self.draw
        # Float64, so that every row of a large memory can be drawn.
        shape, generator = (most * draw.world_size, self.negatives), draw.generator("contrast negatives")
        everyone = torch.rand(shape, generator=generator, dtype=torch.float64, device="cpu")
        return send(everyone[draw.rows][: len(slots)], slots.device)

    def _contrast(self, ours: Tensor, theirs: Tensor, memory: Entries, slots: Tensor, drawn: Tensor) -> Tensor:
        raw = [
            vectors @ rows.to(vectors).T / self.temperature
            for vectors, rows in ((ours, memory.teacher), (theirs, memory.student))
        ]
        counts = drawn.scatter_add(1, slots[:, None], torch.ones_like(drawn[:, :1]))
        normalizers = self._normalizers([_log_mean_exp(scores.detach(), counts) for scores in raw], drawn)
        total, noise = len(memory.slots), self.negatives / len(memory.slots)
        scores = [one - normalizer - math.log(total) for one, normalizer in zip(raw, normalizers, strict=True)]
        return torch.stack([contrastive_estimate(one, slots, drawn, noise) for one in scores]).sum()

    @torch.no_grad()
    def _normalizers(self, found: list[Tensor], drawn: Tensor) -> Tensor:
        """Return the constants of the first batch that had negatives; no branch, for which a GPU would have to wait."""
        values = torch.where(self.has_normalizers, self.log_normalizers.to(found[0]), torch.stack(found))
        if self.training:
            self.log_normalizers.copy_(values)
            self.has_normalizers |= gather_rows(drawn.sum().view(1)).sum() > 0
        return values

    def extra_repr(self) -> str:
        """Return the settings for ``print``."""
        numbers = f"negatives={self.negatives}, size={self.size}, temperature={self.temperature}"
        return f"{numbers}, momentum={self.momentum}, other_classes={self.needs_labels}"


def _log_mean_exp(scores: Tensor, counts: Tensor) -> Tensor:
    """Return the logarithm of the mean of exponentials over all ranks; counts say how often each score counts."""
    counts = counts.to(scores)
    sums = torch.stack([(scores + counts.log()).logsumexp((0, 1)), counts.sum().log()])
    totals = gather_rows(sums[None]).logsumexp(0)
    return totals[0] - totals[1]


def _unit_vectors(layer: nn.Linear, embedding: Tensor) -> Tensor:
    weight, bias = at_least_float32(layer.weight), at_least_float32(layer.bias)
    return F.normalize(F.linear(at_least_float32(embedding).to(weight), weight, bias), dim=1)
