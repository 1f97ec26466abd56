"""Condensed set: a few images per class that represent a dataset, and its file."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Unpack

import torch
from torch import Tensor

from lightning_condkd.assets import resolve_asset
from lightning_condkd.data.counts import count_line, empty_classes
from lightning_condkd.files import save_packed, unpack
from lightning_condkd.formats.contents import CondensedInfo, Contents, record
from lightning_condkd.formats.options import FACTS, ImportOptions, given_options, refuse_others
from lightning_condkd.formats.read import import_condensed
from lightning_condkd.formats.soft_labels import soft_label_kind
from lightning_condkd.messages import listed
from lightning_condkd.pixels import parts, share_outside, to_pixels
from lightning_condkd.randomness import seeded_generator

KIND = "condensed set"


class CondensedSet:
    """A few images per class with their labels, on the CPU.

    Args:
        images: ``(N, C, H, W)``; float32 pixels in the units of [0, 1], never clipped, or uint8 (0 to 255). Copied.
        labels: classes, ``(N,)`` int64. Copied.
        soft_labels: probabilities or logits, ``(N, K)`` floating point. Copied.
        info: further facts; by default only the number of classes (largest label + 1) and the kind of the labels.

    Raises:
        ValueError: if shapes, dtypes or values do not fit each other, or the kind of soft labels without info is
            ambiguous. A class without images is allowed, see :attr:`missing_classes`.

    Example:
        >>> condensed = CondensedSet(torch.rand(6, 3, 8, 8), torch.tensor([0, 1, 0, 1, 0, 1]))
        >>> condensed.num_classes, condensed.ipc, condensed.image_shape
        (2, 3, (3, 8, 8))
        >>> condensed.subset(1).labels
        tensor([0, 1])
    """

    def __init__(
        self, images: Tensor, labels: Tensor, soft_labels: Tensor | None = None, info: CondensedInfo | None = None
    ) -> None:
        _check_tensors(images, labels, soft_labels)
        self.images = _own(images)
        self.labels = _own(labels)
        self.soft_labels = None if soft_labels is None else _own(soft_labels)
        self.info = info or _default_info(labels, soft_labels)
        _check_info(self.info, labels, soft_labels)
        self._by_class = torch.argsort(self.labels, stable=True)
        self.counts = torch.bincount(self.labels, minlength=self.info.num_classes)
        self._first = self.counts.cumsum(0) - self.counts

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        """Number of classes of the dataset."""
        return self.info.num_classes

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(C, H, W)`` in pixels."""
        return self.images.shape[1], self.images.shape[2], self.images.shape[3]

    @property
    def ipc(self) -> int:
        """Images per class: the smallest count."""
        return int(self.counts.min())

    @property
    def missing_classes(self) -> tuple[int, ...]:
        """Classes without an image."""
        return tuple((self.counts == 0).nonzero().flatten().tolist())

    def class_indices(self, label: int) -> Tensor:
        """Return the rows of one class in the order of the set, ``(n,)`` int64.

        Args:
            label: the class.
        """
        first = int(self._first[label])
        return self._by_class[first : first + int(self.counts[label])]

    def pixels(self, indices: Tensor | slice, device: torch.device | None = None) -> Tensor:
        """Return rows as floating point images in the units of [0, 1], in the default dtype.

        Args:
            indices: rows, ``(n,)`` or a slice.
            device: device of the result.
        """
        return to_pixels(self.images[indices], device)

    def subset(self, ipc: int, seed: int | None = None) -> CondensedSet:
        """Return the set with fewer images per class, in the order of this one.

        Args:
            ipc: images per class.
            seed: seed of a random choice; by default the first ones are taken.

        Raises:
            ValueError: if a class has fewer.
        """
        if not 1 <= ipc <= self.ipc:
            raise ValueError(f"ipc={ipc}, but the smallest class has {self.ipc} images: choose 1 to {self.ipc}")
        rows = [self.class_indices(label) for label in range(self.num_classes)]
        if seed is not None:
            generator = seeded_generator(seed, "subset")
            rows = [row[torch.randperm(len(row), generator=generator)] for row in rows]
        kept = torch.cat([row[:ipc] for row in rows]).sort().values
        chosen = f"{'first' if seed is None else f'seed {seed},'} {ipc} per class"
        info = replace(self.info, provenance={**self.info.provenance, "subset": chosen})
        soft_labels = None if self.soft_labels is None else self.soft_labels[kept]
        return CondensedSet(self.images[kept], self.labels[kept], soft_labels, info)

    @property
    def line(self) -> str:
        """Readable summary in one line."""
        soft = "hard" if self.soft_labels is None else f"hard and soft ({self.info.label_kind})"
        return f"{count_line(self.images, self.counts)}, labels {soft}"

    def describe(self) -> str:
        """Return a readable summary in a few lines."""
        return "\n".join((*_count_lines(self), *_info_lines(self.info)))

    def save(self, path: str | Path) -> None:
        """Write the set into one file; equal sets give equal bytes.

        Args:
            path: target, ending in ``.safetensors``; replaced atomically.

        Raises:
            IsADirectoryError: if the target is a folder.
            NotADirectoryError: if a parent of the target is a file.
            ValueError: if the ending is another.
        """
        path = Path(path)
        if path.suffix != ".safetensors":
            raise ValueError(f"a condensed set is saved as .safetensors, got {path.name!r}: change the ending")
        tensors = {"images": self.images, "labels": self.labels}
        if self.soft_labels is not None:
            tensors["soft_labels"] = self.soft_labels
        save_packed(path, KIND, tensors, asdict(self.info))

    @classmethod
    def load(cls, path: str | Path, **options: Unpack[ImportOptions]) -> CondensedSet:
        """Read a set from a native file, or from a file or folder of another project.

        Args:
            path: ``.safetensors`` of :meth:`save`, or a ``.pt``, ``.pth`` or ``.parquet`` file or a folder of another
                project, see :mod:`lightning_condkd.formats`; ``package:NAME`` is a packaged file.
            **options: facts that the file does not contain.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the file is not a condensed set, or an option does not apply to it.
        """
        path, given = resolve_asset(path), given_options(options)
        if not path.exists():
            raise FileNotFoundError(f"no condensed set at {path}: check the path{_hub_advice(str(path))}")
        if path.is_dir() or path.suffix in (".pt", ".pth", ".parquet"):
            return cls(*import_condensed(path, **options))
        if path.suffix != ".safetensors":
            raise ValueError(
                f"expected .safetensors, .pt, .pth or .parquet, got {path.name!r}: convert it to one of these"
            )
        refuse_others(given, FACTS, f"{path.name} is a native set in pixels")
        return cls(*record(_native(path), given))


def _hub_advice(name: str) -> str:
    """Return advice if a missing path looks like the name of a dataset on the Hugging Face hub."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or Path(name).suffix in (".safetensors", ".pt", ".pth", ".parquet"):
        return ""
    return (
        ". If it is a dataset of the Hugging Face hub, download it first, which is not done here: `hf download "
        f"{name} --repo-type dataset --local-dir FOLDER`, and give FOLDER"
    )


def _native(path: Path) -> Contents:
    tensors, header = unpack(KIND, path)
    expected = {known.name for known in fields(CondensedInfo)}
    if absent := sorted({"images", "labels"} - set(tensors)) + sorted(expected - set(header)):
        raise ValueError(f"{path} lacks {', '.join(absent)}: write it with CondensedSet.save")
    info = CondensedInfo(**{name: header[name] for name in expected})
    return Contents(tensors["images"], tensors["labels"], tensors.get("soft_labels"), info)


def _count_lines(condensed: CondensedSet) -> tuple[str, ...]:
    images = condensed.images
    low, high = to_pixels(torch.stack(images.aminmax())).tolist()
    outside = 0.0 if images.dtype == torch.uint8 else share_outside(images, 0.0, 1.0)
    missing = empty_classes(condensed.counts, condensed.info.class_names)
    return (
        condensed.line,
        *((f"classes without an image: {listed(missing, 10)}",) if missing else ()),
        f"pixels {low:.3f} to {high:.3f} in the units of [0, 1], {100 * outside:.1f} % of them outside",
    )


def _info_lines(info: CondensedInfo) -> tuple[str, ...]:
    seed = "not recorded" if info.seed is None else info.seed
    undone = f"undone on import: mean {info.source_mean}, std {info.source_std}"
    return (
        *((f"class names: {', '.join(info.class_names)}",) if info.class_names else ()),
        f"method: {info.method}, seed {seed}",
        *((f"settings: {json.dumps(info.settings)}",) if info.settings else ()),
        *((undone,) if info.source_mean else ()),
        *(f"{name}: {value}" for name, value in info.provenance.items()),
    )


def _own(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()


def _default_info(labels: Tensor, soft_labels: Tensor | None) -> CondensedInfo:
    if soft_labels is None:
        return CondensedInfo(int(labels.max()) + 1)
    return CondensedInfo(soft_labels.shape[1], label_kind=soft_label_kind(soft_labels))


def _check_tensors(images: Tensor, labels: Tensor, soft_labels: Tensor | None) -> None:
    if images.dim() != 4 or images.numel() == 0:
        raise ValueError(f"expected images (N, C, H, W), got {tuple(images.shape)}: reshape them")
    if images.dtype not in (torch.float32, torch.uint8):
        raise ValueError(f"expected float32 or uint8 images, got {images.dtype}: convert with .float()")
    if labels.shape != images.shape[:1] or labels.dtype != torch.int64:
        raise ValueError(
            f"expected int64 labels ({len(images)},), got {labels.dtype} {tuple(labels.shape)}: one class per image; "
            "probabilities or logits go into soft_labels"
        )
    for name, tensor in {"images": images, "soft_labels": soft_labels}.items():
        if tensor is not None and tensor.is_floating_point() and not _finite(tensor):
            raise ValueError(f"{name} hold NaN or infinity: the set was made by a diverged run, make it again")
    if soft_labels is not None and (soft_labels.dim() != 2 or len(soft_labels) != len(images)):
        raise ValueError(f"expected soft_labels ({len(images)}, K), got {tuple(soft_labels.shape)}: one row per image")
    if soft_labels is not None and not soft_labels.is_floating_point():
        raise ValueError(f"expected floating point soft_labels, got {soft_labels.dtype}: classes go into labels")


def _finite(tensor: Tensor) -> bool:
    return all(bool(tensor[rows].isfinite().all()) for rows in parts(tensor))


def _check_info(info: CondensedInfo, labels: Tensor, soft_labels: Tensor | None) -> None:
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= info.num_classes:
        raise ValueError(f"expected labels 0 to {info.num_classes - 1}, got {low} to {high}: check info.num_classes")
    if soft_labels is not None and soft_labels.shape[1] != info.num_classes:
        raise ValueError(f"soft_labels have {soft_labels.shape[1]} classes, info.num_classes is {info.num_classes}")
    if (soft_labels is None) != (info.label_kind == "hard"):
        expected = "'hard'" if soft_labels is None else "'probabilities' or 'logits'"
        raise ValueError(f"expected info.label_kind {expected}, got {info.label_kind!r}: name the kind of soft_labels")
