"""Counter-based randomness: every draw is a function of (run seed, purpose, step)."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor


def seeded_generator(seed: int, purpose: str, step: int = 0) -> torch.Generator:
    """Return a fresh CPU generator for one purpose at one step.

    The stream does not depend on the device, the number of ranks, a resume, or on what else draws.

    Args:
        seed: seed of the run.
        purpose: name of the stream.
        step: counter of the purpose.

    Example:
        >>> a = torch.rand(2, generator=seeded_generator(0, "latent", 3))
        >>> torch.equal(a, torch.rand(2, generator=seeded_generator(0, "latent", 3)))
        True
        >>> torch.equal(a, torch.rand(2, generator=seeded_generator(0, "latent", 4)))
        False
    """
    digest = hashlib.blake2b(f"{seed}/{purpose}/{step}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def run_seed(seed: int | None) -> int:
    """Return the seed of a run: the given one, else the one of ``seed_everything``, else 0.

    Args:
        seed: what was given.
    """
    return int(os.environ.get("PL_GLOBAL_SEED", 0)) if seed is None else seed


@contextmanager
def seeded_initialization(generator: torch.Generator) -> Iterator[None]:
    """Make layers created inside draw their initial values from a generator; the global one is restored afterwards.

    Args:
        generator: a CPU generator; one number is drawn from it.

    Example:
        >>> def make():
        ...     with seeded_initialization(seeded_generator(0, "init")):
        ...         return torch.nn.Linear(2, 2)
        >>> torch.equal(make().weight, make().weight)
        True
    """
    seed = int(torch.randint(2**62, (), generator=generator, device="cpu"))
    # On the CPU, whatever the default device, so that the numbers do not depend on a device.
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        yield


def draw_by_class(class_rows: Sequence[Tensor], counts: Sequence[int], generator: torch.Generator) -> list[Tensor]:
    """Draw rows of every class without replacement.

    Args:
        class_rows: rows of each class.
        counts: number of rows of each class; a smaller class gives all of its rows.
        generator: a CPU generator.

    Example:
        >>> rows = draw_by_class([torch.arange(3), torch.tensor([7])], [2, 2], seeded_generator(0, "example"))
        >>> [len(of_class) for of_class in rows]
        [2, 1]
    """
    orders = [torch.randperm(len(rows), generator=generator) for rows in class_rows]
    return [rows[order[:n]] for rows, order, n in zip(class_rows, orders, counts, strict=True)]


def send(values: Tensor, device: torch.device | None) -> Tensor:
    """Return values drawn on the CPU on a device; the host does not wait for the copy to a GPU.

    Args:
        values: usually on the CPU; from another device they are moved normally.
        device: device of the result; ``None`` does not move them.
    """
    if device is None or device.type != "cuda" or values.device.type != "cpu":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


class Draw(NamedTuple):
    """The randomness of one step and this rank's rows of the global batch.

    Args:
        seed: seed of the run.
        step: counter of the step.
        rank: rank of this process.
        world_size: number of processes.

    Example:
        >>> draw = Draw(seed=0, step=7, rank=1, world_size=2)
        >>> torch.arange(6)[draw.rows]
        tensor([1, 3, 5])
    """

    seed: int
    step: int
    rank: int = 0
    world_size: int = 1

    def generator(self, purpose: str) -> torch.Generator:
        """Return the generator of a purpose at this step: draw for the global batch, then take :attr:`rows`."""
        return seeded_generator(self.seed, purpose, self.step)

    @property
    def rows(self) -> slice:
        """The rows of a global batch that this rank renders."""
        return slice(self.rank, None, self.world_size)
