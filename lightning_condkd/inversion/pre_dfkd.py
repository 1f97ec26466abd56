"""PRE-DFKD: a generator of novel images, and a variational autoencoder that replays earlier ones."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.optim import Adam, Optimizer

from lightning_condkd.distributed import world_size
from lightning_condkd.functional.inversion import activation_loss, balance_loss, class_loss
from lightning_condkd.inversion.interfaces import Mode, Observe, StudentLoss
from lightning_condkd.inversion.live import LiveInversion
from lightning_condkd.inversion.parts.card import QUOTED, MethodCard, accuracies
from lightning_condkd.inversion.parts.competition import Competition
from lightning_condkd.inversion.parts.generator import GeneratorSettings
from lightning_condkd.inversion.parts.replay_memory import Memory, ReplayMemory
from lightning_condkd.models.checks import check_encoder, check_generator
from lightning_condkd.models.encoder import Encoder
from lightning_condkd.models.generators import NormalizedGenerator
from lightning_condkd.randomness import Draw, seeded_initialization
from lightning_condkd.rounds import Cadence, Unit
from lightning_condkd.types import LossTerms, NetworkOutput, Synthetic, TaskSpec


class PREDFKD(LiveInversion):
    """Generative pseudo replay: the student is also trained on replayed earlier images, without a bank.

    A novel generator is trained by the teacher's class, activation and balance losses and by the student's
    disagreement. After each of the first student steps of a block the novel images train a variational autoencoder: an
    encoder and the memory generator, which is also trained on its own images to reduce forgetting. A student batch has
    novel images, then memory images, whose latents were updated by one step of Adam towards confident and balanced
    predictions.

    Defaults are those of the official code for CIFAR with two differences: three of its quirks are only in
    :meth:`released_code`, and in the first block, when the memory is untrained, the student gets novel images only. As
    in the code, images are compared with their reconstructions in the teacher's normalised units, and the memory
    generator is in eval mode for the student's images and in train mode for replay; student and novel generator are
    always in train mode. Settings of the student in the code: 1152 synthetic images in a batch, the mean absolute
    difference of the logits (:class:`~lightning_condkd.distillation.LogitsL1Distillation`), SGD with lr 0.1, momentum
    0.9 and weight decay 5e-4, a cosine over 400 rounds.

    With several ranks, BatchNorm in train mode, class balance and the moments of the latents use each rank's own batch.

    Args:
        cadence: 1 step of the novel generator and 10 student steps, 36 times a round.
        batch_size: images of a step of the novel generator.
        generator: the novel generator and its Adam (official code, CIFAR). The default network is a
            :class:`~lightning_condkd.models.NormalizedGenerator` with spectral norm. The latent size is also that of
            the memory.
        class_weight: weight of the cross-entropy to the class predicted by the teacher.
        balance_weight: weight of the negative entropy of the mean prediction.
        balance_log10: whether to use the entropy to base 10, also for memory images; it is 2.303 times smaller.
        activation_weight: weight of the negative mean magnitude of the teacher's embedding.
        competition: the term against the student; its gradient flows through the student only; ``None`` disables it.
            The code's ``elementwise`` divides the divergence by the number of classes.
        memory: settings of the memory; ``Memory(share=0.0)`` disables it.
        bn_eps: eps of the inner BatchNorm layers of the default networks; 0.8 in the official code, where it was
            probably meant as a momentum.

    Raises:
        ValueError: if an argument is out of its range; in :meth:`build`, if a network does not fit the task or replay
            batches do not divide by the number of processes; in :meth:`check_sample`, if novel or memory images do not
            divide by it.

    Example:
        >>> PREDFKD.released_code(memory=Memory(share=0.25)).memory.latents.gradient_leak
        True

    References:
        Binici et al.: "Robust and Resource-Efficient Data-Free Knowledge Distillation by Generative Pseudo Replay",
        arXiv 2201.03019.
    """

    autoencoder: ReplayMemory

    card = MethodCard("PRE-DFKD, CIFAR", published=accuracies(94.1, 77.1), published_in=QUOTED)
    student_loss: StudentLoss = "logits_l1"
    student_mode: Mode = "train"
    student_lr_floor = 0.0
    published: ClassVar[GeneratorSettings] = GeneratorSettings(128, 1000, lr=0.02, betas=(0.9, 0.999))

    def __init__(
        self,
        *,
        cadence: Cadence = Cadence(synthesis_steps=1, distill_steps=10, repeats=36),
        batch_size: int = 1024,
        generator: GeneratorSettings = published,
        class_weight: float = 1.0,
        balance_weight: float = 5.0,
        balance_log10: bool = False,
        activation_weight: float = 0.1,
        competition: Competition | None = Competition(reduction="elementwise"),
        memory: Memory = Memory(),
        bn_eps: float = 1e-5,
    ) -> None:
        super().__init__(
            cadence,
            batch_size,
            generator=generator,
            augment=None,
            source="live",
        )
        self.bn_eps = bn_eps
        self.competition, self.memory = competition or Competition(weight=0.0), memory
        self.weights = {
            "class": class_weight,
            "balance": balance_weight,
            "activation": activation_weight,
            "competition": self.competition.weight,
        }
        self.balance_log10, self.needs_embedding = balance_log10, activation_weight != 0

    @classmethod
    def released_code(
        cls,
        *,
        balance_log10: bool = True,
        memory: Memory = Memory(),
        bn_eps: float = 0.8,
        **arguments: Any,  # noqa: ANN401 - those of the class
    ) -> PREDFKD:
        """Return the method with three quirks of the official code that change its numbers.

        They are an eps of 0.8 in BatchNorm layers, entropies to base 10, and a gradient of the latents' step that leaks
        into the memory generator.

        Args:
            balance_log10: value of the code.
            memory: settings of the memory; its ``latents.gradient_leak`` is always set.
            bn_eps: value of the code.
            arguments: other arguments of the class.
        """
        leaking = replace(memory, latents=replace(memory.latents, gradient_leak=True))
        return cls(balance_log10=balance_log10, memory=leaking, bn_eps=bn_eps, **arguments)

    def default_generator(self, spec: TaskSpec) -> nn.Module:
        """Return a :class:`~lightning_condkd.models.NormalizedGenerator` with spectral norm and uniform weights."""
        return self._generator(spec, self.generator_width, spectral=True)

    def _generator(self, spec: TaskSpec, width: int, spectral: bool) -> nn.Module:
        generator = NormalizedGenerator(spec.image_shape, width=width, spectral=spectral, **self._shared(spec))
        return _drawn_uniformly(generator)

    def _encoder(self, spec: TaskSpec) -> nn.Module:
        return _drawn_uniformly(Encoder(spec.image_shape, width=self.memory.width, **self._shared(spec)))

    def _shared(self, spec: TaskSpec) -> dict[str, Any]:
        return {"mean": spec.mean, "std": spec.std, "latent_size": self.latent_size, "bn_eps": self.bn_eps}

    def make_more(self, spec: TaskSpec, generator: torch.Generator) -> None:
        """Create the two networks of the memory, if there is one."""
        if not self.memory.share:
            return
        for name in ("batch_size", "replay_novel"):
            if (count := getattr(self.memory, name)) % (ranks := world_size()):
                raise ValueError(
                    f"memory.{name}={count} does not divide by {ranks} processes: choose a multiple of {ranks}"
                )
        with seeded_initialization(generator):
            decoder = copy.deepcopy(self.memory.generator) or self._generator(spec, self.memory.width, spectral=False)
            encoder = copy.deepcopy(self.memory.encoder) or self._encoder(spec)
        check_generator(decoder, self.latent_size, spec.image_shape)
        check_encoder(encoder, self.latent_size, spec.image_shape)
        settings: dict[str, Any] = {"latent_size": self.latent_size, "std": spec.std, "log10": self.balance_log10}
        self.autoencoder = ReplayMemory(decoder, encoder, memory=self.memory, **settings)

    def make_optimizers(self) -> dict[str, Optimizer]:
        """Return ``synthesis``, an Adam over the novel generator, and ``replay``, one over the autoencoder."""
        if not self.memory.share:
            return super().make_optimizers()
        return {**super().make_optimizers(), "replay": Adam(self.autoencoder.parameters(), lr=self.memory.lr)}

    def loss(
        self, synthetic: Synthetic, observe: Observe, student: Observe, unit: Unit, draw: Draw
    ) -> tuple[LossTerms, NetworkOutput]:
        """Return the terms of the novel generator whose weight is not 0."""
        view = self.view(synthetic.images, unit, draw)
        output = observe(view, embedding=self.needs_embedding)
        terms: dict[str, Callable[[], Tensor]] = {
            "class": lambda: class_loss(output.logits, output.logits.argmax(1)),
            "balance": lambda: balance_loss(output.logits, log10=self.balance_log10),
            "activation": lambda: activation_loss(cast(Tensor, output.embedding)),
            "competition": lambda: self.competition.loss(output.logits.detach(), student(view).logits),
        }
        return LossTerms(terms, self.weights), output

    # --- the student's side ------------------------------------------------------------------------------------------

    def render_sample(self, count: int, observe: Observe, unit: Unit, draw: Draw) -> Synthetic:
        """Return novel images, then memory images."""
        memory = self._memory_count(count, unit, draw)
        novel = super().render_sample(count - memory, observe, unit, draw)
        if not memory:
            return novel
        self.autoencoder.eval()
        latents = self.autoencoder.recall(memory, "memory latent", observe, draw).latents
        return Synthetic(torch.cat((novel.images, self.autoencoder.decode(latents))), None)

    def replay_loss(self, synthetic: Synthetic, observe: Observe, unit: Unit, draw: Draw) -> LossTerms | None:
        """Return the loss of the autoencoder on novel and memory images in the first student steps of a block."""
        if not self.memory.share or unit.step >= self.memory.replay_steps:
            return None
        self.autoencoder.train()
        memory = self._memory_count(len(synthetic.images) * draw.world_size, unit, draw)
        novel = synthetic.images[: len(synthetic.images) - memory // draw.world_size]
        novel = novel[: self.memory.replay_novel // draw.world_size]
        if not memory:
            return self.autoencoder.reconstruction(novel, observe, draw)
        recalled = self.autoencoder.recall(self.memory.batch_size, "replay latent", observe, draw)
        images = torch.cat((novel, self.autoencoder.decode(recalled.latents)))
        terms = self.autoencoder.reconstruction(images, observe, draw)
        return terms.merge(recalled.terms) if self.memory.latents.gradient_leak else terms

    def check_sample(self, count: int, world_size: int) -> None:
        """Check that a batch has novel and memory images, and equally many of each on every rank."""
        memory = self._memory_of(count)
        if self.memory.share and not 0 < memory < count:
            raise ValueError(
                f"memory.share={self.memory.share} of {count} synthetic images in a student step leaves {memory} "
                "memory images, expected some of both kinds: change memory.share or the batch_size of the student"
            )
        if memory % world_size or count % world_size:
            raise ValueError(
                f"memory.share={self.memory.share} of {count} synthetic images in a student step leaves "
                f"{count - memory} novel and {memory} memory images, which do not both divide by "
                f"{world_size} processes: change memory.share or the batch_size of the student"
            )

    def _memory_of(self, count: int) -> int:
        return int(self.memory.share * count + 0.5)

    def _memory_count(self, count: int, unit: Unit, draw: Draw) -> int:
        self.check_sample(count, draw.world_size)
        first_block = unit.round == self.cadence.warmup_rounds and unit.block == 0
        return 0 if first_block else self._memory_of(count)


@torch.no_grad()
def _drawn_uniformly(network: nn.Module) -> nn.Module:
    """Reset all layers as in the official code: weights U(-0.08, 0.08), biases 0."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            weight = layer.get_parameter("parametrizations.weight.original") if is_parametrized(layer) else layer.weight
            nn.init.uniform_(weight, -0.08, 0.08)
            nn.init.zeros_(cast(Tensor, layer.bias))
    return network
