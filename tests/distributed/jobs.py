"""What the processes do: small runs of CondKD through the trainer, whole, interrupted or resumed."""

from __future__ import annotations

import copy
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, OnExceptionCheckpoint
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_condkd.alignment import FeatureAlignment
from lightning_condkd.alignment.discriminators import ACGANDiscriminator, Discriminator, ProjectionDiscriminator
from lightning_condkd.augment import CropFlip
from lightning_condkd.data import CondensedDataModule
from lightning_condkd.data.image_source import ImageSource
from lightning_condkd.data.loaders import EvaluationBatches, ResumableLoader
from lightning_condkd.distributed import rank, world_size
from lightning_condkd.inversion import Fast, GeneratorSettings
from lightning_condkd.models import Observer
from lightning_condkd.models.norms import Norm
from lightning_condkd.modules import CondKD
from lightning_condkd.randomness import seeded_generator
from lightning_condkd.rounds import Cadence
from tests.distributed import virtual
from tests.helpers import toy

State = dict[str, Tensor]
Keep = Literal["none", "last", "all"]
Validate = Literal["ours", "torch"]
Place = Literal["synthesis", "meta-step", "distillation", "checkpoint"]
ALIGNMENT_WEIGHT = 1.0  # virtual.py has none
CADENCE = Cadence(synthesis_steps=3, distill_steps=4, warmup_rounds=1)
BANK = ("images", "labels", "rounds")


@dataclass(frozen=True)
class Recipe:
    """A run of three rounds, one of them warm-up, with adversary and alignment."""

    norm: Norm = "batch"
    discriminator: Literal["projection", "acgan"] = "projection"
    mix: Literal["union", "two_term"] = "union"
    precision: Literal["32-true", "64-true"] = "32-true"
    own_view: bool = False
    rounds: int = 3
    seed: int = toy.SEED

    @property
    def numbers(self) -> virtual.Numbers:
        """All sizes and rates; with these the last step of a block is not always the best."""
        return virtual.Numbers(
            rounds=self.rounds,
            warmup_rounds=CADENCE.warmup_rounds,
            synthesis_steps=CADENCE.synthesis_steps,
            distill_steps=CADENCE.distill_steps,
            synthesis_batch=12,
            distill_batch=8,
            latent_size=toy.LATENT,
            generator_rate=0.1,
            latent_rate=1.0,
            class_weight=0.5,
            bn_weight=2.0 if self.norm == "batch" else 0.0,
            adversarial_weight=1.33,
            momentum=0.9,
            classes=toy.CLASSES,
            padding=1,
            seed=self.seed,
        )


def model(recipe: Recipe) -> CondKD:
    """The module of a recipe, the same in every process."""
    discriminator: Discriminator = ProjectionDiscriminator((16,))
    if recipe.discriminator == "acgan":
        discriminator = ACGANDiscriminator((16,), class_loss_on_synthetic=True)
    numbers = recipe.numbers
    inversion = Fast(
        cadence=CADENCE,
        batch_size=numbers.synthesis_batch,
        generator=GeneratorSettings(
            latent_size=numbers.latent_size,
            lr=numbers.generator_rate,
            network=toy.small_generator(norm=recipe.norm),
        ),
        latent_lr=numbers.latent_rate,
        class_weight=numbers.class_weight,
        bn_weight=numbers.bn_weight,
        adversarial_weight=numbers.adversarial_weight,
        bn_momentum=numbers.momentum,
        reset_round=None,
        augment=CropFlip(numbers.padding),
    )
    return CondKD(
        Observer(toy.network("teacher", norm=recipe.norm), (virtual.MEAN,), (virtual.STD,)),
        toy.network("student", norm=recipe.norm),
        inversion,
        FeatureAlignment(discriminator, weight=ALIGNMENT_WEIGHT, augment=CropFlip(2) if recipe.own_view else None),
        augment=CropFlip(numbers.padding),
        seed=recipe.seed,
    )


def fit(
    recipe: Mapping[str, Any],
    folder: str,
    *,
    resume: str | None = None,
    keep: Keep = "none",
    validate: Validate | None = None,
    interrupt: tuple[Place | Literal["exception"], int] | None = None,
) -> dict[str, Any]:
    """Run a recipe to its end on the ranks that there are, and return all that it made.

    ``keep`` asks for a checkpoint every second unit, of which only the last stays, or every third, which all stay.
    """
    chosen = Recipe(**recipe)
    module = model(chosen)
    data = CondensedDataModule(
        toy.condensed_set(),
        batch_size=chosen.numbers.distill_batch,
        mix=chosen.mix,
        val_dataloaders=real_images(validate),
    )
    trainer = make_trainer(chosen, folder, [*checkpoints(folder, keep), *interruption(module, folder, interrupt)])
    try:
        trainer.fit(module, data, ckpt_path=resume)
    except InterruptionError:
        return {}
    return outcome(module, data, trainer)


def make_trainer(recipe: Recipe, folder: str, callbacks: list[Callback]) -> L.Trainer:
    """A silent trainer on as many processes as there are; its run folder is ``folder``."""
    return L.Trainer(
        accelerator="cpu",
        devices=world_size(),
        strategy=DDPStrategy(find_unused_parameters=True, process_group_backend="gloo") if world_size() > 1 else "auto",
        precision=recipe.precision,
        max_epochs=recipe.rounds,
        default_root_dir=folder,
        callbacks=callbacks,
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def real_images(kind: Validate | None) -> DataLoader[Any] | None:
    """Eleven images in batches of five: neither divides by two ranks, and the last batch has one image."""
    images = torch.randint(256, (11, *toy.SHAPE), generator=seeded_generator(0, "real"), dtype=torch.uint8)
    labels = torch.arange(11) % toy.CLASSES
    if kind == "ours":
        source = ImageSource(images, labels, tuple("abc"))
        return ResumableLoader(EvaluationBatches(source, 5, rank=rank(), world_size=world_size()))
    return DataLoader(TensorDataset(images, labels), batch_size=5) if kind == "torch" else None


def checkpoints(folder: str, keep: Keep) -> list[Callback]:
    if keep == "none":
        return []
    last = keep == "last"
    every, top = (2, 0) if last else (3, -1)
    there = Path(folder, "checkpoints")
    return [ModelCheckpoint(there, "{step}", every_n_train_steps=every, save_top_k=top, save_last=last)]


class InterruptionError(Exception):
    """What stands in for a user's or a machine's mishap."""


class Raise(Callback):
    """Raise before a unit."""

    def __init__(self, unit: int) -> None:
        self.unit = unit

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self.unit:
            raise InterruptionError


def interruption(module: CondKD, folder: str, at: tuple[str, int] | None) -> list[Callback]:
    """Arrange an exception before a unit, or a kill in the middle of one."""
    if at is None:
        return []
    place, unit = at
    if place == "exception":
        return [Raise(unit), OnExceptionCheckpoint(Path(folder, "checkpoints"))]
    owner, method = {
        "synthesis": (module.inversion, "after_step"),  # the copy has moved, the discriminator not yet
        "meta-step": (module.inversion, "collect"),  # the meta-generator has moved, the bank is without the batch
        "distillation": (module, "manual_backward"),  # gradients are there, the student has not moved
        "checkpoint": (module, "on_save_checkpoint"),  # the chunk is written, the checkpoint is not
    }[place]
    original: Callable[..., Any] = getattr(owner, method)

    def fatal(*arguments: Any, **keywords: Any) -> Any:
        result = original(*arguments, **keywords)
        if module.unit is not None and module.unit.counter == unit:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, method, fatal)
    return []


def outcome(module: CondKD, data: CondensedDataModule, trainer: L.Trainer) -> dict[str, Any]:
    """All that a run made: tensors of the module and its optimizers, the bank, counters and metrics."""
    bank = data.transfer_set.bank
    return {
        "module": {name: value.detach().clone() for name, value in module.state_dict().items()},
        "optimizers": optimizer_states(trainer),
        "bank": {name: getattr(bank, name).clone() for name in BANK},
        "run_id": bank.run_id,
        "seed": module.seed,
        "global_step": trainer.global_step,
        "metrics": {name: float(value) for name, value in trainer.callback_metrics.items()},
    }


def optimizer_states(trainer: L.Trainer) -> State:
    states = {}
    for number, optimizer in enumerate(trainer.optimizers):
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        for index, parameter in enumerate(parameters):
            for name, value in optimizer.state.get(parameter, {}).items():
                states[f"{number}.{index}.{name}"] = torch.as_tensor(value).detach().clone()
    return states


def play_two_ranks(recipe: Mapping[str, Any], *, synchronize: bool = True) -> dict[str, Any]:
    """The same run on one process that plays both ranks; the projection discriminator in the inversion's view only."""
    chosen, condensed = Recipe(**recipe), toy.condensed_set()
    student, generator = toy.network("student", norm=chosen.norm), toy.small_generator(norm=chosen.norm)
    teacher = toy.network("teacher", norm=chosen.norm).eval().requires_grad_(False)
    torch.set_default_dtype(torch.float64)  # as the trainer does, before the discriminator is made
    alignment = FeatureAlignment(ProjectionDiscriminator((16,)))
    alignment.build(toy.spec(), seeded_generator(chosen.seed, "alignment"))
    world = virtual.World(
        chosen.numbers,
        teacher.double(),
        [copy.deepcopy(student).double() for _ in range(virtual.RANKS)],
        generator.double(),
        [copy.deepcopy(alignment.discriminator) for _ in range(virtual.RANKS)],
        (condensed.images.double(), condensed.labels),
    )
    virtual.run(world, synchronize)
    parts = {"student.network": world.students[1], "inversion.meta": world.meta}
    parts["alignment.discriminator"] = world.discriminators[1]
    states = {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}
    return {"module": states, "bank": {"images": torch.cat(world.images), "labels": torch.cat(world.labels)}}


def fit_requeued(recipe: Mapping[str, Any], folder: str, steps: tuple[int, int], commands: str) -> dict[str, Any]:
    """Run a recipe as a SLURM job whose ranks get the requeue signal in the middle of different steps."""
    numbers = {"NTASKS": world_size(), "NTASKS_PER_NODE": world_size(), "NNODES": 1, "NODEID": 0, "JOB_ID": 17}
    numbers |= {"PROCID": rank(), "LOCALID": rank()}
    os.environ.update({f"SLURM_{name}": str(value) for name, value in numbers.items()}, SLURM_JOB_NAME="distill")
    os.environ["PATH"] = f"{commands}:{os.environ['PATH']}"
    original = CondKD.manual_backward
    waiting = [steps[rank()]]

    def backward(module: CondKD, *arguments: Any, **keywords: Any) -> None:
        original(module, *arguments, **keywords)
        if waiting and module.unit is not None and module.unit.counter == waiting[0]:
            waiting.clear()
            os.kill(os.getpid(), signal.SIGUSR1)

    CondKD.manual_backward = backward  # type: ignore[method-assign]
    return fit(recipe, folder)
