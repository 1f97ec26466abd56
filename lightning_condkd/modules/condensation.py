"""Module that trains a condensed set: its pixels, and further parameters of the method."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from lightning_condkd.condensation import CondensationMethod, RealImages
from lightning_condkd.data.condensed import CondensedSet
from lightning_condkd.data.image_source import ImageSource
from lightning_condkd.distributed import mean_over_ranks
from lightning_condkd.formats.contents import CondensedInfo
from lightning_condkd.functional.trajectory import with_gradients
from lightning_condkd.pixels import check_pixels, to_pixels
from lightning_condkd.randomness import Draw, draw_by_class, seeded_generator
from lightning_condkd.steps.part_checks import check_method, check_part, check_reached
from lightning_condkd.training.batches import check_class_sizes, log_written, real_images
from lightning_condkd.training.class_order import check_class_order
from lightning_condkd.training.resumable import ResumableModule
from lightning_condkd.training.run_length import dev_steps
from lightning_condkd.writing import Target


class Condensation(ResumableModule):
    """Learn a few images per class that represent a dataset.

    One ``training_step`` is one iteration of the method on real images that it draws by class from the datamodule. The
    condensed set is written when training ends and with every checkpoint.

    Args:
        method: the condensation method.
        ipc: images per class.
        learning_rate: step size on pixels in the units of [0, 1]; ``None`` for the method's published one. This is for
            normalised pixels, so it is multiplied by the squared standard deviation of the method's networks, or of the
            data if they have none: DM's 1 becomes 0.04 on CIFAR-10.
        momentum: momentum of SGD (official code of DC, DM and MTT 0.5). A resumed run uses the given step sizes and
            momentum, not those of the earlier run.
        init: initial images: ``real`` for random real images, ``noise`` with the data's mean and standard deviation, or
            the file of a condensed set with as many images per class.
        output: file to which the condensed set is written.
        steps_per_epoch: iterations in an epoch of the trainer.
        seed: seed of all draws; ``None`` for that of ``seed_everything``, else 0. A resumed run keeps its seed.

    Raises:
        ValueError: at setup, if a class has no image, or fewer than the method draws from it, or if the initial set
            does not fit.

    Example:
        >>> from lightning_condkd.condensation import DistributionMatching
        >>> from lightning_condkd.models import ConvNet, FreshNetworks
        >>> networks = FreshNetworks(lambda: ConvNet(10, image_size=8, in_channels=1, depth=2))
        >>> method = DistributionMatching(networks)
        >>> Condensation(method, ipc=5, output="digits.safetensors").ipc
        5
    """

    state_key = "condensation"
    fixed_settings: ClassVar[Mapping[str, str]] = {
        "method.class": "resume with the run's own method, or start a new run without ckpt_path",
        "ipc": "resume with as many images per class, or start a new run without ckpt_path",
        "steps_per_epoch": "resume with as many: they number the steps and seed the draws",
    }
    takes_new_rates = True
    metrics: ClassVar[tuple[str, ...]] = ("train/",)

    def __init__(
        self,
        method: CondensationMethod,
        ipc: int = 1,
        *,
        learning_rate: float | None = None,
        momentum: float = 0.5,
        init: Literal["real", "noise"] | Path = "real",
        output: str | Path = "condensed.safetensors",
        steps_per_epoch: int = 100,
        seed: int | None = None,
    ) -> None:
        super().__init__(seed)
        check_method(method)
        for name, number in {"ipc": ipc, "steps_per_epoch": steps_per_epoch}.items():
            if number < 1:
                raise ValueError(f"{name}: expected a positive number, got {number}")
        if Path(output).suffix != ".safetensors":
            raise ValueError(f"output: expected a path that ends in .safetensors, got {str(output)!r}")
        self.method = method
        self.ipc = ipc
        self.learning_rate, self.momentum = learning_rate, momentum
        self.init = init
        self.output = Path(output)
        self.steps_per_epoch = steps_per_epoch
        self.pixels: nn.Parameter | None = None
        self._source: ImageSource | None = None
        self._last_good: list[Tensor] = []
        self._undone = 0
        self._reached = False
        self.register_load_state_dict_pre_hook(_make_room)  # type: ignore[no-untyped-call]

    def configure_model(self) -> None:
        """Create the pixels from the datamodule's training images, on the CPU, unless they were loaded."""
        if self._source is None and self._trainer is not None:
            with torch.device("cpu"):  # the trainer calls this with its device as the default
                self._build()

    def _build(self) -> None:
        source = real_images(self).train_source
        if self.init == "real":
            check_class_sizes(source, self.ipc, cure="lower ipc, set init to noise")
        check_class_sizes(source, 1, cure="add one")
        shape = (source.num_classes * self.ipc, *source.image_shape)
        if self.pixels is None:
            self.method.build(source.image_shape, source.num_classes, self.ipc)
            self.pixels = nn.Parameter(_initial_pixels(source, self.ipc, self.init, self.seed))
        elif self.pixels.shape != shape:
            raise ValueError(
                f"expected pixels {shape} for these images and ipc={self.ipc}, got {tuple(self.pixels.shape)} from the "
                "state that was loaded: fit with the data of that run"
            )
        self.method.check_classes(source.class_names)
        self._source = source

    def outputs(self) -> list[Target]:
        """Return the file of the set."""
        return [Target(self.output, 4 * self._pixels.numel())]

    @property
    def labels(self) -> Tensor:
        """Classes of the pixels, ``(N,)`` int64 on the CPU."""
        return torch.arange(self._data.num_classes).repeat_interleave(self.ipc)

    def training_step(self, batch: object, batch_idx: int) -> Tensor:
        """Return the loss of an iteration.

        Args:
            batch: not used; the method's images are drawn by class.
            batch_idx: position in the epoch.
        """
        step = self.current_epoch * self.steps_per_epoch + batch_idx
        draw = Draw(self.seed, step, self.global_rank, self.trainer.world_size)
        loss = self._differentiated(draw)
        self._guard(loss)
        self.log("train/loss", loss, prog_bar=True, batch_size=1)
        return loss

    def _differentiated(self, draw: Draw) -> Tensor:
        """Return the loss, after computing its gradients part by part."""
        pixels, *learned = self._learned
        images = pixels.detach().requires_grad_()
        loss, gradients = images.new_zeros(()), [torch.zeros_like(tensor) for tensor in (images, *learned)]
        reached = [False for _ in gradients]
        for terms in self.method.losses(images, self.labels, self._real_images(), draw):
            check_part(self.method, terms)
            total = terms.total()
            parts = torch.autograd.grad(total, [images, *learned], allow_unused=True)
            reached = [was or part is not None for was, part in zip(reached, parts, strict=True)]
            gradients = [g if part is None else g + part for g, part in zip(gradients, parts, strict=True)]
            loss = loss + total.detach()
        if not self._reached:
            check_reached(self.method, reached)
            self._reached = True
        return with_gradients(loss, [pixels, *learned], gradients)

    def _real_images(self) -> RealImages:
        source = self._data
        return RealImages(lambda rows: to_pixels(source.images[rows], self.device), source.class_rows)

    def _guard(self, loss: Tensor) -> None:
        """Stop at the first loss that is not finite, with the last good values restored."""
        if bool(mean_over_ranks(loss).isfinite()):
            self._last_good = [tensor.detach().clone() for tensor in self._learned]
            return
        self._restore()
        self.write()
        raise FloatingPointError(
            f"the loss of iteration {self.global_step} is {float(loss.detach())}; {self.output} holds the last good "
            "set. Lower learning_rate, or what the method learns with beside it"
        )

    def _restore(self) -> None:
        if not self._last_good:
            return
        for tensor, good in zip(self._learned, self._last_good, strict=True):
            tensor.data.copy_(good)
        self._undone += 1

    def configure_optimizers(self) -> Optimizer:
        """Return SGD on the pixels and the method's further parameters."""
        groups = [{"params": [self._pixels], "lr": self._pixel_lr}, *self.method.parameter_groups()]
        return SGD(groups, momentum=self.momentum)

    def on_train_start(self) -> None:
        """Replace step sizes and momentum from a checkpoint by the given ones."""
        loaded = cast(Optimizer, self.optimizers(use_pl_optimizer=False))
        for group, given in zip(loaded.param_groups, self.configure_optimizers().param_groups, strict=True):
            group.update({name: value for name, value in given.items() if name != "params"})

    @property
    def _pixel_lr(self) -> float:
        if self.learning_rate is not None:
            return self.learning_rate
        deviations = self.method.networks.std or self._data.channel_statistics()[1]
        return self.method.pixel_lr * sum(std**2 for std in deviations) / len(deviations)

    def condensed(self) -> CondensedSet:
        """Return the current set."""
        settings = {
            "ipc": self.ipc,
            "iterations": self.global_step - self._undone,
            "learning_rate": self._pixel_lr,
            "momentum": self.momentum,
            "init": Path(self.init).name,
            **self.method.settings(),
        }
        names = self._data.class_names
        info = CondensedInfo(len(names), names, method=self.method.name, settings=settings, seed=self.seed)
        return CondensedSet(self._pixels.detach().cpu().float(), self.labels, info=info)

    def write(self) -> None:
        """Write the set to its file, on rank 0; if the last step made values invalid, write the set before that step.

        A ``fast_dev_run`` writes nothing.
        """
        if not (all(bool(tensor.isfinite().all()) for tensor in self._learned) and self.method.is_sound()):
            self._restore()
        if self.trainer.is_global_zero and not dev_steps(self.trainer):
            self.condensed().save(self.output)

    def on_train_end(self) -> None:
        """Write the set, and log the path."""
        self.write()
        log_written(
            "condensed set",
            self.output,
            f"evaluate it with 'lightning-condkd evaluate {self.output} --data ...'",
            self.trainer,
        )

    def save_state(self, checkpoint: Mapping[str, Any]) -> dict[str, Any]:
        """Write the set; return the count of undone steps.

        Args:
            checkpoint: not used.
        """
        self.write()
        return {"undone": self._undone}

    def restore(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Restore the count of undone steps, and check the learned values.

        Args:
            state: result of :meth:`save_state`.
            tensors: state dict of the checkpoint.

        Raises:
            ValueError: if it does not fit.
        """
        if self.pixels is not None:  # else they are created from the checkpoint
            self.check_state(tensors)
        self._undone = state["undone"]

    @property
    def _pixels(self) -> nn.Parameter:
        if self.pixels is None:
            raise RuntimeError("the pixels are made when Trainer.fit begins")
        return self.pixels

    @property
    def _learned(self) -> list[nn.Parameter]:
        """The pixels and the method's further parameters."""
        groups = self.method.parameter_groups()
        return [self._pixels, *(parameter for group in groups for parameter in group["params"])]

    @property
    def _data(self) -> ImageSource:
        if self._source is None:
            raise RuntimeError("the images are known when Trainer.fit begins")
        return self._source


def _make_room(module: Condensation, state: Mapping[str, Any], prefix: str, *_: object) -> None:
    """Create the parameters in a state dict if no fit has done so."""
    pixels = state.get(f"{prefix}pixels")
    if module.pixels is None and pixels is not None:
        module.method.build(tuple(pixels.shape[1:]), len(pixels) // module.ipc, module.ipc)
        module.pixels = nn.Parameter(torch.empty_like(pixels))


def _initial_pixels(source: ImageSource, ipc: int, init: str | Path, seed: int) -> Tensor:
    generator = seeded_generator(seed, "initial pixels")
    if init == "real":
        chosen = draw_by_class(source.class_rows, [ipc] * source.num_classes, generator)
        return to_pixels(source.images[torch.cat(chosen)])
    if init != "noise":
        return _pixels_of(_start(init), source, ipc, init)
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in source.channel_statistics())
    noise = torch.randn(source.num_classes * ipc, *source.image_shape, generator=generator)
    return mean + std * noise


def _start(init: str | Path) -> CondensedSet:
    try:
        return CondensedSet.load(init)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"init: expected 'real', 'noise' or the file of a set, got {str(init)!r}") from error


def _pixels_of(condensed: CondensedSet, source: ImageSource, ipc: int, init: str | Path) -> Tensor:
    expected = (source.num_classes, ipc, *source.image_shape)
    found = (condensed.num_classes, condensed.ipc, *condensed.image_shape)
    if found != expected or len(condensed) != source.num_classes * ipc:
        raise ValueError(
            f"init: expected a set with (classes, images per class, C, H, W) = {expected}, got {found} with "
            f"{len(condensed)} images in {init}; make one for this data"
        )
    check_pixels(condensed.images)
    check_class_order(condensed, source.class_names)
    rows = torch.cat([condensed.class_indices(label) for label in range(condensed.num_classes)])
    return condensed.pixels(rows)
