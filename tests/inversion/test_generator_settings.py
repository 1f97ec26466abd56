"""One argument says how a method's generator is made and trained; what it leaves out is as published."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import yaml

from lightning_condkd.cli import main
from lightning_condkd.inversion import CMI, DAFL, DFAD, DFQ, PREDFKD, ZSKT, Fast, GeneratorSettings, Inversion
from lightning_condkd.randomness import seeded_generator
from lightning_condkd.training.run_record import settings
from tests.conftest import ROOT
from tests.helpers import toy

PUBLISHED: dict[Callable[..., Any], tuple[int, int, float, tuple[float, float]]] = {
    Fast: (64, 256, 3e-3, (0.5, 0.999)),
    Fast.cifar: (64, 256, 3e-3, (0.5, 0.999)),
    CMI: (64, 256, 1e-3, (0.5, 0.999)),
    CMI.adversarial: (64, 256, 1e-3, (0.5, 0.999)),
    DAFL: (128, 1000, 0.02, (0.9, 0.999)),
    DAFL.cifar100: (128, 1000, 0.02, (0.9, 0.999)),
    DAFL.mnist: (128, 100, 0.2, (0.9, 0.999)),
    DAFL.datafree: (128, 512, 1e-3, (0.5, 0.999)),
    ZSKT: (128, 100, 1e-3, (0.9, 0.999)),
    DFQ: (64, 256, 1e-3, (0.5, 0.999)),
    DFAD: (128, 256, 1e-3, (0.9, 0.999)),
    DFAD.datafree: (128, 256, 1e-3, (0.5, 0.999)),
    PREDFKD: (128, 1000, 0.02, (0.9, 0.999)),
    PREDFKD.released_code: (128, 1000, 0.02, (0.9, 0.999)),
}
INVERSION = "--model.init_args.inversion"
every_setting = pytest.mark.parametrize("make", PUBLISHED, ids=lambda make: make.__qualname__)
every_method = pytest.mark.parametrize("method", [kind for kind in PUBLISHED if isinstance(kind, type)])


@every_setting
def test_what_is_left_out_is_as_published(make: Callable[..., Any]) -> None:
    width, latent_size, lr, betas = PUBLISHED[make]
    assert make().generator_settings.numbers == PUBLISHED[make]
    given = GeneratorSettings(latent_size=7)
    assert make(generator=given).generator_settings.numbers == (width, 7, lr, betas)
    given = GeneratorSettings(width=3, lr=0.5, betas=(0.1, 0.2))
    assert make(generator=given).generator_settings.numbers == (3, latent_size, 0.5, (0.1, 0.2))


@every_method
def test_every_number_is_used(method: type[Inversion]) -> None:
    made = method(batch_size=4, generator=GeneratorSettings(2, 5, lr=0.25, betas=(0.1, 0.2)))  # type: ignore[call-arg]
    made.build(toy.spec(mean=(0.25,), std=(0.5,)), seeded_generator(0, "build"))
    first, *_ = made.optimizers()["synthesis"].param_groups
    assert (first["lr"], first["betas"]) == (0.25, (0.1, 0.2))
    wide = method(batch_size=4, generator=GeneratorSettings(4, 5))  # type: ignore[call-arg]
    wide.build(toy.spec(mean=(0.25,), std=(0.5,)), seeded_generator(0, "build"))
    sizes = [sum(parameter.numel() for parameter in one.parameters()) for one in (made, wide)]
    assert sizes[0] < sizes[1]


@every_method
def test_a_network_in_place_of_settings_is_refused(method: type[Inversion]) -> None:
    with pytest.raises(TypeError, match=r"got ConvGenerator: .* as GeneratorSettings\(network=...\)"):
        method(generator=toy.small_generator())  # type: ignore[call-arg]


@pytest.mark.parametrize("numbers", [{"width": 0}, {"latent_size": -1}, {"lr": -0.1}, {"betas": (0.5, 1.0)}])
def test_numbers_out_of_range_are_refused(numbers: dict[str, Any]) -> None:
    (name,) = numbers
    with pytest.raises(ValueError, match=f"expected {name} of the generator"):
        GeneratorSettings(**numbers)


def _printed(capsys: pytest.CaptureFixture[str], *flags: str) -> dict[str, Any]:
    with pytest.raises(SystemExit) as end:
        main(["fit", f"--config={ROOT / 'configs' / 'quickstart.yaml'}", *flags, "--print_config"])
    assert end.value.code == 0
    inversion: dict[str, Any] = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]["inversion"]
    return dict(inversion["init_args"]["generator"])


def test_one_number_is_set_from_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    """The others stay as the configuration or the method has them, and are printed."""
    stated = {"width": 8, "latent_size": 64, "lr": 0.01, "betas": [0.5, 0.999], "network": None}
    assert _printed(capsys, f"{INVERSION}.init_args.generator.width=8") == stated


def test_a_network_is_named_from_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    flag = f"{INVERSION}.init_args.generator.network"
    shape = f"{flag}.init_args.image_shape=[1, 8, 8]"
    printed = _printed(capsys, f"{flag}=ConvGenerator", shape, f"{flag}.init_args.width=3")
    assert printed["network"]["class_path"].endswith("ConvGenerator")
    assert printed["network"]["init_args"]["width"] == 3
    assert printed["latent_size"] == 64


def test_the_record_of_a_run_names_the_numbers_as_before() -> None:
    """A checkpoint of a run with the same numbers does not differ."""
    record = settings(DFAD(generator=GeneratorSettings(lr=0.5)))
    known = {"latent_size": 256, "generator_lr": 0.5, "betas": [0.9, 0.999], "generator_width": 128}
    assert {name: record[name] for name in known} == known
    assert settings(Fast(generator=GeneratorSettings(8)))["generator_width"] == 8
