"""What two ranks predict."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from lightning.pytorch.strategies import DDPStrategy
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lightning_condkd.callbacks import PredictionFile
from lightning_condkd.data import ImageFolderDataModule
from lightning_condkd.distributed import world_size
from tests.helpers import toy


class Stream(IterableDataset[torch.Tensor]):
    """Images without numbers."""

    def __init__(self, images: torch.Tensor) -> None:
        self.images = images

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter(self.images)


def predict(
    folder: str, images: str | None = None, rows: int = 7, batch: int = 2, stream: bool = False
) -> dict[str, str]:
    """Predict images of a folder or of a loader; return the file, or what this rank says."""
    drawn = torch.rand(rows, *toy.SHAPE, generator=torch.Generator().manual_seed(0))
    dataset = Stream(drawn) if stream else TensorDataset(drawn, torch.arange(rows))
    loader = DataLoader(dataset, batch_size=batch)
    data = loader if images is None else ImageFolderDataModule(images, channels=1, eval_batch_size=batch)
    output = Path(folder, f"{world_size()}.csv")
    several = {"devices": 2, "strategy": DDPStrategy(process_group_backend="gloo")} if world_size() > 1 else {}
    trainer = toy.silent_trainer(callbacks=[PredictionFile(output)], default_root_dir=folder, **several)
    try:
        trainer.predict(toy.condkd(), data)
    except ValueError as error:
        return {"error": str(error)}
    return {"file": output.read_text() if trainer.is_global_zero else ""}
