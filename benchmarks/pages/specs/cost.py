"""What images, steps and sets cost on a CPU."""

from __future__ import annotations

from benchmarks.pages import measured
from benchmarks.pages.layout import Table

METHODS = {
    "noise": "SmoothNoise",
    "Fast": "Fast",
    "DeepInversion": "DeepInversion",
    "CMI": "CMI",
    "DAFL": "DAFL",
    "ZSKT": "ZSKT",
    "DFQ": "DFQ",
    "DFAD": "DFAD",
    "PRE-DFKD": "PREDFKD",
}
INVERSION, STEPS = "cost-methods", "cost"
COMMAND = "python benchmarks/cost/inversion_steps.py --turns 6"


def milliseconds(method: str) -> float:
    """Return the CPU-milliseconds of a step for one image."""
    return float(measured.entry(INVERSION, "step", "cpu", "milliseconds", method, "median")) / batch()


def batch() -> int:
    """Return how many images a step had."""
    return int(measured.entry(INVERSION, "batch_size"))


def published_steps(method: str) -> int:
    """Return the published steps that a method takes for a batch."""
    return int(measured.entry(INVERSION, "synthesis_steps_by_default", method))


def ratio(pair: str) -> str:
    """Return the median of the paired ratios of wall times."""
    return f"{measured.entry(INVERSION, 'step', 'wall', 'ratios', pair, 'paired', 'median'):.2f}"


def inversion() -> Table:
    """Return what a step and an image cost by method."""
    rows = []
    for label, method in METHODS.items():
        image = milliseconds(method) * published_steps(method) / 1000
        beside = "1" if method == "Fast" else ratio(f"{method} / Fast")
        cost = f"{image:.1f}" if image > 1 else f"{image:.3f}" if image < 0.005 else f"{image:.2f}"
        rows.append([label, f"{milliseconds(method):.1f}", beside, ratio(f"{method}* / {method}"), cost])
    says = f"One thread, {batch()} images a step; seconds are of the CPU."
    head = ("method", "ms a step and image", "step / Fast's", "guided / plain", "seconds an image")
    return Table(head, rows, says, (INVERSION,), (COMMAND,))


def memory() -> Table:
    """Return the published steps and the peak memory by method."""
    peak = measured.entry(INVERSION, "peak_megabytes")
    rows = [
        [label, str(published_steps(method)), str(peak[method]), str(peak[f"{method}*"])]
        for label, method in METHODS.items()
    ]
    says = "Peak of resident memory of a process of its own."
    return Table(("method", "published steps a batch", "peak MB, plain", "peak MB, guided"), rows, says, (INVERSION,))


def steps() -> Table:
    """Return ratios of the trainer's steps to a bare loop's and of aligned steps to unaligned ones."""
    lines = {
        "student step, trainer / bare loop": ("steps", "distillation", "trainer / bare"),
        "the same, with crop and flip in the bare loop": (
            "steps",
            "distillation",
            "trainer / bare with crop and flip",
        ),
        "synthesis step, trainer / bare loop": ("steps", "synthesis", "trainer / bare"),
        "synthesis block, trainer / bare loop": ("steps", "synthesis_block", "trainer / bare"),
        "aligned on the shared view / unaligned": ("alignment", "step", "Fast* on the shared view / Fast"),
        "aligned on a view of its own / unaligned": ("alignment", "step", "Fast* on a view of its own / Fast"),
        "student step, bank of 10,000 / 1,000 images": ("bank", "distillation", "10000 images / 1000 images"),
        "student step, bank of 50,000 / 1,000 images": ("bank", "distillation", "50000 images / 1000 images"),
    }
    rows = [[label, *(paired(*where, threads) for threads in (0, 1))] for label, where in lines.items()]
    says = "Medians of ratios of wall times, interleaved, with quartiles in brackets."
    command = "python benchmarks/cost/training_steps.py --rounds 3"
    return Table(("ratio", "one thread", "two threads"), rows, says, (STEPS,), (command,))


def paired(suite: str, step: str, pair: str, threads: int) -> str:
    """Return a ratio with its quartiles."""
    of = measured.entry(STEPS, "suites", suite, threads, step, "wall", "ratios", pair, "paired")
    return f"{of['median']:.2f} ({of['q1']:.2f} to {of['q3']:.2f})"


def trajectory() -> Table:
    """Return what MTT's gradient costs in three ways."""
    found = {(one["inner_steps"], one["gradient"]): one for one in whole("trajectory-gradient", "cases")}
    kinds = ("unrolled", "recomputed", "tesla")
    rows = [
        [str(steps), *(seconds_and_memory(found.get((steps, kind))) for kind in kinds)]
        for steps in sorted({steps for steps, _ in found})
    ]
    head = ("inner steps", "unrolled", "recomputed", "TESLA's")
    command = "python benchmarks/cost/trajectory_gradient.py"
    return Table(head, rows, "CPU-seconds / peak MB.", ("trajectory-gradient",), (command,))


def whole(file: str, key: str) -> list[dict[str, float]]:
    """Return the cases that were not cut into parts."""
    return [one for one in measured.entry(file, key) if not one.get("chunk")]


def seconds_and_memory(case: dict[str, float] | None) -> str:
    """Return CPU-seconds and memory of a case."""
    return "-" if case is None else f"{case['cpu_seconds']:.1f} / {case['megabytes']:.0f}"


def sizes() -> Table:
    """Return what an iteration of DM costs by the size of the set."""
    rows = [
        [
            str(one["classes"]),
            str(one["ipc"]),
            str(one["part"]),
            f"{one['cpu_seconds']:.1f}",
            str(one["peak_megabytes"] - one["megabytes_before"]),
        ]
        for one in measured.entry("cost-condensation-sizes", "sizes")
    ]
    says = "Medians of 5 iterations, one thread; memory is the peak above that before the first iteration."
    command = "python benchmarks/cost/distribution_matching.py sizes --turns 5"
    head = ("classes", "per class", "classes in a part", "CPU-seconds", "MB")
    return Table(head, rows, says, ("cost-condensation-sizes",), (command,))


def class_by_class() -> Table:
    """Return what DM costs beside one class at a time."""
    rows = []
    for images, of in measured.entry("cost-condensation-speed", "speed").items():
        times = of["wall"]["milliseconds"]
        ratio = of["wall"]["ratios"]["class by class / ours"]["paired"]
        seconds = [f"{times[who]['median'] / 1000:.2f}" for who in ("ours", "class by class")]
        rows.append([images, *seconds, f"{ratio['median']:.2f} ({ratio['q1']:.2f} to {ratio['q3']:.2f})"])
    says = "Seconds of an iteration, medians of 9 interleaved turns, one thread; quartiles in brackets."
    command = "python benchmarks/cost/distribution_matching.py speed"
    head = ("real images per class", "ours", "one class at a time", "ratio")
    return Table(head, rows, says, ("cost-condensation-speed",), (command,))


def evaluator() -> Table:
    """Return the time of networks trained in one pass beside a loop."""
    rows = [
        [case, f"{of['wall']['batch / loop']['median']:.2f}"]
        for case, of in measured.entry("evaluator", "cases").items()
    ]
    says = "Ratio of wall times, five networks, medians of 5 interleaved turns, one thread."
    command = "python benchmarks/cost/evaluator.py --turns 5"
    return Table(("case", "one pass / loop"), rows, says, ("evaluator",), (command,))


TABLES = {
    "cost-inversion": inversion,
    "cost-inversion-memory": memory,
    "cost-steps": steps,
    "cost-trajectory": trajectory,
    "cost-dm-sizes": sizes,
    "cost-dm-speed": class_by_class,
    "cost-evaluator": evaluator,
}
