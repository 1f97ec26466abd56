"""What breaks on one rank ends the run on all, at the same step and with the same words."""

from __future__ import annotations

import pytest
import torch

from tests.distributed import divergence_jobs
from tests.distributed.conftest import Launch

pytestmark = pytest.mark.ddp
FOUND = {"statistic": "NaN or infinity in student.network.features.1.running_var", "loss": "from step 11 of the run on"}


@pytest.mark.parametrize("what", FOUND)
def test_both_ranks_end_together(what: str, launch: Launch) -> None:
    folder = launch.folder / f"broken-{what}"
    first, second = launch(divergence_jobs.fit_and_break, world_size=2, what=what, folder=folder)
    assert first == second
    assert "the student (optimizer 'student') diverged in round 2" in first["error"]
    assert FOUND[what] in first["error"]
    assert first["step"] <= 2 * divergence_jobs.CADENCE.length
    for path in folder.rglob("*.ckpt"):
        state = torch.load(path, weights_only=True)["state_dict"]
        assert all(bool(v.isfinite().all()) for name, v in state.items() if not name.endswith("kept_loss"))
