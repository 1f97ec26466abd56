"""Optimizers in turn, under a trainer's autocast."""

from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_condkd.training.manual_optimization import ManualOptimization


class TwoUpdates(L.LightningModule):
    """Updates a layer, and looks at it once before and once after, all in one step of the trainer."""

    def __init__(self, gradient_clip: float | None = None) -> None:
        super().__init__()
        self.gradient_clip = gradient_clip
        self.automatic_optimization = False
        self.layer, self.images = nn.Linear(3, 3), torch.rand(4, 3)
        self.before, self.after = torch.empty(0), torch.empty(0)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.layer.parameters(), lr=1.0)

    def training_step(self, batch: Tensor, batch_idx: int) -> None:
        self.before = self.layer(self.images).detach()
        with ManualOptimization(self, ["layer"]).turn("layer", self.gradient_clip) as update:
            update(self.layer(self.images).square().sum())
        self.after = self.layer(self.images).detach()


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_what_is_seen_after_a_step_is_the_updated_network(precision: str, tmp_path: Path) -> None:
    module = TwoUpdates()
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = L.Trainer(accelerator="cpu", max_steps=1, precision=precision, default_root_dir=tmp_path, **quiet)  # type: ignore[arg-type]
    trainer.fit(module, DataLoader([torch.zeros(1)]))  # type: ignore[arg-type]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
        expected = module.layer(module.images)
    assert torch.equal(module.after, expected)
    assert not torch.equal(module.after, module.before)


@pytest.mark.parametrize("scale", [1.0, 2.0**10])
def test_a_gradient_is_clipped_to_its_norm_under_a_scaler(scale: float, tmp_path: Path) -> None:
    module, norm = TwoUpdates(gradient_clip=0.25), 0.25
    before = torch.cat([parameter.detach().flatten().clone() for parameter in module.parameters()])
    plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=scale))  # type: ignore[arg-type]
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = L.Trainer(accelerator="cpu", max_steps=1, plugins=[plugin], default_root_dir=tmp_path, **quiet)  # type: ignore[arg-type]
    trainer.fit(module, DataLoader([torch.zeros(1)]))  # type: ignore[arg-type]
    after = torch.cat([parameter.detach().flatten() for parameter in module.parameters()])
    assert float((after - before).norm()) == pytest.approx(norm, rel=1e-3)
