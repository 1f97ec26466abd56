"""Base class of all modules, for stopping and resuming runs."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import lightning as L
from torch import Tensor

from lightning_condkd.messages import listed
from lightning_condkd.randomness import run_seed
from lightning_condkd.training.batches import data_settings
from lightning_condkd.training.checkpoints import WholeCheckpointIO, own_state, refusal
from lightning_condkd.training.described_module import DescribedModule
from lightning_condkd.training.loop_counters import count_epoch, validate_on_resume
from lightning_condkd.training.outputs import CheckedOutputs
from lightning_condkd.training.requeue import RequeueBetweenSteps, say_found
from lightning_condkd.training.run_record import (
    OLD_RATES,
    check_optimizers,
    check_resumed,
    constructor_arguments,
    differences,
    optimizer_settings,
    settings,
    warn_of_differences,
)
from lightning_condkd.training.student_averaging import take_average
from lightning_condkd.training.trainer_options import check_trainer, remark_on_going_on

RUN_KEY = "lightning_condkd"


class ResumableModule(DescribedModule):
    """A module that can be stopped between two steps and resumed from checkpoints that are read without running code.

    Checkpoints contain only tensors and plain data, in any location. They include the settings of the run, with which a
    resumed run is compared. A subclass writes :meth:`save_state` and :meth:`restore`; if it overrides a hook, it also
    calls the hook of this class.

    Args:
        seed: seed of all draws; ``None`` takes the one of ``seed_everything``, else 0. A resumed run keeps its seed.
    """

    fixed_settings: ClassVar[Mapping[str, str]] = {}
    """Names in :meth:`run_settings` that cannot change within a run, with advice."""
    takes_new_rates: ClassVar[bool] = False
    """``True`` if a resumed run uses the given learning rates, not those in the checkpoint."""
    state_key: ClassVar[str] = "state"
    """Key in a checkpoint of the seed and the result of :meth:`save_state`."""

    def __init__(self, seed: int | None = None) -> None:
        super().__init__()
        self.seed = run_seed(seed)
        self._forget()

    def _forget(self) -> None:
        self._settings: dict[str, Any] | None = None  # computed once in a fit, because it may hash a data set
        self._optimizers: dict[str, Any] = {}
        self._resumed: dict[str, Any] | None = None

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> Self:  # noqa: ANN401
        """Load a checkpoint as in Lightning, with ``weights_only=True`` by default, also from a URL.

        Args:
            checkpoint_path: as in Lightning.
            args: as in Lightning.
            kwargs: as in Lightning.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is damaged, can only be read by running code, or is no checkpoint of Lightning.
        """
        kwargs["weights_only"] = kwargs.get("weights_only") is not False
        if isinstance(checkpoint_path, (str, Path)) and "://" not in str(checkpoint_path):
            WholeCheckpointIO().load_checkpoint(checkpoint_path, weights_only=kwargs["weights_only"])
        try:
            return super().load_from_checkpoint(checkpoint_path, *args, **kwargs)
        except pickle.UnpicklingError as error:
            raise ValueError(refusal(checkpoint_path, error)) from error

    def run_settings(self) -> dict[str, Any]:
        """Return the settings that a resumed run is compared by, JSON values only: constructor arguments and data."""
        taken = constructor_arguments(type(self)) - {"seed", "output"}
        return {n: value for n, value in settings(self).items() if n in taken} | data_settings(self.trainer)

    def optimizer_names(self) -> Sequence[str]:
        """Return the names of the optimizers, in the order of ``configure_optimizers``."""
        return ["optimizer"]

    def configure_callbacks(self) -> list[L.Callback]:
        """Check the trainer's options before its callbacks are set up; return the callbacks that every run needs.

        These handle SLURM's requeue signal and check the files of a run.

        Raises:
            ValueError: see :func:`~lightning_condkd.training.trainer_options.check_trainer`.
        """
        if self._trainer is not None:
            check_trainer(self)
        return [RequeueBetweenSteps(), CheckedOutputs()]

    def setup(self, stage: str) -> None:
        """Reset the state of an earlier fit.

        Args:
            stage: ``fit``, ``validate`` or ``test``.
        """
        if stage == "fit":
            self._forget()

    def on_fit_start(self) -> None:
        """Compare the optimizers with those of the checkpoint; warn if the trainer continues without one."""
        remark_on_going_on(self.trainer)
        schedules = [config.scheduler for config in self.trainer.lr_scheduler_configs]
        optimizers = dict(zip(self.optimizer_names(), self.trainer.optimizers, strict=True))
        self._optimizers = optimizer_settings(optimizers, schedules[0] if schedules else None)
        if self._resumed is not None:
            there = self._resumed["optimizers"]
            check_optimizers(there, self._optimizers)
            if not self.takes_new_rates:
                warn_of_differences(differences(there, self._optimizers), OLD_RATES)

    def on_train_batch_start(self, batch: object, batch_idx: int) -> None:
        """Count the epoch as started.

        Args:
            batch: not used.
            batch_idx: not used.
        """
        count_epoch(self.trainer)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the settings of the run, its seed and the state of the subclass.

        Args:
            checkpoint: content that Lightning will write; its tensors share memory with the module's.
        """
        made_of = {"settings": self._settings_here, "optimizers": self._optimizers} if self.is_fitting else {}
        checkpoint[RUN_KEY] = {"class": type(self).__name__, **made_of}
        if self._trainer is not None:
            take_average(self._trainer, self, checkpoint)
        checkpoint[self.state_key] = {"seed": self.seed, **self.save_state(checkpoint)}

    def save_state(self, checkpoint: Mapping[str, Any]) -> dict[str, Any]:
        """Synchronise the module over ranks before it is written; return further state as plain data.

        Args:
            checkpoint: content that Lightning will write; its tensors share memory with the module's.
        """
        return {}

    def on_load_checkpoint(self, checkpoint: Mapping[str, Any]) -> None:
        """Check that the checkpoint is of this kind of run, and in a fit that it has the same settings; keep its seed.

        Args:
            checkpoint: the content read by Lightning.

        Raises:
            ValueError: if it is of another kind, or a setting differs that cannot change within a run, or as in
                :meth:`restore`.
        """
        if self._trainer is not None:
            say_found(self._trainer)
        run: dict[str, Any] | None = checkpoint.get(RUN_KEY)
        own = type(self).__name__
        if run is None or (self.is_fitting and run["class"] != own):
            found = "one of another kind or of an older version" if run is None else f"one of {run['class']}"
            raise ValueError(f"expected a checkpoint of {own}, got {found}: check --ckpt_path")
        if self.is_fitting and "settings" in run:
            self._resumed = run
            check_resumed(run["settings"], self._settings_here, self.fixed_settings)
            validate_on_resume(self.trainer, checkpoint)
        self.take_precision()
        state = own_state(checkpoint, self.state_key, self)
        self._take_seed(state["seed"])
        self.restore(state, checkpoint["state_dict"])

    def restore(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Restore the saved state before the tensors are loaded; a subclass also checks the tensors.

        Args:
            state: result of :meth:`save_state`.
            tensors: state dict of the checkpoint.

        Raises:
            ValueError: if the checkpoint does not fit.
        """

    def take_precision(self) -> None:
        """Convert the module to the trainer's precision; Lightning does so after loading, which would round float64."""
        if self._trainer is not None:
            self._trainer.precision_plugin.convert_module(self)

    @property
    def _settings_here(self) -> dict[str, Any]:
        if self._settings is None:
            self._settings = self.run_settings()
        return self._settings

    def _take_seed(self, seed: int) -> None:
        """Keep the seed of the resumed run, and log it if another one was given."""
        if self.is_fitting:
            warn_of_differences(differences({"seed": seed}, {"seed": self.seed}), "the checkpoint's seed is used")
        self.seed = seed

    @property
    def is_fitting(self) -> bool:
        """``True`` while a trainer is fitting, not only evaluating or loading."""
        return self._trainer is not None and self._trainer.state.fn == "fit"

    def check_state(self, state: Mapping[str, Tensor]) -> None:
        """Check that a checkpoint's tensors have the names and shapes of this module's.

        Args:
            state: state dict of the checkpoint.

        Raises:
            ValueError: if they differ.
        """
        own = self.state_dict()
        missing, unexpected = ([n for n in a if n not in b] for a, b in ((own, state), (state, own)))
        shapes = {n: (tuple(state[n].shape), tuple(own[n].shape)) for n in own if n in state}
        reshaped = [f"{name} {there}, here {here}" for name, (there, here) in shapes.items() if there != here]
        parts = {"it has no": missing, "it also has": unexpected, "it has": reshaped}
        if wrong := "; ".join(f"{how} {listed(names)}" for how, names in parts.items() if names):
            raise ValueError(f"the checkpoint does not fit the module: {wrong}. Use the networks and parts of its run")

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:  # noqa: ANN401
        """Load a state dict as in torch, with advice in the error if the module has not been built by a fit.

        Args:
            state_dict: the state dict.
            strict: as in torch.
            assign: as in torch.

        Raises:
            RuntimeError: as in torch.
        """
        try:
            return super().load_state_dict(state_dict, strict, assign)
        except RuntimeError as error:
            if not set(state_dict) <= set(self.state_dict()):
                cure = f"{type(self).__name__}.load_from_checkpoint builds them"
                raise RuntimeError(f"{error}\nParts that depend on the data are built by a fit; {cure}") from error
            raise
