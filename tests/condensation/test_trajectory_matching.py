from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_condkd.augment import DifferentiableAugment, SiameseAugment, resolve_augment
from lightning_condkd.cli import main
from lightning_condkd.condensation.base import RealImages
from lightning_condkd.condensation.expert_files import (
    KIND,
    TENSOR,
    ExpertFolder,
    ExpertInfo,
    flatten,
    layout,
    snapshot_path,
    unflatten,
)
from lightning_condkd.condensation.parts.published_schedules import PUBLISHED, TrajectorySchedule, published_schedule
from lightning_condkd.condensation.trajectory_matching import TrajectoryMatching
from lightning_condkd.data.condensed import CondensedSet
from lightning_condkd.data.image_datamodules import DigitsDataModule
from lightning_condkd.files import pack
from lightning_condkd.models import ConvNet
from lightning_condkd.models.fresh_networks import FreshNetworks
from lightning_condkd.modules.condensation import Condensation
from lightning_condkd.modules.experts import ExpertTrajectories
from lightning_condkd.randomness import Draw
from lightning_condkd.writing import write_atomic
from tests.conftest import ROOT
from tests.helpers.callbacks import SaveAt

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
SHAPE = (3, 8, 8)
SCHEDULE = TrajectorySchedule(3, 2, 2, pixel_lr=10.0, step_size=0.5, step_size_lr=0.01)
NO_IMAGES = RealImages(lambda rows: rows, [])


def network() -> nn.Module:
    return ConvNet(3, image_size=8, depth=1, width=3).double()


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five experts that take three random steps."""
    folder, networks = tmp_path_factory.mktemp("experts"), FreshNetworks(network, MEAN, STD)
    names, shapes = layout(network())
    info = ExpertInfo(
        **networks.settings(),
        names=names,
        shapes=shapes,
        architecture=repr(network()),
        epochs=3,
        training={"seed": 0},
        data={"sha256": "0", "class_names": ["a", "b", "c"]},
    )
    for expert in range(5):
        generator = torch.Generator().manual_seed(expert)
        vector = flatten(networks.make(generator).network)
        for epoch in range(4):
            header = {**asdict(info), "expert": expert, "epoch": epoch}
            write_atomic(snapshot_path(folder, expert, epoch), pack(KIND, {TENSOR: vector}, header))
            vector = vector + 0.05 * torch.randn(vector.shape, generator=generator)
    return folder


def method(experts: Path, schedule: TrajectorySchedule = SCHEDULE, ipc: int = 2, **more: Any) -> TrajectoryMatching:
    made = TrajectoryMatching(FreshNetworks(network, MEAN, STD), experts=experts, schedule=schedule, **more).double()
    made.build(SHAPE, num_classes=3, ipc=ipc)
    return made


def learned() -> tuple[Tensor, Tensor]:
    images = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return images.requires_grad_(), torch.tensor([0, 0, 1, 1, 2, 2])


def loss_of(mtt: TrajectoryMatching, draw: Draw, pixels: Tensor | None = None) -> Tensor:
    images, labels = learned()
    [terms] = mtt.losses(images if pixels is None else pixels, labels, NO_IMAGES, draw)
    return terms.total()


def differentiated(mtt: TrajectoryMatching, draw: Draw) -> list[Tensor]:
    pixels, _ = learned()
    loss = loss_of(mtt, draw, pixels)
    return [loss.detach(), *torch.autograd.grad(loss, [pixels, mtt.log_step_size])]


@pytest.mark.parametrize("batch_size", [None, 4])
@pytest.mark.parametrize("step", [0, 1, 2, 3])
def test_the_loss_is_what_a_training_run_leaves_of_the_distance(
    experts: Path, batch_size: int | None, step: int
) -> None:
    """A plain training loop, with an optimizer and a network that keeps its parameters."""
    mtt, draw, (images, labels) = method(experts, replace(SCHEDULE, batch_size=batch_size)), Draw(5, step), learned()
    start, target = (vector.double() for vector in mtt._expert(draw))
    student, (names, shapes) = network(), layout(network())
    student.load_state_dict(unflatten(start, names, shapes))
    optimizer = torch.optim.SGD(student.parameters(), lr=0.5)
    mean, std = (torch.tensor(values, dtype=torch.float64).view(-1, 1, 1) for values in (MEAN, STD))
    for inner, rows in enumerate(mtt._batches(6, draw)):
        views = mtt.augment.sample(len(rows), draw.generator(f"augment/{inner}"))
        optimizer.zero_grad()
        F.cross_entropy(student((mtt.augment(images.detach()[rows], views) - mean) / std), labels[rows]).backward()
        optimizer.step()
    end = torch.cat([parameter.detach().flatten() for parameter in student.parameters()])
    expected = sum((end - target) ** 2) / sum((start - target) ** 2)
    torch.testing.assert_close(loss_of(mtt, draw).detach(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("step", [0, 1, 2])
@pytest.mark.parametrize("chunk", [None, 2])
def test_recomputed_gradients_are_the_unrolled_ones_and_teslas_are_not(
    experts: Path, step: int, chunk: int | None
) -> None:
    schedule = replace(SCHEDULE, batch_size=4)
    unrolled, recomputed, tesla = (
        differentiated(method(experts, schedule, gradient=name, chunk=c), Draw(5, step))
        for name, c in (("unrolled", None), ("recomputed", chunk), ("tesla", chunk))
    )
    for a, b in zip(unrolled, recomputed, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
        assert bool(a.abs().sum() > 0)
    assert (tesla[1] - unrolled[1]).norm() > 1e-3 * unrolled[1].norm()


@pytest.mark.parametrize(("gradient", "chunk"), [("unrolled", None), ("recomputed", None), ("recomputed", 2)])
def test_mirrored_trains_on_the_set_with_its_mirror_images(experts: Path, gradient: str, chunk: int | None) -> None:
    pixels, labels = learned()
    doubled = torch.cat([pixels, pixels.flip(-1)]).detach().requires_grad_()
    mirrored = method(experts, gradient=gradient, chunk=chunk, augment=None, mirrored=True)
    plain = method(experts, gradient="unrolled", augment=None, ipc=4)
    [ours], [expected] = (
        mtt.losses(images, classes, NO_IMAGES, Draw(5, 1))
        for mtt, images, classes in ((mirrored, pixels, labels), (plain, doubled, labels.repeat(2)))
    )
    torch.testing.assert_close(ours.total(), expected.total(), rtol=1e-9, atol=0)
    [gradient_here], [there] = (
        torch.autograd.grad(t.total(), images) for t, images in ((ours, pixels), (expected, doubled))
    )
    torch.testing.assert_close(gradient_here, there[:6] + there[6:].flip(-1), rtol=1e-9, atol=1e-12)


def test_mirrored_images_have_augmentations_of_their_own(experts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    augment = DifferentiableAugment(("translation",))
    monkeypatch.setattr(augment, "transform", lambda images, parameters: seen.append(parameters["shift"]) or images)
    loss_of(method(experts, augment=augment, gradient="unrolled", mirrored=True, chunk=4), Draw(0, 0))
    assert len({tuple(row) for step in seen for row in step.tolist()}) == 3 * 12
    assert "flip" not in repr(method(experts, mirrored=True).augment)


@pytest.mark.parametrize("gradient", ["unrolled", "recomputed", "tesla"])
def test_gradients_reach_only_pixels_and_the_step_size(experts: Path, gradient: str) -> None:
    mtt, (pixels, _) = method(experts, gradient=gradient), learned()
    state = torch.random.get_rng_state()
    loss_of(mtt, Draw(0, 0), pixels).backward()
    assert torch.equal(state, torch.random.get_rng_state())
    assert pixels.grad is not None
    assert bool((pixels.grad.flatten(1).abs().sum(1) > 0).all())
    assert [name for name, _ in mtt.named_parameters()] == ["log_step_size"]
    assert mtt.log_step_size.grad is not None
    assert list(mtt.state_dict()) == ["log_step_size"]
    [group] = mtt.parameter_groups()
    assert group == {"params": [mtt.log_step_size], "lr": 0.01}


def test_every_expert_is_used_once_before_one_is_used_again(experts: Path) -> None:
    mtt, folder = method(experts), ExpertFolder(experts)
    points = {(e, n): folder.read(e, n) for e in range(5) for n in range(4)}

    def place(step: int) -> tuple[int, int]:
        start, target = mtt._expert(Draw(3, step))
        [(expert, epoch)] = [at for at, vector in points.items() if torch.equal(vector, start)]
        assert torch.equal(target, points[expert, epoch + 2])
        return expert, epoch

    places = [place(step) for step in range(20)]
    for turn in range(4):
        assert sorted(expert for expert, _ in places[5 * turn : 5 * turn + 5]) == list(range(5))
    assert {epoch for _, epoch in places} == {0, 1}
    assert places[:5] != places[5:10]


def test_batches_follow_permutations_of_the_set(experts: Path) -> None:
    mtt = method(experts, replace(SCHEDULE, inner_steps=5, batch_size=4))
    batches = mtt._batches(6, Draw(0, 0))
    assert [len(batch) for batch in batches] == [4, 2, 4, 2, 4]
    assert all(sorted(torch.cat(batches[i : i + 2]).tolist()) == list(range(6)) for i in (0, 2))
    assert not torch.equal(torch.cat(batches[:2]), torch.cat(batches[2:4]))


def test_each_inner_step_has_augmentations_of_its_own_and_so_has_each_image(
    experts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []
    augment = DifferentiableAugment(("translation",))
    monkeypatch.setattr(augment, "transform", lambda images, parameters: seen.append(parameters["shift"]) or images)
    loss_of(method(experts, augment=augment, gradient="unrolled"), Draw(0, 0))
    assert len({tuple(row) for step in seen for row in step.tolist()}) == 3 * 6


def test_all_ranks_do_the_same(experts: Path) -> None:
    ranks = [differentiated(method(experts), Draw(5, 1, rank, world_size=2)) for rank in (0, 1)]
    assert all(torch.equal(a, b) for a, b in zip(*ranks, strict=True))


def test_the_file_records_the_learned_step_size_and_the_numbers(experts: Path) -> None:
    mtt = method(experts)
    settings = mtt.settings()
    assert settings["train_lr"] == pytest.approx(0.5)
    assert (settings["inner_steps"], settings["gradient"], settings["batch_size"]) == (3, "recomputed", None)
    assert settings["experts"] == {"count": 5, "seed": 0, "data_sha256": "0"}
    assert settings["augment"] == repr(resolve_augment("dsa", MEAN, STD))
    assert mtt.pixel_lr == 10.0


def test_mistakes_are_named(experts: Path) -> None:
    make = partial(TrajectoryMatching, FreshNetworks(network, MEAN, STD), experts=experts, schedule=SCHEDULE)
    with pytest.raises(ValueError, match="network: expected 10 classes"):
        make().build(SHAPE, 10, 1)
    with pytest.raises(ValueError, match="batch_size: expected at most 3"):
        make(schedule=replace(SCHEDULE, batch_size=4)).build(SHAPE, 3, 1)
    with pytest.raises(ValueError, match=r"max_start_epoch - 1 \+ expert_epochs = 4.*3 epochs"):
        make(schedule=replace(SCHEDULE, max_start_epoch=3)).build(SHAPE, 3, 1)
    with pytest.raises(ValueError, match=r"differ from the network here.*'std'"):
        TrajectoryMatching(FreshNetworks(network, MEAN), experts=experts, schedule=SCHEDULE).build(SHAPE, 3, 1)
    colored = FreshNetworks(partial(ConvNet, 3, image_size=8, depth=1), MEAN, STD)
    with pytest.raises(ValueError, match=r"differ from the network here.*'shapes'"):
        TrajectoryMatching(colored, experts=experts, schedule=SCHEDULE).build(SHAPE, 3, 1)

    def other_pooling() -> nn.Module:
        made = network()
        made.features[3] = nn.MaxPool2d(2)
        return made

    other = FreshNetworks(other_pooling, MEAN, STD)
    with pytest.raises(ValueError, match=r"differ from the network here.*'architecture'"):
        TrajectoryMatching(other, experts=experts, schedule=SCHEDULE).build(SHAPE, 3, 1)
    made = make()
    made.build(SHAPE, 3, 1)
    made.check_classes(("a", "b", "c"))
    with pytest.raises(ValueError, match="were trained on the classes a, b, c, the data has b, a, c"):
        made.check_classes(("b", "a", "c"))
    with pytest.raises(FileNotFoundError, match="no snapshots"):
        make(experts=experts / "none").build(SHAPE, 3, 1)
    with pytest.raises(ValueError, match="gradient: expected one of"):
        make(gradient="exact")
    with pytest.raises(ValueError, match="chunk"):
        make(chunk=0)
    with pytest.raises(RuntimeError, match=r"build\(num_classes, ipc\)"):
        loss_of(make(), Draw(0, 0))
    with pytest.raises(ValueError, match="norm='instance'"):
        TrajectoryMatching(FreshNetworks(partial(ConvNet, norm="batch")), experts=experts, schedule=SCHEDULE)


def test_an_expert_that_stands_still_is_named(experts: Path, tmp_path: Path) -> None:
    for path in experts.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    folder, info = ExpertFolder(experts), ExpertFolder(experts).info
    for expert in range(5):
        header = {**asdict(info), "expert": expert}
        for epoch in range(4):
            content = pack(KIND, {TENSOR: folder.read(expert, 3)}, {**header, "epoch": epoch})
            write_atomic(snapshot_path(tmp_path, expert, epoch), content)
    with pytest.raises(ValueError, match="was not trained"):
        loss_of(method(tmp_path), Draw(0, 0))


@pytest.mark.parametrize("name", ["inner_steps", "expert_epochs", "max_start_epoch", "step_size", "batch_size"])
def test_numbers_of_a_schedule_must_be_positive(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: expected a positive number"):
        replace(SCHEDULE, **{name: 0})  # type: ignore[arg-type]


def test_published_numbers_are_those_without_the_mistake_of_the_table() -> None:
    assert published_schedule("cifar10", 10) == TrajectorySchedule(30, 2, 20, 100, 0.001, 1e-5)
    assert published_schedule("cifar100", 50).batch_size == 125
    with pytest.raises(ValueError, match=r"expected one of: cifar10 1, .* got cifar10 5"):
        published_schedule("cifar10", 5)


def test_published_numbers_go_by_name_and_by_the_images_of_a_class(
    experts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PUBLISHED, ("tiny", 2), SCHEDULE)
    named = TrajectoryMatching(FreshNetworks(network, MEAN, STD), experts=experts, schedule="tiny")
    with pytest.raises(RuntimeError, match="call build first"):
        named.parameter_groups()
    with pytest.raises(ValueError, match=r"expected one of: .* got tiny 3"):
        named.build(SHAPE, 3, 3)
    named.build(SHAPE, 3, 2)
    written = method(experts)
    assert (named.pixel_lr, named.settings()) == (written.pixel_lr, written.settings())
    assert named.parameter_groups()[0]["lr"] == SCHEDULE.step_size_lr


AUGMENT = SiameseAugment("crop_scale_rotate", fill=0.0)
DIGITS = FreshNetworks(partial(ConvNet, 10, image_size=8, in_channels=1, depth=2, width=8), (0.3059,), (0.3754,))


def fit(module: L.LightningModule, folder: Path, *callbacks: L.Callback, max_epochs: int = 1, **more: Any) -> None:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "num_sanity_val_steps": 0}
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=max_epochs,
        limit_val_batches=0,
        callbacks=list(callbacks),
        enable_model_summary=False,
        default_root_dir=folder,
        **quiet,  # type: ignore[arg-type]
    )
    trainer.fit(module, DigitsDataModule(256, seed=0), **more)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two experts of the digits, six epochs each."""
    folder = tmp_path_factory.mktemp("trained")
    module = ExpertTrajectories(DIGITS, augment=AUGMENT, output=folder, epochs=6, learning_rate=0.1, seed=0)
    fit(module, folder, max_epochs=12)
    return folder


def condensation(experts: Path, folder: Path, **arguments: Any) -> Condensation:
    schedule = TrajectorySchedule(8, 2, 4, pixel_lr=30.0, step_size=0.02, step_size_lr=2e-5)
    mtt = TrajectoryMatching(DIGITS, augment=AUGMENT, experts=experts, schedule=schedule)
    return Condensation(mtt, **{"output": folder / "set.safetensors", "steps_per_epoch": 3, "seed": 1, **arguments})


@pytest.mark.parametrize("step", [2, 3, 4])
def test_a_resumed_run_equals_an_uninterrupted_one(trained: Path, step: int, tmp_path: Path) -> None:
    path = tmp_path / "middle.ckpt"
    whole, resumed = condensation(trained, tmp_path / "whole"), condensation(trained, tmp_path / "resumed", seed=2)
    fit(whole, tmp_path, SaveAt(step, path), max_epochs=2)
    assert set(torch.load(path, weights_only=True)["state_dict"]) == {"pixels", "method.log_step_size"}
    fit(resumed, tmp_path, max_epochs=2, ckpt_path=path)
    assert whole.output.read_bytes() == resumed.output.read_bytes()
    assert CondensedSet.load(whole.output).info.settings["train_lr"] != pytest.approx(0.02, rel=1e-4)


@pytest.mark.parametrize("rate", [1e3, 1e9])
def test_a_step_size_that_leaves_the_numbers_is_undone(trained: Path, rate: float, tmp_path: Path) -> None:
    """Its logarithm is finite, the step size itself is not, or is zero."""
    schedule = TrajectorySchedule(8, 2, 4, pixel_lr=30.0, step_size=0.02, step_size_lr=rate)
    mtt = TrajectoryMatching(DIGITS, augment=AUGMENT, experts=trained, schedule=schedule)
    module = Condensation(mtt, output=tmp_path / "set.safetensors", steps_per_epoch=1, seed=1)
    fit(module, tmp_path)
    settings = CondensedSet.load(module.output).info.settings
    assert settings["train_lr"] == pytest.approx(0.02)
    assert settings["iterations"] == 0


def test_learning_lowers_the_trajectory_loss(trained: Path, tmp_path: Path) -> None:
    """On draws that it did not learn from, against the images it starts from with the step size that it learned."""

    def distance(module: Condensation, step_size: float) -> float:
        images = CondensedSet.load(module.output).images
        mtt = module.method
        assert isinstance(mtt, TrajectoryMatching)
        with torch.no_grad():
            mtt.log_step_size.fill_(step_size).log_()
        draws = [Draw(seed=99, step=step) for step in range(8)]
        parts = [terms for draw in draws for terms in mtt.losses(images, module.labels, NO_IMAGES, draw)]
        return sum(float(terms.total().detach()) for terms in parts) / len(draws)

    still, moved = condensation(trained, tmp_path / "still", learning_rate=0.0), condensation(trained, tmp_path)
    fit(still, tmp_path, max_epochs=1)
    fit(moved, tmp_path, max_epochs=8)
    step_size = CondensedSet.load(moved.output).info.settings["train_lr"]
    assert distance(moved, step_size) < 0.9 * min(distance(still, step_size), distance(still, 0.02))


def test_the_digits_recipes_in_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):  # what seed_everything sets is undone
        monkeypatch.setenv(name, "0")
    quiet = [f"--trainer.default_root_dir={tmp_path}", "--trainer.logger=false", "--trainer.enable_progress_bar=false"]
    folder, output = tmp_path / "experts", tmp_path / "set.safetensors"
    small = {
        "experts": ["--trainer.max_epochs=2", "--model.epochs=2", f"--model.output={folder}"],
        "mtt": [
            "--trainer.max_epochs=1",
            "--model.steps_per_epoch=2",
            f"--model.output={output}",
            f"--model.method.experts={folder}",
            "--model.method.schedule.max_start_epoch=1",
            "--model.method.schedule.inner_steps=2",
        ],
    }
    with torch.random.fork_rng():
        for recipe, arguments in small.items():
            main(["fit", "--config", str(ROOT / "configs" / "digits" / f"{recipe}.yaml"), *quiet, *arguments])
    settings = CondensedSet.load(output).info.settings
    assert (settings["iterations"], settings["experts"]["count"]) == (2, 1)
    assert settings["train_lr"] == pytest.approx(0.02, rel=0.2)
