from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_condkd.augment import CropFlip, SiameseAugment
from lightning_condkd.condensation import DistributionMatching, RealImages
from lightning_condkd.condensation import distribution_matching as dm_module
from lightning_condkd.condensation.parts.class_matching import draw_rows
from lightning_condkd.models import ConvNet, FreshNetworks, Observer
from lightning_condkd.randomness import Draw, seeded_initialization

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
CLASS_SIZES = (9, 5, 1)


def network(norm: str = "instance") -> nn.Module:
    return ConvNet(3, image_size=8, depth=2, width=6, norm=norm).double()  # type: ignore[arg-type]


def method(norm: str = "instance", real_batch: int = 6, **arguments: Any) -> DistributionMatching:
    return DistributionMatching(FreshNetworks(partial(network, norm), MEAN, STD), real_batch=real_batch, **arguments)


def images(n: int, seed: int) -> Tensor:
    return torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def learned() -> tuple[Tensor, Tensor]:
    return images(6, 1).requires_grad_(), torch.tensor([0, 0, 1, 1, 2, 2])


LABELS = torch.arange(3).repeat_interleave(torch.tensor(CLASS_SIZES))


def real_images() -> RealImages:
    rows = [torch.where(label == LABELS)[0] for label in range(3)]
    return RealImages(lambda rows: images(len(LABELS), 2)[rows], rows)


def loss_of(dm: DistributionMatching, pixels: Tensor, labels: Tensor, draw: Draw) -> Tensor:
    return torch.stack([terms.total() for terms in dm.losses(pixels, labels, real_images(), draw)]).sum()


def transcribed(dm: DistributionMatching, pixels: Tensor, labels: Tensor, draw: Draw) -> Tensor:
    """The published loop over classes, on whole batches; BatchNorm sees all classes at once."""
    rows = torch.cat(draw_rows(real_images(), 6, draw))
    real, real_labels = images(len(LABELS), 2)[rows], LABELS[rows]
    with seeded_initialization(draw.generator("network")):
        observer = Observer(dm.networks.network(), MEAN, STD).train()

    def embed(batch: Tensor, classes: Tensor) -> Tensor:
        assert dm.augment is not None
        shared = [dm.augment.sample(1, draw.generator(f"augment/{int(label)}")) for label in classes]
        views = torch.cat([dm.augment(image[None], p) for image, p in zip(batch, shared, strict=True)])
        embedding = observer(views, embedding=True).embedding
        assert embedding is not None
        return embedding

    real_embedding, learned_embedding = embed(real, real_labels), embed(pixels, labels)
    loss = torch.zeros((), dtype=torch.float64)
    for label in range(3):
        gap = real_embedding[real_labels == label].mean(0) - learned_embedding[labels == label].mean(0)
        loss = loss + (gap**2).sum()
    return loss


@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
@pytest.mark.parametrize("step", [0, 1, 2, 3])
def test_loss_and_gradient_equal_the_published_loop(norm: str, step: int) -> None:
    dm, draw = method(norm, chunk=None if norm == "batch" else 2), Draw(seed=5, step=step)
    pixels, labels = learned()
    actual = loss_of(dm, pixels, labels, draw)
    [gradient] = torch.autograd.grad(actual, pixels)
    expected = transcribed(dm, pixels, labels, draw)
    [expected_gradient] = torch.autograd.grad(expected, pixels)
    assert torch.allclose(actual, expected, rtol=1e-9)
    assert torch.allclose(gradient, expected_gradient, rtol=1e-7, atol=1e-12)
    assert gradient.abs().sum() > 0


def test_parts_of_classes_add_up_to_the_whole() -> None:
    draw, (pixels, labels) = Draw(seed=5, step=0), learned()
    parts = list(method(classes_per_part=2).losses(pixels, labels, real_images(), draw))
    assert len(parts) == 2
    whole = loss_of(method(), pixels, labels, draw)
    assert torch.allclose(torch.stack([terms.total() for terms in parts]).sum(), whole, rtol=1e-12)
    for argument in ("classes_per_part", "chunk"):
        with pytest.raises(ValueError, match=f"{argument}: BatchNorm"):
            method("batch", **{argument: 2})


def test_mirrored_matches_the_set_with_its_mirror_images() -> None:
    draw, (pixels, labels) = Draw(seed=5, step=0), learned()
    doubled = torch.cat([pixels, pixels.flip(-1)]), torch.cat([labels, labels])
    plain = method(augment="dsa_digits")  # what the default becomes where mirrored
    expected = loss_of(plain, *doubled, draw)
    actual = loss_of(method(mirrored=True), pixels, labels, draw)
    assert torch.allclose(actual, expected, rtol=1e-9)
    assert not torch.allclose(actual, loss_of(plain, pixels, labels, draw))


def test_networks_are_fresh_and_leave_the_global_stream_alone() -> None:
    state = torch.random.get_rng_state()
    networks = method().networks
    first, again, other = (networks.make(Draw(seed=0, step=step).generator("network")) for step in (0, 0, 1))
    assert torch.equal(state, torch.random.get_rng_state())
    assert first.fingerprint() == again.fingerprint() != other.fingerprint()
    assert first.training


def test_dropout_is_off() -> None:
    def with_dropout() -> nn.Module:
        body = ConvNet(3, image_size=8, depth=1, width=4).double()
        return nn.Sequential(body.features, nn.Dropout(0.5), body.classifier)

    dm = DistributionMatching(FreshNetworks(with_dropout, MEAN, STD), real_batch=6)
    pixels, labels = learned()
    state = torch.random.get_rng_state()
    first, again = (loss_of(dm, pixels, labels, Draw(seed=5, step=0)) for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(state, torch.random.get_rng_state())


def test_without_augmentation_images_are_seen_as_they_are() -> None:
    dm = method(augment=None)
    assert dm.settings()["augment"] == "None"
    assert torch.equal(dm._view(images(2, 0), 0, Draw(seed=0, step=0)), images(2, 0))


def test_the_loss_is_zero_when_learned_images_are_the_real_ones() -> None:
    draw = Draw(seed=0, step=0)
    rows = torch.cat(draw_rows(real_images(), 6, draw))
    assert loss_of(method(), images(len(LABELS), 2)[rows], LABELS[rows], draw) < 1e-20


def test_classes_have_augmentations_of_their_own() -> None:
    dm, draw, batch = method(), Draw(seed=0, step=0), images(1, 0).repeat(2, 1, 1, 1)
    first, second = (dm._view(batch, label, draw) for label in (0, 1))
    assert torch.equal(first[0], first[1])
    assert not torch.equal(first, second)


def test_default_augmentation_is_all_of_dsa_and_settings_record_it() -> None:
    settings = method().settings()
    assert settings["augment"] == repr(SiameseAugment(fill=0.5, brightness=0.125))
    assert (settings["network"], settings["real_batch"], settings["mean"]) == ("ConvNet", 6, list(MEAN))
    assert "padding=2" in DistributionMatching(FreshNetworks(network), augment=CropFlip(2)).settings()["augment"]


@pytest.mark.parametrize("arguments", [{"real_batch": 0}, {"chunk": 0}, {"classes_per_part": 0}])
def test_counts_must_be_positive(arguments: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        DistributionMatching(FreshNetworks(network), **arguments)  # type: ignore[arg-type]


def test_a_factory_that_repeats_itself_is_refused() -> None:
    same = network()
    with pytest.raises(ValueError, match="expected a new network at every call"):
        FreshNetworks(lambda: same)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_real_images_are_drawn_once_each_and_shared_by_ranks(world_size: int) -> None:
    shares = [draw_rows(real_images(), 6, Draw(0, 4, rank, world_size)) for rank in range(world_size)]
    rows = torch.cat([row for share in shares for row in share]).tolist()
    assert len(set(rows)) == len(rows) == 6 + 5 + 1
    assert sorted(rows) == sorted(torch.cat(draw_rows(real_images(), 6, Draw(0, 4))).tolist())
    assert sorted(rows) != sorted(torch.cat(draw_rows(real_images(), 6, Draw(0, 5))).tolist())


def test_two_ranks_compute_the_loss_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two virtual ranks: a first pass notes what each would reduce, a second one hands out the means."""

    def run(draw: Draw) -> tuple[Tensor, Tensor]:
        pixels, labels = learned()
        loss = loss_of(method(), pixels, labels, draw)
        return loss, *torch.autograd.grad(loss, pixels)

    def note(value: Tensor) -> Tensor:
        noted.append(value)
        return value

    draws = [Draw(seed=5, step=3, rank=rank, world_size=2) for rank in range(2)]
    sent = []
    for draw in draws:
        noted: list[Tensor] = []
        monkeypatch.setattr(dm_module, "mean_over_ranks", note)
        run(draw)
        sent.append(noted)
    for draw in draws:
        means = iter([(a + b) / 2 for a, b in zip(*sent, strict=True)])
        monkeypatch.setattr(dm_module, "mean_over_ranks", lambda _, means=means: next(means))
        loss, gradient = run(draw)
        monkeypatch.undo()
        whole_loss, whole_gradient = run(Draw(seed=5, step=3))
        assert torch.allclose(loss, whole_loss, rtol=1e-9)
        assert torch.allclose(gradient, whole_gradient, rtol=1e-7, atol=1e-12)
