"""Several networks of one architecture, trained together in one pass."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from lightning_condkd.models import Observer


class NetworkBatch:
    """Networks of one architecture with stacked parameters and a joint forward pass, each with its own images.

    An elementwise optimizer, such as SGD, trains the stack as it would train each network. A single network is called
    directly.

    Args:
        networks: the networks; their weights are copied, except that a single network is trained itself.

    Raises:
        ValueError: if there are several, and they have BatchNorm with running statistics or dropout.

    Example:
        >>> from lightning_condkd.models import ConvNet
        >>> batch = NetworkBatch([Observer(ConvNet(2, image_size=8, depth=1, width=4)) for _ in range(3)])
        >>> batch(torch.rand(3, 5, 3, 8, 8)).shape, batch.predict(torch.rand(7, 3, 8, 8)).shape
        (torch.Size([3, 5, 2]), torch.Size([3, 7, 2]))
    """

    def __init__(self, networks: Sequence[Observer]) -> None:
        self._network, self._number = networks[0], len(networks)
        self._parameters: dict[str, Tensor] = dict(networks[0].named_parameters())
        self._buffers: dict[str, Tensor] = {}
        if self._number > 1:
            check_stackable(networks[0])
            self._parameters, self._buffers = stack_module_state(list(networks))
            self._network = copy.deepcopy(networks[0]).to("meta")

    def parameters(self) -> list[Tensor]:
        """Return the parameters for an optimizer."""
        return list(self._parameters.values())

    @property
    def dtype(self) -> torch.dtype:
        """Type of the parameters and of the images."""
        return self.parameters()[0].dtype

    def __call__(self, images: Tensor) -> Tensor:
        """Return logits ``(R, N, K)``.

        Args:
            images: one batch for each of the R networks, ``(R, N, C, H, W)``, pixels in the units of [0, 1].
        """
        return self._forward(images, shared=False)

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """Return the logits ``(R, N, K)`` of all networks for the same images, in eval mode.

        Args:
            images: ``(N, C, H, W)``, pixels in the units of [0, 1].
        """
        self._network.eval()
        logits = self._forward(images, shared=True)
        self._network.train()
        return logits

    def _forward(self, images: Tensor, shared: bool) -> Tensor:
        if self._number == 1:
            return self._network(images if shared else images[0]).logits[None]  # type: ignore[no-any-return]
        forward = vmap(self._one, in_dims=(0, 0, None if shared else 0))
        return forward(self._parameters, self._buffers, images)

    def _one(self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], images: Tensor) -> Tensor:
        return functional_call(self._network, (parameters, buffers), (images,)).logits  # type: ignore[no-any-return]


def check_stackable(network: nn.Module) -> None:
    """Check that networks like this one can be stacked.

    Args:
        network: one of them.

    Raises:
        ValueError: if it has BatchNorm with running statistics, or dropout.
    """
    for name, module in network.named_modules():
        running = isinstance(module, _BatchNorm) and module.track_running_stats
        if running or (isinstance(module, _DropoutNd) and module.p > 0):
            what = "BatchNorm with running statistics" if running else "dropout"
            raise ValueError(f"{name} is {what}, which networks in one batch cannot have: set batched to false")
