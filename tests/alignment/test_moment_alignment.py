from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from lightning_condkd.alignment import (
    Alignment,
    CharacteristicFunction,
    ClassMeans,
    GaussianMMD,
    MomentAlignment,
    MomentDistance,
)
from lightning_condkd.data import TransferSet
from lightning_condkd.inversion import Contrastive
from lightning_condkd.models import Observer
from lightning_condkd.models.taps import convolutions
from lightning_condkd.modules import CondKD
from lightning_condkd.randomness import Draw, seeded_generator
from lightning_condkd.rounds import Cadence
from lightning_condkd.steps import OptimizerTurns, SynthesisStep, synthesize
from lightning_condkd.types import LossTerms, NetworkOutput
from tests.helpers import contract, toy
from tests.reference import moments as reference

LABELS, CONDENSED_LABELS = torch.tensor([0, 1, 2, 0, 2, 1]), torch.arange(3).repeat(3)
DISTANCES = [GaussianMMD(), ClassMeans(), CharacteristicFunction(frequencies=16)]
STEP = Draw(0, 0)
every_distance = pytest.mark.parametrize("distance", DISTANCES, ids=lambda one: type(one).__name__)


def _output(name: str, rows: int = 6) -> NetworkOutput:
    generator = seeded_generator(0, name)
    logits, embedding = (torch.randn(rows, n, generator=generator, dtype=torch.float64) for n in (3, 5))
    return NetworkOutput(logits.requires_grad_(), embedding.requires_grad_())


def _alignment(distance: MomentDistance | None = None, **arguments: Any) -> MomentAlignment:
    alignment = MomentAlignment(distance, **{"features": "embedding", **arguments})
    alignment.build(toy.spec(), seeded_generator(0, "alignment"))
    real = NetworkOutput(*(cast(Tensor, one).detach() for one in _output("real", len(CONDENSED_LABELS))[:2]))
    alignment.remember("toy", real, CONDENSED_LABELS)
    return alignment


def test_terms_and_weights_follow_the_formulas() -> None:
    alignment, output = _alignment(weight=7.0, logits_weight=2.0), _output("fake")
    terms = alignment(output, LABELS, 0, STEP)
    real, classes = alignment.condensed
    rows = {"fake": (output, LABELS), "real": (real, classes)}

    def of_class(name: str, label: int) -> reference.Rows:
        where, own = rows[name]
        return reference.by_class(where.embedding.tolist(), own.tolist(), label)

    own = [reference.mmd(of_class("fake", c), of_class("real", c), (0.1, 1.0, 5.0, 10.0)) for c in LABELS.tolist()]
    assert float(terms.values["alignment"]) == pytest.approx(sum(own) / len(own), abs=1e-12)
    logits = reference.logits_loss(output.logits.tolist(), LABELS.tolist(), real.logits.tolist(), classes.tolist())
    assert float(terms.values["alignment_logits"]) == pytest.approx(logits, abs=1e-12)
    assert terms.weights == {"alignment": 7.0, "alignment_logits": 2.0}


@every_distance
def test_gradient_reaches_the_synthetic_features_and_no_other(distance: MomentDistance) -> None:
    alignment, output = _alignment(distance), _output("fake")
    alignment(output, LABELS, 0, STEP).total().backward()
    assert output.embedding is not None
    assert output.embedding.grad is not None
    assert float(output.embedding.grad.abs().amax(1).min()) > 0
    assert output.logits.grad is None
    assert alignment.condensed[0].embedding.grad is None


def test_preset_is_that_of_the_code() -> None:
    preset = MomentAlignment.pgdi()
    assert (preset.weight, preset.logits_weight, preset.compared) == (100.0, 1.0, "convolutions")
    assert preset.distance == GaussianMMD((0.1, 1.0, 5.0, 10.0))
    assert MomentAlignment.pgdi(weight=3.0).weight == 3.0


def test_weights_rise_over_the_ramp() -> None:
    alignment = _alignment(weight=4.0, logits_weight=2.0, ramp_rounds=2)
    seen = [alignment(_output("fake"), LABELS, round_, STEP).weights for round_ in range(4)]
    assert [one["alignment"] for one in seen[1:]] == [2.0, 4.0, 4.0]
    assert [one["alignment_logits"] for one in seen[1:]] == [1.0, 2.0, 2.0]


def test_frequencies_are_those_of_the_step() -> None:
    alignment, output = _alignment(CharacteristicFunction(frequencies=4)), _output("fake")
    values = [float(alignment(output, LABELS, 0, Draw(0, step)).total()) for step in (0, 0, 1)]
    assert values[0] == values[1] != values[2]


def test_convolutions_of_the_teacher_are_compared() -> None:
    teacher = toy.observed(toy.network("teacher")).freeze()
    asked = MomentAlignment().asks(teacher.network)
    assert asked == {"channel_means": tuple(convolutions(teacher.network))}
    named = MomentAlignment(features=["features.3"]).asks(teacher.network)
    assert named == {"channel_means": ("features.3",)}
    output = teacher(torch.rand(4, *toy.SHAPE), **asked)
    assert torch.equal(MomentAlignment().features(output), output.channel_means)


@every_distance
def test_images_move_toward_the_condensed_ones_of_their_class(distance: MomentDistance) -> None:
    """A synthesis by the alignment alone; its control is the same one away from another class."""
    run = contract.built("Fast"), _with_distance(distance)
    before, after = _distances(*run)
    assert after < 0.9 * before


def _with_distance(distance: MomentDistance) -> MomentAlignment:
    alignment = MomentAlignment(distance, weight=100.0)
    alignment.build(toy.spec(), seeded_generator(0, "alignment"))
    return alignment


def _distances(inversion: Any, alignment: MomentAlignment) -> tuple[float, float]:
    inversion.class_weight = inversion.bn_weight = inversion.adversarial_weight = 0.0
    teacher, student = toy.observed(toy.network("teacher")).freeze(), toy.observed(toy.network("student 1")).eval()
    transfer = TransferSet(toy.condensed_set(), batch_size=8)
    step = SynthesisStep(teacher, student, inversion, alignment, transfer)
    turns, found = OptimizerTurns(inversion.optimizers()), []
    for number in range(12):
        for unit in (inversion.cadence.unit(number, position) for position in range(3)):
            (update,) = step.take(unit, Draw(0, unit.counter), turns)
            found.append(float(update.losses["alignment"]))
        step.finish(unit, turns)
    return sum(found[:6]) / 6, sum(found[-6:]) / 6


@pytest.mark.parametrize("name", contract.methods())
def test_every_method_takes_it(name: str) -> None:
    """CMI asks the teacher for other channel means than the alignment, which then looks by itself."""
    model = toy.condkd(contract.make(name), MomentAlignment(logits_weight=1.0))
    run = toy.fit(model, mix=contract.mix(model.inversion), max_epochs=2)
    names = convolutions(run.model.teacher.network)
    width = sum(run.model.teacher.network.get_submodule(one).in_channels for one in names)  # type: ignore[misc]
    assert run.model.alignment is not None
    assert run.model.alignment.condensed[0].channel_means.shape == (6, width)  # type: ignore[union-attr]
    assert 0 <= run.metrics["synthesis/alignment"] < 8  # the largest MMD of four kernels
    assert run.metrics["synthesis/alignment_logits"] > 0


def test_the_alignment_sees_the_method_s_view() -> None:
    """One pass for both, and a pass of its own where they ask for different values: the same loss."""
    seen = []
    for width in ("embedding", "batch_norm"):
        contrastive = Contrastive(ring_size=20, ring_draws=8, head_size=4, features=width)
        method = contract.make("CMI", contrastive=contrastive, cadence=Cadence(1, 1))
        run = toy.fit(toy.condkd(method, MomentAlignment(weight=1e-30)), max_epochs=1)
        seen.append(run.metrics)
    assert seen[0]["synthesis/alignment"] == pytest.approx(seen[1]["synthesis/alignment"], rel=1e-5)


def test_a_bare_loop_notices_another_condensed_set() -> None:
    inversion, alignment = contract.built("Fast"), _with_distance(GaussianMMD())
    teacher, student = toy.observed(toy.network("teacher")).freeze(), toy.observed(toy.network("student 1")).eval()
    seen: list[Tensor] = []
    for name in ("condensed", "other"):
        transfer = TransferSet(toy.condensed_set(name), batch_size=8)
        synthesize(inversion, inversion.optimizers(), teacher, student, 0, alignment=alignment, transfer_set=transfer)
        assert alignment.condensed[0].channel_means is not None
        seen.append(alignment.condensed[0].channel_means)
    assert not torch.equal(*seen)


def test_no_state_and_no_optimizer() -> None:
    run = toy.fit(toy.condkd(alignment=MomentAlignment()), max_epochs=2)
    assert not [name for name in run.model.state_dict() if name.startswith("alignment")]
    assert len(run.trainer.optimizers) == 3  # the student's, and Fast's two
    assert "synthesis/alignment" in run.metrics
    assert not [name for name in run.metrics if name.startswith("alignment/")]


def test_resume_in_mid_round_is_exact(tmp_path: Path) -> None:
    """The condensed features are in no checkpoint: a resumed run computes them anew."""

    def model() -> CondKD:
        return toy.condkd(toy.fast(), MomentAlignment(CharacteristicFunction(frequencies=8), logits_weight=1.0))

    keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    kept = {"callbacks": [keep], "enable_checkpointing": True, "default_root_dir": tmp_path}
    whole = toy.fit(model(), max_epochs=2, **kept)
    for unit in (2, 10):  # within the synthesis of the first and of the second round
        trainer = toy.silent_trainer(max_epochs=2, default_root_dir=tmp_path)
        data, resumed = toy.CondensedDataModule(toy.condensed_set(), batch_size=8), model()
        trainer.fit(resumed, data, ckpt_path=tmp_path / f"step={unit}.ckpt")
        assert toy.same(toy.Run(resumed, data.transfer_set.bank, trainer).state(), whole.state()), unit


def test_each_kind_of_weight_is_enough() -> None:
    assert not MomentAlignment(weight=0.0).active
    assert MomentAlignment(weight=0.0, logits_weight=1.0).active
    logits = toy.fit(toy.condkd(alignment=MomentAlignment(weight=0.0, logits_weight=1.0)), max_epochs=2)
    assert "synthesis/alignment_logits" in logits.metrics
    assert "synthesis/alignment" not in logits.metrics


def test_condensed_features_follow_the_precision_of_a_run() -> None:
    model = toy.condkd(alignment=MomentAlignment(GaussianMMD()))
    toy.fit(model, max_epochs=2, precision="bf16-mixed")
    assert model.alignment is not None
    assert model.alignment.condensed[0].channel_means.dtype == torch.float32  # type: ignore[attr-defined,union-attr]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "weight": ({"weight": -1.0}, "weight: expected zero"),
    "logits_weight": ({"logits_weight": -1.0}, "logits_weight: expected zero"),
    "features": ({"features": "conv"}, "features: expected 'convolutions', 'embedding' or a list of names"),
    "no features": ({"features": []}, "features: expected 'convolutions'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_arguments_are_refused(case: str) -> None:
    arguments, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        MomentAlignment(**arguments)


def test_wrong_distances_are_refused() -> None:
    with pytest.raises(TypeError, match="distance: expected a MomentDistance such as GaussianMMD"):
        MomentAlignment(GaussianMMD)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="bandwidths: expected at least one positive number"):
        GaussianMMD(())
    with pytest.raises(ValueError, match="frequencies: expected a positive count"):
        CharacteristicFunction(frequencies=0)
    with pytest.raises(ValueError, match="amplitude_share: expected a number from 0 to 1"):
        CharacteristicFunction(amplitude_share=1.5)


def test_a_teacher_without_what_is_compared_is_refused_at_setup() -> None:
    flat = Observer(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)))
    with pytest.raises(ValueError, match=r"has no nn.Conv2d: set features to 'embedding'"):
        toy.fit(toy.condkd(toy.fast(bn_weight=0.0), MomentAlignment(), teacher=flat), max_epochs=2)
    with pytest.raises(ValueError, match="the teacher has no module 'layer9'"):
        toy.fit(toy.condkd(alignment=MomentAlignment(features=["layer9"])), max_epochs=2)


class Own(Alignment):
    """A user's alignment: the squared distance to the mean embedding of all condensed images."""

    needs_condensed = True

    def loss(self, output: NetworkOutput, labels: Tensor, ramp: float, draw: Draw) -> LossTerms:
        mean = self.features(self.condensed[0]).mean(0)
        return LossTerms({"alignment": (self.features(output) - mean).square().mean()}, {"alignment": self.weight})


def test_an_alignment_of_ones_own() -> None:
    run = toy.fit(toy.condkd(alignment=Own(weight=2.0)), max_epochs=2)
    assert run.metrics["synthesis/alignment"] > 0
    plain = toy.fit(toy.condkd(), max_epochs=2)
    assert not torch.equal(run.bank.images, plain.bank.images)


def test_promises_of_the_base_class() -> None:
    with pytest.raises(TypeError, match=r"Bad.forward: Alignment.forward is final.*Write loss\(output, labels, ramp"):
        type("Bad", (Alignment,), {"forward": lambda self: None})
    forgetful = type("Forgetful", (Own,), {"needs_condensed": False})(weight=1.0)
    with pytest.raises(RuntimeError, match="Forgetful has no condensed samples to compare with: call remember"):
        toy.fit(toy.condkd(alignment=forgetful), max_epochs=2)
    scalar = type("Scalar", (Alignment,), {"loss": lambda self, output, *rest: output.logits.mean()})(weight=1.0)
    with pytest.raises(TypeError, match=r"Scalar.loss: expected LossTerms\(terms, weights\), got Tensor"):
        toy.fit(toy.condkd(alignment=scalar), max_epochs=2)
    unasked = type("Unasked", (Alignment,), {"loss": lambda self, output, *rest: output.channel_means})(weight=1.0)
    with pytest.raises(ValueError, match="the channel_means was read, but not asked for"):
        toy.fit(toy.condkd(alignment=unasked), max_epochs=2)
