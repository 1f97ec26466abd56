"""Hooks that record inputs and outputs of layers during one call of a network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any, TypeVar

from torch import Tensor, nn

from lightning_condkd.precision import at_least_float32
from lightning_condkd.types import BatchNormStatistics

BatchNorm = nn.modules.batchnorm._BatchNorm
Layer = TypeVar("Layer", bound=nn.Module)
Seen = TypeVar("Seen")


def batch_norm_layers(network: nn.Module) -> list[BatchNorm]:
    """Return the BatchNorm layers that keep running statistics, in the order of registration.

    Args:
        network: any module; ``SyncBatchNorm`` counts too.

    Example:
        >>> len(batch_norm_layers(nn.Sequential(nn.BatchNorm2d(4), nn.BatchNorm2d(4, track_running_stats=False))))
        1
    """
    return [m for m in network.modules() if isinstance(m, BatchNorm) and m.running_mean is not None]


def channel_means(inputs: Tensor) -> Tensor:
    """Return the mean over space of every channel of every image, ``(N, C)`` in float32 at least.

    Args:
        inputs: input of a layer, ``(N, C, ...)``.

    Example:
        >>> import torch
        >>> channel_means(torch.tensor([[[1.0, 3.0], [5.0, 5.0]]]))
        tensor([[2., 5.]])
    """
    values = at_least_float32(inputs)
    return values.mean(tuple(range(2, values.dim()))) if values.dim() > 2 else values


def batch_norm_statistics(layer: BatchNorm, inputs: Tensor, means: Tensor | None = None) -> BatchNormStatistics:
    """Return the batch statistics of a layer's input, and a copy of the running statistics.

    Half precision is summed in float32; float64 stays.

    Args:
        layer: a BatchNorm layer with running statistics.
        inputs: input of the layer, ``(N, C, ...)``.
        means: the :func:`channel_means` of the input if known, which saves computing them again.

    Raises:
        ValueError: if the layer keeps no running statistics.

    Example:
        >>> import torch
        >>> batch_norm_statistics(nn.BatchNorm1d(1), torch.tensor([[1.0], [3.0]])).variance
        tensor([1.])
    """
    if layer.running_mean is None or layer.running_var is None:
        raise ValueError(
            f"expected a layer with running statistics, got {layer}; build it with track_running_stats=True"
        )
    values = at_least_float32(inputs)
    dims = [0, *range(2, values.dim())]
    mean = values.mean(dims) if means is None else means.mean(0)
    # Shifting by a constant does not change the value or its derivatives, and takes 0.4 to 0.7 of the time of
    # torch.var_mean on a CPU, forward and backward together.
    shift = mean.detach()
    centered = values - shift.view(-1, *[1] * (values.dim() - 2))
    variance = centered.square().mean(dims) - (mean - shift).square()
    running = (
        buffer.detach().to(values.dtype, copy=layer.training) for buffer in (layer.running_mean, layer.running_var)
    )
    return BatchNormStatistics(mean, variance, *running)


def convolutions(network: nn.Module) -> list[str]:
    """Return the names of the two-dimensional convolutions of a network, in the order of registration.

    Args:
        network: any module.

    Example:
        >>> convolutions(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 8, 3)))
        ['0', '2']
    """
    return [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)]


def use_batch_statistics(hooks: ExitStack, network: nn.Module) -> None:
    """Make BatchNorm layers normalize by the statistics of their batch, without updating their running statistics.

    Args:
        hooks: restores the layers when it closes.
        network: the module whose layers with running statistics are changed; in eval mode.

    Example:
        >>> import torch
        >>> layer = nn.BatchNorm1d(1).eval()
        >>> with ExitStack() as hooks:
        ...     use_batch_statistics(hooks, layer)
        ...     print(layer(torch.tensor([[4.0], [8.0]])).round().flatten().tolist(), layer.running_mean.item())
        [-1.0, 1.0] 0.0
    """
    for layer in batch_norm_layers(network):
        hooks.callback(partial(_restore, layer, layer.training, layer.track_running_stats))
        # In train mode without tracking, torch passes no running statistics on, so nothing can write them.
        layer.training, layer.track_running_stats = True, False


def _restore(layer: BatchNorm, training: bool, track_running_stats: bool) -> None:
    layer.training, layer.track_running_stats = training, track_running_stats


def tap_input(hooks: ExitStack, layer: nn.Module) -> list[Tensor]:
    """Record the first input of a layer; the list is empty until the layer runs and then holds its last input.

    Args:
        hooks: removes the hook when it closes.
        layer: the module to record.
    """
    seen: list[Tensor] = []

    def record(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen[:] = [next(iter((*args, *kwargs.values())))]

    hooks.callback(layer.register_forward_pre_hook(record, with_kwargs=True).remove)
    return seen


def tap_output(hooks: ExitStack, layer: nn.Module) -> list[Tensor]:
    """Record the output of a layer; the list is empty until the layer runs and then holds its last output.

    Args:
        hooks: removes the hook when it closes.
        layer: the module to record.
    """
    seen: list[Tensor] = []

    def record(module: nn.Module, _: tuple[Any, ...], output: Any) -> Tensor:  # noqa: ANN401
        if not isinstance(output, Tensor):
            raise TypeError(f"maps: expected a tensor from {type(module).__name__}, got {type(output).__name__}")
        seen[:] = [output]
        # The network goes on with a copy: a following in-place ReLU would overwrite the record, and gradients of the
        # logits with respect to the record exist.
        return output.clone()

    hooks.callback(layer.register_forward_hook(record).remove)
    return seen


def tap_channel_means(hooks: ExitStack, layers: Iterable[Layer]) -> dict[Layer, Tensor]:
    """Record the channel means of the input of layers, in the order of execution; of one that runs twice, the last.

    Args:
        hooks: removes the hooks when it closes.
        layers: the modules to record.
    """
    return _tap_inputs(hooks, layers, lambda _, inputs: channel_means(inputs))


def tap_batch_norm(
    hooks: ExitStack, network: nn.Module, means: Mapping[nn.Module, Tensor] | None = None
) -> dict[BatchNorm, BatchNormStatistics]:
    """Record the statistics of every BatchNorm layer in the order of execution; of a layer that runs twice, the last.

    Args:
        hooks: removes the hooks when it closes.
        network: the module whose layers are recorded.
        means: records of an earlier :func:`tap_channel_means` of the same network; saves the sum over pixels.
    """
    known = {} if means is None else means
    layers = batch_norm_layers(network)
    return _tap_inputs(hooks, layers, lambda layer, inputs: batch_norm_statistics(layer, inputs, known.get(layer)))


def _tap_inputs(hooks: ExitStack, layers: Iterable[Layer], look: Callable[[Layer, Tensor], Seen]) -> dict[Layer, Seen]:
    seen: dict[Layer, Seen] = {}

    def record(layer: Layer, _: nn.Module, args: tuple[Any, ...]) -> None:
        seen[layer] = look(layer, args[0])

    for layer in layers:
        hooks.callback(layer.register_forward_pre_hook(partial(record, layer)).remove)
    return seen
