"""Settings of CMI's contrastive term."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from lightning_condkd.augment import Augment

Features = Literal["batch_norm", "embedding"]
STAGES = ("layer1", "layer2", "layer3", "layer4")


@dataclass(frozen=True)
class Contrastive:
    """Settings of CMI's contrastive term.

    The ring stores ``ring_size * 2 * D`` values for features of length ``D``. A WRN-40-2 has ``D`` = 2704: 88.6 MB with
    the defaults, on the device of the method (official code: 40 960 rows of float32, 886 MB, in the memory of the
    host). The head has about ``D * D`` weights. For a ResNet-34, with ``D`` = 8512 by all BatchNorm layers, the
    official code takes the inputs of its four stages instead, ``D`` = 512: :meth:`resnet34`.

    Args:
        temperature: divisor of the similarities (``scratch_cmi``, ``adv_cmi``: 0.1; ``cmi_cifar10``: 0.2).
        features: features stored for an image: the spatial means of all BatchNorm inputs of the teacher
            (``batch_norm``), or of the inputs of named modules, or its ``embedding`` (our extension, for teachers
            without BatchNorm).
        head_lr: learning rate of the head (default of the code).
        head_size: length of the head's output.
        ring_size: number of stored images (our default).
        ring_draws: number of stored images in a step; fewer while the ring has fewer. There are none in the first block
            (official code: random vectors).
        ring_dtype: type in which features are stored (our default).
        ring_on_cpu: whether the ring stays in the CPU's memory, as in the official code; each step then copies its
            draws.
        local_augment: the local view; ``None`` for :class:`~lightning_condkd.augment.ResizedCrop`.

    Raises:
        ValueError: if an argument is out of its range.
    """

    temperature: float = 0.1
    features: Features | tuple[str, ...] = "batch_norm"
    head_lr: float = 1e-3
    head_size: int = 256
    ring_size: int = 8192
    ring_draws: int = 4096
    ring_dtype: Literal["float16", "float32"] = "float16"
    ring_on_cpu: bool = False
    local_augment: Augment | None = None

    def __post_init__(self) -> None:
        named = not isinstance(self.features, str) and bool(self.features)
        if not named and self.features not in get_args(Features):
            raise ValueError(
                f"expected features 'batch_norm' or 'embedding', or names of modules, got {self.features!r}"
            )
        if self.ring_dtype not in ("float16", "float32"):
            raise ValueError(f"expected ring_dtype 'float16' or 'float32', got {self.ring_dtype!r}")
        if self.temperature <= 0 or self.ring_size <= 0 or self.ring_draws < 0:
            got = f"{self.temperature}, {self.ring_size} and {self.ring_draws}"
            raise ValueError(f"expected temperature > 0, ring_size > 0 and ring_draws >= 0, got {got}")

    @classmethod
    def resnet34(cls, **arguments: Any) -> Contrastive:  # noqa: ANN401 - those of the class
        """Return the settings of the official code for a ResNet-34: features of the inputs of ``layer1`` to ``layer4``.

        Args:
            arguments: other arguments of the class.

        Example:
            >>> Contrastive.resnet34(temperature=0.2).features
            ('layer1', 'layer2', 'layer3', 'layer4')
        """
        return cls(features=STAGES, **arguments)
