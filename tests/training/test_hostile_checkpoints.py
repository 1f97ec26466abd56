"""A checkpoint that would run code is refused, whatever command or module reads it and wherever it lies."""

from __future__ import annotations

import functools
import http.server
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import lightning as L
import pytest
import torch

from lightning_condkd.cli import main
from lightning_condkd.models import DigitsNet, Observer
from lightning_condkd.modules import Classification
from tests.conftest import ROOT

TEACHER = ["--config", str(ROOT / "configs" / "digits" / "teacher.yaml"), "--trainer.logger=false"]
QUICK = ["--config", str(ROOT / "configs" / "quickstart.yaml")]


class Payload:
    """Unpickled, it makes a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "ran"


@pytest.fixture(params=[True, False], ids=["new format", "old format"])
def hostile(request: pytest.FixtureRequest, tmp_path: Path, mark: Path) -> Path:
    path = tmp_path / "hostile.ckpt"
    content = {"state_dict": {}, "pytorch-lightning_version": L.__version__, "callbacks": Payload(mark)}
    torch.save(content, path, _use_new_zipfile_serialization=request.param)
    return path


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))

    class Silent(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Silent, directory=str(tmp_path))
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/hostile.ckpt"
        server.shutdown()


def test_the_payload_works(hostile: Path, mark: Path) -> None:
    torch.load(hostile, weights_only=False)
    assert mark.exists()


@pytest.mark.parametrize("config", [TEACHER, QUICK], ids=["classification", "condkd"])
@pytest.mark.parametrize("command", ["fit", "test", "validate"])
def test_a_hostile_file_is_refused_by_every_command(
    command: str, config: list[str], hostile: Path, mark: Path, tmp_path: Path
) -> None:
    with pytest.raises(SystemExit, match=r"--ckpt_path: refused to read .*hostile.ckpt: it asks for posix\.mkdir"):
        main([command, *config, f"--trainer.default_root_dir={tmp_path}", f"--ckpt_path={hostile}"])
    assert not mark.exists()


@pytest.mark.parametrize("command", ["fit", "test"])
@pytest.mark.usefixtures("hostile")
def test_a_hostile_address_is_refused(command: str, address: str, mark: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"refused to read http://.*hostile.ckpt: it asks for posix\.mkdir"):
        main([command, *TEACHER, f"--trainer.default_root_dir={tmp_path}", f"--ckpt_path={address}"])
    assert (tmp_path / "cache").exists()  # it came that far
    assert not mark.exists()


def test_a_module_reads_no_code(hostile: Path, address: str, mark: Path) -> None:
    for place in (hostile, str(hostile), address):
        with pytest.raises(ValueError, match=r"refused to read .*hostile.ckpt: it asks for posix\.mkdir"):
            Classification.load_from_checkpoint(place, network=Observer(DigitsNet()))
    assert not mark.exists()


def test_reading_code_cannot_be_asked_for(hostile: Path) -> None:
    with pytest.raises(SystemExit, match="--weights_only false would run code"):
        main(["test", *TEACHER, "--weights_only=false"])
