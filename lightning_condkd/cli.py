"""Command line: the subcommands of Lightning for all modules, and commands for condensed sets and checkpoints."""

from __future__ import annotations

import os
import pickle
import sys
import warnings
import zipfile
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

import lightning_condkd.data.condensed_datamodule
import lightning_condkd.data.parquet_datamodule
import lightning_condkd.data.streamed_datamodule  # noqa: F401 - a class is found by name once it is imported
from lightning_condkd.callbacks import (
    BestCheckpoint,
    EpochLines,
    PhaseProgressBar,
    PredictionFile,
    RunSummary,
    SyntheticImages,
    TimedCheckpoint,
)
from lightning_condkd.commands.convert import convert
from lightning_condkd.commands.describe import describe
from lightning_condkd.commands.draw import draw
from lightning_condkd.commands.evaluate import evaluate
from lightning_condkd.commands.export import export
from lightning_condkd.commands.methods import methods
from lightning_condkd.commands.select import select
from lightning_condkd.interruption import AGAIN, end_of, how_to_resume, signal_of
from lightning_condkd.parser import ReadableLightningParser, ReadableParser, noting_carried_over, warn_of_carried_over
from lightning_condkd.training.checkpoint_files import best_checkpoint, is_resumable, newest_checkpoint
from lightning_condkd.training.checkpoints import WholeCheckpointIO, refusal
from lightning_condkd.training.run_length import dev_steps
from lightning_condkd.training.trainer_access import monitored_by
from lightning_condkd.unpickling import check_sums
from lightning_condkd.writing import Target, check_target

COMMANDS: dict[str, Callable[..., Any]] = {
    "convert": convert,
    "describe": describe,
    "draw": draw,
    "evaluate": evaluate,
    "export": export,
    "methods": methods,
    "select": select,
}
EPILOGUE = (
    "more commands, each with its own --help: 'convert SOURCE OUTPUT' converts a condensed set to the native or other "
    "formats, 'describe SOURCE' prints classes, sizes, mean and std of images or of a set, 'evaluate SET' trains fresh "
    "networks on it, 'select OUTPUT' chooses real images in its place, 'export RUN OUTPUT' writes the student as "
    "weights or ONNX, 'draw RUN [RUN ...]' makes pictures of finished runs, "
    "'methods' lists the inversion methods with their needs and costs"
)
PROGRAM = "lightning-condkd"
OUTPUT = (
    "CSV with the class, its probability and the file of each image (default: predictions.csv in the folder of the run)"
)
USAGE = f"{PROGRAM} {{fit,validate,test,predict,{','.join(COMMANDS)}}} ..."


class CondKDCLI(LightningCLI):
    """LightningCLI in subclass mode, with short names for the package's classes and with its callbacks."""

    def __init__(self, args: Sequence[str] | None = None) -> None:
        super().__init__(
            L.LightningModule,
            L.LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_kwargs={"overwrite": True},
            seed_everything_default=0,
            auto_configure_optimizers=False,
            trainer_defaults={"callbacks": [SyntheticImages(), BestCheckpoint(), RunSummary()]},
            parser_kwargs={"description": __doc__, "epilog": EPILOGUE, "prog": PROGRAM},
            parser_class=ReadableLightningParser,
            args=list(args) if args is not None else None,
        )

    def setup_parser(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - LightningCLI's own
        """Set up the parser, with the additional commands in its usage."""
        super().setup_parser(*args, **kwargs)
        self.parser.usage = USAGE

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:  # noqa: ANN401
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand == "predict":
            parser.add_argument("--output", type=Path | None, default=None, help=OUTPUT)
        return parser

    def _parse_ckpt_path(self) -> None:
        subcommand = self.config.get("subcommand")
        given = str((self.config[subcommand].get("ckpt_path") if subcommand else None) or "")
        try:
            if Path(given).is_file():
                check_sums(Path(given))
            super()._parse_ckpt_path()
        except (pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, EOFError) as error:
            raise SystemExit(f"--ckpt_path: {refusal(given, error)}") from error
        except AttributeError:  # content that is no dict
            WholeCheckpointIO().load_checkpoint(given)
            raise

    def before_instantiate_classes(self) -> None:
        """Find the checkpoint, and make Lightning read it without running its code, also from a remote address."""
        config = self.config[self.config.subcommand]
        if config.weights_only is False:
            raise SystemExit("--weights_only false would run code of the checkpoint, which ours do not need: drop it")
        config.weights_only = True
        name, fitting = config.get("ckpt_path"), self.config.subcommand == "fit"
        if name in ("last", "best"):  # Lightning would look in the folder of the new run
            root = Path(config.trainer.default_root_dir or ".")
            config.ckpt_path = str(newest_checkpoint(root, fitting) if name == "last" else best_checkpoint(root))
            rank_zero_info(f"--ckpt_path {name} is {config.ckpt_path}")
        if fitting and config.ckpt_path and name != "last":  # "last" was chosen to be resumable
            _check_resumable(config.ckpt_path)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:  # noqa: ANN401 - LightningCLI's own
        """Parse the command line, and warn of arguments that a class keeps from the class it replaces."""
        with noting_carried_over() as noted:
            super().parse_arguments(parser, args)
        warn_of_carried_over(noted, self.config)

    def _run_subcommand(self, subcommand: str) -> None:
        """Run Lightning's part of a command; if it is interrupted, say how to go on."""
        try:
            super()._run_subcommand(subcommand)
        except (RuntimeError, SystemExit, KeyboardInterrupt) as end:
            number, resumed = signal_of(end), self.config[subcommand].get("ckpt_path")
            if number is None:
                raise
            advice = how_to_resume(self.trainer, resumed) if subcommand == "fit" else AGAIN
            raise end_of(number, advice) from None

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:  # noqa: ANN401 - LightningCLI's own signature
        """Return the trainer, by default with this package's progress bar or plain lines and with timed checkpoints."""
        given, defaults = self._get(self.config_init, "trainer"), self.trainer_defaults["callbacks"]
        own = _has(given.callbacks, ProgressBar)
        if given.enable_progress_bar is None and not given.barebones and not own and not sys.stderr.isatty():
            kwargs["enable_progress_bar"] = False  # a bar would fill a log
        if kwargs.get("enable_progress_bar", given.enable_progress_bar) is False:
            defaults.append(EpochLines())
        elif not given.barebones and not own:
            defaults.append(PhaseProgressBar())
        if not _has(given.callbacks, TimedCheckpoint):
            defaults.append(TimedCheckpoint())
        if self.config.subcommand == "predict":
            defaults.append(PredictionFile(self.config.predict.output))
        trainer = super().instantiate_trainer(**kwargs)
        if trainer.loggers or self.config.subcommand == "fit":
            check_roots(trainer)
        claim_version(trainer)
        if not any(monitored_by(one) for one in trainer.checkpoint_callbacks):
            warnings.filterwarnings("ignore", message="The dirpath has changed")  # what it says is not kept is not used
        return trainer


def check_roots(trainer: L.Trainer) -> None:
    """Check on rank 0 that logs and the configuration can be written.

    Args:
        trainer: a new trainer; one of a ``fast_dev_run`` writes nothing.

    Raises:
        OSError: if a folder cannot be written to.
    """
    if not trainer.is_global_zero or dev_steps(trainer):
        return
    roots = [getattr(logger, "root_dir", logger.save_dir) for logger in trainer.loggers] or [trainer.default_root_dir]
    for root in (root for root in roots if root is not None and "://" not in str(root)):
        check_target(Target(Path(root), folder=True))


def _has(callbacks: Sequence[L.Callback] | L.Callback | None, kind: type[L.Callback]) -> bool:
    given = [callbacks] if isinstance(callbacks, L.Callback) else callbacks or []
    return any(isinstance(callback, kind) for callback in given)


def claim_version(trainer: L.Trainer) -> None:
    """Create the next folder ``version_N`` of the first logger now, so that a concurrent run uses another.

    Lightning looks for a free number long before it creates the folder. Rank 0 decides, and Lightning sends its choice
    to the others.

    Args:
        trainer: a new trainer; a version chosen by the user stays.
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


def _check_resumable(path: str) -> None:
    if Path(path).is_file() and not is_resumable(path):
        raise ValueError(
            f"--ckpt_path: {path} holds weights alone, like all files of the best validation, and no state to resume "
            "from: give --ckpt_path last, or the file of another checkpoint of its run"
        )


def _check_recipe(given: Sequence[str]) -> None:
    """Refuse a recipe given both by name and in parts, of which the parser would ignore the name."""
    flags = [part for flag in given for part in (flag.split("=", 1) if flag.startswith("--recipe=") else [flag])]
    named = [value for flag, value in pairwise(flags) if flag == "--recipe" and value in ("dc", "rded")]
    parts = [flag for flag in flags if flag.startswith("--recipe.")]
    if parts and named:
        raise SystemExit(
            f"--recipe {named[-1]} cannot be changed by {parts[0]}: set --epochs, which every recipe accepts, or leave "
            "out --recipe and give all differences from dsa"
        )


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        args: the arguments; ``None`` for those of the process.
    """
    given = list(sys.argv[1:] if args is None else args)
    if given and given[0] in COMMANDS:
        _check_recipe(given)
        result = auto_cli(COMMANDS[given[0]], args=given[1:], prog=f"{PROGRAM} {given[0]}", parser_class=ReadableParser)
        if result is not None:
            print(result)
        return
    CondKDCLI(args)
