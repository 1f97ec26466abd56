"""The loops that cost is measured against: the same mathematics in plain PyTorch, on tensors in memory."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_condkd.augment import CropFlip
from lightning_condkd.models import CifarResNet, ConvGenerator

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
TEMPERATURE = 20.0
CLASS_WEIGHT, BN_WEIGHT, ADVERSARIAL_WEIGHT = 0.5, 10.0, 1.33


def half_width() -> tuple[nn.Module, nn.Module]:
    """Return ResNet-20 and its half-width sibling."""
    return CifarResNet(20), CifarResNet(20, width=8)


def conv_generator() -> ConvGenerator:
    """Return the generator of Fast."""
    return ConvGenerator((3, 32, 32))


class PlainLoops:
    """What both loops share: networks with random weights, their device and their precision.

    Args:
        device: where they are.
        autocast: whether forward passes run in bfloat16, as the precision ``bf16-mixed`` of Lightning does it.
        networks: makes teacher and student anew for every loop.
        generator: makes the generator.
    """

    def __init__(
        self,
        device: str,
        autocast: bool,
        networks: Callable[[], tuple[nn.Module, nn.Module]] = half_width,
        generator: Callable[[], ConvGenerator] = conv_generator,
    ) -> None:
        self.device, self.autocast = torch.device(device), autocast
        self._networks, self._generator = networks, generator
        self.mean, self.std = (torch.tensor(v, device=self.device).view(1, 3, 1, 1) for v in (MEAN, STD))

    def _pair(self) -> tuple[nn.Module, nn.Module]:
        teacher, student = (network.to(self.device) for network in self._networks())
        return teacher.eval().requires_grad_(False), student

    def _precision(self) -> AbstractContextManager[Any]:
        if not self.autocast:
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16, cache_enabled=False)

    def distillation(self, batch_size: int, augment: bool) -> Callable[[], None]:
        """Return the student's step on one batch; without augmentation the batch is normalised once and for all."""
        teacher, student = self._pair()
        optimizer = torch.optim.SGD(student.parameters(), lr=0.2, momentum=0.9, weight_decay=1e-4)
        images = torch.rand(batch_size, 3, 32, 32, device=self.device)
        normalized = (images - self.mean) / self.std
        crop, generator = CropFlip(), torch.Generator()

        def step() -> None:
            view = normalized
            if augment:
                view = (crop(images, crop.sample(batch_size, generator)) - self.mean) / self.std
            with self._precision():
                with torch.no_grad():
                    target = teacher(view)
                logits = student(view)
            loss = _kl(logits.float() / TEMPERATURE, target.float() / TEMPERATURE).sum(1).mean() * TEMPERATURE**2
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        return step

    def synthesis(self, batch_size: int) -> Callable[[], None]:
        """Return the generator's step of Fast without selection, meta-gradient, moving average, bank and meters."""
        teacher, student = self._pair()
        student.eval().requires_grad_(False)
        distances = _listen(teacher)
        network = self._generator().to(self.device)
        latent = nn.Parameter(torch.randn(batch_size, network.latent_size, device=self.device))
        labels = torch.randint(10, (batch_size,), device=self.device)
        groups = [{"params": [*network.parameters()], "lr": 3e-3}, {"params": [latent], "lr": 0.01}]
        optimizer = torch.optim.Adam(groups, betas=(0.5, 0.999))
        crop, generator = CropFlip(), torch.Generator()

        def step() -> None:
            distances.clear()
            with self._precision():
                images = network(latent)
                view = (crop(images, crop.sample(batch_size, generator)) - self.mean) / self.std
                of_teacher, of_student = teacher(view), student(view)
            agree = of_teacher.argmax(1) == of_student.argmax(1)
            disagreement = -(_kl(of_student.float(), of_teacher.float()).sum(1) * agree).mean()
            loss = CLASS_WEIGHT * F.cross_entropy(of_teacher.float(), labels) + BN_WEIGHT * torch.stack(distances).sum()
            loss = loss + ADVERSARIAL_WEIGHT * disagreement
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        return step


def _kl(student: Tensor, teacher: Tensor) -> Tensor:
    return F.kl_div(F.log_softmax(student, 1), F.log_softmax(teacher, 1), reduction="none", log_target=True)


def _listen(teacher: nn.Module) -> list[Tensor]:
    """Hook every BatchNorm layer for good; the list gets the distances of mean and variance.

    The variance is written as the package writes it, which is faster than ``torch.var`` of public code: the bound is to
    be held against the better loop.
    """
    distances: list[Tensor] = []

    def record(layer: nn.BatchNorm2d, args: tuple[Tensor, ...]) -> None:
        values = args[0].float()
        mean = values.mean((0, 2, 3))
        shift = mean.detach()
        variance = (values - shift.view(1, -1, 1, 1)).square().mean((0, 2, 3)) - (mean - shift).square()
        distances.append(torch.linalg.vector_norm(mean - layer.running_mean))
        distances.append(torch.linalg.vector_norm(variance - layer.running_var))

    for layer in teacher.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.register_forward_pre_hook(record)
    return distances
