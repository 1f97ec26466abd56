"""Names and shapes of the feature maps that a loss compares in pairs."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_condkd.distillation.inputs import LossSpec

MapShape = tuple[int, int, int]


def paired_names(
    teacher_maps: Sequence[str], student_maps: Sequence[str] | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of the teacher's and of the student's modules.

    Args:
        teacher_maps: names of the teacher's modules.
        student_maps: names of the student's modules in the same order; ``None`` for the same names.

    Raises:
        ValueError: if no module is named, or their numbers differ.

    Example:
        >>> paired_names(["layer1", "layer2"], None)
        (('layer1', 'layer2'), ('layer1', 'layer2'))
    """
    student_maps = teacher_maps if student_maps is None else student_maps
    for argument, names in (("teacher_maps", teacher_maps), ("student_maps", student_maps)):
        if isinstance(names, str):
            raise ValueError(f"{argument}: expected a list of names of modules, got the string {names!r}: use [...]")
    if not teacher_maps or len(teacher_maps) != len(student_maps):
        raise ValueError(
            f"expected as many student_maps as teacher_maps, one at least, got {list(student_maps)} and "
            f"{list(teacher_maps)}: name the modules in pairs"
        )
    return tuple(teacher_maps), tuple(student_maps)


def map_shapes(loss: str, spec: LossSpec) -> list[tuple[MapShape, MapShape]]:
    """Return the shapes of the student's and of the teacher's map of each pair, as ``(C, H, W)``.

    Args:
        loss: name of the loss in the message.
        spec: shapes of the task.

    Raises:
        ValueError: if a named module returns something other than a map.
    """
    for who, shapes in (("student", spec.student.maps), ("teacher", spec.teacher.maps)):
        for index, shape in enumerate(shapes):
            if len(shape) != 3:
                raise ValueError(
                    f"{loss}: expected modules whose outputs are maps (N, C, H, W), {who}_maps[{index}] returns "
                    f"(N, {', '.join(map(str, shape))}): name a convolution or a stage"
                )
    pairs = zip(spec.student.maps, spec.teacher.maps, strict=True)
    return [((s[0], s[1], s[2]), (t[0], t[1], t[2])) for s, t in pairs]


def check_same_resolution(loss: str, spec: LossSpec) -> None:
    """Check that the maps of teacher and student are ``(N, C, H, W)`` with the same height and width in pairs.

    Args:
        loss: name of the loss in the message.
        spec: shapes of the task.

    Raises:
        ValueError: if a pair differs.
    """
    for index, (student, teacher) in enumerate(map_shapes(loss, spec)):
        if student[1:] != teacher[1:]:
            raise ValueError(
                f"{loss}: expected maps of one height and width in pairs, got {student} of the student and {teacher} "
                f"of the teacher (channels, height, width) in pair {index}: name modules of the same resolution"
            )
