"""The stage "cost": what a step costs on the card through the Trainer and in a bare loop, and where its time goes."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.gpu.card_rates import rates
from benchmarks.gpu.cost_blocks import measure
from benchmarks.gpu.cost_profile import profile_step
from benchmarks.gpu.cost_tasks import Form, Task
from benchmarks.gpu.stage import Job, Stage

PLAIN, CHANNELS_LAST = Form(), Form(channels_last=True)
SMALL = (Task("distill", "tiny", "32-true", 8), Task("synthesize", "tiny", "bf16-mixed", 8))
MAIN = (
    Task("distill", "20-8", "32-true", 256),
    Task("distill", "34-18", "bf16-mixed", 256),
    Task("synthesize", "20-8", "32-true", 256),
    Task("synthesize", "34-18", "bf16-mixed", 256),
)
FURTHER = (
    Task("distill", "34-18", "32-true", 256),
    Task("distill", "20-8", "32-true", 1024),
    Task("distill", "34-18", "bf16-mixed", 1024),
    Task("synthesize", "20-8", "bf16-mixed", 256),
    Task("synthesize", "34-18", "32-true", 256),
)

Work = Callable[[Job], dict[str, Any]]


def _timed(*tasks: Task) -> dict[str, Work]:
    return {task.name: partial(measure, task, (PLAIN, CHANNELS_LAST)) for task in tasks}


def _profiled(*tasks: Task) -> dict[str, Work]:
    return {f"profile {task.name}": partial(profile_step, task) for task in tasks}


def _compiled(task: Task, backend: str) -> dict[str, Work]:
    """Only distillation is compiled: a compiled network drops the hooks with which synthesis looks into the teacher."""
    forms = (PLAIN, Form(backend=backend), Form(backend=backend, mode="reduce-overhead"))
    return {f"{task.name} compiled": partial(measure, task, forms)}


def _plan(small: bool) -> dict[str, Work]:
    if small:
        return {"rates": rates, **_timed(*SMALL), **_profiled(*SMALL), **_compiled(SMALL[0], "eager")}
    compiled = _compiled(MAIN[0], "inductor") | _compiled(MAIN[1], "inductor")
    return {"rates": rates, **_timed(*MAIN), **compiled, **_profiled(*MAIN), **_timed(*FURTHER)}


def items(small: bool) -> list[str]:
    """Return the names of the items, the most important first.

    Args:
        small: whether this is the dry run.
    """
    return list(_plan(small))


def run(item: str, job: Job) -> dict[str, Any]:
    """Do an item.

    Args:
        item: its name.
        job: device, deadline and folder.
    """
    warnings.filterwarnings("ignore", module="lightning")
    return _plan(job.small)[item](job)


STAGE = Stage("cost", items, run, share=3.0, jobs=1, least=12.0)
