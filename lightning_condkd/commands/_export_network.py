"""The network of a run, built from the run's configuration with the weights of a checkpoint."""

from __future__ import annotations

import math
from argparse import ArgumentError
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from torch import Tensor, nn

from lightning_condkd.distillation import DistillationLoss
from lightning_condkd.models import Observer
from lightning_condkd.parser import ReadableParser, readable

CONFIG = "config.yaml"
Shape = tuple[int, int, int]


class SavedNetwork(NamedTuple):
    """What a checkpoint holds of the network that predicts.

    Args:
        weights: its tensors under its own names.
        state: what its module saved besides tensors.
        argument: the module's argument that is the network: ``student`` or ``network``.
        checkpoint: the file.
    """

    weights: Mapping[str, Tensor]
    state: Mapping[str, Any]
    argument: str
    checkpoint: Path

    @property
    def normalization(self) -> dict[str, Any]:
        """Mean and std in the units of [0, 1], or ``None``."""
        found: dict[str, Any] = self.state["normalisation"]
        return found


def shape_of(saved: SavedNetwork, given: Shape | None) -> Shape:
    """Return ``(C, H, W)`` of a run's images.

    Args:
        saved: the network.
        given: the shape that the user gave, needed for a run whose loaders did not tell it.

    Raises:
        ValueError: if it is unknown, or another one was given.
    """
    known = saved.state.get("image_shape")
    shape = known or given
    if shape is None:
        raise ValueError(
            f"{saved.checkpoint} does not tell the shape of the images, since its run had loaders of its own: give "
            "--image_shape '[C, H, W]'"
        )
    if known is not None and given is not None and tuple(known) != tuple(given):
        raise ValueError(f"--image_shape is {list(given)}, but the run had images of {list(known)}: leave it out")
    channels, height, width = shape
    return channels, height, width


def network_of(saved: SavedNetwork, shape: Shape, config: Path | None) -> Observer:
    """Return the network that a run's ``test`` measured, in eval mode.

    Args:
        saved: its weights.
        shape: ``(C, H, W)`` of its images.
        config: the configuration of the run; ``None`` for the one in its folder.

    Raises:
        FileNotFoundError: if there is no configuration.
        ValueError: if it describes another network, or none.
    """
    file = saved.checkpoint.parent.parent / CONFIG if config is None else config
    parts = _arguments(file, saved.argument)
    network = _observed(_build(file, saved.argument, parts[saved.argument], nn.Module), saved, file)
    if saved.state.get("predictor"):
        network = _predictor(network, parts, saved, shape, file)
    try:
        network.network.load_state_dict(dict(saved.weights))
    except RuntimeError as error:
        raise ValueError(_unfit(saved, file, " ".join(str(error).split())[:300])) from error
    return network.eval()


def _arguments(file: Path, needed: str) -> dict[str, Any]:
    """Return the module's arguments in a configuration."""
    if not file.is_file():
        raise FileNotFoundError(
            f"expected the configuration of the run at {file}, which describes the network, found none: give its file "
            "(--run_config), or from Python call models.save_graph(model.classifier, path, image_shape)"
        )
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        parts = content["model"]["init_args"]
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"expected model.init_args in {file}, found none: give the run's config.yaml") from error
    if not isinstance(parts, dict) or not parts.get(needed):
        raise ValueError(f"expected model.init_args.{needed} in {file}, found none: give the config.yaml of this run")
    return parts


def _build(file: Path, name: str, described: Any, kind: Any) -> Any:  # noqa: ANN401 - parts of a configuration
    """Return a part of the module. Weights of an observer are not read: those of the checkpoint take their place."""
    if isinstance(described, dict) and isinstance(inner := described.get("init_args"), dict) and "weights" in inner:
        described = {**described, "init_args": {key: value for key, value in inner.items() if key != "weights"}}
    return build_part(name, described, kind, str(file))


def build_part(name: str, described: Any, kind: Any, where: str) -> Any:  # noqa: ANN401 - parts of a configuration
    """Return an object that a configuration describes.

    Args:
        name: its name in errors.
        described: its part of the configuration: class and arguments.
        kind: the expected type.
        where: beginning of the error.

    Raises:
        ValueError: if it cannot be built.
    """
    parser = ReadableParser(exit_on_error=False)
    parser.add_argument(f"--{name}", type=kind)
    build = getattr(parser, "instantiate", None) or parser.instantiate_classes  # its name before jsonargparse 4.49
    try:
        return build(parser.parse_object({name: described}))[name]
    except ArgumentError as error:
        raise ValueError(f"{where}: {readable(str(error))}") from error


def _observed(network: nn.Module, saved: SavedNetwork, file: Path) -> Observer:
    mean, std = saved.normalization["mean"], saved.normalization["std"]
    if not isinstance(network, Observer):
        return Observer(network, mean, std)
    for name, values in (("mean", mean), ("std", std)):
        own = getattr(network, name)
        found = None if own is None else own.tolist()
        # A run in half precision has rounded them.
        if (found is None) != (values is None) or not all(
            math.isclose(a, b, rel_tol=1e-2) for a, b in zip(found or (), values or (), strict=True)
        ):
            raise ValueError(_unfit(saved, file, f"{name} is {found}, in the checkpoint {values}"))
    return network


def _predictor(student: Observer, parts: Mapping[str, Any], saved: SavedNetwork, shape: Shape, file: Path) -> Observer:
    """Return the network that predicts with a loss that changes it; all of its weights are in the checkpoint."""
    if not parts.get("distillation") or not parts.get("teacher"):
        raise ValueError(_unfit(saved, file, "it has no model.init_args.distillation or teacher"))
    teacher: Observer = _build(file, "teacher", parts["teacher"], Observer)
    loss: DistillationLoss = _build(file, "distillation", parts["distillation"], DistillationLoss)
    slots = saved.state.get("slots") or (saved.state.get("loss_built_for") or (None, 0))[1]
    return loss.build(teacher.freeze(), student, shape, slots=slots).predictor(student)


def _unfit(saved: SavedNetwork, file: Path, why: str) -> str:
    return f"{file} does not describe the network in {saved.checkpoint}: {why}. Give the run's own (--run_config)"
