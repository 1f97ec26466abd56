from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from lightning_condkd.distillation import VID
from lightning_condkd.distillation.parts.regressors import VariationalRegressor
from lightning_condkd.functional.feature_maps import gaussian_nll
from tests.helpers.feature_losses import FIRST, LAST, MIDDLE, pair, without_gradient
from tests.reference import feature_losses as reference


def test_it_is_the_formula_summed_over_the_stages() -> None:
    networks = pair(count=3)
    loss = networks.build(VID([MIDDLE, LAST]))
    with torch.no_grad():
        for regressor in loss.regressors:
            regressor.variance_logit += torch.linspace(-8, 0, len(regressor.variance_logit)).double()
    student, teacher = networks.outputs(loss)
    expected = torch.zeros(())
    for regressor, s, t in zip(loss.regressors, student.maps, teacher.maps, strict=True):
        weights = [layer.weight for layer in regressor.mean if hasattr(layer, "weight")]
        expected = expected + reference.variational(s, t, weights, regressor.variance_logit, eps=1e-5)
    torch.testing.assert_close(loss(student, teacher), expected, rtol=0, atol=1e-9, check_dtype=False)


@pytest.mark.parametrize(("teacher", "student"), [(MIDDLE, FIRST), (FIRST, MIDDLE)])
def test_the_larger_map_is_pooled(teacher: str, student: str) -> None:
    networks = pair(count=2)
    loss = networks.build(VID([teacher], [student]))
    outputs = networks.outputs(loss)
    mean, variance = loss.regressors[0](reference.pool(outputs[0].maps[0], 4, 4))
    expected = gaussian_nll(mean, variance, reference.pool(outputs[1].maps[0], 4, 4))
    torch.testing.assert_close(loss(*outputs), expected, rtol=0, atol=1e-9)


def test_with_equal_maps_and_an_identity_regressor_the_minimum_is_at_the_smallest_variance() -> None:
    maps, values = torch.rand(2, 4, 3, 3, dtype=torch.float64), []
    regressor = VariationalRegressor(4, 4, eps=1e-5).double()
    for layer in regressor.mean[::2]:
        torch.nn.init.dirac_(layer.weight)
    for raw in (2.0, 0.0, -5.0, -50.0):
        torch.nn.init.constant_(regressor.variance_logit, raw)
        mean, variance = regressor(maps)
        values.append(gaussian_nll(mean, variance, maps).item())
    assert values == sorted(values, reverse=True)
    assert values[-1] == pytest.approx(math.log(1e-5) / 2, abs=1e-9)


def test_the_variance_starts_at_the_published_value_and_is_trained() -> None:
    networks = pair()
    loss = networks.build(VID([MIDDLE, LAST]))
    assert [r.variance.mean().item() for r in loss.regressors] == pytest.approx([5.0, 5.0])
    loss(*networks.outputs(loss)).backward()
    assert without_gradient(networks.student, loss) == {
        "student network.linear.weight",
        "student network.linear.bias",
    }
    assert all(one.grad is None for one in networks.teacher.parameters())
    names = {name for name, _ in loss.named_parameters()}
    assert len(names) == sum(len(group["params"]) for group in loss.parameter_groups()) == 8


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"teacher_maps": []}, "one at least.*name the modules in pairs"),
        ({"teacher_maps": "layer1"}, r"teacher_maps: expected a list of names.*'layer1'"),
        ({"teacher_maps": ["a"], "student_maps": ["a", "b"]}, r"got \['a', 'b'\] and \['a'\]"),
        ({"teacher_maps": ["a"], "eps": 0.0}, "expected 0 < eps < initial_variance, got eps=0.0"),
        ({"teacher_maps": ["a"], "initial_variance": 1e-6}, "initial_variance=1e-06"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        VID(**arguments)


def test_an_output_that_is_no_map_is_refused_at_setup() -> None:
    with pytest.raises(ValueError, match=r"VID: .*student_maps\[1\] returns \(N, 3\): name a convolution or a stage"):
        pair().build(VID([MIDDLE, LAST], [MIDDLE, "linear"]))
