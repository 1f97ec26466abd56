"""What an iteration of trajectory matching costs by the way its gradient is taken: seconds, and the peak of memory.

The usual ConvNet on 100 images of 32x32, each case in a process of its own. The expert's two points are random.
Unrolled, a step takes about 0.36 GB.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.support import result_files
from benchmarks.support.processes import resident_megabytes, run_script
from lightning_condkd.condensation.base import RealImages
from lightning_condkd.condensation.expert_files import flatten
from lightning_condkd.condensation.parts.published_schedules import TrajectorySchedule
from lightning_condkd.condensation.trajectory_matching import GRADIENTS, TrajectoryMatching
from lightning_condkd.models import ConvNet
from lightning_condkd.randomness import Draw


class Drawn(TrajectoryMatching):
    """Trajectory matching between two random points instead of those of an expert."""

    def _expert(self, draw: Draw) -> tuple[torch.Tensor, torch.Tensor]:
        start = flatten(self._network().network)
        return start, start + 0.01 * torch.randn(start.shape, generator=draw.generator("target"))


def case(gradient: str, inner_steps: int, chunk: int | None, iterations: int) -> None:
    """Print seconds of CPU of an iteration and this process's peak of memory in MB, before the first and at the end."""
    schedule = TrajectorySchedule(inner_steps, 2, 20, pixel_lr=100, step_size=0.01, step_size_lr=1e-5)
    method = Drawn(ConvNet, experts="none", schedule=schedule, gradient=gradient, chunk=chunk)  # type: ignore[arg-type]
    images, labels = torch.rand(100, 3, 32, 32).requires_grad_(), torch.arange(10).repeat_interleave(10)
    before, seconds = resident_megabytes(), []
    for step in range(iterations):
        start = time.process_time()
        [terms] = method.losses(images, labels, RealImages(lambda rows: rows, []), Draw(0, step))
        torch.autograd.grad(terms.total(), [images, method.log_step_size])
        seconds.append(time.process_time() - start)
    print(json.dumps({"cpu_seconds": round(min(seconds), 2), "megabytes": round(resident_megabytes() - before)}))


def measured(options: argparse.Namespace, gradient: str, inner_steps: int, chunk: int | None) -> dict[str, Any]:
    """Run a case in a process of its own."""
    chosen = [] if chunk is None else ["--chunk", str(chunk)]
    flags = ["--case", gradient, "--inner-steps", str(inner_steps), *chosen, "--iterations", str(options.iterations)]
    result = {"gradient": gradient, "inner_steps": inner_steps, "chunk": chunk, **run_script(__file__, flags)}
    print(result, flush=True)
    return result


def main() -> None:
    """Measure and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--iterations", type=int, default=1)
    parser.add_argument("--inner-steps", type=int, nargs="+", default=[10, 30, 50])
    parser.add_argument("--most-unrolled", type=int, default=30, help="more inner steps are not tried unrolled")
    parser.add_argument("--chunk", type=int, help="with --case: images in a forward pass; by default the method's")
    parser.add_argument("--case", choices=[*GRADIENTS], help="used by the suite itself")
    options = parser.parse_args()
    if options.case:
        case(options.case, options.inner_steps[0], options.chunk, options.iterations)
        return
    cases = [(gradient, steps, None) for steps in options.inner_steps for gradient in GRADIENTS]
    whole = [(gradient, options.inner_steps[0], 100) for gradient in ("unrolled", "recomputed")]
    fitting = [one for one in [*cases, *whole] if one[0] != "unrolled" or one[1] <= options.most_unrolled]
    results = [measured(options, *one) for one in fitting]
    result_files.write("trajectory-gradient", {"images": 100, "image_size": 32, "network": "ConvNet", "cases": results})


if __name__ == "__main__":
    main()
