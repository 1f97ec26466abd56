"""Scores of DD-Ranking in the command ``evaluate``: the rows that they need in addition, their table and records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from lightning_condkd.commands._evaluation_report import ALL_REAL, RANDOM_REAL, Row, TrainingSet, table
from lightning_condkd.data.image_source import ImageSource
from lightning_condkd.evaluation.batches import TeacherLabels
from lightning_condkd.evaluation.recipe import Recipe
from lightning_condkd.evaluation.result import Spread
from lightning_condkd.evaluation.scores import (
    ScoreOptions,
    augmentation_robust_score,
    hard_label_recovery,
    improvement_over_random,
    label_robust_score,
)

UNDERTRAINED = (
    "all real images give a lower accuracy than the set (HLR below 0): raise full_epochs, or correct full_accuracy"
)


class Trial(NamedTuple):
    """What networks are trained on, and how.

    Args:
        trained_on: the set.
        recipe: the training recipe.
        plain: whether the recipe's augmentation was left out.
    """

    trained_on: TrainingSet
    recipe: Recipe
    plain: bool = False


@dataclass(frozen=True)
class Scored:
    """Scores of a set for one architecture and kind of labels, each with one value for each run.

    Args:
        network: name of the architecture.
        label_kind: kind of the labels: ``hard``, ``soft`` or ``teacher``.
        full_accuracy: accuracy of the networks trained on all real images, a share.
        values: HLR, IOR, LRS and ARS by name; ``None`` for ARS if the recipe has no augmentation.
    """

    network: str
    label_kind: str
    full_accuracy: tuple[float, ...]
    values: Mapping[str, tuple[float, ...] | None]

    def record(self) -> dict[str, Any]:
        """Return the record of the scores in a result file, JSON values only."""
        named = {
            name: None if runs is None else {**Spread.of(runs)._asdict(), "runs": list(runs)}
            for name, runs in self.values.items()
        }
        return {
            "network": self.network,
            "labels": self.label_kind,
            "full_accuracy": list(self.full_accuracy),
            **named,
        }


def check_scored(
    options: ScoreOptions,
    networks: Sequence[str],
    labels: str,
    soft: bool,
    asked: TeacherLabels | None,
    train: ImageSource | None,
) -> None:
    """Check that the rows of an evaluation allow the scores.

    Args:
        options: what is asked for.
        networks: names of the architectures.
        labels: the user's choice of labels.
        soft: whether the set has soft labels.
        asked: the teacher, if there is one.
        train: real images; ``None`` if they are gone.

    Raises:
        ValueError: if a row cannot be trained, or the accuracy of a network on all real images is missing.
    """
    if train is None:
        raise ValueError("scores: they compare with real training images, which the data lacks: leave scores out")
    if labels not in ("all", "hard"):
        raise ValueError(f"scores: HLR needs a row with hard labels, got labels={labels!r}: set labels to all or hard")
    if labels == "all" and soft and asked is None:
        raise ValueError(
            "scores: the set has soft labels, and random real images need those of a teacher to compare with: give "
            "teacher, or set labels to hard"
        )
    given = options.full_accuracy
    if given is None:
        return
    names = list(given) if isinstance(given, Mapping) else networks[:1]
    if sorted(names) != sorted(networks):
        raise ValueError(
            f"full_accuracy: expected a share for each of the networks {', '.join(networks)}, got {given}: give a "
            f"mapping such as '{{\"{networks[0]}\": 0.848}}'"
        )


def scored_trials(
    options: ScoreOptions | None, sets: Sequence[TrainingSet], given: Recipe, plan: Recipe, train: ImageSource | None
) -> list[Trial]:
    """Return what networks are trained on for the scores alone.

    Args:
        options: what is asked for; ``None`` for no scores.
        sets: the training sets of the evaluation.
        given: the recipe, without a step size learned with the set.
        plan: the recipe of the evaluation.
        train: all real images.
    """
    if options is None or train is None:
        return []
    plain = plan.without_augmentation()
    trials = [Trial(one, plain, plain=True) for one in sets if plan.augments and _has_pair(one, sets)]
    if options.full_epochs is not None:
        full = TrainingSet(ALL_REAL, "hard", train.images, train.labels)
        trials.append(Trial(full, replace(given, epochs=options.full_epochs)))
    return trials


def _has_pair(one: TrainingSet, sets: Sequence[TrainingSet]) -> bool:
    return {other.name == RANDOM_REAL for other in sets if other.label_kind == one.label_kind} == {True, False}


def scored(options: ScoreOptions, rows: Sequence[Row]) -> list[Scored]:
    """Return the scores for each architecture and each kind of labels that set and random images have.

    Args:
        options: what is asked for.
        rows: all rows of the evaluation.
    """
    found = []
    for network in dict.fromkeys(row.network for row in rows):
        own = [row for row in rows if row.network == network]
        last = {
            (row.trained_on.name == RANDOM_REAL, row.trained_on.label_kind, row.plain): row.result.last
            for row in own
            if row.trained_on.name != ALL_REAL
        }
        full = _full_accuracy(options, own, network)
        for kind in dict.fromkeys(row.trained_on.label_kind for row in own if row.trained_on.name == RANDOM_REAL):
            found.append(Scored(network, kind, full, _values(options, last, full, kind)))
    return found


def _full_accuracy(options: ScoreOptions, rows: Sequence[Row], network: str) -> tuple[float, ...]:
    trained = [row.result.last for row in rows if row.trained_on.name == ALL_REAL]
    if trained:
        return trained[0]
    given = options.full_accuracy
    value = given[network] if isinstance(given, Mapping) else given
    if value is None:
        raise ValueError("expected a row of all real images or full_accuracy, got neither: give full_accuracy")
    return (float(value),) * len(rows[0].result.last)


def _values(
    options: ScoreOptions, last: Mapping[tuple[bool, str, bool], Sequence[float]], full: Sequence[float], kind: str
) -> dict[str, tuple[float, ...] | None]:
    hlr = tuple(map(hard_label_recovery, full, last[False, "hard", False]))
    ior = tuple(map(improvement_over_random, last[False, kind, False], last[True, kind, False]))
    lrs = tuple(label_robust_score(gain, lost, options.label_weight) for gain, lost in zip(ior, hlr, strict=True))
    values: dict[str, tuple[float, ...] | None] = {"HLR": hlr, "IOR": ior, "LRS": lrs, "ARS": None}
    if (False, kind, True) in last:
        plain = map(improvement_over_random, last[False, kind, True], last[True, kind, True])
        weight = options.augmentation_weight
        values["ARS"] = tuple(augmentation_robust_score(*gains, weight) for gains in zip(ior, plain, strict=True))
    return values


def score_lines(found: Sequence[Scored], rows: Sequence[Row]) -> list[str]:
    """Return a table of scores with the facts needed to read it.

    Args:
        found: the scores, one at least.
        rows: all rows of the evaluation.
    """
    names = list(found[0].values)
    cells = [[one.network, one.label_kind, *(_text(one.values[name]) for name in names)] for one in found]
    trained = any(row.trained_on.name == ALL_REAL for row in rows)
    without = found[0].values["ARS"] is None
    worse = any(Spread.of(one.values["HLR"] or (0.0,)).mean < 0 for one in found)
    return [
        "",
        *table([["network", "labels", *names], *cells]),
        "scores of DD-Ranking: its formulas on shares, not on percent as in its code, with the recipe's learning rate",
        f"HLR: against {'networks trained on' if trained else 'full_accuracy, given for'} all real images; lower is "
        "better. LRS, ARS: 0.269 is neither gain nor loss",
        *(["ARS: not defined, the recipe has no augmentation to leave out"] if without else []),
        *([f"warning: {UNDERTRAINED}"] if worse else []),
    ]


def _text(values: Sequence[float] | None) -> str:
    if values is None:
        return "-"
    mean, std = Spread.of(values)
    return f"{mean:.3f}" if std is None else f"{mean:.3f} ± {std:.3f}"
