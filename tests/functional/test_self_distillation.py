import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_condkd.functional.adversarial import critic_loss, gradient_penalty
from lightning_condkd.functional.logits import standardize_logits
from lightning_condkd.functional.self_distillation import self_distillation_loss
from tests.reference import self_distillation as reference


def logits(seed: int, n: int = 7, k: int = 5) -> Tensor:
    return 3 * torch.randn(n, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


LABELS = torch.tensor([4, 0, 0, 2, 4, 4, 2])


@pytest.mark.parametrize("distance", ["kl", "mse"])
@pytest.mark.parametrize("pairing", ["sample", "class_mean"])
@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_loss_equals_the_transcription(temperature: float, standardize: bool, pairing: str, distance: str) -> None:
    choices = {"temperature": temperature, "standardize": standardize, "pairing": pairing, "distance": distance}
    actual = self_distillation_loss(logits(0), logits(1), LABELS, **choices)  # type: ignore[arg-type]
    expected = reference.self_distillation_loss(logits(0), logits(1), LABELS, **choices)  # type: ignore[arg-type]
    assert actual.item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("distance", ["kl", "mse"])
def test_it_is_zero_for_equal_batches_and_by_class_for_reordered_ones(distance: str) -> None:
    order = torch.tensor([5, 2, 1, 6, 0, 4, 3])  # rows change places within their class
    assert torch.equal(LABELS[order], LABELS)
    for pairing, rows in (("sample", torch.arange(7)), ("class_mean", order)):
        loss = self_distillation_loss(logits(0), logits(0)[rows], LABELS, pairing=pairing, distance=distance)  # type: ignore[arg-type]
        assert loss < 1e-20
    assert self_distillation_loss(logits(0), logits(0)[order], LABELS, pairing="sample", distance=distance) > 0.01  # type: ignore[arg-type]


def test_standardisation_removes_the_scale_and_the_shift_of_each_sample() -> None:
    scale, shift = torch.rand(7, 1).double() + 0.5, torch.randn(7, 1).double()
    assert torch.allclose(standardize_logits(scale * logits(0) + shift), standardize_logits(logits(0)), atol=1e-6)
    standard = standardize_logits(logits(0))
    assert torch.allclose(standard.mean(1), torch.zeros(7).double(), atol=1e-12)
    assert torch.allclose(standard.std(1), torch.ones(7).double(), atol=1e-6)
    with_it, without = (
        self_distillation_loss(logits(0), 2 * logits(0), LABELS, standardize=on) for on in (True, False)
    )
    assert with_it < 1e-10
    assert without > 0.1


def test_gradient_reaches_the_generated_side_only_and_stays_finite_for_equal_logits() -> None:
    real, synthetic = logits(0).requires_grad_(), logits(1)
    synthetic[3] = 1.0
    synthetic.requires_grad_()
    for pairing in ("sample", "class_mean"):
        synthetic.grad = None
        self_distillation_loss(real, synthetic, LABELS, pairing=pairing).backward()  # type: ignore[arg-type]
        assert real.grad is None
        assert synthetic.grad is not None
        assert synthetic.grad.isfinite().all()
        assert (synthetic.grad[[0, 1, 2, 4, 5, 6]].abs().sum(1) > 0).all()


def test_without_temperature_and_standardisation_mse_is_the_distance_of_dim() -> None:
    loss = self_distillation_loss(
        logits(0), logits(1), LABELS, temperature=1.0, standardize=False, pairing="sample", distance="mse"
    )
    assert torch.allclose(loss, ((F.log_softmax(logits(0), 1) - F.log_softmax(logits(1), 1)) ** 2).mean())


def test_half_precision_is_computed_in_float32() -> None:
    assert self_distillation_loss(logits(0).bfloat16(), logits(1).bfloat16(), LABELS).dtype == torch.float32


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"temperature": 0.0}, "temperature"),
        ({"pairing": "batch"}, "class_mean"),
        ({"distance": "l1"}, "'kl' or 'mse'"),
        ({"synthetic_logits": logits(1, n=6)}, "pair the batches"),
        ({"labels": LABELS[:3]}, "pair the batches"),
    ],
)
def test_mistakes_are_named(wrong: dict[str, object], message: str) -> None:
    right = {"real_logits": logits(0), "synthetic_logits": logits(1), "labels": LABELS}
    with pytest.raises(ValueError, match=message):
        self_distillation_loss(**(right | wrong))  # type: ignore[arg-type]


def test_one_class_cannot_be_standardized() -> None:
    with pytest.raises(ValueError, match="at least 2 classes"):
        standardize_logits(torch.zeros(3, 1))


def critic() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(18, 6), nn.Tanh(), nn.Linear(6, 1), nn.Flatten(0)).double()


def test_gradient_penalty_equals_finite_differences() -> None:
    network, images = critic(), logits(0, 6, 18).view(6, 2, 3, 3)
    real, synthetic, mix = images[:3], images[3:], torch.tensor([0.0, 0.3, 1.0]).double()
    actual = gradient_penalty(network, real, synthetic, mix)
    assert actual.item() == pytest.approx(reference.gradient_penalty(network, real, synthetic, mix), rel=1e-6)


def test_gradient_penalty_teaches_the_critic_and_not_the_images() -> None:
    network, images = critic(), logits(0, 6, 18).view(6, 2, 3, 3).requires_grad_()
    gradient_penalty(network, images[:3], images[3:], torch.rand(3)).backward()
    assert images.grad is None
    gradients = [parameter.grad for parameter in network.parameters()]
    assert gradients[0] is not None
    assert gradients[0].abs().sum() > 0


def test_a_flat_critic_has_a_penalty_of_one_and_a_finite_gradient() -> None:
    slope = torch.zeros(1, requires_grad=True)
    penalty = gradient_penalty(
        lambda x: slope * x.flatten(1).sum(1), torch.ones(2, 1, 2, 2), torch.zeros(2, 1, 2, 2), torch.rand(2)
    )
    penalty.backward()
    assert penalty == 1
    assert slope.grad is not None
    assert slope.grad.isfinite()


def test_a_critic_of_unit_slope_has_no_penalty_and_a_distance_of_the_means() -> None:
    def realness(images: Tensor) -> Tensor:
        return images.flatten(1)[:, 0]

    real, synthetic = torch.ones(4, 1, 2, 2), torch.zeros(4, 1, 2, 2)
    assert gradient_penalty(realness, real, synthetic, torch.rand(4)) == 0
    assert gradient_penalty(realness, real, synthetic, torch.rand(4), scale=0.5) == 0.25
    assert critic_loss(realness(real), realness(synthetic)) == -1
