"""Base class of methods with one generator for the whole run and new latents at every step."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import ClassVar, final

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from lightning_condkd.augment import Augment
from lightning_condkd.inversion.base import Inversion
from lightning_condkd.inversion.interfaces import Mode, Observe, Source, check_mode
from lightning_condkd.inversion.parts.generator import GeneratorSettings, complete, make_generator
from lightning_condkd.randomness import Draw
from lightning_condkd.rounds import Cadence, Unit
from lightning_condkd.types import Synthetic, TaskSpec


class LiveInversion(Inversion):
    """Base of the methods with one generator for the whole run.

    Every synthesis step draws latents and updates the generator once, which is then in train mode, so its BatchNorm
    layers use the statistics of each rank's own batch; every student step renders new images in the mode of
    ``sample_mode``.

    A subclass defines the default generator (:meth:`default_generator`), the loss
    (:meth:`~lightning_condkd.inversion.base.Inversion.loss`) and further parts (:meth:`make_more`); :meth:`make` is
    final.

    Args:
        cadence: division of a round into synthesis and distillation.
        batch_size: images of a synthesis step, over all ranks.
        generator: the generator and its Adam; missing values are those of ``published``.
        augment: the main view; ``None`` disables it.
        source: ``live`` renders images for every student step; ``bank`` instead stores the images of each block's last
            synthesis step, and the student's batches are drawn from the bank, as for other methods.
        sample_mode: mode of the generator when it renders images for a student step: ``train`` uses the statistics of
            these images, and its running statistics follow them; ``eval`` uses the running ones. ``None`` for the
            method's own; nothing else is possible with source ``bank``, which renders none.

    Attributes:
        published: default settings of the method's generator; in this class those of the DataFree code.

    Raises:
        ValueError: if the source or mode is unknown, a mode is given though nothing is rendered, the cadence has
            several batches in a block, or in :meth:`build`, if the generator does not fit the task.
    """

    finals: ClassVar[Mapping[str, str]] = {"make": "make_more(spec, generator)"}
    recorded: ClassVar[tuple[str, ...]] = ("betas",)
    published: ClassVar[GeneratorSettings] = GeneratorSettings(64, 256, lr=1e-3, betas=(0.5, 0.999))
    generator: nn.Module
    sample_mode: Mode = "train"

    def __init__(
        self,
        cadence: Cadence,
        batch_size: int,
        *,
        generator: GeneratorSettings,
        augment: Augment | None,
        source: Source,
        sample_mode: Mode | None = None,
    ) -> None:
        super().__init__(cadence, batch_size, augment, selection="last")
        if source not in ("live", "bank"):
            raise ValueError(f"expected source 'live' or 'bank', got {source!r}")
        if max(cadence.batches, cadence.warmup_batches or 1) > 1:
            raise ValueError(
                f"every synthesis step of {type(self).__name__} has new latents, so a block has one batch, got "
                f"{cadence}: leave out batches and warmup_batches, and raise synthesis_steps or repeats"
            )
        self.generator_settings = complete(generator, self.published)
        self.generator_width, self.latent_size, self.generator_lr, self.betas = self.generator_settings.numbers
        self.source = source
        if sample_mode is not None:
            self.sample_mode = self._checked_mode(sample_mode)

    def _checked_mode(self, mode: Mode) -> Mode:
        if self.source == "bank":
            raise ValueError(
                f"sample_mode is {mode!r}, but source='bank' renders no images for the student's steps: leave "
                "sample_mode out, or set source to 'live'"
            )
        return check_mode("sample_mode", mode)

    def default_generator(self, spec: TaskSpec) -> nn.Module:
        """Return the method's default generator.

        Args:
            spec: shapes of the task.
        """
        raise NotImplementedError

    @final
    def make(self, spec: TaskSpec, generator: torch.Generator) -> None:
        """Create the generator."""
        own = partial(self.default_generator, spec)
        self.generator = make_generator(self.generator_settings, own, spec, generator)
        self.make_more(spec, generator)

    def make_more(self, spec: TaskSpec, generator: torch.Generator) -> None:
        """Create further parts of the method; nothing by default.

        Args:
            spec: shapes of the task.
            generator: source of the initial values.
        """

    def make_optimizers(self) -> dict[str, Optimizer]:
        """Return ``synthesis``, an Adam over the generator."""
        return {"synthesis": Adam(self.generator.parameters(), lr=self.generator_lr, betas=self.betas)}

    def latents(self, count: int, unit: Unit, draw: Draw) -> Tensor:
        """Return this rank's rows of a global batch of latents, standard normal.

        Args:
            count: latents in the global batch.
            unit: the current unit.
            draw: randomness of the unit.
        """
        latents = torch.randn((count, self.latent_size), generator=draw.generator("latent"))[draw.rows]
        return latents.to(next(self.generator.parameters()))

    def render(self, unit: Unit, draw: Draw) -> Synthetic:
        """Return images of fresh latents, without labels: the teacher's prediction is used."""
        self.generator.train()
        return Synthetic(self.generator(self.latents(self.batch_size, unit, draw)), None)

    def render_sample(self, count: int, observe: Observe, unit: Unit, draw: Draw) -> Synthetic:
        """Return images for a student step."""
        self.generator.train(self.sample_mode == "train")
        return Synthetic(self.generator(self.latents(count, unit, draw)), None)
