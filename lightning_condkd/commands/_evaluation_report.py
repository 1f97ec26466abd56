"""Table and records of the command ``evaluate``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from lightning_condkd.assets import resolve_asset
from lightning_condkd.data.condensed import CondensedSet
from lightning_condkd.evaluation.batches import Labels, TeacherLabels
from lightning_condkd.evaluation.recipe import Recipe
from lightning_condkd.evaluation.result import Evaluation, Spread
from lightning_condkd.hashing import file_hash
from lightning_condkd.models.fresh_networks import FreshNetworks

RANDOM_REAL = "random real"
ALL_REAL = "all real"


class TrainingSet(NamedTuple):
    """Images that networks are trained on.

    Args:
        name: source of the images, such as ``DM``.
        label_kind: ``hard``, ``soft`` or ``teacher``.
        images: ``(N, C, H, W)``, uint8 or pixels in the units of [0, 1].
        labels: classes ``(N,)`` int64, probabilities ``(N, K)``, or a teacher that predicts every view.
    """

    name: str
    label_kind: str
    images: Tensor
    labels: Labels


class Row(NamedTuple):
    """Networks of one architecture, trained on one set.

    Args:
        network: name of the architecture.
        trained_on: the set.
        result: their accuracies.
        plain: whether the recipe's augmentation was left out.
    """

    network: str
    trained_on: TrainingSet
    result: Evaluation
    plain: bool = False

    def record(self) -> dict[str, Any]:
        """Return the row's record in a result file, JSON values only."""
        trained_on = {"set": self.trained_on.name, "labels": self.trained_on.label_kind}
        facts = {"network": self.network, **trained_on, "images": len(self.trained_on.images)}
        return {**facts, "augmentation_left_out": self.plain, **self.result.record()}


def report(rows: Sequence[Row], recipe: Recipe, learned: float | None, remarks: Sequence[str] = ()) -> str:
    """Return a table of rows with the facts needed to read it.

    Args:
        rows: the results, one row at least.
        recipe: training recipe of all networks.
        learned: the step size learned with the set; ``None`` if there is none.
        remarks: further remarks, one line each.
    """
    has_real = any(row.trained_on.name == RANDOM_REAL for row in rows)
    control = "one choice, the same for all networks" if has_real else "no row, the data has no training images"
    return "\n".join([*_table(rows), *_notes(recipe, learned, rows), f"{RANDOM_REAL}: {control}", *remarks])


def _table(rows: Sequence[Row]) -> list[str]:
    best = any(row.result.best for row in rows)
    head = ["network", "trained on", "labels", "images", "last, %", *(["best, %"] if best else []), "ECE, %"]
    return table([head, *(_cells(row) for row in rows)])


def table(cells: Sequence[Sequence[str]]) -> list[str]:
    """Return lines whose columns are aligned.

    Args:
        cells: the lines, of the same number of cells each.

    Example:
        >>> table([["a", "bc"], ["def", "g"]])
        ['a    bc', 'def  g']
    """
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]


def _cells(row: Row) -> list[str]:
    result, trained_on = row.result, row.trained_on
    figures = [result.last, *([result.best] if result.best else []), result.calibration_errors]
    name = f"{trained_on.name}, no augmentation" if row.plain else trained_on.name
    what = [row.network, name, trained_on.label_kind, str(len(trained_on.images))]
    return [*what, *(_percent(values) for values in figures)]


def _percent(values: Sequence[float]) -> str:
    mean, std = Spread.of(values)
    return f"{100 * mean:.1f}" if std is None else f"{100 * mean:.1f} ± {100 * std:.1f}"


def _notes(recipe: Recipe, learned: float | None, rows: Sequence[Row]) -> list[str]:
    first = rows[0].result
    rate = f"{recipe.full_rate:g}{', learned with the set and used for all rows' if learned else ''}"
    return [
        f"{len(first.last)} networks a row, mean ± sample standard deviation; ECE is that of the last weights",
        f"recipe: {recipe.epochs} epochs of {recipe.optimizer}, learning rate {rate}, {_schedule(recipe)}, "
        f"batches of {recipe.batch_size}, augment {recipe.augment}{_extras(recipe)}",
        "best: chosen on the test images" if first.best else "best: not known, set test_every to test before the end",
    ]


def _schedule(recipe: Recipe) -> str:
    if recipe.cosine_stretch is None and recipe.drop_epoch >= recipe.epochs:
        return "the same in all"
    if recipe.cosine_stretch is None:
        return f"a tenth of it after {recipe.drop_epoch} epochs"
    return f"by a cosine to {recipe.rate(recipe.epochs):.2g} at the end"


def _extras(recipe: Recipe) -> str:
    return "".join(f", {name}" for name in ("mirrored", "cutmix") if getattr(recipe, name))


def network_facts(networks: Mapping[str, FreshNetworks]) -> dict[str, Any]:
    """Return the record of the architectures in a result file, JSON values only.

    Args:
        networks: architectures by name.
    """
    return {name: {**made.settings(), "parameters": made.num_parameters} for name, made in networks.items()}


def set_facts(path: str, condensed: CondensedSet) -> dict[str, Any]:
    """Return the record of the set in a result file, JSON values only.

    Args:
        path: path of its file.
        condensed: the set.
    """
    info, place = condensed.info, resolve_asset(path)
    digest = file_hash(place) if place.is_file() else None
    return {"file": place.name, "sha256": digest, "method": info.method, "settings": info.settings}


def teacher_facts(asked: TeacherLabels | None) -> dict[str, Any] | None:
    """Return the record of the teacher in a result file, JSON values only.

    Args:
        asked: the teacher that predicted labels, if any.
    """
    if asked is None:
        return None
    name, fingerprint = type(asked.teacher.network).__name__, asked.teacher.fingerprint()
    return {"network": name, "fingerprint": fingerprint, "temperature": asked.temperature}
