"""Distillation as generation: the student's features are the condition of a diffusion model of the teacher's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_condkd.distillation.base import DistillationLoss
from lightning_condkd.distillation.denoising import denoising_errors, draw_mixture, draw_rows
from lightning_condkd.distillation.feature_sampling import FeatureSampling, sample_features
from lightning_condkd.distillation.inputs import LossSpec
from lightning_condkd.distributed import mean_over_ranks
from lightning_condkd.functional.diffusion_schedule import cosine_schedule
from lightning_condkd.functional.feature_generation import (
    contract,
    label_probabilities,
    mix_rows,
    split_tokens,
    token_count,
)
from lightning_condkd.hashing import content_hash
from lightning_condkd.models import Observer
from lightning_condkd.models.diffusion_head import DiffusionHead
from lightning_condkd.models.heads import ClassifierHead
from lightning_condkd.precision import at_least_float32
from lightning_condkd.randomness import send
from lightning_condkd.types import LossTerms, NetworkOutput


class GenDD(DistillationLoss):
    r"""Generative distribution distillation: the student learns to be the condition of a diffusion model of features.

    The teacher's embedding is moved toward the weight of its class in the teacher's final layer,
    :math:`x_0 = (1 - a) f_T + a c_y`, and cut into tokens of neighboring values. A small network, see
    :class:`~lightning_condkd.models.diffusion_head.DiffusionHead`, learns to denoise each token, given the layer norm
    of the student's embedding. The terms are

    - ``diffusion``: squared error of the predicted noise;
    - ``variational``: the bound that trains the variance, with ``learn_sigma``. It does not change the noise that is
      predicted directly, but its gradient, too, reaches the network's inner layers and the student's body;
    - ``linear``: cross-entropy of the student's final layer on its detached embedding, which leaves the body alone.

    The student itself predicts by its final layer, as cheaply as without this loss. The prediction ``sampled`` samples
    features and gives their mean to the teacher's final layer; it is the one that the paper reports.

    All defaults are those of the official code for CIFAR-100; on ImageNet it has ``batch_multiplier=10`` and 64
    sampling steps. On CIFAR-100 that code trains by AdamW (1e-3, weight decay 0.05, batch 64, 240 epochs), without
    weight decay for the network (as :meth:`parameter_groups` says) and with the rising
    :func:`~lightning_condkd.functional.feature_generation.ramped_decay`, in single precision. The cost is high: at that
    setting the network computes about 13 times what a ResNet8x4 student does in a training step, and sampling 5
    features of 4 tokens about 430 times what it does to predict (our arithmetic).

    Noise, timesteps and dropped conditions of an image depend on the step and its place in the global batch alone, not
    on the number of ranks; give ``LossContext(draw=...)`` in a bare loop, since without it every step draws the same.
    Features are mixed within a rank, as in the official code, so with ``feature_mixup`` the number of ranks matters.

    For data without labels the official code has ``contraction=0``, ``linear_weight=0``; the student's own
    prediction is then untrained, only ``sampled`` counts.

    Args:
        token_size: width d of a token, a divisor of the width of the teacher's embedding.
        width: width of the network.
        depth: number of its blocks.
        contraction: a, in [0, 1). In the official code 0.9 for most pairs, 0.8 and 0.7 for some on CIFAR-100, 0 without
            labels and on ImageNet-LT. With 0 no labels are used for it.
        center_label_weight: weight of the labels in the center, the rest is that of the teacher's probabilities.
        feature_mixup: both parameters of the Beta distribution of the share with which condition and target are mixed
            with those of another row; 0 for none, as for images that are mixtures already.
        condition_drop: probability that a token is denoised without its condition, for classifier-free guidance.
        batch_multiplier: number of times that each token is denoised in a step, with different noise.
        learn_sigma: whether the variance is learned; otherwise the sampler has that of the posterior.
        target_scale: factor of the features before they are denoised, undone after; ``first_batch`` for the inverse
            standard deviation in the first training batch (our extension). 1 in the official code.
        linear_weight: weight of the cross-entropy; with 0 the student's final layer is not trained.
        sampling: settings of the prediction ``sampled``.
        most_rows: number of tokens denoised at once, which bounds the memory: 16,384 hold 2.8 GB for the gradient at
            the default size in single precision. A step with more computes them in parts, and each part a second time
            for its gradient (our choice).

    Raises:
        ValueError: if an argument is out of its range; at setup if the width of the embedding is not divisible.

    Example:
        >>> from lightning_condkd.distillation import LossContext
        >>> from lightning_condkd.models import DigitsNet
        >>> from lightning_condkd.randomness import Draw
        >>> teacher, student = Observer(DigitsNet(width=8)).freeze(), Observer(DigitsNet(width=4))
        >>> loss = GenDD(token_size=4, width=16, batch_multiplier=2).build(teacher, student, image_shape=(1, 8, 8))
        >>> images, labels = torch.rand(2, 1, 8, 8), torch.tensor([3, 7])
        >>> outputs = student(images, embedding=True), teacher(images, embedding=True)
        >>> context = LossContext(student_head=student.head(), draw=Draw(seed=0, step=0))
        >>> {name: value.shape for name, value in loss.terms(*outputs, labels, context).values.items()}
        {'diffusion': torch.Size([]), 'variational': torch.Size([]), 'linear': torch.Size([])}
        >>> loss.other_predictors(student)["sampled"](images).shape
        torch.Size([2, 10])

    References:
        Cui et al.: "Generative Distribution Distillation", arXiv 2507.14503, and its code.
    """

    needs_embedding = True
    needs_teacher_head = True
    accepts_soft_labels = True
    target_scale: Tensor

    def __init__(
        self,
        *,
        token_size: int = 64,
        width: int = 1024,
        depth: int = 3,
        contraction: float = 0.9,
        center_label_weight: float = 1.0,
        feature_mixup: float = 1.0,
        condition_drop: float = 0.2,
        batch_multiplier: int = 30,
        learn_sigma: bool = True,
        target_scale: float | Literal["first_batch"] = 1.0,
        linear_weight: float = 1.0,
        sampling: FeatureSampling = FeatureSampling(),
        most_rows: int = 16384,
    ) -> None:
        super().__init__()
        _check("1 or more", lambda value: value >= 1, token_size=token_size, width=width, depth=depth)
        _check("1 or more", lambda value: value >= 1, batch_multiplier=batch_multiplier, most_rows=most_rows)
        _check("0 or more", lambda value: value >= 0, feature_mixup=feature_mixup, linear_weight=linear_weight)
        _check("a share in [0, 1)", lambda value: 0 <= value < 1, contraction=contraction)
        shares = {"center_label_weight": center_label_weight, "condition_drop": condition_drop}
        _check("a share in [0, 1]", lambda value: 0 <= value <= 1, **shares)
        self._scale_by_batch = target_scale == "first_batch"
        scale = 0.0 if isinstance(target_scale, str) else target_scale
        if not (self._scale_by_batch or scale > 0):
            raise ValueError(f"target_scale: expected a positive number or 'first_batch', got {target_scale!r}")
        self.token_size, self.width, self.depth, self.learn_sigma = token_size, width, depth, learn_sigma
        self.contraction, self.center_label_weight = contraction, center_label_weight
        self.feature_mixup, self.condition_drop = feature_mixup, condition_drop
        self.batch_multiplier, self.most_rows = batch_multiplier, most_rows
        self.linear_weight, self.sampling = linear_weight, sampling
        self.needs_student_head = linear_weight > 0
        self.needs_labels = linear_weight > 0 or (contraction > 0 and center_label_weight > 0)
        self.schedule = cosine_schedule()
        # 0 stands for a scale that the first batch will set.
        self.register_buffer("target_scale", torch.tensor(float(scale)))

    def make(self, spec: LossSpec) -> None:
        """Create the network and the layer norm of the condition, see :class:`DistillationLoss`."""
        condition_size = spec.student.embedding_size
        tokens = token_count(spec.teacher.embedding_size, self.token_size)
        self.condition_norm = nn.LayerNorm(condition_size)
        head = partial(DiffusionHead, width=self.width, depth=self.depth, learn_sigma=self.learn_sigma)
        self.head = head(self.token_size, tokens, condition_size)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the network without weight decay, and the layer norm with the student's."""
        head = {"params": list(self.head.parameters()), "weight_decay": 0.0}
        return [head, {"params": list(self.condition_norm.parameters())}]

    def forward(self, student: NetworkOutput, teacher: NetworkOutput, labels: Tensor | None = None) -> LossTerms:
        """Return the terms of the batch, see :class:`DistillationLoss`."""
        condition, targets = self.condition(student), self.targets(teacher, labels)
        if self.feature_mixup:
            partners, share = draw_mixture(self.context.draw, len(targets), self.feature_mixup)
            condition, targets = (mix_rows(x, send(partners, x.device), share) for x in (condition, targets))
        tokens, most = split_tokens(targets, self.token_size), self.most_rows
        draw, (images, places, size) = self.context.draw, tokens.shape
        rows = draw_rows(draw, images, self.batch_multiplier, places, size, self.condition_drop)
        errors = denoising_errors(self.head, self.schedule, tokens, condition, rows, most).unbind()
        terms = dict(zip(("diffusion", "variational"), errors, strict=False))
        weights = dict.fromkeys(terms, 1.0)
        if self.linear_weight:
            terms["linear"], weights["linear"] = self._linear(student, labels), self.linear_weight
        return LossTerms(terms, weights)

    def condition(self, student: NetworkOutput) -> Tensor:
        """Return the condition of the network, the layer norm of the student's embedding.

        Args:
            student: output of the student.

        Returns:
            ``(N, D_S)`` in float32 at least.
        """
        embedding = cast(Tensor, student.embedding)
        return at_least_float32(self.condition_norm(embedding.to(self.condition_norm.weight.dtype)))

    @torch.no_grad()
    def targets(self, teacher: NetworkOutput, labels: Tensor | None) -> Tensor:
        """Return the contracted and scaled features, without gradient.

        Args:
            teacher: output of the teacher.
            labels: classes ``(N,)`` or probabilities ``(N, K)``; ``None`` for a loss that needs none.

        Returns:
            ``(N, D_T)``.
        """
        features = at_least_float32(cast(Tensor, teacher.embedding))
        if self.contraction:
            probabilities = label_probabilities(labels, teacher.logits, self.center_label_weight)
            features = contract(features, probabilities, self.teacher_head.weight, self.contraction)
        if self._scale_by_batch and not self.target_scale:
            mean, square = mean_over_ranks(torch.stack([features.mean(), features.square().mean()]))
            self.target_scale.copy_((square - mean**2).rsqrt())
        return features * self.target_scale

    def _linear(self, student: NetworkOutput, labels: Tensor | None) -> Tensor:
        head, known = cast(ClassifierHead, self.context.student_head), cast(Tensor, labels)
        logits = at_least_float32(head(cast(Tensor, student.embedding).detach()))
        return F.cross_entropy(logits, known if known.dim() == 1 else known.to(logits))

    def other_predictors(self, student: Observer) -> Mapping[str, Callable[[Tensor], Tensor]]:
        """Return the prediction ``sampled``, see :class:`DistillationLoss`."""
        return {"sampled": partial(self.sample_logits, student)}

    @torch.no_grad()
    def sample_logits(self, student: Observer, images: Tensor) -> Tensor:
        """Return the teacher's logits of the mean of sampled features.

        Args:
            student: the student, in eval mode.
            images: ``(N, C, H, W)``, pixels in the units of [0, 1].

        Returns:
            ``(N, K)``.

        Raises:
            RuntimeError: if the first batch has not set the scale.
        """
        if self._scale_by_batch and not self.target_scale:
            raise RuntimeError("GenDD: target_scale='first_batch' is not set yet: sample after the first training step")
        keys = [content_hash(image) for image in images.cpu()]
        condition = self.condition(student(images, embedding=True))
        # Half precision would be too little: the first step multiplies the error of the noise by several hundred.
        with torch.autocast(condition.device.type, enabled=False):
            features = sample_features(self.head, condition, keys, self.sampling, self.most_rows) / self.target_scale
            return cast(Tensor, self.teacher_head(features.to(self.teacher_head.weight.dtype)))

    def extra_repr(self) -> str:
        """Return what sets the loss apart for ``print``."""
        drawn = f"condition_drop={self.condition_drop}, batch_multiplier={self.batch_multiplier}"
        return f"contraction={self.contraction}, feature_mixup={self.feature_mixup}, {drawn}"


def _check(expected: str, fits: Callable[[float], bool], **values: float) -> None:
    for name, value in values.items():
        if not fits(value):
            raise ValueError(f"{name}: expected {expected}, got {value}")
