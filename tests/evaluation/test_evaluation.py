from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_condkd.augment import Augment, AugmentParameters, SiameseAugment
from lightning_condkd.data.image_datamodules import load_digits_split
from lightning_condkd.evaluation.batches import Batches, TeacherLabels
from lightning_condkd.evaluation.fresh_training import evaluate
from lightning_condkd.evaluation.network_batch import NetworkBatch
from lightning_condkd.evaluation.recipe import Recipe
from lightning_condkd.evaluation.result import Evaluation, calibration_error
from lightning_condkd.models import ConvNet, DigitsNet, Observer
from lightning_condkd.models.fresh_networks import FreshNetworks
from lightning_condkd.randomness import seeded_generator
from tests.reference import evaluation as reference

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)


class Counting(Augment):
    """Changes nothing, and notes the sizes of what it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def sample(self, n: int, generator: torch.Generator) -> AugmentParameters:
        self.sizes.append(n)
        return {"nothing": torch.rand(n, generator=generator)}

    def transform(self, images: Tensor, parameters: AugmentParameters) -> Tensor:
        return images


def network(norm: str = "instance", dropout: float = 0.0) -> nn.Module:
    body = ConvNet(3, image_size=8, depth=1, width=4, norm=norm).double()  # type: ignore[arg-type]
    return nn.Sequential(body.features, nn.Dropout(dropout), body.classifier)


def networks(norm: str = "instance", dropout: float = 0.0) -> FreshNetworks:
    return FreshNetworks(partial(network, norm, dropout), MEAN, STD)


def task(n: int = 10, soft: bool = False) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A set in which the brightness tells the class, more or less, and 700 images to test on."""
    generator = torch.Generator().manual_seed(0)
    labels, test_labels = torch.arange(n) % 3, torch.arange(700) % 3
    images = (0.5 * torch.rand(n, 3, 8, 8, generator=generator) + labels.view(-1, 1, 1, 1) / 4).double()
    test = torch.rand(700, 3, 8, 8, generator=generator) / 2 + test_labels.view(-1, 1, 1, 1) / 4
    return images, torch.rand(n, 3, generator=generator).softmax(1) if soft else labels, test, test_labels


def evaluated(recipe: Recipe, *, n: int = 10, made: FreshNetworks | None = None, **options: Any) -> Evaluation:
    return evaluate(*task(n), made or networks(), recipe, **{"runs": 2, **options})


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize(("soft", "mirrored"), [(False, False), (True, False), (False, True)])
def test_the_figures_equal_those_of_the_published_loop(soft: bool, mirrored: bool, batched: bool) -> None:
    images, labels, test, test_labels = task(soft=soft)
    recipe = Recipe(epochs=12, learning_rate=0.05, drop_at=0.5, augment=None, mirrored=mirrored)
    result = evaluate(images, labels, test, test_labels, networks(), recipe, runs=2, seed=3, batched=batched)
    if mirrored:
        images, labels = torch.cat([images, images.flip(3)]), torch.cat([labels, labels])
    for run in range(2):
        one = networks().make(seeded_generator(3, "network", run))
        reference.train(one, images, labels.double() if soft else labels, epochs=12, drop_after=6, rate=0.05)
        logits = one(test.double()).logits
        assert result.last[run] == reference.accuracy(logits, test_labels)
        assert result.calibration_errors[run] == pytest.approx(reference.calibration_error(logits, test_labels))
    assert result.best is None


def teacher(seed: int = 9) -> Observer:
    return networks().make(torch.Generator().manual_seed(seed)).eval()


@pytest.mark.parametrize("batched", [False, True])
def test_distilling_by_adamw_equals_the_published_loop(batched: bool) -> None:
    images, _, test, test_labels = task()
    recipe = Recipe(
        epochs=12, drop_at=1, weight_decay=0.01, augment=None, optimizer="adamw", cosine_stretch=2, learning_rate=None
    )
    labels = TeacherLabels(teacher(), temperature=3.0)
    result = evaluate(images, labels, test, test_labels, networks(), recipe, runs=2, seed=3, batched=batched)
    for run in range(2):
        one = networks().make(seeded_generator(3, "network", run))
        reference.distil(one, teacher(), images, epochs=12, temperature=3.0)
        logits = one(test.double()).logits
        assert result.last[run] == reference.accuracy(logits, test_labels)
        assert result.calibration_errors[run] == pytest.approx(reference.calibration_error(logits, test_labels))


@pytest.mark.parametrize("asked", [False, True])
def test_boxes_cosine_and_teacher_work_for_networks_in_one_batch(asked: bool) -> None:
    images, labels, test, test_labels = task()
    recipe, labels = Recipe.rded(ipc=1), TeacherLabels(teacher()) if asked else labels
    recipe = replace(recipe, epochs=9, batch_size=4)
    loop, batch = (
        evaluate(images, labels, test, test_labels, networks(), recipe, runs=3, test_every=2, batched=batched)
        for batched in (False, True)
    )
    assert batch.accuracies == loop.accuracies
    assert batch.calibration_errors == pytest.approx(loop.calibration_errors, rel=1e-6)
    without = evaluate(images, labels, test, test_labels, networks(), replace(recipe, cutmix=False), runs=3)
    assert without.calibration_errors != loop.calibration_errors


def test_mixed_targets_follow_the_pixels_and_a_teacher_sees_the_mixed_view() -> None:
    values = torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64)
    images, recipe = values.view(3, 1, 1, 1).expand(3, 3, 8, 8), Recipe(batch_size=2, augment=None, cutmix=True)
    shares = set()
    for epoch in range(8):
        stored = list(Batches(images, torch.eye(3).double(), recipe, None, 0, [0, 1]).epoch(epoch))
        by_teacher = list(Batches(images, TeacherLabels(teacher()), recipe, None, 0, [0, 1]).epoch(epoch))
        for (views, targets), (same, predictions) in zip(stored, by_teacher, strict=True):
            assert torch.allclose(targets @ values, views.mean((2, 3, 4)))
            assert torch.equal(views, same)
            assert torch.allclose(predictions[1], teacher()(views[1]).logits)
            shares |= set(targets.flatten().tolist())
    assert len(shares) > 10


def test_rded_shows_small_images_whole_and_has_the_numbers_of_its_code() -> None:
    recipe, images = Recipe.rded(), torch.rand(200, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    assert isinstance(recipe.augment, Augment)
    views = recipe.augment(images, recipe.augment.sample(200, torch.Generator().manual_seed(1)))
    same = [bool((view == image).all()) for view, image in zip(views, images, strict=True)]
    mirrored = [bool((view == image.flip(2)).all()) for view, image in zip(views, images, strict=True)]
    assert all(a or b for a, b in zip(same, mirrored, strict=True))
    assert 60 < sum(mirrored) < 140
    assert (recipe.epochs, recipe.weight_decay, recipe.momentum, recipe.full_rate) == (300, 0.01, 0.9, 0.001)
    assert (recipe.cosine_stretch, recipe.cutmix, recipe.optimizer) == (2, True, "adamw")
    assert "scale=(0.5, 1.0)" in repr(Recipe.rded(factor=2).augment)


def test_a_teacher_is_set_to_eval() -> None:
    bn, data = FreshNetworks(partial(network, "batch"), MEAN, STD), task()
    by = [bn.make(torch.Generator().manual_seed(9)).train(mode) for mode in (True, False)]
    results = [evaluate(data[0], TeacherLabels(one), *data[2:], networks(), Recipe(epochs=3), runs=1) for one in by]
    assert results[0] == results[1]


def test_a_teacher_is_not_changed_and_gets_no_gradient() -> None:
    one = teacher()
    before = one.fingerprint()
    data = task()
    evaluate(data[0], TeacherLabels(one), *data[2:], networks(), Recipe(epochs=3), runs=1)
    assert one.fingerprint() == before
    assert not one.training
    assert all(parameter.grad is None for parameter in one.parameters())


@pytest.mark.parametrize(
    ("number", "expected"), [((1, 10), 10), ((5, 10), 10), ((10, 10), 50), ((50, 10), 100), ((10, 100), 100)]
)
def test_the_recipe_of_rded_has_its_batch_by_the_size_of_the_set(number: tuple[int, int], expected: int) -> None:
    assert Recipe.rded(*number).batch_size == expected


def test_a_teacher_teaches_where_labels_are_wrong() -> None:
    train, test = load_digits_split(train=True), load_digits_split(train=False)
    rows = torch.cat([rows[:10] for rows in train.class_rows])
    images, wrong = train.images[rows].float() / 255, (train.labels[rows] + 1) % 10
    asked = TeacherLabels(
        Observer(DigitsNet(), (0.3059,), (0.3754,), weights="package:digits-teacher.safetensors").eval()
    )
    made = FreshNetworks(partial(ConvNet, image_size=8, in_channels=1, depth=2, width=16), (0.3,), (0.37,))
    augment = SiameseAugment("crop_scale_rotate", fill=0.0)
    recipe = replace(Recipe.rded(), epochs=60, learning_rate=0.01, augment=augment)
    # Seeds 0 to 3, two runs each: 0.81 to 0.90 by the teacher, 0.00 to 0.01 by the wrong labels.
    last = [evaluate(images, by, test.images, test.labels, made, recipe, runs=2).last for by in (asked, wrong)]
    assert min(last[0]) > 0.7
    assert max(last[1]) < 0.1


def test_networks_in_one_batch_learn_what_each_learns_alone() -> None:
    recipe = Recipe(epochs=9, batch_size=4, augment=SiameseAugment())
    loop, batch = (evaluated(recipe, runs=3, test_every=2, batched=batched) for batched in (False, True))
    assert loop.epochs == (2, 4, 6, 8, 9)
    assert batch.accuracies == loop.accuracies
    assert batch.calibration_errors == pytest.approx(loop.calibration_errors, rel=1e-9)
    assert len(set(loop.calibration_errors)) == 3


def test_gradients_of_a_batch_stay_with_their_network() -> None:
    alone = [networks().make(seeded_generator(0, "network", run)) for run in range(2)]
    batch = NetworkBatch(alone)
    images = torch.rand(2, 5, 3, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    batch(images)[0].square().sum().backward()
    alone[0](images[0]).logits.square().sum().backward()
    for stacked, own in zip(batch.parameters(), alone[0].parameters(), strict=True):
        assert stacked.grad is not None
        assert own.grad is not None
        assert torch.allclose(stacked.grad[0], own.grad, rtol=1e-9, atol=1e-12)
        assert not stacked.grad[1].any()


@pytest.mark.parametrize(("made", "what"), [(networks("batch"), "BatchNorm"), (networks(dropout=0.5), "dropout")])
def test_networks_that_cannot_be_stacked_are_refused_and_trained_one_by_one(made: FreshNetworks, what: str) -> None:
    recipe = Recipe(epochs=2)
    with pytest.raises(ValueError, match=f"{what}.*set batched to false"):
        evaluated(recipe, made=made, batched=True)
    assert len(evaluated(recipe, made=made).last) == 2


@pytest.mark.parametrize("made", [networks(), networks("batch"), networks(dropout=0.5)])
def test_results_follow_the_seed_and_leave_the_global_stream_alone(made: FreshNetworks) -> None:
    recipe, figures = Recipe(epochs=3, batch_size=4), []
    for seed in (0, 0, 1):
        torch.rand(len(figures) + 1)
        state = torch.random.get_rng_state()
        figures.append(evaluated(recipe, made=made, seed=seed))
        assert torch.equal(state, torch.random.get_rng_state())
    assert figures[0] == figures[1]
    assert figures[0].calibration_errors != figures[2].calibration_errors


def test_more_runs_and_more_tests_change_no_run() -> None:
    recipe = Recipe(epochs=6, batch_size=4)
    for made in (networks(), networks("batch")):
        few, many = evaluated(recipe, made=made), evaluated(recipe, made=made, runs=3, test_every=1)
        assert many.last[:2] == few.last
        assert many.calibration_errors[:2] == few.calibration_errors
        assert many.best == tuple(max(run) for run in many.accuracies)
        assert (few.best, few.epochs, len(many.epochs)) == (None, (6,), 6)


def test_every_image_of_a_batch_has_parameters_of_its_own_and_no_batch_is_dropped() -> None:
    augment = Counting()
    evaluated(Recipe(epochs=3, batch_size=4, augment=augment), runs=1)
    assert augment.sizes == 3 * [4, 4, 2]


class Noting(Augment):
    """Writes what was drawn for an image into its second channel."""

    def sample(self, n: int, generator: torch.Generator) -> AugmentParameters:
        return {"drawn": torch.rand(n, generator=generator)}

    def transform(self, images: Tensor, parameters: AugmentParameters) -> Tensor:
        drawn = parameters["drawn"].view(-1, 1, 1).expand(-1, *images.shape[2:])
        return torch.stack([images[:, 0], drawn.to(images)], dim=1)


@pytest.mark.parametrize("batch_size", [64, 20])
def test_every_epoch_and_every_run_has_an_order_and_views_of_its_own(batch_size: int) -> None:
    images = torch.arange(64.0).view(64, 1, 1, 1).expand(64, 2, 2, 2)
    batches = Batches(images, torch.arange(64), Recipe(batch_size=batch_size), Noting(), 0, [0, 1])
    orders, draws = set(), set()
    for epoch in range(3):
        views = torch.cat([views for views, _ in batches.epoch(epoch)], dim=1)[..., 0, 0]
        targets = torch.cat([targets for _, targets in batches.epoch(epoch)], dim=1)
        assert torch.equal(views[..., 0], targets.float())
        assert views[..., 0].sort(1).values.tolist() == 2 * [list(range(64))]
        orders |= {tuple(run) for run in views[..., 0].tolist()}
        draws |= set(views[..., 1].flatten().tolist())
    assert len(orders) == 3 * 2
    assert len(draws) == 3 * 2 * 64


def test_a_policy_by_name_has_the_strength_for_the_networks() -> None:
    by_name, written = (
        evaluated(Recipe(epochs=4, augment=augment))
        for augment in ("dsa", SiameseAugment(fill=sum(MEAN) / 3, brightness=sum(STD) / 6))
    )
    assert by_name == written
    assert by_name != evaluated(Recipe(epochs=4, augment=SiameseAugment()))


def test_published_recipes_make_one_pass_more_than_they_say_and_drop_the_rate_where_their_code_does() -> None:
    for recipe, setting in ((Recipe.dsa(), 1000), (Recipe.dc(), 300)):
        rates, rate = [], 0.01
        for epoch in range(setting + 1):
            rates.append(rate)
            if epoch == setting // 2 + 1:
                rate *= 0.1
        assert [recipe.rate(epoch) for epoch in range(recipe.epochs)] == pytest.approx(rates)
    assert Recipe.dsa().augment is not None
    assert Recipe.dc().augment is None


def test_calibration_error_equals_its_definition_and_survives_certainty() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, labels = 3 * torch.randn(400, 5, generator=generator), torch.arange(400) % 5
    assert calibration_error(logits, labels) == pytest.approx(reference.calibration_error(logits, labels), abs=1e-6)
    assert calibration_error(1e3 * logits, logits.argmax(1)) < 1e-5


def test_real_images_teach_what_noise_does_not() -> None:
    train, test = load_digits_split(train=True), load_digits_split(train=False)
    rows = torch.cat([rows[:10] for rows in train.class_rows])
    real = train.images[rows].float() / 255
    noise = torch.rand(real.shape, generator=torch.Generator().manual_seed(0))
    made = FreshNetworks(partial(ConvNet, image_size=8, in_channels=1, depth=2, width=16), (0.3,), (0.37,))
    recipe = Recipe(epochs=100, learning_rate=0.05, augment=SiameseAugment("crop_scale_rotate", fill=0.0))
    last = [evaluate(x, train.labels[rows], test.images, test.labels, made, recipe, runs=2).last for x in (real, noise)]
    assert min(last[0]) > 0.7
    assert max(last[1]) < 0.35


def test_a_run_that_diverges_is_named() -> None:
    with pytest.raises(FloatingPointError, match="learning_rate=1e\\+200"):
        evaluated(Recipe(epochs=3, learning_rate=1e200))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epochs": 0}, "epochs"),
        ({"batch_size": 0}, "batch_size"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"drop_at": 1.5}, "drop_at"),
        ({"optimizer": "adam"}, "optimizer: expected one of sgd, adamw"),
        ({"cosine_stretch": 2}, "drop_at: expected 1 if cosine_stretch is set"),
        ({"cosine_stretch": 0.5, "drop_at": 1}, "cosine_stretch: expected at least 1"),
    ],
)
def test_recipes_that_make_no_sense_are_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recipe(**arguments)  # type: ignore[arg-type]


def test_images_in_bytes_train_networks_like_their_pixels() -> None:
    images, labels, test, test_labels = task()
    levels = (255 * images.clamp(0, 1)).to(torch.uint8)
    recipe = Recipe(epochs=4, batch_size=4, mirrored=True)
    results = [
        evaluate(one, labels, test, test_labels, networks(), recipe, runs=1) for one in (levels, levels.double() / 255)
    ]
    assert results[0].calibration_errors == results[1].calibration_errors


@pytest.mark.parametrize(
    ("position", "value", "message"),
    [
        (0, torch.zeros(10, 3, 8, 8, dtype=torch.int32), "images: expected uint8, or floating point"),
        (0, torch.zeros(10, 1, 8, 8), "one shape"),
        (1, torch.full((10,), 3), "have 3 classes, found 3"),
        (1, torch.zeros(9, dtype=torch.int64), "labels: expected int64"),
        (1, torch.randn(10, 3), "take the softmax"),
        (1, torch.full((10, 4), 0.25), "take the softmax"),
        (1, TeacherLabels(Observer(ConvNet(4, image_size=8, depth=1, width=4))), "expected a teacher of 3 classes"),
        (1, TeacherLabels(teacher(), temperature=0.0), "and a positive temperature"),
        (3, torch.zeros(5, dtype=torch.int64), "test_labels: expected int64"),
    ],
)
def test_data_that_do_not_fit_are_refused(position: int, value: Any, message: str) -> None:
    data = list(task())
    data[position] = value
    with pytest.raises(ValueError, match=message):
        evaluate(*data, networks(), Recipe(epochs=1))  # type: ignore[misc]


def test_counts_must_make_sense() -> None:
    for arguments in ({"runs": 0}, {"test_every": -1}):
        with pytest.raises(ValueError, match="expected runs of at least 1"):
            evaluated(Recipe(epochs=1), **arguments)
