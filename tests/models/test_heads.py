"""Classifiers whose last layer is a convolution, and those that have no embedding at all."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import squeezenet1_1

from lightning_condkd.alignment import FeatureAlignment
from lightning_condkd.condensation import Herding
from lightning_condkd.data import CondensedDataModule, CondensedSet
from lightning_condkd.inversion import DFAD, Fast, GeneratorSettings
from lightning_condkd.models import Observer
from lightning_condkd.modules import CondKD
from lightning_condkd.rounds import Cadence
from tests.helpers import toy


def pooled(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def squeezenet() -> nn.Module:
    network: nn.Module = squeezenet1_1(num_classes=10)
    return network


@pytest.mark.parametrize("name", [None, "classifier.1"])
def test_the_embedding_of_a_1x1_convolution_is_the_spatial_mean_of_its_input(name: str | None) -> None:
    network = squeezenet().eval()
    observer = Observer(network, embedding=name)
    images = torch.rand(3, 3, 64, 64)
    output = observer(images, embedding=True)
    assert (observer.num_classes, observer.embedding_size) == (10, 512)
    assert output.embedding is not None
    torch.testing.assert_close(output.embedding, network.features(images).mean((2, 3)))
    assert torch.equal(output.logits, network(images))


def test_linear_logits_after_the_mean_follow_from_the_embedding() -> None:
    head = nn.Conv2d(4, 5, 1)
    output = Observer(pooled(nn.Conv2d(1, 4, 3), nn.ReLU(), head))(torch.rand(2, 1, 8, 8), embedding=True)
    assert output.embedding is not None
    torch.testing.assert_close(
        nn.functional.linear(output.embedding, head.weight[:, :, 0, 0], head.bias), output.logits
    )


@pytest.mark.parametrize(
    "network",
    [
        pooled(nn.Conv2d(1, 5, 3, padding=1)),
        pooled(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 5, 1), nn.BatchNorm2d(5), nn.ReLU()),
        pooled(nn.Conv2d(1, 10, 3), nn.Conv2d(10, 5, 1, groups=5)),
        nn.Sequential(nn.Conv2d(1, 5, 8), nn.Flatten()),
    ],
    ids=["3x3", "BatchNorm last", "groups", "as large as the image"],
)
def test_a_network_without_an_embedding_works_until_it_is_asked_for(network: nn.Module) -> None:
    observer, images = Observer(network), torch.rand(2, 1, 8, 8)
    assert observer.num_classes == 5
    assert observer(images).logits.shape == (2, 5)
    with pytest.raises(ValueError, match="Remove the parts that need embeddings"):
        observer(images, embedding=True)
    with pytest.raises(ValueError, match="Remove the parts that need embeddings"):
        _ = observer.embedding_size


def test_the_advice_of_a_refusal_works() -> None:
    network = pooled(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 5, 1), nn.BatchNorm2d(5))
    with pytest.raises(ValueError, match=r"pass embedding=<name of module>, .* out of 1$"):
        Observer(network)(torch.rand(2, 1, 8, 8), embedding=True)
    output = Observer(network, embedding="1")(torch.rand(2, 1, 8, 8), embedding=True)
    assert output.embedding is not None
    assert output.embedding.shape == (2, 4)
    with pytest.raises(ValueError, match=r"1x1 convolution, got '0', Conv2d.* out of 1$"):
        Observer(network, embedding="0")


class Gated(nn.Module):
    """A linear layer within, a convolution at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.gate, self.head = nn.Conv2d(1, 4, 3), nn.Linear(4, 4), nn.Conv2d(4, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        return self.head(x * self.gate(x.mean((2, 3))).sigmoid()[..., None, None]).mean((2, 3))  # type: ignore[no-any-return]


def test_logits_of_another_width_than_was_guessed_are_refused() -> None:
    images = torch.rand(2, 1, 8, 8)
    with pytest.raises(ValueError, match=r"expected logits \(N, 4\).*got \(2, 5\); pass embedding=<name of module>"):
        Observer(Gated())(images)
    observer = Observer(Gated(), embedding="head")
    assert (observer(images, embedding=True).logits.shape[1], observer.num_classes) == (5, 5)
    with pytest.raises(ValueError, match=r"got \(2, 5, 8, 8\)"):
        Observer(nn.Conv2d(1, 5, 1))(images)


@pytest.mark.parametrize("alignment", [None, FeatureAlignment()], ids=["plain", "aligned"])
def test_squeezenets_are_teacher_and_student(alignment: FeatureAlignment | None) -> None:
    condensed = CondensedSet(torch.rand(10, 3, 64, 64), torch.arange(10))
    method = Fast(cadence=Cadence(1, 1), batch_size=4, generator=GeneratorSettings(width=2, latent_size=4), bn_weight=0)
    student = squeezenet()
    before = {name: value.clone() for name, value in student.state_dict().items()}
    model = CondKD(Observer(squeezenet()), student, inversion=method, alignment=alignment)
    toy.silent_trainer(max_epochs=1).fit(model, CondensedDataModule(condensed, batch_size=4))
    assert any(not torch.equal(before[name], value) for name, value in student.state_dict().items())


def test_a_teacher_without_an_embedding_distils_plainly_and_refuses_alignment() -> None:
    def model(alignment: FeatureAlignment | None) -> CondKD:
        teacher = toy.observed(pooled(nn.Conv2d(1, toy.CLASSES, 3)))
        method = DFAD(
            cadence=Cadence(1, 2),
            batch_size=4,
            generator=GeneratorSettings(latent_size=toy.LATENT, network=toy.small_generator()),
        )
        return toy.condkd(method, alignment, teacher=teacher, student=pooled(nn.Conv2d(1, toy.CLASSES, 5)))

    assert toy.fit(model(None), mix=0.5, max_epochs=1).trainer.global_step == 3
    with pytest.raises(ValueError, match="Remove the parts that need embeddings"):
        toy.fit(model(FeatureAlignment()), mix=0.5, max_epochs=1)


def test_images_are_herded_by_the_embedding_of_a_convolution() -> None:
    teacher = Observer(pooled(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 2, 1))).freeze()
    generator = torch.Generator().manual_seed(0)
    assert Herding().select(torch.rand(6, 1, 8, 8), label=0, count=2, teacher=teacher, generator=generator).shape == (
        2,
        1,
        8,
        8,
    )
