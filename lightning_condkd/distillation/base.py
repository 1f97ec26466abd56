"""Base class of the losses that train the student."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

from lightning_condkd.augment import Augment
from lightning_condkd.distillation.inputs import NEEDS, LossContext, LossInput, LossSpec, NetworkShapes
from lightning_condkd.distillation.parts.compared_maps import ComparedMaps
from lightning_condkd.messages import listed
from lightning_condkd.models import Observer
from lightning_condkd.models.checks import output_shapes
from lightning_condkd.models.heads import ClassifierHead
from lightning_condkd.randomness import Draw, seeded_generator, seeded_initialization
from lightning_condkd.subclassing import FinalMethods, check_initialized
from lightning_condkd.types import LossTerms, NetworkOutput


class DistillationLoss(FinalMethods, ComparedMaps, nn.Module):
    """Base of the losses that compare student and teacher on the same batch.

    A subclass writes:

    - :meth:`forward`: the loss, a scalar or named terms with their weights;
    - the attributes below, for what it uses in addition to the logits;
    - :meth:`make`, if it has parameters or buffers of its own. Its parameters are trained in the student's step;
    - :meth:`parameter_groups`, if they need settings other than the student's;
    - :meth:`predictor`, if it changes how the student predicts.

    The final methods of the base: :meth:`build` computes the shapes and calls :meth:`make`; ``loss(student, teacher,
    labels)`` raises if an undeclared value is read or a declared one is missing, or if the result is no scalar or gives
    no gradient to student and own parameters.

    Attributes:
        needs_embedding: whether both outputs must carry the penultimate embedding.
        teacher_maps: names of the teacher's modules whose outputs its record must carry.
        student_maps: names of the student's modules, likewise.
        needs_labels: whether classes are used; a run takes the teacher's prediction where none are known.
        accepts_soft_labels: whether labels may be probabilities ``(N, K)``, as of images that are mixtures.
        needs_teacher_head: whether :attr:`teacher_head` is used.
        needs_student_head: whether ``self.context.student_head`` is used.
        needs_class_means: whether :attr:`class_means` is used.
        needs_slots: whether ``self.context.slots`` is used.
        needs_progress: whether ``self.context.progress`` is used, so that the run must have an end.
        needs_teacher_graph: whether gradients of the teacher's logits with respect to its maps are used.
        needs_draw: whether random numbers are drawn in train mode, from :attr:`draw`.
        second_view: augmentation of a second view of the images, for ``self.context.second``; ``None`` without one.
        context: facts of the current step, see :class:`LossContext`.

    Example:
        >>> class Squared(DistillationLoss):
        ...     def forward(self, student, teacher, labels=None):
        ...         return (student.logits - teacher.logits).square().mean()
        >>> Squared()(NetworkOutput(torch.zeros(1, 2)), NetworkOutput(torch.ones(1, 2)))
        tensor(1.)
        >>> class Regressed(DistillationLoss):
        ...     needs_embedding = True
        ...     def make(self, spec):
        ...         self.regressor = nn.Linear(spec.student.embedding_size, spec.teacher.embedding_size)
        ...     def forward(self, student, teacher, labels=None):
        ...         return (self.regressor(student.embedding) - teacher.embedding).square().mean()
        >>> from lightning_condkd.models import DigitsNet
        >>> teacher, student = Observer(DigitsNet(width=8)).freeze(), Observer(DigitsNet(width=4))
        >>> loss = Regressed().build(teacher, student, image_shape=(1, 8, 8))
        >>> images = torch.rand(2, 1, 8, 8)
        >>> loss(student(images, embedding=True), teacher(images, embedding=True)).backward()
        >>> loss.regressor.weight.grad.shape
        torch.Size([16, 8])
    """

    finals: ClassVar[Mapping[str, str]] = {
        "__call__": "forward(student, teacher, labels)",
        "terms": "forward(student, teacher, labels)",
        "build": "check_shapes(spec) and make(spec)",
        "check_reached": "parameter_groups()",
        "set_class_means": "forward(student, teacher, labels), which may read class_means",
    }
    unrecorded: ClassVar[tuple[str, ...]] = (*NEEDS, "accepts_soft_labels")
    """Attributes that are no settings of a run."""
    needs_embedding: bool = False
    needs_labels: bool = False
    accepts_soft_labels: bool = False
    needs_teacher_head: bool = False
    needs_student_head: bool = False
    needs_class_means: bool = False
    needs_slots: bool = False
    needs_progress: bool = False
    needs_teacher_graph: bool = False
    needs_draw: bool = False
    second_view: Augment | None = None
    _unchecked: bool = True
    context: LossContext = LossContext()
    spec: LossSpec | None = None
    teacher_head: ClassifierHead
    """Frozen copy of the teacher's final layer, from embeddings to logits."""
    class_means: Tensor
    """Mean of the teacher's embeddings for each class, ``(K, D)``."""

    def __setattr__(self, name: str, value: Any) -> None:  # noqa: ANN401 - of any attribute
        super().__setattr__(name, value)
        if name in vars(self).get("_modules", ()) and getattr(self, name) is not value:
            self.__dict__[name] = value  # torch keeps modules where a default of the class, such as None, hides them

    @final
    def build(
        self,
        teacher: Observer,
        student: Observer,
        image_shape: tuple[int, int, int],
        *,
        slots: int = 0,
        generator: torch.Generator | None = None,
    ) -> DistillationLoss:
        """Create the loss's parameters and buffers for two networks, see :meth:`make`.

        Args:
            teacher: the frozen teacher.
            student: the student.
            image_shape: ``(C, H, W)`` of the images in pixels.
            slots: number of different images in the run, for a loss with ``needs_slots``.
            generator: source of the initial values; ``None`` for a fixed seed.

        Returns:
            The loss.

        Raises:
            ValueError: if a network lacks a declared module or layer, or fails on such images.
        """
        check_initialized(self, "super().__init__()")
        self.resolve_maps(teacher, student)
        asked = {"embedding": self.needs_embedding}
        shapes = {
            name: NetworkShapes(*output_shapes(f"{type(self).__name__}: {name}", network, image_shape, maps, **asked))
            for name, network, maps in (
                ("teacher", teacher, self.teacher_maps),
                ("student", student, self.student_maps),
            )
        }
        self.spec = LossSpec(image_shape, teacher.num_classes, shapes["teacher"], shapes["student"], slots)
        self.check_shapes(self.spec)
        if self.needs_teacher_head and not self.inner_losses():
            self.teacher_head = teacher.copy_head().requires_grad_(False)
        if self.needs_class_means and not self.inner_losses():
            self.register_buffer("class_means", torch.zeros(teacher.num_classes, teacher.embedding_size))
            self.register_buffer("has_class_means", torch.zeros((), dtype=torch.bool))
        with seeded_initialization(seeded_generator(0, "distillation") if generator is None else generator):
            self.make(self.spec)
        for inner in self.inner_losses():
            inner.build(teacher, student, image_shape, slots=slots, generator=generator)
        self.after_build()
        return self

    def after_build(self) -> None:
        """Finish :meth:`build`, when inner losses are built too; nothing by default."""

    def inner_losses(self) -> list[DistillationLoss]:
        """Return the losses that this one is composed of; none unless it is a
        :class:`~lightning_condkd.distillation.composed.ComposedLoss`.
        """
        return []

    def lacks_class_means(self) -> bool:
        """Return whether the loss needs class means that are not set yet."""
        held = [
            loss for loss in self.modules() if isinstance(loss, DistillationLoss) and "class_means" in loss._buffers
        ]
        return any(not bool(loss.has_class_means) for loss in held)

    def check_shapes(self, spec: LossSpec) -> None:
        """Check that the outputs can be compared; called by :meth:`build` before :meth:`make`; nothing by default.

        Args:
            spec: shapes of the task.
        """

    @property
    def draw(self) -> Draw:
        """Randomness of the current step."""
        return self.context.draw or Draw(0, 0)

    def make(self, spec: LossSpec) -> None:
        """Create the loss's own parameters and buffers; none by default.

        Args:
            spec: shapes of the task.
        """

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the groups of own parameters for the student's optimizer, without those of the student.

        A group may have settings of its own, such as ``weight_decay``.
        """
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return [{"params": trained}] if trained else []

    def predictor(self, student: Observer) -> Observer:
        """Return the network that predicts after training: by default the student.

        Args:
            student: the student.
        """
        return student

    def summary(self) -> str:
        """Return the loss with its settings in one line."""
        return f"{type(self).__name__}({self.extra_repr()})"

    def changes_prediction(self) -> bool:
        """Return whether :meth:`predictor` is another network than the student."""
        return type(self).predictor is not DistillationLoss.predictor

    def other_predictors(self, student: Observer) -> Mapping[str, Callable[[Tensor], Tensor]]:
        """Return slower ways to predict that a test measures too, by name; none by default.

        Args:
            student: the student.

        Returns:
            Functions from images ``(N, C, H, W)``, pixels in the units of [0, 1], to logits ``(N, K)``.
        """
        return {}

    @final
    def check_reached(self) -> None:
        """Check after the first step that a gradient reached every parameter of the loss.

        Raises:
            ValueError: if a parameter has no gradient.
        """
        if not self._unchecked:
            return
        trained = [(name, parameter) for name, parameter in self.named_parameters() if parameter.requires_grad]
        if unreached := [name for name, parameter in trained if parameter.grad is None]:
            raise ValueError(
                f"{type(self).__name__}: no gradient reached {listed(unreached)} in the first step, so nothing trains "
                "it: use it in forward, do not make it, or freeze it with requires_grad_(False)"
            )
        self._unchecked = False

    @final
    def set_class_means(self, means: Tensor) -> None:
        """Set :attr:`class_means`, unless they are set already, as in a resumed run.

        Args:
            means: mean of the teacher's embeddings for each class, ``(K, D)``.
        """
        for loss in self.modules():
            if isinstance(loss, DistillationLoss) and "class_means" in loss._buffers and not bool(loss.has_class_means):
                loss.class_means.copy_(means)
                loss.has_class_means.fill_(True)

    has_class_means: Tensor

    @final  # type: ignore[misc]  # torch declares it as an attribute
    def __call__(
        self,
        student: NetworkOutput,
        teacher: NetworkOutput,
        labels: Tensor | None = None,
        context: LossContext | None = None,
    ) -> Tensor:
        """Return the loss of a batch, a scalar, see :meth:`terms`."""
        return self.terms(student, teacher, labels, context).total()

    @final
    def terms(
        self,
        student: NetworkOutput,
        teacher: NetworkOutput,
        labels: Tensor | None = None,
        context: LossContext | None = None,
    ) -> LossTerms:
        """Return the named terms of a batch with their weights; a loss of one term calls it ``loss``.

        Args:
            student: output of the student, with a graph.
            teacher: output of the teacher on the same images.
            labels: classes, ``(N,)`` int64, or probabilities ``(N, K)`` for a loss that accepts them; ``None`` where
                unknown.
            context: facts of the step; ``None`` for a loss that needs none.

        Raises:
            RuntimeError: if the loss has parameters of its own and was not built.
            ValueError: if a value is missing or undeclared, or the loss is no scalar that depends on the student.
        """
        name = type(self).__name__
        self.context = LossContext() if context is None else context
        self._check_given(labels)
        found = super().__call__(LossInput(*student), LossInput(*teacher), labels)
        terms = found if isinstance(found, LossTerms) else LossTerms({"loss": _scalar(name, found)}, {"loss": 1.0})
        if student.logits.requires_grad and torch.is_grad_enabled() and not terms.total().requires_grad:
            raise ValueError(
                f"{name}.forward: no gradient of the loss reaches the student: compute it from student.logits, or from "
                "what else the loss declares, without detach, argmax or no_grad"
            )
        self.context = LossContext()
        return terms

    def forward(
        self, student: NetworkOutput, teacher: NetworkOutput, labels: Tensor | None = None
    ) -> Tensor | LossTerms:
        """Return the loss of a batch; a subclass implements this.

        Args:
            student: output of the student, with a graph.
            teacher: output of the teacher on the same images.
            labels: classes, ``(N,)`` int64; ``None`` where unknown.

        Returns:
            A scalar, or named terms with their weights.
        """
        raise NotImplementedError(f"{type(self).__name__}.forward: a distillation loss must implement forward.")

    def _check_given(self, labels: Tensor | None) -> None:
        name, given = type(self).__name__, self.context
        if self.spec is None and self.must_be_built():
            raise RuntimeError(f"{name}: call build(teacher, student, image_shape) before the first step")
        if self.needs_labels and labels is None:
            raise ValueError(f"{name} needs labels: give classes (N,), such as teacher.logits.argmax(1)")
        if self.needs_labels and labels is not None and labels.dim() == 2 and not self.accepts_soft_labels:
            raise ValueError(f"{name} takes classes (N,), got probabilities {tuple(labels.shape)}: give their argmax")
        lacking = {
            "slots": self.needs_slots and given.slots is None,
            "second": self.second_view is not None and given.second is None,
            "student_head": self.needs_student_head and given.student_head is None,
            "draw": self.needs_draw and self.training and given.draw is None,
        }
        if missing := [what for what, lacks in lacking.items() if lacks]:
            raise ValueError(f"{name} needs {', '.join(missing)}: pass them as LossContext({missing[0]}=...)")
        if "class_means" in self._buffers and not bool(self.has_class_means):
            raise ValueError(f"{name} needs class means: call set_class_means(means) with those of the teacher")

    def must_be_built(self) -> bool:
        """Return whether the loss has to be built before its first step."""
        if self.lacks_maps():
            return True
        return type(self).make is not DistillationLoss.make or self.needs_teacher_head or self.needs_class_means


def _scalar(name: str, loss: object) -> Tensor:
    if not isinstance(loss, Tensor) or loss.dim():
        got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(f"{name}.forward: expected a scalar tensor, got {got}; return the mean over the batch")
    return loss
