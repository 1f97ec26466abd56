from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_condkd.functional.trajectory import (
    Part,
    Segment,
    positive_step_size,
    recomputed,
    tesla,
    trajectory_distance,
    unrolled,
)
from tests.reference import trajectory as reference

CLASSES, LABELS = 3, [0, 1, 2, 1]
BATCHES = [[0, 1, 2, 3], [3, 0], [1, 2], [2, 0, 1, 3], [3]]
Gradient = Callable[[Segment, Tensor, Tensor], Tensor]


def uniform(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=generator, dtype=torch.float64)


def regression(steps: int, chunk: int = 4) -> Segment:
    """Softmax regression on images of four pixels, trained on the first batches."""

    def part(batch: list[int], chosen: list[int]) -> Part:
        def loss(parameters: Tensor, images: Tensor) -> Tensor:
            scores = images.flatten(1) @ parameters.view(CLASSES, 4).T
            return F.cross_entropy(scores, torch.tensor(LABELS)[chosen], reduction="sum") / len(batch)

        return Part(torch.tensor(chosen), loss)

    parts = [[part(batch, batch[i : i + chunk]) for i in range(0, len(batch), chunk)] for batch in BATCHES[:steps]]
    return Segment(uniform(12, seed=1), uniform(12, seed=2), parts)


def perceptron(steps: int) -> Segment:
    """Two layers with a bent function between them, so that second derivatives are not small."""

    def loss(parameters: Tensor, images: Tensor) -> Tensor:
        first, second = parameters.split([4 * 5, 5 * CLASSES])
        hidden = (images.flatten(1) @ first.view(4, 5)).tanh()
        return F.cross_entropy(hidden @ second.view(5, CLASSES), torch.tensor(LABELS))

    start, target = (uniform(35, seed=seed) - 0.5 for seed in (3, 4))
    return Segment(start, target, [[Part(torch.arange(4), loss)]] * steps)


def differentiated(of: Gradient, segment: Segment) -> tuple[Tensor, Tensor, Tensor]:
    images, step_size = uniform(4, 1, 2, 2, seed=0).requires_grad_(), torch.tensor(0.7, dtype=torch.float64)
    step_size.requires_grad_()
    distance = of(segment, images, step_size)
    return distance.detach(), *torch.autograd.grad(distance, [images, step_size])


def transcribed(steps: int, hold_parameters: bool) -> tuple[Tensor, Tensor, Tensor]:
    def of(segment: Segment, images: Tensor, step_size: Tensor) -> Tensor:
        arguments = (LABELS, BATCHES[:steps], step_size, segment.start, segment.target, CLASSES, hold_parameters)
        return reference.matching_loss(images, *arguments)

    return differentiated(of, regression(steps))


def assert_equal(first: tuple[Tensor, ...], second: tuple[Tensor, ...]) -> None:
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("of", [unrolled, recomputed])
def test_distance_and_its_gradients_follow_the_formula(of: Gradient, steps: int) -> None:
    assert_equal(differentiated(of, regression(steps)), transcribed(steps, hold_parameters=False))


@pytest.mark.parametrize("steps", [1, 5])
def test_tesla_follows_its_own_formula(steps: int) -> None:
    assert_equal(differentiated(tesla, regression(steps)), transcribed(steps, hold_parameters=True))


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_recomputed_equals_unrolled(steps: int) -> None:
    assert_equal(differentiated(recomputed, perceptron(steps)), differentiated(unrolled, perceptron(steps)))


def test_tesla_equals_the_gradient_after_one_step_only() -> None:
    assert_equal(differentiated(tesla, perceptron(1)), differentiated(unrolled, perceptron(1)))
    distance, of_pixels, of_size = differentiated(tesla, perceptron(5))
    expected, true_of_pixels, true_of_size = differentiated(unrolled, perceptron(5))
    torch.testing.assert_close(distance, expected)
    assert (of_pixels - true_of_pixels).norm() > 0.1 * true_of_pixels.norm()
    assert (of_size - true_of_size).abs() > 0.01 * true_of_size.abs()


@pytest.mark.parametrize("of", [unrolled, recomputed, tesla])
@pytest.mark.parametrize("chunk", [1, 3])
def test_parts_add_up_to_the_step(of: Gradient, chunk: int) -> None:
    assert_equal(differentiated(of, regression(5, chunk)), differentiated(of, regression(5)))


@pytest.mark.parametrize(("of", "graphs"), [(unrolled, 5), (recomputed, 1), (tesla, 1)])
def test_graphs_in_memory_at_a_time(of: Gradient, graphs: int) -> None:
    """Counts what backward keeps of the images' size: for each step with a graph, some; freed where recomputed."""
    alive, peak = 0, 0

    class Kept:
        def __init__(self, tensor: Tensor) -> None:
            nonlocal alive, peak
            self.tensor, alive = tensor, alive + 1
            peak = max(peak, alive)

        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    peaks = []
    for steps in (1, 5):
        alive = peak = 0
        with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
            differentiated(of, perceptron(steps))
        peaks.append(peak)
    assert peaks[1] > 4 * peaks[0] if graphs > 1 else peaks[1] == peaks[0]


def test_distance_is_1_at_the_start_0_at_the_target_and_not_finite_for_an_expert_that_stands_still() -> None:
    start, target = uniform(6, seed=0), uniform(6, seed=1)
    assert trajectory_distance(start, start, target) == 1
    assert trajectory_distance(target, start, target) == 0
    assert not trajectory_distance(target, start, start).isfinite()


def test_the_logarithm_learns_as_published_in_small_steps_and_never_turns_negative() -> None:
    for rate, slope in ((1e-6, 3.0), (1e-6, -3.0), (1.0, 3.0)):
        logarithm = torch.tensor(0.02, dtype=torch.float64).log().requires_grad_()
        (slope * positive_step_size(logarithm)).backward()
        torch.optim.SGD([logarithm], lr=rate).step()
        learned, published = float(logarithm.detach().exp()), 0.02 - rate * slope
        if rate < 1e-3:
            assert learned == pytest.approx(published, abs=1e-9)
        else:
            assert published < 0 <= learned
