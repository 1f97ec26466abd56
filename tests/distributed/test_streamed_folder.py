"""A folder that the workers of two ranks read."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn

from lightning_condkd.augment import ResizedCrop
from lightning_condkd.data import StreamedFolderDataModule
from lightning_condkd.distributed import world_size
from tests.distributed.conftest import Launch
from tests.helpers import photos, toy


class Noting(L.LightningModule):
    """Notes the batches of training and validation."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.trained: list[tuple[Tensor, ...]] = []
        self.measured: list[tuple[Tensor, ...]] = []

    def training_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> Tensor:
        self.trained.append(tuple(batch))
        return self.weight.sum()

    def validation_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> None:
        self.measured.append(tuple(batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def batches(root: str, workers: int) -> dict[str, Tensor]:
    """What this rank sees in two epochs."""
    several = {"devices": 2, "strategy": DDPStrategy(process_group_backend="gloo")} if world_size() > 1 else {}
    trainer = toy.silent_trainer(max_epochs=2, num_sanity_val_steps=0, default_root_dir=root, **several)
    data = StreamedFolderDataModule(
        root, image_size=8, crop=ResizedCrop(), num_workers=workers, batch_size=4, eval_batch_size=5, seed=1
    )
    data.with_rows = True
    module = Noting()
    trainer.fit(module, data)
    parts = {name: getattr(module, name) for name in ("trained", "measured")}
    found = {
        f"{name} {n}": torch.cat([b[n] for b in seen]) for name, seen in parts.items() for n in range(len(seen[0]))
    }
    return found | {"sizes": torch.tensor([len(b[1]) for seen in parts.values() for b in seen])}


@pytest.mark.ddp
def test_two_ranks_see_the_batches_of_one(launch: Launch, tmp_path: Path) -> None:
    photos.write(tmp_path / "train", ["a", "b"], 6)
    photos.write(tmp_path / "test", ["a", "b"], 5)
    (one,) = launch(batches, root=str(tmp_path), workers=1)
    two = launch(batches, world_size=2, root=str(tmp_path), workers=1)
    assert one["sizes"].tolist() == [4] * 6 + [5, 5, 1] * 2
    assert [rank["sizes"].tolist() for rank in two] == [[2] * 6 + [3, 3, 1] * 2, [2] * 6 + [2, 2, 0] * 2]
    for n in range(3):
        for rank, own in enumerate(two):
            assert torch.equal(own[f"trained {n}"], one[f"trained {n}"][rank::2])
    per_epoch = one["measured 1"].view(2, 11)
    assert [rank["measured 1"].view(2, -1).tolist() for rank in two] == [
        per_epoch[:, [0, 2, 4, 5, 7, 9, 10]].tolist(),
        per_epoch[:, [1, 3, 6, 8]].tolist(),
    ]
