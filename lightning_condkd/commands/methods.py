"""The command ``methods``: what each inversion method needs, stores and costs, its source, and its accuracies."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

from lightning_condkd import inversion
from lightning_condkd.assets import resolve_asset
from lightning_condkd.inversion import Inversion, MethodCard
from lightning_condkd.inversion.interfaces import Source

FIGURES = "package:method-figures.json"
WAYS = ("plain", "condensed", "guided")
COLUMNS = ("method", "needs", "stores", "steps a round", "CIFAR-10", "CIFAR-100", "digits", "small CIFAR-10", "code")
NOTES = (
    "steps a round: of synthesis and of the student. CIFAR-10, CIFAR-100: published, ResNet-34 to ResNet-18.",
    "digits, small CIFAR-10: ours, last accuracy at very small budgets, plain / + condensed / guided: no reproduction.",
    "All of one method, with its paper and the source of each number: lightning-condkd methods --name Fast",
)


def methods(*, name: str | None = None, format: Literal["table", "json"] = "table") -> str:
    """Print what each inversion method needs, stores and costs, its source, and published accuracies beside ours.

    Args:
        name: name of a method, such as Fast, to print its card in full; all methods otherwise.
        format: a table for reading, or JSON.

    Raises:
        ValueError: if there is no such method.
    """
    found = [facts(method) for method in listed_methods() if name in (None, method.__name__)]
    if not found:
        names = ", ".join(method.__name__ for method in listed_methods())
        raise ValueError(f"name: expected the name of a method, got {name!r}; there are: {names}")
    if format == "json":
        return json.dumps(found if name is None else found[0], indent=1)
    return _table([_row(one) for one in found]) if name is None else _in_full(found[0])


def listed_methods() -> list[type[Inversion]]:
    """Return the exported methods that have a card, in the order of their names."""
    public = (getattr(inversion, name) for name in inversion.__all__)
    return [one for one in public if inspect.isclass(one) and issubclass(one, Inversion) and one.card is not None]


def facts(method: type[Inversion]) -> dict[str, Any]:
    """Return the facts about a method at its defaults, JSON values only.

    Args:
        method: a method with a card.
    """
    card = cast(MethodCard, method.card)
    made = method(**card.arguments)  # type: ignore[arg-type]
    summary, paper = _document(method)
    return {
        "method": method.__name__,
        "summary": summary,
        "needs": [*_needs_of_teacher(made), *card.needs],
        "stores": _stores(made.source, made.cadence.synthesis_steps),
        "synthesis steps a block": made.cadence.batches * made.cadence.synthesis_steps,
        "student steps a block": made.cadence.distill_steps,
        "blocks a round": made.cadence.repeats,
        "warm-up rounds": made.cadence.warmup_rounds,
        "images a synthesis step": made.batch_size if made.cadence.synthesis_steps else 0,
        "teacher passes a synthesis step": card.teacher_passes,
        "paper": paper,
        "code": card.code,
        "published": [one._asdict() for one in card.published],
        "published in": card.published_in,
        "ours": {task: of[method.__name__] for task, of in _figures().items() if method.__name__ in of},
    }


def _needs_of_teacher(method: Inversion) -> list[str]:
    needs = {"BatchNorm": bool(getattr(method, "bn_weight", 0.0)), "final linear layer": method.needs_embedding}
    return [name for name, needed in needs.items() if needed]


def _stores(source: Source, synthesis_steps: int) -> str:
    return "images" if source == "bank" and synthesis_steps else "nothing"


def _document(method: type[Inversion]) -> tuple[str, str]:
    """Return the first line and the references of a docstring."""
    text = inspect.getdoc(method) or ""
    _, _, references = text.partition("References:\n")
    return text.partition("\n")[0], " ".join(references.split())


def _figures() -> dict[str, dict[str, dict[str, Any]]]:
    content: dict[str, dict[str, dict[str, Any]]] = json.loads(resolve_asset(FIGURES).read_text())
    return content


def _row(of: Mapping[str, Any]) -> list[str]:
    blocks = of["blocks a round"]
    steps = f"{blocks * of['synthesis steps a block']} + {blocks * of['student steps a block']}"
    resnet = {one["dataset"]: one["accuracy"] for one in of["published"] if one["networks"].startswith("ResNet-34")}
    published = [str(resnet.get(dataset, "-")) for dataset in ("CIFAR-10", "CIFAR-100")]
    ours = [_accuracies(of["ours"].get(task, {})) for task in ("digits", "cifar10")]
    return [of["method"], ", ".join(of["needs"]) or "nothing", of["stores"], steps, *published, *ours, of["code"]]


def _accuracies(ways: Mapping[str, Any]) -> str:
    return " / ".join(str(ways.get(way, "-")) for way in WAYS) if ways else "-"


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(COLUMNS, *rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in (COLUMNS, *rows))
    return "\n".join((*lines, "", *NOTES))


def _in_full(of: Mapping[str, Any]) -> str:
    lines = {name: _text(value) for name, value in of.items() if name not in ("method", "summary", "published", "ours")}
    for one in of["published"]:
        lines[f"published, {one['dataset']}, {one['networks']}"] = f"{one['accuracy']} %"
    for task, ways in of["ours"].items():
        lines[f"ours, {task}: {' / '.join(WAYS)}"] = (
            f"{_accuracies(ways)} % ({ways['seeds']} seeds, a very small budget)"
        )
    width = max(map(len, lines))
    return "\n".join((f"{of['method']}: {of['summary']}", *(f"  {n.ljust(width)}  {v}" for n, v in lines.items() if v)))


def _text(value: object) -> str:
    return (", ".join(value) or "nothing") if isinstance(value, list) else str(value)
