"""Functions that find and use the final layer of a classifier: a linear layer or a 1x1 convolution."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from lightning_condkd.models.taps import channel_means

_WIDTHS = ("out_features", "out_channels", "num_features", "num_channels")


def submodule(network: nn.Module, name: str, argument: str) -> nn.Module:
    """Return an inner module by name.

    Args:
        network: any module.
        name: the name.
        argument: name of the argument that ``name`` was given as, for the error message.

    Raises:
        ValueError: if there is no such module.
    """
    modules: dict[str, nn.Module] = dict(network.named_modules())
    if name not in modules:
        names = ", ".join(filter(None, modules))
        raise ValueError(f"{argument}: expected the name of a module, got {name!r}; there are: {names}")
    return modules[name]


def find_head(network: nn.Module, name: str | None) -> nn.Module | None:
    """Return the layer from the embedding to the logits; ``None`` where the network has none.

    Args:
        network: a classifier.
        name: its name; ``None`` takes the last ``nn.Linear``, or, without any, the last layer with parameters if it is
            a 1x1 ``nn.Conv2d``.

    Raises:
        ValueError: if the named layer is missing or of another kind.

    Example:
        >>> find_head(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 1), nn.ReLU()), None)
        Conv2d(8, 2, kernel_size=(1, 1), stride=(1, 1))
    """
    if name is not None:
        layer = submodule(network, name, "embedding")
        if not is_linear(layer):
            raise ValueError(
                f"embedding: expected the name of a linear layer or of a 1x1 convolution, got {name!r}, {layer}; "
                f"{candidates(network)}"
            )
        return layer
    linear = [module for module in network.modules() if isinstance(module, nn.Linear)]
    last = last_layer(network)
    return linear[-1] if linear else last if last is not None and is_linear(last) else None


def last_layer(network: nn.Module) -> nn.Module | None:
    """Return the last module that has parameters of its own, in the order of registration.

    Args:
        network: a classifier.
    """
    layers = [module for module in network.modules() if next(module.parameters(recurse=False), None) is not None]
    return layers[-1] if layers else None


def is_linear(layer: nn.Module) -> bool:
    """Return whether a layer maps features linearly to classes: for the whole image or at every position.

    Args:
        layer: any module.
    """
    if isinstance(layer, nn.Conv2d):
        plain = layer.kernel_size, layer.stride, layer.padding in ((0, 0), "valid", "same"), layer.groups
        return plain == ((1, 1), (1, 1), True, 1)
    return hasattr(layer, "in_features") and hasattr(layer, "out_features")


def head_widths(head: nn.Module) -> tuple[int, int]:
    """Return the widths of a head's input and output.

    Args:
        head: result of :func:`find_head`.
    """
    if isinstance(head, nn.Conv2d):
        return head.in_channels, head.out_channels
    return cast(nn.Linear, head).in_features, cast(nn.Linear, head).out_features


def embedding_of(head: nn.Module, inputs: Tensor) -> Tensor:
    """Return the embedding, given the input of a head; the input of a convolution is averaged over space.

    Args:
        head: result of :func:`find_head`.
        inputs: its input.
    """
    return channel_means(inputs).to(inputs.dtype) if isinstance(head, nn.Conv2d) else inputs


class ClassifierHead(nn.Module):
    """A classifier's final layer as a map from embeddings to logits.

    Args:
        layer: a linear layer or a 1x1 convolution, see :func:`find_head`.

    Example:
        >>> import torch
        >>> ClassifierHead(nn.Conv2d(8, 2, 1))(torch.rand(3, 8)).shape
        torch.Size([3, 2])
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, embedding: Tensor) -> Tensor:
        """Return logits ``(N, K)``.

        Args:
            embedding: ``(N, D)``.
        """
        if isinstance(self.layer, nn.Conv2d):
            return cast(Tensor, self.layer(embedding[:, :, None, None])).flatten(1)
        return cast(Tensor, self.layer(embedding))

    @property
    def weight(self) -> Tensor:
        """Weights of the classes, ``(K, D)``.

        Raises:
            ValueError: if the layer has no such weight.
        """
        wide, classes = head_widths(self.layer)
        weight = getattr(self.layer, "weight", None)
        if not isinstance(weight, Tensor) or weight.numel() != wide * classes:
            raise ValueError(f"expected a final layer with a weight ({classes}, {wide}), got {self.layer}")
        return weight.view(classes, wide)


def class_count(network: nn.Module, name: str | None) -> int:
    """Return the number of classes: the width of the head, or of the last layer with parameters.

    Args:
        network: a classifier.
        name: see :func:`find_head`.

    Raises:
        ValueError: if it cannot be determined.

    Example:
        >>> class_count(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1)), None)
        8
    """
    if (head := find_head(network, name)) is not None:
        return head_widths(head)[1]
    widths = [width for width in _WIDTHS if hasattr(last_layer(network), width)]
    if not widths:
        raise ValueError(
            f"found neither an nn.Linear in {type(network).__name__} nor a last layer whose width is the number of "
            f"classes; {candidates(network)}"
        )
    return cast(int, getattr(last_layer(network), widths[0]))


def needed_head(network: nn.Module, name: str | None) -> nn.Module:
    """Return the head of a network whose embedding is needed.

    Args:
        network: a classifier.
        name: see :func:`find_head`.

    Raises:
        ValueError: if the network has no head.
    """
    head = find_head(network, name)
    if head is None:
        raise ValueError(
            f"expected {type(network).__name__} to end in an nn.Linear or in a 1x1 nn.Conv2d, whose input is the "
            f"embedding, got {last_layer(network)} as its last layer. Remove the parts that need embeddings (such "
            f"as an alignment); or {candidates(network)}"
        )
    return head


def candidates(network: nn.Module) -> str:
    """Return the advice for a network whose final layer cannot be determined, with the names to choose from.

    Args:
        network: a classifier.
    """
    names = [name for name, layer in network.named_modules() if name and is_linear(layer)]
    if names:
        return f"pass embedding=<name of module>, the layer that gives the logits, out of {', '.join(names[-5:])}"
    return "wrap the network in a module that ends in such a layer: this one has none that embedding= could name"
