"""Several held-out loaders on two ranks, one of them with fewer images than ranks."""

from pathlib import Path

import pytest

from tests.distributed.conftest import Launch
from tests.distributed.loader_jobs import measure

pytestmark = pytest.mark.ddp


@pytest.mark.parametrize("dictionary", [False, True])
def test_every_image_counts_once_for_its_loader(launch: Launch, dictionary: bool, tmp_path: Path) -> None:
    arguments = {"folder": tmp_path, "dictionary": dictionary}
    (alone,) = launch(measure, **arguments)
    first, second = launch(measure, world_size=2, **arguments)
    assert first == second == pytest.approx(alone)
    assert {f"{stage}/student_accuracy{end}" for stage in ("val", "test") for end in ("", "/loader_1")} <= set(alone)
