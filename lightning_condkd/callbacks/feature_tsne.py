"""Callback that draws a t-SNE of the teacher's features of real, condensed and synthetic images."""

from __future__ import annotations

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from lightning_condkd.callbacks.parts.tensorboard import show_in_tensorboard
from lightning_condkd.data.transfer import TransferSet
from lightning_condkd.figures import (
    LabeledImages,
    check_matplotlib,
    feature_figure,
    feature_points,
    figure_pixels,
    png,
    shown_names,
)
from lightning_condkd.figures.feature_map import Source
from lightning_condkd.modules.condkd import CondKD
from lightning_condkd.training.outputs import check_targets, run_folder
from lightning_condkd.training.run_length import dev_steps
from lightning_condkd.training.trainer_access import held_out_data_of
from lightning_condkd.writing import Target, write_atomic

FILE, TITLE = "features.png", "teacher features, t-SNE"


class FeatureTSNE(Callback):
    """Draw a t-SNE of the teacher's embeddings of real held-out, condensed and synthetic images, as the paper shows it.

    The figure is in TensorBoard, and its latest version is ``features.png`` in the folder of the run. It is drawn
    every few rounds and at the end, by rank 0; a ``fast_dev_run`` draws it without writing a file. Synthetic images are
    those of the memory bank, or the latest ones of a method that stores none. Real images are drawn if the held-out
    ones are in memory. It does not affect the run. With the defaults, a figure takes about two CPU-seconds (our
    measurement, digits). It needs matplotlib: ``pip install 'lightning-condkd[plots]'``.

    Args:
        every_n_rounds: rounds between two figures (our default).
        max_images: largest number of images of each source, evenly spaced in their order (our default).
        max_classes: classes in the figure, from class 0 on (our default).
        seed: seed of the t-SNE.

    Raises:
        ModuleNotFoundError: at the start of a fit, if matplotlib is not installed.
        ValueError: if a number is not positive; at the start of a fit, if the module is not CondKD, or its teacher has
            no final linear layer, so no embedding.

    Example:
        >>> FeatureTSNE(every_n_rounds=5).max_images
        300

    References:
        Binici et al.: "Condensed Data Expansion Using Model Inversion for Knowledge Distillation", arXiv 2408.13850.
    """

    def __init__(self, every_n_rounds: int = 10, max_images: int = 300, max_classes: int = 10, seed: int = 0) -> None:
        counts = {"every_n_rounds": every_n_rounds, "max_images": max_images, "max_classes": max_classes}
        for name, count in counts.items():
            if count < 1:
                raise ValueError(f"{name}: expected a positive number, got {count}")
        self.every_n_rounds, self.max_images, self.max_classes = every_n_rounds, max_images, max_classes
        self.seed = seed
        self._drawn_at: int | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Check that there are features to draw, and matplotlib to draw them with.

        Args:
            trainer: the trainer.
            pl_module: the module.
            stage: only ``fit`` has an effect.
        """
        if stage != "fit":
            return
        check_matplotlib("FeatureTSNE")
        if not isinstance(pl_module, CondKD):
            raise ValueError(f"FeatureTSNE: expected CondKD, got {type(pl_module).__name__}: leave out the callback")
        _ = pl_module.teacher.embedding_size  # refuses a network without one
        if held_out_data_of(trainer) is None:
            rank_zero_info("FeatureTSNE draws no real images: no held-out images in memory (val_data) were given")

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check that the file can be written.

        Args:
            trainer: the trainer.
            pl_module: not used.
        """
        self._drawn_at = None
        check_targets([Target(run_folder(trainer) / FILE)], trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw, if the round is one of those.

        Args:
            trainer: the trainer.
            pl_module: the trained module.
        """
        if trainer.current_epoch % self.every_n_rounds == 0:
            self._draw(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw the final figure, unless the last round has drawn it.

        Args:
            trainer: the trainer.
            pl_module: the trained module.
        """
        if self._drawn_at != trainer.global_step:
            self._draw(trainer, pl_module)

    def _draw(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        path = run_folder(trainer) / FILE  # on every rank: the ranks agree on it
        self._drawn_at = trainer.global_step
        if not trainer.is_global_zero or not isinstance(module, CondKD):
            return
        try:
            pixels = self._picture(trainer, module)
        except ValueError as error:  # a picture is not worth the run
            rank_zero_warn(f"FeatureTSNE has drawn no figure: {error}")
            return
        show_in_tensorboard(trainer, TITLE, pixels)
        if not dev_steps(trainer):
            write_atomic(path, png(pixels, palette=True))

    def _picture(self, trainer: L.Trainer, module: CondKD) -> Tensor:
        sources, names = sources_of(trainer, module)
        limits = {"max_images": self.max_images, "max_classes": self.max_classes}
        points = feature_points(module.teacher, sources, **limits, seed=self.seed)
        return figure_pixels(feature_figure({TITLE: points}, names[: self.max_classes]))


def sources_of(trainer: L.Trainer, module: CondKD) -> tuple[dict[Source, LabeledImages], list[str]]:
    """Return the images of a run by their source, and the names of the classes; call it during a fit.

    Args:
        trainer: the trainer.
        module: the trained module.
    """
    transfer, held_out = module.transfer_set, held_out_data_of(trainer)
    assert isinstance(transfer, TransferSet)
    condensed, bank = transfer.condensed, transfer.bank
    found: dict[Source, LabeledImages] = {"condensed": LabeledImages(condensed.images, condensed.labels)}
    if held_out is not None:
        found["real"] = LabeledImages(held_out.val_source.images, held_out.val_source.labels)
    if len(bank):
        found["synthetic"] = LabeledImages(bank.images, bank.labels)
    elif module.inversion.source == "live":
        images, labels = module.inversion.collect()
        assert labels is not None
        found["synthetic"] = LabeledImages(images, labels)
    return found, shown_names(condensed.num_classes, condensed.info.class_names)
