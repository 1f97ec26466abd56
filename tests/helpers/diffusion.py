"""Latent diffusion pipelines of random weights, so small that a step takes a blink; nothing is downloaded."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from lightning_condkd.randomness import seeded_generator, seeded_initialization
from tests.helpers import toy

SCHEDULE = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
WORDS = ("A realistic photo of", "A realistic photo.", "cat", "dog", "ant")


def scheduler(**changes: Any) -> Any:
    from diffusers import DDIMScheduler

    return DDIMScheduler(**{**SCHEDULE, **changes})


def _drawn(kind: str, name: str, **settings: Any) -> Any:
    """A network whose function depends on its name, with values of all weights moved from their beginning."""
    import diffusers

    generator = seeded_generator(0, name)
    with seeded_initialization(generator):
        network = getattr(diffusers, kind)(**settings).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return network


def vae(channels: int = 1) -> Any:
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    sizes = {"in_channels": channels, "out_channels": channels, "block_out_channels": (8, 8), "norm_num_groups": 4}
    network = _drawn("AutoencoderKL", "vae", **blocks, **sizes, latent_channels=4, sample_size=8, scaling_factor=0.5)
    with torch.no_grad():
        network.decoder.conv_out.weight.mul_(3)  # so that some pixels are outside [0, 1] before they are clamped
    return network


def class_unet(classes: int | None = toy.CLASSES + 1, name: str = "unet", **changes: Any) -> Any:
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2, "add_attention": False}
    sizes = {"sample_size": 4, "in_channels": 4, "out_channels": 4, "block_out_channels": (8, 8), "layers_per_block": 1}
    settings = {**blocks, **sizes, "norm_num_groups": 4, "num_class_embeds": classes, **changes}
    return _drawn("UNet2DModel", name, **settings)


def class_pipeline(classes: int | None = toy.CLASSES + 1, channels: int = 1, **schedule: Any) -> Any:
    """Class-conditional, with a null class, for 8x8 images; a new one at every call."""
    return SimpleNamespace(unet=class_unet(classes), vae=vae(channels), scheduler=scheduler(**schedule))


def save(pipeline: Any, folder: Path) -> Path:
    """Write a pipeline without text as a folder of diffusers, by a class of one's own."""
    from diffusers import DiffusionPipeline

    class ClassPipeline(DiffusionPipeline):
        def __init__(self, unet: nn.Module, vae: nn.Module, scheduler: Any) -> None:
            super().__init__()
            self.register_modules(unet=unet, vae=vae, scheduler=scheduler)

    ClassPipeline(pipeline.unet, pipeline.vae, pipeline.scheduler).save_pretrained(folder)
    return folder


@cache
def _merges() -> dict[str, int]:
    letters = sorted(set("".join(WORDS).lower()) - {" "})
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return {token: number for number, token in enumerate(tokens)}


def tokenizer(folder: Path) -> Any:
    """A tokenizer of letters."""
    from transformers import CLIPTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(_merges()))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=24)


def text_pipeline(folder: Path, channels: int = 1) -> Any:
    """The parts of Stable Diffusion, for 8x8 images, with prompts of letters."""
    from diffusers import StableDiffusionPipeline
    from transformers import CLIPTextConfig, CLIPTextModel

    last = len(_merges()) - 1
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": last - 1, "eos_token_id": last, "pad_token_id": last}
    config = CLIPTextConfig(**sizes, **ends, vocab_size=last + 1, max_position_embeddings=24)
    with seeded_initialization(seeded_generator(0, "text encoder")):
        encoder = CLIPTextModel(config).eval()
    unet = _drawn(
        "UNet2DConditionModel",
        "text unet",
        sample_size=4,
        layers_per_block=1,
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=4,
        norm_num_groups=4,
    )
    return StableDiffusionPipeline(
        vae=vae(channels),
        text_encoder=encoder,
        tokenizer=tokenizer(folder),
        unet=unet,
        scheduler=scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
