"""Control: Gaussian noise, balanced over the classes that a teacher under batch statistics predicts."""

from __future__ import annotations

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_condkd.distributed import gather_rows, rank, world_size
from lightning_condkd.inversion.base import Inversion
from lightning_condkd.inversion.interfaces import Observe
from lightning_condkd.inversion.parts.balanced_labels import balanced_labels
from lightning_condkd.inversion.parts.card import OURS, MethodCard
from lightning_condkd.messages import listed
from lightning_condkd.randomness import Draw
from lightning_condkd.rounds import Cadence, Unit
from lightning_condkd.types import LossTerms, NetworkOutput, Synthetic, TaskSpec


class BatchStatisticsNoise(Inversion):
    """Gaussian noise with the labels of a teacher that normalizes by batch statistics, balanced over the classes.

    A teacher's running statistics do not suit noise, so it often predicts one class for all of it; the statistics of
    the noise itself spread the predictions. Every synthesis step draws ``batch_size`` candidates, and those of classes
    that still lack images are taken. Classes that lack images after the last step are filled with rejected candidates
    of other classes, under the labels that these have, and a warning names the classes. Nothing is learned.

    Noise with current statistics and rejection until the classes balance is the idea of NormShift-KD (2026), of which
    only the abstract was known to us: all details are ours. The noise is standard normal in the teacher's normalized
    units, clamped to [0, 1]. The statistics are those of the global batch of candidates, whatever the number of ranks.
    In the student's steps too, the teacher normalizes by the statistics of the global batch, so mix in no condensed
    images (``mix=0.0``), which would change them.

    Args:
        cadence: 10 synthesis steps, the largest number of batches of candidates, and 400 student steps.
        batch_size: images of a block, and candidates in a synthesis step.

    Raises:
        ValueError: if the batch has a single image; in :meth:`build`, if the teacher has no BatchNorm layer.
    """

    card = MethodCard(OURS, needs=("BatchNorm",))
    teacher_statistics = "batch"
    mean: Tensor
    std: Tensor
    wanted: Tensor
    chosen: Tensor
    chosen_labels: Tensor

    def __init__(
        self, *, cadence: Cadence = Cadence(synthesis_steps=10, distill_steps=400), batch_size: int = 256
    ) -> None:
        super().__init__(cadence, batch_size, selection="last")
        if batch_size < 2:
            raise ValueError(f"statistics of a batch need at least two images, got batch_size={batch_size}")

    def make(self, spec: TaskSpec, generator: torch.Generator) -> None:
        """Allocate a batch of images."""
        if not spec.bn_channels:
            raise ValueError(
                "BatchStatisticsNoise uses batch statistics of the teacher's BatchNorm layers, and this teacher has "
                "none: use another teacher, or SmoothNoise as the control"
            )
        self.num_classes = spec.num_classes
        for name, values, default in (("mean", spec.mean, 0.5), ("std", spec.std, 0.25)):
            given = torch.tensor(values or (default,)).view(-1, 1, 1)
            self.register_buffer(name, given, persistent=False)
        self.register_buffer("wanted", torch.zeros(spec.num_classes, dtype=torch.long))
        self.register_buffer("chosen", torch.zeros(self.batch_size, *spec.image_shape))
        self.register_buffer("chosen_labels", torch.zeros(self.batch_size, dtype=torch.long))

    def begin(self, unit: Unit, draw: Draw) -> None:
        """Discard the images of the block before, and draw the number of images of each class."""
        labels = balanced_labels(self.batch_size, self.num_classes, draw.generator("labels"))
        self.wanted.copy_(labels.bincount(minlength=self.num_classes))
        self.chosen_labels.fill_(-1)

    def _candidates(self, draw: Draw) -> Tensor:
        noise = torch.randn(self.chosen.shape, generator=draw.generator("noise"), device="cpu").to(self.chosen)
        return (self.mean + self.std * noise).clamp(0, 1)

    def render(self, unit: Unit, draw: Draw) -> Synthetic:
        """Return this rank's candidates, without labels."""
        return Synthetic(self._candidates(draw)[draw.rows], None)

    def loss(
        self, synthetic: Synthetic, observe: Observe, student: Observe, unit: Unit, draw: Draw
    ) -> tuple[LossTerms, NetworkOutput]:
        """Return no term, with the teacher's output under the statistics of the global batch."""
        output = observe(self._candidates(draw), batch_statistics=True)
        return LossTerms({}, {}), output.select(torch.arange(self.batch_size, device="cpu")[draw.rows])

    def observe_step(self, synthetic: Synthetic, output: NetworkOutput, unit: Unit) -> Synthetic:
        """Take the candidates of classes that lack images, after the last step also others."""
        images, labels = gather_rows(synthetic.images), gather_rows(output.logits).argmax(1)
        taken = self._take(images, labels)
        if unit.last:
            self._fill(images[~taken], labels[~taken])
        rows = slice(rank(), None, world_size())
        return Synthetic(self.chosen[rows], self.chosen_labels[rows])

    def _lacking(self) -> Tensor:
        return self.wanted - self.chosen_labels[self.chosen_labels >= 0].bincount(minlength=self.num_classes)

    def _take(self, images: Tensor, labels: Tensor) -> Tensor:
        """Store candidates of classes that lack images, the first ones first, and return which they are."""
        one_hot = F.one_hot(labels, self.num_classes)
        earlier = (one_hot.cumsum(0) * one_hot).sum(1) - 1  # candidates of the same class before each
        taken = earlier < self._lacking()[labels]
        self._store(images[taken], labels[taken])
        return taken

    def _store(self, images: Tensor, labels: Tensor) -> None:
        free = (self.chosen_labels < 0).nonzero().flatten()[: len(labels)]
        self.chosen[free], self.chosen_labels[free] = images, labels

    def _fill(self, images: Tensor, labels: Tensor) -> None:
        lacking = self._lacking().cpu().tolist()
        if (count := sum(lacking)) and rank() == 0:
            classes = listed([str(label) for label, number in enumerate(lacking) if number])
            warnings.warn(
                f"BatchStatisticsNoise: in {self.cadence.synthesis_steps} steps the teacher predicts class {classes} "
                "for too little of the noise, so other classes have more images: raise cadence.synthesis_steps, which "
                "draws more candidates",
                stacklevel=2,
            )
        self._store(images[:count], labels[:count])
