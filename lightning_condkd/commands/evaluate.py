"""The command ``evaluate``: scores of any condensed set, native or imported, and of random real images."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import nn

from lightning_condkd.augment import resolve_augment
from lightning_condkd.commands._evaluation_kept import KeptRuns, network_identity
from lightning_condkd.commands._evaluation_report import (
    Row,
    TrainingSet,
    network_facts,
    report,
    set_facts,
    teacher_facts,
)
from lightning_condkd.commands._evaluation_scores import Trial, check_scored, score_lines, scored, scored_trials
from lightning_condkd.commands._evaluation_sets import LabelChoice, teacher_labels, training_sets
from lightning_condkd.data.condensed import CondensedSet
from lightning_condkd.data.image_datamodules import ImageDataModule
from lightning_condkd.data.image_source import ImageSource
from lightning_condkd.evaluation.fresh_training import evaluate as train_and_test
from lightning_condkd.evaluation.network_batch import check_stackable
from lightning_condkd.evaluation.recipe import Recipe
from lightning_condkd.evaluation.scores import ScoreOptions
from lightning_condkd.models import ConvNet, Observer
from lightning_condkd.models.fresh_networks import FreshNetworks
from lightning_condkd.normalization import channel_values
from lightning_condkd.progress import progress
from lightning_condkd.randomness import seeded_generator
from lightning_condkd.training.batches import source_facts
from lightning_condkd.training.class_order import check_fit, remarks_on_names
from lightning_condkd.training.run_record import fingerprint
from lightning_condkd.writing import Target, check_target, write_atomic

Networks = Mapping[str, Callable[[], nn.Module]]
RecipeName = Literal["dsa", "dc", "rded"]
Statistics = tuple[Sequence[float], Sequence[float]]


def evaluate(
    condensed: str,
    *,
    data: ImageDataModule,
    networks: Networks | None = None,
    recipe: Recipe | RecipeName = "dsa",
    epochs: int | None = None,
    labels: LabelChoice = "all",
    teacher: Observer | None = None,
    temperature: float | None = None,
    runs: int = 5,
    seed: int = 0,
    test_every: int = 0,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    batched: bool = False,
    scores: ScoreOptions | None = None,
    device: str | None = None,
    output: str | None = None,
) -> str:
    """Train fresh networks on a condensed set, and on random real images of the same number, and report their accuracy.

    Args:
        condensed: the set: a native file, or a public one that needs no options, see ``convert``.
        data: real images: the held-out ones for the test, the training ones for the random rows.
        networks: architectures by name, such as ``{"ResNet": {"class_path": "SmallImageResNet"}}``; by default the
            ConvNet of the literature for images of this size.
        recipe: ``dsa`` (of DSA, DM and MTT), ``dc``, ``rded`` (of RDED, for a teacher's labels), or changes to ``dsa``,
            such as ``--recipe.augment dsa_digits``.
        epochs: number of epochs, in place of the recipe's; the schedule of the learning rate is scaled.
        labels: labels to train on: the ``hard`` or ``soft`` ones of the set, or predictions of the ``teacher`` for each
            view; ``all`` for a row for each kind. Random real images have hard labels, and the teacher's.
        teacher: the network to distil from, for sets without soft labels such as those of SRe2L and RDED; it is set to
            eval.
        temperature: temperature of the distillation from the teacher; ``None`` for 20 (code of RDED).
        runs: number of networks for each row.
        seed: seed of networks, order, augmentation, and of the choice of real images.
        test_every: number of epochs between tests, to report the best accuracy too; 0 tests only at the end.
        mean: channel means that the networks subtract, in the units of [0, 1], such as ``'[0.49, 0.48, 0.45]'``; by
            default those of the training images.
        std: channel standard deviations that they divide by; likewise.
        batched: train the networks of a row in one pass: on a CPU faster for very small networks, slower for others.
        scores: compute HLR, IOR, LRS and ARS of DD-Ranking, on shares, from last weights and for the kinds of labels
            that set and random real images have in common: ``--scores.full_accuracy 0.848``, or ``--scores.full_epochs
            200`` to train on all real images too. Rows without augmentation double the time; the row of all real
            images may take far longer. Learning rates are not searched for as in DD-Ranking: the recipe's is used.
        device: device of the training; by default the first GPU, else the CPU.
        output: JSON file for all numbers, such as ``result.json``. Until the command ends, numbers of finished networks
            are in ``result.partial.json``: if it is interrupted, the same command trains only the others.

    Returns:
        A table with a row for each network and kind of labels, and the corresponding rows for random real images.

    Raises:
        ValueError: if set, data and networks do not fit each other, or a choice is not possible.
    """
    if output is not None:
        check_output(Path(output))
    chosen, real = CondensedSet.load(condensed), _real_images(data)
    rank_zero_info(f"condensed set {condensed}: {chosen.line}")
    check_fit(chosen, real.test)
    statistics = _normalization(mean, std, real.train)
    given = _resolve(recipe, epochs, chosen, statistics)
    plan = given.with_learned_rate(chosen.info.settings.get("train_lr"))
    learned = None if plan is given else plan.learning_rate
    fresh = _fresh_networks(networks, real.test, *statistics)
    for name, made in fresh.items():
        check_networks(name, made, real.test, batched and runs > 1)
    asked = teacher_labels(teacher, temperature, labels, real.test)
    if scores is not None:
        check_scored(scores, list(fresh), labels, chosen.soft_labels is not None, asked, real.train)
    sets = training_sets(chosen, labels, asked, real.train, seed, paired=scores is not None)
    trials = [Trial(one, plan) for one in sets] + scored_trials(scores, sets, given, plan, real.train)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    options = {"runs": runs, "seed": seed, "test_every": test_every, "batched": batched, "device": device}
    facts: dict[str, Any] = {"learned_rate": learned, "options": options, "recipe": plan.settings()}
    facts |= {"scored": None if scores is None else asdict(scores)}
    facts |= {"condensed": set_facts(condensed, chosen), "teacher": teacher_facts(asked)}
    facts |= {"networks": network_facts(fresh)}
    kept = KeptRuns(None if output is None else Path(output), facts | _identities(chosen, real, fresh, sets))
    with kept.advising():
        rows = _rows(fresh, trials, real.test, options, kept)
    found = [] if scores is None else scored(scores, rows)
    if output is not None:
        facts |= {"rows": [row.record() for row in rows], "scores": [one.record() for one in found]}
        write_atomic(Path(output), (json.dumps(facts, indent=1, allow_nan=False) + "\n").encode())
        kept.discard()
    remarks = remarks_on_names(chosen, real.test.class_names)
    return "\n".join([report(rows, plan, learned, remarks), *(score_lines(found, rows) if found else [])])


class _Real(NamedTuple):
    test: ImageSource
    train: ImageSource | None


def _identities(
    condensed: CondensedSet, real: _Real, networks: Mapping[str, FreshNetworks], sets: Sequence[TrainingSet]
) -> dict[str, Any]:
    """Return hashes that identify sets, data and networks, in addition to the facts in a result."""
    return {
        "set": fingerprint(condensed),
        "data": {name: None if source is None else source_facts(source) for name, source in real._asdict().items()},
        "identities": {name: network_identity(made) for name, made in networks.items()},
        "rows": [[one.name, one.label_kind] for one in sets],
        "torch": torch.__version__,
    }


def _rows(
    fresh: Mapping[str, FreshNetworks],
    trials: Sequence[Trial],
    test: ImageSource,
    options: Mapping[str, Any],
    kept: KeptRuns,
) -> list[Row]:
    names = {(name, number): f"{name}, set {number}" for name in fresh for number in range(len(trials))}
    repeats = range(1 if options["batched"] else options["runs"])
    epochs = sum(kept.missing([row], repeats) * trials[number].recipe.epochs for (_, number), row in names.items())
    with progress("training fresh networks", epochs, "epochs") as advance:
        return [
            Row(
                name,
                trials[number].trained_on,
                train_and_test(
                    trials[number].trained_on.images,
                    trials[number].trained_on.labels,
                    test.images,
                    test.labels,
                    fresh[name],
                    trials[number].recipe,
                    **options,
                    once=partial(kept.once, row),
                    advance=advance,
                ),
                trials[number].plain,
            )
            for (name, number), row in names.items()
        ]


def _real_images(data: ImageDataModule) -> _Real:
    try:
        train = data.train_source
    except FileNotFoundError:  # the training data may be gone
        return _Real(data.val_source, None)
    data.check_parts()
    return _Real(data.val_source, train)


def _resolve(
    recipe: Recipe | RecipeName, epochs: int | None, condensed: CondensedSet, statistics: Statistics
) -> Recipe:
    match recipe:
        case "rded":
            factor = 1 if max(condensed.image_shape[1:]) <= 64 else 2
            recipe = Recipe.rded(condensed.ipc, condensed.num_classes, factor)
        case "dsa" | "dc":
            recipe = Recipe.dsa() if recipe == "dsa" else Recipe.dc()
    augment = resolve_augment(recipe.augment, *statistics)
    return replace(recipe, augment=augment, epochs=recipe.epochs if epochs is None else epochs)


def _normalization(mean: Sequence[float] | None, std: Sequence[float] | None, train: ImageSource | None) -> Statistics:
    if mean is not None and std is not None:
        return channel_values("mean", mean), channel_values("std", std)
    if mean is not None or std is not None:
        raise ValueError("expected both mean and std, or neither, got one: give the other too")
    if train is None:
        raise ValueError("the data has no training images to compute mean and std from: give mean and std")
    return train.channel_statistics()


def _fresh_networks(
    networks: Networks | None, test: ImageSource, mean: Sequence[float], std: Sequence[float]
) -> dict[str, FreshNetworks]:
    chosen = networks or {"ConvNet": _standard_network(test)}
    return {name: FreshNetworks(network, mean, std) for name, network in chosen.items()}


def _standard_network(test: ImageSource) -> Callable[[], nn.Module]:
    """Return the ConvNet of the literature: depth 3 to 32 px, 4 at 64, 5 at 128; small images end at 2 px."""
    channels, height, width = test.image_shape
    if height != width or height < 4:
        raise ValueError(f"images of {height} x {width} pixels have no standard network: give networks")
    halvings = int(math.log2(height))
    depth = min(3, halvings - 1) if height <= 32 else halvings - 2
    return partial(ConvNet, test.num_classes, image_size=height, in_channels=channels, depth=depth)


def check_output(path: Path) -> None:
    """Check before hours of training that the result can be written.

    Args:
        path: the file to write.

    Raises:
        OSError: if it cannot be written.
        ValueError: if it does not end in ``.json``.
    """
    if path.suffix != ".json":
        raise ValueError(f"output: expected the path of a file that ends in .json, got {str(path)!r}")
    check_target(Target(path))


def check_networks(name: str, networks: FreshNetworks, test: ImageSource, batched: bool) -> None:
    """Check networks of an architecture against the data.

    Args:
        name: name of the architecture.
        networks: makes the networks.
        test: the held-out images.
        batched: whether they are trained in one pass.

    Raises:
        ValueError: if they do not fit.
    """
    try:
        networks.check(test.image_shape, test.num_classes)
    except ValueError as error:
        raise ValueError(f"networks: {name} does not fit the data: {error}") from error
    if batched:
        check_stackable(networks.make(seeded_generator(0, "check")).eval())
