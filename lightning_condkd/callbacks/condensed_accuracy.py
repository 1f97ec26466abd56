"""Callback that evaluates the condensed set during condensation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only
from torch import nn

from lightning_condkd.callbacks.synthetic_images import set_sheet
from lightning_condkd.evaluation import Recipe, evaluate
from lightning_condkd.models import FreshNetworks
from lightning_condkd.modules.condensation import Condensation
from lightning_condkd.progress import progress
from lightning_condkd.training.batches import real_images
from lightning_condkd.training.run_length import dev_steps
from lightning_condkd.training.trainer_access import image_data_of


class CondensedAccuracy(Callback):
    """Log the accuracy of fresh networks trained on the current condensed set, at regular intervals.

    It is also logged before the first iteration, with a picture of the set in TensorBoard. It does not affect the
    condensation. With several ranks the first one evaluates while the others wait. A step size that is learned with
    the set is used, as in the command ``evaluate``.

    Args:
        every_n_steps: iterations between two evaluations.
        network: makes the networks; ``None`` for those of the method.
        recipe: training recipe; ``None`` for the published one of 1000 epochs, which takes long.
        runs: number of networks per evaluation.
        test_images: number of held-out images to test on, evenly spaced in their order; ``None`` for all.
        seed: seed of the evaluation, the same every time.
        name: the accuracy is logged as ``condensed/NAME``; several of these callbacks in one run need different names.

    Raises:
        ValueError: if a count is not positive.

    Example:
        >>> CondensedAccuracy(every_n_steps=50, recipe=Recipe(epochs=100)).curve
        []
    """

    def __init__(
        self,
        every_n_steps: int = 500,
        *,
        network: Callable[[], nn.Module] | None = None,
        recipe: Recipe | None = None,
        runs: int = 1,
        test_images: int | None = 2000,
        seed: int = 0,
        name: str = "accuracy",
    ) -> None:
        for what, count in {"every_n_steps": every_n_steps, "runs": runs, "test_images": test_images}.items():
            if count is not None and count < 1:
                raise ValueError(f"{what}: expected a positive number, got {count}")
        self.every_n_steps, self.network, self.recipe = every_n_steps, network, recipe or Recipe.dsa()
        self.runs, self.test_images, self.seed, self.name = runs, test_images, seed, name
        self.curve: list[tuple[int, float]] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Evaluate the initial set, unless the run is a resumed one.

        Args:
            trainer: the trainer.
            pl_module: the trained module.

        Raises:
            TypeError: if the module is no condensation, or has no held-out images.
            ValueError: if these differ from the training images in classes or shape.
        """
        if not isinstance(pl_module, Condensation) or (data := image_data_of(trainer)) is None:
            raise TypeError("CondensedAccuracy needs a Condensation fitted with an ImageDataModule: remove it here")
        data.check_parts()
        if not trainer.global_step:
            self._evaluate(trainer, pl_module)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:  # noqa: ANN401
        """Evaluate after every ``every_n_steps`` iterations.

        Args:
            trainer: the trainer.
            pl_module: the trained module.
        """
        done = self.curve[-1][0] if self.curve else 0
        if trainer.global_step % self.every_n_steps == 0 and trainer.global_step != done:
            self._evaluate(trainer, cast(Condensation, pl_module))

    @rank_zero_only
    def _evaluate(self, trainer: L.Trainer, module: Condensation) -> None:
        source, condensed, own = real_images(module).val_source, module.condensed(), module.method.networks
        rows = torch.linspace(0, len(source) - 1, min(len(source), self.test_images or len(source))).long()
        recipe = replace(self.recipe, epochs=1) if dev_steps(trainer) else self.recipe
        networks = FreshNetworks(self.network, own.mean, own.std) if self.network else own
        what = f"iteration {trainer.global_step}: training fresh networks"
        with torch.enable_grad(), progress(what, self.runs * recipe.epochs, "epochs", leave=False) as advance:
            result = evaluate(
                condensed.images,
                condensed.labels,
                source.images[rows],
                source.labels[rows],
                networks,
                recipe.with_learned_rate(condensed.info.settings.get("train_lr")),
                runs=self.runs,
                seed=self.seed,
                device=module.device,
                advance=advance,
            )
        accuracy = sum(result.last) / len(result.last)
        self.curve.append((trainer.global_step, accuracy))
        rank_zero_info(f"iteration {trainer.global_step}: fresh networks reach {100 * accuracy:.1f} %")
        for logger in trainer.loggers:
            logger.log_metrics({f"condensed/{self.name}": accuracy}, trainer.global_step)
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image("condensed", set_sheet(condensed, max_classes=10), trainer.global_step)

    @property
    def state_key(self) -> str:
        """Key of its state in a checkpoint."""
        return self._generate_state_key(name=self.name)

    def state_dict(self) -> dict[str, Any]:
        """Return the curve."""
        return {"curve": self.curve}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the curve.

        Args:
            state_dict: result of :meth:`state_dict`.
        """
        self.curve = [(step, accuracy) for step, accuracy in state_dict["curve"]]
