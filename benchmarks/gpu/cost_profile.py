"""Where the time of a step goes: the profiler inside a fit, and around the bare loop."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import lightning as L
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.card_rates import synchronize
from benchmarks.gpu.cost_events import summary
from benchmarks.gpu.cost_tasks import Form, Task
from benchmarks.gpu.stage import Job
from benchmarks.support.interleaved_steps import FitOverError


class Follow(L.Callback):
    """Advances a script before every training step and ends the fit with it.

    Args:
        script: runs in the thread of the fit, which is the one that the profiler sees.
    """

    def __init__(self, script: Iterator[None]) -> None:
        self._script = script

    def on_train_batch_start(self, trainer: L.Trainer, module: Any, batch: Any, batch_idx: int) -> None:  # noqa: ANN401
        """Go on to the next step."""
        if next(self._script, True):
            raise FitOverError


def profile_step(task: Task, job: Job) -> dict[str, Any]:
    """Profile a step through the Trainer and in a bare loop.

    Args:
        task: the step.
        job: device and folder.
    """
    trainer: dict[str, Any] = {}
    fit = L.Trainer(callbacks=[Follow(_script(job, trainer))], **task.trainer_arguments(job))
    with contextlib.suppress(FitOverError):
        fit.fit(task.model(Form()), task.datamodule())
    bare: dict[str, Any] = {}
    step = task.bare(job.device, Form())
    for _ in _script(job, bare):
        step()
    return {"trainer": trainer, "bare": bare}


def _script(job: Job, result: dict[str, Any]) -> Iterator[None]:
    """Yield before every step: warm-up, a profile that only loads the profiler, steps without it, steps with it."""
    warmup, loading, steps = (2, 1, 2) if job.small else (20, 5, 10)
    yield from _steps(warmup)
    with _profiler(job.device):
        yield from _steps(loading)
    plain: list[float] = []
    yield from _timed(steps, job.device, plain)
    seen: list[float] = []
    with _profiler(job.device) as profiler:
        yield from _timed(steps, job.device, seen)
    milliseconds = 1e3 * plain[0] / steps
    result.update({"unprofiled_wall_milliseconds": round(milliseconds, 3)} | summary(profiler.events(), steps, seen[0]))


def _steps(count: int) -> Iterator[None]:
    for _ in range(count):
        yield


def _timed(count: int, device: str, seconds: list[float]) -> Iterator[None]:
    synchronize(device)
    start = time.perf_counter()
    yield from _steps(count)
    synchronize(device)
    seconds.append(time.perf_counter() - start)


def _profiler(device: str) -> profile:
    cuda = [ProfilerActivity.CUDA] if device == "cuda" else []
    return profile(activities=[ProfilerActivity.CPU, *cuda])
