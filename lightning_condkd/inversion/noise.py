"""The control: smooth random images that the teacher merely labels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_condkd.inversion.base import Inversion, Observe
from lightning_condkd.randomness import Draw
from lightning_condkd.rounds import Cadence, Unit
from lightning_condkd.types import LossTerms, NetworkOutput, Spec, Synthetic


class SmoothNoise(Inversion):
    """Smooth random images with the teacher's labels: what an inversion method must beat.

    Normal values on a coarse grid are enlarged bilinearly and squashed to [0, 1] by a sigmoid. Nothing is learned. Our
    own control, of no paper.

    Args:
        cadence: one rendering and 400 student steps in a round.
        batch_size: images of a block.
        grid_size: side of the coarse grid in cells.
        contrast: factor in front of the sigmoid.
    """

    noise: Tensor

    def __init__(
        self,
        *,
        cadence: Cadence = Cadence(synthesis_steps=1, distill_steps=400),
        batch_size: int = 256,
        grid_size: int = 4,
        contrast: float = 2.0,
    ) -> None:
        super().__init__(cadence, batch_size, selection="last")
        self.grid_size, self.contrast = grid_size, contrast

    def build(self, spec: Spec, generator: torch.Generator) -> None:
        """Make room for a batch of images."""
        super().build(spec, generator)
        self.register_buffer("noise", torch.zeros(self.batch_size, *spec.image_shape))

    @torch.no_grad()
    def start(self, unit: Unit, draw: Draw) -> None:
        """Draw the images of a block."""
        super().start(unit, draw)
        _, channels, *size = self.noise.shape
        shape = (self.batch_size, channels, self.grid_size, self.grid_size)
        coarse = torch.randn(shape, generator=draw.generator("noise")).to(self.noise)
        smooth = F.interpolate(coarse, size=tuple(size), mode="bilinear", align_corners=False)
        self.noise.copy_(torch.sigmoid(self.contrast * smooth))

    def render(self, unit: Unit, draw: Draw) -> Synthetic:
        """Return the images without labels."""
        return Synthetic(self.noise[draw.rows], None)

    def loss(
        self, synthetic: Synthetic, observe: Observe, student: Observe, unit: Unit, draw: Draw
    ) -> tuple[LossTerms, NetworkOutput]:
        """Return no term: only the teacher's output is used, as labels."""
        return LossTerms({}, {}), observe(synthetic.images)


class NoInversion(Inversion):
    """Distil on the condensed images alone: no image is synthesised.

    Args:
        cadence: no synthesis step and 400 student steps in a round.
    """

    def __init__(self, *, cadence: Cadence = Cadence(synthesis_steps=0, distill_steps=400)) -> None:
        super().__init__(cadence, batch_size=1)
        if cadence.synthesis_steps:
            raise ValueError(
                f"NoInversion synthesises nothing: set synthesis_steps to 0, got {cadence.synthesis_steps}"
            )
