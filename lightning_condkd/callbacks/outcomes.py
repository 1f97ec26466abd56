"""What a finished run of each module has to tell beside its accuracies."""

from __future__ import annotations

from typing import Any

import lightning as L

from lightning_condkd.callbacks.baseline import CondensedOnlyBaseline
from lightning_condkd.callbacks.condensed_accuracy import CondensedAccuracy
from lightning_condkd.callbacks.pictures import SyntheticImages
from lightning_condkd.data.condensed import CondensedSet
from lightning_condkd.modules.classification import Classification
from lightning_condkd.modules.condensation import Condensation
from lightning_condkd.modules.condkd import CondKD
from lightning_condkd.modules.experts import ExpertTrajectories
from lightning_condkd.modules.generative_condensation import GenerativeCondensation
from lightning_condkd.modules.resumable import ResumableModule
from lightning_condkd.modules.run_length import dev_steps
from lightning_condkd.modules.trainer_options import callbacks_of


def outcome(trainer: L.Trainer, module: ResumableModule) -> dict[str, Any]:
    """Return what was made in a few figures, JSON values only; a ``fast_dev_run`` makes no file.

    Args:
        trainer: the trainer, at the end of a fit, on the rank that writes files.
        module: the trained module.
    """
    made: dict[str, Any] = {} if dev_steps(trainer) else _files(trainer, module)
    match module:
        case CondKD():
            baseline = next((c.accuracy for c in callbacks_of(trainer, CondensedOnlyBaseline)), None)
            made |= {"teacher_accuracy": module.teacher_accuracy, "condensed_only_accuracy": baseline}
            made |= {"images_synthesised": module.images_synthesised}
        case Condensation() | GenerativeCondensation():
            made["iterations"] = trainer.global_step
            for judge in callbacks_of(trainer, CondensedAccuracy):
                made[f"fresh_networks_{judge.name}"] = judge.curve[-1][1] if judge.curve else None
    return {name: value for name, value in made.items() if value is not None}


def _files(trainer: L.Trainer, module: ResumableModule) -> dict[str, Any]:
    match module:
        case Classification():
            return {"output": None if module.output is None else str(module.output)}
        case ExpertTrajectories():
            files = [path.name for path in module.output.glob("expert_*.safetensors")]
            experts = {name.split("_epoch_")[0] for name in files}
            return {"output": str(module.output), "experts": len(experts), "snapshots": len(files)}
        case Condensation() | GenerativeCondensation():
            picture = next((c.path for c in callbacks_of(trainer, SyntheticImages)), None)
            made = {"set": CondensedSet.load(module.output).line, "output": str(module.output)}
            return {**made, "picture": None if picture is None else str(picture)}
    return {}
