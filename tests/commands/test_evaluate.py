import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonargparse import auto_cli

from lightning_condkd.augment import SiameseAugment
from lightning_condkd.cli import _check_recipe, main
from lightning_condkd.commands._evaluation_sets import random_real
from lightning_condkd.commands.evaluate import evaluate
from lightning_condkd.data import CondensedInfo, CondensedSet, DigitsDataModule
from lightning_condkd.data.image_datamodules import load_digits_split
from lightning_condkd.data.image_source import ImageSource
from lightning_condkd.evaluation.batches import TeacherLabels
from lightning_condkd.evaluation.fresh_training import evaluate as train_and_test
from lightning_condkd.evaluation.recipe import Recipe
from lightning_condkd.models import ConvNet, DigitsNet, Observer
from lightning_condkd.models.fresh_networks import FreshNetworks
from lightning_condkd.training.class_order import class_order

SMALL = partial(ConvNet, image_size=8, in_channels=1, depth=2, width=4)
RECIPE = Recipe(epochs=3, augment=None)
NAMES = tuple("0123456789")


class Digits(DigitsDataModule):
    """The digits, with few held-out images and few sevens."""

    def load(self, train: bool) -> ImageSource:
        source = load_digits_split(train)
        kept = (source.labels != 7) | (torch.arange(len(source)) < 30)
        return ImageSource(source.images[kept], source.labels[kept], NAMES) if train else _first(source, 60)


class Letters(Digits):
    """The digits under other names."""

    def load(self, train: bool) -> ImageSource:
        source = super().load(train)
        return ImageSource(source.images, source.labels, ("A/Z", *"bcdefghij"))


class OnlyHeldOut(Digits):
    """The training images are gone."""

    def load(self, train: bool) -> ImageSource:
        if train:
            raise FileNotFoundError("no training images")
        return super().load(train)


def _first(source: ImageSource, n: int) -> ImageSource:
    return ImageSource(source.images[:n], source.labels[:n], source.class_names)


def condensed(folder: Path, *, soft: bool = False, **info: Any) -> str:
    """A set with five images of each class but of class 0, which has ten."""
    labels = torch.cat([torch.arange(10).repeat_interleave(5), torch.zeros(5, dtype=torch.int64)])
    images = torch.rand(55, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    logits = 5 * torch.randn(55, 10, generator=torch.Generator().manual_seed(1)) if soft else None
    facts = CondensedInfo(10, label_kind="logits" if soft else "hard", method="DM")
    path = folder / "set.safetensors"
    CondensedSet(images, labels, logits, replace(facts, **info)).save(path)
    return str(path)


def evaluated(folder: Path, path: str, **options: Any) -> tuple[str, dict[str, Any]]:
    output = folder / "result.json"
    given = {"networks": {"small": SMALL}, "recipe": RECIPE, "runs": 2, "data": Digits(), **options}
    report = evaluate(path, output=str(output), **given)
    return report, json.loads(output.read_text())


def test_a_set_stands_beside_random_real_images_for_every_network(tmp_path: Path) -> None:
    networks = {"small": SMALL, "other": partial(DigitsNet, width=4)}
    report, record = evaluated(tmp_path, condensed(tmp_path), networks=networks)
    rows = [(row["network"], row["set"], row["images"]) for row in record["rows"]]
    # The data has three sevens.
    sizes = [(name, what, n) for name in networks for what, n in (("DM", 55), ("random real", 53))]
    assert rows == sizes
    lines = report.splitlines()
    for line, row in zip(lines[1:5], record["rows"], strict=True):
        for figure in (row["last"], row["calibration_error"]):
            assert f"{100 * figure['mean']:.1f} ± {100 * figure['std']:.1f}" in line
    assert "best: not known" in report
    assert record["networks"]["small"]["parameters"] == sum(p.numel() for p in SMALL().parameters())
    assert record["condensed"]["method"] == "DM"
    assert record["recipe"]["epochs"] == 3


def test_the_control_equals_evaluating_the_same_images_by_hand(tmp_path: Path) -> None:
    _, record = evaluated(tmp_path, condensed(tmp_path), seed=4, test_every=1)
    source, test = Digits().train_source, Digits().val_source
    counts = [10] + 9 * [5]
    images, labels = random_real(source, counts, seed=4)
    assert torch.bincount(labels).tolist() == [10, 5, 5, 5, 5, 5, 5, 3, 5, 5]
    for image, label in zip(images, labels, strict=True):
        same = (source.images.float() / 255 == image).flatten(1).all(1)
        assert label in source.labels[same]
    made = FreshNetworks(SMALL, *source.channel_statistics())
    by_hand = train_and_test(
        images, labels, test.images, test.labels, made, RECIPE, runs=2, seed=4, test_every=1
    ).record()
    control = record["rows"][1]
    assert {name: control[name] for name in by_hand} == by_hand
    assert not torch.equal(images, random_real(source, counts, seed=5)[0])


def test_soft_labels_have_a_row_of_their_own(tmp_path: Path) -> None:
    path = condensed(tmp_path, soft=True)
    kinds = {}
    for labels in ("all", "hard", "soft"):
        _, record = evaluated(tmp_path, path, labels=labels)
        kinds[labels] = [(row["set"], row["labels"]) for row in record["rows"]]
    hard, soft, control = ("DM", "hard"), ("DM", "soft"), ("random real", "hard")
    assert kinds == {"all": [hard, soft, control], "hard": [hard, control], "soft": [soft, control]}
    data, loaded = Digits().val_source, CondensedSet.load(path)
    assert loaded.soft_labels is not None
    made = FreshNetworks(SMALL, *Digits().train_source.channel_statistics())
    by_hand = train_and_test(
        loaded.images, loaded.soft_labels.softmax(1), data.images, data.labels, made, RECIPE, runs=2
    )
    assert record["rows"][0]["calibration_errors"] == list(by_hand.calibration_errors)
    with pytest.raises(ValueError, match="no soft labels"):
        evaluated(tmp_path, condensed(tmp_path), labels="soft")


def digits_teacher() -> Observer:
    return Observer(DigitsNet(), (0.3059,), (0.3754,), weights="package:digits-teacher.safetensors")


def test_probabilities_that_nearly_sum_to_one_are_made_to(tmp_path: Path) -> None:
    path, labels = tmp_path / "soft.safetensors", torch.eye(10).clamp(0.01, 0.93)
    info = CondensedInfo(10, label_kind="probabilities")
    CondensedSet(torch.rand(10, 1, 8, 8), torch.arange(10), labels, info).save(path)
    _, record = evaluated(tmp_path, str(path))
    assert [row["labels"] for row in record["rows"]] == ["hard", "soft", "hard"]


@pytest.mark.parametrize(
    ("names", "others", "order"),
    [
        (("a", "b"), ("A", "b"), "same"),
        (("b", "a"), ("A", "b"), "another"),
        (("a", "A"), ("A", "a"), "another"),
        (("a", "A"), ("a", "A"), "same"),
        (("x/y", "x-y"), ("x-y", "x/y"), "another"),
        (("a", "c"), ("a", "b"), "unknown"),
    ],
)
def test_the_order_of_classes_is_told_by_their_names(
    names: tuple[str, ...], others: tuple[str, ...], order: str
) -> None:
    assert class_order(names, others) == order


def test_a_teacher_labels_the_set_and_the_real_images(tmp_path: Path) -> None:
    path, teacher = condensed(tmp_path), digits_teacher()
    kinds = {}
    for labels in ("all", "teacher"):
        _, record = evaluated(tmp_path, path, labels=labels, teacher=teacher, temperature=4.0)
        kinds[labels] = [(row["set"], row["labels"]) for row in record["rows"]]
    own = [("DM", "hard"), ("random real", "hard")]
    asked = [("DM", "teacher"), ("random real", "teacher")]
    assert kinds == {"all": own + asked, "teacher": asked}
    assert record["teacher"] == {"network": "DigitsNet", "fingerprint": teacher.fingerprint(), "temperature": 4.0}
    data, loaded = Digits().val_source, CondensedSet.load(path)
    made = FreshNetworks(SMALL, *Digits().train_source.channel_statistics())
    by_hand = train_and_test(loaded.images, TeacherLabels(teacher, 4.0), data.images, data.labels, made, RECIPE, runs=2)
    assert record["rows"][0]["calibration_errors"] == list(by_hand.calibration_errors)


def test_a_teacher_that_is_not_asked_or_does_not_fit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightning_condkd.commands.evaluate.train_and_test", lambda *_, **__: pytest.fail("trained"))
    path = condensed(tmp_path)
    wrong: dict[str, dict[str, Any]] = {
        "need a teacher, but there is none": {"labels": "teacher"},
        "temperature need a teacher": {"temperature": 3.0},
        "not used with labels='hard'": {"labels": "hard", "teacher": digits_teacher()},
        "temperature: expected": {"teacher": digits_teacher(), "temperature": 0.0},
        "teacher: expected 10 classes as in the data, .* of shape .2, 3": {"teacher": Observer(DigitsNet(3))},
        "teacher: ConvNet cannot read images of": {"teacher": Observer(ConvNet(10))},
    }
    for message, options in wrong.items():
        with pytest.raises(ValueError, match=message):
            evaluated(tmp_path, path, **options)


def test_the_recipe_of_rded_goes_by_name_and_by_the_size_of_the_set(tmp_path: Path) -> None:
    path = tmp_path / "one.safetensors"
    CondensedSet(torch.rand(10, 1, 8, 8), torch.arange(10), info=CondensedInfo(10, settings={"train_lr": 0.03})).save(
        path
    )
    report, record = evaluated(tmp_path, str(path), recipe="rded", runs=1)
    assert (record["recipe"]["batch_size"], record["recipe"]["epochs"], record["learned_rate"]) == (10, 300, None)
    assert "300 epochs of adamw, learning rate 0.001, by a cosine to 0.0005 at the end" in report
    assert "cutmix" in report


def test_a_rate_that_does_not_fall_is_said_to_stay(tmp_path: Path) -> None:
    report, _ = evaluated(tmp_path, condensed(tmp_path), recipe=replace(RECIPE, drop_at=1), runs=1)
    assert "learning rate 0.01, the same in all" in report


def test_parts_of_a_recipe_may_be_given_twice() -> None:
    _check_recipe(["evaluate", "--recipe", '{"batch_size": 50}', "--recipe.epochs", "1"])
    _check_recipe(["evaluate", "--recipe=dsa", "--recipe.epochs=1"])


def test_classes_of_other_names_are_remarked_on(tmp_path: Path) -> None:
    quick = replace(RECIPE, epochs=1)
    report, _ = evaluated(tmp_path, condensed(tmp_path, class_names=tuple("abcdefghij")), recipe=quick, runs=1)
    assert report.endswith("its classes a, b, c and 7 more, the data 0, 1, 2 and 7 more: are they in the same order?")
    report, _ = evaluated(tmp_path, condensed(tmp_path, class_names=NAMES), recipe=quick, runs=1)
    assert report.endswith("random real: one choice, the same for all networks")


def test_every_recipe_takes_other_epochs(tmp_path: Path) -> None:
    report, record = evaluated(tmp_path, condensed(tmp_path), recipe="dc", epochs=4, runs=1)
    recipe = record["recipe"]
    assert (recipe["epochs"], recipe["drop_epoch"], recipe["augment"]) == (4, 2, None)
    assert "recipe: 4 epochs of sgd" in report
    _, record = evaluated(tmp_path, condensed(tmp_path), recipe="dsa", epochs=1, runs=1)
    mean, std = Digits().train_source.channel_statistics()
    assert record["recipe"]["augment"] == repr(SiameseAugment(fill=mean[0], brightness=std[0] / 2))


@pytest.mark.parametrize("flags", [["--recipe", "dc"], ["--recipe=rded"]])
def test_a_recipe_by_name_and_in_parts_is_refused(flags: list[str]) -> None:
    args = ["evaluate", "package:digits-dm-1ipc.safetensors", "--data=DigitsDataModule", *flags, "--recipe.epochs=2"]
    with pytest.raises(SystemExit, match=r"cannot be changed by --recipe.epochs=2: set --epochs"):
        main(args)


def test_a_learned_step_size_is_used_unless_another_is_given(tmp_path: Path) -> None:
    path = condensed(tmp_path, settings={"train_lr": 0.03})
    report, record = evaluated(tmp_path, path)
    assert "learning rate 0.03, learned with the set" in report
    assert (record["recipe"]["learning_rate"], record["learned_rate"]) == (0.03, 0.03)
    report, record = evaluated(tmp_path, path, recipe=replace(RECIPE, learning_rate=0.02))
    assert "learning rate 0.02, a tenth" in report
    assert (record["recipe"]["learning_rate"], record["learned_rate"]) == (0.02, None)


def test_without_training_images_there_is_no_control_and_statistics_must_be_given(tmp_path: Path) -> None:
    path = condensed(tmp_path)
    with pytest.raises(ValueError, match="give mean and std"):
        evaluated(tmp_path, path, data=OnlyHeldOut())
    report, record = evaluated(tmp_path, path, data=OnlyHeldOut(), mean=[0.3], std=[0.4])
    assert [row["set"] for row in record["rows"]] == ["DM"]
    assert "random real: no row, the data has no training images" in report
    with pytest.raises(ValueError, match="both mean and std"):
        evaluated(tmp_path, path, mean=[0.3])


def test_mistakes_are_named_before_anything_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_condkd.commands.evaluate.train_and_test", lambda *_, **__: pytest.fail("trained"))
    path = condensed(tmp_path)
    wrong = {
        "expected 10 classes as in the data, ConvNet returns logits of shape .2, 3": partial(SMALL, 3),
        "cannot read images of": partial(SMALL, in_channels=3),
        "set batched to false": DigitsNet,
    }
    for message, network in wrong.items():
        with pytest.raises(ValueError, match=message):
            evaluated(tmp_path, path, networks={"small": SMALL, "wrong": network}, batched=True)
    with pytest.raises(ValueError, match="in another order"):
        evaluated(tmp_path, condensed(tmp_path, class_names=NAMES[::-1]))
    with pytest.raises(ValueError, match="in another order"):
        evaluated(tmp_path, condensed(tmp_path, class_names=(*"bcdefghij", "a-z")), data=Letters())
    with pytest.raises(NotADirectoryError, match="would lie below"):
        evaluate(path, data=Digits(), output=f"{path}/result.json")
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(IsADirectoryError, match=r"folder\.json is a folder, expected a file"):
        evaluate(path, data=Digits(), output=str(tmp_path / "folder.json"))
    with pytest.raises(ValueError, match=r"file that ends in \.json"):
        evaluate(path, data=Digits(), output="result.txt")
    other = tmp_path / "other.safetensors"
    CondensedSet(torch.rand(2, 3, 8, 8), torch.tensor([0, 9])).save(other)
    with pytest.raises(ValueError, match="image_shape"):
        evaluated(tmp_path, str(other))
    CondensedSet(torch.rand(2, 1, 8, 8), torch.tensor([0, 1])).save(other)
    with pytest.raises(ValueError, match="num_classes"):
        evaluated(tmp_path, str(other))


def test_the_command_line_judges_a_packaged_set(tmp_path: Path) -> None:
    networks = '{"small": {"class_path": "ConvNet", "init_args": {"image_size": 8, "in_channels": 1, "width": 4}}}'
    output = tmp_path / "result.json"
    teacher = ["--teacher.network=DigitsNet", "--teacher.mean=[0.3059]", "--teacher.std=[0.3754]"]
    teacher += ["--teacher.weights=package:digits-teacher.safetensors", "--labels=all"]
    augment = ["--recipe.augment=SiameseAugment", "--recipe.augment.policy=crop_rotate"]
    options = ["--recipe.epochs=2", *augment, "--runs=1", "--test_every=1"]
    args = ["package:digits-dm-1ipc.safetensors", "--data=DigitsDataModule", f"--output={output}", *options, *teacher]
    report = auto_cli(evaluate, args=[*args, f"--networks={networks}"])
    assert "random real" in report
    assert "best: chosen on the test images" in report
    record = json.loads(output.read_text())
    assert record["networks"]["small"]["network"] == "ConvNet"
    assert (record["recipe"]["epochs"], record["recipe"]["drop_epoch"]) == (2, 1)
    assert "policy=crop_rotate" in record["recipe"]["augment"]
    assert record["rows"][0]["last"]["std"] is None
    assert [row["labels"] for row in record["rows"]] == ["hard", "hard", "teacher", "teacher"]


def test_by_default_the_network_is_the_one_of_the_literature(tmp_path: Path) -> None:
    _, record = evaluated(tmp_path, condensed(tmp_path), networks=None, runs=1, recipe=replace(RECIPE, epochs=1))
    expected = ConvNet(image_size=8, in_channels=1, depth=2)
    assert record["networks"]["ConvNet"]["parameters"] == sum(p.numel() for p in expected.parameters())


@pytest.mark.parametrize(("pixels", "depth"), [(8, 2), (28, 3), (32, 3), (64, 4), (128, 5)])
def test_the_network_of_the_literature_has_a_depth_for_every_size(pixels: int, depth: int) -> None:
    from lightning_condkd.commands.evaluate import _standard_network

    source = ImageSource(torch.zeros(1, 3, pixels, pixels, dtype=torch.uint8), torch.tensor([0]), ("only",))
    network = _standard_network(source)()
    assert sum(isinstance(module, torch.nn.Conv2d) for module in network.modules()) == depth
