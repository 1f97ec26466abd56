"""One optimizer at a time, in plain PyTorch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import SGD, Adam

from lightning_condkd.steps import OptimizerTurns


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self) -> Tensor:
        images = torch.ones(2, 3)
        return (self.first(images) + self.second(images)).square().sum()

    def turns(self) -> OptimizerTurns:
        return OptimizerTurns({"first": SGD(self.first.parameters(), 0.1), "second": Adam(self.second.parameters())})


def test_an_update_moves_its_own_parameters_and_leaves_no_gradient_elsewhere() -> None:
    two = Two()
    before = {name: value.clone() for name, value in two.state_dict().items()}
    with two.turns().turn("first") as update:
        update(two())
    moved = {name for name, value in two.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"first.weight", "first.bias"}
    assert {name for name, p in two.named_parameters() if p.grad is None} == {"second.weight", "second.bias"}
    assert all(parameter.requires_grad for parameter in two.parameters())


def test_what_was_frozen_before_stays_so_also_after_an_error() -> None:
    two = Two()
    two.second.bias.requires_grad_(False)

    def fail() -> None:
        with two.turns().turn("first"):
            assert not two.second.weight.requires_grad
            raise RuntimeError("here")

    with pytest.raises(RuntimeError, match="here"):
        fail()
    assert [p.requires_grad for p in two.parameters()] == [True, True, True, False]


def test_a_parameter_of_two_optimizers_is_trained_by_either() -> None:
    two = Two()
    turns = OptimizerTurns({"one": SGD(two.parameters(), 0.1), "other": SGD([two.first.weight], 0.1)})
    for name in ("one", "other"):
        before = two.first.weight.clone()
        with turns.turn(name) as update:
            update(two())
        assert not torch.equal(two.first.weight, before)


def test_without_an_optimizer_the_forward_pass_has_no_graph() -> None:
    two = Two()
    with two.turns().turn("third") as update:
        loss = two()
        update(loss)
    assert not loss.requires_grad
    assert all(parameter.grad is None for parameter in two.parameters())


@pytest.mark.parametrize("scaler", [None, GradScaler("cpu", init_scale=2.0**10)], ids=["plain", "scaled"])
@pytest.mark.parametrize(("clip", "expected"), [(0.25, 0.25), (None, 12.0)])
def test_a_gradient_is_clipped_to_its_whole_norm(
    clip: float | None, expected: float, scaler: GradScaler | None
) -> None:
    parameters = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    turns = OptimizerTurns({"both": SGD([{"params": [p], "lr": 1.0} for p in parameters])}, scaler)
    with turns.turn("both", clip) as update:
        update(12 * (0.6 * parameters[0] + 0.8 * parameters[1]).sum())
    assert float(torch.cat(parameters).detach().norm()) == pytest.approx(expected)


def test_rates_are_scaled_from_their_first_value_and_state_is_forgotten_by_parameter() -> None:
    two = Two()
    turns = two.turns()
    for factor in (0.5, 0.2):
        turns.scale("first", factor)
    turns.scale("none of that name", 3.0)
    assert turns.optimizers["first"].param_groups[0]["lr"] == pytest.approx(0.02)
    with turns.turn("second") as update:
        update(two())
    turns.forget("second", [two.second.bias])
    assert set(turns.optimizers["second"].state) == {two.second.weight}
