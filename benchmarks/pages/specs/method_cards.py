"""Method cards: what ``lightning-condkd methods`` prints, split to tables of a few columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.pages.layout import Cell, Table
from benchmarks.pages.specs import cost
from lightning_condkd.commands.methods import WAYS, facts, listed_methods, methods

BEGINNINGS = {"digits": "11 rounds of 16 images", "cifar10": "11 rounds of 50 images, ResNet-20 to ResNet-8"}
PAIR, WIDE = "ResNet-34 to ResNet-18", "WRN-40-2 to WRN-16-2"


def cards() -> list[dict[str, Any]]:
    """Return the facts about every method."""
    return [facts(method) for method in listed_methods()]


def controls(card: Mapping[str, Any]) -> bool:
    """Return whether a method is a control of this package."""
    return str(card["code"]).startswith("none")


def needs() -> Table:
    """Return what every method needs and stores, and its steps."""
    rows = [
        [f"`{card['method']}`", ", ".join(card["needs"]) or "nothing", card["stores"], steps(card), price(card)]
        for card in sorted(cards(), key=controls)
    ]
    says = "_Steps a round_: of synthesis and of the student, published. _CPU-seconds an image_: at the published "
    says += "steps, 32 px, ResNet-20 teacher, one thread, unaligned; the table of what an image costs has the rest."
    return Table(
        ("method", "needs of the teacher", "stores", "steps a round", "CPU-seconds an image"),
        rows,
        says,
        (cost.INVERSION,),
    )


def steps(card: Mapping[str, Any]) -> str:
    """Return the steps of a round."""
    of = [card["blocks a round"] * card[f"{who} steps a block"] for who in ("synthesis", "student")]
    return f"{of[0]:,} + {of[1]:,}"


def price(card: Mapping[str, Any]) -> str:
    """Return the seconds of an image, where they were measured."""
    prices = {method: str(row[-1]) for method, row in zip(cost.METHODS.values(), cost.inversion().rows, strict=True)}
    return prices.get(card["method"], "-")


def published() -> Table:
    """Return the published accuracies of every method with their sources."""
    rows = [
        [f"`{card['method']}`", *(accuracy(card, *where) for where in COLUMNS), card["published in"]]
        for card in cards()
        if card["published"]
    ]
    head = ("method", f"CIFAR-10, {PAIR}", f"CIFAR-100, {PAIR}", f"CIFAR-100, {WIDE}", "source")
    return Table(head, rows, "Top-1 accuracy in %, without any real or condensed image.")


COLUMNS = (("CIFAR-10", PAIR), ("CIFAR-100", PAIR), ("CIFAR-100", WIDE))


def accuracy(card: Mapping[str, Any], dataset: str, networks: str) -> str:
    """Return a published accuracy of a card."""
    found = [one["accuracy"] for one in card["published"] if (one["dataset"], one["networks"]) == (dataset, networks)]
    return str(found[0]) if found else "-"


def ours(task: str) -> Table:
    """Return our accuracies of the cards on a task."""
    rows = [
        [f"`{card['method']}`", *(way(card["ours"][task], name) for name in WAYS)]
        for card in cards()
        if task in card["ours"]
    ]
    says = f"Last accuracy in %, mean over the seeds; {BEGINNINGS[task]}."
    return Table(("method", "plain", "+ condensed", "guided"), rows, says, (f"methods-{task}",))


def way(figures: Mapping[str, Any], name: str) -> Cell | str:
    """Return one accuracy of a card."""
    return Cell(str(figures[name]), figures["seeds"]) if name in figures else "-"


def printed() -> str:
    """Return every card as the command prints it."""
    return "\n\n".join(
        f"## {card['method']}\n\n```text\n{methods(name=card['method'])}\n```" for card in sorted(cards(), key=controls)
    )


TABLES = {
    "methods-needs": needs,
    "methods-published": published,
    "methods-ours-digits": lambda: ours("digits"),
    "methods-ours-cifar10": lambda: ours("cifar10"),
    "method-cards": printed,
}
