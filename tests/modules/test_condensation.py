from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor

from lightning_condkd.condensation import CondensationMethod, DistributionMatching, GradientMatching, RealImages
from lightning_condkd.data.condensed import CondensedSet
from lightning_condkd.data.image_datamodules import ImageDataModule
from lightning_condkd.data.image_source import ImageSource
from lightning_condkd.models import ConvNet, FreshNetworks
from lightning_condkd.modules.condensation import Condensation
from lightning_condkd.pixels import to_pixels
from lightning_condkd.randomness import Draw
from lightning_condkd.types import LossTerms
from tests.helpers.callbacks import SaveAt

NETWORK = partial(ConvNet, 3, image_size=8, depth=1, width=4)


class Uneven(ImageDataModule):
    """Classes of 30, 6 and 2 random images of 3x8x8."""

    def load(self, train: bool) -> ImageSource:
        labels = torch.tensor([0] * 30 + [1] * 6 + [2] * 2)
        images = torch.randint(256, (38, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        return ImageSource(images, labels, ("many", "some", "few"))


class WithAbsent(Uneven):
    """The same with a class of no image."""

    def load(self, train: bool) -> ImageSource:
        source = super().load(train)
        return ImageSource(source.images, source.labels, (*source.class_names, "absent"))


class Explosive(CondensationMethod):
    """Its loss is ten times the sum of pixels, and NaN from a chosen iteration on."""

    name = "explosive"
    pixel_lr = 1.0

    def __init__(self, until: int) -> None:
        super().__init__()
        self.until, self.networks = until, FreshNetworks(NETWORK)

    def losses(self, images: Tensor, labels: Tensor, real: RealImages, draw: Draw) -> Iterator[LossTerms]:
        value = images.sum() * (10.0 if draw.step < self.until else float("nan"))
        yield LossTerms({"sum": value}, {"sum": 1.0})

    def settings(self) -> dict[str, Any]:
        return {"until": self.until}


class StopAfterFirst(L.Callback):
    """Ends the run after its first step."""

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        trainer.should_stop = True


def matching() -> DistributionMatching:
    return DistributionMatching(FreshNetworks(NETWORK, (0.5, 0.5, 0.5), (0.3, 0.3, 0.3)), real_batch=8)


def fit(
    module: Condensation,
    *callbacks: L.Callback,
    data: L.LightningDataModule | None = None,
    strategy: SingleDeviceStrategy | None = None,
    **more: Any,
) -> None:
    trainer = L.Trainer(
        strategy=strategy or "auto",
        accelerator="cpu",
        max_epochs=2,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=module.output.parent,
    )
    trainer.fit(module, Uneven() if data is None else data, **more)


def condensation(folder: Path, method: CondensationMethod | None = None, **arguments: Any) -> Condensation:
    output = folder / "set.safetensors"
    return Condensation(method or matching(), **{"output": output, "steps_per_epoch": 3, "seed": 1, **arguments})


def test_a_set_of_uneven_classes_is_learned_and_written(tmp_path: Path) -> None:
    module = condensation(tmp_path, ipc=2)
    fit(module)
    condensed = CondensedSet.load(module.output)
    assert condensed.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert condensed.image_shape == (3, 8, 8)
    assert (condensed.info.method, condensed.info.seed) == ("DM", 1)
    assert condensed.info.class_names == ("many", "some", "few")
    assert condensed.info.settings["iterations"] == 6
    assert condensed.info.settings["real_batch"] == 8
    assert module.pixels is not None
    assert torch.equal(condensed.images, module.pixels.detach())


def test_learning_lowers_the_matching_loss(tmp_path: Path) -> None:
    def distance(module: Condensation) -> float:
        source = Uneven().train_source
        real = RealImages(lambda rows: to_pixels(source.images[rows]), source.class_rows)
        images = CondensedSet.load(module.output).images
        draws = [Draw(seed=99, step=step) for step in range(10)]
        parts = [terms for draw in draws for terms in matching().losses(images, module.labels, real, draw)]
        return sum(float(terms.total()) for terms in parts)

    start, end = (condensation(tmp_path, learning_rate=lr, steps_per_epoch=20) for lr in (0.0, 0.09))
    fit(start)
    before = distance(start)
    fit(end)
    assert distance(end) < 0.6 * before


@pytest.mark.parametrize("step", [2, 3, 4])
def test_a_resumed_run_equals_an_uninterrupted_one(step: int, tmp_path: Path) -> None:
    path = tmp_path / "middle.ckpt"
    whole, resumed = condensation(tmp_path / "whole"), condensation(tmp_path / "resumed", seed=2)
    fit(whole, SaveAt(step, path))
    assert set(torch.load(path, weights_only=True)["state_dict"]) == {"pixels"}
    fit(resumed, ckpt_path=path)
    assert whole.output.read_bytes() == resumed.output.read_bytes()


def test_a_resumed_run_takes_the_step_size_and_momentum_that_it_is_given(tmp_path: Path) -> None:
    path = tmp_path / "middle.ckpt"
    fit(condensation(tmp_path / "whole"), SaveAt(3, path))
    still = condensation(tmp_path / "still", learning_rate=0.0, momentum=0.0)
    fit(still, ckpt_path=path)
    condensed = CondensedSet.load(still.output)
    assert torch.equal(condensed.images, torch.load(path, weights_only=True)["state_dict"]["pixels"])
    settings = condensed.info.settings
    assert (settings["learning_rate"], settings["momentum"], settings["iterations"]) == (0.0, 0.0, 6)


def test_a_step_is_sgd_with_the_published_momentum(tmp_path: Path) -> None:
    start, moved = (condensation(tmp_path / str(lr), Explosive(99), learning_rate=lr) for lr in (0.0, 0.001))
    fit(start)
    fit(moved)
    velocity, path = 0.0, 0.0
    for _ in range(6):
        velocity = 0.5 * velocity + 10.0
        path += 0.001 * velocity
    before, after = (CondensedSet.load(module.output).images for module in (start, moved))
    assert torch.allclose(before - after, torch.tensor(path), atol=1e-5)


def test_step_sizes_are_those_of_the_official_codes() -> None:
    assert (DistributionMatching.pixel_lr, GradientMatching.pixel_lr) == (1.0, 0.1)


class OtherDefaultDevice(SingleDeviceStrategy):
    """Configures the model as on an accelerator: with a default device on which no CPU generator draws."""

    @contextmanager
    def tensor_init_context(self, empty_init: bool | None = None) -> Iterator[None]:
        with torch.device("meta"):
            yield


@pytest.mark.parametrize("init", ["real", "noise"])
@pytest.mark.parametrize("mean", [None, (0.5, 0.5, 0.5)])
@pytest.mark.parametrize("kind", [DistributionMatching, GradientMatching])
def test_building_does_not_follow_the_default_device(kind: type, mean: Any, init: Any, tmp_path: Path) -> None:
    outputs = []
    for strategy in (None, OtherDefaultDevice(torch.device("cpu"))):
        module = condensation(tmp_path, kind(FreshNetworks(NETWORK, mean, mean), real_batch=4), init=init)
        fit(module, StopAfterFirst(), strategy=strategy)
        outputs.append(module.output.read_bytes())
    assert outputs[0] == outputs[1]


def test_every_checkpoint_writes_the_set(tmp_path: Path) -> None:
    iterations = []

    class Read(SaveAt):
        def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
            super().on_train_batch_end(trainer)
            if trainer.global_step == self.step:
                iterations.append(CondensedSet.load(module.output).info.settings["iterations"])

    module = condensation(tmp_path)
    fit(module, Read(2, tmp_path / "a.ckpt"), Read(4, tmp_path / "b.ckpt"))
    assert iterations == [2, 4]


def test_real_start_takes_images_of_the_right_class_and_the_seed_chooses(tmp_path: Path) -> None:
    source = Uneven().train_source
    chosen = []
    for seed in (1, 1, 2):
        module = condensation(tmp_path, ipc=2, seed=seed, learning_rate=0.0)
        fit(module)
        images = CondensedSet.load(module.output).images
        for image, label in zip(images, module.labels, strict=True):
            same = (source.images[source.class_rows[int(label)]].float() / 255 == image).flatten(1).all(1)
            assert same.sum() == 1
        chosen.append(images)
    assert torch.equal(chosen[0], chosen[1])
    assert not torch.equal(chosen[0], chosen[2])


def test_the_published_step_size_is_scaled_by_the_squared_deviation(tmp_path: Path) -> None:
    rates = []
    for method in (matching(), Explosive(99)):
        module = condensation(tmp_path, method)
        fit(module)
        rates.append(CondensedSet.load(module.output).info.settings["learning_rate"])
    stds = torch.tensor(Uneven().train_source.channel_statistics()[1])
    assert rates == pytest.approx([0.09, float(stds.square().mean())])


def test_a_run_starts_from_a_set_in_a_file_and_refuses_one_that_does_not_fit(tmp_path: Path) -> None:
    start = CondensedSet(torch.rand(6, 3, 8, 8), torch.tensor([2, 1, 0, 0, 1, 2]))
    start.save(tmp_path / "start.safetensors")
    module = condensation(tmp_path, ipc=2, init=tmp_path / "start.safetensors", learning_rate=0.0)
    fit(module)
    assert torch.equal(CondensedSet.load(module.output).images, start.images[[2, 3, 1, 4, 0, 5]])
    with pytest.raises(ValueError, match="init: expected a set"):
        fit(condensation(tmp_path, ipc=1, init=tmp_path / "start.safetensors"))


def test_a_set_to_start_from_has_the_classes_in_the_order_of_the_data(tmp_path: Path) -> None:
    fit(condensation(tmp_path, ipc=1))
    made = CondensedSet.load(tmp_path / "set.safetensors")
    names = made.info.class_names
    assert names is not None
    turned = replace(made.info, class_names=names[::-1])
    CondensedSet(made.images, made.labels, info=turned).save(tmp_path / "start.safetensors")
    with pytest.raises(ValueError, match="in another order than those of the data"):
        fit(condensation(tmp_path, ipc=1, init=tmp_path / "start.safetensors"))


class TwoParts(CondensationMethod):
    """A pixel loss in two parts, and a learned scale with a step size of its own."""

    name = "two parts"
    pixel_lr = 1.0

    def __init__(self, joined: bool) -> None:
        super().__init__()
        self.joined, self.scale = joined, torch.nn.Parameter(torch.tensor(2.0))
        self.networks = FreshNetworks(NETWORK)

    def losses(self, images: Tensor, labels: Tensor, real: RealImages, draw: Draw) -> Iterator[LossTerms]:
        halves = [(self.scale * image.square()).mean() for image in images.chunk(2)]
        for value in [torch.stack(halves).sum()] if self.joined else halves:
            yield LossTerms({"square": value}, {"square": 0.5})

    def settings(self) -> dict[str, Any]:
        return {"scale": float(self.scale.detach())}

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": [self.scale], "lr": 0.25}]


def test_parts_give_the_gradient_of_their_sum_and_what_a_method_learns_is_learned(tmp_path: Path) -> None:
    sets = []
    for joined in (False, True):
        module = condensation(tmp_path, TwoParts(joined), ipc=2, learning_rate=0.1)
        fit(module)
        sets.append(CondensedSet.load(module.output))
    assert torch.allclose(sets[0].images, sets[1].images, atol=1e-7)
    assert sets[0].info.settings["scale"] == pytest.approx(sets[1].info.settings["scale"])
    assert sets[0].info.settings["scale"] < 1.9


class BrokenScale(TwoParts):
    """Its loss is NaN from the third iteration on, or its scale leaves the finite numbers at the first step."""

    def __init__(self, rate: float) -> None:
        super().__init__(joined=True)
        self.rate = rate

    def losses(self, images: Tensor, labels: Tensor, real: RealImages, draw: Draw) -> Iterator[LossTerms]:
        for terms in super().losses(images, labels, real, draw):
            yield LossTerms({"square": terms.total() * (100.0 if draw.step < 2 else float("nan"))}, {"square": 1.0})

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": [self.scale], "lr": self.rate}]


def test_what_a_method_learns_goes_back_with_the_pixels(tmp_path: Path) -> None:
    rates = {"once": 0.001, "stopped": 0.001, "broken": 3e38}
    once, stopped, broken = (
        condensation(tmp_path / name, BrokenScale(rate), learning_rate=0.001) for name, rate in rates.items()
    )
    fit(once, StopAfterFirst())
    with pytest.raises(FloatingPointError, match="Lower learning_rate"):
        fit(stopped)
    fit(broken, StopAfterFirst())
    sets = [CondensedSet.load(module.output) for module in (once, stopped, broken)]
    assert sets[0].info.settings["scale"] == sets[1].info.settings["scale"] < 2.0
    assert torch.equal(sets[0].images, sets[1].images)
    assert (sets[2].info.settings["scale"], sets[2].info.settings["iterations"]) == (2.0, 0)


def test_noise_has_the_statistics_of_the_data(tmp_path: Path) -> None:
    module = condensation(tmp_path, ipc=20, init="noise", learning_rate=0.0)
    fit(module)
    images, (mean, std) = CondensedSet.load(module.output).images, Uneven().train_source.channel_statistics()
    assert torch.allclose(images.mean((0, 2, 3)), torch.tensor(mean), atol=0.02)
    assert torch.allclose(images.std((0, 2, 3)), torch.tensor(std), atol=0.02)


@pytest.mark.parametrize("until", [0, 1, 4])
def test_a_loss_that_is_not_finite_stops_with_the_last_good_set(until: int, tmp_path: Path) -> None:
    module = condensation(tmp_path, Explosive(until), learning_rate=0.001, momentum=0.0)
    with pytest.raises(FloatingPointError, match="Lower learning_rate"):
        fit(module)
    good = condensation(tmp_path / "good", Explosive(99), learning_rate=0.001, momentum=0.0, steps_per_epoch=1)
    fit(good)  # two steps
    condensed, reference = CondensedSet.load(module.output), CondensedSet.load(good.output)
    steps = max(0, until - 1)
    assert condensed.info.settings["iterations"] == steps
    assert torch.allclose(condensed.images, reference.images + 0.01 * (2 - steps), atol=1e-6)


def test_a_last_step_that_breaks_the_pixels_is_undone(tmp_path: Path) -> None:
    module = condensation(tmp_path, Explosive(99), learning_rate=1e38)
    start = condensation(tmp_path / "start", Explosive(99), learning_rate=0.0)
    fit(start)
    fit(module, StopAfterFirst())
    condensed = CondensedSet.load(module.output)
    assert condensed.info.settings["iterations"] == 0
    assert torch.equal(condensed.images, CondensedSet.load(start.output).images)


def test_a_run_says_where_its_set_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    module = condensation(tmp_path, Explosive(99))
    with caplog.at_level("INFO", logger="lightning.pytorch"):
        fit(module)
    assert f"condensed set written to {module.output}: evaluate it by 'lightning-condkd evaluate" in caplog.text


def test_a_resumed_run_counts_what_was_undone_before(tmp_path: Path) -> None:
    path = tmp_path / "first.ckpt"
    fit(condensation(tmp_path / "broken", Explosive(99), learning_rate=1e38), SaveAt(1, path), StopAfterFirst())
    resumed = condensation(tmp_path / "resumed", Explosive(99), learning_rate=0.0, momentum=0.0)
    fit(resumed, ckpt_path=path)
    assert CondensedSet.load(resumed.output).info.settings["iterations"] == 5


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="class 'few' has 2 training images"):
        fit(condensation(tmp_path, ipc=3))
    with pytest.raises(TypeError, match="ImageDataModule"):
        fit(condensation(tmp_path), data=L.LightningDataModule())
    with pytest.raises(ValueError, match="class 'absent' has 0 training images, expected at least 1: add one"):
        fit(condensation(tmp_path, init="noise"), data=WithAbsent())
    for count in ("ipc", "steps_per_epoch"):
        with pytest.raises(ValueError, match=f"{count}: expected a positive number"):
            condensation(tmp_path, **{count: 0})
    with pytest.raises(FileNotFoundError, match="init: expected 'real', 'noise' or the file of a set, got 'nosie'"):
        fit(condensation(tmp_path, init="nosie"))
    with pytest.raises(ValueError, match="safetensors"):
        condensation(tmp_path, output="set.pt")
