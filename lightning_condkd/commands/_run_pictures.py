"""Pictures of one or several finished runs; a run that lacks something is left out with a remark."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from lightning_condkd.commands._finished_run import FinishedRun
from lightning_condkd.figures import (
    Curve,
    LabeledImages,
    LabeledPoints,
    bar_figure,
    curve_figure,
    feature_figure,
    feature_points,
    figure_pixels,
    rows_by_class,
    rows_by_source,
    shown_names,
)
from lightning_condkd.figures.feature_map import Source
from lightning_condkd.messages import listed
from lightning_condkd.models import Observer
from lightning_condkd.models.checks import check_classifier

MOST_PANELS = 12
CONDENSED = "condensed"
TEACHER = "teacher_accuracy"
LEVELS = {
    TEACHER: "teacher",
    "condensed_only_accuracy": "condensed only",
    "condensed_only_mixed_accuracy": "condensed only, mixed views",
}
Part = TypeVar("Part")
Images = dict[Source, LabeledImages]


class Picture(NamedTuple):
    """A picture, and what is missing in it.

    Args:
        pixels: ``(3, H, W)``, pixels in [0, 1].
        remarks: a line for each part that was left out.
    """

    pixels: Tensor
    remarks: list[str]


def curves(runs: Sequence[FinishedRun]) -> Picture:
    """Return the metrics of runs over their rounds, a panel for each metric, the accuracies first.

    Args:
        runs: the runs.

    Raises:
        ValueError: if no run has a row of metrics.
    """
    found = {run.name: run.curves for run in runs if run.curves}
    if not found:
        raise ValueError("no run has a metrics.csv with a row for each round or epoch")
    names = sorted({name for metrics in found.values() for name in metrics}, key=_order)
    panels = {name: {run: metrics[name] for run, metrics in found.items() if name in metrics} for name in names}
    varied = {
        name: of
        for name, of in panels.items()
        if TEACHER not in name and (_order(name)[0] == 0 or _varies(of.values()))
    }
    kept = dict(list((varied or panels).items())[:MOST_PANELS])
    levels = {name: _levels(runs) for name in list(kept)[:1] if "accuracy" in name}
    figure = curve_figure(kept, list(found), levels, " or ".join(sorted({run.unit for run in runs}, reverse=True)))
    remarks = [f"{run.name}: no metrics.csv with a row for each round" for run in runs if run.name not in found]
    dropped = list(varied)[MOST_PANELS:]
    return Picture(figure_pixels(figure), remarks + ([f"the metrics {listed(dropped, 20)}"] if dropped else []))


def _order(name: str) -> tuple[int, str]:
    """Return the place of a metric: those of validation first, those of the bank last."""
    places = {"val": 0, "condensed": 0, "bank": 2}
    return places.get(name.split("/")[0], 1), name


def _varies(curves: Iterable[Curve]) -> bool:
    given = list(curves)
    return len({value for curve in given for value in curve.values}) > 1 or max(len(c.values) for c in given) == 1


def _levels(runs: Sequence[FinishedRun]) -> dict[str, float]:
    """Return accuracies that are no curves, of the first run that has each."""
    known = {name: [run.summary[name] for run in runs if name in run.summary] for name in LEVELS}
    return {LEVELS[name]: values[0] for name, values in known.items() if values}


def image_rows(runs: Sequence[FinishedRun], max_classes: int, columns: int) -> Picture:
    """Return condensed and synthetic images, the latest of each class.

    Args:
        runs: the runs; for one there are two rows for each class, for several a row for each run.
        max_classes: classes to show.
        columns: images in a row.

    Raises:
        ValueError: if no run has stored synthetic images.
    """
    made, remarks = _each(runs, lambda run: (run.synthetic, run.condensed))
    first, condensed = next(iter(made.values()))
    names = shown_names(condensed.num_classes, condensed.info.class_names)[:max_classes]
    base = {CONDENSED: LabeledImages(condensed.images, condensed.labels)}
    if len(runs) == 1:
        return Picture(rows_by_class({**base, "synthetic": first}, names, columns), remarks)
    alike = {name: images for name, (images, _) in made.items() if images.images.shape[1:] == first.images.shape[1:]}
    remarks += [f"{name}: its images have another size" for name in made if name not in alike]
    others = [name for name, (_, one) in made.items() if not torch.equal(one.images, condensed.images)]
    remarks += [f"{name}: its condensed images, which are others than those of {next(iter(made))}" for name in others]
    per_class = max(1, columns // len(names))
    return Picture(rows_by_source({**base, **alike}, len(names), per_class), remarks)


def feature_maps(
    runs: Sequence[FinishedRun], teacher: Observer | None, max_images: int, max_classes: int, seed: int
) -> Picture:
    """Return a t-SNE of the teacher's features, one for all runs, with a panel for each.

    Args:
        runs: the runs.
        teacher: the network; ``None`` for that of the runs.
        max_images: largest number of images of each source.
        max_classes: classes to show.
        seed: seed of the t-SNE.

    Raises:
        ValueError: if no run has images and a teacher, or their teachers are different networks.
    """
    observers, remarks = _each(runs, lambda run: _teacher(run, teacher))
    if len({observer.fingerprint() for observer in observers.values()}) > 1:
        raise ValueError(
            "the runs have different teachers, so no common features: draw them one by one, or give teacher"
        )
    groups, more = _each([run for run in runs if run.name in observers], _given_images)
    synthetic, lacking = _some([run for run in runs if run.name in groups], lambda run: run.synthetic)
    for name, images in synthetic.items():
        groups[name]["synthetic"] = images
    places = _distinct(groups)
    points = feature_points(
        next(iter(observers.values())),
        {place: groups[place[0]][place[1]] for place in dict.fromkeys(places.values())},
        max_images=max_images,
        max_classes=max_classes,
        seed=seed,
    )
    panels: dict[str, dict[Source, LabeledPoints]] = {name: {} for name in groups}
    for (name, source), place in places.items():
        if place in points:
            panels[name][source] = points[place]
    condensed = next(run for run in runs if run.name in groups).condensed
    names = shown_names(condensed.num_classes, condensed.info.class_names)[:max_classes]
    return Picture(figure_pixels(feature_figure(panels, names)), [*remarks, *more, *lacking])


def _teacher(run: FinishedRun, given: Observer | None) -> Observer:
    """Return the given network, checked, or that of the run."""
    if given is None:
        return run.teacher
    check_classifier("teacher", given.freeze(), run.condensed.image_shape, run.condensed.num_classes, embedding=True)
    return given


def _given_images(run: FinishedRun) -> Images:
    """Return the condensed images of a run, and the real ones if they are in memory."""
    real = run.real
    found: Images = {"condensed": LabeledImages(run.condensed.images, run.condensed.labels)}
    return found if real is None else {**found, "real": real}


def _distinct(groups: Mapping[str, Images]) -> dict[tuple[str, Source], tuple[str, Source]]:
    """Return for the images of each run and source the first ones that are equal to them."""
    first: dict[tuple[str, Source], LabeledImages] = {}
    places = {}
    for name, sources in groups.items():
        for source, images in sources.items():
            equal = next((key for key, one in first.items() if key[1] == source and _equal(one, images)), None)
            first.setdefault(equal or (name, source), images)
            places[name, source] = equal or (name, source)
    return places


def _equal(one: LabeledImages, other: LabeledImages) -> bool:
    return torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels)


def seconds(runs: Sequence[FinishedRun]) -> Picture:
    """Return the seconds of each phase of runs as bars.

    Args:
        runs: the runs.

    Raises:
        ValueError: if no run has a summary with seconds.
    """
    known = {run.name: dict(run.summary.get("seconds", {})) for run in runs}
    bars = {name: _phases(of) for name, of in known.items() if of.get("total")}
    if not bars:
        raise ValueError("no run has a summary.json with its seconds: did they end?")
    remarks = [f"{name}: no summary.json with its seconds" for name in known if name not in bars]
    return Picture(figure_pixels(bar_figure(bars, "time by phase", "seconds")), remarks)


def _phases(seconds: Mapping[str, float]) -> dict[str, float]:
    parts = {name: value for name, value in seconds.items() if name != "total"}
    return parts or {"total": seconds["total"]}


def _some(runs: Sequence[FinishedRun], part: Callable[[FinishedRun], Part]) -> tuple[dict[str, Part], list[str]]:
    """Return a part of each run that has it, and why the others have not."""
    found, remarks = {}, []
    for run in runs:
        try:
            found[run.name] = part(run)
        except (ValueError, OSError) as error:
            remarks.append(f"{run.name}: {error}")
    return found, remarks


def _each(runs: Sequence[FinishedRun], part: Callable[[FinishedRun], Part]) -> tuple[dict[str, Part], list[str]]:
    """Return the same as :func:`_some`.

    Raises:
        ValueError: if no run has it.
    """
    found, remarks = _some(runs, part)
    if not found:
        raise ValueError("; ".join(remarks))
    return found, remarks
