"""Partial results of an interrupted ``evaluate``, in a file next to that of its result."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_info

from lightning_condkd.evaluation.result import Trained
from lightning_condkd.hashing import content_hash
from lightning_condkd.models.fresh_networks import FreshNetworks
from lightning_condkd.randomness import seeded_generator
from lightning_condkd.training.run_record import differences
from lightning_condkd.writing import write_atomic


class KeptRuns:
    """Scores of networks by row and index of the run; every new one is written to the file immediately.

    Args:
        output: file of the result; without one, nothing is kept.
        settings: everything that the numbers depend on, JSON values only.

    Raises:
        ValueError: if the file exists and was made with other settings, or is of another kind.
    """

    def __init__(self, output: Path | None, settings: Mapping[str, Any]) -> None:
        self.path = None if output is None else output.with_suffix(".partial.json")
        self.settings = json.loads(json.dumps(settings))  # in the form in which they are read from a file
        self._done: dict[str, Any] = {}
        if self.path is not None and self.path.exists():
            self._done = _read(self.path, self.settings)
            rank_zero_info(
                f"{self.path}: an interrupted run with the same settings finished {len(self._done)} trainings: these "
                "are reused, the others are done now"
            )

    def once(self, row: str, number: int, train: Callable[[], Trained]) -> Trained:
        """Train, unless the results are in the file.

        Args:
            row: name of the row.
            number: index of the first network that is trained.
            train: function that trains.

        Returns:
            Scores of the networks, new or from the file.
        """
        name = _training(row, number)
        if name not in self._done:
            self._done[name] = train()._asdict()
            self._write()
        return Trained(**self._done[name])

    @contextmanager
    def advising(self) -> Iterator[None]:
        """Add to an interruption by the user how to go on."""
        try:
            yield
        except KeyboardInterrupt as end:
            raise type(end)(self._advice()) from None

    def _advice(self) -> str:
        if self.path is None:
            return "nothing was written: type the command again, with an --output to keep finished trainings"
        if not self._done:
            return "no training was finished: type the command again"
        return f"{len(self._done)} finished trainings are in {self.path}: type the command again to go on after them"

    def missing(self, rows: Sequence[str], numbers: Sequence[int]) -> int:
        """Return how many trainings are not in the file.

        Args:
            rows: names of the rows.
            numbers: indices of the first networks of the trainings of a row.
        """
        return sum(_training(row, number) not in self._done for row in rows for number in numbers)

    def _write(self) -> None:
        if self.path is not None:
            content = {"settings": self.settings, "done": self._done}
            write_atomic(self.path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())

    def discard(self) -> None:
        """Remove the file, after the result was written."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def _training(row: str, number: int) -> str:
    return f"{row}, network {number}"


def _read(path: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
        there, done = dict(content["settings"]), dict(content["done"])
        for trained in done.values():
            Trained(**trained)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"output: {path} is where an interrupted run keeps its numbers, but holds none that can be read: move or "
            "remove it, or choose another output"
        ) from error
    if found := differences(there, settings):
        said = ", ".join(f"{name} was {before!r} and is {now!r}" for name, (before, now) in found.items())
        raise ValueError(
            f"output: {path} is of an interrupted run with other settings: {said}. Give its settings to continue it, "
            "remove it to start again, or choose another output"
        )
    return done


def network_identity(networks: FreshNetworks) -> str:
    """Return a hash of an architecture and its initial weights.

    Args:
        networks: makes the networks.
    """
    network = networks.make(seeded_generator(0, "network"))
    return content_hash(f"{network!r} {network.fingerprint()}")[:16]
