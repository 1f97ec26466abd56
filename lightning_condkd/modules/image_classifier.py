"""Base class of modules with an image classifier: logits, and predictions for images of any loader."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from lightning_condkd.models import Observer
from lightning_condkd.modules.parts.checks import check_dtypes
from lightning_condkd.training.batches import check_image_shape, image_pixels
from lightning_condkd.training.divergence import LogitsWatch, check_logits, check_measured
from lightning_condkd.training.predictions import Prediction, predicted_loader, predictions_of
from lightning_condkd.training.resumable import ResumableModule
from lightning_condkd.training.trainer_access import real_data_of


class ImageClassifier(ResumableModule):
    """Base of the modules that train one image classifier.

    ``module(images)`` returns its logits, in the mode (train or eval) of the module. ``Trainer.predict`` takes loaders
    of images, alone or first in a batch; other elements are ignored.

    Args:
        seed: see :class:`~lightning_condkd.training.resumable.ResumableModule`.
    """

    part: ClassVar[str] = "network"
    """Name of the classifier in messages."""

    def __init__(self, seed: int | None = None) -> None:
        super().__init__(seed)
        self.class_names: tuple[str, ...] | None = None
        self._logits = LogitsWatch()

    @property
    @abstractmethod
    def classifier(self) -> Observer:
        """The network with its normalisation."""

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """``(C, H, W)`` of the training images; ``None`` if unknown."""
        return None

    def forward(self, images: Tensor) -> Tensor:
        """Return the network's logits.

        Args:
            images: ``(N, C, H, W)``, in [0, 1] or uint8, not normalised.

        Returns:
            Logits ``(N, K)``.

        Raises:
            ValueError: if the images are normalised, not finite or of another shape than the training images.
        """
        pixels = image_pixels(images).to(self.dtype)
        if self.image_shape is not None:
            check_image_shape(pixels, self.image_shape)
        logits: Tensor = self.classifier(pixels).logits if len(pixels) else pixels.new_empty(0, self.num_classes)
        return logits

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        return self.classifier.num_classes

    def save_state(self, checkpoint: Mapping[str, Any]) -> dict[str, Any]:
        """Return the names of the classes, the shape of the images and the network's normalisation.

        Args:
            checkpoint: not used.
        """
        values = {"mean": self.classifier.mean, "std": self.classifier.std}
        return {
            "class_names": self.class_names,
            "image_shape": self._shape_of_data(),
            "normalisation": {name: None if value is None else value.tolist() for name, value in values.items()},
        }

    def _shape_of_data(self) -> tuple[int, int, int] | None:
        data = None if self._trainer is None else real_data_of(self._trainer)
        return self.image_shape or (None if data is None else data.image_shape)

    def restore(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Restore the names of the classes.

        Args:
            state: result of :meth:`save_state`; older checkpoints have no names.
            tensors: not used.
        """
        self.class_names = state.get("class_names") or self.class_names

    def on_predict_start(self) -> None:
        """Check the network in the precision of the run."""
        check_dtypes(self.trainer, **{self.part: self.classifier})
        check_measured(self.classifier, f"the {self.part}")

    def predict_step(self, batch: Tensor | Sequence[Any], batch_idx: int, dataloader_idx: int = 0) -> list[Prediction]:
        """Return the most probable class of each image.

        Args:
            batch: images ``(N, C, H, W)``, in [0, 1] or uint8, alone or as the first element.
            batch_idx: position in the loader.
            dataloader_idx: number of the loader.
        """
        logits = self(batch[0] if isinstance(batch, (tuple, list)) and batch else batch)
        self._logits.add("predict", logits)
        return predictions_of(logits, predicted_loader(self, dataloader_idx), batch_idx, self.class_names)

    def on_predict_epoch_end(self) -> None:
        """Check that the predictions are finite."""
        check_logits(self._logits, "predict", f"the {self.part}", self)
