"""What all our modules need to be stopped and resumed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import lightning as L

from lightning_condkd.modules.requeue import RequeueBetweenSteps
from lightning_condkd.modules.ticks import count_epoch
from lightning_condkd.modules.trainer_options import check_trainer, remark_on_going_on


class ResumableModule(L.LightningModule):
    """A module that is stopped between two steps and resumed from checkpoints that are read as data.

    They hold tensors and plain records only, wherever they lie. A subclass that overrides a hook calls this one's too.

    Attributes:
        trains_one_network: whether one network is all that is trained and kept, so that callbacks may average it.
        metrics: how the names begin that it logs.
        clipping: what to say of clipping the gradients where optimizers take turns.
    """

    trains_one_network: ClassVar[bool] = False
    metrics: ClassVar[tuple[str, ...]] = ()
    clipping: ClassVar[str] = ""

    @classmethod
    def load_from_checkpoint(cls, *args: Any, **kwargs: Any) -> Self:  # noqa: ANN401
        """Load a checkpoint as Lightning does, with ``weights_only=True`` where it is not given: also one of a URL.

        Args:
            args: as in Lightning.
            kwargs: as in Lightning.
        """
        given = kwargs.get("weights_only")
        return super().load_from_checkpoint(*args, **{**kwargs, "weights_only": True if given is None else given})

    def configure_callbacks(self) -> list[L.Callback]:
        """Check the trainer's options, before any of its callbacks sets itself up; return what takes SLURM's signal.

        Raises:
            ValueError: see :func:`~lightning_condkd.modules.trainer_options.check_trainer`.
        """
        if self._trainer is not None:
            check_trainer(self)
        return [RequeueBetweenSteps()]

    def on_fit_start(self) -> None:
        """Say so if the trainer goes on from its last fit without a checkpoint."""
        remark_on_going_on(self.trainer)

    def on_train_batch_start(self, batch: object, batch_idx: int) -> None:
        """Count the epoch as begun.

        Args:
            batch: not used.
            batch_idx: not used.
        """
        count_epoch(self.trainer)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:  # noqa: ANN401
        """Load a state dict as torch does, and say what to do where a fit has not yet built what it is of.

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
