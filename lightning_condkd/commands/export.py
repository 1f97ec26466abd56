"""The command ``export``: the network that a run trained, as weights or as a file that runs without this package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from torch import Tensor

from lightning_condkd.commands._export_network import SavedNetwork, network_of, shape_of
from lightning_condkd.messages import listed
from lightning_condkd.models.finite import broken_tensors
from lightning_condkd.models.graph_files import EXTRA, FORMATS, Check, GraphFormat, input_of, save_graph
from lightning_condkd.models.weights import plain_name
from lightning_condkd.modules import Classification, CondKD, Distillation
from lightning_condkd.training.checkpoint_files import checkpoint_of_run
from lightning_condkd.training.checkpoints import WholeCheckpointIO
from lightning_condkd.writing import Target, check_target, save_by_torch, save_tensors

Format = Literal["safetensors", "pt", GraphFormat]
Folding = Literal["folded", "none"]
ENDINGS: dict[str, Format] = {".safetensors": "safetensors", ".pt": "pt", ".pth": "pt", **FORMATS}
NETWORKS = ((CondKD, "student"), (Distillation, "student"), (Classification, "network"))


def saved_network(checkpoint: str | Path) -> SavedNetwork:
    """Return the weights of the network that predicts under its own names, with what else is saved of it.

    That is the student, or the network of :class:`~lightning_condkd.Classification`. If the loss of the run changed how
    the student predicts, it is that network, such as :class:`~lightning_condkd.models.ProjectedNetwork` for SimKD.

    Args:
        checkpoint: a checkpoint of :class:`~lightning_condkd.CondKD`, :class:`~lightning_condkd.Distillation` or
            :class:`~lightning_condkd.Classification`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged or no such checkpoint, or the network holds NaN or infinity.
    """
    content = WholeCheckpointIO().load_checkpoint(checkpoint)
    found = next(((kind.state_key, part) for kind, part in NETWORKS if kind.state_key in content), None)
    if found is None:
        raise ValueError(
            f"expected a checkpoint of CondKD, Distillation or Classification, got {checkpoint}: check the path"
        )
    key, part = found
    state, prefix = content["state_dict"], f"{part}.network."
    own = {plain_name(name.removeprefix(prefix)): name for name in state if name.startswith(prefix)}
    weights = {name: state[held] for name, held in (content[key].get("predictor") or own).items()}
    if broken := broken_tensors(weights):
        raise ValueError(f"the {part} in {checkpoint} holds NaN or infinity in {listed(broken)}: take an earlier one")
    return SavedNetwork(weights, content[key], part, Path(checkpoint))


def export(
    checkpoint: str,
    output: str,
    *,
    format: Format | None = None,
    normalization: Folding | None = None,
    image_shape: tuple[int, int, int] | None = None,
    run_config: Path | None = None,
) -> None:
    """Write the student of a run, or the network of a Classification run, for use without this package.

    ``.safetensors`` and ``.pt`` hold weights alone. ``.onnx``, ``.pt2`` (torch.export) and ``.ts`` (TorchScript, which
    torch has deprecated) also hold the graph, in single precision: they take images (N, C, H, W) in float32, any number
    of them, and return logits (N, K). Their logits are compared with the student's own before the file gets its name.

    Args:
        checkpoint: a checkpoint, or the folder of a run, for the checkpoint with its best student, or its newest one if
            there was no validation.
        output: target, ending in .safetensors (with mean and std in the metadata), .pt or .pth (a plain state dict),
            .onnx, .pt2, .ts or .torchscript.
        format: format of a file with another ending; else it follows from the ending.
        normalization: ``folded`` (our default) for a graph that takes images in [0, 1] and normalizes them, ``none``
            for one that takes normalized images. Weights have no normalization.
        image_shape: ``[C, H, W]`` of the images for a graph, if the run's own loaders did not tell it.
        run_config: configuration of the run, for a graph; by default config.yaml in the folder of the run.

    Raises:
        OSError: if the output cannot be written, or the folder has no checkpoint or configuration.
        ValueError: if format and output contradict each other, the checkpoint is damaged or of another module, or the
            configuration does not describe its network.
    """
    target, chosen = Path(output), format_of(Path(output), format)
    graph_only = {"normalization": normalization, "image_shape": image_shape, "run_config": run_config}
    given = [f"--{name}" for name, value in graph_only.items() if value is not None]
    if given and chosen in ("safetensors", "pt"):
        raise ValueError(
            f"{', '.join(given)}: expected for a file with a graph ({', '.join(FORMATS)}), got {output!r}, plain "
            "weights: leave it out"
        )
    check_target(Target(target))
    source = checkpoint_of_run(Path(checkpoint)) if Path(checkpoint).is_dir() else Path(checkpoint)
    saved = saved_network(source)
    if chosen == "safetensors" or chosen == "pt":
        _write_weights(target, saved, chosen)
    else:
        _write_graph(target, saved, chosen, normalization != "none", shape_of(saved, image_shape), run_config)


def format_of(output: Path, given: Format | None) -> Format:
    """Return the format to write.

    Args:
        output: the target, whose ending tells the format if it is a known one.
        given: the format that the user gave.

    Raises:
        ValueError: if the two contradict each other, or neither tells the format.

    Example:
        >>> format_of(Path("student.onnx"), None), format_of(Path("model.bin"), "onnx")
        ('onnx', 'onnx')
    """
    meant = ENDINGS.get(output.suffix.lower())
    if meant is None and given is None:
        raise ValueError(
            f"expected an output ending in {', '.join(list(ENDINGS)[:-1])} or {list(ENDINGS)[-1]}, got "
            f"{str(output)!r}: change the ending, or give --format"
        )
    if meant and given and meant != given:
        fitting = " or ".join(ending for ending, one in ENDINGS.items() if one == given)
        raise ValueError(f"--format {given} with {output.name!r}, which ends as {meant}: end it in {fitting}")
    return given or meant  # type: ignore[return-value]


def _write_weights(target: Path, saved: SavedNetwork, chosen: str) -> None:
    weights: dict[str, Tensor] = dict(saved.weights)
    if chosen == "pt":
        save_by_torch(target, weights)
    else:
        contiguous = {name: value.contiguous() for name, value in weights.items()}
        save_tensors(target, contiguous, {"normalisation": json.dumps(saved.normalization)})
    known = {name: given for name, given in saved.normalization.items() if given is not None}
    statistics = (f"{name} {[float(f'{one:.6g}') for one in given]}" for name, given in known.items())
    expected = f"normalized with {' and '.join(statistics)}" if known else "in [0, 1]"
    print(f"wrote {len(weights)} tensors of {saved.checkpoint} to {target}; the network expects pixels {expected}")


def _write_graph(
    target: Path,
    saved: SavedNetwork,
    chosen: GraphFormat,
    folded: bool,
    shape: tuple[int, int, int],
    config: Path | None,
) -> None:
    network = network_of(saved, shape, config)
    names = saved.state["class_names"]
    check = save_graph(network, target, shape, format=chosen, folded=folded, class_names=names)
    print(
        f"wrote the {saved.argument} of {saved.checkpoint} to {target} ({chosen}): input "
        f"{input_of(network, shape, folded)}; output logits (N, {network.num_classes})"
    )
    print(_checked(check, saved.argument))
    if chosen == "torchscript":
        print("TorchScript is deprecated in new versions of torch: .pt2 and .onnx take its place")


def _checked(check: Check, part: str) -> str:
    if check.difference is None:
        return f"the file was not checked, since onnxruntime is not installed: {EXTRA}"
    return (
        f"largest difference to the {part}'s own logits on 8 random images: {check.difference:.1e} (largest logit "
        f"{check.largest:.1f})"
    )
