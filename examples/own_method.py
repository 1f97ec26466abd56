r"""Write an inversion method and a discriminator of your own, and use them from Python and from the command line.

``PixelAscent`` optimises the pixels of a batch until the teacher is sure of balanced classes and the images are smooth;
``ScaledDiscriminator`` changes the score of the discriminator. The base classes do the rest: the memory bank,
alignment, checkpoints, several processes.

Run ``python examples/own_method.py``, or take the classes by their names in a run of the command line:

    PYTHONPATH=examples lightning-condkd fit --config configs/quickstart.yaml \
        --model.init_args.inversion own_method.PixelAscent \
        --model.init_args.alignment.init_args.discriminator own_method.ScaledDiscriminator

The script prints the table of the run's results, writes it as ``summary.json``, and takes 15 CPU-seconds, imports
included. ``--rounds`` and ``--steps`` change the size.
"""

from __future__ import annotations

import argparse

import lightning as L
import torch
from torch import Tensor, nn

from lightning_condkd import CondensedDataModule, CondKD, CropFlip, DigitsDataModule, DigitsNet, Draw, TaskSpec
from lightning_condkd.alignment import Discriminator, DiscriminatorOutput, FeatureAlignment
from lightning_condkd.callbacks import RunSummary
from lightning_condkd.functional.inversion import class_loss, total_variation
from lightning_condkd.inversion import Inversion, Observe
from lightning_condkd.models import Observer
from lightning_condkd.rounds import Cadence, Unit
from lightning_condkd.types import LossTerms, NetworkOutput, Synthetic


class PixelAscent(Inversion):
    """Optimise the pixels of each batch, from noise.

    Args:
        cadence: division of a round into synthesis and distillation.
        batch_size: images of a batch, over all ranks.
        smoothness: weight of the total variation.
    """

    def __init__(
        self, cadence: Cadence = Cadence(20, 60, warmup_rounds=1), batch_size: int = 64, smoothness: float = 0.001
    ) -> None:
        super().__init__(cadence, batch_size)
        self.smoothness = smoothness

    def make(self, spec: TaskSpec, generator: torch.Generator) -> None:
        """Create the pixels and their classes: what is registered is in checkpoints."""
        self.pixels = nn.Parameter(torch.rand(self.batch_size, *spec.image_shape, generator=generator))
        self.register_buffer("labels", torch.arange(self.batch_size) % spec.num_classes)

    def make_optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Return the optimizer of the pixels."""
        return {"synthesis": torch.optim.Adam([self.pixels], lr=0.05)}

    def begin(self, unit: Unit, draw: Draw) -> None:
        """Start a batch from noise; draws by ``draw`` are the same on any number of ranks."""
        self.pixels.copy_(torch.rand(self.pixels.shape, generator=draw.generator("pixels")))

    def render(self, unit: Unit, draw: Draw) -> Synthetic:
        """Return this rank's images."""
        return Synthetic(self.pixels[draw.rows], self.labels[draw.rows])

    def loss(
        self, synthetic: Synthetic, observe: Observe, student: Observe, unit: Unit, draw: Draw
    ) -> tuple[LossTerms, NetworkOutput]:
        """Return the terms with their weights, and the teacher's output, which the alignment uses too."""
        output = observe(self.view(synthetic.images, unit, draw))
        assert synthetic.labels is not None
        values = {"class": class_loss(output.logits, synthetic.labels), "tv": total_variation(synthetic.images)}
        return LossTerms(values, {"class": 1.0, "tv": self.smoothness}), output


class ScaledDiscriminator(Discriminator):
    """A discriminator whose score is twice as steep."""

    def score(self, features: Tensor, realness: Tensor, labels: Tensor) -> DiscriminatorOutput:
        """Return the score of being condensed."""
        return DiscriminatorOutput(2 * realness)


def main() -> None:
    """Run CondKD with both on the digits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=60, help="student steps in a round")
    options = parser.parse_args()
    L.seed_everything(0, verbose=False)
    teacher = Observer(DigitsNet(width=32), (0.3059,), (0.3754,), weights="package:digits-teacher.safetensors")
    method = PixelAscent(Cadence(20, options.steps, warmup_rounds=1))
    alignment, augment = FeatureAlignment(ScaledDiscriminator()), CropFlip(1, flip_probability=0.0)
    model = CondKD(teacher, DigitsNet(width=16), method, alignment, augment=augment, student_optimizer=torch.optim.Adam)
    data = CondensedDataModule("package:digits-dm-1ipc.safetensors", val_data=DigitsDataModule())
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = L.Trainer(max_epochs=options.rounds, callbacks=[RunSummary()], accelerator="cpu", **quiet)
    trainer.fit(model, data)


if __name__ == "__main__":
    main()
