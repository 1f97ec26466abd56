"""Callback that writes predictions to a file."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import lightning as L

from lightning_condkd.distributed import gather_objects
from lightning_condkd.training.batches import log_written
from lightning_condkd.training.outputs import check_targets, run_folder
from lightning_condkd.training.predictions import Prediction
from lightning_condkd.training.run_length import dev_steps
from lightning_condkd.writing import Target, write_atomic

COLUMNS = ("image", "file", "label", "class", "probability")
Rows = dict[tuple[int, int], Prediction]


class PredictionFile(L.Callback):
    """Write the predictions of ``Trainer.predict`` as a CSV: one row for each image, in the order of the data.

    With several loaders, the first column is the number of the loader. With several ranks, rank 0 writes the file. A
    ``fast_dev_run`` writes none.

    Args:
        output: the file; ``None`` for ``predictions.csv`` in the folder of the run.
    """

    def __init__(self, output: str | Path | None = None) -> None:
        self.output = output
        self._path = Path()
        self._rows: Rows = {}

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check that the file can be written.

        Args:
            trainer: the trainer.
            pl_module: not used.
        """
        self._rows = {}
        self._path = run_folder(trainer) / "predictions.csv" if self.output is None else Path(self.output)
        check_targets([Target(self._path)], trainer)

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Store the predictions of a batch.

        Args:
            trainer: the trainer.
            pl_module: the module.
            outputs: its predictions.
            batch: not used.
            batch_idx: position in the loader.
            dataloader_idx: number of the loader.

        Raises:
            TypeError: if the module returns something else.
            ValueError: with several ranks, if the positions of these images are unknown.
        """
        if not isinstance(outputs, list) or not all(isinstance(one, Prediction) for one in outputs):
            name = type(pl_module).__name__
            raise TypeError(f"expected a list of Prediction for a batch, got {type(outputs).__name__} of {name}")
        first = sum(loader == dataloader_idx for loader, _ in self._rows)
        for position, prediction in enumerate(outputs, first):
            if prediction.row is None and trainer.world_size > 1:
                raise ValueError(
                    f"on {trainer.world_size} processes it is not known which images a loader without a sampler gives "
                    "to each: predict on one, or give a DataLoader of a dataset with rows"
                )
            self._rows[dataloader_idx, position if prediction.row is None else prediction.row] = prediction

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the file, and log its path.

        Args:
            trainer: the trainer.
            pl_module: not used.
        """
        ranks = gather_objects(self._rows)
        if trainer.is_global_zero and not dev_steps(trainer):
            write_atomic(self._path, as_csv({key: one for rows in ranks for key, one in rows.items()}))
        log_written("predictions", self._path, "a row for each image", trainer)
        self._rows = {}


def as_csv(rows: Rows) -> bytes:
    """Return predictions as a CSV in the order of the data; with several loaders a column has the loader's number.

    Args:
        rows: the predictions by number of the loader and of the image.

    Example:
        >>> print(as_csv({(0, 1): Prediction(7, 0.5), (0, 0): Prediction(2, 0.75, "cat", "a.png")}).decode())
        image,file,label,class,probability
        0,a.png,2,cat,0.75
        1,,7,,0.5
    """
    several = len({loader for loader, _ in rows}) > 1
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(("loader", *COLUMNS) if several else COLUMNS)
    for (loader, row), one in sorted(rows.items()):
        line = (row, one.file, one.label, one.class_name, one.probability)
        writer.writerow((loader, *line) if several else line)
    return buffer.getvalue().encode(errors="surrogateescape")  # as Python decodes file names
