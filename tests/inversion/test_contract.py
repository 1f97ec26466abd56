"""What holds for every inversion method, present and future: a method is tested by being exported."""

from __future__ import annotations

import gc
from functools import cache
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.optim import SGD

from lightning_condkd.data import TransferSet
from lightning_condkd.inversion import Inversion
from lightning_condkd.models import Observer
from lightning_condkd.randomness import Draw
from lightning_condkd.steps import synthesize
from tests.helpers import contract, toy

every_method = pytest.mark.parametrize("name", contract.methods())
every_case = pytest.mark.parametrize("name", contract.cases())


@cache
def _plain(name: str) -> toy.Run:
    return contract.fit(name)


@cache
def _guided(name: str) -> toy.Run:
    return contract.fit(name, weight=5.0)


def _networks() -> tuple[Observer, Observer]:
    teacher, student = toy.observed(toy.network("teacher")).freeze(), toy.observed(toy.network("student 1"))
    return teacher, student.requires_grad_(False).eval()


def _kept(run: toy.Run) -> tuple[Tensor, Tensor]:
    images, labels = run.model.inversion.collect()
    assert labels is not None
    return images, labels


def test_methods_are_found() -> None:
    assert {"DFAD", "Fast", "SmoothNoise"} <= set(contract.methods())


@every_method
def test_images_are_finite_pixels_of_the_right_shape(name: str) -> None:
    images, labels = _kept(_plain(name))
    assert images.shape == (12, *toy.SHAPE)
    assert bool(images.isfinite().all())
    assert float(((images > -1) & (images < 2)).float().mean()) > 0.9  # pixels, not bytes and not deviations
    assert len(images.flatten(1).unique(dim=0)) == len(images)
    assert labels.dtype == torch.int64
    assert 0 <= int(labels.min()) <= int(labels.max()) < toy.CLASSES


@every_case
def test_what_is_stored_is_what_was_kept(name: str) -> None:
    run = _plain(name)
    images, labels = _kept(run)
    if run.model.inversion.source == "live":
        assert len(run.bank) == 0
        assert run.model.images_synthesized == 2 * 2 * 3 * 6  # rounds, blocks, student steps, synthetic images of 8
    else:
        batches = run.model.inversion.cadence.batches_before(contract.ROUNDS)
        assert len(run.bank) == run.model.images_synthesized == batches * 12 >= 3 * 2 * 12
        assert torch.equal(run.bank.images[-12:], (images.clamp(0, 1) * 255).round().byte())
        assert torch.equal(run.bank.labels[-12:], labels)


@every_case
def test_labels_are_balanced_where_promised(name: str) -> None:
    method = contract.built(name)
    if not method.balanced_labels:
        pytest.skip("not promised")
    unit = method.cadence.unit(0, 0)
    method.start(unit, Draw(0, 0))
    labels = method.render(unit, Draw(0, 0)).labels
    assert labels is not None
    counts = labels.bincount(minlength=toy.CLASSES)
    assert int(counts.max() - counts.min()) <= 1


@every_case
def test_building_does_not_follow_the_default_device(name: str) -> None:
    """The trainer configures the model with its accelerator as the default device, where CPU generators do not draw."""
    model = contract.model(name, weight=5.0)
    model.transfer_set = TransferSet(toy.condensed_set(), mix=contract.mix(model.inversion))  # type: ignore[arg-type]
    with torch.device("meta"):
        model.configure_model()
    states = {**model.inversion.state_dict(), **dict(model.inversion.named_buffers())}
    assert {value.device.type for value in states.values()} == {"cpu"}


@every_case
def test_two_halves_of_a_batch_are_the_batch(name: str) -> None:
    """Every rank renders its rows; BatchNorm in a generator makes the values differ, never the labels."""
    method = contract.built(name)
    unit = method.cadence.unit(0, 0)
    method.start(unit, Draw(0, 0))
    whole = method.render(unit, Draw(0, 0))
    for rank in (0, 1):
        part = method.render(unit, Draw(0, 0, rank, world_size=2))
        assert part.images.shape == (6, *toy.SHAPE)
        assert (part.labels is None) is (whole.labels is None)
        if whole.labels is not None and part.labels is not None:
            assert torch.equal(part.labels, whole.labels[rank::2])


@every_case
def test_gradient_reaches_what_the_method_owns_and_nothing_else(name: str) -> None:
    method, (teacher, student) = contract.built(name), _networks()
    unit = method.cadence.unit(1, 0)
    method.start(unit, Draw(0, 0))
    synthetic = method.render(unit, Draw(0, 0))
    terms, _ = method.loss(synthetic, teacher, student, unit, Draw(0, 0))
    loss = terms.total()
    if not terms.values:
        assert not method.optimizers()
        return
    assert bool(loss.isfinite())
    loss.backward()  # type: ignore[no-untyped-call]
    owned = {id(p) for group in method.optimizers()["synthesis"].param_groups for p in group["params"]}
    reached = [p for p in method.parameters() if p.grad is not None and bool(p.grad.any())]
    assert reached
    assert {id(parameter) for parameter in reached} <= owned
    assert all(parameter.grad is None for network in (teacher, student) for parameter in network.parameters())


@every_method
def test_teacher_is_untouched_and_no_hook_is_left(name: str) -> None:
    for run in (_plain(name), _guided(name)):
        assert run.model.teacher.fingerprint() == toy.observed(toy.network("teacher")).fingerprint()
        for module in run.model.modules():
            own = isinstance(module, nn.Module) and (module._forward_hooks or module._forward_pre_hooks)
            assert not own, f"{type(module).__name__} keeps a hook"


@every_method
def test_every_optimizer_moves_its_parameters(name: str) -> None:
    run = _plain(name)
    for optimizer in run.trainer.optimizers:
        stateless = isinstance(optimizer, SGD) and not optimizer.defaults["momentum"]
        assert optimizer.state or stateless, "an optimizer that never stepped"
    assert all(bool(value.isfinite().all()) for value in run.state().values() if value.is_floating_point())


@every_method
def test_alignment_of_weight_zero_changes_nothing_to_the_bit(name: str) -> None:
    zero = contract.fit(name, weight=0.0)
    assert toy.same(zero.state(), _plain(name).state())
    assert zero.metrics == _plain(name).metrics


@every_method
def test_alignment_changes_the_images_where_they_are_learned(name: str) -> None:
    learned = bool(contract.built(name).optimizers())
    assert torch.equal(_kept(_guided(name))[0], _kept(_plain(name))[0]) is not learned


@every_case
def test_resume_in_mid_round_is_exact(name: str, tmp_path: Path) -> None:
    """Units 12 to 23 are the second round: 13 and 19 are synthesis steps of its blocks, 16 is a student step."""
    keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    whole = contract.fit(name, weight=5.0, callbacks=[keep], enable_checkpointing=True, default_root_dir=tmp_path)
    for unit in (13, 16, 19):
        model = contract.model(name, weight=5.0)
        resumed = _resume(model, tmp_path / f"step={unit}.ckpt", tmp_path)
        assert toy.same(resumed.state(), whole.state()), f"resumed after {unit} units"


def _resume(model: contract.CondKD, checkpoint: Path, folder: Path) -> toy.Run:
    data = toy.CondensedDataModule(toy.condensed_set(), batch_size=8, mix=contract.mix(model.inversion))  # type: ignore[arg-type]
    trainer = toy.silent_trainer(max_epochs=contract.ROUNDS, default_root_dir=folder)
    trainer.fit(model, data, ckpt_path=checkpoint)
    return toy.Run(model, data.transfer_set.bank, trainer)


@every_method
def test_memory_does_not_grow_over_rounds(name: str) -> None:
    method, (teacher, student) = contract.built(name), _networks()
    optimizers = method.optimizers()

    def after_round(round_: int) -> int:
        synthesize(method, optimizers, teacher, student, round_)
        if method.source == "live":
            _student_steps(method, teacher, round_)
        gc.collect()
        return sum(tensor.numel() for tensor in gc.get_objects() if isinstance(tensor, Tensor))

    sizes = [after_round(round_) for round_ in range(6)]
    assert sizes[-1] <= sizes[-3], sizes


def _student_steps(method: Inversion, teacher: Observer, round_: int) -> None:
    for step in range(method.cadence.distill_steps):
        unit = method.cadence.unit(round_, method.cadence.synthesis_steps + step)
        draw = Draw(0, unit.counter)
        synthetic = method.sample(6, teacher, unit, draw)
        assert synthetic.images.shape == (6, *toy.SHAPE)
        assert not synthetic.images.requires_grad
        terms = method.replay_loss(synthetic, teacher, unit, draw)
        if terms is not None:
            terms.total().backward()  # type: ignore[no-untyped-call]
