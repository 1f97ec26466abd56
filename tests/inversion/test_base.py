"""What a method keeps of a block, and the contract that it shares with the loop around it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lightning_condkd.augment import CropFlip
from lightning_condkd.inversion import Inversion
from lightning_condkd.inversion.interfaces import Selection
from lightning_condkd.randomness import Draw, seeded_generator
from lightning_condkd.rounds import Cadence
from lightning_condkd.types import NetworkOutput, Synthetic
from tests.helpers import toy

CADENCE = Cadence(synthesis_steps=3, distill_steps=0)
UNIT = CADENCE.unit(0, 0)


def _built(selection: Selection = "total_loss") -> Inversion:
    method = Inversion(CADENCE, batch_size=4, selection=selection)
    method.build(toy.spec(), seeded_generator(0, "build"))
    return method


def _images(value: float) -> Tensor:
    return torch.full((4, *toy.SHAPE), value)


def _block(method: Inversion, inversion_losses: list[float], total_losses: list[float], round_: int = 0) -> Synthetic:
    """Play a block whose step k renders images of value k/10 and labels k."""
    for step, losses in enumerate(zip(inversion_losses, total_losses, strict=True)):
        unit = CADENCE.unit(round_, step)
        if unit.first:
            method.start(unit, Draw(0, unit.counter))
        synthetic = Synthetic(_images(step / 10), torch.full((4,), step % toy.CLASSES))
        method.after_step(synthetic, NetworkOutput(torch.zeros(4, 3)), *map(torch.tensor, losses), unit)
    return method.collect()


@pytest.mark.parametrize(("selection", "step"), [("total_loss", 1), ("inversion_loss", 0), ("last", 2)])
def test_selection(selection: Selection, step: int) -> None:
    images, labels = _block(_built(selection), inversion_losses=[1.0, 3.0, 2.0], total_losses=[6.0, 4.0, 5.0])
    assert torch.equal(images, _images(step / 10))
    assert labels is not None
    assert labels.tolist() == [step] * 4


def test_of_equal_losses_the_first_is_kept() -> None:
    assert torch.equal(_block(_built(), [1.0] * 3, [1.0] * 3).images, _images(0.0))


def test_a_block_does_not_compete_with_the_one_before() -> None:
    method = _built()
    _block(method, [0.1] * 3, [0.1] * 3)
    images = _block(method, [9.0, 8.0, 9.0], [9.0, 8.0, 9.0], round_=1).images
    assert torch.equal(images, _images(0.1))


def test_nothing_is_kept_of_a_step_without_a_number() -> None:
    assert torch.equal(_block(_built(), [2.0] * 3, [torch.nan, 2.0, torch.nan]).images, _images(0.1))


@pytest.mark.parametrize("selection", ["total_loss", "last"])
def test_a_block_without_any_number_is_refused(selection: Selection) -> None:
    """Else the images of the block before would be stored once more."""
    method = _built(selection)
    _block(method, [1.0] * 3, [1.0] * 3)
    with pytest.raises(ValueError, match=r"loss of every kept step.*lower the learning rate"):
        _block(method, [torch.nan] * 3, [torch.nan] * 3, round_=1)


def test_without_labels_the_prediction_is_kept() -> None:
    method, unit = _built(), CADENCE.unit(0, 0)
    method.start(unit, Draw(0, 0))
    logits = torch.eye(3)[[2, 0, 1, 2]]
    loss = torch.tensor(1.0)
    method.after_step(Synthetic(_images(0.5), None), NetworkOutput(logits), loss, loss, unit)
    labels = method.collect().labels
    assert labels is not None
    assert labels.tolist() == [2, 0, 1, 2]


def test_what_is_kept_survives_in_mid_block() -> None:
    """A run that is killed between two steps finds the best images again."""
    method, resumed = _built(), _built()
    for step, loss in enumerate([2.0, 1.0]):
        unit = CADENCE.unit(0, step)
        if unit.first:
            method.start(unit, Draw(0, 0))
        value = torch.tensor(loss)
        output = NetworkOutput(torch.zeros(4, 3))
        method.after_step(Synthetic(_images(loss), torch.zeros(4).long()), output, value, value, unit)
    resumed.load_state_dict(method.state_dict())
    worse, unit = torch.tensor(1.5), CADENCE.unit(0, 2)
    synthetic = Synthetic(_images(9.0), torch.zeros(4).long())
    resumed.after_step(synthetic, NetworkOutput(torch.zeros(4, 3)), worse, worse, unit)
    assert torch.equal(resumed.collect().images, _images(1.0))


def test_ranks_see_their_rows_of_one_view() -> None:
    method = Inversion(CADENCE, batch_size=4, augment=CropFlip(2))
    images = torch.rand(4, *toy.SHAPE, generator=seeded_generator(0, "images"))
    whole = method.view(images, UNIT, Draw(0, 3))
    for rank in (0, 1):
        draw = Draw(0, 3, rank, world_size=2)
        assert torch.equal(method.view(images[draw.rows], UNIT, draw), whole[rank::2])
    assert not torch.equal(method.view(images, UNIT, Draw(0, 4)), whole)
    assert not torch.equal(method.view(images, UNIT, Draw(0, 3), "other view"), whole)
    assert Inversion(CADENCE, batch_size=4).view(images, UNIT, Draw(0, 3)) is images


@pytest.mark.parametrize("method", ["render", "loss"])
def test_a_method_must_say_what_it_renders(method: str) -> None:
    with pytest.raises(NotImplementedError):
        getattr(_built(), method)(*[None] * {"render": 2, "loss": 5}[method])


def test_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match="positive batch_size of the synthesis batch, got 0"):
        Inversion(CADENCE, batch_size=0)
    with pytest.raises(ValueError, match="selection 'total_loss', 'inversion_loss' or 'last', got 'best'"):
        Inversion(CADENCE, batch_size=4, selection="best")  # type: ignore[arg-type]
