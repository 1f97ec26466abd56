"""What a diffusion model is asked for: a prompt or a class for each image, and nothing for classifier-free guidance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_condkd.types import TaskSpec

EXTRA = 'pip install "lightning-condkd[diffusion]"'


@dataclass(frozen=True)
class Prompt:
    """Prompts of a text-to-image model, or the classes of a class-conditional one.

    By default the class is not named: it comes from the teacher's gradient alone, as in the official code. A
    class-conditional model is then asked for its null class.

    Args:
        label_in_prompt: whether the prompt names the class of the image; a class-conditional model is asked for it.
        labeled: the prompt with a class, which replaces ``{label}``. The official code has ``an image of {label}`` for
            DomainNet.
        unlabeled: the prompt without a class.
        negative: the prompt of the unconditional prediction.
        guidance_scale: factor s of classifier-free guidance, ``unconditional + s (conditional - unconditional)``. The
            official code has 3, for DomainNet 7. With 1, or where both are the same, the unconditional prediction is
            not computed.
        class_names: names of the classes in the order of the labels; ``None`` for those of the condensed set.

    Raises:
        ValueError: if ``labeled`` has no place for the class.
    """

    label_in_prompt: bool = False
    labeled: str = "A realistic photo of {label}"
    unlabeled: str = "A realistic photo."
    negative: str = ""
    guidance_scale: float = 3.0
    class_names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if "{label}" not in self.labeled:
            raise ValueError(
                f"labeled: expected a prompt with {{label}} in the place of the class, got {self.labeled!r}"
            )

    def texts(self, spec: TaskSpec) -> list[str]:
        """Return the prompts, the negative one last.

        Args:
            spec: the task.

        Raises:
            ValueError: if the prompts name the class, and there is not one name for each class.

        Example:
            >>> Prompt(label_in_prompt=True, class_names=("cat", "dog")).texts(TaskSpec((3, 8, 8), 2, 0))
            ['A realistic photo of cat', 'A realistic photo of dog', '']
        """
        if not self.label_in_prompt:
            return [self.unlabeled, self.negative]
        names = spec.class_names if self.class_names is None else self.class_names
        if len(names) != spec.num_classes:
            raise ValueError(
                f"label_in_prompt: expected {spec.num_classes} names of classes, got {', '.join(names) or 'none'}: "
                "give prompt.class_names, in the order of the labels, or a condensed set whose info has class_names"
            )
        return [*(self.labeled.replace("{label}", name) for name in names), self.negative]


class Conditions(NamedTuple):
    """The conditions of a diffusion model, one a row.

    Args:
        argument: name of the U-Net's argument; ``None`` for an unconditional model.
        table: the conditions, that of the unconditional prediction last.
        by_label: whether a class has the row of its number; else all have the first.
        scale: factor of classifier-free guidance.
    """

    argument: str | None
    table: Tensor
    by_label: bool
    scale: float

    @property
    def guided(self) -> bool:
        """Whether the unconditional prediction is needed too."""
        return self.scale != 1 and len(self.table) > 1

    def given(self, labels: Tensor) -> dict[str, Tensor]:
        """Return the arguments of the U-Net for images, followed by those of their unconditional predictions.

        Args:
            labels: classes of the images, ``(N,)``.
        """
        if self.argument is None:
            return {}
        rows = labels if self.by_label else torch.zeros_like(labels)
        if self.guided:
            rows = torch.cat([rows, torch.full_like(labels, len(self.table) - 1)])
        return {self.argument: self.table[rows]}


def class_conditions(prompt: Prompt, classes: int | None, spec: TaskSpec) -> Conditions:
    """Return the conditions of a model without text.

    Args:
        prompt: settings.
        classes: number of conditions of the U-Net; ``None`` for an unconditional one.
        spec: the task.

    Raises:
        ValueError: if the model lacks the class or the null class that is asked for.
    """
    if classes is None:
        if prompt.label_in_prompt:
            raise ValueError(
                "label_in_prompt: the U-Net is unconditional: set it to False, or give a conditional model"
            )
        return Conditions(None, torch.zeros(1), False, 1.0)
    has_null = classes == spec.num_classes + 1
    needs_null = not prompt.label_in_prompt or prompt.guidance_scale != 1
    if not has_null and (needs_null or classes != spec.num_classes):
        raise ValueError(
            f"expected a U-Net with num_class_embeds {spec.num_classes + 1}, the task's classes and the null class, "
            f"got {classes}: train it with a null class; {spec.num_classes} suffice with label_in_prompt=True and "
            "guidance_scale=1.0 alone"
        )
    table = torch.arange(classes)
    return Conditions(
        "class_labels", table if prompt.label_in_prompt else table[-1:], prompt.label_in_prompt, prompt.guidance_scale
    )


@torch.no_grad()
def text_conditions(prompt: Prompt, tokenizer: Any, encoder: Any, spec: TaskSpec) -> Conditions:  # noqa: ANN401
    """Return the embeddings of the prompts; the text encoder is not needed afterwards.

    Args:
        prompt: settings.
        tokenizer: tokenizer of ``transformers``.
        encoder: text encoder of ``transformers``.
        spec: the task.
    """
    length = tokenizer.model_max_length
    tokens = tokenizer(
        prompt.texts(spec), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    ).input_ids
    table = encoder(tokens.to(next(encoder.parameters()).device))[0]
    return Conditions("encoder_hidden_states", table, prompt.label_in_prompt, prompt.guidance_scale)
