"""Whole runs of the methods that render images for every student step."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_condkd.alignment import FeatureAlignment, ProjectionDiscriminator
from lightning_condkd.augment import CropFlip
from lightning_condkd.callbacks.condensed_only import CondensedOnlyBaseline
from lightning_condkd.data import CondensedDataModule
from lightning_condkd.distillation import KLDistillation, LogitsL1Distillation
from lightning_condkd.inversion import DFAD, DFQ, GeneratorSettings, LiveInversion
from lightning_condkd.inversion.dafl import DAFL
from lightning_condkd.inversion.zskt import ZSKT
from lightning_condkd.modules import CondKD
from lightning_condkd.randomness import Draw, seeded_generator
from lightning_condkd.rounds import Cadence, Unit
from lightning_condkd.types import NetworkOutput, Synthetic
from tests.helpers import toy

CADENCE = Cadence(synthesis_steps=1, distill_steps=3, repeats=2, warmup_rounds=1)
SHARE = "distillation/condensed_share"


def _live(kind: type[LiveInversion] = DFAD, **arguments: Any) -> LiveInversion:
    sizes = {"cadence": CADENCE, "batch_size": 12, "generator": GeneratorSettings(4, toy.LATENT, lr=0.01)}
    return kind(**{**sizes, **arguments})


def _condkd(kind: type[LiveInversion] = DFAD, weight: float | None = None, **arguments: Any) -> CondKD:
    alignment = None if weight is None else FeatureAlignment(ProjectionDiscriminator((16,)), weight=weight)
    return toy.condkd(_live(kind), alignment, **{"augment": None, **arguments})


@cache
def _plain(mix: str | float) -> toy.Run:
    return toy.fit(_condkd(), mix=mix)


@cache
def _aligned(weight: float) -> toy.Run:
    return toy.fit(_condkd(weight=weight), mix=0.25)


def _generator(run: toy.Run) -> dict[str, Tensor]:
    return dict(run.model.inversion.generator.named_parameters())


# --- mixes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mix", "synthetic"), [(0.0, 8), (0.25, 6), ("two_term", 4), (1.0, 0)])
def test_nothing_is_stored_and_every_image_counts(mix: str | float, synthetic: int) -> None:
    """Two rounds after the warm-up, two blocks of three student steps each, a batch of eight."""
    run = _plain(mix)
    assert len(run.bank) == run.bank.images_seen == 0
    assert run.model.images_synthesized == 2 * 2 * 3 * synthetic
    assert run.metrics[SHARE] == 1 - synthetic / 8
    assert run.metrics["bank/images"] == 0
    assert all(map(math.isfinite, run.metrics.values()))
    assert all(bool(value.isfinite().all()) for value in run.state().values())
    assert not toy.same(toy.student_of(run), dict(toy.network("student 1").state_dict()))
    assert run.model.teacher.fingerprint() == toy.observed(toy.network("teacher")).fingerprint()


def test_mixes_lead_to_different_students() -> None:
    weights = {bytes(_plain(mix).model.student.network.linear.weight.data.numpy()) for mix in (0.0, 0.25, "two_term")}
    assert len(weights) == 3


def test_a_union_is_refused_with_its_cure() -> None:
    model = _condkd()
    with pytest.raises(ValueError, match=r"DFAD renders images for every student step.*set data.mix to the share"):
        toy.fit(model, mix="union")
    assert toy.same(dict(model.student.network.state_dict()), dict(toy.network("student 1").state_dict()))


def test_a_method_told_to_store_feeds_the_bank() -> None:
    run = toy.fit(toy.condkd(_live(source="bank")), mix="union")
    assert len(run.bank) == run.model.images_synthesized == 3 * 2 * 12
    assert run.bank.rounds.tolist() == [0] * 24 + [1] * 24 + [2] * 24
    kept, labels = run.model.inversion.collect()
    assert torch.equal(run.bank.images[-12:], (kept.clamp(0, 1) * 255).round().byte())
    assert labels is not None
    assert torch.equal(run.bank.labels[-12:], labels)


# --- the student's step ----------------------------------------------------------------------------------------------


class Noting(KLDistillation):
    """Remembers what the student is taught."""

    def __init__(self) -> None:
        super().__init__(1.0)
        self.taught: list[tuple[Tensor, Tensor]] = []

    def forward(self, student: NetworkOutput, teacher: NetworkOutput, labels: Tensor | None = None) -> Tensor:
        assert labels is not None
        self.taught.append((labels, teacher.logits.argmax(1)))
        return super().forward(student, teacher, labels)


@pytest.mark.parametrize("kind", [DFAD, ZSKT])
def test_the_student_learns_from_images_rendered_in_its_step(kind: type[LiveInversion]) -> None:
    loss = Noting()
    model = _condkd(kind, distillation=loss)
    inversion, rendered, seen = model.inversion, list[Tensor](), list[Tensor]()
    sample = inversion.sample

    def noting(count: int, teacher: Any, unit: Unit, draw: Draw) -> Synthetic:
        assert unit.phase == "distill"
        assert draw == Draw(toy.SEED, unit.counter)
        synthetic = sample(count, teacher, unit, draw)
        with torch.no_grad():  # by the generator as it is after the block's synthesis step
            assert torch.equal(synthetic.images, inversion.generator(inversion.latents(count, unit, draw)))
        rendered.append(synthetic.images)
        return synthetic

    inversion.sample = noting  # type: ignore[method-assign]

    def note(network: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if model.unit is not None and model.unit.phase == "distill":
            seen.append(inputs[0].detach())

    hook = model.student.network.register_forward_pre_hook(note)
    toy.fit(model, mix=0.25)
    hook.remove()
    assert len(rendered) == len(seen) == len(loss.taught) == 12
    condensed = (toy.condensed_set().images - 0.25) / 0.5
    for images, batch, (labels, predicted) in zip(rendered, seen, loss.taught, strict=True):
        assert torch.equal(batch[2:], (images - 0.25) / 0.5)  # as rendered: no crop, no flip, no rounding to bytes
        assert all(any(torch.allclose(row, image) for image in condensed) for row in batch[:2])
        assert torch.equal(labels[2:], predicted[2:])
    blocks = torch.stack(rendered).view(4, 3, -1)
    assert [len(block.unique(dim=0)) for block in blocks] == [1 if kind is ZSKT else 3] * 4
    assert len(blocks[:, 0].unique(dim=0)) == 4


def test_the_student_comes_to_agree_with_the_teacher_where_the_generator_leads_it() -> None:
    def agreement(rounds: int) -> float:
        sgd = {"student_optimizer": lambda parameters: torch.optim.SGD(parameters, 0.05, momentum=0.9)}
        inversion = _live(DAFL, cadence=Cadence(1, 5, repeats=4))
        run = toy.fit(toy.condkd(inversion, augment=None, **sgd), mix=0.0, batch_size=32, max_epochs=rounds)
        return run.metrics["distillation/agreement"]

    assert agreement(1) < 0.6
    assert agreement(4) > 0.8


@pytest.mark.parametrize(("source", "temperature", "padding", "flip"), [("live", 1.0, 0, 0.0), ("bank", 20.0, 4, 0.5)])
def test_temperature_and_view_follow_the_source(source: str, temperature: float, padding: int, flip: float) -> None:
    model = toy.condkd(_live(DFQ, source=source), augment=None)
    assert isinstance(model.distillation, KLDistillation)
    assert isinstance(model.augment, CropFlip)
    assert model.distillation.temperature == temperature
    assert (model.augment.padding, model.augment.flip_probability) == (padding, flip)
    given = toy.condkd(_live(source=source), distillation=LogitsL1Distillation(), augment=CropFlip(1))
    assert isinstance(given.distillation, LogitsL1Distillation)
    assert given.augment.padding == 1


# --- beside the method -----------------------------------------------------------------------------------------------


def _measured(mix: float, *callbacks: L.Callback) -> toy.Run:
    images = torch.rand(64, *toy.SHAPE, generator=seeded_generator(0, "held out"))
    labels = toy.observed(toy.network("teacher")).freeze()(images).logits.argmax(1)
    loader = DataLoader(TensorDataset(images, labels), batch_size=16)
    data = CondensedDataModule(toy.condensed_set(), batch_size=8, mix=mix, val_dataloaders=loader)
    model, trainer = _condkd(), toy.silent_trainer(max_epochs=3, callbacks=list(callbacks))
    trainer.fit(model, data)
    return toy.Run(model, data.transfer_set.bank, trainer)


def test_the_condensed_only_baseline_is_a_run_on_condensed_images_alone() -> None:
    baseline = CondensedOnlyBaseline()
    run = _measured(0.25, baseline)
    assert toy.same(run.state(), _measured(0.25).state())  # and leaves the run as it is
    assert baseline.accuracy == pytest.approx(_measured(1.0).metrics["val/student_accuracy"])


def test_alignment_moves_the_generator() -> None:
    assert not toy.same(_generator(_aligned(5.0)), _generator(_plain(0.25)))
    assert "alignment/discriminator" in _aligned(5.0).metrics


def test_alignment_of_weight_zero_changes_nothing_to_the_bit() -> None:
    assert toy.same(_aligned(0.0).state(), _plain(0.25).state())
    assert _aligned(0.0).metrics == _plain(0.25).metrics


# --- the generator's optimizer ---------------------------------------------------------------------------------------


class Rates(L.Callback):
    """The generator's learning rate and the norm of its gradient after every synthesis step."""

    def __init__(self) -> None:
        self.rates, self.norms = list[float](), list[float]()

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: object) -> None:
        assert isinstance(module, CondKD)
        assert module.unit is not None
        if module.unit.phase == "synthesize":
            self.rates.append(trainer.optimizers[1].param_groups[0]["lr"])
            gradients = [p.grad for p in module.inversion.parameters() if p.grad is not None]
            self.norms.append(float(torch.stack([gradient.norm() for gradient in gradients]).norm()))


def _zskt() -> CondKD:
    return toy.condkd(_live(ZSKT, anneal_blocks=8, gradient_clip=1e-3), augment=None)


def test_rate_and_gradient_of_the_generator_are_held() -> None:
    rates = Rates()
    toy.fit(_zskt(), mix=0.25, callbacks=[rates])
    assert rates.rates == pytest.approx([0.005 * (1 + math.cos(math.pi * block / 8)) for block in range(6)])
    assert rates.norms == pytest.approx([1e-3] * 6, rel=0.01)


def test_resume_in_mid_round_is_exact(tmp_path: Path) -> None:
    """Units 8 to 15 are the second round: 9 is after a synthesis step, 10 between student steps that share latents."""
    keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    whole = toy.fit(_zskt(), mix=0.25, callbacks=[keep], enable_checkpointing=True, default_root_dir=tmp_path)
    for unit in (9, 10):
        data, resumed = CondensedDataModule(toy.condensed_set(), batch_size=8, mix=0.25), _zskt()
        trainer = toy.silent_trainer(max_epochs=3, default_root_dir=tmp_path)
        trainer.fit(resumed, data, ckpt_path=tmp_path / f"step={unit}.ckpt")
        assert toy.same(toy.Run(resumed, data.transfer_set.bank, trainer).state(), whole.state())
        assert resumed.images_synthesized == whole.model.images_synthesized == 72
