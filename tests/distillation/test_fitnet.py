from __future__ import annotations

import pytest
import torch

from lightning_condkd.distillation import FitNet
from tests.helpers.feature_losses import FIRST, LAST, MIDDLE, pair, without_gradient
from tests.reference import feature_losses as reference
from tests.reference.feature_losses import batch_norm, convolution, mean_squared, relu, transposed_convolution


@pytest.mark.parametrize(("teacher", "student", "stride"), [(LAST, FIRST, 2), (FIRST, FIRST, 1)])
def test_it_is_the_formula(teacher: str, student: str, stride: int) -> None:
    networks = pair()
    loss = networks.build(FitNet(teacher, student))
    outputs = networks.outputs(loss)
    parameters = dict(loss.regressor.named_parameters())
    padding = 1 if stride == 2 else 0
    assert parameters["0.weight"].shape[2] == (3 if stride == 2 else 1)
    expected = reference.hint(outputs[0].maps[0], outputs[1].maps[0], parameters, stride, padding)
    torch.testing.assert_close(loss(*outputs), expected, rtol=0, atol=1e-9, check_dtype=False)


def test_a_map_of_half_the_size_is_enlarged() -> None:
    networks = pair()
    loss = networks.build(FitNet(FIRST, MIDDLE))
    student, teacher = networks.outputs(loss)
    w = dict(loss.regressor.named_parameters())
    hidden = transposed_convolution(student.maps[0], w["0.weight"], w["0.bias"], stride=2, padding=1)
    expected = mean_squared(relu(batch_norm(hidden, w["1.weight"], w["1.bias"])), teacher.maps[0])
    torch.testing.assert_close(loss(student, teacher), expected, rtol=0, atol=1e-9, check_dtype=False)


def test_the_reference_convolution_is_a_convolution() -> None:
    maps, weight, bias = torch.rand(2, 3, 6, 6), torch.rand(4, 3, 3, 3), torch.rand(4)
    ours = torch.nn.functional.conv2d(maps, weight, bias, 2, 1)
    torch.testing.assert_close(convolution(maps, weight, bias, 2, 1), ours)


def test_gradients_reach_student_and_regressor_and_the_teacher_stays() -> None:
    networks = pair()
    loss = networks.build(FitNet(MIDDLE))
    before = {name: value.clone() for name, value in networks.teacher.state_dict().items()}
    loss(*networks.outputs(loss)).backward()
    later = ("features.6", "features.7", "linear")  # of the student, after the map
    assert all(any(part in name for part in later) for name in without_gradient(networks.student, loss))
    assert all(one.grad is None for one in networks.teacher.parameters())
    assert all(torch.equal(value, before[name]) for name, value in networks.teacher.state_dict().items())


def test_the_student_learns_the_map() -> None:
    networks = pair()
    loss = networks.build(FitNet(LAST))
    groups = [{"params": list(networks.student.parameters())}, *loss.parameter_groups()]
    optimizer, values = torch.optim.SGD(groups, lr=0.1, momentum=0.9), []
    before = loss.regressor[0].weight.detach().clone()
    for _ in range(15):
        optimizer.zero_grad()
        values.append(loss(*networks.outputs(loss)))
        values[-1].backward()
        optimizer.step()
    assert values[-1] < 0.7 * values[0]
    assert not torch.equal(before, loss.regressor[0].weight)


@pytest.mark.parametrize(
    ("teacher", "student", "match"),
    [
        ("linear", LAST, r"FitNet: expected modules whose outputs are maps .* teacher_maps\[0\] returns \(N, 3\)"),
        ("nothing", LAST, "'nothing'; there are: features"),
    ],
)
def test_modules_that_do_not_fit_are_refused_at_setup(teacher: str, student: str, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        pair().build(FitNet(teacher, student))
