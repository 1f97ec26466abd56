"""Names of the modules of teacher and student that a loss compares: given, or the stages of both networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from lightning_condkd.distillation.parts.map_pairs import paired_names
from lightning_condkd.models import Observer
from lightning_condkd.models.stages import stage_names


class ComparedMaps:
    """The part of a loss that knows which modules of the two networks are compared.

    Attributes:
        teacher_maps: names of the teacher's modules whose outputs its record must carry.
        student_maps: names of the student's modules, likewise.
    """

    compared_stages: ClassVar[slice] = slice(None)
    """Which stages are compared if no maps are named: all by default; the last where there are fewer."""
    teacher_maps: Sequence[str] = ()
    student_maps: Sequence[str] = ()
    _takes_stages: bool = False

    def name_maps(self, teacher_maps: Sequence[str] | None, student_maps: Sequence[str] | None) -> None:
        """Set the names of the modules that are compared in pairs; a constructor calls it.

        Args:
            teacher_maps: names of the teacher's modules; ``None`` for its stages, see
                :func:`~lightning_condkd.models.stages.stage_names`.
            student_maps: names of the student's modules; ``None`` for the same names, or for its own stages if the
                teacher's are not named.

        Raises:
            ValueError: if there is none, or their numbers differ.
        """
        if teacher_maps is not None:
            self.teacher_maps, self.student_maps = paired_names(teacher_maps, student_maps)
        elif student_maps is not None:
            raise ValueError(f"teacher_maps: name the modules whose maps {list(student_maps)} are compared with")
        else:
            self._takes_stages = True

    def name_map(self, teacher_map: str | None, student_map: str | None) -> None:
        """Set the names of one module of each network, see :meth:`name_maps`.

        Args:
            teacher_map: name of the teacher's module; ``None`` for the one that :meth:`choose_stages` takes.
            student_map: name of the student's module; ``None`` for the same name, or the one taken from its stages.
        """
        self.name_maps(*(None if name is None else [name] for name in (teacher_map, student_map)))

    def choose_stages(self, stages: Sequence[str]) -> Sequence[str]:
        """Return those of a network's stages that are compared if no maps are named, see :attr:`compared_stages`.

        Args:
            stages: names of the stages, the first first.
        """
        return stages[self.compared_stages] or stages[-1:]

    def resolve_maps(self, teacher: Observer, student: Observer) -> None:
        """Set the names of maps that are not given to the stages of two networks; :meth:`build` calls it.

        Args:
            teacher: the teacher.
            student: the student.

        Raises:
            ValueError: if the networks differ in the number of stages, or have none.
        """
        if not self.lacks_maps():
            return
        stages = stage_names(teacher.network), stage_names(student.network)
        chosen = [tuple(self.choose_stages(names)) if names else () for names in stages]
        if not chosen[0] or len(chosen[0]) != len(chosen[1]):
            raise ValueError(
                f"{type(self).__name__}: the stages of teacher and student do not pair: "
                f"{', '.join(stages[0]) or 'none'} and {', '.join(stages[1]) or 'none'}; name modules of both in pairs"
            )
        self.teacher_maps, self.student_maps = chosen

    def lacks_maps(self) -> bool:
        """Return whether the names of maps are still to be taken from the stages of two networks."""
        return self._takes_stages and not self.teacher_maps
