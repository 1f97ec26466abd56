"""DiffDFKD: sampling of a pretrained latent diffusion model, guided by the teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from lightning_condkd.distributed import gather_rows
from lightning_condkd.functional.divergence import adversarial_divergence
from lightning_condkd.functional.inversion import bn_distance, class_loss
from lightning_condkd.inversion.base import Inversion
from lightning_condkd.inversion.interfaces import Observe
from lightning_condkd.inversion.parts.card import MethodCard
from lightning_condkd.inversion.parts.generator import check_bn
from lightning_condkd.inversion.parts.latent_cutmix import LatentCutMix, is_fifth
from lightning_condkd.inversion.parts.latent_pipeline import (
    DiffusionParts,
    LatentPipeline,
    PipelineLoading,
    check_diffusers,
    load_parts,
)
from lightning_condkd.inversion.parts.latent_sampler import LatentSampler
from lightning_condkd.inversion.parts.pixel_optimizer import check_choice
from lightning_condkd.inversion.parts.prompts import Conditions, Prompt, class_conditions, text_conditions
from lightning_condkd.precision import at_least_float32
from lightning_condkd.randomness import Draw
from lightning_condkd.rounds import Cadence, Unit
from lightning_condkd.types import LossTerms, NetworkOutput, Synthetic, TaskSpec

Labels = Literal["balanced", "one_class"]


class DiffDFKD(Inversion):
    """Sampling of a latent diffusion model, every step of which is guided by the teacher.

    A block is one trajectory of T denoising steps for a batch, from noise to images. In every step but the last, the
    clean latents are estimated, decoded and shown to the teacher; the noisy latents take one plain gradient step
    through VAE and U-Net, then the model denoises them as usual. The images of the last step are kept. The diffusion
    model is frozen; checkpoints hold its fingerprint instead of its weights. It needs the packages of
    ``pip install "lightning-condkd[diffusion]"``.

    The gradient is that of the *sum* of the losses over the images, so the step of an image does not depend on the
    batch size: class and adversarial term are summed, the BatchNorm distance (and a term of alignment) is multiplied
    by the batch size. The logged values are means. For a batch of one image this is the official code's step.

    Weights and ``guidance_rate`` are the defaults of the official code, which was recreated, as it says, after
    the original was lost. Its runs named for CIFAR-10 and DomainNet had no adversarial term. Its errors
    are not reproduced; these change the images: the clean estimate was computed without graph; the class loss was a
    mean, so the step shrank with the batch; the final image combined the noise predicted for one step with the latents
    of the next (here a new prediction belongs to each latent); all was in float16; images were stored as JPEG, and
    labels sorted as text.

    Args:
        pipeline: folder or hub id of a diffusers pipeline, or the pipeline itself: a U-Net with text, with classes
            (and a null class after them) or without conditions, a VAE and a scheduler. A pipeline in memory is frozen
            and moved with the method. Its scheduler is replaced by DDIM's with the same noise schedule.
        loading: how the networks are loaded and run.
        prompt: prompts or classes, and the scale of classifier-free guidance.
        cadence: T = 50 synthesis steps (official code; 70 for DomainNet); 400 student steps and 4 warm-up rounds
            without student and adversarial term are our defaults: the code waits for 20 images of every class.
        batch_size: images of a block, our default. The BatchNorm statistics of a few images are poor.
        guidance_rate: step size.
        class_weight: weight of the cross-entropy to the labels.
        bn_weight: weight of the distance to the teacher's BatchNorm statistics, those of each rank's own batch.
        adversarial_weight: weight of the student-teacher disagreement, used after the warm-up rounds.
        through_unet: whether the gradient passes the U-Net, as in the paper's figure. ``False`` treats the predicted
            noise as constant, which is cheaper; this is a variant of ours.
        cutmix: mixing of latents within a class; ``None`` for none, as in all runs that the official code names.
        labels: ``balanced`` for equally many of every class, up to one; ``one_class`` for one class a block, in turn,
            as in the official code.
        store_intermediate: whether the images on which the teacher was asked after every ``T // 5`` steps, but the
            last, are stored too: four for each final one with T = 50, as in the official code. They are near-duplicates
            of it, so the default is ours.
        eta: share of new noise in a denoising step: 1 for that of DDPM (official code), 0 for DDIM.

    Raises:
        ValueError: if an argument is out of its range; in :meth:`build`, if pipeline and task do not fit together.
        ModuleNotFoundError: in :meth:`build`, if diffusers is not installed.
        FileNotFoundError: in :meth:`build`, if there is no such pipeline.

    Example:
        >>> method = DiffDFKD(pipeline="stable-diffusion-v1-5/stable-diffusion-v1-5", cutmix=LatentCutMix())
        >>> method.cadence.synthesis_steps, method.prompt.unlabeled
        (50, 'A realistic photo.')

    References:
        Qi et al.: "Data-free Knowledge Distillation with Diffusion Models", arXiv 2504.00870; its code.
    """

    card = MethodCard(
        "DiffDFKD (xhqi0109), whose release is a recreation",
        needs=("latent diffusion model", "extra diffusion"),
        arguments={"pipeline": "stable-diffusion-v1-5/stable-diffusion-v1-5"},
    )
    student_temperature = 30.0
    balanced_labels = True
    labels: Tensor
    intermediate: Tensor
    fingerprint: Tensor

    def __init__(
        self,
        *,
        pipeline: str | Path | LatentPipeline,
        loading: PipelineLoading = PipelineLoading(),
        prompt: Prompt = Prompt(),
        cadence: Cadence = Cadence(synthesis_steps=50, distill_steps=400, warmup_rounds=4),
        batch_size: int = 64,
        guidance_rate: float = 1.0,
        class_weight: float = 1.0,
        bn_weight: float = 0.1,
        adversarial_weight: float = 1.0,
        through_unet: bool = True,
        cutmix: LatentCutMix | None = None,
        labels: Labels = "balanced",
        store_intermediate: bool = False,
        eta: float = 1.0,
    ) -> None:
        super().__init__(cadence, batch_size, selection="last")
        check_choice("labels", labels, Labels)
        if not 0 <= eta <= 1:
            raise ValueError(f"expected eta in [0, 1], got {eta}")
        if guidance_rate < 0:
            raise ValueError(f"expected a guidance_rate of at least 0, got {guidance_rate}")
        least = 2 if cutmix is None and not store_intermediate else 5
        if cadence.synthesis_steps < least:
            raise ValueError(
                f"expected at least {least} synthesis_steps, of which the last is not guided and "
                f"{'the others are' if least == 2 else 'cutmix or store_intermediate act at each fifth'}, "
                f"got {cadence.synthesis_steps}"
            )
        self._pipeline = pipeline  # not by its own name: a record of the settings would hold the networks
        self.source_of_images = str(pipeline) if isinstance(pipeline, (str, Path)) else type(pipeline).__name__
        self.loading, self.prompt, self.cutmix, self.eta = loading, prompt, cutmix, eta
        self.guidance_rate, self.through_unet = guidance_rate, through_unet
        self.class_weight, self.bn_weight, self.adversarial_weight = class_weight, bn_weight, adversarial_weight
        self.label_order: Labels = labels
        self.store_intermediate = store_intermediate
        self.balanced_labels = labels == "balanced"

    def make(self, spec: TaskSpec, generator: torch.Generator) -> None:
        """Load the diffusion model and create the latents."""
        check_diffusers()
        check_bn(self.bn_weight, spec)
        self._check_cutmix(spec)
        parts = load_parts(self._pipeline, self.loading)
        if parts.vae.config.out_channels != spec.image_shape[0]:
            raise ValueError(
                f"the VAE makes images of {parts.vae.config.out_channels} channels, the task's have "
                f"{spec.image_shape[0]}: give a diffusion model of such images, or a task of as many channels"
            )
        self.sampler = LatentSampler(parts, self._conditions(parts, spec), self.cadence.synthesis_steps, self.eta)
        self.num_classes, self.image_size = spec.num_classes, spec.image_shape[1:]
        size = self.loading.sample_size or parts.unet.config.sample_size
        size = (size, size) if isinstance(size, int) else tuple(size)
        self.latents = nn.Parameter(torch.zeros(self.batch_size, parts.unet.config.in_channels, *size))
        self.register_buffer("labels", torch.zeros(self.batch_size, dtype=torch.long))
        if self.store_intermediate:
            fifths = self.images_per_block() // self.batch_size - 1
            self.register_buffer("intermediate", torch.zeros(fifths, self.batch_size, *spec.image_shape))
        self.register_buffer("fingerprint", self.sampler.fingerprint())
        self.register_load_state_dict_pre_hook(_check_fingerprint)  # type: ignore[no-untyped-call]

    def images_per_block(self) -> int:
        """Return the number of final images, with the intermediate ones if they are stored."""
        steps = self.cadence.synthesis_steps
        fifths = sum(is_fifth(step, steps) for step in range(steps)) if self.store_intermediate else 0
        return self.batch_size * (1 + fifths)

    def stored_beside(self) -> Synthetic | None:
        """Return the intermediate images, if they are stored."""
        if not self.store_intermediate:
            return None
        return Synthetic(self.intermediate.flatten(0, 1), self.labels.repeat(len(self.intermediate)))

    def _check_cutmix(self, spec: TaskSpec) -> None:
        fewest = self.batch_size // spec.num_classes if self.balanced_labels else self.batch_size
        if self.cutmix is not None and fewest < 2:
            raise ValueError(
                f"cutmix: expected at least two images of every class in a block, got {self.batch_size} images of "
                f"{spec.num_classes} classes: take a larger batch_size, or labels='one_class'"
            )

    def _conditions(self, parts: DiffusionParts, spec: TaskSpec) -> Conditions:
        if hasattr(parts.unet.config, "cross_attention_dim"):
            return text_conditions(self.prompt, parts.tokenizer, parts.text_encoder, spec)
        return class_conditions(self.prompt, parts.unet.config.num_class_embeds, spec)

    def make_optimizers(self) -> dict[str, Optimizer]:
        """Return ``synthesis``, plain gradient steps of the latents."""
        return {"synthesis": SGD([self.latents], lr=self.guidance_rate)}

    def lr_factor(self, unit: Unit) -> float:
        """Return 0 in the last step, which is not guided, since no denoising follows, else 1."""
        return 0.0 if unit.last else 1.0

    def begin(self, unit: Unit, draw: Draw) -> None:
        """Draw noise and labels."""
        self.latents.copy_(torch.randn(self.latents.shape, generator=draw.generator("latents")))
        if self.balanced_labels:
            # In the order of the classes: every rank, with rows [rank::world_size], gets its share of each class.
            order = torch.randperm(self.num_classes, generator=draw.generator("labels"))
            self.labels.copy_(order[torch.arange(self.batch_size) * self.num_classes // self.batch_size])
        else:
            self.labels.fill_((unit.round * self.cadence.repeats + unit.block) % self.num_classes)

    def render(self, unit: Unit, draw: Draw) -> Synthetic:
        """Return the images of the clean latents that the model estimates from the noisy ones."""
        self.sampler.to(self.latents.device)
        self._draw = draw
        latents, labels = at_least_float32(self.latents[draw.rows]), self.labels[draw.rows]
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.through_unet):
            prediction = self.sampler.predict(latents, labels, unit.step)
        images = self._decode(self.sampler.denoise(latents, prediction, unit.step).clean)
        if images.requires_grad:  # the sum over images instead of the mean
            images.register_hook(lambda gradient: gradient * self.batch_size)  # type: ignore[no-untyped-call]
        return Synthetic(images, labels)

    def _decode(self, clean: Tensor) -> Tensor:
        return self.sampler.decode(clean, self.image_size).to(self.latents.dtype)

    def loss(
        self, synthetic: Synthetic, observe: Observe, student: Observe, unit: Unit, draw: Draw
    ) -> tuple[LossTerms, NetworkOutput]:
        """Return class, BN-statistics and adversarial terms; a term of weight 0 is left out."""
        output = observe(synthetic.images, bn=self.bn_weight != 0)
        terms = {
            "class": lambda: class_loss(output.logits, cast(Tensor, synthetic.labels)),
            "bn": lambda: bn_distance(output.bn),
            "adversarial": lambda: adversarial_divergence(output.logits.detach(), student(synthetic.images).logits),
        }
        adversarial = self.adversarial_weight if unit.round >= self.cadence.warmup_rounds else 0.0
        return LossTerms(terms, {"class": self.class_weight, "bn": self.bn_weight, "adversarial": adversarial}), output

    def observe_step(self, synthetic: Synthetic, output: NetworkOutput, unit: Unit) -> Synthetic | None:
        """Mix the guided latents, denoise them, and return the final images in the last step."""
        draw, steps = self._draw, self.cadence.synthesis_steps
        if self.store_intermediate and is_fifth(unit.step, steps):
            self.intermediate[(unit.step + 1) // (steps // 5) - 1] = gather_rows(synthetic.images)
        if self.cutmix is not None and self.cutmix.due(unit.step, steps):
            self.latents.copy_(self.cutmix(self.latents, self.labels, draw.generator("latent CutMix")))
        latents = at_least_float32(self.latents[draw.rows])
        prediction = self.sampler.predict(latents, self.labels[draw.rows], unit.step)
        noise = torch.randn(self.latents.shape, generator=draw.generator("denoising noise"))[draw.rows].to(latents)
        denoised = self.sampler.denoise(latents, prediction, unit.step, noise)
        self.latents.copy_(gather_rows(denoised.previous))
        return synthetic._replace(images=self._decode(denoised.clean)) if unit.last else None


def _check_fingerprint(module: DiffDFKD, state: dict[str, Any], prefix: str, *_: object) -> None:
    there = state.get(f"{prefix}fingerprint")
    if there is not None and not torch.equal(there.cpu(), module.fingerprint.cpu()):
        raise ValueError(
            "the checkpoint was made with another diffusion model, or with another loading.dtype: resume with those "
            "that the run began with"
        )
