"""A run that is resumed at the end of an epoch, and once more after that, ends as the run that was left alone."""

from pathlib import Path

import pytest
from torch.utils.data import DataLoader, TensorDataset

from lightning_condkd.callbacks import RunSummary
from lightning_condkd.data import CondensedDataModule
from tests.helpers import toy
from tests.helpers.small_runs import EPOCHS, MODULES, EpochMeans, Small, fit


@pytest.mark.parametrize("name", MODULES)
def test_a_run_that_is_resumed_twice_takes_no_step_twice(name: str, tmp_path: Path) -> None:
    make = MODULES[name]
    length = make(tmp_path)[2]
    end, middle = length, 2 * length + 1  # the last step of the first epoch, a step within the third
    whole = fit(make(tmp_path), tmp_path, end)
    again = fit(make(tmp_path), tmp_path, middle, tmp_path / f"{end}.ckpt")
    last = fit(make(tmp_path), tmp_path, EPOCHS * length, tmp_path / f"{middle}.ckpt")
    assert toy.same(whole, again)
    assert toy.same(whole, last)


@pytest.mark.parametrize("name", MODULES)
def test_a_run_in_double_resumes_to_the_bit(name: str, tmp_path: Path) -> None:
    """Its networks are made in single precision, and Lightning would convert them after it has loaded."""
    make = MODULES[name]
    middle = 2 * make(tmp_path)[2] + 1
    whole = fit(make(tmp_path), tmp_path, middle, precision="64-true")
    last = fit(make(tmp_path), tmp_path, EPOCHS * middle, tmp_path / f"{middle}.ckpt", precision="64-true")
    assert toy.same(whole, last)


def with_images(name: str, folder: Path) -> Small:
    module, data, length = MODULES[name](folder)
    if name == "condkd":
        held_out = TensorDataset(toy.condensed_set().images, toy.condensed_set().labels)
        data = CondensedDataModule(toy.condensed_set(), batch_size=8, val_dataloaders=DataLoader(held_out))
    return module, data, length


@pytest.mark.parametrize("epoch", [1, EPOCHS - 1])
@pytest.mark.parametrize("name", ["condkd", "classification", "distillation", "experts"])
def test_a_run_that_ended_before_a_validation_begins_with_it(name: str, epoch: int, tmp_path: Path) -> None:
    length = with_images(name, tmp_path)[2]
    end = (epoch + 1) * length  # saved after the step, before the validation
    logged, again, summary = EpochMeans(), EpochMeans(), RunSummary()
    options = {"limit_val_batches": 1.0, "num_sanity_val_steps": 0}
    whole = fit(with_images(name, tmp_path), tmp_path, end, callbacks=[logged], **options)
    found = fit(
        with_images(name, tmp_path),
        tmp_path,
        10**6,
        tmp_path / f"{end}.ckpt",
        callbacks=[again, summary],
        **options,
    )
    assert toy.same(whole, found)
    assert list(again.by_epoch) == list(range(epoch, EPOCHS))
    for number, values in again.by_epoch.items():
        measured = {key: value for key, value in logged.by_epoch[number].items() if key.startswith("val/")}
        assert measured
        assert measured.items() <= values.items()
    assert summary.last == next(v for k, v in measured.items() if k.endswith(("val/student_accuracy", "val/accuracy")))
    assert [row.get("epoch", row.get("round")) for row in summary.rows] == list(range(epoch, EPOCHS))
