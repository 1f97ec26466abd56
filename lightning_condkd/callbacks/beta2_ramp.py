"""Callback that raises Adam's second decay rate during a run."""

from __future__ import annotations

import lightning as L
from lightning.pytorch.callbacks import Callback
from torch.optim import Optimizer

from lightning_condkd.functional.feature_generation import LARGEST_DECAY, ramped_decay
from lightning_condkd.modules.teacher_student import TeacherStudent


class Beta2Ramp(Callback):
    """Raise the second decay rate (beta2) of the student's Adam along a cosine to 0.999 over the run, as for GenDD.

    It is :func:`~lightning_condkd.functional.feature_generation.ramped_decay` of the student's steps, set before each.
    The first decay rate stays. It depends on the progress of the run alone, so a resumed run continues exactly.

    Args:
        lowest: value at the first step; 0.95 for CIFAR and 0.96 for ImageNet in the official code of GenDD.

    Raises:
        ValueError: if ``lowest`` is not in [0, 0.999); at the start of a fit, if the module trains no student, its
            optimizer is not of Adam's family, or the run has no end.

    Example:
        >>> Beta2Ramp(lowest=0.96).lowest
        0.96

    References:
        The official code of "Generative Distribution Distillation", arXiv 2507.14503.
    """

    def __init__(self, lowest: float = 0.95) -> None:
        if not 0 <= lowest < LARGEST_DECAY:
            raise ValueError(f"lowest: expected a number in [0, {LARGEST_DECAY}), got {lowest}; 0.95 is published")
        self.lowest = lowest

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Check that there is a student.

        Args:
            trainer: the trainer.
            pl_module: the module.
            stage: only ``fit`` has an effect.
        """
        if stage == "fit" and not isinstance(pl_module, TeacherStudent):
            raise ValueError(
                f"Beta2Ramp: expected CondKD or Distillation, got {type(pl_module).__name__}: leave out the callback"
            )

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check the student's optimizer and that the run has an end.

        Args:
            trainer: the trainer.
            pl_module: the module.
        """
        optimizer = trainer.optimizers[0]
        if not all(len(group.get("betas", ())) == 2 for group in optimizer.param_groups):
            raise ValueError(
                f"Beta2Ramp: expected a student_optimizer with betas, such as torch.optim.AdamW, got "
                f"{type(optimizer).__name__}: set model.student_optimizer, or leave out the callback"
            )
        if isinstance(pl_module, TeacherStudent) and pl_module.student_steps[1] is None:
            raise ValueError("Beta2Ramp: the ramp ends with the run, which has no end: set max_epochs or max_steps")

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer) -> None:
        """Set the rate of the student's optimizer, which is the first one.

        Args:
            trainer: the trainer.
            pl_module: the module.
            optimizer: the optimizer of the step.
        """
        if optimizer is not trainer.optimizers[0] or not isinstance(pl_module, TeacherStudent):
            return
        done, total = pl_module.student_steps
        beta2 = ramped_decay(min(1.0, done / max(1, (total or 0) - 1)), self.lowest)
        for group in optimizer.param_groups:
            group["betas"] = (group["betas"][0], beta2)
