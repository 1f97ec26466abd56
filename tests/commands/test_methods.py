"""The table of methods: every exported method has a card, and what is printed is what the methods do."""

from __future__ import annotations

import inspect
import json
from contextlib import nullcontext
from typing import Any

import pytest
from torch import Tensor

from lightning_condkd import inversion
from lightning_condkd.cli import main
from lightning_condkd.commands.methods import facts, listed_methods, methods
from lightning_condkd.inversion import Inversion, LiveInversion, MethodCard, Published
from lightning_condkd.models import Observer
from lightning_condkd.randomness import Draw, seeded_generator
from lightning_condkd.types import NetworkOutput
from tests.helpers import contract, toy

every_method = pytest.mark.parametrize("name", contract.methods())
ABSTRACT = (Inversion, LiveInversion)


def _exported() -> list[type[Inversion]]:
    public = (getattr(inversion, name) for name in inversion.__all__)
    return [one for one in public if inspect.isclass(one) and issubclass(one, Inversion) and one not in ABSTRACT]


def test_every_exported_method_has_a_card_of_its_own_and_a_row() -> None:
    """A subclass must not pass for the method that it extends."""
    assert [one.__name__ for one in _exported() if not isinstance(vars(one).get("card"), MethodCard)] == []
    assert listed_methods() == _exported()
    rows = methods().splitlines()[1 : 1 + len(_exported())]
    assert [row.split()[0] for row in rows] == [one.__name__ for one in _exported()]


def test_every_card_names_a_paper_or_says_that_there_is_none() -> None:
    for method in _exported():
        of = facts(method)
        assert bool(of["paper"]) is not of["code"].startswith("none: "), method
        assert of["summary"].endswith(".")
        assert bool(of["published"]) is bool(of["published in"])


@every_method
def test_the_need_of_batch_norm_is_that_of_the_method(name: str) -> None:
    needs = "BatchNorm" in facts(contract.methods()[name])["needs"]
    method, spec = contract.make(name), toy.spec(bn_channels=(), mean=(0.25,), std=(0.5,))
    with pytest.raises(ValueError, match="BatchNorm") if needs else nullcontext():
        method.build(spec, seeded_generator(0, "build"))


class Counting:
    """A teacher that counts its forward passes."""

    def __init__(self) -> None:
        self.network, self.passes = toy.observed(toy.network("teacher")).freeze(), 0

    def __call__(self, images: Tensor, **asked: Any) -> NetworkOutput:
        self.passes += 1
        return self.network(images, **asked)  # type: ignore[no-any-return]


@every_method
def test_the_passes_of_the_teacher_are_counted(name: str) -> None:
    method, teacher = contract.built(name), Counting()
    student: Observer = toy.observed(toy.network("student 1")).requires_grad_(False)
    unit = method.cadence.unit(1, 0)
    method.start(unit, Draw(0, 0))
    method.loss(method.render(unit, Draw(0, 0)), teacher, student, unit, Draw(0, 0))
    assert teacher.passes == facts(contract.methods()[name])["teacher passes a synthesis step"]


def test_the_facts_are_those_of_the_defaults() -> None:
    of = facts(inversion.Fast)
    made = inversion.Fast()
    assert of["synthesis steps a block"] == made.cadence.synthesis_steps == 5
    assert facts(inversion.NAYER)["synthesis steps a block"] == 2 * 30  # two batches of images
    assert of["images a synthesis step"] == made.batch_size
    assert of["needs"] == ["BatchNorm"]
    assert of["stores"] == "images"
    assert "AAAI 2022" in of["paper"]
    assert {"dataset": "CIFAR-10", "networks": "ResNet-34 to ResNet-18", "accuracy": 93.63} in of["published"]
    assert facts(inversion.DAFL)["needs"] == ["final linear layer"]
    assert facts(inversion.ZSKT)["stores"] == "nothing"
    assert facts(inversion.NoInversion)["needs"] == ["condensed set"]
    assert facts(inversion.NoInversion)["teacher passes a synthesis step"] == 0
    assert facts(inversion.RealSubset)["needs"] == ["real images"]


def test_the_command_line_prints_a_table_a_card_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    main(["methods"])
    header, first, *_ = capsys.readouterr().out.splitlines()
    assert header.split()[:3] == ["method", "needs", "stores"]
    assert first.split()[:4] == ["CMI", "BatchNorm", "images", "200"]
    main(["methods", "--name", "CMI"])
    card = capsys.readouterr().out
    assert card.startswith("CMI: Inversion with a generator and latents")
    assert "published, CIFAR-100, WRN-40-2 to WRN-16-2    68.75 %" in card
    assert "arXiv 2105.08584" in card
    main(["methods", "--format", "json"])
    assert json.loads(capsys.readouterr().out) == [facts(method) for method in listed_methods()]
    main(["methods", "--name", "DFQ", "--format", "json"])
    assert json.loads(capsys.readouterr().out) == facts(inversion.DFQ)


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"expected the name of a method, got 'Fats'; there are: CMI, .*Fast"):
        methods(name="Fats")


def test_accuracies_and_their_source_belong_together() -> None:
    numbers = (Published("CIFAR-10", "A to B", 90.0),)
    for arguments in ({"published": numbers}, {"published_in": "a table"}):
        with pytest.raises(ValueError, match="give both published and published_in, or none"):
            MethodCard("code", **arguments)  # type: ignore[arg-type]


def test_a_method_without_a_card_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inversion.DFAD, "card", None)
    assert "DFAD" not in methods()
    assert "Fast" in methods()
