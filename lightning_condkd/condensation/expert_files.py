"""Files of expert trajectories: weights of networks trained on real images, after each epoch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_condkd.files import read_header, unpack

KIND = "expert snapshot"
TENSOR = "parameters"


@dataclass(frozen=True)
class ExpertInfo:
    """Facts that all snapshots of a folder share; JSON values only.

    Args:
        network: class name of the network.
        mean: mean of each channel, which it subtracts, in the units of [0, 1].
        std: standard deviation of each channel, by which it divides.
        names: names of its parameters, in their order in a snapshot.
        shapes: their shapes.
        architecture: printed form of the network, since networks with equal parameters may compute different functions.
        epochs: epochs of an expert, which has one snapshot more.
        training: settings of the experts' training.
        data: facts about its data.
    """

    network: str
    mean: list[float] | None
    std: list[float] | None
    names: list[str]
    shapes: list[list[int]]
    architecture: str
    epochs: int
    training: Mapping[str, Any]
    data: Mapping[str, Any]

    def differences(self, other: ExpertInfo) -> dict[str, tuple[Any, Any]]:
        """Return the fields that differ, with both values.

        Args:
            other: facts to compare with.
        """
        own, others = asdict(self), asdict(other)
        return {name: (own[name], others[name]) for name in own if own[name] != others[name]}


def snapshot_path(folder: Path, expert: int, epoch: int) -> Path:
    """Return the file of a snapshot.

    Args:
        folder: folder of the experts.
        expert: number of the expert.
        epoch: number of epochs of its training.
    """
    return folder / f"expert_{expert:04}_epoch_{epoch:04}.safetensors"


def flatten(network: nn.Module) -> Tensor:
    """Return a copy of a network's parameters as one vector, ``(P,)`` float32 on the CPU.

    Args:
        network: the network.

    Example:
        >>> flatten(nn.Linear(2, 1)).shape
        torch.Size([3])
    """
    return torch.cat([parameter.detach().flatten().float() for parameter in network.parameters()]).cpu()


def unflatten(vector: Tensor, names: Sequence[str], shapes: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    """Return the parameters in a vector by name, as views.

    Args:
        vector: ``(P,)``.
        names: names of the parameters.
        shapes: their shapes.

    Example:
        >>> unflatten(torch.arange(3.0), ["weight", "bias"], [[1, 2], [1]])
        {'weight': tensor([[0., 1.]]), 'bias': tensor([2.])}
    """
    sizes = [torch.Size(shape).numel() for shape in shapes]
    parts = zip(names, torch.split(vector, sizes), shapes, strict=True)
    return {name: part.view(*shape) for name, part, shape in parts}


def architecture(network: nn.Module) -> str:
    """Return the printed form of a network, without the addresses of functions in it.

    Args:
        network: the network.

    Example:
        >>> architecture(nn.Linear(2, 1))
        'Linear(in_features=2, out_features=1, bias=True)'
    """
    return re.sub(r" at 0x[0-9a-f]+", "", repr(network))


def layout(network: nn.Module) -> tuple[list[str], list[list[int]]]:
    """Return names and shapes of a network's parameters, in their order in a snapshot.

    Args:
        network: the network.

    Raises:
        ValueError: if its output depends on more than parameters.
    """
    parameters = dict(network.named_parameters())
    beside = sorted(set(network.state_dict()) - set(parameters))
    random = [name for name, module in network.named_modules() if "Dropout" in type(module).__name__]
    if beside or random:
        raise ValueError(
            f"network: a snapshot holds parameters only, but {type(network).__name__} also depends on "
            f"{', '.join(beside or random)}; take a network without running statistics and dropout, such as "
            "ConvNet with norm='instance'"
        )
    return list(parameters), [list(parameter.shape) for parameter in parameters.values()]


def read_snapshot_header(path: Path) -> tuple[ExpertInfo, int, int]:
    """Return a snapshot's facts, its expert and its epoch, without its parameters.

    Args:
        path: the file.

    Raises:
        ValueError: if it is no snapshot.
    """
    header = read_header(KIND, path)
    names = [field.name for field in fields(ExpertInfo)]
    if {*names, "expert", "epoch"} - set(header):
        raise ValueError(f"{path}: expected an {KIND} of this release: write it with ExpertTrajectories")
    return ExpertInfo(**{name: header[name] for name in names}), header["expert"], header["epoch"]


class ExpertFolder:
    """The experts in a folder; every request reads the files, and nothing is kept in memory.

    Args:
        folder: folder that :class:`~lightning_condkd.modules.experts.ExpertTrajectories` wrote.

    Raises:
        FileNotFoundError: if there is no snapshot.
        ValueError: if the snapshots are of different runs, or an expert lacks some.
    """

    def __init__(self, folder: str | Path) -> None:
        paths = sorted(Path(folder).glob("expert_*.safetensors"))
        if not paths:
            raise FileNotFoundError(f"experts: no snapshots in {folder}: check the path, or fit ExpertTrajectories")
        headers = [read_snapshot_header(path) for path in paths]
        self.info = headers[0][0]
        for path, (info, _, _) in zip(paths, headers, strict=True):
            if different := self.info.differences(info):
                raise ValueError(
                    f"experts: {paths[0].name} and {path.name} in {folder} are of different runs: {different}; "
                    "keep each run in a folder of its own"
                )
        self._paths = {(expert, epoch): path for path, (_, expert, epoch) in zip(paths, headers, strict=True)}
        self.experts = sorted({expert for expert, _ in self._paths})
        self._check_complete(folder)

    def _check_complete(self, folder: str | Path) -> None:
        for expert in self.experts:
            if absent := [n for n in range(self.info.epochs + 1) if (expert, n) not in self._paths]:
                raise ValueError(
                    f"experts: expert {expert} in {folder} lacks the snapshots of epochs {absent}: resume the run "
                    "that makes it from its checkpoint, or remove the files of this expert"
                )

    def settings(self) -> dict[str, Any]:
        """Return the settings that a file of a set records about the experts, JSON values only."""
        return {"count": len(self.experts), **self.info.training, "data_sha256": self.info.data["sha256"]}

    def read(self, expert: int, epoch: int) -> Tensor:
        """Return the parameters of an expert, ``(P,)`` float32.

        Args:
            expert: number of the expert, one of :attr:`experts`.
            epoch: number of epochs of its training.

        Raises:
            ValueError: if the file was damaged since it was written.
        """
        return unpack(KIND, self._paths[expert, epoch])[0][TENSOR]
