"""Steps that take turns: of trainers, each in a thread of its own, and of plain functions."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import lightning as L
import torch

from benchmarks.support.spread import quartiles
from lightning_condkd.modules import CondKD
from lightning_condkd.rounds import Phase, Unit

Lane = Callable[[], None]


class FitOverError(Exception):
    """Ends a fit whose steps are no longer wanted."""


class TrainerLane(L.Callback):
    """A fit that advances by training steps whenever it is called, with all that the Trainer does between two.

    It rests inside ``on_train_batch_start``, so one call covers the steps and the whole loop around them: fetching of
    the next batch, hooks, counters, logging, and at the end of a round what the Trainer does there.
    """

    def __init__(
        self,
        model: CondKD,
        datamodule: L.LightningDataModule,
        callbacks: Sequence[L.Callback] = (),
        **trainer: Any,  # noqa: ANN401
    ) -> None:
        self.model = model
        self.unit: Unit | None = None
        self.trainer = L.Trainer(callbacks=[self, *callbacks], **trainer)
        self._error: BaseException | None = None
        self._stopped = False
        self._steps = 0
        self._turn, self._back = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._fit, args=(datamodule,), daemon=True)
        self._thread.start()
        self._wait()

    def __call__(self, steps: int = 1) -> None:
        self._steps = steps
        self._turn.release()
        self._wait()

    def close(self) -> None:
        """End the fit."""
        self._stopped = True
        self._turn.release()
        self._thread.join()

    def on_train_batch_start(self, trainer: L.Trainer, module: Any, batch: Any, batch_idx: int) -> None:  # noqa: ANN401
        """Rest until the next call, unless steps of this one are left."""
        self.unit = self.model.inversion.cadence.unit(trainer.current_epoch, batch_idx)
        self._steps -= 1
        if self._steps > 0:
            return
        self._back.release()
        self._turn.acquire()
        if self._stopped:
            raise FitOverError

    def _wait(self) -> None:
        self._back.acquire()
        if self._error is not None:
            raise self._error

    def _fit(self, datamodule: L.LightningDataModule) -> None:
        try:
            self.trainer.fit(self.model, datamodule)
        except FitOverError:
            return
        except BaseException as error:
            self._error = error
        self._back.release()


class ThreadLane:
    """A plain function that is called in a thread of its own, as a trainer's steps are.

    Threads other than the main one pay more for the memory that they take and give back.
    """

    def __init__(self, lane: Lane) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._lane = lane

    def __call__(self, steps: int = 1) -> None:
        self._pool.submit(self._take, steps).result()

    def close(self) -> None:
        """End the thread."""
        self._pool.shutdown()

    def _take(self, steps: int) -> None:
        for _ in range(steps):
            self._lane()


class Turn(NamedTuple):
    """Seconds of every lane in one turn, on the wall and of this process's CPU, and which unit the trainers took."""

    unit: Unit | None
    ends_round: bool
    wall: Mapping[str, float]
    cpu: Mapping[str, float]


def seconds_of(lane: Lane) -> tuple[float, float]:
    start = time.perf_counter(), time.process_time()
    lane()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start[0], time.process_time() - start[1]


def one_turn(lanes: Mapping[str, Lane], turn: int) -> dict[str, tuple[float, float]]:
    """Return the seconds of every lane, on the wall and of the CPU; every second turn has them in reversed order."""
    order = list(lanes.items())
    return {name: seconds_of(lane) for name, lane in (order[::-1] if turn % 2 else order)}


def by_clock(seconds: Mapping[str, tuple[float, float]]) -> tuple[dict[str, float], dict[str, float]]:
    """Return the seconds of every lane on the wall, and those of the CPU."""
    wall, cpu = ({name: both[clock] for name, both in seconds.items()} for clock in range(2))
    return wall, cpu


def take_turns(trainers: Mapping[str, TrainerLane], bare: Mapping[Phase, Mapping[str, Lane]], turns: int) -> list[Turn]:
    """Let trainers of one cadence and the bare loops of the phase step in turn, in reversed order every second time."""
    taken = []
    leader = next(iter(trainers.values()))
    length = leader.model.inversion.cadence.length
    for turn in range(turns):
        unit = leader.unit
        if unit is None:
            raise RuntimeError("a trainer has not begun its first step")
        seconds = one_turn({**trainers, **bare.get(unit.phase, {})}, turn)
        taken.append(Turn(unit, (unit.counter + 1) % length == 0, *by_clock(seconds)))
    return taken


def in_blocks(turns: Sequence[Turn], length: int) -> list[Turn]:
    """Return the sums over consecutive turns."""
    blocks = []
    for first in range(0, len(turns), length):
        block = turns[first : first + length]
        wall, cpu = (
            {name: sum(clock[name] for clock in clocks) for name in clocks[0]}
            for clocks in ([turn.wall for turn in block], [turn.cpu for turn in block])
        )
        blocks.append(block[-1]._replace(wall=wall, cpu=cpu))
    return blocks


def compare(turns: Sequence[Turn], pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Return milliseconds of every lane and the ratios of the named pairs, by both clocks.

    On a machine that others use as well, CPU time is the steadier clock with one thread; with more it holds waiting.
    """
    clocks = {"wall": [turn.wall for turn in turns], "cpu": [turn.cpu for turn in turns]}
    return {"turns": len(turns)} | {clock: _compare(rows, pairs) for clock, rows in clocks.items()}


def _compare(rows: Sequence[Mapping[str, float]], pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Return ratios both ways: of the medians, and the median of the paired ratios."""
    milliseconds = {name: quartiles([1e3 * row[name] for row in rows], 2) for name in sorted(rows[0])}
    ratios = {
        f"{name} / {reference}": {
            "paired": quartiles([row[name] / row[reference] for row in rows]),
            "of_medians": round(milliseconds[name]["median"] / milliseconds[reference]["median"], 3),
        }
        for name, reference in pairs
    }
    return {"milliseconds": milliseconds, "ratios": ratios}
