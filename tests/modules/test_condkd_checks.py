"""What does not fit is refused before the first step, with a message that names the cure."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_condkd.alignment import FeatureAlignment
from lightning_condkd.data import CondensedDataModule, CondensedInfo, CondensedSet, TransferSet, step_loader
from lightning_condkd.distillation import AttentionDistillation
from lightning_condkd.inversion import GeneratorSettings, NoInversion
from lightning_condkd.modules import CondKD
from lightning_condkd.modules.parts.checks import check_batch, check_strategy
from lightning_condkd.rounds import Cadence
from tests.helpers import toy

STEPS = toy.CADENCE.length


def _refused(
    match: str, model: CondKD, data: CondensedDataModule | None = None, trainer: L.Trainer | None = None, **fit: Any
) -> None:
    """Assert that ``fit`` raises and that nothing was trained until then."""
    before = copy.deepcopy(model.student.state_dict())
    trainer = trainer or toy.silent_trainer(max_epochs=2)
    with pytest.raises(ValueError, match=match):
        trainer.fit(model, datamodule=data, **fit)
    assert trainer.global_step == 0
    assert toy.same(before, dict(model.student.state_dict()))


def _data(condensed: CondensedSet | None = None, **arguments: Any) -> CondensedDataModule:
    return CondensedDataModule(toy.condensed_set() if condensed is None else condensed, batch_size=8, **arguments)


def _flat_network(pixels: int = 64) -> nn.Module:
    """A network of one resolution: its linear layer counts the pixels."""
    return nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2 * pixels, 3))


def _one_class_more() -> CondensedSet:
    condensed = toy.condensed_set()
    return CondensedSet(condensed.images[:4], torch.tensor([0, 1, 2, 3]))


@pytest.mark.parametrize(
    ("match", "networks", "condensed"),
    [
        ("teacher: expected 4 classes as in the data, .* returns logits of shape .2, 3.", {}, _one_class_more),
        (
            "student: expected 3 classes as in the data, .* of shape .2, 5.*set its num_classes",
            {"student": lambda: toy.network("student 1", num_classes=5)},
            toy.condensed_set,
        ),
        (
            "teacher: .* cannot read images of .3, 8, 8.",
            {},
            lambda: toy.condensed_set(shape=(3, 8, 8)),
        ),
        (
            "student: .* cannot read images of .1, 8, 8.",
            {"student": lambda: toy.network("student 1", in_channels=3)},
            toy.condensed_set,
        ),
        (
            "teacher: .* cannot read images of .1, 16, 16.*same channels and resolution",
            {"teacher": lambda: toy.observed(_flat_network())},
            lambda: toy.condensed_set(shape=(1, 16, 16)),
        ),
        (
            "student: .* cannot read images of .1, 8, 8.*same channels and resolution",
            {"student": lambda: _flat_network(pixels=256)},
            toy.condensed_set,
        ),
        (
            "no image of class 1: add at least one",
            {},
            lambda: CondensedSet(torch.rand(2, *toy.SHAPE), torch.tensor([0, 2]), info=CondensedInfo(3)),
        ),
    ],
    ids=["teacher classes", "student classes", "channels", "student channels", "size", "student size", "missing class"],
)
def test_set_and_networks_must_fit(
    match: str, networks: dict[str, Callable[[], nn.Module]], condensed: Callable[[], CondensedSet]
) -> None:
    model = toy.condkd(**{name: build() for name, build in networks.items()})
    _refused(match, model, _data(condensed()))


def test_bn_term_needs_batch_norm_in_the_teacher() -> None:
    teacher = toy.observed(toy.network("teacher", norm="one_group"))
    match = "bn_weight is 2.0, but the teacher has no BatchNorm layer.*set bn_weight to 0"
    _refused(match, toy.condkd(teacher=teacher), _data())
    run = toy.fit(toy.condkd(toy.fast(bn_weight=0.0), teacher=toy.observed(toy.network("teacher", norm="one_group"))))
    assert "synthesis/bn" not in run.metrics


def test_a_network_without_an_embedding_is_no_teacher_for_an_alignment() -> None:
    network = nn.Sequential(nn.Conv2d(1, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = toy.condkd(toy.fast(bn_weight=0.0), FeatureAlignment(), teacher=toy.observed(network))
    _refused("expected Sequential to end in an nn.Linear or in a 1x1 nn.Conv2d", model, _data())


def test_the_blocks_of_a_distillation_loss_must_be_there() -> None:
    for maps, name in ((["features", "block1"], "teacher"), (["features"], "student")):
        loss = AttentionDistillation(maps, [*maps[:-1], "block1"])
        _refused(
            f"asks the {name} for the module 'block1'; there are: features", toy.condkd(distillation=loss), _data()
        )


def test_alignment_needs_the_final_linear_layer() -> None:
    """The last linear layer by registration is not the one that gives the logits."""

    class Sidetracked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = toy.network("teacher")
            self.unused = nn.Linear(2, 3)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.network(images)

    teacher = toy.observed(Sidetracked())
    match = "final linear layer was not executed.*embedding=<name of module>.* out of .*, unused, and compile"
    _refused(match, toy.condkd(alignment=FeatureAlignment(), teacher=teacher), _data())


def test_student_and_teacher_share_nothing() -> None:
    network = toy.network("teacher")
    teacher = toy.observed(network)
    for student in (network, toy.observed(network), nn.Sequential(network.features, nn.Flatten(), nn.Linear(128, 3))):
        with pytest.raises(ValueError, match=r"share memory.*copy.deepcopy"):
            CondKD(teacher, student, toy.fast())
    CondKD(teacher, copy.deepcopy(network), toy.fast())


def test_batches_must_divide_by_the_number_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ValueError, match=r"inversion.batch_size=9 does not divide by 2 processes: choose a multiple of 2"
    ):
        check_batch("inversion.batch_size", 9, 2)
    check_batch("inversion.batch_size", 9, 3)
    with pytest.raises(ValueError, match="batch_size=9 does not divide by 2 processes"):
        TransferSet(toy.condensed_set(), batch_size=9).check_world_size(2)
    with pytest.raises(ValueError, match=r"mix=0.25 puts 3 condensed images into a batch"):
        TransferSet(toy.condensed_set(), mix=0.25, batch_size=12).check_world_size(2)
    monkeypatch.setattr(L.Trainer, "world_size", property(lambda self: 2))
    _refused("inversion.batch_size=9 does not divide by 2", toy.condkd(toy.fast(batch_size=9)), _data())
    data = CondensedDataModule(toy.condensed_set(), batch_size=9)
    _refused("batch_size=9 does not divide by 2", toy.condkd(), data)


@pytest.mark.parametrize(
    ("strategy", "accepted"),
    [
        (DDPStrategy, False),
        (lambda: DDPStrategy(find_unused_parameters=True, static_graph=True), False),
        (lambda: DDPStrategy(find_unused_parameters=True), True),
        (lambda: "ddp", False),
        (lambda: "ddp_find_unused_parameters_true", True),
        (lambda: "auto", True),
    ],
)
def test_ddp_must_search_for_unused_parameters(strategy: Callable[[], Any], accepted: bool) -> None:
    trainer = toy.silent_trainer(strategy=strategy())
    if accepted:
        check_strategy(trainer)
        return
    with pytest.raises(ValueError, match=r"expected --trainer.strategy ddp_find_unused_parameters_true"):
        check_strategy(trainer)


def test_plain_ddp_is_refused_by_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The strategy is put in after construction, so that no process group is made."""
    model = toy.condkd(transfer_set=_data().transfer_set)
    trainer = toy.silent_trainer(max_epochs=1)
    monkeypatch.setattr(type(trainer), "strategy", property(lambda self: DDPStrategy()))
    model._trainer = trainer
    with pytest.raises(ValueError, match="ddp_find_unused_parameters_true"):
        model.setup("fit")


def _foreign_loader() -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.rand(STEPS, 1, 8, 8), torch.zeros(STEPS).long()), batch_size=1)


@pytest.mark.parametrize(
    "loader",
    [_foreign_loader, lambda: step_loader(STEPS - 1), lambda: step_loader(2 * STEPS)],
    ids=["images", "few", "many"],
)
def test_the_loader_yields_the_steps_of_a_round(loader: Callable[[], Any]) -> None:
    match = f"needs a loader of the {STEPS} steps of a round.*CondensedDataModule.*step_loader"
    model = toy.condkd(transfer_set=_data().transfer_set)
    _refused(match, model, train_dataloaders=loader())


def test_a_step_loader_serves_without_the_datamodule() -> None:
    transfer_set = _data().transfer_set
    trainer, model = toy.silent_trainer(max_epochs=3), toy.condkd(transfer_set=transfer_set)
    trainer.fit(model, train_dataloaders=step_loader(STEPS))
    assert toy.same(toy.student_of(toy.Run(model, transfer_set.bank, trainer)), toy.student_of(toy.fit(toy.condkd())))


@pytest.mark.parametrize("limit", [3, 0.5])
def test_a_round_is_whole(limit: float) -> None:
    trainer = toy.silent_trainer(max_epochs=2, limit_train_batches=limit)
    _refused("would cut the 8 steps of a round: leave it unset", toy.condkd(), _data(), trainer)


def test_a_transfer_set_must_come_from_somewhere() -> None:
    _refused("found no transfer set: fit with CondensedDataModule", toy.condkd(), train_dataloaders=step_loader(STEPS))


def test_the_datamodule_serves_condkd_alone() -> None:
    with pytest.raises(TypeError, match="is for CondKD, got BoringModel"):
        toy.silent_trainer(max_epochs=1).fit(_boring(), _data())


def _boring() -> L.LightningModule:
    from lightning.pytorch.demos.boring_classes import BoringModel

    return BoringModel()


def test_validation_images_are_not_normalised() -> None:
    images = torch.randn(8, *toy.SHAPE)
    loader = DataLoader(TensorDataset(images, torch.zeros(8).long()), batch_size=8)
    _refused("remove Normalize from the loader", toy.condkd(), _data(val_dataloaders=loader))


@pytest.mark.parametrize(
    ("match", "arguments"),
    [
        ("synthesis_steps to 0, got 2", {"cadence": Cadence(2, 4)}),
        ("bn_momentum in .0, 1., got 1.0", {"bn_momentum": 1.0}),
        ("positive batch_size", {"batch_size": 0}),
    ],
)
def test_arguments_of_the_methods(match: str, arguments: dict[str, Any]) -> None:
    build = NoInversion if "cadence" in arguments else toy.fast
    with pytest.raises(ValueError, match=match):
        build(**arguments)


def test_reset_needs_a_generator_that_can() -> None:
    generator = nn.Sequential(nn.Linear(toy.LATENT, 64), nn.Sigmoid(), nn.Unflatten(1, toy.SHAPE))
    settings = GeneratorSettings(network=generator)
    model = toy.condkd(toy.fast(generator=settings, reset_round=1))
    _refused("Sequential has no method reset_first_layers.*set reset_round to None", model, _data())
    run = toy.fit(toy.condkd(toy.fast(generator=settings)))
    assert len(run.bank) == 36


# --- checkpoints ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    saving = ModelCheckpoint(folder, filename="run")
    toy.fit(toy.condkd(), max_epochs=2, callbacks=[saving], enable_checkpointing=True, default_root_dir=folder)
    return folder / "run.ckpt"


@pytest.mark.parametrize(
    ("match", "model"),
    [
        ("made with another teacher", lambda: toy.condkd(teacher=toy.observed(toy.network("another")))),
        ("does not fit.* it has no alignment.discriminator", lambda: toy.condkd(alignment=FeatureAlignment())),
        (
            "inversion.class 'Fast', this one 'NoInversion': resume with the run's own method",
            lambda: toy.condkd(NoInversion(cadence=Cadence(0, STEPS))),
        ),
        (
            r"does not fit.* it has no student.network.0.weight, .* and \d+ more",
            lambda: toy.condkd(student=_flat_network()),
        ),
    ],
    ids=["teacher", "alignment", "method", "student"],
)
def test_a_run_resumes_with_its_own_parts_only(match: str, model: Callable[[], CondKD], checkpoint: Path) -> None:
    before = (resumed := model()).teacher.fingerprint()
    _refused(match, resumed, _data(), toy.silent_trainer(max_epochs=3), ckpt_path=checkpoint)
    assert resumed.teacher.fingerprint() == before


def test_a_foreign_checkpoint_is_refused(tmp_path: Path, checkpoint: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    del content["lightning_condkd"]
    torch.save(content, tmp_path / "foreign.ckpt")
    match = "expected a checkpoint of CondKD, got one of another kind"
    _refused(match, toy.condkd(), _data(), toy.silent_trainer(max_epochs=3), ckpt_path=tmp_path / "foreign.ckpt")


# --- precision --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
@pytest.mark.parametrize("name", ["teacher", "student"])
def test_weights_of_another_precision_are_refused_before_the_first_step(name: str, dtype: torch.dtype) -> None:
    module = toy.condkd()
    getattr(module, name).to(dtype)
    match = f"the {name} has weights of {dtype}, .*32-true computes in torch.float32: convert it with {name}.to"
    _refused(match, module, _data())
    images = torch.utils.data.TensorDataset(torch.rand(6, *toy.SHAPE), torch.arange(6) % toy.CLASSES)
    loader = torch.utils.data.DataLoader(images, batch_size=6)
    for measure in (toy.silent_trainer().test, toy.silent_trainer().validate):
        with pytest.raises(ValueError, match=match):
            measure(module, loader)


def test_a_true_precision_converts_all_networks() -> None:
    module = toy.condkd()
    module.teacher.to(torch.float16)
    toy.fit(module, precision="64-true")
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float64}
