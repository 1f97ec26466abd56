"""Every inversion method there is, made small by the names of its arguments."""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from lightning_condkd import inversion
from lightning_condkd.alignment import FeatureAlignment, ProjectionDiscriminator
from lightning_condkd.inversion import (
    CondensedMeanVectors,
    FileVectors,
    GeneratorSettings,
    Inversion,
    LiveInversion,
    Memory,
    NoInversion,
    OrthogonalVectors,
)
from lightning_condkd.inversion.cmi import Contrastive
from lightning_condkd.modules import CondKD
from lightning_condkd.randomness import seeded_generator
from lightning_condkd.rounds import Cadence
from lightning_condkd.steps import give_class_rows
from tests.helpers import diffusion, toy

CADENCE = Cadence(synthesis_steps=3, distill_steps=3, repeats=2, warmup_rounds=1)
SEVERAL = Cadence(synthesis_steps=2, distill_steps=2, repeats=2, warmup_rounds=1, batches=2, warmup_batches=3)
ROUNDS = 3


def _sizes() -> dict[str, Any]:
    return {
        "cadence": CADENCE,
        "batch_size": 12,
        "generator": GeneratorSettings(width=2, latent_size=toy.LATENT),
        "reset_round": 1,
        "selection": "last",
        "augment": toy.CROP,
        "contrastive": Contrastive(ring_size=20, ring_draws=8, head_size=4),
        "memory": Memory(share=1 / 3, batch_size=6, width=2),
        "images": torch.rand(40, *toy.SHAPE, generator=seeded_generator(0, "real images")),
    }


def methods() -> dict[str, type[Inversion]]:
    """The public methods that synthesise; a new one is found by being exported."""
    public = {name: getattr(inversion, name) for name in inversion.__all__}
    classes = {n: c for n, c in public.items() if inspect.isclass(c) and issubclass(c, Inversion)}
    return {name: c for name, c in classes.items() if c not in (Inversion, LiveInversion, NoInversion)}


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory()


def vector_file() -> Path:
    """A file of class vectors, the same in every process."""
    path = Path(_folder().name) / "vectors.safetensors"
    if not path.exists():
        vectors = torch.randn(toy.CLASSES, 5, generator=seeded_generator(0, "class vectors"))
        save_file({"class_vectors": vectors}, path)
    return path


VARIANTS: dict[str, tuple[str, Callable[[], dict[str, Any]]]] = {
    "NAYER, condensed means": ("NAYER", lambda: {"class_vectors": CondensedMeanVectors()}),
    "NAYER, one-hot": ("NAYER", lambda: {"class_vectors": OrthogonalVectors()}),
    "NAYER, random": ("NAYER", lambda: {"class_vectors": OrthogonalVectors(size=4)}),
    "NAYER, file": ("NAYER", lambda: {"class_vectors": FileVectors(vector_file())}),
    "NAYER, several batches": ("NAYER", lambda: {"cadence": SEVERAL, "lifetime": 2}),
}


def cases() -> list[str]:
    """The methods, and settings of them that need other code."""
    return [*methods(), *VARIANTS]


def make(name: str, **arguments: Any) -> Inversion:
    """A method of small sizes, its weights and rates at their defaults."""
    if name in VARIANTS:
        name, changes = VARIANTS[name]
        arguments = {**changes(), **arguments}
    method = methods()[name]
    known = inspect.signature(method).parameters
    sizes = _sizes() | ({"pipeline": diffusion.class_pipeline()} if "pipeline" in known else {})
    return method(**{key: value for key, value in toy.changed(sizes, arguments).items() if key in known})


def built(name: str) -> Inversion:
    method = make(name)
    method.build(toy.spec(mean=(0.25,), std=(0.5,)), seeded_generator(0, "build"))
    give_class_rows(method, toy.observed(toy.network("teacher")).freeze(), toy.condensed_set())
    return method


def mix(method: Inversion) -> str | float:
    return "union" if method.source == "bank" else 0.25


def model(name: str, weight: float | None = None) -> CondKD:
    """A run's module; ``weight`` is the alignment's."""
    alignment = None if weight is None else FeatureAlignment(ProjectionDiscriminator((16,)), weight=weight)
    return toy.condkd(make(name), alignment)


def fit(name: str, weight: float | None = None, **arguments: Any) -> toy.Run:
    module = model(name, weight)
    return toy.fit(module, mix=mix(module.inversion), **{"max_epochs": ROUNDS, **arguments})
