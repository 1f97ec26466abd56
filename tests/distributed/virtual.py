"""One process that plays two ranks, in bare PyTorch: each has its own copy of every network, with its own statistics.

Gradients are averaged before every update, the students' running statistics whenever they leave train mode. Random
numbers come from the same streams as the module's, everything else is written anew.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam

from lightning_condkd.augment import CropFlip
from lightning_condkd.randomness import seeded_generator
from tests.reference.fast import crop_and_flip, to_bytes

RANKS = 2
MEAN, STD = 0.25, 0.5


class Numbers(NamedTuple):
    """Sizes and rates of a run; those with a default are the package's own."""

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
    classes: int
    padding: int
    seed: int
    student_rate: float = 0.2
    discriminator_rate: float = 1e-3
    temperature: float = 20.0


@dataclass
class World:
    """What the run has on every rank, and what it shares."""

    numbers: Numbers
    teacher: nn.Module
    students: list[nn.Module]
    meta: nn.Module
    discriminators: list[nn.Module]
    condensed: tuple[Tensor, Tensor]
    images: list[Tensor] = field(default_factory=list)
    labels: list[Tensor] = field(default_factory=list)
    statistics: list[Tensor] = field(default_factory=list)

    def stream(self, purpose: str, step: int) -> torch.Generator:
        return seeded_generator(self.numbers.seed, purpose, step)

    def views(self, batch: Sequence[Tensor], purpose: str, step: int) -> list[Tensor]:
        """Crop and flip each rank's rows with the parameters of the joint batch."""
        size = sum(len(rows) for rows in batch)
        drawn = CropFlip(self.numbers.padding).sample(size, self.stream(purpose, step))
        return [
            crop_and_flip(rows, {name: values[r::RANKS] for name, values in drawn.items()}, self.numbers.padding)
            for r, rows in enumerate(batch)
        ]


class Look(NamedTuple):
    logits: Tensor
    embedding: Tensor
    statistics: Tensor


def look(teacher: nn.Module, view: Tensor) -> Look:
    """Logits, input of the last layer, and means and biased variances of all BatchNorm inputs in a row."""
    embeddings: list[Tensor] = []
    moments: list[tuple[Tensor, Tensor]] = []

    def note(_: nn.Module, inputs: tuple[Tensor]) -> None:
        flat = inputs[0].transpose(0, 1).flatten(1)
        moments.append((flat.mean(1), flat.var(1, unbiased=False)))

    handles = [teacher.linear.register_forward_pre_hook(lambda _, inputs: embeddings.append(inputs[0]))]
    handles += [layer.register_forward_pre_hook(note) for layer in batch_norms(teacher)]
    logits = teacher((view - MEAN) / STD)
    for handle in handles:
        handle.remove()
    return Look(logits, embeddings[0], torch.cat([value for pair in moments for value in pair]))


def batch_norms(network: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]


def bn_distance(statistics: Tensor, teacher: nn.Module) -> Tensor:
    """Sum of the L2 distances to the running means and variances, layer by layer."""
    layers = batch_norms(teacher)
    running = [value for layer in layers for value in (layer.running_mean, layer.running_var)]
    parts = statistics.split([len(value) for value in running])
    return sum(((part - value).norm() for part, value in zip(parts, running, strict=True)), torch.zeros(()))


def average(networks: Sequence[nn.Module]) -> None:
    """Give every rank the mean of the gradients."""
    for parameters in zip(*(network.parameters() for network in networks), strict=True):
        mean = torch.stack([parameter.grad for parameter in parameters]).mean(0)
        for parameter in parameters:
            parameter.grad = mean.clone()


def share(networks: Sequence[nn.Module]) -> None:
    """Give every rank the mean of the running statistics."""
    for buffers in zip(*(network.buffers() for network in networks), strict=True):
        if buffers[0].is_floating_point():
            mean = torch.stack(buffers).mean(0)
            for buffer in buffers:
                buffer.copy_(mean)


def set_mode(networks: Sequence[nn.Module], training: bool) -> None:
    for network in networks:
        network.train(training)


def run(world: World, synchronize: bool = True) -> None:
    """Play all rounds; what is trained is left in ``world``. Without ``synchronise`` running statistics stay apart."""
    n = world.numbers
    meta_adam = Adam(world.meta.parameters(), lr=n.generator_rate * n.synthesis_steps, betas=(0.5, 0.999))
    optimizers = [Adam(d.parameters(), lr=n.discriminator_rate, betas=(0.5, 0.999)) for d in world.discriminators]
    momenta = [SGD(s.parameters(), lr=n.student_rate, momentum=0.9, weight_decay=1e-4) for s in world.students]
    for round_ in range(n.rounds):
        step = round_ * (n.synthesis_steps + n.distill_steps)
        set_mode(world.students, training=False)
        synthesize(world, round_, step, meta_adam, optimizers)
        if round_ >= n.warmup_rounds:
            set_mode(world.students, training=True)
            distil(world, round_, step + n.synthesis_steps, momenta)
            if synchronize:
                share(world.students)


def synthesize(world: World, round_: int, first: int, meta_adam: Adam, optimizers: Sequence[Adam]) -> None:
    """One batch of images into the bank, one step of the meta-generator."""
    n = world.numbers
    copies = [copy.deepcopy(world.meta) for _ in range(RANKS)]
    normal = torch.randn(n.synthesis_batch, n.latent_size, generator=world.stream("latent", first))
    latents = [normal[r::RANKS].clone().requires_grad_() for r in range(RANKS)]
    everyone = torch.randint(n.classes, (n.synthesis_batch,), generator=world.stream("labels", first))
    labels = [everyone[r::RANKS] for r in range(RANKS)]
    adams = [
        Adam(
            [{"params": list(c.parameters()), "lr": n.generator_rate}, {"params": [z], "lr": n.latent_rate}],
            betas=(0.5, 0.999),
        )
        for c, z in zip(copies, latents, strict=True)
    ]
    totals = [torch.zeros_like(parameter) for parameter in world.meta.parameters()]
    lowest, kept = math.inf, torch.empty(0)
    for step in range(first, first + n.synthesis_steps):
        images = [c(z) for c, z in zip(copies, latents, strict=True)]
        views = world.views(images, "view", step)
        seen = [look(world.teacher, view) for view in views]
        losses = [
            generator_loss(world, r, round_, views[r], seen[r], labels[r]) + charm(world, r, seen[r], labels[r])
            for r in range(RANKS)
        ]
        for adam, loss, z in zip(adams, losses, latents, strict=True):
            adam.zero_grad()
            loss.backward()
            z.grad /= RANKS
        average(copies)
        for adam in adams:
            adam.step()
        joint = float(sum(losses).detach()) / RANKS
        if joint < lowest:
            lowest, kept = joint, torch.stack([i.detach() for i in images], 1).flatten(0, 1)
        for total, parameter in zip(totals, copies[0].parameters(), strict=True):
            total += parameter.grad
        discriminate(world, [s.embedding.detach() for s in seen], labels, everyone, step, optimizers)
    remember(world, torch.stack([s.statistics.detach() for s in seen]).mean(0))
    for parameter, total in zip(world.meta.parameters(), totals, strict=True):
        parameter.grad = total
    meta_adam.step()
    world.images.append(to_bytes(kept))
    world.labels.append(everyone)


def generator_loss(world: World, r: int, round_: int, view: Tensor, seen: Look, labels: Tensor) -> Tensor:
    """Class, BatchNorm and adversarial terms of one rank."""
    n = world.numbers
    statistics = seen.statistics
    if world.statistics:
        statistics = (1 - n.momentum) * statistics + n.momentum * world.statistics[0]
    loss = n.class_weight * F.cross_entropy(seen.logits, labels) + n.bn_weight * bn_distance(statistics, world.teacher)
    if round_ < n.warmup_rounds:
        return loss
    guess = world.students[r]((view - MEAN) / STD)
    p, q = seen.logits.log_softmax(1), guess.log_softmax(1)
    alike = seen.logits.argmax(1) == guess.argmax(1)
    return loss - n.adversarial_weight * ((p.exp() * (p - q)).sum(1) * alike).mean()


def charm(world: World, r: int, seen: Look, labels: Tensor) -> Tensor:
    """What the discriminator asks of the generator; its power iteration stands still."""
    return -F.logsigmoid(world.discriminators[r].eval()(seen.embedding, labels).realness).mean()


def discriminate(
    world: World, synthetic: list[Tensor], labels: list[Tensor], everyone: Tensor, step: int, optimizers: Sequence[Adam]
) -> None:
    """One step of the discriminators against condensed images of the same classes."""
    images, classes = world.condensed
    offsets = torch.randint(2**62, everyone.shape, generator=world.stream("matching", step))
    rows = []
    for label, offset in zip(everyone.tolist(), offsets.tolist(), strict=True):
        members = (classes == label).nonzero().flatten()
        rows.append(int(members[offset % len(members)]))
    real = images[torch.tensor(rows)]
    views = world.views([real[r::RANKS] for r in range(RANKS)], "condensed view", step)
    for r, (view, adam) in enumerate(zip(views, optimizers, strict=True)):
        with torch.no_grad():
            condensed = look(world.teacher, view).embedding
        both = world.discriminators[r].train()(torch.cat([condensed, synthetic[r]]), labels[r].repeat(2)).realness
        on_condensed, on_synthetic = both.chunk(2)
        adam.zero_grad()
        (-F.logsigmoid(on_condensed).mean() - F.logsigmoid(-on_synthetic).mean()).backward()
    average(world.discriminators)
    for adam in optimizers:
        adam.step()


def remember(world: World, statistics: Tensor) -> None:
    """Move the average of the statistics by the last step of the batch."""
    momentum = world.numbers.momentum if world.statistics else 0.0
    before = world.statistics[0] if world.statistics else statistics
    world.statistics = [momentum * before + (1 - momentum) * statistics]


def distil(world: World, round_: int, first: int, optimizers: Sequence[SGD]) -> None:
    """The student's steps on condensed and stored images alike."""
    n = world.numbers
    pool = torch.cat([world.condensed[0], torch.cat(world.images).to(torch.float64) / 255])
    progress = (round_ - n.warmup_rounds) / (n.rounds - n.warmup_rounds)
    rate = n.student_rate * (1e-3 + (1 - 1e-3) * (1 + math.cos(math.pi * progress)) / 2)
    for step in range(first, first + n.distill_steps):
        rows = torch.randint(len(pool), (n.distill_batch,), generator=world.stream("transfer", step))
        views = world.views([pool[rows[r::RANKS]] for r in range(RANKS)], "distillation view", step)
        for student, optimizer, view in zip(world.students, optimizers, views, strict=True):
            with torch.no_grad():
                target = world.teacher((view - MEAN) / STD) / n.temperature
            guess = student((view - MEAN) / STD) / n.temperature
            p, q = target.log_softmax(1), guess.log_softmax(1)
            optimizer.zero_grad()
            (n.temperature**2 * (p.exp() * (p - q)).sum(1).mean()).backward()
        average(world.students)
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = rate
            optimizer.step()
