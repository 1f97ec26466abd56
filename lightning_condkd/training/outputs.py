"""Paths of a run's files, checked before the run starts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import cast

import lightning as L
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_condkd.training.checkpoints import write_whole
from lightning_condkd.training.described_module import DescribedModule
from lightning_condkd.training.run_length import dev_steps
from lightning_condkd.training.trainer_access import checkpoint_folder
from lightning_condkd.writing import Target, check_target


class CheckedOutputs(L.Callback):
    """Make checkpoint writes atomic, and check before a fit that its files can be written."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Set the plugin that writes and reads checkpoints.

        Args:
            trainer: the trainer.
            pl_module: the module.
            stage: not used.
        """
        write_whole(trainer)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check the folders of checkpoints and loggers, and the module's own files.

        Args:
            trainer: the trainer, with its callbacks set up.
            pl_module: the built module.
        """
        own = cast(DescribedModule, pl_module).outputs()
        check_targets([*_folders(trainer, state_size(pl_module)), *own], trainer)


def check_targets(targets: Iterable[Target], trainer: L.Trainer) -> None:
    """Check on rank 0 that files and folders can be written, and end all ranks if one cannot; call it on all ranks.

    A ``fast_dev_run`` writes nothing.

    Args:
        targets: the files and folders.
        trainer: the trainer.

    Raises:
        OSError: if one cannot be written.
    """
    found = ""
    try:
        for target in targets if trainer.is_global_zero and not dev_steps(trainer) else ():
            check_target(target)
    except OSError as error:
        found = str(error)
    if found := trainer.strategy.broadcast(found):
        raise OSError(found)


def state_size(module: nn.Module) -> int:
    """Return the bytes of a module's state dict.

    Args:
        module: the module.

    Example:
        >>> state_size(nn.Linear(3, 1))
        16
    """
    values = module.state_dict().values()
    return sum(value.nbytes for value in values if isinstance(value, Tensor) and not is_lazy(value))


def _folders(trainer: L.Trainer, checkpoint: int) -> Iterator[Target]:
    logs = trainer.log_dir if trainer.loggers else None
    checkpoints = [checkpoint_folder(callback) for callback in trainer.checkpoint_callbacks]
    for place, size in ((logs, 0), *((folder, checkpoint) for folder in checkpoints)):
        if place is not None and "://" not in str(place):
            yield Target(Path(place), size, folder=True)


def run_folder(trainer: L.Trainer) -> Path:
    """Return the folder of a run, the same on all ranks; call it on all of them.

    Args:
        trainer: the trainer.
    """
    logger = trainer.logger
    if logger is None or isinstance(logger, (TensorBoardLogger, CSVLogger)):
        return Path(trainer.log_dir or trainer.default_root_dir)
    # All runs share the save_dir of other loggers (W&B, MLflow); Lightning writes their checkpoints to this folder.
    version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
    return Path(logger.save_dir or trainer.default_root_dir, str(logger.name), version)
