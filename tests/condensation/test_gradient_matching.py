from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_condkd.augment import Augment, SiameseAugment
from lightning_condkd.condensation import RealImages
from lightning_condkd.condensation import gradient_matching as gm_module
from lightning_condkd.condensation.gradient_matching import PUBLISHED_LOOPS, GradientMatching
from lightning_condkd.condensation.parts.class_matching import draw_rows
from lightning_condkd.condensation.parts.representative_batches import RepresentativeBatches
from lightning_condkd.data.condensed import CondensedSet
from lightning_condkd.data.image_datamodules import DigitsDataModule, load_digits_split
from lightning_condkd.models import ConvNet, FreshNetworks, Observer
from lightning_condkd.pixels import to_pixels
from lightning_condkd.randomness import Draw, seeded_initialization
from tests.modules.test_condensation import SaveAt, condensation, fit
from tests.reference.matching import gradient_distance

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
SHAPE = (3, 8, 8)
LABELS = torch.arange(3).repeat_interleave(torch.tensor((9, 5, 1)))
LOOPS = {"inner_steps": 3, "network_epochs": 2}


def network(norm: str = "instance") -> nn.Module:
    return ConvNet(3, image_size=8, depth=2, width=4, norm=norm).double()  # type: ignore[arg-type]


def method(norm: str = "instance", **arguments: Any) -> GradientMatching:
    return GradientMatching(FreshNetworks(partial(network, norm), MEAN, STD), **{"real_batch": 6, **LOOPS, **arguments})


def images(n: int, seed: int) -> Tensor:
    return torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def learned(ipc: int = 2) -> tuple[Tensor, Tensor]:
    return images(3 * ipc, 1).requires_grad_(), torch.arange(3).repeat_interleave(ipc)


def real_images() -> RealImages:
    return RealImages(
        lambda rows: images(len(LABELS), 2)[rows], [torch.where(label == LABELS)[0] for label in range(3)]
    )


def loss_of(dc: GradientMatching, pixels: Tensor, labels: Tensor, *steps: int) -> Tensor:
    """The loss of the last of some iterations between which the pixels stay as they are."""
    for step in steps:
        parts = [terms.total() for terms in dc.losses(pixels, labels, real_images(), Draw(seed=5, step=step))]
    return torch.stack(parts).sum()


def fresh(norm: str, draw: Draw) -> Observer:
    with seeded_initialization(draw.generator("network")):
        return Observer(network(norm), MEAN, STD)


def view(images: Tensor, augment: Augment | None, label: int, draw: Draw) -> Tensor:
    return images if augment is None else augment(images, augment.sample(1, draw.generator(f"augment/{label}")))


def transcribed(observer: Observer, augment: Augment | None, pixels: Tensor, labels: Tensor, draw: Draw) -> Tensor:
    """The published loop over classes and layers, on whole batches."""
    generator = draw.generator("statistics")
    batch = torch.cat([rows[torch.randperm(len(rows), generator=generator)[:16]] for rows in real_images().class_rows])
    for layer in observer.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
    observer.train()(images(len(LABELS), 2)[batch])
    observer.eval()
    total = torch.zeros((), dtype=torch.float64)
    for label, rows in enumerate(draw_rows(real_images(), 6, draw)):
        sides = images(len(LABELS), 2)[rows], pixels[labels == label]
        gradients = []
        for side in sides:
            logits = observer(view(side, augment, label, draw)).logits
            loss = F.cross_entropy(logits, torch.full((len(side),), label))
            gradients.append(list(torch.autograd.grad(loss, list(observer.parameters()), create_graph=True)))
        total = total + gradient_distance([g.detach() for g in gradients[0]], gradients[1], "layerwise")
    return total


def trained(observer: Observer, augment: Augment | None, pixels: Tensor, labels: Tensor, draw: Draw) -> Observer:
    """Two epochs of plain SGD on the learned set, which is one batch."""
    optimizer = torch.optim.SGD(observer.train().parameters(), lr=0.01)
    generator = draw.generator("network training")
    for _ in range(2):
        order = torch.randperm(len(pixels), generator=generator)
        batch = pixels.detach()[order]
        batch = batch if augment is None else augment(batch, augment.sample(len(batch), generator))
        optimizer.zero_grad()
        F.cross_entropy(observer(batch).logits, labels[order]).backward()
        optimizer.step()
    return observer


@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
@pytest.mark.parametrize("augment", [None, SiameseAugment()], ids=["DC", "DSA"])
def test_loss_and_gradient_equal_the_published_loops(norm: str, augment: Augment | None) -> None:
    dc, (pixels, labels) = method(norm, augment=augment, chunk=4), learned()
    observer = fresh(norm, Draw(seed=5, step=0))
    for step in range(2):
        draw = Draw(seed=5, step=step)
        if step:
            trained(observer, augment, pixels, labels, draw)
        actual, expected = loss_of(dc, pixels, labels, step), transcribed(observer, augment, pixels, labels, draw)
        [gradient], [expected_gradient] = (torch.autograd.grad(loss, pixels) for loss in (actual, expected))
        assert torch.allclose(actual, expected, rtol=1e-9)
        assert torch.allclose(gradient, expected_gradient, rtol=1e-7, atol=1e-10)
        assert gradient.abs().sum() > 0


def test_gradients_of_chunks_are_those_of_the_whole_batch() -> None:
    draw, batch = Draw(seed=5, step=0), images(7, 3)
    gradients = []
    for chunk in (2, 7):
        dc = method(chunk=chunk)
        loss_of(dc, *learned(), 0)
        gradients.append(dc._real_gradients(batch, 1, draw))
    assert all(torch.allclose(a, b, rtol=1e-9, atol=1e-14) for a, b in zip(*gradients, strict=True))


def test_each_class_is_a_part_that_sees_its_own_images_only() -> None:
    pixels, labels = learned()
    parts = list(method().losses(pixels, labels, real_images(), Draw(seed=5, step=0)))
    assert len(parts) == 3
    gradients = [torch.autograd.grad(terms.total(), pixels)[0] for terms in parts]
    for label, gradient in enumerate(gradients):
        assert (gradient.flatten(1).abs().sum(1) > 0).equal(labels == label)
    [whole] = torch.autograd.grad(loss_of(method(), pixels, labels, 0), pixels)
    assert torch.allclose(sum(gradients, torch.zeros(())), whole, rtol=1e-12)


def test_gradients_reach_the_images_and_not_the_network() -> None:
    dc, (pixels, labels) = method(), learned()
    loss_of(dc, pixels, labels, 0, 1).backward()
    assert pixels.grad is not None
    assert all(value.grad is None and not value.requires_grad for value in dc.parameters())


def test_a_network_is_new_every_few_iterations_and_trained_between_them(monkeypatch: pytest.MonkeyPatch) -> None:
    dc, (pixels, labels), epochs, kept = method(), learned(), [], []
    train = dc._train
    monkeypatch.setattr(dc, "_train", lambda *arguments: (epochs.append(arguments[2]), train(*arguments)))
    for step in range(7):
        loss_of(dc, pixels, labels, step)
        kept.append(dc.observer.fingerprint())
    assert epochs == [2] * 4  # twice for each network: never before its first iteration, never after its last
    assert len(set(kept)) == 7
    for step in (0, 3, 6):
        assert kept[step] == fresh("instance", Draw(seed=5, step=step)).fingerprint()


def test_training_the_network_leaves_the_pixels_and_the_global_stream_alone() -> None:
    dc, (pixels, labels) = method(augment=SiameseAugment()), learned()
    before, state = pixels.detach().clone(), torch.random.get_rng_state()
    loss_of(dc, pixels, labels, 0, 1)
    assert torch.equal(pixels, before)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_mirrored_matches_and_trains_on_the_set_with_its_mirror_images() -> None:
    pixels, labels = learned()
    doubled = torch.cat([pixels, pixels.flip(-1)]), torch.cat([labels, labels])
    assert torch.allclose(
        loss_of(method(mirrored=True), pixels, labels, 0, 1), loss_of(method(), *doubled, 0, 1), rtol=1e-9
    )
    assert not torch.allclose(loss_of(method(), pixels, labels, 0), loss_of(method(), *doubled, 0))


def test_the_loss_is_zero_when_learned_images_are_the_real_ones() -> None:
    rows = torch.cat(draw_rows(real_images(), 6, Draw(seed=5, step=0)))
    distances = [
        loss_of(method(distance="mse"), pixels, labels, 0)
        for pixels, labels in [(images(len(LABELS), 2)[rows], LABELS[rows]), learned()]
    ]
    assert distances[0] < 1e-20 < 1e-3 < distances[1]


def test_statistics_of_batch_norm_are_those_of_real_images() -> None:
    dc = method("batch")
    loss_of(dc, *learned(), 0, 1)
    [first, *_] = [layer for layer in dc.observer.modules() if isinstance(layer, nn.BatchNorm2d)]
    convolution = next(layer for layer in dc.observer.modules() if isinstance(layer, nn.Conv2d))
    outputs = convolution(dc.observer.normalize(images(len(LABELS), 2)))  # no class has more than 16 images
    assert first.running_mean is not None
    assert first.running_var is not None
    assert torch.allclose(first.running_mean, outputs.mean((0, 2, 3)))
    assert torch.allclose(first.running_var, outputs.transpose(0, 1).flatten(1).var(1))
    assert (first.momentum, first.training) == (0.1, False)


@pytest.mark.parametrize("operator", ["color", "crop", "cutout", "flip", "scale", "rotate"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_image_per_class_goes_through_every_operator(operator: str, dtype: torch.dtype) -> None:
    dsa, (pixels, labels) = method(augment=SiameseAugment(operator)), learned(ipc=1)
    pixels = pixels.detach().to(dtype).requires_grad_()
    [gradient] = torch.autograd.grad(loss_of(dsa, pixels, labels, 0, 1), pixels)
    assert gradient.isfinite().all()
    assert gradient.dtype == dtype


def test_matching_survives_mixed_precision() -> None:
    """The network is trained and used again inside one autocast region, which remembers what it has cast."""
    networks = FreshNetworks(lambda: ConvNet(3, image_size=8, depth=1, width=8))
    dc = GradientMatching(networks, real_batch=6, **LOOPS)
    pixels, labels = learned()
    pixels = pixels.detach().float().requires_grad_()
    exact = loss_of(dc, pixels, labels, 0, 1, 2)
    with torch.autocast("cpu", torch.bfloat16):
        loss = loss_of(dc, pixels, labels, 0, 1, 2)
    assert loss.dtype == torch.float32
    assert torch.allclose(loss, exact, rtol=0.05)


@pytest.mark.parametrize(("ipc", "loops"), PUBLISHED_LOOPS.items())
def test_loops_are_the_published_ones_unless_given(ipc: int, loops: tuple[int, int]) -> None:
    found = method(inner_steps=None, network_epochs=None)
    found.build(SHAPE, num_classes=3, ipc=ipc)
    assert (found.inner_steps, found.network_epochs) == loops
    assert (found.settings()["inner_steps"], found.settings()["network_epochs"]) == loops
    given = method(inner_steps=7, network_epochs=None)
    given.build(SHAPE, num_classes=3, ipc=ipc)
    assert (given.inner_steps, given.network_epochs) == (7, loops[1])


def test_names_tell_dc_from_dsa() -> None:
    assert method().name == "DC"
    assert method(augment="none").name == "DC"
    assert method(augment=SiameseAugment()).name == method(augment="dsa").name == "DSA"


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="set both"):
        method(network_epochs=None).build(SHAPE, num_classes=3, ipc=5)
    with pytest.raises(ValueError, match="network: expected 4 classes"):
        method().build(SHAPE, num_classes=4, ipc=1)
    with pytest.raises(ValueError, match=r"cannot read images of \(3, 16, 16\)"):
        method().build((3, 16, 16), num_classes=3, ipc=1)
    with pytest.raises(RuntimeError, match="call build"):
        loss_of(method(inner_steps=None), *learned(), 0)
    with pytest.raises(ValueError, match="distance: expected one of layerwise"):
        method(distance="l1")
    for name in LOOPS:
        with pytest.raises(ValueError, match=name):
            method(**{name: 0})


def test_two_ranks_compute_the_loss_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two virtual ranks, of which the second has no image of the last class."""

    def run(draw: Draw, reduce: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        monkeypatch.setattr(gm_module, "mean_over_ranks", reduce)
        pixels, labels = learned()
        parts = method(augment=SiameseAugment()).losses(pixels, labels, real_images(), draw)
        loss = torch.stack([terms.total() for terms in parts]).sum()
        return loss.detach(), *torch.autograd.grad(loss, pixels)

    draws = [Draw(seed=5, step=3, rank=rank, world_size=2) for rank in range(2)]
    sent: list[list[Tensor]] = [[], []]
    for rank, draw in enumerate(draws):
        run(draw, lambda value, rank=rank: (sent[rank].append(value), torch.ones_like(value))[1])  # type: ignore[misc]
    whole = run(Draw(seed=5, step=3), lambda value: value)
    for draw in draws:
        means = iter([(a + b) / 2 for a, b in zip(*sent, strict=True)])
        shared = run(draw, lambda _, means=means: next(means))  # type: ignore[misc]
        assert torch.allclose(shared[0], whole[0], rtol=1e-9)
        assert torch.allclose(shared[1], whole[1], rtol=1e-7, atol=1e-10)


def small(**arguments: Any) -> GradientMatching:
    factory = partial(ConvNet, 3, image_size=8, depth=1, width=4, norm=arguments.pop("norm", "instance"))
    return GradientMatching(FreshNetworks(factory, (0.5,) * 3, (0.3,) * 3), real_batch=8, **{**LOOPS, **arguments})


@pytest.mark.parametrize("step", [1, 2, 3, 4])
@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_a_run_that_is_resumed_while_a_network_is_kept_equals_an_uninterrupted_one(
    step: int, norm: str, tmp_path: Path
) -> None:
    def new() -> GradientMatching:
        return small(norm=norm, augment=SiameseAugment(), representative=RepresentativeBatches(interval=3))

    path = tmp_path / "middle.ckpt"
    whole = condensation(tmp_path / "whole", new(), learning_rate=0.1)
    resumed = condensation(tmp_path / "resumed", new(), learning_rate=0.1, seed=2)
    fit(whole, SaveAt(step, path))
    fit(resumed, ckpt_path=path)
    assert whole.output.read_bytes() == resumed.output.read_bytes()
    assert CondensedSet.load(whole.output).info.method == "DSA"


def test_learning_lowers_the_distance_and_standing_still_does_not(tmp_path: Path) -> None:
    factory, source = partial(ConvNet, 10, image_size=8, in_channels=1, depth=2, width=8), load_digits_split(train=True)
    real = RealImages(lambda rows: to_pixels(source.images[rows]), source.class_rows)

    def digits(inner_steps: int) -> GradientMatching:
        return GradientMatching(FreshNetworks(factory), real_batch=16, inner_steps=inner_steps, network_epochs=5)

    def distance(images: Tensor) -> float:
        draws = [Draw(seed=99, step=step) for step in range(5)]
        parts = [terms for draw in draws for terms in digits(1).losses(images, torch.arange(10), real, draw)]
        return sum(float(terms.total().detach()) for terms in parts)

    distances = []
    for rate in (0.0, 0.1):
        module = condensation(tmp_path, digits(5), init="noise", learning_rate=rate, steps_per_epoch=10)
        fit(module, data=DigitsDataModule())
        distances.append(distance(CondensedSet.load(module.output).images))
    assert distances[1] < 0.6 * distances[0]
