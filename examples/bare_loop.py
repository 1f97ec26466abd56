"""Run CondKD's parts in plain PyTorch, without Lightning: synthesis, alignment, memory bank and distillation.

Shows the loop of CondKD on the digits: ``synthesize`` runs the synthesis steps of a round, ``distill`` the student's
steps. Everything that they need is an object that you can replace.

Run ``python examples/bare_loop.py``. It prints the student's accuracy on real digits after each round, writes
``student.pt``, a plain state dict, and takes 14 CPU-seconds, imports included. ``--rounds`` and ``--steps`` change the
size.
"""

from __future__ import annotations

import argparse

import torch

from lightning_condkd import Cadence, CondensedSet, TaskSpec, TransferSet, seeded_generator
from lightning_condkd.alignment import FeatureAlignment, ProjectionDiscriminator
from lightning_condkd.augment import CropFlip
from lightning_condkd.data.digits import load_digits_split
from lightning_condkd.distillation import KLDistillation
from lightning_condkd.inversion import Fast, GeneratorSettings
from lightning_condkd.models import DigitsNet, Observer
from lightning_condkd.steps import DistillationStep, distill, synthesize

MEAN, STD = (0.3059,), (0.3754,)  # of the digits, in the units of [0, 1]


def make_parts(steps: int) -> tuple[DistillationStep, FeatureAlignment, dict[str, torch.optim.Optimizer]]:
    """Return the student's step, which holds all other parts, the alignment, and all optimizers."""
    teacher = Observer(DigitsNet(width=32), MEAN, STD, weights="package:digits-teacher.safetensors").freeze()
    student = Observer(DigitsNet(width=16), MEAN, STD)
    transfer = TransferSet(CondensedSet.load("package:digits-dm-1ipc.safetensors"), batch_size=128)
    crop = CropFlip(1, flip_probability=0.0)
    generator = GeneratorSettings(width=16, latent_size=64, lr=0.01)
    inversion = Fast(cadence=Cadence(5, steps), batch_size=128, generator=generator, latent_lr=0.05, augment=crop)
    alignment = FeatureAlignment(ProjectionDiscriminator(), weight=5.0)
    task = TaskSpec((1, 8, 8), 10, teacher.embedding_size, teacher.bn_channels)
    inversion.build(task, seeded_generator(0, "inversion"))
    alignment.build(task, seeded_generator(0, "alignment"))
    optimizers = {"student": torch.optim.Adam(student.parameters(), lr=3e-3), **inversion.optimizers()}
    if (own := alignment.optimizer()) is not None:
        optimizers["discriminator"] = own
    return DistillationStep(teacher, student, KLDistillation(20.0), crop, inversion, transfer), alignment, optimizers


@torch.no_grad()
def accuracy(student: Observer) -> float:
    """Return the student's accuracy on the held-out digits."""
    source = load_digits_split(train=False)
    return float((student.eval()(source.images / 255).logits.argmax(1) == source.labels).float().mean())


def main() -> None:
    """Run the rounds and write the student."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=60, help="student steps in a round")
    parser.add_argument("--output", default="student.pt", help="file for the student's weights")
    options = parser.parse_args()
    torch.manual_seed(0)
    step, alignment, optimizers = make_parts(options.steps)
    student, transfer = step.student, step.transfer_set
    for round in range(options.rounds):
        given = {"alignment": alignment, "transfer_set": transfer}
        made = synthesize(step.inversion, optimizers, step.teacher, student, round, **given)
        transfer.append(*made, round)
        student.train()
        distill(step, optimizers, round)
        print(f"round {round + 1}: accuracy {accuracy(student):.3f}, {len(transfer.bank)} synthetic images")
    torch.save(student.network.state_dict(), options.output)
    print(f"the student's weights: {options.output}")


if __name__ == "__main__":
    main()
