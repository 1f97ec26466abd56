"""The command ``draw``: pictures of finished runs from their folders."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from lightning_condkd.commands._finished_run import FinishedRun, run_names
from lightning_condkd.commands._run_pictures import CONDENSED, Picture, curves, feature_maps, image_rows, seconds
from lightning_condkd.figures import check_matplotlib, png
from lightning_condkd.models import Observer
from lightning_condkd.writing import Target, check_target, write_atomic


def draw(
    runs: list[str],
    *,
    output: str | None = None,
    names: list[str] | None = None,
    teacher: Observer | None = None,
    max_images: int = 500,
    max_classes: int = 10,
    columns: int = 10,
    seed: int = 0,
) -> str:
    """Draw pictures of finished runs: curves, images, a t-SNE of the teacher's features, and the time of each phase.

    The files are ``curves.png``, ``images.png``, ``features.png`` and ``seconds.png``. Of one run, ``images.png`` has
    a row of condensed and of synthetic images for each class; of several, a row for each run. ``features.png`` has a
    panel for each run, all in the plane of one t-SNE. Teacher, condensed set and held-out images are built from the
    run's ``config.yaml``, as ``fit --config`` would: draw only runs whose configuration you trust. What a run lacks is
    left out and said.

    Args:
        runs: folders of the runs, one or more divided by spaces, such as lightning_logs/version_0.
        output: folder for the pictures; by default ``pictures`` in the folder of the run, if it is one.
        names: names of the runs in the pictures; by default the parts of their paths in which they differ.
        teacher: the network whose features are drawn; by default that of the runs.
        max_images: largest number of images of each source in the t-SNE, evenly spaced in their order (our default).
        max_classes: classes to show, from class 0 on (our default).
        columns: largest number of images in a row (our default).
        seed: seed of the t-SNE.

    Returns:
        A line for each picture, and for each that could not be drawn.

    Raises:
        FileNotFoundError: if a folder is not that of a run.
        ModuleNotFoundError: if matplotlib is not installed.
        OSError: if the pictures cannot be written.
        ValueError: if there is no run, an argument does not fit, or nothing could be drawn.
    """
    check_matplotlib("draw")
    for name, count in {"max_images": max_images, "max_classes": max_classes, "columns": columns}.items():
        if count < 1:
            raise ValueError(f"{name}: expected a positive number, got {count}")
    found, folder = _runs(runs, names), _folder(runs, output)
    check_target(Target(folder, folder=True))
    pictures = {
        "curves.png": partial(curves, found),
        "images.png": partial(image_rows, found, max_classes, columns),
        "features.png": partial(feature_maps, found, teacher, max_images, max_classes, seed),
        "seconds.png": partial(seconds, found),
    }
    lines = [line for name, picture in pictures.items() for line in _drawn(folder / name, picture)]
    if not any(line.startswith("written") for line in lines):
        raise ValueError(f"nothing could be drawn: {'; '.join(lines)}")
    return "\n".join(lines)


def _runs(runs: Sequence[str], names: Sequence[str] | None) -> list[FinishedRun]:
    if not runs:
        raise ValueError("runs: expected the folder of a run at least, got none")
    chosen = run_names([Path(run) for run in runs]) if names is None else names
    if CONDENSED in chosen:
        raise ValueError(f"names: {CONDENSED!r} is the row of the condensed images, so no run can have it: give others")
    if len(chosen) != len(runs) or len(set(chosen)) < len(chosen):
        raise ValueError(f"names: expected {len(runs)} different names, one for each run, got {', '.join(chosen)}")
    return [FinishedRun(Path(run), name) for run, name in zip(runs, chosen, strict=True)]


def _folder(runs: Sequence[str], output: str | None) -> Path:
    if output is None and len(runs) > 1:
        raise ValueError(f"output: expected a folder for the pictures of {len(runs)} runs: give --output FOLDER")
    return Path(runs[0]) / "pictures" if output is None else Path(output)


def _drawn(path: Path, picture: Callable[[], Picture]) -> Iterator[str]:
    """Write a picture and yield what is said about it."""
    try:
        pixels, remarks = picture()
    except (ValueError, OSError) as error:
        yield f"not drawn: {path.name}: {error}"
        return
    write_atomic(path, png(pixels, palette=path.stem != "images"))
    yield f"written to {path}"
    yield from (f"left out of {path.name}: {remark}" for remark in remarks)
