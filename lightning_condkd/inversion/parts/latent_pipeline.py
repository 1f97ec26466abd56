"""Latent diffusion models of diffusers, from a folder, the Hugging Face hub or memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import nn

from lightning_condkd.inversion.parts.pixel_optimizer import check_choice
from lightning_condkd.inversion.parts.prompts import EXTRA

Dtype = Literal["float32", "float16", "bfloat16", "float64"]


class LatentPipeline(Protocol):
    """A diffusers pipeline in memory; with text it also has ``tokenizer`` and ``text_encoder``.

    Attributes:
        unet: ``UNet2DConditionModel`` or ``UNet2DModel``.
        vae: ``AutoencoderKL``.
        scheduler: any scheduler of a diffusion with betas.
    """

    unet: nn.Module
    vae: nn.Module
    scheduler: Any


@dataclass(frozen=True)
class PipelineLoading:
    """How the networks of a diffusion model are loaded and run.

    Args:
        dtype: type of their weights. The latents, the teacher and the losses are in float32 also with a half type;
            ``bfloat16`` keeps small gradients that ``float16`` loses.
        variant: variant of the weight files, such as ``fp16``; ``None`` for the usual ones.
        sample_size: height and width of the latents; ``None`` for those that the U-Net was trained with.
        gradient_checkpointing: whether inner values are computed twice, which needs less memory and more time.
        vae_slicing: whether the VAE decodes one image at a time, likewise.

    Raises:
        ValueError: if the type is unknown or a size not positive.
    """

    dtype: Dtype = "float32"
    variant: str | None = None
    sample_size: int | None = None
    gradient_checkpointing: bool = False
    vae_slicing: bool = False

    def __post_init__(self) -> None:
        check_choice("dtype", self.dtype, Dtype)
        if self.sample_size is not None and self.sample_size <= 0:
            raise ValueError(f"expected a positive sample_size of the latents, got {self.sample_size}")


class DiffusionParts(NamedTuple):
    """The parts of a pipeline that sampling needs.

    Args:
        unet: the denoiser.
        vae: the autoencoder of the latents.
        scheduler: configuration of the noise schedule.
        tokenizer: of the prompts; ``None`` for a model without text.
        text_encoder: of the prompts; ``None`` for a model without text.
    """

    unet: Any
    vae: Any
    scheduler: dict[str, Any]
    tokenizer: Any
    text_encoder: Any


def check_diffusers() -> None:
    """Check that the optional packages are there.

    Raises:
        ModuleNotFoundError: with the command that installs them.
    """
    try:
        import diffusers  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"DiffDFKD needs the package {error.name}: {EXTRA}", name=error.name) from error


def load_parts(pipeline: str | Path | LatentPipeline, loading: PipelineLoading) -> DiffusionParts:
    """Return the parts of a pipeline, frozen, in eval mode and in the given type.

    Args:
        pipeline: a folder of ``save_pretrained``, an id of the hub, or a pipeline, whose networks are taken as they
            are. The safety checker and the feature extractor are neither needed nor loaded.
        loading: settings.

    Raises:
        FileNotFoundError: if there is no such pipeline, or it cannot be downloaded.
        ValueError: if it is no latent diffusion model of a known kind.
    """
    parts = _loaded(str(pipeline), loading) if isinstance(pipeline, (str, Path)) else _given(pipeline)
    _check(parts)
    for network in (parts.unet, parts.vae, parts.text_encoder):
        if network is not None:
            nn.Module.to(network, getattr(torch, loading.dtype))  # that of diffusers warns
            network.requires_grad_(False).eval()
    if loading.gradient_checkpointing:
        parts.unet.enable_gradient_checkpointing()
        parts.vae.enable_gradient_checkpointing()
    if loading.vae_slicing:
        parts.vae.enable_slicing()
    return parts


def _given(pipeline: LatentPipeline) -> DiffusionParts:
    if lacking := [name for name in ("unet", "vae", "scheduler") if getattr(pipeline, name, None) is None]:
        raise ValueError(f"{type(pipeline).__name__} has no {', '.join(lacking)}: give a latent diffusion pipeline")
    text = (getattr(pipeline, name, None) for name in ("tokenizer", "text_encoder"))
    return DiffusionParts(pipeline.unet, pipeline.vae, dict(pipeline.scheduler.config), *text)


def _loaded(source: str, loading: PipelineLoading) -> DiffusionParts:
    import diffusers

    index = _read(source, diffusers.DiffusionPipeline.load_config, source)
    found = {name for name, value in index.items() if isinstance(value, (list, tuple)) and value[0] is not None}
    if lacking := {"unet", "vae", "scheduler"} - found:
        raise ValueError(
            f"{source} is {index.get('_class_name', 'no pipeline')} without {', '.join(sorted(lacking))}: expected a "
            "latent diffusion model with a U-Net, such as Stable Diffusion 1 or 2"
        )
    options = {"torch_dtype": getattr(torch, loading.dtype), "variant": loading.variant}

    def network(name: str) -> Any:  # noqa: ANN401 - diffusers is optional and has no types
        kind = getattr(diffusers, index[name][1])
        return _read(source, kind.from_pretrained, source, subfolder=name, low_cpu_mem_usage=False, **options)

    scheduler = _read(source, diffusers.DDIMScheduler.load_config, source, subfolder="scheduler")
    text = _text(source, index, loading) if "text_encoder" in found else (None, None)
    return DiffusionParts(network("unet"), network("vae"), scheduler, *text)


def _text(source: str, index: dict[str, Any], loading: PipelineLoading) -> tuple[Any, Any]:
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"prompts need the package {error.name}: {EXTRA}", name=error.name) from error
    kinds = {name: getattr(transformers, index[name][1]) for name in ("tokenizer", "text_encoder")}
    tokenizer = _read(source, kinds["tokenizer"].from_pretrained, source, subfolder="tokenizer")
    options = {"dtype": getattr(torch, loading.dtype), "variant": loading.variant}
    return tokenizer, _read(source, kinds["text_encoder"].from_pretrained, source, subfolder="text_encoder", **options)


def _read(source: str, load: Any, *given: Any, **options: Any) -> Any:  # noqa: ANN401
    try:
        return load(*given, **options)
    except OSError as error:
        raise FileNotFoundError(
            f"found no diffusers pipeline at {source!r}, neither as a folder nor on the hub ({error}). Give a folder "
            "with model_index.json, unet/, vae/ and scheduler/ (with text also tokenizer/ and text_encoder/), as "
            "pipeline.save_pretrained(folder) or, where there is a connection, `hf download ID --local-dir FOLDER` "
            "writes it, such as stable-diffusion-v1-5/stable-diffusion-v1-5"
        ) from error


def _check(parts: DiffusionParts) -> None:
    unet, channels = parts.unet.config, parts.vae.config.latent_channels
    if (unet.in_channels, unet.out_channels) != (channels, channels):
        raise ValueError(
            f"expected a U-Net from {channels} channels, those of the VAE's latents, to as many, got "
            f"{unet.in_channels} to {unet.out_channels}: models for inpainting or with learned variance do not fit"
        )
    if getattr(unet, "addition_embed_type", None) is not None or getattr(unet, "encoder_hid_dim", None) is not None:
        raise ValueError("the U-Net needs more than one text embedding (SDXL): give one of Stable Diffusion 1 or 2")
    if "beta_start" not in parts.scheduler:
        raise ValueError(
            f"{parts.scheduler.get('_class_name', 'the scheduler')} has no betas: expected a diffusion model's noise "
            "schedule, not that of flow matching"
        )
    wanted, text = getattr(unet, "cross_attention_dim", None), parts.text_encoder
    if hasattr(unet, "cross_attention_dim") and (text is None or parts.tokenizer is None):
        raise ValueError("the U-Net takes text, and the pipeline has no tokenizer or text_encoder: give one that has")
    if text is not None and text.config.hidden_size != wanted:
        raise ValueError(
            f"expected text embeddings of width {wanted}, got {text.config.hidden_size}: give its own ones"
        )
