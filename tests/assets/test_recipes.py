"""Recipes by name: ``--config package:NAME`` of every command."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from lightning_condkd.assets import recipes
from lightning_condkd.cli import main
from tests.conftest import ROOT

FILES = sorted(path for path in (ROOT / "configs").rglob("*.yaml"))


def test_every_recipe_of_the_repository_is_found_by_its_name() -> None:
    assert [recipes.recipe_path(f"package:{name}") for name in recipes.available_recipes()] == FILES
    assert all(
        len(recipes.recipe_title(name)) > 20 for name in recipes.available_recipes() if name != "losses/dist.yaml"
    )


def test_those_of_a_wheel_come_first_and_an_installation_without_any_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder ``configs`` that another package left beside this one is not taken for ours."""
    beside, inside = tmp_path / "configs", tmp_path / "lightning_condkd" / "configs"
    beside.mkdir()
    (beside / "theirs.yaml").touch()
    monkeypatch.setattr(recipes, "_FOLDERS", (inside, beside))
    with pytest.raises(FileNotFoundError, match="missing in this installation"):
        recipes.recipe_path("theirs.yaml")
    inside.mkdir(parents=True)
    for folder in (beside, inside):
        (folder / "quickstart.yaml").touch()
    assert recipes.recipe_path("quickstart.yaml") == inside / "quickstart.yaml"


@pytest.mark.parametrize(
    "name", ["../pyproject.yaml", "/etc/passwd", "quickstart", "methods", "assets/../quickstart.yaml"]
)
def test_other_files_are_refused(name: str) -> None:
    with pytest.raises(FileNotFoundError, match="expected the name of a recipe"):
        recipes.recipe_path(name)


@pytest.mark.parametrize("stage", ["fit", "validate", "test", "predict"])
def test_a_command_takes_recipes_laid_over_each_other(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    printed = []
    for first, second in (("package:", "package:"), (f"{ROOT}/configs/", f"{ROOT}/configs/")):
        with pytest.raises(SystemExit) as end:
            main([stage, f"--config={first}cifar10/fast.yaml", "-c", f"{second}methods/cmi.yaml", "--print_config"])
        assert end.value.code == 0
        printed.append(yaml.safe_load(capsys.readouterr().out))
    assert printed[0] == printed[1]
    assert printed[0]["model"]["init_args"]["inversion"]["class_path"].endswith(".CMI")


@pytest.mark.parametrize("command", ["fit", "export", "evaluate"])
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("quikstart.yaml", "got 'quikstart.yaml', did you mean quickstart.yaml?"),
        ("cmi.yaml", "did you mean methods/cmi.yaml?"),
        ("xyz.yaml", "got 'xyz.yaml'; --config package: lists all"),
        ("digits-teacher.safetensors", "expected the name of a recipe"),
    ],
)
def test_an_unknown_recipe_is_refused_with_the_closest(
    command: str, given: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main([command, f"--config=package:{given}"])
    error = capsys.readouterr().err
    assert end.value.code == 2
    assert error.startswith("error: config: ")
    assert said in error


def test_the_scheme_alone_lists_the_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["fit", "--config", "package:"])
    said = capsys.readouterr()
    assert end.value.code == 2  # a script whose name is empty has not run
    assert "got none" in said.err
    lines = said.out.splitlines()
    assert [line.split()[0].removeprefix("package:") for line in lines] == list(recipes.available_recipes())
    assert max(map(len, lines)) < 160


def test_helps_tell_of_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("fit", "export"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        assert "package:NAME for a recipe" in " ".join(capsys.readouterr().out.split())
