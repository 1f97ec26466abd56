"""One part of each kind written outside the package: how many lines it takes, and that it runs."""

# Written as a user may write them, without types.
# ruff: noqa: ANN001, ANN201

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn
from torch.optim import Adam

from lightning_condkd.alignment import FeatureAlignment
from lightning_condkd.alignment.discriminators import Discriminator, DiscriminatorOutput
from lightning_condkd.cli import main
from lightning_condkd.condensation import CondensationMethod
from lightning_condkd.data import CondensedSet, DigitsDataModule
from lightning_condkd.distillation import DistillationLoss
from lightning_condkd.functional.inversion import class_loss
from lightning_condkd.inversion import Inversion
from lightning_condkd.models import ConvNet, DigitsNet
from lightning_condkd.models.fresh_networks import FreshNetworks
from lightning_condkd.modules import Condensation
from lightning_condkd.rounds import Cadence
from lightning_condkd.types import LossTerms, Synthetic
from tests.conftest import ROOT
from tests.helpers import toy

NETWORK = partial(ConvNet, 10, image_size=8, in_channels=1, depth=1, width=4)


# fmt: off
class Pixels(Inversion):
    def __init__(self, steps: int = 2, batch_size: int = 12) -> None:
        super().__init__(Cadence(steps, 2), batch_size)
    def make(self, spec, generator):
        self.pixels = nn.Parameter(torch.rand(self.batch_size, *spec.image_shape, generator=generator))
    def make_optimizers(self):
        return {"synthesis": Adam([self.pixels], lr=0.1)}
    def begin(self, unit, draw):
        self.pixels.copy_(torch.rand(self.pixels.shape, generator=draw.generator("pixels")))
    def render(self, unit, draw):
        return Synthetic(self.pixels[draw.rows], None)
    def loss(self, synthetic, observe, student, unit, draw):
        output = observe(self.view(synthetic.images, unit, draw))
        return LossTerms({"class": class_loss(output.logits, output.logits.argmax(1))}, {"class": 1.0}), output


class Sharper(Discriminator):
    def score(self, features, realness, labels):
        return DiscriminatorOutput(2 * realness)


class Squared(DistillationLoss):
    def forward(self, student, teacher, labels=None):
        return (student.logits - teacher.logits).square().mean()


class Means(CondensationMethod):
    name, pixel_lr = "means", 1.0
    def __init__(self) -> None:
        super().__init__()
        self.networks = FreshNetworks(NETWORK)
    def losses(self, images, labels, real, draw):
        yield LossTerms({"mean": (images.mean() - 0.5).square()}, {"mean": 1.0})
    settings = dict
# fmt: on

MOST_LINES = {Pixels: 14, Sharper: 3, Squared: 2, Means: 8}  # below the class statement


@pytest.mark.parametrize("part", MOST_LINES, ids=lambda part: part.__name__)
def test_a_part_takes_few_lines(part: type) -> None:
    _, *body = inspect.getsource(part).splitlines()
    assert len(body) <= MOST_LINES[part]


def test_own_method_discriminator_and_loss_run_in_a_fit() -> None:
    alignment = FeatureAlignment(Sharper((8,)))
    student = toy.network("student 1")
    run = toy.fit(toy.condkd(Pixels(), alignment, student=student, distillation=Squared()), max_epochs=2)
    assert run.bank.images_seen == 2 * 12
    assert {"synthesis/class", "synthesis/alignment", "distillation/loss"} <= run.metrics.keys()
    assert not toy.same(dict(student.state_dict()), dict(toy.network("student 1").state_dict()))


def test_blocks_of_an_own_method_differ() -> None:
    """What a block keeps is forgotten at the next, though the method does nothing for that."""
    run = toy.fit(toy.condkd(Pixels()), max_epochs=3)
    first, second = run.bank.images[:12], run.bank.images[12:24]
    assert not torch.equal(first, second)


def test_an_own_condensation_method_runs_in_a_fit(tmp_path: Path) -> None:
    module = Condensation(Means(), output=tmp_path / "set.safetensors", init="noise", steps_per_epoch=20, seed=0)
    toy.silent_trainer(max_epochs=1).fit(module, DigitsDataModule(seed=0))
    made = CondensedSet.load(module.output)
    assert made.info.method == "means"


def test_own_method_discriminator_and_loss_run_from_the_command_line(tmp_path: Path) -> None:
    own = f"{__name__}."
    parts: dict[str, Any] = {
        "inversion": {"class_path": f"{own}Pixels", "init_args": {"batch_size": 8}},
        "alignment": {
            "class_path": "FeatureAlignment",
            "init_args": {"discriminator": {"class_path": f"{own}Sharper"}},
        },
        "distillation": {"class_path": f"{own}Squared"},
    }
    config = tmp_path / "own.yaml"
    config.write_text(yaml.safe_dump({"model": {"init_args": parts}}))
    short = ["--trainer.max_epochs=1", f"--trainer.default_root_dir={tmp_path}", "--trainer.limit_val_batches=1"]
    main(["fit", f"--config={ROOT / 'configs' / 'quickstart.yaml'}", f"--config={config}", *short])
    (saved,) = tmp_path.rglob("config.yaml")
    assert yaml.safe_load(saved.read_text())["model"]["init_args"]["inversion"]["class_path"].endswith("Pixels")


class Activated(DigitsNet):
    """A network as those of torchvision's transformers, whose default argument no YAML can hold."""

    def __init__(self, activation: Callable[..., nn.Module] = partial(nn.LeakyReLU, 0.1)) -> None:  # noqa: B008
        super().__init__(width=8)
        self.features[2] = activation()


def test_a_default_that_yaml_cannot_hold_is_left_out(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    quick = ["fit", f"--config={ROOT / 'configs' / 'quickstart.yaml'}", "--trainer.callbacks=[]"]
    short = ["--trainer.max_epochs=2", "--trainer.limit_val_batches=1", f"--trainer.default_root_dir={tmp_path}"]
    main([*quick, *short, f"--model.init_args.student={__name__}.Activated"])
    (saved,) = tmp_path.rglob("config.yaml")
    assert yaml.safe_load(saved.read_text())["model"]["init_args"]["student"]["class_path"].endswith("Activated")
    for text in (saved.read_text(), *capfd.readouterr()):
        assert "activation" not in text
        assert "serialize" not in text
    main(["test", f"--config={saved}", f"--ckpt_path={next(tmp_path.rglob('*.ckpt'))}"])
    assert "test/student_accuracy" in capfd.readouterr().out
