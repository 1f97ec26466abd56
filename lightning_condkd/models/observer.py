"""A classifier with its own normalisation, from which one forward pass yields all that the methods look at."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from lightning_condkd.models.finite import check_finite
from lightning_condkd.models.taps import batch_norm_layers, tap_batch_norm, tap_channel_means, tap_input, tap_output
from lightning_condkd.models.weights import load_weights
from lightning_condkd.types import NetworkOutput


class Observer(nn.Module):
    """Wrap a classifier so that it takes images in the units of [0, 1] and can be asked for its inner values.

    The network is used as it is: hooks exist only during a call that asks for something. Layers are looked up at that
    call, so that replacing them (``convert_sync_batchnorm``) is safe.

    Args:
        network: any classifier that maps normalised images ``(N, C, H, W)`` to logits ``(N, K)``.
        mean: what the network's training data had as mean of each channel, in the units of [0, 1]; ``None`` subtracts
            nothing.
        std: likewise the standard deviation of each channel; ``None`` divides by nothing.
        weights: file to load into the network, see :func:`~lightning_condkd.models.weights.read_state_dict`.
        embedding: name of the final linear layer, whose input is the embedding; ``None`` takes the last ``nn.Linear``.
            A layer of another class must have ``in_features`` and ``out_features``.

    Raises:
        ValueError: if there is no such final linear layer, mean and std differ in length or are not finite, or a std is
            not above 0.

    Example:
        >>> body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> network = nn.Sequential(*body, nn.Linear(4, 10))
        >>> teacher = Observer(network, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)).freeze()
        >>> output = teacher(torch.rand(2, 3, 8, 8), embedding=True, bn=True, maps=["0"])
        >>> output.logits.shape, output.embedding.shape, output.maps[0].shape, output.bn[0].mean.shape
        (torch.Size([2, 10]), torch.Size([2, 4]), torch.Size([2, 4, 6, 6]), torch.Size([4]))
    """

    mean: Tensor | None
    std: Tensor | None

    def __init__(
        self,
        network: nn.Module,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        *,
        weights: str | Path | None = None,
        embedding: str | None = None,
    ) -> None:
        super().__init__()
        _check_normalisation(mean, std)
        self.network = network
        self.register_buffer("mean", None if mean is None else torch.tensor(tuple(mean)), persistent=False)
        self.register_buffer("std", None if std is None else torch.tensor(tuple(std)), persistent=False)
        self._embedding = embedding
        self._frozen = False
        self._compiled: Callable[[Tensor], object] | None = None
        _final_linear(network, embedding)
        if weights is not None:
            load_weights(network, weights)

    def forward(
        self,
        images: Tensor,
        *,
        embedding: bool = False,
        bn: bool = False,
        maps: Sequence[str] = (),
        channel_means: bool = False,
    ) -> NetworkOutput:
        """Return the logits and what else is asked for.

        Args:
            images: ``(N, C, H, W)``, floating point pixels in the units of [0, 1].
            embedding: whether to return the input of the final linear layer.
            bn: whether to return the statistics of every BatchNorm layer with running ones, in the order of execution.
                They are those of this batch on this rank.
            maps: names of inner modules whose outputs are returned.
            channel_means: whether to return, for each image, the spatial means of the inputs of the same BatchNorm
                layers, all in a row. Asked for together with ``bn``, the batch means are taken from them, which may
                change the last digit.

        Raises:
            TypeError: if the images are integers, or the network or a named module returns no tensor.
            ValueError: if the images or the embedding have another shape than expected, or a named module is missing.
            RuntimeError: if a layer that is asked for was not executed.
        """
        linear = _final_linear(self.network, self._embedding) if embedding else None
        with ExitStack() as hooks:
            inputs = tap_input(hooks, linear) if linear else []
            means = tap_channel_means(hooks, self.network) if channel_means else {}
            statistics = tap_batch_norm(hooks, self.network, means) if bn else {}
            outputs = {name: tap_output(hooks, _submodule(self.network, name, "maps")) for name in maps}
            asked = any((embedding, bn, maps, channel_means))
            logits = self._network_for(asked)(self.normalise(images))
        if not isinstance(logits, Tensor):
            raise TypeError(
                f"expected {type(self.network).__name__} to return logits (N, K), got {type(logits).__name__}; "
                "wrap the network in a module that returns only the logits"
            )
        if (bn or channel_means) and not (statistics or means) and self.bn_channels:
            raise _not_executed("BatchNorm")
        features = _checked(_last(inputs, "final linear"), logits, linear) if linear else None
        return NetworkOutput(
            logits,
            features,
            tuple(_last(outputs[name], name) for name in maps),
            tuple(statistics.values()),
            torch.cat([logits.new_zeros(len(logits), 0), *means.values()], dim=1) if channel_means else None,
        )

    def compile(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - those of torch.compile
        """Compile the network for those passes of a training step that ask for logits alone.

        These are passes in train mode, and those of a frozen network without gradients, as a teacher's for its student.
        All others run the network as it is: a compiled one drops the hooks with which inner values are seen. Names of
        weights stay. A copy of the observer is not compiled.

        Args:
            args: of ``torch.compile``.
            kwargs: of ``torch.compile``, such as ``mode="reduce-overhead"``.

        Example:
            >>> observer = Observer(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)))
            >>> observer.compile(backend="eager")
            >>> observer.train()(torch.rand(3, 3, 2, 2)).logits.shape, list(observer.state_dict())
            (torch.Size([3, 2]), ['network.1.weight', 'network.1.bias'])
        """
        # Past nn.Module's attributes: as a submodule it would bring every weight a second time.
        object.__setattr__(self, "_compiled", torch.compile(self.network, *args, **kwargs))

    def _network_for(self, asked: bool) -> Callable[[Tensor], object]:
        in_step = self.network.training or (self._frozen and not torch.is_grad_enabled())
        if asked or self._compiled is None or not in_step or torch.is_inference_mode_enabled():
            return self.network
        return self._compiled

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_compiled": None}

    def normalise(self, images: Tensor) -> Tensor:
        """Return images as the network wants them.

        Args:
            images: ``(N, C, H, W)``, floating point pixels in the units of [0, 1].
        """
        _check_images(images, self.mean if self.mean is not None else self.std)
        if self.mean is not None:
            images = images - self.mean.to(images.dtype).view(-1, 1, 1)
        if self.std is not None:
            images = images / self.std.to(images.dtype).view(-1, 1, 1)
        return images

    @property
    def num_classes(self) -> int:
        """Number of classes K: width of the final linear layer's output."""
        return _final_linear(self.network, self._embedding).out_features

    @property
    def embedding_size(self) -> int:
        """Width D of the embedding: width of the final linear layer's input."""
        return _final_linear(self.network, self._embedding).in_features

    @property
    def bn_channels(self) -> tuple[int, ...]:
        """Widths of the BatchNorm layers that keep running statistics, in the order of registration."""
        return tuple(layer.num_features for layer in batch_norm_layers(self.network))

    def freeze(self) -> Observer:
        """Stop parameter gradients and pin the network to eval for good; gradients still reach the images.

        Raises:
            ValueError: if weights or statistics hold NaN or infinity.
        """
        check_finite("a network that is to be frozen", self, "load the weights of a run that did not diverge")
        self._frozen = True
        return self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Observer:
        """Set training mode; a frozen observer stays in eval.

        Args:
            mode: whether to train.
        """
        return super().train(mode and not self._frozen)

    def fingerprint(self) -> str:
        """Return the SHA-256 of the network's parameters and persistent buffers with their names, on any device."""
        digest = hashlib.sha256()
        for name, value in self.network.state_dict().items():
            if isinstance(value, Tensor):
                digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
                digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def _check_normalisation(mean: Sequence[float] | None, std: Sequence[float] | None) -> None:
    if mean is not None and std is not None and len(mean) != len(std):
        raise ValueError(f"expected one mean and one std for each channel, got {len(mean)} and {len(std)} values")
    if not all(math.isfinite(value) for value in (*(mean or ()), *(std or ()))):
        raise ValueError(f"expected mean and std to be numbers, got {mean} and {std}")
    if std is not None and min(std) <= 0:
        raise ValueError(f"expected std above 0 in the units of [0, 1], got {tuple(std)}")


def _check_images(images: Tensor, channels: Tensor | None) -> None:
    if not images.is_floating_point():
        raise TypeError(f"expected floating point images in the units of [0, 1], got {images.dtype}; divide by 255")
    if images.dim() != 4:
        raise ValueError(f"expected images (N, C, H, W), got shape {tuple(images.shape)}")
    if channels is not None and images.shape[1] != len(channels):
        raise ValueError(
            f"expected images with {len(channels)} channels, got {images.shape[1]}; "
            "give mean and std one value for each channel of the data"
        )


def _submodule(network: nn.Module, name: str, argument: str) -> nn.Module:
    modules: dict[str, nn.Module] = dict(network.named_modules())
    if name not in modules:
        names = ", ".join(filter(None, modules))
        raise ValueError(f"{argument}: expected the name of a module, got {name!r}; there are: {names}")
    return modules[name]


def _final_linear(network: nn.Module, name: str | None) -> nn.Linear:
    if name is not None:
        layer = _submodule(network, name, "embedding")
        if not (hasattr(layer, "in_features") and hasattr(layer, "out_features")):
            raise ValueError(f"embedding: expected the name of a linear layer, got {name!r}, a {type(layer).__name__}")
        return cast(nn.Linear, layer)
    layers = [module for module in network.modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise ValueError(
            f"found no nn.Linear in {type(network).__name__}, whose input would be the embedding; "
            "pass embedding=<name of module>"
        )
    return layers[-1]


def _checked(features: Tensor, logits: Tensor, linear: nn.Linear) -> Tensor:
    expected = (logits.shape[0], linear.in_features), (logits.shape[0], linear.out_features)
    if (features.shape, logits.shape) != expected:
        raise ValueError(
            f"expected a final linear layer from {expected[0]} to logits {expected[1]}, got an input of shape "
            f"{tuple(features.shape)} and logits of shape {tuple(logits.shape)}; pass embedding=<name of module>"
        )
    return features


def _last(seen: list[Tensor], name: str) -> Tensor:
    if not seen:
        raise _not_executed(name)
    return seen[0]


def _not_executed(name: str) -> RuntimeError:
    return RuntimeError(
        f"the {name} layer was not executed in the forward pass; name a layer that is, and compile the Observer, "
        "not its network: torch.compile drops hooks that are added later"
    )
