"""Base class of inversion methods: their interface to a training loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, cast, final, get_args

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_condkd.augment import Augment
from lightning_condkd.distributed import gather_rows, mean_over_ranks
from lightning_condkd.inversion.interfaces import (
    Mode,
    Observe,
    RequestedNetwork,
    Selection,
    Source,
    StudentLoss,
    SynthesisLoss,
)
from lightning_condkd.inversion.parts.card import MethodCard
from lightning_condkd.inversion.parts.class_vectors import ClassRows, check_class_rows
from lightning_condkd.inversion.parts.method_checks import (
    check_finished,
    check_gradients,
    check_loss,
    check_optimizers,
    check_synthetic,
    names_held,
    shares_memory,
)
from lightning_condkd.randomness import Draw
from lightning_condkd.rounds import Cadence, Unit
from lightning_condkd.subclassing import FinalMethods, check_initialized
from lightning_condkd.types import LossTerms, NetworkOutput, Synthetic, TaskSpec


class Inversion(FinalMethods, nn.Module):
    """Base of the methods that turn a frozen teacher into images.

    A method is plain PyTorch, independent of trainer, data and other stages. All its state is a registered parameter or
    buffer of the *global* synthesis batch, so ``state_dict`` can be taken in the middle of a round, and a run resumes
    on any number of ranks. The loop calls, in this order::

        build -> optimizers -> (start -> (forward -> [backward, step] -> after_step) x synthesis_steps -> finish)
        x rounds

    A subclass writes these methods; only :meth:`render` and :meth:`loss` are required:

    - :meth:`make`: its parameters and buffers; :meth:`make_optimizers`: their optimizers;
    - :meth:`begin`: values drawn for a block;
    - :meth:`render`: the images of a step; :meth:`loss`: the terms and the teacher's output;
    - :meth:`observe_step`, :meth:`keep_more`: state updated after a step and for the best step; :meth:`end`;
    - :meth:`stored_beside`, with :meth:`images_per_block`: images that a block stores beside the kept ones;
    - :meth:`render_sample`, :meth:`replay_loss`: for a ``live`` method;
    - :meth:`take_class_rows`: for a method with ``class_rows_from``;
    - :meth:`view`, :meth:`lr_factor`, :meth:`per_round`, :meth:`forgets`, :meth:`check_sample`: if the defaults do not
      suit.

    The final methods of the base: :meth:`build` allocates the kept images, :meth:`optimizers` refuses an optimizer that
    is never stepped and a parameter that no optimizer holds, :meth:`start` discards the images kept in the previous
    block, :meth:`forward` checks the first step's images, labels and terms, :meth:`after_step` keeps the best images
    and checks that a gradient reached every parameter of the first step, :meth:`sample` counts.

    Args:
        cadence: division of a round into synthesis and distillation.
        batch_size: images of a synthesis batch, over all ranks; a block has one batch, unless the cadence has more.
        augment: main view, the augmentation of synthetic images for the teacher; ``None`` disables it.
        selection: images of a block to keep: those of the step with the lowest total loss, with the lowest loss without
            the alignment term, or the last ones. Losses are averaged over ranks before they are compared.

    Attributes:
        card: facts about the method for ``lightning-condkd methods``; ``None`` leaves it out there.
        source: source of the student's synthetic images: ``bank`` stores the kept images of each block in the memory
            bank; with ``live``, :meth:`sample` renders images for every student step and none is stored.
        needs_embedding: whether :meth:`loss` uses the teacher's embedding, or :meth:`make` its size.
        class_rows_from: values of the classes, ``(K, D)``, that the method needs before its first block: the weights of
            the teacher's final linear layer (``teacher_head``) or the means of the condensed images' embeddings in the
            teacher (``class_means``); ``None`` for none. CondKD sets them; in a plain loop,
            :func:`~lightning_condkd.steps.give_class_rows` does. ``needs_embedding`` must be set too.
        channel_means_of: names of the teacher's modules whose inputs' channel means :meth:`loss` asks for; their widths
            are in the task's ``input_channels``.
        teacher_statistics: statistics by which the teacher's BatchNorm layers normalize in the student's steps:
            ``running`` for its own, ``batch`` for those of the global batch, condensed images included.
        balanced_labels: whether a block has equally many labels of every class, up to one.
        gradient_clip: largest norm of the gradient in a synthesis step; ``None`` for no limit.
        student_loss: the published method's loss for the student: ``kl`` for the divergence of predictions,
            ``logits_l1`` for the difference of logits, ``attention`` for the divergence and attention maps.
        student_temperature: the published temperature of the divergence; ``None`` for 20 where images are stored and 1
            where they are rendered for the step.
        student_mode: mode of the student in a synthesis step, that of the official code. With ``train``, its BatchNorm
            layers use the statistics of each rank's own synthetic batch, and their running statistics follow it:
            synthesis changes the student's buffers, never its weights.
        student_lr_floor: final learning rate of the student's default schedule, a cosine, as a share of the initial
            one: that of the official code where it has a cosine, else a thousandth, that of Fast.
        finish_steps: names of the optimizers that :meth:`end` may ask to be stepped.
    """

    finals: ClassVar[Mapping[str, str]] = {
        "build": "make(spec, generator)",
        "optimizers": "make_optimizers()",
        "set_class_rows": "take_class_rows(rows)",
        "start": "begin(unit, draw)",
        "forward": "render(unit, draw) and loss(synthetic, observe, student, unit, draw)",
        "after_step": "observe_step(synthetic, output, unit)",
        "keep": "keep_more(better)",
        "finish": "end(unit)",
        "check_reached": "make_optimizers()",
        "collect": "observe_step(synthetic, output, unit), which may return the images to keep, or stored_beside()",
        "sample": "render_sample(count, observe, unit, draw)",
    }
    card: ClassVar[MethodCard | None] = None
    source: Source = "bank"
    student_loss: StudentLoss = "kl"
    student_temperature: float | None = None
    student_mode: Mode = "eval"
    student_lr_floor: float = 1e-3
    needs_embedding: bool = False
    class_rows_from: ClassRows | None = None
    channel_means_of: Sequence[str] = ()
    teacher_statistics: Literal["running", "batch"] = "running"
    balanced_labels: bool = False
    gradient_clip: float | None = None
    finish_steps: Sequence[str] = ()
    images_sampled: Tensor
    kept_images: Tensor
    kept_labels: Tensor
    kept_loss: Tensor
    has_class_rows: Tensor

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

    @final
    def build(self, spec: TaskSpec, generator: torch.Generator) -> None:
        """Create parameters and buffers, see :meth:`make`.

        Args:
            spec: shapes of the task.
            generator: source of the initial values.
        """
        check_initialized(self, "super().__init__(cadence, batch_size)")
        self.register_buffer("kept_images", torch.zeros(self.batch_size, *spec.image_shape))
        self.register_buffer("kept_labels", torch.zeros(self.batch_size, dtype=torch.long))
        self.register_buffer("kept_loss", torch.tensor(torch.inf))
        self.register_buffer("images_sampled", torch.zeros((), dtype=torch.long))
        if self.class_rows_from is not None:
            self.register_buffer("has_class_rows", torch.zeros((), dtype=torch.bool))
        self._spec, self._trained, self._has_terms = spec, dict[str, list[str]](), False
        self._unchecked = {"forward", "sample"}  # checks that are due in the first unit
        self.make(spec, generator)

    def make(self, spec: TaskSpec, generator: torch.Generator) -> None:
        """Create the method's own parameters and buffers; none by default.

        Args:
            spec: shapes of the task.
            generator: source of the initial values.
        """

    @final
    def optimizers(self) -> dict[str, Optimizer]:
        """Return the optimizers by name, see :meth:`make_optimizers`.

        Raises:
            RuntimeError: before :meth:`build`.
            ValueError: if an optimizer is never stepped or holds a parameter that is not the method's, or no optimizer
                holds a parameter that is to be trained.
        """
        if "_spec" not in vars(self):
            raise RuntimeError(f"{type(self).__name__}: call build(spec, generator) before optimizers()")
        optimizers = self.make_optimizers()
        replays = self.source == "live" and type(self).replay_loss is not Inversion.replay_loss
        known = ("synthesis", *(["replay"] if replays else []), *self.finish_steps)
        check_optimizers(self, optimizers, known, self.per_round())
        self._trained = {name: names_held(self, optimizer) for name, optimizer in optimizers.items()}
        self._unchecked |= self._trained.keys()
        return optimizers

    def make_optimizers(self) -> dict[str, Optimizer]:
        """Return the optimizers by name; none by default.

        ``synthesis`` is stepped on the loss of :meth:`loss`, ``replay`` on that of :meth:`replay_loss`, and those named
        in ``finish_steps`` when :meth:`end` returns their names.
        """
        return {}

    def per_round(self) -> list[nn.Parameter]:
        """Return the parameters whose optimizer state is reset at :meth:`start`."""
        return []

    def forgets(self, unit: Unit) -> list[nn.Parameter]:
        """Return the parameters whose optimizer state is reset before a synthesis step.

        By default they are those of :meth:`per_round` before the first step of a block, else none.

        Args:
            unit: the current unit.
        """
        return self.per_round() if unit.first else []

    def lr_factor(self, unit: Unit) -> float:
        """Return the factor of the learning rates of ``synthesis`` at a unit.

        Args:
            unit: the current unit.
        """
        return 1.0

    def lacks_class_rows(self) -> bool:
        """Return whether the method needs values of the classes that are not set yet, see ``class_rows_from``."""
        return self.class_rows_from is not None and not bool(self.has_class_rows)

    @final
    @torch.no_grad()
    def set_class_rows(self, rows: Tensor) -> None:
        """Set the values of the classes, unless they are set already, as in a resumed run.

        Args:
            rows: ``(K, D)``, from the source that ``class_rows_from`` names.

        Raises:
            ValueError: if they have another shape, NaN or infinity, or two classes have the same row.
        """
        if self.lacks_class_rows():
            what = f"{type(self).__name__}: {self.class_rows_from}"
            check_class_rows(what, rows, self._spec.num_classes, self._spec.embedding_size)
            self.take_class_rows(rows)
            self.has_class_rows.fill_(True)

    def take_class_rows(self, rows: Tensor) -> None:
        """Store what the method uses of the values of the classes in a buffer, without graph.

        Args:
            rows: ``(K, D)``.
        """
        raise NotImplementedError(f"{type(self).__name__}.take_class_rows: write what becomes of the rows")

    @final
    @torch.no_grad()
    def start(self, unit: Unit, draw: Draw) -> None:
        """Begin a block: discard the images kept in the previous block, see :meth:`begin`.

        Args:
            unit: the first synthesis unit of the block.
            draw: randomness of the unit.

        Raises:
            ValueError: if values of the classes are needed and not set.
        """
        if self.lacks_class_rows():
            raise ValueError(
                f"{type(self).__name__} needs values of the classes ({self.class_rows_from}) before its first block: "
                "call steps.give_class_rows(inversion, teacher, condensed) once after build"
            )
        self.kept_loss.fill_(torch.inf)
        self.begin(unit, draw)

    def begin(self, unit: Unit, draw: Draw) -> None:
        """Draw the initial values of a block, without graph; nothing by default.

        Args:
            unit: the first synthesis unit of the block.
            draw: randomness of the unit.
        """

    @final  # type: ignore[misc]  # torch declares it as an attribute
    def forward(self, observe: Observe, student: Observe, unit: Unit, draw: Draw) -> SynthesisLoss:
        """Return the images of a synthesis step and their loss, see :meth:`render` and :meth:`loss`.

        Args:
            observe: the frozen teacher.
            student: the student, in the mode of ``student_mode``.
            unit: the current unit.
            draw: randomness of the unit.

        Raises:
            TypeError: if a hook returns a wrong type.
            ValueError: in the first step, if images, labels or terms are invalid.
        """
        synthetic = self.render(unit, draw)
        rows = len(range(self.batch_size)[draw.rows])
        if first := "forward" in self._unchecked:
            check_synthetic(f"{type(self).__name__}.render", synthetic, rows, self._spec)
            self._shares_memory = shares_memory(self, synthetic.images)
        if self._shares_memory:  # else the step would change the images that its loss was computed on
            synthetic = synthetic._replace(images=synthetic.images.clone())
        teacher, pupil = (
            RequestedNetwork(one, type(self).__name__, self.needs_embedding) for one in (observe, student)
        )
        found = self.loss(synthetic, teacher, pupil, unit, draw)
        if first:
            trains = "synthesis" in self._trained and torch.is_grad_enabled()
            check_loss(self, found, rows, self._spec.num_classes, trains)
            self._unchecked.discard("forward")
        terms, output = found
        self._has_terms = bool(terms.values)
        return SynthesisLoss(synthetic, terms, NetworkOutput(*output))

    def render(self, unit: Unit, draw: Draw) -> Synthetic:
        """Return this rank's rows of the global synthesis batch, with their graph.

        Args:
            unit: the current unit.
            draw: randomness of the unit; ``draw.rows`` are this rank's.
        """
        raise NotImplementedError(f"{type(self).__name__}.render: write which images a step has")

    def loss(
        self, synthetic: Synthetic, observe: Observe, student: Observe, unit: Unit, draw: Draw
    ) -> tuple[LossTerms, NetworkOutput]:
        """Return the named terms and the teacher's output on the main view.

        Args:
            synthetic: result of :meth:`render`.
            observe: the frozen teacher.
            student: the student, in the mode of ``student_mode``.
            unit: the current unit.
            draw: randomness of the unit.
        """
        raise NotImplementedError(f"{type(self).__name__}.loss: write which terms a step minimises")

    def view(self, images: Tensor, unit: Unit, draw: Draw, purpose: str = "view") -> Tensor:
        """Return the main view of local rows of a global batch.

        Args:
            images: ``(N / world_size, C, H, W)``, pixels in the units of [0, 1].
            unit: the current unit.
            draw: randomness of the unit.
            purpose: name of the stream of augmentation parameters.
        """
        return images if self.augment is None else self.augment.view(images, draw, purpose)

    @final
    @torch.no_grad()
    def after_step(
        self, synthetic: Synthetic, output: NetworkOutput, inversion_loss: Tensor, total_loss: Tensor, unit: Unit
    ) -> None:
        """Process a finished step: keep its images if they are the best so far. Its gradients are still in place.

        Args:
            synthetic: the images that the loss was computed on, with labels.
            output: the teacher's output on their main view.
            inversion_loss: the method's own loss, scalar.
            total_loss: the loss that was minimised, alignment included, scalar.
            unit: the current unit.

        Raises:
            ValueError: if no gradient reached a parameter in the first step.
        """
        if self._has_terms:
            self.check_reached("synthesis")
        synthetic = self.observe_step(synthetic, output, unit) or synthetic
        loss = mean_over_ranks(inversion_loss if self.selection == "inversion_loss" else total_loss)
        better = torch.ones_like(loss, dtype=torch.bool) if self.selection == "last" else loss < self.kept_loss
        labels = output.logits.argmax(1) if synthetic.labels is None else synthetic.labels
        self.keep(better, Synthetic(synthetic.images, labels))
        self.kept_loss.copy_(torch.where(better, loss, self.kept_loss))

    def observe_step(self, synthetic: Synthetic, output: NetworkOutput, unit: Unit) -> Synthetic | None:
        """Process a finished step before its images are compared, without graph; its gradients are still in place.

        Args:
            synthetic: the images that the loss was computed on, with labels.
            output: the teacher's output on their main view.
            unit: the current unit.

        Returns:
            The images and labels to keep instead of the given ones; ``None`` keeps the given ones.
        """
        return None

    @final
    @torch.no_grad()
    def keep(self, better: Tensor, synthetic: Synthetic) -> None:
        """Keep the images of a step if they are the best of the block so far.

        Args:
            better: whether they are, a boolean scalar, the same on every rank.
            synthetic: this rank's images and labels.
        """
        labels = cast(Tensor, synthetic.labels)
        self.kept_images.copy_(torch.where(better, gather_rows(synthetic.images), self.kept_images))
        self.kept_labels.copy_(torch.where(better, gather_rows(labels), self.kept_labels))
        self.keep_more(better)

    def keep_more(self, better: Tensor) -> None:
        """Store other values that belong to the best step of a block; nothing by default.

        Args:
            better: whether the step is the best so far, a boolean scalar, the same on every rank.
        """

    @final
    @torch.no_grad()
    def finish(self, unit: Unit) -> Sequence[str]:
        """End a block, see :meth:`end`.

        Args:
            unit: the last synthesis unit of the block.

        Returns:
            Names of the optimizers to step now, whose gradients the method wrote itself.

        Raises:
            ValueError: if one is not declared in ``finish_steps`` or has no gradient.
        """
        names = self.end(unit)
        check_finished(self, names, self.finish_steps)
        for name in names:
            self.check_reached(name)
        return names

    @final
    def check_reached(self, name: str) -> None:
        """Check, the first time, that a gradient reached every parameter of an optimizer.

        Args:
            name: the optimizer, whose gradients are in place.

        Raises:
            ValueError: if a parameter has no gradient.
        """
        if name in self._unchecked:
            check_gradients(self, name, self._trained[name])
            self._unchecked.discard(name)

    def end(self, unit: Unit) -> Sequence[str]:
        """Finish a block, without graph; nothing by default.

        Args:
            unit: the last synthesis unit of the block.

        Returns:
            Names out of ``finish_steps`` of the optimizers to step now, whose gradients the method wrote itself.
        """
        return ()

    def images_per_block(self) -> int:
        """Return the number of images that a block stores, over all ranks: by default the synthesis batch."""
        return self.batch_size

    def stored_beside(self) -> Synthetic | None:
        """Return images of the block, with labels, to store beside the kept ones, the same on every rank; none by
        default.
        """
        return None

    @final
    def collect(self) -> Synthetic:
        """Return the kept images of the block, for the whole global batch, and what is stored beside them.

        Raises:
            ValueError: if no kept step had a finite loss, or there are not :meth:`images_per_block`.
        """
        if not bool(self.kept_loss.isfinite()):
            raise ValueError(
                f"the loss of every kept step is {float(self.kept_loss)}, so no image of the block is of use: lower "
                "the learning rate or the weights of the synthesis"
            )
        images, labels = self.kept_images, self.kept_labels
        if (beside := self.stored_beside()) is not None:
            images = torch.cat([images, beside.images])
            labels = torch.cat([labels, cast(Tensor, beside.labels)])
        if len(images) != (expected := self.images_per_block()):
            name = type(self).__name__
            raise ValueError(
                f"{name}: expected {expected} images of a block, as {name}.images_per_block() says, got {len(images)}: "
                "write it together with stored_beside()"
            )
        return Synthetic(images, labels)

    # --- methods whose images are rendered for every student step ----------------------------------------------------

    @final
    @torch.no_grad()
    def sample(self, count: int, observe: Observe, unit: Unit, draw: Draw) -> Synthetic:
        """Return this rank's rows of the synthetic images of a student step, and count them; for ``live`` methods.

        Args:
            count: synthetic images in the global batch.
            observe: the frozen teacher.
            unit: the current distillation unit.
            draw: randomness of the unit.
        """
        synthetic = self.render_sample(count, observe, unit, draw)
        if "sample" in self._unchecked:
            rows = len(range(count)[draw.rows])
            check_synthetic(f"{type(self).__name__}.render_sample", synthetic, rows, self._spec)
            self._unchecked.discard("sample")
        self.images_sampled += count
        return synthetic

    def render_sample(self, count: int, observe: Observe, unit: Unit, draw: Draw) -> Synthetic:
        """Return this rank's rows of the synthetic images of a student step, without graph; for ``live`` methods.

        Args:
            count: synthetic images in the global batch.
            observe: the frozen teacher.
            unit: the current distillation unit.
            draw: randomness of the unit.
        """
        raise NotImplementedError(f"{type(self).__name__} stores its images in the bank and samples none")

    def check_sample(self, count: int, world_size: int) -> None:
        """Check before a run that :meth:`sample` can render a number of images; by default it can render any.

        Args:
            count: synthetic images in the global batch.
            world_size: number of processes.

        Raises:
            ValueError: if the method cannot divide them into its parts, or its parts among the processes.
        """

    def replay_loss(self, synthetic: Synthetic, observe: Observe, unit: Unit, draw: Draw) -> LossTerms | None:
        """Return the loss of the optimizer ``replay`` after a student step; ``None`` without one.

        Args:
            synthetic: result of :meth:`sample` for the student step.
            observe: the frozen teacher.
            unit: the current distillation unit.
            draw: randomness of the unit.
        """
        return None
