"""What the card itself can do: matrix products and copies, on random numbers."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch

from benchmarks.gpu.stage import Job
from benchmarks.support.spread import quartiles

PRODUCTS = {"bf16": torch.bfloat16, "tf32": torch.float32, "fp32": torch.float32}
SIDE = {"cuda": 8192, "cpu": 256}
COPIED_FLOATS = {"cuda": 2**28, "cpu": 2**20}
WARMUP, TIMES = 3, 10


def synchronize(device: str) -> None:
    """Wait for the card.

    Args:
        device: ``cuda``, or ``cpu`` for nothing to wait for.
    """
    if device == "cuda":
        torch.cuda.synchronize()


def settings() -> dict[str, Any]:
    """Return what decides how fast products and convolutions of float32 are."""
    return {
        "cudnn_allow_tf32": torch.backends.cudnn.allow_tf32,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
    }


def rates(job: Job) -> dict[str, Any]:
    """Measure products of square matrices in TFLOP/s and copies within the card in GB/s, bytes read and written.

    Args:
        job: says which device.
    """
    side = SIDE[job.device]
    products = {kind: _product(kind, job.device) for kind in PRODUCTS}
    copies = _copy(job.device)
    moved = 2 * 4 * COPIED_FLOATS[job.device]
    return {
        "side": side,
        "teraflops": {kind: quartiles([_teraflops(side, ms) for ms in taken], 4) for kind, taken in products.items()},
        "copy_gigabytes_per_second": quartiles([moved / ms / 1e6 for ms in copies], 1),
        "settings": settings(),
    }


def product_rate(kind: str, device: str) -> float:
    """Return the median rate of products in TFLOP/s.

    Args:
        kind: ``bf16``, ``tf32`` or ``fp32``.
        device: ``cuda`` or ``cpu``.
    """
    return _teraflops(SIDE[device], statistics.median(_product(kind, device)))


def _teraflops(side: int, milliseconds: float) -> float:
    return 2 * side**3 / milliseconds / 1e9


def _product(kind: str, device: str) -> list[float]:
    left, right = (torch.randn(SIDE[device], SIDE[device], device=device).to(PRODUCTS[kind]) for _ in range(2))
    out = torch.empty_like(left)
    with _products_in("tf32" if kind == "tf32" else "ieee"):
        return _milliseconds(lambda: torch.mm(left, right, out=out), device)


def _copy(device: str) -> list[float]:
    source = torch.rand(COPIED_FLOATS[device], device=device)
    target = torch.empty_like(source)
    return _milliseconds(lambda: target.copy_(source), device)


@contextmanager
def _products_in(precision: str) -> Iterator[None]:
    held = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = precision
    try:
        yield
    finally:
        torch.backends.cuda.matmul.fp32_precision = held


def _milliseconds(action: Callable[[], object], device: str) -> list[float]:
    """Return what every call takes; on the card they are queued one behind the other."""
    for _ in range(WARMUP):
        action()
    timed = _on_card if device == "cuda" else _on_cpu
    return timed(action)


def _on_card(action: Callable[[], object]) -> list[float]:
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(TIMES + 1)]
    torch.cuda.synchronize()
    marks[0].record()
    for mark in marks[1:]:
        action()
        mark.record()
    torch.cuda.synchronize()
    return [before.elapsed_time(after) for before, after in pairwise(marks)]


def _on_cpu(action: Callable[[], object]) -> list[float]:
    taken = []
    for _ in range(TIMES):
        start = time.perf_counter()
        action()
        taken.append(1e3 * (time.perf_counter() - start))
    return taken
