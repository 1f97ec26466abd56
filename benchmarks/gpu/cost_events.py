"""What the events of a profile add up to, for each step."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent

TOP = 12
NAME_CHARACTERS = 160
ASKING = ("aten::item", "aten::_local_scalar_dense", "aten::is_nonzero", "aten::nonzero")

Events = Sequence[FunctionEvent]


def summary(events: Events, steps: int, wall_seconds: float) -> dict[str, Any]:
    """Return milliseconds and counts of a step: of the host, of the card, and of what makes one wait for the other.

    ``host`` sums what operators, calls of CUDA and annotations take by themselves, in all threads, so it can exceed the
    wall clock. What is named ``Synchronize`` holds the two calls that the measurement itself makes in all its steps.

    Args:
        events: of the profiler.
        steps: that it saw.
        wall_seconds: that they took, with the profiler's own cost.
    """
    host = [e for e in events if e.device_type == DeviceType.CPU and not e.is_async]
    annotations = {e.name for e in events if e.is_user_annotation}  # the card's timeline shows them too
    card = [e for e in events if e.device_type != DeviceType.CPU and e.name not in annotations]
    return {
        "steps": steps,
        "wall_milliseconds": round(1e3 * wall_seconds / steps, 3),
        "host_milliseconds": _per_step(sum(e.self_cpu_time_total for e in host), steps),
        "launch_calls": len([e for e in host if "LaunchKernel" in e.name]) / steps,
        "waiting": _by_name([e for e in host if _waits(e.name)], _length, steps),
        "operators": _top(host, lambda e: e.self_cpu_time_total, steps),
        "card": _card(card, steps, wall_seconds) if card else None,
    }


def _card(events: Events, steps: int, wall_seconds: float) -> dict[str, Any]:
    moves = [e for e in events if e.name.startswith(("Memcpy", "Memset"))]
    kernels = [e for e in events if not e.name.startswith(("Memcpy", "Memset"))]
    return {
        "busy_milliseconds": _per_step(_union(kernels), steps),
        "idle_milliseconds": _per_step(1e6 * wall_seconds - _union(events), steps),
        "kernel_count": len(kernels) / steps,
        "copies": _by_name(moves, _length, steps),
        "kernels": _top(kernels, _length, steps),
    }


def _waits(name: str) -> bool:
    return "Synchronize" in name or name.startswith(("cudaMemcpy", "cuMemcpy")) or name in ASKING


def _length(event: FunctionEvent) -> float:
    return event.time_range.elapsed_us()


def _union(events: Iterable[FunctionEvent]) -> float:
    """Return the microseconds in which at least one of the events runs."""
    total, end = 0.0, float("-inf")
    for start, stop in sorted((e.time_range.start, e.time_range.end) for e in events):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total


def _per_step(microseconds: float, steps: int) -> float:
    return round(microseconds / 1e3 / steps, 4)


def _by_name(events: Events, microseconds: Callable[[FunctionEvent], float], steps: int) -> dict[str, dict[str, float]]:
    """Return count and milliseconds in a step by name, the longest first."""
    counts: dict[str, int] = defaultdict(int)
    times: dict[str, float] = defaultdict(float)
    for event in events:
        counts[event.name] += 1
        times[event.name] += microseconds(event)
    longest = sorted(times, key=times.__getitem__, reverse=True)
    return {name: {"count": counts[name] / steps, "milliseconds": _per_step(times[name], steps)} for name in longest}


def _top(events: Events, microseconds: Callable[[FunctionEvent], float], steps: int) -> list[dict[str, Any]]:
    rows = list(_by_name(events, microseconds, steps).items())[:TOP]
    return [{"name": name[:NAME_CHARACTERS], **row} for name, row in rows]
