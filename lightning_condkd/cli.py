"""The command line: everything is a ``fit`` of some module, plus a few commands about files."""

from __future__ import annotations

import os
import pickle
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning as L
from jsonargparse import auto_cli
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightning_condkd.callbacks import PhaseProgressBar, RunSummary, SyntheticImages, TimedCheckpoint
from lightning_condkd.data.convert import convert
from lightning_condkd.modules.carried import noting_carried_over, warn_of_carried_over
from lightning_condkd.modules.evaluate import evaluate
from lightning_condkd.modules.export import export
from lightning_condkd.modules.select import select
from lightning_condkd.unpickling import refused_names

COMMANDS: dict[str, Callable[..., Any]] = {
    "convert": convert,
    "evaluate": evaluate,
    "export": export,
    "select": select,
}
EPILOGUE = (
    "more, each with a --help of its own: 'convert SOURCE OUTPUT' turns a condensed set into ours or into other "
    "formats, 'evaluate SET' trains fresh networks on it, 'select OUTPUT' chooses real images in its place, "
    "'export CHECKPOINT OUTPUT' writes the student"
)


class CondKDCLI(LightningCLI):
    """LightningCLI in subclass mode with the package's names in reach and its callbacks in place."""

    def __init__(self, args: Sequence[str] | None = None) -> None:
        super().__init__(
            L.LightningModule,
            L.LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_kwargs={"overwrite": True},
            seed_everything_default=0,
            auto_configure_optimizers=False,
            trainer_defaults={"callbacks": [SyntheticImages(), RunSummary()]},
            parser_kwargs={"description": __doc__, "epilog": EPILOGUE},
            args=list(args) if args is not None else None,
        )

    def _parse_ckpt_path(self) -> None:
        try:
            super()._parse_ckpt_path()
        except pickle.UnpicklingError as error:
            path = Path(self.config[self.config.subcommand].ckpt_path)
            raise SystemExit(_refusal(path, error)) from error

    def before_instantiate_classes(self) -> None:
        """Find the checkpoint, and have it read without running any code of it, wherever it lies."""
        config = self.config[self.config.subcommand]
        if config.weights_only is False:
            raise SystemExit("--weights_only false would run code of the checkpoint, and none of ours has any: drop it")
        config.weights_only = True
        if config.get("ckpt_path") == "last":  # Lightning would look in the folder of the new run
            config.ckpt_path = str(newest_checkpoint(Path(config.trainer.default_root_dir or ".")))
            rank_zero_info(f"--ckpt_path last is {config.ckpt_path}")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:  # noqa: ANN401 - LightningCLI's own
        """Parse the command line, and say what a class keeps of the arguments of another."""
        with noting_carried_over() as noted:
            super().parse_arguments(parser, args)
        warn_of_carried_over(noted, self.config)

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:  # noqa: ANN401 - LightningCLI's own signature
        """Return the trainer, with our progress line and checkpoints by time unless others or none are asked for."""
        given, defaults = self._get(self.config_init, "trainer"), self.trainer_defaults["callbacks"]
        if given.enable_progress_bar is not False and not given.barebones and not _has(given.callbacks, ProgressBar):
            defaults.append(PhaseProgressBar())
        if not _has(given.callbacks, TimedCheckpoint):
            defaults.append(TimedCheckpoint())
        trainer = super().instantiate_trainer(**kwargs)
        claim_version(trainer)
        return trainer


def _has(callbacks: Sequence[L.Callback] | L.Callback | None, kind: type[L.Callback]) -> bool:
    given = [callbacks] if isinstance(callbacks, L.Callback) else callbacks or []
    return any(isinstance(callback, kind) for callback in given)


def claim_version(trainer: L.Trainer) -> None:
    """Make the next folder ``version_N`` of the first logger now, so that a run started at the same time takes another.

    Lightning looks for a free number long before it makes the folder. Rank 0 decides; the others are told by Lightning.

    Args:
        trainer: a new trainer; a version that the user has chosen stays.
    """
    loggers = [one for one in trainer.loggers if isinstance(one, (TensorBoardLogger, CSVLogger))]
    first = loggers[0] if loggers else None
    if not trainer.is_global_zero or first is None or first is not trainer.loggers[0] or first._version is not None:
        return
    while "://" not in str(first.root_dir):
        first._version = first._get_next_version()
        with suppress(FileExistsError):
            os.makedirs(first.log_dir)
            break
    for other in loggers[1:]:
        if other._version is None and other.root_dir == first.root_dir:
            other._version = first._version


def newest_checkpoint(root: Path) -> Path:
    """Return the checkpoint that was written last by any run of a folder.

    Args:
        root: what runs have as ``default_root_dir``.

    Raises:
        FileNotFoundError: if there is none.
    """
    found = sorted(root.glob("lightning_logs/version_*/checkpoints/*.ckpt"), key=lambda path: path.stat().st_mtime)
    if not found:
        where = root / "lightning_logs" / "version_*" / "checkpoints"
        raise FileNotFoundError(f"--ckpt_path last: expected a checkpoint in {where}, found none: name its file")
    return found[-1]


def _refusal(path: Path, error: Exception) -> str:
    wanted = ", ".join(refused_names(path, error))
    found = f"it asks for {wanted}, which could run code" if wanted else "it is damaged or of another kind"
    return f"--ckpt_path: refused to read {path}: {found}. Expected a checkpoint of a run of ours: check the path"


def _check_recipe(given: Sequence[str]) -> None:
    """Refuse a recipe by name and in parts at once: the parser would drop the name, as it does that of a file."""
    flags = [part for flag in given for part in (flag.split("=", 1) if flag.startswith("--recipe=") else [flag])]
    named = [value for flag, value in pairwise(flags) if flag == "--recipe" and value in ("dc", "rded")]
    parts = [flag for flag in flags if flag.startswith("--recipe.")]
    if parts and named:
        raise SystemExit(
            f"--recipe {named[-1]} cannot be changed by {parts[0]}: set --epochs, which every recipe takes, or leave "
            "--recipe out and state all that differs from dsa"
        )


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        args: the arguments; ``None`` for those of the process.
    """
    given = list(sys.argv[1:] if args is None else args)
    if given and given[0] in COMMANDS:
        _check_recipe(given)
        result = auto_cli(COMMANDS[given[0]], args=given[1:], prog=f"lightning-condkd {given[0]}")
        if result is not None:
            print(result)
        return
    try:
        CondKDCLI(args)
    except SIGTERMException:
        # Lightning would end with the return code of a finished run.
        print("ended by SIGTERM before it was finished: resume with --ckpt_path CHECKPOINT", file=sys.stderr)
        raise SystemExit(128 + signal.SIGTERM) from None
