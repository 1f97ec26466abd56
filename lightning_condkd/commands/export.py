"""The command ``export``: plain weights of the student in a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from lightning_condkd.messages import listed
from lightning_condkd.models.finite import broken_tensors
from lightning_condkd.models.weights import plain_name
from lightning_condkd.modules import CondKD, Distillation
from lightning_condkd.training.checkpoint_files import checkpoint_of_run
from lightning_condkd.training.checkpoints import WholeCheckpointIO
from lightning_condkd.writing import Target, check_target, save_by_torch, save_tensors

PREFIX = "student.network."


def student_state(checkpoint: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return a student's weights under its own names, and its normalisation.

    If the loss of the run changed how the student predicts, they are the weights of that network, such as
    :class:`~lightning_condkd.models.ProjectedNetwork` for SimKD.

    Args:
        checkpoint: a checkpoint of :class:`~lightning_condkd.CondKD` or :class:`~lightning_condkd.Distillation`.

    Returns:
        The state dict, and ``mean`` and ``std`` in the units of [0, 1] for the normalisation that the network expects.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged or no such checkpoint, or its student holds NaN or infinity.
    """
    content = WholeCheckpointIO().load_checkpoint(checkpoint)
    key = next((kind.state_key for kind in (CondKD, Distillation) if kind.state_key in content), None)
    if key is None:
        raise ValueError(f"expected a checkpoint of CondKD or Distillation, got {checkpoint}: check the path")
    state = content["state_dict"]
    student = {plain_name(name.removeprefix(PREFIX)): name for name in state if name.startswith(PREFIX)}
    names = content[key].get("predictor") or student
    weights = {name: state[held] for name, held in names.items()}
    if broken := broken_tensors(weights):
        raise ValueError(f"the student in {checkpoint} holds NaN or infinity in {listed(broken)}: take an earlier one")
    return weights, content[key]["normalisation"]


def export(checkpoint: str, output: str) -> None:
    """Write the student of a checkpoint as plain weights that load without this package.

    Args:
        checkpoint: a checkpoint of a CondKD run, or the folder of the run, for the checkpoint with its best student, or
            its newest one if there was no validation.
        output: target, ending in .safetensors (with mean and std in the metadata) or .pt (a plain state dict).

    Raises:
        OSError: if the output cannot be written, or the folder has no checkpoint.
        ValueError: if the ending is another one, or the checkpoint is damaged or not of CondKD.
    """
    target = Path(output)
    if target.suffix not in (".safetensors", ".pt"):
        raise ValueError(f"expected an output ending in .safetensors or .pt, got {output!r}: change the ending")
    check_target(Target(target))
    chosen = checkpoint_of_run(Path(checkpoint)) if Path(checkpoint).is_dir() else checkpoint
    weights, normalization = student_state(chosen)
    if target.suffix == ".pt":
        save_by_torch(target, weights)
    else:
        contiguous = {name: value.contiguous() for name, value in weights.items()}
        save_tensors(target, contiguous, {"normalisation": json.dumps(normalization)})
    print(
        f"wrote {len(weights)} tensors of {chosen} to {target}; the network expects pixels normalised with "
        f"{normalization}"
    )
