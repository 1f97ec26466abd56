"""Names that other projects rely on."""

from __future__ import annotations

import subprocess
import sys

import lightning_condkd


def test_public_names() -> None:
    names = {
        "CondKD",
        "CondensedDataModule",
        "CondensedSet",
        "FeatureAlignment",
        "MemoryBank",
        "Observer",
        "TransferSet",
        "__version__",
    }
    assert set(lightning_condkd.__all__) == names
    assert all(hasattr(lightning_condkd, name) for name in names)


def test_import_has_no_side_effect_on_the_random_stream() -> None:
    code = "import torch; s = torch.get_rng_state(); import lightning_condkd; assert s.equal(torch.get_rng_state())"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
