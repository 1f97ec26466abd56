"""Wrapper of a classifier: normalises images, and returns logits and inner values from one forward pass."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_condkd.hashing import content_hash
from lightning_condkd.models.finite import check_finite
from lightning_condkd.models.heads import ClassifierHead, class_count, head_widths, last_layer, needed_head
from lightning_condkd.models.observation import Asked, Observation
from lightning_condkd.models.taps import batch_norm_layers
from lightning_condkd.models.weights import load_weights, plain_name, plain_state
from lightning_condkd.normalization import check_normalization
from lightning_condkd.types import NetworkOutput


class Observer(nn.Module):
    """Wrap a classifier so that it takes images in the units of [0, 1] and can return its inner values.

    The network is not changed: hooks exist only during a call that needs them. Layers are looked up at that call, so
    they may be replaced (``convert_sync_batchnorm``).

    Args:
        network: any classifier that maps normalised images ``(N, C, H, W)`` to logits ``(N, K)``.
        mean: mean of each channel of the network's training data, in the units of [0, 1]; ``None`` subtracts nothing.
        std: standard deviation of each channel, likewise; ``None`` divides by nothing.
        weights: file to load into the network, see :func:`~lightning_condkd.models.weights.read_state_dict`.
        embedding: name of the final linear layer, whose input is the embedding; ``None`` takes the last ``nn.Linear``.
            A layer of another class must have ``in_features`` and ``out_features``. It may be a 1x1 convolution, which
            is also the default if it is the last layer and there is no ``nn.Linear``; the embedding is then the mean of
            its input over space. A network with another last layer works as long as its embedding is not requested.

    Raises:
        ValueError: if the named layer is none of these, the number of classes cannot be determined, or mean and std
            differ in length or are not in the units of [0, 1].

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
        means, deviations = check_normalization(mean, std)
        self.network = network
        self.register_buffer("mean", None if means is None else torch.tensor(means), persistent=False)
        self.register_buffer("std", None if deviations is None else torch.tensor(deviations), persistent=False)
        self._embedding = embedding
        self._frozen = False
        self._compiled: Callable[[Tensor], object] | None = None
        self.register_state_dict_post_hook(_with_plain_names)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_with_own_names)  # type: ignore[no-untyped-call]
        # The last registered layer may not be the last to run, so its width is a guess until the first logits.
        self._guessed = embedding is None and not isinstance(last_layer(network), nn.Linear)
        class_count(network, embedding)
        if weights is not None:
            load_weights(network, weights)

    def forward(
        self,
        images: Tensor,
        *,
        embedding: bool = False,
        bn: bool = False,
        maps: Sequence[str] = (),
        channel_means: bool | Sequence[str] = False,
        batch_statistics: bool = False,
    ) -> NetworkOutput:
        """Return the logits and the requested inner values.

        Args:
            images: ``(N, C, H, W)``, floating point pixels in the units of [0, 1].
            embedding: whether to return the input of the final linear layer.
            bn: whether to return the batch statistics of every BatchNorm layer with running statistics, in the order of
                execution. They are those of this batch on this rank.
            maps: names of inner modules whose outputs are returned.
            channel_means: whether to return, for each image, the spatial means of the inputs of the same BatchNorm
                layers, concatenated; or the names of other modules whose inputs are taken instead, in this order.
                Together with ``bn``, the batch means are computed from them, which may change the last digit.
            batch_statistics: whether BatchNorm layers use the statistics of this batch, of two images at least, in
                place of their running ones. These stay as they are, to the bit, and so does the mode of other layers.

        Raises:
            TypeError: if the images are integers, or the network or a named module returns no tensor.
            ValueError: if the images or the embedding have an unexpected shape, a named module is missing, or
                ``batch_statistics`` is set for a network without BatchNorm layers with running statistics.
            RuntimeError: if a requested layer was not executed, or a frozen network was put in train mode.
        """
        if self._frozen and self.network.training:
            self.check_frozen()
        head = needed_head(self.network, self._embedding) if embedding else None
        asked = Asked(head, bn, maps, channel_means, batch_statistics)
        with ExitStack() as hooks:
            observation = Observation(hooks, self.network, asked)
            logits = self._network_for(any(asked))(self.normalize(images))
        return observation.output(self._checked(logits))

    def _checked(self, logits: object) -> Tensor:
        if not isinstance(logits, Tensor):
            raise TypeError(
                f"expected {type(self.network).__name__} to return logits (N, K), got {type(logits).__name__}; "
                "wrap the network in a module that returns only the logits"
            )
        if self._guessed and logits.shape[1:] != (self.num_classes,):
            raise ValueError(
                f"expected logits (N, {self.num_classes}), by the width of the supposed last layer of "
                f"{type(self.network).__name__}, got {tuple(logits.shape)}; pass embedding=<name of module>, the layer "
                "that gives the logits, or wrap the network in a module that returns logits (N, K)"
            )
        return logits

    def compile(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - those of torch.compile
        """Compile the network for passes of a training step that need logits only.

        These are passes in train mode, and passes of a frozen network without gradients, such as a teacher's for its
        student. All others run the uncompiled network, since a compiled one drops the hooks that record inner values.
        Names of weights stay the same. A copy of the observer is not compiled.

        Args:
            args: of ``torch.compile``.
            kwargs: of ``torch.compile``, such as ``mode="reduce-overhead"``.

        Example:
            >>> observer = Observer(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)))
            >>> observer.compile(backend="eager")
            >>> observer.train()(torch.rand(3, 3, 2, 2)).logits.shape, list(observer.state_dict())
            (torch.Size([3, 2]), ['network.1.weight', 'network.1.bias'])
        """
        # Not registered with nn.Module: as a submodule it would list every weight a second time.
        object.__setattr__(self, "_compiled", torch.compile(self.network, *args, **kwargs))

    def _network_for(self, asked: bool) -> Callable[[Tensor], object]:
        in_step = self.network.training or (self._frozen and not torch.is_grad_enabled())
        if asked or self._compiled is None or not in_step or torch.is_inference_mode_enabled():
            return self.network
        return self._compiled

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_compiled": None}

    def normalize(self, images: Tensor) -> Tensor:
        """Return images with the network's normalisation applied.

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
        """Number of classes K: width of the final layer's output."""
        return class_count(self.network, self._embedding)

    @property
    def embedding_size(self) -> int:
        """Width D of the embedding: width of the final linear layer's input."""
        return head_widths(needed_head(self.network, self._embedding))[0]

    def head(self) -> ClassifierHead:
        """Return the final linear layer as a map from embeddings to logits; it shares the network's weights.

        Raises:
            ValueError: if the network has no such layer.
        """
        return ClassifierHead(needed_head(self.network, self._embedding))

    def copy_head(self) -> ClassifierHead:
        """Return a copy of :meth:`head` with weights of its own."""
        return copy.deepcopy(self.head())

    @property
    def bn_channels(self) -> tuple[int, ...]:
        """Widths of the BatchNorm layers that keep running statistics, in the order of registration."""
        return tuple(layer.num_features for layer in batch_norm_layers(self.network))

    def freeze(self) -> Observer:
        """Disable parameter gradients and keep the network in eval mode from now on; gradients still reach the images.

        Raises:
            ValueError: if weights or statistics hold NaN or infinity.
        """
        check_finite("the network to freeze", self, "load the weights of a run that did not diverge")
        self._frozen = True
        return self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Observer:
        """Set training mode; a frozen observer stays in eval.

        Args:
            mode: whether to train.
        """
        return super().train(mode and not self._frozen)

    def check_frozen(self) -> None:
        """Check that no layer of a frozen network was put in train mode by a call on the layer itself.

        A forward pass checks the mode of the network only, since checking all layers takes time.

        Raises:
            RuntimeError: if a layer was.
        """
        training = [name for name, module in self.network.named_modules() if module.training]
        if self._frozen and training:
            raise RuntimeError(
                f"{type(self.network).__name__} is frozen, but {training[0] or 'the network'!r} was put in train mode, "
                "in which its BatchNorm statistics change with every batch and dropout is on: remove the call of "
                "train() on the network or its layers, and load the weights again"
            )

    def fingerprint(self) -> str:
        """Return the SHA-256 of the network's parameters and persistent buffers with their names, on any device."""
        parts: list[str | Tensor] = []
        for name, value in plain_state(self.network).items():
            parts += [f"{name} {value.dtype} {tuple(value.shape)}\n", value]
        return content_hash(*parts)


def _with_plain_names(observer: Observer, state: dict[str, Any], prefix: str, *_: object) -> None:
    """Write the weights of a compiled network under its plain names, keeping the order of keys."""
    names = [name for name in state if name.startswith(prefix)]
    if any(plain_name(name) != name for name in names):
        for name in names:
            state[plain_name(name)] = state.pop(name)


def _with_own_names(observer: Observer, state: dict[str, Any], prefix: str, *_: object) -> None:
    """Rename the weights for a compiled network; they may have its names or plain ones."""
    own = {plain_name(name): name for name in observer.network.state_dict(prefix=f"{prefix}network.")}
    for name in [name for name in state if name.startswith(prefix)]:
        plain = plain_name(name)
        if own.get(plain, plain) != name:
            state[own.get(plain, plain)] = state.pop(name)


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
