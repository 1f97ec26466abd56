"""Shared fixtures."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]

os.environ["HF_HUB_OFFLINE"] = "1"  # no test downloads; read when the packages are imported


# A shell starts what it puts into the background deaf to Ctrl-C, and processes of tests would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Bounds of what short runs learn are measured with one thread; more would sum in another order, by the machine's cores.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Numbers of a test do not depend on the tests before it: on what they drew, or on the threads that they set."""
    torch.manual_seed(0)
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def same_environment() -> Iterator[None]:
    """Variables that a run sets in this process, such as its rank and seed, end with the test."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with the CIFAR-10 files that are never committed."""
    folder = Path(os.environ.get("CONDKD_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "resnet20-cifar10.safetensors").is_file():
        pytest.skip("needs the CIFAR-10 files: set CONDKD_DATA")
    return folder
