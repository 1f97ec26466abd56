"""Checks that validation and test images fit the condensed set that a student learns from."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch.utils.data import Subset

from lightning_condkd.data.condensed import CondensedSet
from lightning_condkd.data.image_source import ImageSource
from lightning_condkd.messages import listed
from lightning_condkd.training.class_order import check_class_order, check_fit, class_order, remarks_on_names
from lightning_condkd.training.trainer_access import held_out_data_of


def check_held_out(trainer: L.Trainer, stage: str, condensed: CondensedSet | None) -> None:
    """Check the real images of a datamodule at setup, if it describes them.

    Args:
        trainer: the trainer.
        stage: ``fit``, ``validate`` or ``test``.
        condensed: the condensed set, if known.

    Raises:
        ValueError: if classes or image shape differ, or the classes are known to be in another order.
    """
    data = held_out_data_of(trainer)
    if data is None or condensed is None or (stage == "fit" and not trainer.limit_val_batches):
        return
    check_fit(condensed, data.val_source)
    _remark_on_names(condensed, data.val_source.class_names)


def check_in_turn(trainer: L.Trainer) -> None:
    """Check that several validation or test loaders are read one after another.

    Args:
        trainer: the trainer, with its loaders set up.

    Raises:
        ValueError: if a batch would contain one batch of each.
    """
    combined = trainer._evaluation_loop._combined_loader
    if combined is not None and combined._mode != "sequential":
        raise ValueError(
            f"validation and test loaders are read one after another, got a CombinedLoader of mode {combined._mode!r}, "
            "whose batches have a part of each: return the loaders as a list, or set mode='sequential'"
        )


def loaders_in_turn(trainer: L.Trainer) -> Sequence[Any]:
    """Return all validation or test loaders in the order in which they are read; in a fit, create them if needed.

    Args:
        trainer: the trainer.

    Raises:
        ValueError: see :func:`check_in_turn`.
    """
    loop = trainer._evaluation_loop
    if trainer.state.fn == TrainerFn.FITTING and trainer.enable_validation:
        loop.setup_data()
    check_in_turn(trainer)
    return [] if loop._combined_loader is None else loop._combined_loader.flattened


def check_loaders(trainer: L.Trainer, loaders: Iterable[Any], condensed: CondensedSet | None) -> None:
    """Check the classes of the user's loaders, if their datasets have class names.

    Args:
        trainer: the trainer.
        loaders: the loaders.
        condensed: the condensed set, if known.

    Raises:
        ValueError: if the classes are known to be in another order.
    """
    if condensed is None or held_out_data_of(trainer) is not None:
        return
    for names in class_names_of(loaders):
        check_class_order(condensed, names)
        _remark_on_names(condensed, names)


def check_before_training(trainer: L.Trainer, condensed: CondensedSet, check: Callable[[Any], object]) -> None:
    """Check the user's validation loaders, and their first batch if Lightning's sanity check is off.

    Args:
        trainer: the trainer.
        condensed: the condensed set.
        check: raises an error if a batch does not fit.

    Raises:
        ValueError: see :func:`check_loaders`; also errors of ``check``.
    """
    if trainer.num_sanity_val_steps:
        return
    loaders = _own_loaders(trainer)
    check_loaders(trainer, loaders, condensed)
    with torch.random.fork_rng(devices=[]):  # starting a loader takes a number from the global stream
        for loader in loaders:
            if loader is not iter(loader):  # an iterator would lose the batch
                for batch in itertools.islice(loader, 1):
                    check(batch)


def check_parts(trainer: L.Trainer) -> None:
    """Check that the user's training and validation loaders have the same classes, if their datasets have class names.

    Args:
        trainer: the trainer, at the start of training.

    Raises:
        ValueError: if they are known to have other classes, or the same in another order.
    """
    loaders = _own_loaders(trainer)
    training = CombinedLoader(trainer.train_dataloader).flattened
    for train, held_out in itertools.product(class_names_of(training), class_names_of(loaders)):
        order, counts = class_order(train, held_out), (len(train), len(held_out))
        found = (
            f"the training images have {counts[0]} classes {listed(train)}, "
            f"the held-out ones {counts[1]} {listed(held_out)}"
        )
        if order == "another" or counts[0] != counts[1]:
            raise ValueError(f"{found}, so the same label means another class: make classes and order the same")
        if order == "unknown":
            rank_zero_warn(f"{found}: are they in the same order?")


def _own_loaders(trainer: L.Trainer) -> Sequence[Any]:
    """Return the user's validation loaders at the start of a fit; none for a datamodule of this package."""
    loaders = loaders_in_turn(trainer)
    return [] if held_out_data_of(trainer) is not None else loaders


def _remark_on_names(condensed: CondensedSet, names: Sequence[str]) -> None:
    for remark in remarks_on_names(condensed, names):
        rank_zero_warn(remark)


def class_names_of(loaders: Iterable[Any]) -> Iterator[tuple[str, ...]]:
    """Yield the names of the classes of those loaders whose datasets tell them, in the order of the labels.

    Args:
        loaders: the loaders.
    """
    for loader in loaders:
        dataset = getattr(getattr(loader, "loader", loader), "dataset", None)
        while isinstance(dataset, Subset):
            dataset = dataset.dataset
        source = getattr(dataset, "source", None)
        names = source.class_names if isinstance(source, ImageSource) else getattr(dataset, "classes", None)
        relabelled = getattr(dataset, "target_transform", None) is not None
        if not relabelled and isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names):
            yield tuple(names)
