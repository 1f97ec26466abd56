"""A run that is resumed at the end of an epoch, and once more after that, ends as the run that was left alone."""

from pathlib import Path

import pytest

from tests.inversion import toy
from tests.modules.small_runs import EPOCHS, MODULES, fit


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
