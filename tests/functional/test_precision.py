from __future__ import annotations

import pytest
import torch

from lightning_condkd.functional import adversarial, divergence, inversion, matching
from lightning_condkd.precision import at_least_float32
from lightning_condkd.types import BatchNormStatistics

LOGITS = torch.tensor([[1.0, 2.0, 0.5], [3.0, 0.0, 1.0]])
LABELS = torch.tensor([1, 0])

LOSSES = {
    "kd_divergence": lambda x: divergence.kd_divergence(x, x.flip(0), 4.0),
    "logits_l1": lambda x: divergence.logits_l1(x, x.flip(0)),
    "class_loss": lambda x: inversion.class_loss(x, LABELS),
    "bn_distance": lambda x: inversion.bn_distance([BatchNormStatistics(x[0], x[0], x[1].float(), x[1].float())]),
    "adversarial_divergence": lambda x: divergence.adversarial_divergence(x, 2 * x),
    "discriminator_bce": lambda x: adversarial.discriminator_loss(x[0], x[1]),
    "discriminator_hinge": lambda x: adversarial.discriminator_loss(x[0], x[1], "hinge"),
    "generator_bce": lambda x: adversarial.generator_loss(x[0]),
    "generator_hinge": lambda x: adversarial.generator_loss(x[0], "hinge"),
    "matching": lambda x: matching.mean_embedding_distance(
        matching.class_means(x, LABELS, 2), matching.class_means(x.flip(0), LABELS, 2)
    ),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_losses_of_half_precision_equal_those_of_float32(name: str, dtype: torch.dtype) -> None:
    # All numbers above are exact in half precision, hence only the arithmetic could differ.
    loss = LOSSES[name](LOGITS.to(dtype))
    assert loss.dtype == torch.float32
    assert torch.equal(loss, LOSSES[name](LOGITS))


@pytest.mark.parametrize("name", LOSSES)
def test_losses_keep_float64(name: str) -> None:
    assert LOSSES[name](LOGITS.double()).dtype == torch.float64


def test_at_least_float32_does_not_copy_what_is_wide_enough() -> None:
    assert at_least_float32(LOGITS) is LOGITS
