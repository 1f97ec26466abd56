"""Every condensation method and the evaluator on a device of their own: what they write is that of the CPU."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from safetensors.torch import load_file

from lightning_condkd.callbacks import CondensedAccuracy
from lightning_condkd.commands.select import select
from lightning_condkd.condensation import (
    CondensationMethod,
    ConditionalGAN,
    DistributionMatching,
    GradientMatching,
    Herding,
    KCenter,
    KMeans,
    MatchingPool,
    RealismSelection,
    RepresentativeBatches,
    SelectionMethod,
    SelfDistillation,
    TrajectoryMatching,
    TrajectorySchedule,
)
from lightning_condkd.data import DigitsDataModule
from lightning_condkd.evaluation import Recipe, TeacherLabels, evaluate
from lightning_condkd.models import ConvNet, DigitsNet, FreshNetworks, Observer
from lightning_condkd.modules import Condensation
from lightning_condkd.modules.experts import ExpertTrajectories
from lightning_condkd.modules.generative_condensation import GenerativeCondensation
from tests.helpers.virtual_device import DEVICE, VirtualDevice, trainer_arguments

MEAN, STD = (0.3059,), (0.3754,)
NETWORK = partial(ConvNet, 10, image_size=8, in_channels=1, depth=2, width=4)
BN = partial(NETWORK, norm="batch")
FRESH, FRESH_BN = FreshNetworks(NETWORK, MEAN, STD), FreshNetworks(BN, MEAN, STD)
SCHEDULE = TrajectorySchedule(3, 1, 2, pixel_lr=0.1, step_size=0.05, step_size_lr=1e-7)

second_order = pytest.mark.skipif(
    torch.__version__.startswith("2.6."),
    reason="the second derivative of GroupNorm changes a shape in place there, which the virtual device cannot follow",
)


def fit(
    module: L.LightningModule, data: DigitsDataModule, epochs: int = 2, *callbacks: L.Callback, **more: Any
) -> None:
    quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    arguments = {**dict.fromkeys(quiet, False), "accelerator": "cpu", **more}
    L.Trainer(max_epochs=epochs, limit_val_batches=1, callbacks=list(callbacks), **arguments).fit(module, data)


def check_alike(make: Callable[[Path], L.LightningModule], folder: Path) -> None:
    """Check that a run writes on the device what it writes on the CPU, to rounding: kernels follow the strides."""
    outputs: list[list[Path]] = []
    for name, arguments in {"here": {}, "there": trainer_arguments()}.items():
        with VirtualDevice():
            module = make(folder / name)
            fit(module, DigitsDataModule(256, seed=0), **arguments)
        assert (VirtualDevice.convolutions > 0) is (name == "there")
        output = Path(str(module.output))
        outputs.append(sorted(output.iterdir()) if output.is_dir() else [output])
    assert outputs[0]
    for here, there in zip(*outputs, strict=True):
        tensors, others = load_file(here), load_file(there)
        assert tensors.keys() == others.keys()
        for name, tensor in tensors.items():
            torch.testing.assert_close(others[name], tensor, rtol=1e-4, atol=1e-5)


METHODS: dict[str, tuple[Callable[[], CondensationMethod], str]] = {
    "DM": (partial(DistributionMatching, FRESH, real_batch=4), "real"),
    "DM, BatchNorm, noise": (partial(DistributionMatching, FRESH_BN, real_batch=4), "noise"),
    "DM, mirrored, representative": (
        lambda: DistributionMatching(
            FRESH, real_batch=2, mirrored=True, representative=RepresentativeBatches(1, pool=64)
        ),
        "real",
    ),
    "DC": (partial(GradientMatching, FreshNetworks(NETWORK), real_batch=4, inner_steps=2, network_epochs=1), "noise"),
    "DSA, BatchNorm": (
        partial(GradientMatching, FRESH_BN, augment="dsa", real_batch=4, inner_steps=2, network_epochs=1),
        "real",
    ),
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[second_order] if n == "DC" else []) for n in METHODS])
def test_matching_methods_run_on_a_device(name: str, tmp_path: Path) -> None:
    method, init = METHODS[name]

    def make(folder: Path) -> Condensation:
        return Condensation(method(), 2, init=init, output=folder / "set.safetensors", steps_per_epoch=2)  # type: ignore[arg-type]

    check_alike(make, tmp_path)


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One expert, made on the CPU as on the device."""
    folder = tmp_path_factory.mktemp("experts")
    check_alike(lambda part: ExpertTrajectories(FRESH, output=part, epochs=2, learning_rate=0.1, seed=0), folder)
    return folder / "there"


@second_order
@pytest.mark.parametrize("gradient", ["unrolled", "recomputed", "tesla"])
def test_trajectory_matching_runs_on_a_device(experts: Path, gradient: Any, tmp_path: Path) -> None:
    method = partial(TrajectoryMatching, FRESH, experts=experts, schedule=SCHEDULE, gradient=gradient)
    check_alike(
        lambda folder: Condensation(method(), 2, output=folder / "set.safetensors", steps_per_epoch=2), tmp_path
    )


@second_order
def test_generative_condensation_runs_on_a_device(tmp_path: Path) -> None:
    def make(folder: Path) -> GenerativeCondensation:
        pool = MatchingPool(FRESH_BN, size=2, lifetime=2, training_batches=1)
        gan = ConditionalGAN(latent_size=10, width=4, batch_size=8)
        matching, output = SelfDistillation(batch_size=6), folder / "set.safetensors"
        return GenerativeCondensation(pool, gan=gan, matching=matching, gan_epochs=1, steps_per_epoch=2, output=output)

    check_alike(make, tmp_path)


@pytest.mark.parametrize("asked", [False, True])
@pytest.mark.parametrize("recipe", [Recipe(epochs=2, mirrored=True), replace(Recipe.rded(), epochs=2)])
def test_networks_are_judged_on_a_device(recipe: Recipe, asked: bool) -> None:
    train, test = DigitsDataModule().train_source, DigitsDataModule().val_source
    teacher = Observer(DigitsNet(), MEAN, STD, weights="package:digits-teacher.safetensors")
    labels = TeacherLabels(teacher) if asked else train.labels[:20]
    results = []
    for device in (torch.device("cpu"), DEVICE):
        with VirtualDevice():
            images = train.images[:20].float() / 255
            results.append(
                evaluate(
                    images,
                    labels,
                    test.images,
                    test.labels,
                    FRESH_BN,
                    recipe,
                    runs=2,
                    device=device,
                )
            )
        assert (VirtualDevice.convolutions > 0) is (device == DEVICE)
    assert results[0].accuracies == results[1].accuracies
    assert results[0].calibration_errors == pytest.approx(results[1].calibration_errors, rel=1e-5)


def test_a_set_is_judged_on_the_device_while_it_is_learned(tmp_path: Path) -> None:
    callbacks = [CondensedAccuracy(2, recipe=Recipe(epochs=2), test_images=100) for _ in range(2)]
    for accuracy, arguments in zip(callbacks, ({}, trainer_arguments()), strict=True):
        method = DistributionMatching(FRESH, real_batch=4)
        with VirtualDevice():
            module = Condensation(method, output=tmp_path / "set.safetensors", steps_per_epoch=2)
            fit(module, DigitsDataModule(), 1, accuracy, **arguments)
        assert (VirtualDevice.convolutions > 0) is bool(arguments)
    assert callbacks[0].curve == callbacks[1].curve
    assert [step for step, _ in callbacks[0].curve] == [0, 2]


@pytest.mark.parametrize("method", [Herding(), KCenter(), KMeans(), RealismSelection()])
def test_images_are_chosen_by_a_teacher_on_a_device(method: SelectionMethod, tmp_path: Path) -> None:
    teacher = Observer(DigitsNet(), MEAN, STD, weights="package:digits-teacher.safetensors")
    outputs = []
    for device in ("cpu", str(DEVICE)):
        with VirtualDevice():
            output = tmp_path / f"{method.name}-{device[:3]}.safetensors"
            select(output, data=DigitsDataModule(), method=method, ipc=3, teacher=teacher, device=device)
        assert (VirtualDevice.convolutions > 0) is (device != "cpu")
        outputs.append(output.read_bytes())
    assert outputs[0] == outputs[1]
