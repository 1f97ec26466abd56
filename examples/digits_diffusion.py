"""Train a small latent diffusion model on the handwritten digits and write it as a pipeline of diffusers.

Run ``python examples/digits_diffusion.py``; it needs ``pip install 'lightning-condkd[diffusion]'``. It writes the
folder ``digits-diffusion`` and prints its name. Nothing is downloaded; training takes about two minutes on one core
(``OMP_NUM_THREADS=1``). DiffDFKD then inverts the teacher with it: ``lightning-condkd fit --config
configs/digits/diff_dfkd.yaml``.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, DiffusionPipeline, UNet2DModel
from torch import Tensor, nn
from torch.optim import AdamW

from lightning_condkd.data.digits import load_digits_split
from lightning_condkd.randomness import seeded_generator, seeded_initialization

CLASSES, BATCH, LABEL_DROP, EMA, KL_WEIGHT = 10, 64, 0.15, 0.99, 1e-4


class ClassPipeline(DiffusionPipeline):
    """A U-Net with classes, a VAE and a scheduler."""

    def __init__(self, unet: nn.Module, vae: nn.Module, scheduler: DDIMScheduler) -> None:
        super().__init__()
        self.register_modules(unet=unet, vae=vae, scheduler=scheduler)


def batches(count: int, steps: int, seed: int, purpose: str) -> Iterator[tuple[Tensor, torch.Generator]]:
    """Yield random rows, and the generator of each step."""
    for step in range(steps):
        generator = seeded_generator(seed, purpose, step)
        yield torch.randint(count, (BATCH,), generator=generator), generator


def train_vae(images: Tensor, steps: int, seed: int) -> AutoencoderKL:
    """Return an autoencoder of images in [-1, 1]; ``scaling_factor`` gives its latents unit deviation."""
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    sizes = {"in_channels": 1, "out_channels": 1, "latent_channels": 4, "sample_size": 8, "norm_num_groups": 8}
    with seeded_initialization(seeded_generator(seed, "VAE")):
        vae = AutoencoderKL(**blocks, **sizes, block_out_channels=(16, 32))
    optimizer = AdamW(vae.parameters(), lr=3e-3)
    for rows, generator in batches(len(images), steps, seed, "VAE step"):
        posterior = vae.encode(images[rows]).latent_dist
        decoded = vae.decode(posterior.sample(generator)).sample
        loss = F.mse_loss(decoded, images[rows]) + KL_WEIGHT * posterior.kl().mean() / posterior.mean[0].numel()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        deviation = float(vae.eval().encode(images).latent_dist.mean.std())
    vae.register_to_config(scaling_factor=1 / deviation)
    return vae


def train_unet(vae: AutoencoderKL, images: Tensor, labels: Tensor, steps: int, seed: int) -> ClassPipeline:
    """Return the pipeline with a denoiser of the VAE's latents; class 10 is the null class."""
    with torch.no_grad():
        latents = vae.encode(images).latent_dist.mean * vae.config.scaling_factor
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2, "add_attention": False}
    sizes = {"sample_size": 4, "in_channels": 4, "out_channels": 4, "num_class_embeds": CLASSES + 1}
    with seeded_initialization(seeded_generator(seed, "U-Net")):
        unet = UNet2DModel(**blocks, **sizes, block_out_channels=(64, 64), layers_per_block=1, norm_num_groups=8)
    betas = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    scheduler = DDIMScheduler(**betas, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    average = copy.deepcopy(unet).requires_grad_(False)
    optimizer = AdamW(unet.parameters(), lr=2e-3, betas=(0.9, 0.99))
    for rows, generator in batches(len(images), steps, seed, "U-Net step"):
        noise = torch.randn(latents[rows].shape, generator=generator)
        times = torch.randint(scheduler.config.num_train_timesteps, (BATCH,), generator=generator)
        dropped = torch.rand(BATCH, generator=generator) < LABEL_DROP
        asked = labels[rows].masked_fill(dropped, CLASSES)
        predicted = unet(scheduler.add_noise(latents[rows], noise, times), times, class_labels=asked).sample
        optimizer.zero_grad()
        F.mse_loss(predicted, noise).backward()
        optimizer.step()
        torch._foreach_lerp_(list(average.parameters()), [p.detach() for p in unet.parameters()], 1 - EMA)
    return ClassPipeline(average.eval(), vae, scheduler)


def digits() -> tuple[Tensor, Tensor]:
    """Return the training digits, in [-1, 1], and their labels."""
    source = load_digits_split(train=True)
    return torch.as_tensor(source.images).float() / 127.5 - 1, source.labels


def main() -> None:
    """Train both networks and write the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("digits-diffusion"), help="folder of the pipeline")
    parser.add_argument("--vae-steps", type=int, default=640)
    parser.add_argument("--unet-steps", type=int, default=2600)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    images, labels = digits()
    vae = train_vae(images, options.vae_steps, options.seed)
    train_unet(vae, images, labels, options.unet_steps, options.seed).save_pretrained(options.output)
    print(f"{options.output}: a pipeline of diffusers")


if __name__ == "__main__":
    main()
