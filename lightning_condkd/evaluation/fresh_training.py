"""Evaluation of a condensed set by the accuracy of fresh networks trained on it alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import Optimizer

from lightning_condkd.augment import resolve_augment
from lightning_condkd.evaluation.batches import Batches, Labels, TeacherLabels, joins_leftover
from lightning_condkd.evaluation.network_batch import NetworkBatch
from lightning_condkd.evaluation.recipe import Recipe
from lightning_condkd.evaluation.result import Evaluation, Trained, calibration_error
from lightning_condkd.functional.augmentation import mirror
from lightning_condkd.models.fresh_networks import FreshNetworks
from lightning_condkd.pixels import to_pixels
from lightning_condkd.progress import Advance
from lightning_condkd.randomness import seeded_generator

Loss = Callable[[Tensor, Tensor], Tensor]
Once = Callable[[int, Callable[[], Trained]], Trained]

GPU_CHUNK = 500
# On a CPU, a test pass over 32 px images took less than half the time in chunks of 32 than in chunks of 500.
CPU_CHUNK_PIXELS = 32 * 32 * 32


class _Data(NamedTuple):
    images: Tensor
    labels: Labels
    test_images: Tensor
    test_labels: Tensor


def evaluate(
    images: Tensor,
    labels: Labels,
    test_images: Tensor,
    test_labels: Tensor,
    networks: FreshNetworks,
    recipe: Recipe,
    *,
    runs: int = 5,
    seed: int = 0,
    test_every: int = 0,
    batched: bool = False,
    device: torch.device | str = "cpu",
    once: Once | None = None,
    advance: Advance = lambda _: None,
) -> Evaluation:
    """Train fresh networks on a set and test them.

    A run is determined by seed and index of the run. The same seed gives every set the same initial networks, and sets
    of one size the same order and augmentation. The global random stream is neither used nor changed.

    Args:
        images: the set, ``(N, C, H, W)``, uint8 or floating point pixels in the units of [0, 1].
        labels: classes, ``(N,)`` int64, or probabilities, ``(N, K)``, with the cross-entropy as loss; or a teacher that
            predicts every view.
        test_images: ``(M, C, H, W)``, uint8 or floating point pixels in the units of [0, 1].
        test_labels: classes, ``(M,)`` int64.
        networks: makes the networks.
        recipe: the training recipe.
        runs: number of networks.
        seed: seed of initial weights, order and augmentation.
        test_every: number of epochs between tests, which yield the best accuracy; 0 tests only at the end.
        batched: train all networks in one pass, see :class:`~lightning_condkd.evaluation.network_batch.NetworkBatch`;
            the result is the same up to rounding. On a CPU this took 0.7 times as long with 16 channels at 8 px, but
            1.3 to 2.5 times with 128 channels (five networks, benchmarks/cost/evaluator.py). No GPU was
            measured.
        device: where to train.
        once: calls what trains some networks, or returns what that returned in an earlier call of the same arguments;
            it is given the number of the first network.
        advance: called with 1 after each epoch of a network, or of all that are trained in one pass.

    Raises:
        ValueError: if shapes, types, labels or counts do not fit each other.
        FloatingPointError: if a run diverges.

    Example:
        >>> from lightning_condkd.models import ConvNet
        >>> networks = FreshNetworks(lambda: ConvNet(2, image_size=8, depth=1, width=4))
        >>> labels = torch.tensor([0, 1])
        >>> images = labels.float().view(2, 1, 1, 1).expand(2, 3, 8, 8)
        >>> result = evaluate(images, labels, images, labels, networks, Recipe(epochs=20, augment=None), runs=2)
        >>> result.last, result.best
        ((1.0, 1.0), None)
    """
    data = _Data(images, labels, test_images, test_labels)
    _check_data(data, networks.num_classes)
    if runs < 1 or test_every < 0:
        raise ValueError(f"expected runs of at least 1 and test_every of at least 0, got {runs} and {test_every}")
    data = _prepared(data, recipe, torch.device(device))
    groups = [list(range(runs))] if batched else [[run] for run in range(runs)]
    tests = [epoch for epoch in range(1, recipe.epochs + 1) if test_every and not epoch % test_every]
    epochs = tuple(sorted({*tests, recipe.epochs}))
    joined = joins_leftover(data.images, networks, recipe)
    how = partial(_train, data=data, networks=networks, recipe=recipe, seed=seed, tests=epochs, joined=joined)
    train = partial(how, advance=advance)
    trained = [once(group[0], partial(train, group)) if once else train(group) for group in groups]
    accuracies = tuple(tuple(row) for outcome in trained for row in outcome.accuracies)
    return Evaluation(epochs, accuracies, tuple(error for outcome in trained for error in outcome.calibration_errors))


def _prepared(data: _Data, recipe: Recipe, device: torch.device) -> _Data:
    """Move the set and its labels to the device; test images are moved batch by batch, since they may be many."""
    images, labels = data.images.to(device), data.labels
    if recipe.mirrored:
        images = torch.cat([images, mirror(images)])
    if isinstance(labels, TeacherLabels):
        labels.teacher.to(device).eval()
    else:
        labels = (torch.cat([labels, labels]) if recipe.mirrored else labels).to(device)
    return _Data(images, labels, data.test_images, data.test_labels.to(device))


def _train(
    runs: Sequence[int],
    data: _Data,
    networks: FreshNetworks,
    recipe: Recipe,
    seed: int,
    tests: Sequence[int],
    joined: bool,
    advance: Advance,
) -> Trained:
    device = data.images.device
    batch = NetworkBatch([networks.make(seeded_generator(seed, "network", run)).to(device) for run in runs])
    labels = data.labels
    if not isinstance(labels, TeacherLabels):
        labels = _targets(labels, batch.dtype, recipe, networks.num_classes)
    augment = resolve_augment(recipe.augment, networks.mean, networks.std)
    images = data.images if data.images.dtype == torch.uint8 else data.images.to(batch.dtype)
    batches, accuracies = Batches(images, labels, recipe, augment, seed, runs, joined, batch.dtype), []
    with _own_stream(seeded_generator(seed, "dropout", runs[0])):
        for epoch in range(recipe.epochs):
            if epoch in (0, recipe.drop_epoch):
                optimizer = recipe.make_optimizer(batch.parameters())
            optimizer.param_groups[0]["lr"] = recipe.rate(epoch)
            for views, targets in batches.epoch(epoch):
                _step(batch, optimizer, views, targets, batches.loss)
            if epoch + 1 in tests:
                logits = _test_logits(batch, data.test_images, device)
                _check_finite(logits, epoch + 1, recipe)
                accuracies.append((logits.argmax(2) == data.test_labels).double().mean(1).cpu())
            advance(1)
    errors = [calibration_error(logits_of_run, data.test_labels) for logits_of_run in logits]
    return Trained(torch.stack(accuracies, dim=1).tolist(), errors)


def _step(batch: NetworkBatch, optimizer: Optimizer, views: Tensor, targets: Tensor, loss: Loss) -> None:
    logits = batch(views)
    # The networks share no parameters, so with the sum each gets the gradient of its own mean.
    losses = [loss(own, target) for own, target in zip(logits, targets, strict=True)]
    optimizer.zero_grad()
    torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def _targets(labels: Tensor, dtype: torch.dtype, recipe: Recipe, num_classes: int) -> Tensor:
    """Return labels as training targets: probabilities if CutMix has to mix them."""
    if labels.is_floating_point():
        return labels.to(dtype)
    return F.one_hot(labels, num_classes).to(dtype) if recipe.cutmix else labels


def _test_logits(batch: NetworkBatch, images: Tensor, device: torch.device) -> Tensor:
    size = max(1, CPU_CHUNK_PIXELS // images[0, 0].numel()) if device.type == "cpu" else GPU_CHUNK
    chunks = (to_pixels(chunk, device, batch.dtype) for chunk in torch.split(images, size))
    return torch.cat([batch.predict(chunk) for chunk in chunks], dim=1)


@contextmanager
def _own_stream(generator: torch.Generator) -> Iterator[None]:
    """Make layers such as dropout draw from a generator; the global streams are restored afterwards."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        yield


def _check_finite(logits: Tensor, epochs: int, recipe: Recipe) -> None:
    if not bool(logits.isfinite().all()):
        raise FloatingPointError(
            f"a network diverged within {epochs} epochs at learning_rate={recipe.full_rate}: lower it in the recipe"
        )


def _check_data(data: _Data, num_classes: int) -> None:
    if not data.images.is_floating_point() and data.images.dtype != torch.uint8:
        raise ValueError(f"images: expected uint8, or floating point in the units of [0, 1], got {data.images.dtype}")
    if data.images.shape[1:] != data.test_images.shape[1:]:
        found = f"{tuple(data.images.shape[1:])} and {tuple(data.test_images.shape[1:])}"
        raise ValueError(f"expected training and test images of one shape (C, H, W), got {found}")
    _check_labels("labels", data.labels, len(data.images), num_classes)
    _check_labels("test_labels", data.test_labels, len(data.test_images), num_classes)
    if data.test_labels.dim() != 1:
        raise ValueError(f"test_labels: expected classes (M,), got {tuple(data.test_labels.shape)}")


def _check_labels(name: str, labels: Labels, number: int, num_classes: int) -> None:
    if isinstance(labels, TeacherLabels):
        if labels.teacher.num_classes != num_classes or not labels.temperature > 0:
            raise ValueError(
                f"{name}: expected a teacher of {num_classes} classes and a positive temperature, got "
                f"{labels.teacher.num_classes} classes and {labels.temperature}; give the teacher of this data"
            )
    elif labels.is_floating_point():
        if labels.shape != (number, num_classes) or bool(((labels.double().sum(1) - 1).abs() > 1e-2).any()):
            raise ValueError(
                f"{name}: expected probabilities ({number}, {num_classes}) whose rows sum to 1, got "
                f"{tuple(labels.shape)}; take the softmax of logits"
            )
    elif labels.shape != (number,) or labels.dtype != torch.int64:
        raise ValueError(f"{name}: expected int64 classes ({number},), got {labels.dtype} {tuple(labels.shape)}")
    elif int(labels.max()) >= num_classes or int(labels.min()) < 0:
        raise ValueError(f"{name}: the networks have {num_classes} classes, found {int(labels.max())} as a label")
