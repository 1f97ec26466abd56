"""Run CondKD on two processes of the CPU that torchrun starts; the same script runs on several GPUs or nodes.

Shows what several processes need: a strategy that finds unused parameters (synthesis and student steps take turns), and
batch sizes that they divide. Both processes see the same draws, so the run equals that of one process to rounding.

Run ``torchrun --nproc_per_node 2 examples/two_ranks.py``. It prints the table of the run's results, which it writes
as ``summary.json``, the size of the memory bank and that the students of both processes are equal, and takes 23
CPU-seconds, those of both processes and of imports together. ``--rounds`` and ``--steps`` change the size.
"""

from __future__ import annotations

import argparse
import os
from functools import partial

import lightning as L
import torch
import torch.distributed as dist

from lightning_condkd import Cadence, CondensedDataModule, CondKD, CropFlip, DigitsDataModule, DigitsNet, Observer
from lightning_condkd.alignment import FeatureAlignment
from lightning_condkd.callbacks import RunSummary
from lightning_condkd.inversion import Fast, GeneratorSettings


def make_model(steps: int) -> CondKD:
    """Return CondKD with Fast on the digits."""
    teacher = Observer(DigitsNet(width=32), (0.3059,), (0.3754,), weights="package:digits-teacher.safetensors")
    crop = CropFlip(1, flip_probability=0.0)
    generator = GeneratorSettings(width=16, latent_size=64, lr=0.01)
    cadence = Cadence(5, steps, warmup_rounds=1)
    inversion = Fast(cadence=cadence, batch_size=128, generator=generator, latent_lr=0.05, augment=crop)
    alignment, adam = FeatureAlignment(weight=5.0), partial(torch.optim.Adam, lr=3e-3)
    return CondKD(teacher, DigitsNet(width=16), inversion, alignment, augment=crop, student_optimizer=adam)


def largest_difference(model: CondKD) -> float:
    """Return the largest difference between the students of all processes; call it on all of them."""
    weights = torch.cat([value.flatten().double() for value in model.student.state_dict().values()])
    every = [torch.empty_like(weights) for _ in range(dist.get_world_size())]
    dist.all_gather(every, weights)
    return max(float((other - weights).abs().max()) for other in every)


def main() -> None:
    """Fit on all processes that torchrun has started."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=30, help="student steps in a round")
    options = parser.parse_args()
    if "LOCAL_WORLD_SIZE" not in os.environ:
        raise SystemExit("start it by torchrun --nproc_per_node 2 examples/two_ranks.py")
    L.seed_everything(0, verbose=False)
    model = make_model(options.steps)
    data = CondensedDataModule("package:digits-dm-1ipc.safetensors", val_data=DigitsDataModule())
    trainer = L.Trainer(
        max_epochs=options.rounds,
        accelerator="cpu",
        devices=int(os.environ["LOCAL_WORLD_SIZE"]),
        strategy="ddp_find_unused_parameters_true",
        callbacks=[RunSummary()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(model, data)
    difference = largest_difference(model)
    if trainer.is_global_zero:
        print(f"{len(data.transfer_set.bank)} images in the bank of each of {trainer.world_size} processes")
        print(f"largest difference between their students: {difference}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
