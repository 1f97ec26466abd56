"""Controls that replace an inversion method: no images, random images, real images."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_condkd.inversion.base import Inversion
from lightning_condkd.inversion.interfaces import Observe
from lightning_condkd.inversion.parts.card import OURS, MethodCard
from lightning_condkd.inversion.parts.tensor_file import read_tensor
from lightning_condkd.pixels import to_pixels
from lightning_condkd.randomness import Draw
from lightning_condkd.rounds import Cadence, Unit
from lightning_condkd.types import LossTerms, NetworkOutput, Synthetic, TaskSpec


class SmoothNoise(Inversion):
    """Smooth random images with the teacher's labels, as a lower bound for inversion methods.

    Normal values on a coarse grid are enlarged bilinearly and mapped to [0, 1] by a sigmoid. Nothing is learned. This
    control is not from a paper.

    Args:
        cadence: one rendering and 400 student steps in a round.
        batch_size: images of a block.
        grid_size: side of the coarse grid in cells.
        contrast: factor in front of the sigmoid.
    """

    card = MethodCard(OURS)
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

    def make(self, spec: TaskSpec, generator: torch.Generator) -> None:
        """Allocate a batch of images."""
        self.register_buffer("noise", torch.zeros(self.batch_size, *spec.image_shape))

    def begin(self, unit: Unit, draw: Draw) -> None:
        """Draw the images of a block."""
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
        """Return no term, with the teacher's output, which gives the labels."""
        return LossTerms({}, {}), observe(synthetic.images)


class NoInversion(Inversion):
    """No synthesis: distillation on condensed images alone.

    Args:
        cadence: no synthesis step and 400 student steps in a round.
    """

    card = MethodCard(OURS, teacher_passes=0, needs=("condensed set",))

    def __init__(self, *, cadence: Cadence = Cadence(synthesis_steps=0, distill_steps=400)) -> None:
        super().__init__(cadence, batch_size=1)
        if cadence.synthesis_steps:
            raise ValueError(
                f"NoInversion synthesises nothing: set synthesis_steps to 0, got {cadence.synthesis_steps}"
            )


class RealSubset(Inversion):
    """Real images with the teacher's labels, as an upper bound for inversion methods.

    It uses data that a data-free run does not have, with the same budget (``batch_size`` images per block);
    :class:`~lightning_condkd.inversion.SmoothNoise` is the lower bound. The blocks go through all images in a new
    random order for every pass. Nothing is learned. This control is not from a paper.

    Args:
        images: ``(N, C, H, W)``, uint8 (0 to 255) or floating point pixels in [0, 1]; or the path of a ``.safetensors``
            file with a tensor ``images`` of this kind, such as
            :meth:`CondensedSet.save <lightning_condkd.data.CondensedSet.save>` writes. They stay on the CPU and are not
            in checkpoints, so a resumed run needs them again.
        cadence: one rendering and 400 student steps in a round.
        batch_size: images of a block.

    Raises:
        ValueError: in :meth:`build`, if the file has no such tensor, or the images have another type or shape.
        FileNotFoundError: in :meth:`build`, if there is no such file.
    """

    card = MethodCard(OURS, needs=("real images",), arguments={"images": "real-images.safetensors"})

    def __init__(
        self,
        *,
        images: Tensor | str | Path,
        cadence: Cadence = Cadence(synthesis_steps=1, distill_steps=400),
        batch_size: int = 256,
    ) -> None:
        super().__init__(cadence, batch_size, selection="last")
        self.given_images = images

    def make(self, spec: TaskSpec, generator: torch.Generator) -> None:
        """Read and check the images."""
        given = self.given_images
        cure = "CondensedSet(images, labels).save(path)"
        read = given if isinstance(given, Tensor) else read_tensor(given, "images", "real images", cure)
        self.images = read.detach().cpu()
        _check(self.images, spec.image_shape)

    def rows(self, unit: Unit, draw: Draw) -> Tensor:
        """Return the indices of the images in the global batch of a block, ``(batch_size,)``.

        Args:
            unit: any synthesis unit of the block.
            draw: randomness of any unit: only its seed matters.
        """
        count, block = len(self.images), self.cadence.batches_before(unit.round, unit.block, unit.batch)
        positions = block * self.batch_size + torch.arange(self.batch_size)
        first, last = (int(positions[end]) // count for end in (0, -1))
        orders = [
            torch.randperm(count, generator=draw._replace(step=number).generator("pass over real images"))
            for number in range(first, last + 1)
        ]
        return torch.cat(orders)[positions - first * count]

    def render(self, unit: Unit, draw: Draw) -> Synthetic:
        """Return the block's images without labels."""
        # The images depend on seed and block alone, so there is no state.
        images = self.images[self.rows(unit, draw)[draw.rows]]
        return Synthetic(to_pixels(images, self.kept_images.device, self.kept_images.dtype), None)

    def loss(
        self, synthetic: Synthetic, observe: Observe, student: Observe, unit: Unit, draw: Draw
    ) -> tuple[LossTerms, NetworkOutput]:
        """Return no term, with the teacher's output, which gives the labels."""
        return LossTerms({}, {}), observe(synthetic.images)


def _check(images: Tensor, image_shape: tuple[int, int, int]) -> None:
    if images.dim() != 4 or not len(images) or images.shape[1:] != image_shape:
        raise ValueError(
            f"expected real images (N, C, H, W) of the condensed images' shape {image_shape}, got "
            f"{tuple(images.shape)}: resize them, or give those that the condensed set was made from"
        )
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise ValueError(f"expected uint8 or floating point real images, got {images.dtype}: convert them")
    low, high = float(images.min()), float(images.max())
    if images.is_floating_point() and not 0 <= low <= high <= 1:
        raise ValueError(
            f"expected pixels of real images in [0, 1], got {low:.3f} to {high:.3f}: undo the normalisation, give "
            "uint8 for 0 to 255, or give real images where these are condensed ones"
        )
