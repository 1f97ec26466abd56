"""A resumed run is held to what it was made of, or told what differs."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_condkd.alignment import FeatureAlignment
from lightning_condkd.augment import CropFlip
from lightning_condkd.cli import main
from lightning_condkd.data import CondensedDataModule
from lightning_condkd.data.condensed import CondensedSet
from lightning_condkd.distillation import KLDistillation
from lightning_condkd.formats import CondensedInfo
from lightning_condkd.inversion import GeneratorSettings, SmoothNoise
from lightning_condkd.modules import CondKD
from lightning_condkd.rounds import Cadence
from lightning_condkd.training.run_record import fingerprint, settings
from tests.conftest import ROOT
from tests.helpers import contract, toy

Model = Callable[[], CondKD]


def aligned(weight: float = 1.0, **arguments: Any) -> CondKD:
    return toy.condkd(toy.fast(**arguments), FeatureAlignment(weight=weight))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    saving = ModelCheckpoint(folder, filename="run", every_n_train_steps=11)
    toy.fit(aligned(), max_steps=13, callbacks=[saving], enable_checkpointing=True, default_root_dir=folder)
    return folder / "run.ckpt"


def resume(checkpoint: Path, model: CondKD, condensed: CondensedSet | None = None, **arguments: Any) -> None:
    data = CondensedDataModule(condensed or toy.condensed_set(), **{"batch_size": 8, **arguments})
    toy.silent_trainer(max_epochs=3).fit(model, data, ckpt_path=checkpoint)


def test_a_record_is_plain_json(checkpoint: Path) -> None:
    run = torch.load(checkpoint, weights_only=True)["lightning_condkd"]
    assert json.loads(json.dumps(run)) == run
    assert run["settings"]["mix"] == "union"
    assert run["settings"]["inversion"]["cadence"]["distill_steps"] == 4
    assert run["settings"]["inversion"]["generator_lr"] == 0.05
    assert run["optimizers"]["student"]["lr"] == 0.2
    assert run["optimizers"]["scheduler"] == {"class": "RunCosine"}  # its length is always that of the run


def test_the_same_run_resumes_without_a_word(checkpoint: Path) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*differs from the checkpoint.*")
        resume(checkpoint, aligned())


@pytest.mark.parametrize(
    ("match", "model"),
    [
        (r"inversion.batch_size 12, this one 24: resume with the run's own", partial(aligned, batch_size=24)),
        (r"round_length 8, this one 9: resume with a cadence", partial(aligned, cadence=Cadence(5, 4, 1, 1))),
        (
            r"inversion.class 'Fast', this one 'SmoothNoise': resume with .*other differences: inversion",
            lambda: toy.condkd(SmoothNoise(cadence=Cadence(4, 4, warmup_rounds=1), batch_size=12)),
        ),
    ],
)
def test_what_cannot_be_exchanged_within_a_run_is_refused(match: str, model: Model, checkpoint: Path) -> None:
    with pytest.raises(ValueError, match=f"the checkpoint's run has .*{match}"):
        resume(checkpoint, model())


@pytest.mark.parametrize("changed", ["images", "labels", "soft labels", "fewer"])
def test_another_condensed_set_is_refused(changed: str, checkpoint: Path) -> None:
    condensed = toy.condensed_set()
    images, labels, soft = condensed.images.clone(), condensed.labels.clone(), None
    if changed == "images":
        images[-1, -1, -1, -1] += 0.01
    elif changed == "labels":
        labels = labels.flip(0)
    elif changed == "soft labels":
        soft = torch.eye(toy.CLASSES)[labels]
    else:
        images, labels = images[:3], labels[:3]
    info = CondensedInfo(toy.CLASSES, label_kind="hard" if soft is None else "probabilities")
    other = CondensedSet(images, labels, soft, info)
    with pytest.raises(
        ValueError, match=r"condensed '6 images, sha256 .*', this one '.*: resume with the condensed set"
    ):
        resume(checkpoint, aligned(), other)


def test_one_warning_lists_all_other_differences(checkpoint: Path) -> None:
    model = toy.condkd(
        toy.fast(bn_weight=0.5, augment=CropFlip(2), cadence=Cadence(3, 5, warmup_rounds=1)),
        FeatureAlignment(weight=2.0, ramp_rounds=1),
        distillation=KLDistillation(4.0),
        student_gradient_clip=1.0,
    )
    with pytest.warns(UserWarning, match="this run differs") as caught:
        resume(checkpoint, model, mix=0.5, batch_size=16, bank_capacity=20)
    said, *others = [str(w.message) for w in caught if "this run differs" in str(w.message)]
    assert ["meta.lr 0.2" in other for other in others] == [True]  # which Fast makes from its number of steps
    for part in (
        "mix 'union', this one 0.5",
        "batch_size 8, this one 16",
        "bank_capacity none, this one 20",
        "inversion.bn_weight 2.0, this one 0.5",
        "inversion.augment.padding 3, this one 2",
        "inversion.cadence.synthesis_steps 4, this one 3",
        "alignment.weight 1.0, this one 2.0",
        "alignment.ramp_rounds 0, this one 1",
        "distillation.temperature 20.0, this one 4.0",
        "student_gradient_clip none, this one 1.0",
    ):
        assert part in said


def test_new_rates_of_an_optimizer_are_said_not_to_be_used(checkpoint: Path) -> None:
    model = toy.condkd(
        toy.fast(generator=GeneratorSettings(lr=0.01)),
        FeatureAlignment(weight=1.0),
        student_optimizer=partial(torch.optim.SGD, lr=0.01, momentum=0.9, weight_decay=1e-4),
    )
    with pytest.warns(UserWarning, match=r"student.lr 0.2, this one 0.01.*the new values are not used"):
        resume(checkpoint, model)


def test_the_seed_that_is_not_used_is_said(checkpoint: Path) -> None:
    model = aligned()
    model.seed = 99
    with pytest.warns(UserWarning, match=r"seed 5, this one 99. the checkpoint's seed is used"):
        resume(checkpoint, model)
    assert model.seed == toy.SEED


def test_measuring_does_not_ask_for_the_same_data(checkpoint: Path) -> None:
    images = torch.utils.data.TensorDataset(torch.rand(6, *toy.SHAPE), torch.arange(6) % toy.CLASSES)
    loader = torch.utils.data.DataLoader(images, batch_size=6)
    data = CondensedDataModule(toy.condensed_set("other"), mix=0.5, val_dataloaders=loader)
    for measure in (toy.silent_trainer().test, toy.silent_trainer().validate):
        assert measure(aligned(bn_weight=0.1), data, ckpt_path=checkpoint, verbose=False)


@pytest.mark.parametrize("name", contract.methods())
def test_a_run_does_not_change_its_own_record(name: str) -> None:
    module = contract.model(name, 1.0)
    parts = module.inversion, module.alignment, module.distillation
    module.inversion.build(toy.spec(mean=(0.25,), std=(0.5,)), torch.Generator())
    before = [settings(part) for part in parts]
    assert json.loads(json.dumps(before)) == before
    toy.fit(module, mix=contract.mix(module.inversion), max_epochs=2)
    assert [settings(part) for part in parts] == before


@pytest.mark.parametrize("name", ["PREDFKD", "DAFL", "CMI", "RealSubset", "DeepInversion"])
def test_every_kind_of_argument_is_recorded(name: str) -> None:
    """Renamed ones, those within records, and images."""
    other: dict[str, Any] = {
        "PREDFKD": {"class_weight": 0.5},
        "DAFL": {"activation_weight": 0.5},
        "CMI": {"contrastive": contract.Contrastive(ring_size=20, ring_draws=8, head_size=4, temperature=0.3)},
        "RealSubset": {"images": torch.rand(40, *toy.SHAPE)},
        "DeepInversion": {"labels": "uniform"},
    }[name]
    records = []
    for arguments in ({}, {}, other):
        method = contract.make(name, **arguments)
        method.build(toy.spec(mean=(0.25,), std=(0.5,)), torch.Generator())
        records.append(settings(method))
    assert records[0] == records[1] != records[2]


def test_order_tells_sets_apart() -> None:
    one = toy.condensed_set()
    turned = CondensedSet(one.images.flip(0), one.labels.flip(0))
    assert fingerprint(one) != fingerprint(turned)


def test_a_resumed_command_line_says_what_differs(tmp_path: Path) -> None:
    quick = ["fit", "--config", str(ROOT / "configs" / "quickstart.yaml"), "--trainer.enable_progress_bar=false"]
    inversion = "--model.init_args.inversion.init_args"
    small = [
        f"{inversion}.cadence.distill_steps=4",
        f"{inversion}.batch_size=32",
        f"--trainer.default_root_dir={tmp_path}",
    ]
    main([*quick, *small, "--trainer.max_epochs=2"])
    (checkpoint,) = tmp_path.rglob("epoch=*.ckpt")
    again = [*quick, *small, "--trainer.max_epochs=3", "--ckpt_path", str(checkpoint)]
    with pytest.warns(UserWarning, match=r"mix .*, this one 0.25"):
        main([*again, "--data.init_args.mix=0.25"])
    with pytest.raises(ValueError, match=r"inversion.batch_size 32, this one 16"):
        main([*again, f"{inversion}.batch_size=16"])
