"""Sampling of a latent diffusion model, one step at a time."""

from __future__ import annotations

import json
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_condkd.hashing import content_hash
from lightning_condkd.inversion.parts.latent_pipeline import DiffusionParts
from lightning_condkd.inversion.parts.prompts import Conditions


class Denoised(NamedTuple):
    """Result of a denoising step.

    Args:
        clean: estimate of the clean latents.
        previous: the latents of the next, less noisy step.
    """

    clean: Tensor
    previous: Tensor


class LatentSampler:
    """U-Net, VAE and noise schedule of a diffusion model.

    It is no module: its networks are neither parameters of the method that uses it nor in its checkpoints.

    Args:
        parts: the frozen parts.
        conditions: what the model is asked for.
        steps: number T of denoising steps.
        eta: share of new noise in a step: 1 is the ancestral sampling of DDPM, 0 the deterministic DDIM.

    Raises:
        ValueError: if the schedule has fewer steps.
    """

    def __init__(self, parts: DiffusionParts, conditions: Conditions, steps: int, eta: float) -> None:
        from diffusers import DDIMScheduler

        unset = parts.scheduler.get("_use_default_values", ())  # DDIM has its own defaults for these
        known = {name for name in DDIMScheduler().config if not name.startswith("_")} - set(unset)
        config = {name: value for name, value in parts.scheduler.items() if name in known}
        # Latents are not limited to [-1, 1], whatever the configuration says.
        self.scheduler: Any = DDIMScheduler(**{**config, "clip_sample": False, "thresholding": False})
        # In float32, differences of neighbouring steps would lose digits.
        self.scheduler.alphas_cumprod = self.scheduler.alphas_cumprod.double()
        self.scheduler.final_alpha_cumprod = self.scheduler.final_alpha_cumprod.double()
        if steps > self.scheduler.config.num_train_timesteps:
            raise ValueError(
                f"synthesis_steps: the diffusion model was trained with {self.scheduler.config.num_train_timesteps} "
                f"steps, got {steps}: take fewer"
            )
        self.scheduler.set_timesteps(steps)
        self.timesteps: list[int] = self.scheduler.timesteps.tolist()
        self.unet, self.vae = parts.unet, parts.vae
        self.conditions, self.eta = conditions, eta

    def to(self, device: torch.device) -> None:
        """Move the networks to a device.

        Args:
            device: the device.
        """
        if self.conditions.table.device != device:
            self.unet.to(device)
            self.vae.to(device)
            self.conditions = self.conditions._replace(table=self.conditions.table.to(device))

    def predict(self, latents: Tensor, labels: Tensor, step: int) -> Tensor:
        """Return the U-Net's prediction, with classifier-free guidance, in the type of the latents.

        Args:
            latents: ``(N, C, h, w)``, float32 at least.
            labels: classes of the images, ``(N,)``.
            step: number of the step, from 0.
        """
        guided, scale = self.conditions.guided, self.conditions.scale
        inputs = (torch.cat([latents, latents]) if guided else latents).to(self.unet.dtype)
        found = self.unet(inputs, self.timesteps[step], **self._arguments(labels)).sample
        prediction: Tensor = found.to(latents.dtype)
        if not guided:
            return prediction
        conditional, unconditional = prediction.chunk(2)
        return unconditional + scale * (conditional - unconditional)

    def _arguments(self, labels: Tensor) -> dict[str, Tensor]:
        given = self.conditions.given(labels)
        return {n: v.to(self.unet.dtype) if v.is_floating_point() else v for n, v in given.items()}

    def denoise(self, latents: Tensor, prediction: Tensor, step: int, noise: Tensor | None = None) -> Denoised:
        """Return the clean estimate and the next latents.

        Args:
            latents: ``(N, C, h, w)``.
            prediction: result of :meth:`predict`.
            step: number of the step, from 0.
            noise: normal values of the same shape; ``None`` for none.
        """
        noise = torch.zeros_like(latents) if noise is None else noise
        found = self.scheduler.step(prediction, self.timesteps[step], latents, eta=self.eta, variance_noise=noise)
        return Denoised(found.pred_original_sample, found.prev_sample)

    def decode(self, clean: Tensor, image_size: tuple[int, int]) -> Tensor:
        """Return images of clean latents, clamped to [0, 1], then resized (bicubic, antialiased), in their type.

        Args:
            clean: ``(N, C, h, w)``.
            image_size: height and width of the result.
        """
        config = self.vae.config
        latents = clean / config.scaling_factor + (getattr(config, "shift_factor", None) or 0.0)
        decoded = self.vae.decode(latents.to(self.vae.dtype)).sample
        images: Tensor = (decoded.to(clean.dtype) / 2 + 0.5).clamp(0, 1)
        if images.shape[2:] == image_size:
            return images
        return F.interpolate(images, size=image_size, mode="bicubic", align_corners=False, antialias=True)

    def fingerprint(self) -> Tensor:
        """Return the SHA-256 of the weights and of the noise schedule, ``(32,)`` uint8."""
        parts: list[str | Tensor] = [json.dumps(dict(self.scheduler.config), sort_keys=True, default=str)]
        for network in (self.unet, self.vae):
            for name, value in cast(dict[str, Tensor], network.state_dict()).items():
                parts += [f"{name} {value.dtype} {tuple(value.shape)}\n", value]
        return torch.tensor(list(bytes.fromhex(content_hash(*parts))), dtype=torch.uint8)
