"""Whether a network fits the data is found out in one way, which leaves no trace in it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lightning_condkd.models import ConvNet, Observer
from lightning_condkd.models.checks import check_classifier
from lightning_condkd.models.encoder import Encoder
from tests.helpers import toy


class Pair(nn.Module):
    """Returns what no classifier does."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 3)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return images, self.linear(images.flatten(1))


@pytest.mark.parametrize("frozen", [False, True])
def test_a_check_leaves_modes_and_statistics_as_they_were(frozen: bool) -> None:
    observer = Observer(ConvNet(3, image_size=8, in_channels=1, depth=1, width=4, norm="batch")).train()
    observer.network.features[1].eval()  # type: ignore[index, union-attr]
    if frozen:
        observer.freeze()
    modes, before = [module.training for module in observer.modules()], observer.fingerprint()
    output = check_classifier("teacher", observer, (1, 8, 8), 3, embedding=True, bn=True)
    with pytest.raises(ValueError, match="cannot read"):
        check_classifier("teacher", observer, (3, 8, 8), 3)
    assert [module.training for module in observer.modules()] == modes
    assert observer.fingerprint() == before
    assert output.embedding is not None
    assert [len(one.mean) for one in output.bn] == [4]


@pytest.mark.parametrize(
    ("network", "match"),
    [
        (Pair(), r"student: Pair cannot read images of \(1, 8, 8\).*Observer said: expected Pair to return logits"),
        (toy.network("student 1", num_classes=5), r"student: expected 3 classes as in the data, .* \(2, 5\)"),
        (Encoder((1, 8, 8), latent_size=3, width=2), "student: Encoder cannot read .* logits"),
        (toy.network("student 1", in_channels=3), "student: .* cannot read images of .1, 8, 8. .channels, height"),
    ],
)
def test_what_is_no_classifier_of_the_data_is_named(network: nn.Module, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        check_classifier("student", Observer(network), (1, 8, 8), 3)
    assert torch.is_grad_enabled()


def test_a_run_checks_its_student_in_the_same_way() -> None:
    with pytest.raises(ValueError, match=r"student: .* cannot read images of \(1, 8, 8\) \(channels, height"):
        toy.fit(toy.condkd(student=toy.network("student 1", in_channels=3)))
