"""Where the files of a run go."""

from __future__ import annotations

from pathlib import Path

import lightning as L
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger


def run_folder(trainer: L.Trainer) -> Path:
    """Return the folder of a run; call it on all ranks, which agree on it.

    Args:
        trainer: the trainer.
    """
    logger = trainer.logger
    if logger is None or isinstance(logger, (TensorBoardLogger, CSVLogger)):
        return Path(trainer.log_dir or trainer.default_root_dir)
    # All runs share the save_dir of other loggers (W&B, MLflow); this is where Lightning puts their checkpoints.
    version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
    return Path(logger.save_dir or trainer.default_root_dir, str(logger.name), version)
