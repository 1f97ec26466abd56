"""Rules for subclasses that are checked at run time: final methods, and access to requested outputs only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from lightning_condkd.types import BatchNormStatistics, NetworkOutput


class FinalMethods:
    """Base class that refuses subclasses which override its final methods.

    Attributes:
        finals: name of each final method of a class, with the method that a subclass writes instead.

    Example:
        >>> class Base(FinalMethods):
        ...     finals = {"build": "make()"}
        >>> class Own(Base):
        ...     def build(self): ...
        Traceback (most recent call last):
        TypeError: Own.build: Base.build is final: it does what every subclass needs. Write make() instead
    """

    finals: ClassVar[Mapping[str, str]] = {}

    def __init_subclass__(cls, **arguments: Any) -> None:  # noqa: ANN401 - those of the class statement
        super().__init_subclass__(**arguments)
        for base in cls.__mro__[1:]:
            for name, hook in vars(base).get("finals", {}).items():
                if name in vars(cls):
                    raise TypeError(
                        f"{cls.__name__}.{name}: {base.__name__}.{name} is final: it does what every subclass needs. "
                        f"Write {hook} instead"
                    )


def check_initialized(part: nn.Module, call: str) -> None:
    """Check that a subclass called the constructor of its base.

    Args:
        part: the object.
        call: the missing call as source text.

    Raises:
        TypeError: if the constructor was not called.
    """
    if "_modules" not in vars(part):
        name = type(part).__name__
        raise TypeError(f"{name}.__init__ does not call that of its base: begin it with {call}")


class _Maps(tuple[Tensor, ...]):
    def __getitem__(self, index: Any) -> Any:  # noqa: ANN401 - as of a tuple
        if isinstance(index, int) and not -len(self) <= index < len(self):
            raise ValueError(f"maps[{index}] was read, but {len(self)} were asked for: name the module too")
        return super().__getitem__(index)


class RequestedOutput(NetworkOutput):
    """Output of a network that gives access only to requested values.

    Example:
        >>> import torch
        >>> RequestedOutput(torch.zeros(1, 2)).embedding
        Traceback (most recent call last):
        ValueError: the embedding was read, but not asked for: call the network with embedding=True
    """

    __slots__ = ()
    cures: ClassVar[Mapping[str, str]] = {
        "embedding": "call the network with embedding=True",
        "maps": "call the network with maps=[...], the names of its modules",
        "bn": "call the network with bn=True; it must have BatchNorm layers with running statistics",
        "channel_means": "call the network with channel_means=True",
    }

    @property
    def embedding(self) -> Tensor:
        """Input of the final linear layer, ``(N, D)``."""
        value: Tensor = self._requested("embedding")
        return value

    @property
    def maps(self) -> tuple[Tensor, ...]:
        """Outputs of the requested inner modules."""
        return _Maps(self._requested("maps"))

    @property
    def bn(self) -> tuple[BatchNormStatistics, ...]:
        """One record for each BatchNorm layer."""
        value: tuple[BatchNormStatistics, ...] = self._requested("bn")
        return value

    @property
    def channel_means(self) -> Tensor:
        """Spatial means of the inputs of all BatchNorm layers, ``(N, D')``."""
        value: Tensor = self._requested("channel_means")
        return value

    def _requested(self, name: str) -> Any:  # noqa: ANN401 - the type of the field
        value = self[self._fields.index(name)]
        if value is None or (isinstance(value, tuple) and not value):
            raise ValueError(f"the {name} was read, but not asked for: {self.cures[name]}")
        return value
