"""Checks before a run: networks, data and trainer must fit together."""

from __future__ import annotations

from collections.abc import Sequence

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn

from lightning_condkd.data.condensed import CondensedSet
from lightning_condkd.data.counts import empty_classes
from lightning_condkd.data.loaders import StepStream
from lightning_condkd.data.transfer import TransferSet
from lightning_condkd.inversion import Inversion
from lightning_condkd.messages import listed
from lightning_condkd.models import Observer
from lightning_condkd.models.checks import check_classifier
from lightning_condkd.training.run_length import dev_steps
from lightning_condkd.types import TaskSpec


def check_separate(teacher: nn.Module, student: nn.Module) -> None:
    """Check that training the student cannot change the teacher.

    Args:
        teacher: the frozen network.
        student: the trained network.

    Raises:
        ValueError: if they share a parameter or buffer.
    """
    owned = {tensor.untyped_storage().data_ptr(): name for name, tensor in _tensors(teacher)}
    for name, tensor in _tensors(student):
        if tensor.numel() and (other := owned.get(tensor.untyped_storage().data_ptr())):
            raise ValueError(
                f"student and teacher share memory: {name!r} of the student is {other!r} of the teacher; "
                "build the student again or pass copy.deepcopy(student)"
            )


def _tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [*module.named_parameters(), *module.named_buffers()]


def check_dtypes(trainer: L.Trainer, **networks: nn.Module) -> None:
    """Check that networks compute in the precision of the run.

    Args:
        trainer: the trainer, after it converted the module to its precision.
        networks: networks by the name of the argument.

    Raises:
        ValueError: if one has weights of another floating point type.
    """
    with trainer.precision_plugin.forward_context():
        expected = torch.get_default_dtype()
    for name, network in networks.items():
        found = {parameter.dtype for parameter in network.parameters() if parameter.is_floating_point()} - {expected}
        if found:
            raise ValueError(
                f"the {name} has weights of {', '.join(sorted(map(str, found)))}, but --trainer.precision "
                f"{trainer.precision} computes in {expected}: convert it with {name}.to({expected}), or choose a true "
                "precision such as 16-true, which converts all networks"
            )


def check_strategy(trainer: L.Trainer) -> None:
    """Check that DDP accepts backward passes that use a part of the parameters.

    Args:
        trainer: the trainer that runs the module.

    Raises:
        ValueError: if DDP does not search for unused parameters, or uses a static graph.
    """
    strategy = trainer.strategy
    if not isinstance(strategy, DDPStrategy):
        return
    if not strategy._ddp_kwargs.get("find_unused_parameters") or strategy._ddp_kwargs.get("static_graph"):
        raise ValueError(
            "the networks are updated in turn, so every backward pass leaves parameters unused; "
            "expected --trainer.strategy ddp_find_unused_parameters_true without static_graph, got plain ddp"
        )


def check_loader(trainer: L.Trainer, length: int) -> None:
    """Check that the training loader yields all steps of a round.

    Args:
        trainer: the trainer, with its loaders set up.
        length: steps in a round.

    Raises:
        ValueError: if it does not.
    """
    loader, batches = trainer.train_dataloader, trainer.num_training_batches
    expected = min(dev_steps(trainer), length) or length
    stream = getattr(loader, "dataset", None)
    if not isinstance(stream, StepStream) or len(stream) != length or batches != expected:
        raise ValueError(
            f"CondKD draws its own images and needs a loader of the {length} steps of a round, got {loader!r} with "
            f"{batches} batches: fit with CondensedDataModule, or pass step_loader(inversion.cadence.length), and "
            "leave limit_train_batches and overfit_batches unset"
        )


def check_limit(trainer: L.Trainer, length: int) -> None:
    """Check at setup that no limit shortens the rounds.

    Args:
        trainer: the trainer.
        length: steps in a round.

    Raises:
        ValueError: if ``limit_train_batches`` shortens them.
    """
    limit = getattr(trainer, "limit_train_batches", 1.0)
    if not dev_steps(trainer) and (limit < length if isinstance(limit, int) else limit < 1.0):
        raise ValueError(
            f"limit_train_batches={limit} would cut the {length} steps of a round: leave it unset, and set those of "
            "inversion.cadence"
        )


def check_batch(name: str, size: int, world_size: int) -> None:
    """Check that a global batch is divisible by the number of processes.

    Args:
        name: name of the argument that sets it.
        size: images in the global batch.
        world_size: number of processes.

    Raises:
        ValueError: if it does not.
    """
    if size % world_size:
        raise ValueError(f"{name}={size} does not divide by {world_size} processes: choose a multiple of {world_size}")


def check_condensed(
    condensed: CondensedSet, teacher: Observer, student: Observer, embedding: bool, inputs: Sequence[str] = ()
) -> TaskSpec:
    """Check that a condensed set fits both networks, by one small forward pass each.

    Args:
        condensed: the condensed set.
        teacher: the frozen teacher.
        student: the student.
        embedding: whether the teacher's embedding is needed.
        inputs: names of the teacher's modules whose inputs are measured.

    Returns:
        The shapes of the task.

    Raises:
        ValueError: if classes, channels or resolution disagree, or a class is missing.
    """
    if missing := empty_classes(condensed.counts, condensed.info.class_names):
        raise ValueError(
            f"the condensed set has no image of class {listed(missing)}: add at least one, or set info.num_classes "
            "to the classes that it has"
        )
    shape, classes = condensed.image_shape, condensed.num_classes
    output = check_classifier("teacher", teacher, shape, classes, embedding=embedding, bn=True)
    check_classifier("student", student, shape, classes, bn=True)
    size = output.embedding.shape[1] if output.embedding is not None else 0
    widths = tuple(len(statistics.mean) for statistics in output.bn)
    looks = [check_classifier("teacher", teacher, shape, classes, channel_means=[name]) for name in inputs]
    measured = tuple(look.channel_means.shape[1] for look in looks if look.channel_means is not None)
    names = condensed.info.class_names or ()
    return TaskSpec(shape, classes, size, widths, *_normalization(teacher), measured, names)


def _normalization(network: Observer) -> tuple[tuple[float, ...], tuple[float, ...]]:
    mean, std = (() if value is None else tuple(value.tolist()) for value in (network.mean, network.std))
    return mean, std


def check_maps(name: str, network: Observer, maps: Sequence[str], asking: str = "the distillation loss") -> None:
    """Check that a network has the modules whose outputs or inputs are used.

    Args:
        name: ``teacher`` or ``student``.
        network: the network.
        maps: names of its modules.
        asking: what uses them.

    Raises:
        ValueError: if one is missing.
    """
    there = dict(network.network.named_modules())
    for lacking in (wanted for wanted in maps if wanted not in there):
        names = ", ".join(filter(None, there))
        raise ValueError(f"{asking} asks the {name} for the module {lacking!r}; there are: {names}")


def check_source(inversion: Inversion, transfer_set: TransferSet, world_size: int) -> None:
    """Check that a method whose images are not stored has a fixed, divisible share of every batch.

    Args:
        inversion: the method.
        transfer_set: the mixture of batches.
        world_size: number of processes.

    Raises:
        ValueError: if batches are drawn from the (empty) bank, or the method cannot divide its share.
    """
    if inversion.source == "bank":
        return
    if transfer_set.condensed_per_batch is None:
        raise ValueError(
            f"{type(inversion).__name__} renders images for every student step and stores none, so "
            f"mix={transfer_set.mix!r} has no bank to draw from: set data.mix to the share of condensed images in a "
            "batch (0.0: none) or to 'two_term'"
        )
    if transfer_set.synthetic_per_batch:
        inversion.check_sample(transfer_set.synthetic_per_batch, world_size)
