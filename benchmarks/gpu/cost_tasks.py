"""The steps whose cost is measured: which phase, networks, precision and batch, and how each is built."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal, NamedTuple

import lightning as L
import torch
from torch import Tensor, nn

from benchmarks.gpu.stage import Job
from benchmarks.support.interleaved_steps import Lane, TrainerLane
from benchmarks.support.plain_loops import MEAN, STD, PlainLoops
from lightning_condkd.alignment import FeatureAlignment
from lightning_condkd.callbacks import CompileNetworks
from lightning_condkd.data import CondensedDataModule, CondensedSet
from lightning_condkd.inversion import Fast, GeneratorSettings
from lightning_condkd.models import CifarResNet, ConvGenerator, Observer, SmallImageResNet
from lightning_condkd.modules import CondKD
from lightning_condkd.rounds import Cadence

NETWORKS = {
    "20-8": (partial(CifarResNet, 20), partial(CifarResNet, 8)),
    "34-18": (partial(SmallImageResNet, 34), partial(SmallImageResNet, 18)),
    "tiny": (partial(CifarResNet, 8, width=4), partial(CifarResNet, 8, width=4)),
}
GENERATOR_WIDTHS = {"20-8": 64, "34-18": 64, "tiny": 4}
CADENCES = {"distill": Cadence(0, 100_000), "synthesize": Cadence(5, 0, repeats=1000)}
BANK_SIZE = 10_000


class Form(NamedTuple):
    """How networks are run.

    Args:
        channels_last: whether weights and images lie channels-last.
        backend: of ``torch.compile``; ``None`` for eager.
        mode: of ``torch.compile``; ``reduce-overhead`` replays CUDA graphs.
    """

    channels_last: bool = False
    backend: str | None = None
    mode: str | None = None

    @property
    def suffix(self) -> str:
        """What the names of its lanes end in."""
        compiled = "" if self.backend is None else " graphs" if self.mode else " compiled"
        return compiled + (" channels-last" if self.channels_last else "")

    def lay_out(self, network: nn.Module) -> nn.Module:
        """Bring the weights of a classifier, and all images that it will be given, into this form.

        Args:
            network: changed in place.
        """
        if self.channels_last:
            network.to(memory_format=torch.channels_last)
            network.register_forward_pre_hook(_images_channels_last)
        return network

    def compile(self, network: nn.Module) -> nn.Module:
        """Compile a classifier of a bare loop in place, if it is to be.

        Args:
            network: of the loop.
        """
        if self.backend:
            network.compile(backend=self.backend, mode=self.mode)
        return network


def _images_channels_last(_: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
    return (args[0].contiguous(memory_format=torch.channels_last),)


class Task(NamedTuple):
    """A step of one phase."""

    phase: Literal["distill", "synthesize"]
    networks: str
    precision: Literal["32-true", "bf16-mixed"]
    batch: int

    @property
    def name(self) -> str:
        """Its words in a row."""
        return " ".join(map(str, self))

    def pair(self, form: Form) -> tuple[nn.Module, nn.Module]:
        """Return new networks, teacher and student, not yet compiled.

        Args:
            form: of both.
        """
        teacher, student = NETWORKS[self.networks]
        return form.lay_out(teacher()), form.lay_out(student())

    def generator(self, form: Form) -> ConvGenerator:
        """Return a new generator, eager in every form.

        Args:
            form: of its weights.
        """
        network = ConvGenerator((3, 32, 32), width=GENERATOR_WIDTHS[self.networks])
        return network.to(memory_format=torch.channels_last) if form.channels_last else network

    def bare(self, device: str, form: Form, augment: bool = False) -> Lane:
        """Return the step in plain PyTorch.

        Args:
            device: ``cuda`` or ``cpu``.
            form: of the networks.
            augment: whether images of the distillation step are cropped and flipped in every step.
        """
        makers = (lambda: tuple(map(form.compile, self.pair(form)))), partial(self.generator, form)
        loops = PlainLoops(device, self.precision == "bf16-mixed", *makers)
        step = loops.distillation(self.batch, augment) if self.phase == "distill" else loops.synthesis(self.batch)

        def marked() -> None:
            torch.compiler.cudagraph_mark_step_begin()
            step()

        return marked if form.mode else step

    def lane(self, job: Job, form: Form, alignment: FeatureAlignment | None = None) -> TrainerLane:
        """Return a fit that has begun.

        Args:
            job: says which device, and has the folder.
            form: of the networks.
            alignment: makes Fast Fast*.
        """
        arguments = self.trainer_arguments(job)
        compiled = [CompileNetworks(form.mode, form.backend)] if form.backend else []
        return TrainerLane(self.model(form, alignment), self.datamodule(), callbacks=compiled, **arguments)

    def model(self, form: Form, alignment: FeatureAlignment | None = None) -> CondKD:
        """Return the module whose training step it is, not yet compiled.

        Args:
            form: of the networks.
            alignment: makes Fast Fast*.
        """
        teacher, student = self.pair(form)
        inversion = Fast(
            cadence=CADENCES[self.phase],
            batch_size=self.batch,
            generator=GeneratorSettings(network=self.generator(form)),
        )
        return CondKD(Observer(teacher, MEAN, STD), student, inversion, alignment, seed=0)

    def datamodule(self) -> L.LightningDataModule:
        """Return a small condensed set beside a filled bank."""
        torch.manual_seed(0)
        condensed = CondensedSet(torch.rand(100, 3, 32, 32), torch.arange(100) % 10)
        datamodule = CondensedDataModule(condensed, batch_size=self.batch)
        images = torch.randint(256, (BANK_SIZE, 3, 32, 32), dtype=torch.uint8)
        datamodule.transfer_set.append(images, torch.arange(BANK_SIZE) % 10, round=0)
        return datamodule

    def trainer_arguments(self, job: Job) -> dict[str, Any]:
        """Return what the Trainer is told: nothing but the loop.

        Args:
            job: says which device, and has the folder.
        """
        quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
        return dict.fromkeys(quiet, False) | {
            "accelerator": "gpu" if job.device == "cuda" else "cpu",
            "devices": 1,
            "precision": self.precision,
            "max_epochs": 10_000,
            "default_root_dir": job.folder,
        }
