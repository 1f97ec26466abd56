"""The importers, with their contents made into a condensed set, as ``CondensedSet.load`` does."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec

from lightning_condkd import formats
from lightning_condkd.data import CondensedSet

P = ParamSpec("P")


def _checked(importer: Callable[P, formats.Contents]) -> Callable[P, CondensedSet]:
    def load(*args: P.args, **kwargs: P.kwargs) -> CondensedSet:
        return CondensedSet(*importer(*args, **kwargs))

    return load


import_condensed = _checked(formats.import_condensed)
import_dc = _checked(formats.import_dc)
import_folder = _checked(formats.import_folder)
import_idc = _checked(formats.import_idc)
import_mtt = _checked(formats.import_mtt)
