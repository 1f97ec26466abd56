"""The command ``convert``: conversion of condensed sets between formats, with a report."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Unpack, get_args

from lightning_condkd.assets import resolve_asset
from lightning_condkd.data.condensed import CondensedSet
from lightning_condkd.formats.dc import check_dc_name, export_dc
from lightning_condkd.formats.dd_ranking import export_dd_ranking
from lightning_condkd.formats.image_folder import export_png
from lightning_condkd.formats.mtt import export_mtt
from lightning_condkd.formats.options import ImportOptions, given_options
from lightning_condkd.formats.parquet import check_parquet_name, export_parquet
from lightning_condkd.formats.read import in_pixels
from lightning_condkd.models.observer import Observer
from lightning_condkd.pixels import DOUBTFUL, pixel_fault
from lightning_condkd.training.teacher_accuracy import near_chance, teacher_accuracy
from lightning_condkd.writing import Target, check_target, refuse_filled

Format = Literal["dc", "dd_ranking", "mtt", "parquet", "png"]
NORMALIZED = ("dc", "dd_ranking", "mtt")
FOLDERS = ("dd_ranking", "mtt", "png")


def convert(
    source: str | Path,
    output: str | Path,
    *,
    format: Format | None = None,
    teacher: Observer | None = None,
    **options: Unpack[ImportOptions],
) -> str:
    """Write a condensed set in the native format or one that public code reads, and return a report on it.

    A dataset, or a mean and std, describe the normalisation of the files: it is undone on import and applied on export.
    Folders of images and native sets are in pixels, so for these sources it only matters for the export.

    Args:
        source: a public file, the images file of a pair, a folder of images, of parquet files or of DD-Ranking, or a
            native set.
        output: target; a file ending in ``.safetensors`` becomes a native set.
        format: format of any other output: ``dc`` (a dict, into a ``.pt`` file), ``mtt`` (a pair of files, into a
            folder), ``dd_ranking`` (its files, into a folder, sorted by class), ``parquet`` (a ``.parquet`` file that
            the library datasets reads) or ``png`` (a folder of images).
        teacher: its top-1 accuracy on the set is reported, with a warning if that is close to chance.
        **options: facts that the source does not contain.

    Raises:
        OSError: if the output cannot be written.
        ValueError: if the source is not understood, or format and output do not fit each other.
    """
    path, output, given = resolve_asset(source), Path(output), given_options(options)
    _check_target(output, format)
    export_only = {"mean", "std"} if in_pixels(path) and format in NORMALIZED else set()
    condensed = CondensedSet.load(path, **{name: value for name, value in given.items() if name not in export_only})
    constants = {name: value for name, value in given.items() if name in ("dataset", "mean", "std")}
    accuracy = None if teacher is None else teacher_accuracy(condensed, teacher)
    lines = [condensed.describe(), *_warnings(condensed), _write(condensed, output, format, constants)]
    if accuracy is not None:
        lines.append(_accuracy_line(accuracy, condensed))
    return "\n".join(lines)


def _check_target(output: Path, format: Format | None) -> None:
    ours = output.suffix == ".safetensors"
    if ours and format is not None:
        raise ValueError(f"{output.name} would be a native set, not an export: leave out format, or the ending")
    if not ours and format is None:
        raise ValueError(
            f"{output} is no .safetensors file: use this ending for a native set, or choose the format of an export "
            f"(--format): {', '.join(get_args(Format))}"
        )
    if format == "dc":
        check_dc_name(output)
    if format == "parquet":
        check_parquet_name(output)
    if folder := format in FOLDERS:
        refuse_filled(output)
    check_target(Target(output, folder=folder))


def _write(condensed: CondensedSet, output: Path, format: Format | None, constants: dict[str, Any]) -> str:
    dropped = " Soft labels are left out: the format holds classes." if condensed.soft_labels is not None else ""
    if format == "png":
        share = export_png(condensed, output)
        return f"written to {output} as a folder of PNG images, {100 * share:.2f} % of the values clipped.{dropped}"
    if format == "dc":
        export_dc(condensed, output, **constants)
        return f"written to {output} as a dict of the DC family.{dropped}"
    if format == "mtt":
        lost = export_mtt(condensed, output, **constants)
        return f"written to {output} as a pair of the MTT family.{_lost_classes(lost, len(condensed))}"
    if format == "dd_ranking":
        export_dd_ranking(condensed, output, **constants)
        return f"written to {output} as a folder of DD-Ranking, sorted by class."
    if format == "parquet":
        share = export_parquet(condensed, output)
        return f"written to {output} for the library datasets, {100 * share:.2f} % of the values clipped."
    condensed.save(output)
    return f"written to {output}"


def _lost_classes(lost: int, count: int) -> str:
    if not lost:
        return ""
    return (
        f"\nwarning: the classes of {lost} of {count} images are not the most likely ones of their soft labels, and "
        "the format stores only soft labels: on import such an image gets another class"
    )


def _warnings(condensed: CondensedSet) -> list[str]:
    fault = pixel_fault(condensed.images, DOUBTFUL)
    doubts = [f"warning: its images {fault} (an import undoes dataset, or mean and std)"] if fault else []
    if condensed.info.method != "MTT family" or "train_lr" in condensed.info.settings:
        return doubts
    return [
        *doubts,
        "warning: the files do not contain the learned step size, and results are far lower with another. Take it from "
        "the source's log: pass train_lr (--train_lr)",
    ]


def _accuracy_line(accuracy: float, condensed: CondensedSet) -> str:
    chance = 1 / condensed.num_classes
    text = f"teacher top-1: {100 * accuracy:.1f} % ({round(accuracy * len(condensed))} of {len(condensed)})"
    if not near_chance(accuracy, condensed.num_classes):
        return text
    return (
        f"{text}\nwarning: this is close to chance ({100 * chance:.1f} %). Wrong normalisation (dataset, mean, std), "
        "whitened images, another order of the classes, or the teacher of another dataset"
    )
