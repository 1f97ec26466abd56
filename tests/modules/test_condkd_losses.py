"""What CondKD gives a distillation loss, and what it takes from one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lightning_condkd.augment import CropFlip, Mixup
from lightning_condkd.data import CondensedDataModule
from lightning_condkd.distillation import (
    AttentionDistillation,
    DistillationLoss,
    KLDistillation,
    LossContext,
    SimKD,
    WeightedLosses,
)
from lightning_condkd.inversion import NoInversion
from lightning_condkd.models import ProjectedNetwork
from lightning_condkd.rounds import Cadence
from lightning_condkd.steps.class_means import condensed_class_means
from lightning_condkd.types import LossTerms, NetworkOutput
from tests.helpers import contract, losses, toy

ROUNDS, WARMUP = 3, 1


class Seen(DistillationLoss):
    """Keeps what it is given."""

    def __init__(self, **needs: object) -> None:
        super().__init__()
        for name, value in needs.items():
            setattr(self, name, value)
        self.contexts: list[LossContext] = []
        self.labels: list[Tensor | None] = []

    def forward(self, student: NetworkOutput, teacher: NetworkOutput, labels: Tensor | None = None) -> LossTerms:
        self.contexts.append(self.context)
        self.labels.append(labels)
        gap = (student.logits - teacher.logits).square().mean()
        return LossTerms({"gap": gap, "size": student.logits.square().mean()}, {"gap": 1.0, "size": 0.1})


def seen(mix: str = "union", max_epochs: int = ROUNDS, mixing: Mixup | None = None, **needs: object) -> Seen:
    loss = Seen(**needs)
    toy.fit(toy.condkd(distillation=loss, mixing=mixing), mix=mix, max_epochs=max_epochs)
    return loss


def test_progress_rises_evenly_over_the_student_s_steps() -> None:
    steps = toy.CADENCE.distill_steps * (ROUNDS - WARMUP)
    progress = [context.progress for context in seen(needs_progress=True).contexts]
    assert progress == pytest.approx([step / steps for step in range(steps)])


def test_a_run_without_end_is_refused_for_a_loss_that_needs_progress() -> None:
    with pytest.raises(ValueError, match="Seen changes during the run, which has no end here"):
        seen(needs_progress=True, max_epochs=-1)


@pytest.mark.parametrize("mix", ["union", "two_term"])
def test_declared_values_are_given_and_no_others(mix: str) -> None:
    context = seen(mix, needs_slots=True, needs_student_head=True, second_view=CropFlip(2)).contexts[-1]
    assert context.slots is not None
    assert context.second is not None
    assert context.student_head is not None
    assert len(context.slots) == len(context.second[0].logits)
    assert int(context.slots.max()) < 6 + 3 * 12
    plain = seen(mix).contexts[-1]
    assert (plain.slots, plain.second, plain.student_head) == (None, None, None)


def test_terms_are_logged_and_weighted() -> None:
    run = toy.fit(toy.condkd(distillation=Seen()), max_epochs=2)
    gap, size, whole = (run.metrics[f"distillation/{name}"] for name in ("gap", "size", "loss"))
    assert whole == pytest.approx(gap + 0.1 * size, rel=1e-4)


def test_mixtures_have_the_teacher_s_labels_or_mixed_ones() -> None:
    hard, soft = seen(mixing=Mixup()).labels[-1], seen(mixing=Mixup(), accepts_soft_labels=True).labels[-1]
    assert hard is not None
    assert soft is not None
    assert hard.dtype == torch.int64
    assert soft.shape == (8, toy.CLASSES)
    torch.testing.assert_close(soft.sum(1), torch.ones(8))
    assert int((soft.amax(1) < 0.99).sum()) > 2


def test_class_means_are_those_of_the_condensed_set() -> None:
    model = losses.condkd("NormDirection")
    toy.fit(model, max_epochs=2)
    expected = condensed_class_means(model.teacher, toy.condensed_set())
    torch.testing.assert_close(model.distillation.class_means, expected)


def test_a_student_that_predicts_by_other_layers_is_the_adversary_with_them() -> None:
    model = losses.condkd(SimKD())
    toy.fit(model, max_epochs=ROUNDS)
    pupil = model.synthesis_step.student
    assert isinstance(pupil.network, ProjectedNetwork)  # type: ignore[attr-defined]
    counts = {int(value) for name, value in model.distillation.state_dict().items() if name.endswith("batches_tracked")}
    assert counts == {toy.CADENCE.distill_steps * (ROUNDS - WARMUP)}  # synthesis leaves the statistics alone


def test_zskt_compares_stages_where_they_pair() -> None:
    networks = {"teacher": losses.teacher(), "student": losses.network(2, "student")}
    assert isinstance(toy.condkd(contract.make("ZSKT"), **networks).distillation, AttentionDistillation)
    assert isinstance(toy.condkd(contract.make("DAFL"), **networks).distillation, KLDistillation)


def test_condensed_images_alone_have_slots_of_their_own() -> None:
    loss = Seen(needs_slots=True)
    model = toy.condkd(NoInversion(cadence=Cadence(0, 4)), distillation=loss)
    toy.silent_trainer(max_epochs=2).fit(model, CondensedDataModule(toy.condensed_set(), batch_size=8))
    assert loss.spec is not None
    assert loss.spec.slots == 6
    slots = [context.slots for context in loss.contexts]
    assert {int(slot) for one in slots if one is not None for slot in one} <= set(range(6))


def test_a_weight_of_zero_switches_a_loss_off() -> None:
    off = WeightedLosses({"kd": KLDistillation(), "crd": losses.make("CRD")}, {"crd": 0.0})
    assert not off.needs_slots
    alone = toy.fit(losses.condkd(KLDistillation()), max_epochs=2)
    assert toy.same(toy.student_of(alone), toy.student_of(toy.fit(losses.condkd(off), max_epochs=2)))
