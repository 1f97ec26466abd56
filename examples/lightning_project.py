"""Use the parts inside a LightningModule of your own: own training step, optimizer and logging.

Shows a project that already has a module: it gets synthetic digits at the start of each epoch (``synthesize``), and its
training step takes one of this package's losses. Swap in your networks, your condensed set and your loaders.

Run ``python examples/lightning_project.py``. It prints the accuracies of teacher and student after each epoch, and
takes 16 CPU-seconds, imports included. ``--epochs`` and ``--steps`` change the size.
"""

from __future__ import annotations

import argparse

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_condkd import Cadence, Draw, TaskSpec, seeded_generator, step_loader, synthesize
from lightning_condkd.augment import CropFlip
from lightning_condkd.data import CondensedSet, DigitsDataModule, TransferSet
from lightning_condkd.distillation import KLDistillation
from lightning_condkd.inversion import Fast, GeneratorSettings
from lightning_condkd.models import DigitsNet, Observer

MEAN, STD = (0.3059,), (0.3754,)  # of the digits, in the units of [0, 1]


class Project(L.LightningModule):
    """A module of a user that distills a student on condensed and synthetic images."""

    def __init__(self, teacher: Observer, student: Observer, condensed: CondensedSet, steps: int) -> None:
        super().__init__()
        self.teacher, self.student, self.steps = teacher.freeze(), student, steps
        self.loss, self.augment = KLDistillation(20.0), CropFlip(1, flip_probability=0.0)
        self.transfer = TransferSet(condensed, batch_size=128)
        generator = GeneratorSettings(width=16, latent_size=64, lr=0.01)
        options = {"generator": generator, "latent_lr": 0.05, "augment": self.augment}
        self.inversion = Fast(cadence=Cadence(5, steps), batch_size=128, **options)
        task = TaskSpec((1, 8, 8), 10, teacher.embedding_size, teacher.bn_channels)
        self.inversion.build(task, seeded_generator(0, "inversion"))
        self.synthesis = self.inversion.optimizers()

    def on_train_epoch_start(self) -> None:
        """Synthesize a batch of images and store it."""
        made = synthesize(self.inversion, self.synthesis, self.teacher, self.student, self.current_epoch)
        self.transfer.append(*made, self.current_epoch)

    def training_step(self, step: Tensor, batch_idx: int) -> Tensor:
        """Return the loss of one batch of condensed and synthetic images."""
        draw = Draw(seed=0, step=self.global_step)
        images = self.augment.view(self.transfer.draw(draw, self.device).images, draw, "student")
        loss: Tensor = self.loss(self.student(images), self.teacher(images))
        self.log("loss", loss, prog_bar=True, batch_size=len(images))
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        """Log the accuracies on real images."""
        images, labels = batch
        for name, network in (("student", self.student), ("teacher", self.teacher)):
            self.log(name, (network(images).logits.argmax(1) == labels).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the student's optimizer; those of the synthesis stay outside of Lightning."""
        return torch.optim.Adam(self.student.parameters(), lr=3e-3)

    def train_dataloader(self) -> DataLoader[int]:
        """Return the numbers of the steps: the images come from the transfer set."""
        return step_loader(self.steps)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Return the held-out digits."""
        source = DigitsDataModule().val_source
        return DataLoader(TensorDataset(source.images / 255, source.labels), batch_size=500)

    def on_validation_epoch_end(self) -> None:
        """Print the accuracies."""
        values = {name: f"{float(self.trainer.callback_metrics[name]):.3f}" for name in ("student", "teacher")}
        print(f"epoch {self.current_epoch + 1}: {values}, {len(self.transfer.bank)} synthetic images")


def main() -> None:
    """Train the student."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--steps", type=int, default=60, help="student steps in an epoch")
    options = parser.parse_args()
    L.seed_everything(0, verbose=False)
    teacher = Observer(DigitsNet(width=32), MEAN, STD, weights="package:digits-teacher.safetensors")
    student = Observer(DigitsNet(width=16), MEAN, STD)
    project = Project(teacher, student, CondensedSet.load("package:digits-dm-1ipc.safetensors"), options.steps)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    L.Trainer(max_epochs=options.epochs, num_sanity_val_steps=0, enable_model_summary=False, **quiet).fit(project)


if __name__ == "__main__":
    main()
