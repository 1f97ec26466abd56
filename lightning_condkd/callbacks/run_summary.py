"""Callback that writes the figures of a run: ``metrics.csv``, ``summary.json`` and a final table."""

from __future__ import annotations

import csv
import io
import json
import time
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from lightning_condkd.callbacks.best_checkpoint import BestCheckpoint, monitors
from lightning_condkd.callbacks.condensed_accuracy import CondensedAccuracy
from lightning_condkd.callbacks.condensed_only import CondensedOnlyBaseline
from lightning_condkd.callbacks.parts.epochs import epoch_name
from lightning_condkd.callbacks.synthetic_images import SyntheticImages
from lightning_condkd.data.condensed import CondensedSet
from lightning_condkd.modules.classification import Classification
from lightning_condkd.modules.condensation import Condensation
from lightning_condkd.modules.condkd import CondKD
from lightning_condkd.modules.distillation import Distillation
from lightning_condkd.modules.experts import ExpertTrajectories
from lightning_condkd.modules.generative_condensation import GenerativeCondensation
from lightning_condkd.training.outputs import check_targets, run_folder
from lightning_condkd.training.resumable import ResumableModule
from lightning_condkd.training.run_length import dev_steps
from lightning_condkd.training.trainer_access import callbacks_of, checkpoint_folder
from lightning_condkd.writing import Target, write_atomic

TITLES = {
    "teacher_accuracy": "teacher",
    "condensed_only_accuracy": "condensed images only",
    "condensed_only_mixed_accuracy": "condensed only, mixed",
    "student_accuracy_last": "student, last",
    "student_accuracy_best": "student, best",
    "accuracy_last": "accuracy, last",
    "accuracy_best": "accuracy, best",
    "images_synthesized": "images synthesised",
    "iterations": "iterations",
    "experts": "experts",
    "snapshots": "snapshots",
    "set": "condensed set",
    "output": "written to",
    "picture": "picture",
    "best_checkpoint": "best checkpoint",
    "checkpoints": "checkpoints",
}


class RunSummary(Callback):
    """Keep last and best accuracy; write ``metrics.csv`` after every epoch, ``summary.json`` and a table at the end.

    This is for the modules of this package. If a ``CSVLogger`` writes its own ``metrics.csv`` into the run's folder,
    the file is called ``rounds.csv`` (``epochs.csv``). A ``fast_dev_run`` only prints the table.
    """

    def __init__(self) -> None:
        self.last: float | None = None
        self.best: float | None = None
        self.rows: list[dict[str, float]] = []
        self.seconds = 0.0
        self._since: float | None = None

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock, and check that the files can be written.

        Args:
            trainer: the trainer.
            pl_module: the trained module.
        """
        self._since = time.perf_counter()
        if isinstance(pl_module, ResumableModule):
            check_targets([Target(run_folder(trainer), folder=True)], trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Record the accuracy.

        Args:
            trainer: the trainer.
            pl_module: the trained module.
        """
        value = trainer.callback_metrics.get(_metric(pl_module))
        if value is not None and not trainer.sanity_checking:
            self.last = float(value)
            self.best = max(self.last, self.best or 0.0)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Add a row to the CSV.

        Args:
            trainer: the trainer.
            pl_module: the trained module.
        """
        if not isinstance(pl_module, ResumableModule):
            return
        folder = run_folder(trainer)  # on every rank: the ranks agree on it
        values = {name: float(value) for name, value in sorted(trainer.callback_metrics.items())}
        self.rows.append({epoch_name(pl_module): trainer.current_epoch, **values})
        if trainer.is_global_zero and not dev_steps(trainer):
            name = f"{epoch_name(pl_module)}s.csv" if _is_taken(trainer, folder) else "metrics.csv"
            write_atomic(folder / name, _as_csv(self.rows).encode())

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the summary and print the final table.

        Args:
            trainer: the trainer.
            pl_module: the trained module.
        """
        if not isinstance(pl_module, ResumableModule):
            return
        path = run_folder(trainer) / "summary.json"  # on every rank
        if not trainer.is_global_zero:
            return
        summary = self.summary(trainer, pl_module)
        print(closing_table(summary))
        if dev_steps(trainer):
            return
        write_atomic(path, (json.dumps(summary, indent=2) + "\n").encode())
        print(f"summary: {path}")

    def summary(self, trainer: L.Trainer, module: ResumableModule) -> dict[str, Any]:
        """Return the figures of the run.

        Args:
            trainer: the trainer, on the rank that writes files.
            module: the trained module.
        """
        name = _metric(module).rsplit("/", 1)[-1]
        best = (
            self.best if module.best_metric is not None else None
        )  # without it every validation measures another network
        figures = {f"{name}_last": self.last, f"{name}_best": best}
        return {
            **outcome(trainer, module),
            **{name: value for name, value in figures.items() if value is not None},
            **_checkpoints(trainer, module),
            f"{epoch_name(module)}s": trainer.current_epoch,
            "seed": module.seed,
            "seconds": self._seconds(module),
        }

    def _seconds(self, module: ResumableModule) -> dict[str, float]:
        if not isinstance(module, CondKD):
            return {"total": round(self._elapsed, 2)}
        seconds = {name: round(value, 2) for name, value in module.stopwatch.seconds.items()}
        return {**seconds, "total": round(sum(seconds.values()), 2)}

    @property
    def _elapsed(self) -> float:
        return self.seconds + (0.0 if self._since is None else time.perf_counter() - self._since)

    def state_dict(self) -> dict[str, Any]:
        """Return last and best accuracy, the rows of the CSV and the seconds so far."""
        return {"last": self.last, "best": self.best, "rows": self.rows, "seconds": self._elapsed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore them.

        Args:
            state_dict: result of :meth:`state_dict`.
        """
        self.last, self.best, self.rows = state_dict["last"], state_dict["best"], list(state_dict["rows"])
        self.seconds = state_dict.get("seconds", 0.0)


def closing_table(summary: dict[str, Any]) -> str:
    """Return the table printed at the end of a run.

    Args:
        summary: result of :meth:`RunSummary.summary`.

    Example:
        >>> print(closing_table({"student_accuracy_last": 0.5, "images_synthesized": 10, "seconds": {"total": 1.0}}))
        student, last        50.00 %
        images synthesised   10
        seconds              total 1.0
    """
    fresh = {name: f"fresh networks, {name.rsplit('_', 1)[-1]}" for name in summary if name.startswith("fresh_")}
    rows = [(title, _shown(name, summary[name])) for name, title in {**TITLES, **fresh}.items() if name in summary]
    rows += [("seconds", ", ".join(f"{name} {value}" for name, value in summary["seconds"].items()))]
    width = max(len(title) for title, _ in rows) + 3
    return "\n".join(f"{title:<{width}}{value}" for title, value in rows)


def _shown(name: str, value: Any) -> str:  # noqa: ANN401 - a figure or a text
    return f"{100 * value:.2f} %" if isinstance(value, float) else str(value)


def _metric(module: L.LightningModule) -> str:
    return (module.best_metric if isinstance(module, ResumableModule) else None) or "val/accuracy"


def _is_taken(trainer: L.Trainer, folder: Path) -> bool:
    """Return whether a logger writes its own ``metrics.csv`` in the folder."""
    return any(isinstance(logger, CSVLogger) and Path(logger.log_dir) == folder for logger in trainer.loggers)


def _checkpoints(trainer: L.Trainer, module: ResumableModule) -> dict[str, str]:
    """Return the folder of the checkpoints, and the checkpoint with the best weights, of this package or the user."""
    theirs = [c.best_model_path for c in callbacks_of(trainer, ModelCheckpoint) if monitors(c, module)]
    ours = [c.path for c in callbacks_of(trainer, BestCheckpoint)]
    folder = checkpoint_folder(trainer.checkpoint_callback)
    found = {"best_checkpoint": next(filter(None, [*theirs, *ours]), None), "checkpoints": folder}
    return {} if dev_steps(trainer) else {name: str(path) for name, path in found.items() if path}


def _as_csv(rows: list[dict[str, float]]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, names)
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def outcome(trainer: L.Trainer, module: ResumableModule) -> dict[str, Any]:
    """Return figures of the run's results, JSON values only; a ``fast_dev_run`` writes no files.

    Args:
        trainer: the trainer, at the end of a fit, on the rank that writes files.
        module: the trained module.
    """
    made: dict[str, Any] = {} if dev_steps(trainer) else _files(trainer, module)
    match module:
        case CondKD():
            made |= {"teacher_accuracy": module.teacher_accuracy}
            for baseline in callbacks_of(trainer, CondensedOnlyBaseline):
                made["condensed_only_accuracy"] = baseline.accuracy
                made["condensed_only_mixed_accuracy"] = baseline.mixed_accuracy
            made |= {"images_synthesized": module.images_synthesized}
        case Distillation():
            made["teacher_accuracy"] = module.teacher_accuracy
        case Condensation() | GenerativeCondensation():
            made["iterations"] = trainer.global_step
            for accuracy in callbacks_of(trainer, CondensedAccuracy):
                made[f"fresh_networks_{accuracy.name}"] = accuracy.curve[-1][1] if accuracy.curve else None
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
