"""What every inversion method offers to a training loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, cast, get_args

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_condkd.augment import Augment
from lightning_condkd.distributed import gather_rows, mean_over_ranks
from lightning_condkd.randomness import Draw
from lightning_condkd.rounds import Cadence, Unit
from lightning_condkd.types import LossTerms, NetworkOutput, Synthetic, TaskSpec

Selection = Literal["total_loss", "inversion_loss", "last"]
Source = Literal["bank", "live"]
StudentLoss = Literal["kl", "logits_l1", "attention"]


class Observe(Protocol):
    """A network that can be looked into, such as :class:`lightning_condkd.models.Observer`."""

    def __call__(
        self,
        images: Tensor,
        *,
        embedding: bool = False,
        bn: bool = False,
        maps: Sequence[str] = (),
        channel_means: bool = False,
    ) -> NetworkOutput:
        """Return logits and what else was asked for."""
        ...


class Inversion(nn.Module):
    """Base of the methods that turn a frozen teacher into images.

    A method is plain PyTorch: it knows no trainer, no data and no other stage. All that it must remember is a
    registered parameter or buffer of the *global* synthesis batch, so ``state_dict`` holds a round in mid-flight and a
    run resumes on any number of ranks. The loop calls, in this order::

        build -> optimizers -> (start -> (render -> loss -> [backward, step] -> after_step) x synthesis_steps -> finish)
        x rounds

    Args:
        cadence: how a round is divided between synthesis and distillation.
        batch_size: images synthesised in a block, over all ranks.
        augment: the main view in which the teacher sees synthetic images; ``None`` for the images as they are.
        selection: which images of a block are kept: those of the step with the lowest total loss, with the lowest loss
            without the alignment term, or the last ones. Losses are averaged over ranks before they are compared.

    Attributes:
        source: where the student's synthetic images come from: a block's kept images are stored in the ``bank``, or
            :meth:`sample` renders ``live`` ones for every student step and none is stored.
        needs_embedding: whether :meth:`loss` asks the teacher for its embedding.
        balanced_labels: whether a block has equally many labels of every class, up to one.
        gradient_clip: largest norm of the gradient in a synthesis step; ``None`` for no limit.
        student_loss: what the published method teaches its student by: ``kl`` for the divergence of predictions,
            ``logits_l1`` for the difference of logits, ``attention`` for the divergence and attention maps.
    """

    source: Source = "bank"
    student_loss: StudentLoss = "kl"
    needs_embedding: bool = False
    balanced_labels: bool = False
    gradient_clip: float | None = None
    images_sampled: Tensor
    kept_images: Tensor
    kept_labels: Tensor
    kept_loss: Tensor

    def __init__(
        self, cadence: Cadence, batch_size: int, augment: Augment | None = None, selection: Selection = "total_loss"
    ) -> None:
        super().__init__()
        if batch_size <= 0:
            raise ValueError(f"expected a positive batch_size of the synthesis batch, got {batch_size}")
        if selection not in get_args(Selection):
            raise ValueError(f"expected selection 'total_loss', 'inversion_loss' or 'last', got {selection!r}")
        self.cadence = cadence
        self.batch_size = batch_size
        self.augment = augment
        self.selection: Selection = selection

    def build(self, spec: TaskSpec, generator: torch.Generator) -> None:
        """Make parameters and buffers.

        Args:
            spec: shapes of the task.
            generator: source of the initial values.
        """
        self.register_buffer("kept_images", torch.zeros(self.batch_size, *spec.image_shape))
        self.register_buffer("kept_labels", torch.zeros(self.batch_size, dtype=torch.long))
        self.register_buffer("kept_loss", torch.tensor(torch.inf))
        self.register_buffer("images_sampled", torch.zeros((), dtype=torch.long))

    def optimizers(self) -> dict[str, Optimizer]:
        """Return the optimizers by name; ``synthesis`` is stepped on the loss of :meth:`loss`."""
        return {}

    def per_round(self) -> list[nn.Parameter]:
        """Return the parameters whose optimizer state is forgotten at :meth:`start`."""
        return []

    def lr_factor(self, unit: Unit) -> float:
        """Return the factor of the learning rates of ``synthesis`` at a unit.

        Args:
            unit: the current unit.
        """
        return 1.0

    def start(self, unit: Unit, draw: Draw) -> None:
        """Begin a block: refill what is optimised anew.

        Args:
            unit: the first synthesis unit of the block.
            draw: randomness of the unit.
        """
        self.kept_loss.fill_(torch.inf)

    def render(self, unit: Unit, draw: Draw) -> Synthetic:
        """Return this rank's rows of the global synthesis batch, with their graph.

        Args:
            unit: the current unit.
            draw: randomness of the unit; ``draw.rows`` are this rank's.
        """
        raise NotImplementedError

    def loss(
        self, synthetic: Synthetic, observe: Observe, student: Observe, unit: Unit, draw: Draw
    ) -> tuple[LossTerms, NetworkOutput]:
        """Return the named terms and the teacher's output on the main view.

        Args:
            synthetic: what :meth:`render` returned.
            observe: the frozen teacher.
            student: the student, in eval mode.
            unit: the current unit.
            draw: randomness of the unit.
        """
        raise NotImplementedError

    def view(self, images: Tensor, unit: Unit, draw: Draw, purpose: str = "view") -> Tensor:
        """Return the main view of local rows of a global batch.

        Args:
            images: ``(N / world_size, C, H, W)``, pixels in the units of [0, 1].
            unit: the current unit.
            draw: randomness of the unit.
            purpose: name of the stream of augmentation parameters.
        """
        return images if self.augment is None else self.augment.view(images, draw, purpose)

    @torch.no_grad()
    def after_step(
        self, synthetic: Synthetic, output: NetworkOutput, inversion_loss: Tensor, total_loss: Tensor, unit: Unit
    ) -> None:
        """Look at a finished step; gradients of the step are still in place.

        Args:
            synthetic: the images that the loss was computed on, with labels.
            output: the teacher's output on their main view.
            inversion_loss: the method's own loss, scalar.
            total_loss: the loss that was minimised, alignment included, scalar.
            unit: the current unit.
        """
        loss = mean_over_ranks(inversion_loss if self.selection == "inversion_loss" else total_loss)
        better = torch.ones_like(loss, dtype=torch.bool) if self.selection == "last" else loss < self.kept_loss
        labels = output.logits.argmax(1) if synthetic.labels is None else synthetic.labels
        self.keep(better, Synthetic(synthetic.images, labels))
        self.kept_loss.copy_(torch.where(better, loss, self.kept_loss))

    @torch.no_grad()
    def keep(self, better: Tensor, synthetic: Synthetic) -> None:
        """Remember what a step made if it is the best of its block so far.

        Args:
            better: whether it is, a boolean scalar, the same on every rank.
            synthetic: this rank's images and labels.
        """
        labels = cast(Tensor, synthetic.labels)
        self.kept_images.copy_(torch.where(better, gather_rows(synthetic.images), self.kept_images))
        self.kept_labels.copy_(torch.where(better, gather_rows(labels), self.kept_labels))

    def finish(self, unit: Unit) -> Sequence[str]:
        """End a block.

        Args:
            unit: the last synthesis unit of the block.

        Returns:
            Names of the optimizers whose gradient was written by hand and that are to be stepped now.
        """
        return ()

    def collect(self) -> Synthetic:
        """Return the images that the block keeps, for the whole global batch.

        Raises:
            ValueError: if no kept step had a finite loss.
        """
        if not bool(self.kept_loss.isfinite()):
            raise ValueError(
                f"the loss of every kept step is {float(self.kept_loss)}, so no image of the block is of use: lower "
                "the learning rate or the weights of the synthesis"
            )
        return Synthetic(self.kept_images, self.kept_labels)

    # --- methods whose images are rendered for every student step ----------------------------------------------------

    def sample(self, count: int, observe: Observe, unit: Unit, draw: Draw) -> Synthetic:
        """Return this rank's rows of the synthetic images of a student step, without graph; for ``live`` methods.

        Args:
            count: synthetic images in the global batch.
            observe: the frozen teacher.
            unit: the current distillation unit.
            draw: randomness of the unit.
        """
        raise NotImplementedError(f"{type(self).__name__} stores its images in the bank and samples none")

    def check_sample(self, count: int, world_size: int) -> None:
        """Check, before a run, how many images :meth:`sample` will be asked for; by default any number will do.

        Args:
            count: synthetic images in the global batch.
            world_size: number of processes.

        Raises:
            ValueError: if the method cannot divide them into its parts, or these among the processes.
        """

    def replay_loss(self, synthetic: Synthetic, observe: Observe, unit: Unit, draw: Draw) -> LossTerms | None:
        """Return the loss of the optimizer ``replay`` after a student step; ``None`` where there is nothing to learn.

        Args:
            synthetic: what :meth:`sample` returned for the student step.
            observe: the frozen teacher.
            unit: the current distillation unit.
            draw: randomness of the unit.
        """
        return None
