"""From a folder of images to a student, with a network of timm as the teacher, at 64 pixels.

Shows all steps on data of your own: train the teacher, condense the images to one per class, and distill a student from
teacher and condensed set alone. FOLDER has ``train`` and ``test``, each with one subfolder of images for each class.

Run ``python examples/timm_teacher.py --image-folder FOLDER``; without a folder it draws one with three classes of
shapes. It needs ``pip install timm``. It prints the accuracies of teacher and student, writes ``student.pt``, and takes
51 CPU-seconds on the shapes, imports included. For a good teacher give it ``--pretrained`` and many epochs.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import lightning as L
import timm
import torch
from PIL import Image, ImageDraw

from lightning_condkd import Cadence, Condensation, CondensedDataModule, CondKD, Fast, FeatureAlignment, Observer
from lightning_condkd.augment import CropFlip
from lightning_condkd.condensation import DistributionMatching
from lightning_condkd.data import ImageFolderDataModule
from lightning_condkd.inversion import GeneratorSettings
from lightning_condkd.models import ConvNet, FreshNetworks
from lightning_condkd.modules import Classification

SIZE = 64
QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}


def draw_shapes(root: Path, per_class: int = 24) -> Path:
    """Draw a folder of three classes: circles, squares and bars of random colors and places."""
    generator = torch.Generator().manual_seed(0)
    for part in ("train", "test"):
        for name in ("round things", "squares", "bars"):
            (root / part / name).mkdir(parents=True)
            for number in range(per_class):
                red, green, blue, left, top = torch.randint(0, 40, (5,), generator=generator).tolist()
                image = Image.new("RGB", (80, 72), (red, green, blue))
                box, fill = (left, top, left + (10 if name == "bars" else 30), top + 30), (220, 250 - green, 230)
                draw = ImageDraw.Draw(image)
                (draw.ellipse if name == "round things" else draw.rectangle)(box, fill=fill)
                image.save(root / part / name / f"{number}.png")
    return root


def fit(module: L.LightningModule, data: L.LightningDataModule, epochs: int) -> dict[str, float]:
    """Train a module and return its last metrics."""
    trainer = L.Trainer(max_epochs=epochs, num_sanity_val_steps=0, log_every_n_steps=1, accelerator="auto", **QUIET)
    trainer.fit(module, data)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def main() -> None:
    """Train teacher, condensed set and student."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image-folder", type=Path, help="folder with train and test")
    parser.add_argument("--teacher", default="resnet10t", help="name of a network of timm")
    parser.add_argument("--pretrained", action="store_true", help="download timm's weights to begin with")
    parser.add_argument("--epochs", type=int, default=12, help="of the teacher")
    parser.add_argument("--rounds", type=int, default=8, help="of CondKD")
    parser.add_argument("--steps", type=int, default=20, help="student steps in a round, and condensation steps")
    parser.add_argument("--batch-size", type=int, default=24, help="images; half of them in every class at least")
    parser.add_argument("--output", type=Path, default=Path("student.pt"), help="file for the student's weights")
    options = parser.parse_args()
    L.seed_everything(0, verbose=False)
    with TemporaryDirectory() as folder:
        root = options.image_folder or draw_shapes(Path(folder))
        data = ImageFolderDataModule(root, image_size=SIZE, channels=3, batch_size=options.batch_size)
        mean, std = data.train_source.channel_statistics()
        classes = data.train_source.num_classes
        network = timm.create_model(options.teacher, pretrained=options.pretrained, num_classes=classes)
        teacher = Observer(network, mean, std)
        found = fit(Classification(teacher, augment=CropFlip()), data, options.epochs)
        print(f"teacher {options.teacher}: accuracy {found['val/accuracy']:.3f}")

        fresh = FreshNetworks(partial(ConvNet, classes, image_size=SIZE, depth=4, width=32), mean, std)
        method = DistributionMatching(fresh, real_batch=options.batch_size // 2)
        condensed = Path(folder) / "condensed.safetensors"
        fit(Condensation(method, ipc=1, output=condensed, steps_per_epoch=options.steps), data, 1)

        student = timm.create_model(options.teacher, num_classes=classes)
        generator = GeneratorSettings(width=16, latent_size=64)
        inversion = Fast(
            cadence=Cadence(5, options.steps, warmup_rounds=1), batch_size=options.batch_size, generator=generator
        )
        adam = partial(torch.optim.Adam, lr=1e-3)
        model = CondKD(teacher, student, inversion, FeatureAlignment(), student_optimizer=adam)
        found = fit(model, CondensedDataModule(condensed, batch_size=options.batch_size, val_data=data), options.rounds)
        print(f"student, without real images: accuracy {found['val/student_accuracy']:.3f}")
        torch.save(student.state_dict(), options.output)
        print(f"the student's weights: {options.output}")


if __name__ == "__main__":
    main()
