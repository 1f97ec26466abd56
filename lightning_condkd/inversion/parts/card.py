"""Facts about a method that its class does not say otherwise, for the table of ``lightning-condkd methods``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

RESNET, WIDE_RESNET = "ResNet-34 to ResNet-18", "WRN-40-2 to WRN-16-2"
FAST_TABLE = "table of Fast (arXiv 2112.06253), best epoch"
OURS = "none: a control of this package"
QUOTED = "as quoted by a later repository, best epoch"


class Published(NamedTuple):
    """A published accuracy of a student.

    Args:
        dataset: name of the data.
        networks: teacher and student.
        accuracy: top-1 accuracy in percent.
    """

    dataset: str
    networks: str
    accuracy: float


@dataclass(frozen=True)
class MethodCard:
    """What a method's class does not say otherwise; its paper is in the references of its docstring.

    Args:
        code: the code that the defaults follow.
        teacher_passes: forward passes of the teacher in a synthesis step, without alignment.
        needs: what the method needs besides the two networks and what its attributes say (``bn_weight``,
            ``needs_embedding``).
        published: accuracies of the student.
        published_in: where they were published, and how they were taken.
        arguments: values of constructor arguments without a default, for a look at the method.

    Raises:
        ValueError: if accuracies have no source, or a source no accuracies.

    Example:
        >>> MethodCard("own code", published=accuracies(93.3, 67.7), published_in="a table").published[0]
        Published(dataset='CIFAR-10', networks='ResNet-34 to ResNet-18', accuracy=93.3)
    """

    code: str
    teacher_passes: int = 1
    needs: tuple[str, ...] = ()
    published: tuple[Published, ...] = ()
    published_in: str = ""
    arguments: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if bool(self.published) != bool(self.published_in):
            raise ValueError(
                f"expected published accuracies with their source, got {len(self.published)} of them from "
                f"{self.published_in!r}: give both published and published_in, or none"
            )


def accuracies(cifar10: float, cifar100: float, wide_cifar100: float | None = None) -> tuple[Published, ...]:
    """Return the accuracies that most papers print.

    Args:
        cifar10: CIFAR-10, ResNet-34 to ResNet-18.
        cifar100: CIFAR-100, ResNet-34 to ResNet-18.
        wide_cifar100: CIFAR-100, WRN-40-2 to WRN-16-2; ``None`` if it was not printed.
    """
    wide = () if wide_cifar100 is None else (Published("CIFAR-100", WIDE_RESNET, wide_cifar100),)
    return (Published("CIFAR-10", RESNET, cifar10), Published("CIFAR-100", RESNET, cifar100), *wide)
