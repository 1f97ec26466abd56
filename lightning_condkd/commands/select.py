"""The command ``select``: choice of real images as a set in the format of a condensed one."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from lightning_condkd.condensation.selection import SelectionMethod
from lightning_condkd.data.condensed import CondensedSet
from lightning_condkd.data.image_datamodules import ImageDataModule
from lightning_condkd.data.image_source import ImageSource
from lightning_condkd.formats.contents import CondensedInfo
from lightning_condkd.models import Observer
from lightning_condkd.models.checks import check_classifier
from lightning_condkd.pixels import to_bytes, to_pixels
from lightning_condkd.progress import each
from lightning_condkd.randomness import seeded_generator
from lightning_condkd.training.batches import check_class_sizes
from lightning_condkd.training.teacher_accuracy import teacher_accuracy
from lightning_condkd.writing import Target, check_target


def select(
    output: str | Path,
    *,
    data: ImageDataModule,
    method: SelectionMethod,
    ipc: int,
    teacher: Observer | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> str:
    """Choose real training images of each class, write them as a condensed set and return a report.

    The file contains REAL images: treat it like the training data. A condensed set of the same size should be compared
    with it. Pixels are written as uint8, which is exact for whole images; those of crops are rounded.

    Args:
        output: target, ending in ``.safetensors``.
        data: the datamodule of the training images; classes may be uneven.
        method: the selection method.
        ipc: images per class.
        teacher: the trained network whose features or scores most methods use; it is set to eval. Its top-1 accuracy on
            the set is reported.
        seed: seed of all draws; each class has its own stream.
        device: device of the teacher.

    Raises:
        OSError: if the output cannot be written.
        ValueError: if the ending is another one, a class has too few images, or the teacher is missing or does not fit.
    """
    _check_arguments(Path(output), ipc)
    method.check_teacher(teacher)
    source = data.train_source
    check_class_sizes(source, method.needed(ipc), cure=f"lower ipc={ipc}")
    if teacher is not None:
        check_classifier("teacher", teacher.to(device).eval(), source.image_shape, source.num_classes)
    labels = torch.arange(source.num_classes).repeat_interleave(ipc)
    info = _info(source, data, method, ipc, teacher, seed)
    condensed = CondensedSet(_choose(source, method, ipc, teacher, seed), labels, info=info)
    report = _report(condensed, output, teacher)
    condensed.save(output)
    return report


def _choose(source: ImageSource, method: SelectionMethod, ipc: int, teacher: Observer | None, seed: int) -> Tensor:
    chosen = []
    classes = each(source.class_rows, f"selecting images by {method.name}", source.num_classes, "classes")
    for label, rows in enumerate(classes):
        generator = seeded_generator(seed, "selection", label)
        picked = method.select(to_pixels(source.images[rows]), label, ipc, teacher=teacher, generator=generator)
        chosen.append(to_bytes(picked))
    return torch.cat(chosen)


def _info(
    source: ImageSource, data: ImageDataModule, method: SelectionMethod, ipc: int, teacher: Observer | None, seed: int
) -> CondensedInfo:
    provenance = {"REAL IMAGES": f"yes, training images of {type(data).__name__} or parts of them"}
    if teacher is not None and method.needs_teacher:
        provenance["teacher"] = f"{type(teacher.network).__name__}, SHA-256 {teacher.fingerprint()}"
    names, settings = source.class_names, {"ipc": ipc, **method.settings()}
    return CondensedInfo(
        len(names), names, method=f"selection: {method.name}", settings=settings, seed=seed, provenance=provenance
    )


def _report(condensed: CondensedSet, output: str | Path, teacher: Observer | None) -> str:
    lines = [condensed.describe()]
    if teacher is not None:
        lines.append(f"teacher top-1 on these images: {100 * teacher_accuracy(condensed, teacher):.1f} %")
    lines.append(f"written to {output}")
    lines.append("warning: the file holds REAL images; treat it like the training data")
    return "\n".join(lines)


def _check_arguments(output: Path, ipc: int) -> None:
    if output.suffix != ".safetensors":
        raise ValueError(f"output: expected a path that ends in .safetensors, got {str(output)!r}: change the ending")
    check_target(Target(output))
    if ipc < 1:
        raise ValueError(f"ipc: expected a positive number of images per class, got {ipc}")
