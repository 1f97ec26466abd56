"""Fast, arXiv 2112.06253, with its official distillation phase (SGD, cosine, temperature 20), as one bare loop.

Alignment is absent. Random numbers come from streams that the caller opens by purpose and step, so that both sides of a
comparison see the same ones.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.reference import inversion, kd

Stream = Callable[[str, int], torch.Generator]
Shifts = Callable[[int, torch.Generator], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Recipe:
    """Numbers of a run; sizes are images, rates are learning rates."""

    rounds: int
    warmup_rounds: int
    synthesis_steps: int
    distill_steps: int
    synthesis_batch: int
    distill_batch: int
    latent_size: int
    generator_rate: float
    latent_rate: float
    class_weight: float
    bn_weight: float
    adversarial_weight: float
    momentum: float
    reptile: bool
    reset_round: int
    padding: int
    student_rate: float = 0.2
    temperature: float = 20.0


@dataclass
class Outcome:
    """What a run leaves behind beside the student, which is trained in place."""

    meta: nn.Module
    images: list[Tensor] = field(default_factory=list)
    labels: list[Tensor] = field(default_factory=list)
    chosen_steps: list[int] = field(default_factory=list)


def crop_and_flip(images: Tensor, drawn: Mapping[str, Tensor], padding: int) -> Tensor:
    """Cut a window out of each zero-padded image, then mirror some."""
    height, width = images.shape[2:]
    rows = []
    for image, (down, right), mirror in zip(images, drawn["shift"].tolist(), drawn["flip"].tolist(), strict=True):
        top, left = padding + down, padding + right
        window = F.pad(image, (padding,) * 4)[:, top : top + height, left : left + width]
        rows.append(torch.flip(window, [2]) if mirror else window)
    return torch.stack(rows)


def look(teacher: nn.Module, images: Tensor) -> tuple[Tensor, list[tuple[Tensor, Tensor, Tensor, Tensor]]]:
    """Logits, and (batch mean, biased batch variance, running mean, running variance) of every BatchNorm's input."""
    layers: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []

    def note(layer: nn.BatchNorm2d, args: tuple[Tensor]) -> None:
        assert layer.running_mean is not None
        assert layer.running_var is not None
        flat = args[0].transpose(0, 1).flatten(1)
        layers.append((flat.mean(1), flat.var(1, unbiased=False), layer.running_mean, layer.running_var))

    handles = [m.register_forward_pre_hook(note) for m in teacher.modules() if isinstance(m, nn.BatchNorm2d)]
    logits = teacher(images)
    for handle in handles:
        handle.remove()
    return logits, layers


def refill(meta: nn.Module, generator: torch.Generator) -> None:
    """The scheduled reset: first linear layer N(0, 0.02), first norm N(1, 0.02), biases 0."""
    with torch.no_grad():
        for layer, center in ((meta.project, 0.0), (meta.norm, 1.0)):
            layer.weight.copy_(center + 0.02 * torch.randn(layer.weight.shape, generator=generator))
            layer.bias.zero_()


def to_bytes(images: Tensor) -> Tensor:
    """8-bit images, rounded to the nearest."""
    return torch.floor(images * 255 + 0.5).to(torch.uint8)


def distil(
    recipe: Recipe,
    teacher: nn.Module,
    student: nn.Module,
    momenta: list[Tensor],
    pool: tuple[Tensor, Tensor, Tensor],
    rate: float,
    generators: tuple[torch.Generator, torch.Generator],
    shifts: Shifts,
    normalize: Callable[[Tensor], Tensor],
) -> None:
    """One step of SGD with momentum 0.9 and weight decay 1e-4, on condensed and stored images alike."""
    condensed, stored, _ = pool
    rows = torch.randint(len(condensed) + len(stored), (recipe.distill_batch,), generator=generators[0]).tolist()
    batch = torch.stack(
        [condensed[r] if r < len(condensed) else stored[r - len(condensed)].double() / 255 for r in rows]
    )
    view = normalize(crop_and_flip(batch, shifts(recipe.distill_batch, generators[1]), recipe.padding))
    loss = kd.kd_divergence(student(view), teacher(view).detach(), recipe.temperature)
    gradients = torch.autograd.grad(loss, list(student.parameters()))
    with torch.no_grad():
        for parameter, gradient, momentum in zip(student.parameters(), gradients, momenta, strict=True):
            momentum.mul_(0.9).add_(gradient + 1e-4 * parameter)
            parameter.sub_(rate * momentum)


def run(
    recipe: Recipe,
    teacher: nn.Module,
    student: nn.Module,
    generator: nn.Module,
    condensed: Tensor,
    num_classes: int,
    normalize: Callable[[Tensor], Tensor],
    stream: Stream,
    shifts: Shifts,
) -> Outcome:
    """Train ``student`` in place; the default dtype and all that is passed are float64, the teacher is in eval mode."""
    meta = copy.deepcopy(generator)
    meta_rate = recipe.generator_rate * recipe.synthesis_steps
    meta_adam = torch.optim.Adam(meta.parameters(), lr=meta_rate, betas=(0.5, 0.999))
    momenta = [torch.zeros_like(parameter) for parameter in student.parameters()]
    outcome = Outcome(meta)
    average: list[tuple[Tensor, Tensor]] = []
    steps_in_round = recipe.synthesis_steps + recipe.distill_steps
    for round_ in range(recipe.rounds):
        step = round_ * steps_in_round
        if round_ == recipe.reset_round + recipe.warmup_rounds:
            refill(meta, stream("reset", step))

        # one batch of images
        copied = copy.deepcopy(meta)
        latent = torch.randn(
            recipe.synthesis_batch, recipe.latent_size, generator=stream("latent", step), dtype=torch.float64
        ).requires_grad_()
        labels = torch.randint(num_classes, (recipe.synthesis_batch,), generator=stream("labels", step))
        groups = [
            {"params": list(copied.parameters()), "lr": recipe.generator_rate},
            {"params": [latent], "lr": recipe.latent_rate},
        ]
        adam = torch.optim.Adam(groups, betas=(0.5, 0.999))
        sums = [torch.zeros_like(parameter) for parameter in meta.parameters()]
        best, kept, chosen = math.inf, torch.empty(0), -1
        student.eval()
        for inner in range(recipe.synthesis_steps):
            images = copied(latent)
            drawn = shifts(recipe.synthesis_batch, stream("view", step))
            view = normalize(crop_and_flip(images, drawn, recipe.padding))
            logits, layers = look(teacher, view)
            compared = layers
            if average:
                b = recipe.momentum
                compared = [
                    ((1 - b) * m + b * old_m, (1 - b) * v + b * old_v, running_m, running_v)
                    for (m, v, running_m, running_v), (old_m, old_v) in zip(layers, average, strict=True)
                ]
            loss = recipe.bn_weight * inversion.bn_distance(compared)
            loss = loss + recipe.class_weight * inversion.class_loss(logits, labels)
            if round_ >= recipe.warmup_rounds:
                loss = loss + recipe.adversarial_weight * inversion.adversarial_divergence(logits, student(view))
            adam.zero_grad()
            loss.backward()
            if loss.item() < best:
                best, kept, chosen = loss.item(), images.detach(), inner
            for total, parameter in zip(sums, copied.parameters(), strict=True):
                assert parameter.grad is not None
                total += parameter.grad
            adam.step()
            step += 1
        last = [(m.detach(), v.detach()) for m, v, _, _ in layers]
        b = recipe.momentum
        average = [
            (b * old_m + (1 - b) * m, b * old_v + (1 - b) * v)
            for (m, v), (old_m, old_v) in zip(last, average or last, strict=True)
        ]
        outcome.images.append(to_bytes(kept))
        outcome.labels.append(labels)
        outcome.chosen_steps.append(chosen)

        # the meta-generator moves once
        for parameter, total, moved in zip(meta.parameters(), sums, copied.parameters(), strict=True):
            parameter.grad = (parameter - moved).detach() if recipe.reptile else total
        meta_adam.step()

        # the student
        if round_ < recipe.warmup_rounds:
            continue
        share = (round_ - recipe.warmup_rounds) / (recipe.rounds - recipe.warmup_rounds)
        lowest = 1e-3 * recipe.student_rate
        rate = lowest + (recipe.student_rate - lowest) * (1 + math.cos(math.pi * share)) / 2
        student.train()
        pool = (condensed, torch.cat(outcome.images), torch.cat(outcome.labels))
        for _ in range(recipe.distill_steps):
            generators = stream("transfer", step), stream("distillation view", step)
            distil(recipe, teacher, student, momenta, pool, rate, generators, shifts, normalize)
            step += 1
    return outcome
