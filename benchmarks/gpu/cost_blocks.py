"""Blocks of steps that lanes take in turn: their time with one wait for the card at the end, and their memory."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu.card_rates import product_rate, settings, synchronize
from benchmarks.gpu.cost_tasks import Form, Task
from benchmarks.gpu.stage import Job
from benchmarks.support.interleaved_steps import Lane, ThreadLane, TrainerLane
from benchmarks.support.spread import quartiles
from lightning_condkd.alignment import FeatureAlignment

RATES = {"bf16-mixed": "bf16", "32-true": "tf32"}
LEAST_ROUNDS = 3
STOP_SECONDS = 1.5

Blocks = ThreadLane | TrainerLane
Seconds = dict[str, float]


class Sizes(NamedTuple):
    """How long a lane is timed.

    Args:
        steps: in a block.
        warmup: blocks that do not count.
        rounds: in which every lane takes a block.
    """

    steps: int
    warmup: int
    rounds: int

    @classmethod
    def of(cls, task: Task, job: Job) -> Sizes:
        """Return those that make an item last 10 to 20 seconds on the card.

        Args:
            task: the step; blocks of large ones are shorter.
            job: says whether it is the dry run.
        """
        if job.small:
            return cls(2, 1, 3)
        return cls(20 if task[:2] == ("distill", "20-8") and task.batch == 256 else 10, 2, 9)


class Warm(NamedTuple):
    """A lane after its warm-up.

    Args:
        blocks: takes steps.
        first_step_seconds: what its first step took, with what is compiled or searched in it.
        peak_megabytes: most memory of the card that it held at once; ``None`` on the CPU.
    """

    blocks: Blocks
    first_step_seconds: float
    peak_megabytes: float | None


def measure(task: Task, forms: Sequence[Form], job: Job) -> dict[str, Any]:
    """Time a step through the Trainer and in a bare loop, in all forms, and hold it against the card's rate.

    The rate is that of bf16 products for ``bf16-mixed``, and that of TF32 products for ``32-true``: convolutions of
    cuDNN use TF32 unless told otherwise. All lanes are held against the FLOPs of the bare step.

    Args:
        task: the step.
        forms: of the networks; the first is the one that the others are compared with.
        job: device, deadline and folder.
    """
    flops = count_flops(task.bare(job.device, Form()))
    rate = product_rate(RATES[task.precision], job.device)
    sizes = Sizes.of(task, job)
    lanes = {name: _warm_up(make, sizes, job.device) for name, make in _lanes(task, forms, job).items()}
    rounds = _take_rounds({name: lane.blocks for name, lane in lanes.items()}, sizes, job)
    for lane in lanes.values():
        lane.blocks.close()
    return {
        "complete": len(rounds) == sizes.rounds,
        "rounds": len(rounds),
        "steps_in_block": sizes.steps,
        "flops": flops,
        "rate": {"of": RATES[task.precision], "teraflops": round(rate, 4)},
        "settings": settings(),
        "lanes": {
            name: _of_lane(lane, [r[name] for r in rounds], task.batch, flops, rate) for name, lane in lanes.items()
        },
        "ratios": {f"{a} / {b}": quartiles([r[a] / r[b] for r in rounds]) for a, b in _pairs(list(lanes))},
    }


def count_flops(step: Lane) -> int:
    """Return the floating point operations of products and convolutions in one step, forward and backward.

    Args:
        step: run once.
    """
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def _lanes(task: Task, forms: Sequence[Form], job: Job) -> dict[str, Callable[[], Blocks]]:
    def bare(form: Form, augment: bool = False) -> Callable[[], Blocks]:
        return lambda: ThreadLane(task.bare(job.device, form, augment))

    def trainer(form: Form, alignment: FeatureAlignment | None = None) -> Callable[[], Blocks]:
        return lambda: task.lane(job, form, alignment)

    lanes = {}
    for form in forms:
        lanes |= {f"bare{form.suffix}": bare(form), f"trainer{form.suffix}": trainer(form)}
    if task.phase == "distill":
        return lanes | {"bare with crop and flip": bare(forms[0], augment=True)}
    return lanes | {"trainer aligned": trainer(forms[0], FeatureAlignment())}


def _warm_up(make: Callable[[], Blocks], sizes: Sizes, device: str) -> Warm:
    before = _allocated(device)
    blocks = make()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    first = _seconds(blocks, 1, device)
    for _ in range(sizes.warmup):
        _seconds(blocks, sizes.steps, device)
    peak = round((torch.cuda.max_memory_allocated() - before) / 1e6, 1) if device == "cuda" else None
    return Warm(blocks, round(first, 2), peak)


def _allocated(device: str) -> int:
    gc.collect()
    return torch.cuda.memory_allocated() if device == "cuda" else 0


def _take_rounds(lanes: Mapping[str, Blocks], sizes: Sizes, job: Job) -> list[Seconds]:
    """Return seconds of a step by lane for every round, in reversed order every second time."""
    rounds: list[Seconds] = []
    longest = 0.0
    for index in range(sizes.rounds):
        start = time.monotonic()
        if index >= LEAST_ROUNDS and start + longest + STOP_SECONDS > job.deadline:
            break
        order = list(lanes.items())[:: -1 if index % 2 else 1]
        rounds.append({name: _seconds(blocks, sizes.steps, job.device) / sizes.steps for name, blocks in order})
        longest = max(longest, time.monotonic() - start)
    return rounds


def _seconds(blocks: Blocks, steps: int, device: str) -> float:
    start = time.perf_counter()
    blocks(steps)
    synchronize(device)
    return time.perf_counter() - start


def _of_lane(lane: Warm, seconds: Sequence[float], batch: int, flops: int, rate: float) -> dict[str, Any]:
    teraflops = flops / statistics.median(seconds) / 1e12
    return {
        "milliseconds": quartiles([1e3 * s for s in seconds]),
        "images_per_second": round(batch / statistics.median(seconds)),
        "peak_megabytes": lane.peak_megabytes,
        "first_step_seconds": lane.first_step_seconds,
        "teraflops": round(teraflops, 4),
        "share_of_rate": round(teraflops / rate, 4),
    }


def _pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    """Return which lanes are compared: the Trainer with its bare loops, and either with its first form."""
    bare = [(name, name.replace("trainer", "bare")) for name in names]
    first = [(name, name.split()[0]) for name in names]
    pairs = dict.fromkeys([*bare, *first, ("trainer", "bare with crop and flip")])
    return [(one, other) for one, other in pairs if one != other and other in names]
