"""The figures of a run, as files and as a closing table."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from lightning_condkd.callbacks.baseline import CondensedOnlyBaseline
from lightning_condkd.data.files import write_atomic
from lightning_condkd.modules.condkd import CondKD
from lightning_condkd.modules.run_length import dev_steps


def _run_folder(trainer: L.Trainer) -> Path:
    logger = trainer.logger
    if logger is None or isinstance(logger, (TensorBoardLogger, CSVLogger)):
        return Path(trainer.log_dir or trainer.default_root_dir)
    # All runs share the save_dir of other loggers (W&B, MLflow); this is where Lightning puts their checkpoints.
    version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
    return Path(logger.save_dir or trainer.default_root_dir, str(logger.name), version)


def _table_name(trainer: L.Trainer, folder: Path) -> str:
    taken = [Path(logger.log_dir) for logger in trainer.loggers if isinstance(logger, CSVLogger)]
    return "rounds.csv" if folder in taken else "metrics.csv"


class RunSummary(Callback):
    """Keep last and best accuracy; write ``metrics.csv`` after every round, ``summary.json`` and a table at the end.

    Where a ``CSVLogger`` writes its own ``metrics.csv`` into the run's folder, the file is called ``rounds.csv``. A
    ``fast_dev_run`` leaves the table alone.
    """

    def __init__(self) -> None:
        self.last: float | None = None
        self.best: float | None = None
        self.rows: list[dict[str, float]] = []

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the student's accuracy.

        Args:
            trainer: the trainer.
            pl_module: the trained module.
        """
        value = trainer.callback_metrics.get("val/student_accuracy")
        if value is not None and not trainer.sanity_checking:
            self.last = float(value)
            self.best = max(self.last, self.best or 0.0)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Add a row to the CSV.

        Args:
            trainer: the trainer.
            pl_module: the trained module.
        """
        if not isinstance(pl_module, CondKD):
            return
        folder = _run_folder(trainer)  # on every rank: the ranks agree on it
        values = {name: float(value) for name, value in sorted(trainer.callback_metrics.items())}
        self.rows.append({"round": trainer.current_epoch, **values})
        if trainer.is_global_zero and not dev_steps(trainer):
            write_atomic(folder / _table_name(trainer, folder), _as_csv(self.rows).encode())

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the summary and print the closing table.

        Args:
            trainer: the trainer.
            pl_module: the trained module.
        """
        if not isinstance(pl_module, CondKD):
            return
        summary, path = self.summary(trainer, pl_module), _run_folder(trainer) / "summary.json"
        if not trainer.is_global_zero:
            return
        print(closing_table(summary))
        if dev_steps(trainer):
            return
        write_atomic(path, (json.dumps(summary, indent=2) + "\n").encode())
        print(f"summary: {path}")

    def summary(self, trainer: L.Trainer, module: CondKD) -> dict[str, Any]:
        """Return the run in a few figures.

        Args:
            trainer: the trainer.
            module: the trained module.
        """
        seconds = {name: round(value, 2) for name, value in module.stopwatch.seconds.items()}
        callbacks: list[Callback] = getattr(trainer, "callbacks", [])
        baselines = [c.accuracy for c in callbacks if isinstance(c, CondensedOnlyBaseline)]
        figures = {
            "teacher_accuracy": module.teacher_accuracy,
            "condensed_only_accuracy": baselines[0] if baselines else None,
            "student_accuracy_last": self.last,
            "student_accuracy_best": self.best,
        }
        return {
            **{name: value for name, value in figures.items() if value is not None},
            "images_synthesised": module.images_synthesised,
            "rounds": trainer.current_epoch,
            "seed": module.seed,
            "seconds": {**seconds, "total": round(sum(seconds.values()), 2)},
        }

    def state_dict(self) -> dict[str, Any]:
        """Return last and best accuracy and the rows of the CSV."""
        return {"last": self.last, "best": self.best, "rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore them.

        Args:
            state_dict: what :meth:`state_dict` returned.
        """
        self.last, self.best, self.rows = state_dict["last"], state_dict["best"], list(state_dict["rows"])


def closing_table(summary: dict[str, Any]) -> str:
    """Return the table that ends a run.

    Args:
        summary: what :meth:`RunSummary.summary` returned.

    Example:
        >>> print(closing_table({"student_accuracy_last": 0.5, "images_synthesised": 10, "seconds": {"total": 1.0}}))
        student, last        50.00 %
        images synthesised   10
        seconds              total 1.0
    """
    names = {
        "teacher_accuracy": "teacher",
        "condensed_only_accuracy": "condensed images only",
        "student_accuracy_last": "student, last",
        "student_accuracy_best": "student, best",
    }
    rows = [(title, f"{100 * summary[name]:.2f} %") for name, title in names.items() if name in summary]
    rows += [("images synthesised", str(summary["images_synthesised"]))]
    rows += [("seconds", ", ".join(f"{name} {value}" for name, value in summary["seconds"].items()))]
    width = max(len(title) for title, _ in rows) + 3
    return "\n".join(f"{title:<{width}}{value}" for title, value in rows)


def _as_csv(rows: list[dict[str, float]]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, names)
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()
