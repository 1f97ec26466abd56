"""Files of a whole network that run without this package: ONNX, the programs of ``torch.export``, and TorchScript."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from lightning_condkd.models.checks import check_classifier
from lightning_condkd.models.observer import Observer
from lightning_condkd.writing import Target, check_target, replacing

EXTRA = "pip install 'lightning-condkd[onnx]'"
GraphFormat = Literal["onnx", "pt2", "torchscript"]
FORMATS: dict[str, GraphFormat] = {".onnx": "onnx", ".pt2": "pt2", ".ts": "torchscript", ".torchscript": "torchscript"}
METADATA = "metadata.json"  # file of the metadata within those of torch
_LARGEST = 2**31 - 2**20  # bytes of a single ONNX file, with room for the graph
_TOLERANCE = 1e-3  # of the largest logit; rounding in another order makes a thousandth of it
_BATCHES = (1, 7)  # neither is the size that the network is recorded with

Run = Callable[[Tensor], Tensor]


class Check(NamedTuple):
    """Result of the comparison of a file with its network on random images.

    Args:
        difference: largest absolute difference of two logits; ``None`` if the file could not be run.
        largest: largest absolute logit of the network.
    """

    difference: float | None
    largest: float


class ImageGraph(nn.Module):
    """A network in single precision and eval mode that returns logits, with its normalisation or without.

    Args:
        observer: the classifier; its weights are copied.
        folded: whether images are normalised within.
    """

    mean: Tensor | None
    std: Tensor | None

    def __init__(self, observer: Observer, folded: bool) -> None:
        super().__init__()
        self.network = copy.deepcopy(observer.network).to("cpu", torch.float32)
        for name in ("mean", "std"):
            values = getattr(observer, name) if folded else None
            self.register_buffer(name, None if values is None else values.to("cpu", torch.float32).view(-1, 1, 1))
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``(N, K)``.

        Args:
            images: ``(N, C, H, W)``, float32, in [0, 1] or normalised.
        """
        if self.mean is not None:
            images = images - self.mean
        if self.std is not None:
            images = images / self.std
        return cast(Tensor, self.network(images))


def save_graph(
    observer: Observer,
    path: str | Path,
    image_shape: Sequence[int],
    *,
    format: GraphFormat | None = None,
    folded: bool = True,
    class_names: Sequence[str] | None = None,
) -> Check:
    """Write a classifier with its graph to one file, and compare the file's logits with the classifier's.

    The input ``images`` is ``(N, C, H, W)`` in float32 with any number N of images, the output ``logits`` is
    ``(N, K)``. The file runs in single precision whatever the classifier has. Its metadata, strings of JSON, name the
    image shape, mean, std, whether they are folded in, and the classes if known: ``metadata_props`` in ONNX, the
    extra file ``metadata.json`` in those of torch.

    Args:
        observer: the classifier.
        path: target; replaced atomically.
        image_shape: ``(C, H, W)`` of the images in pixels.
        format: ``onnx`` (opset of the installed torch), ``pt2`` (``torch.export``) or ``torchscript``, which torch has
            deprecated; ``None`` to take it from the ending of the path.
        folded: whether the file takes images in the units of [0, 1] and normalises them, else normalised ones.
        class_names: names of the classes, in their order.

    Returns:
        The comparison, on random images.

    Raises:
        ModuleNotFoundError: if ONNX is not installed.
        ValueError: if the ending is unknown, the images do not fit, the graph cannot be recorded, or the file's logits
            differ. Then nothing is written.
        OSError: if the file cannot be written.

    Example:
        >>> import tempfile
        >>> from lightning_condkd.models import DigitsNet
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "teacher.pt2")
        ...     check = save_graph(Observer(DigitsNet(width=8), mean=(0.3,), std=(0.4,)), path, (1, 8, 8))
        ...     torch.export.load(path).module()(torch.rand(5, 1, 8, 8)).shape
        torch.Size([5, 10])
    """
    target, shape = Path(path), cast("tuple[int, int, int]", tuple(image_shape))
    chosen = format or FORMATS.get(target.suffix.lower())
    if chosen is None:
        raise ValueError(f"expected a path ending in {', '.join(FORMATS)}, got {target.name!r}: change it")
    graph = ImageGraph(observer, folded)
    check_target(Target(target, sum(value.nbytes for value in graph.state_dict().values())))
    check_classifier("network", observer, shape, observer.num_classes)
    metadata = describe(observer, shape, folded, class_names)
    write, load = _WAYS[chosen]
    with replacing(target) as temporary, torch.no_grad():
        temporary.write_bytes(write(graph, _drawn(2, shape), metadata))
        return _compare(load(temporary), observer, shape, folded)


def describe(
    observer: Observer, image_shape: Sequence[int], folded: bool, class_names: Sequence[str] | None
) -> dict[str, str]:
    """Return the metadata of a file, strings of JSON by name.

    Args:
        observer: the classifier.
        image_shape: ``(C, H, W)`` of its images.
        folded: whether the file normalises images.
        class_names: names of the classes, if known.

    Example:
        >>> observer = Observer(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), mean=(0.5,), std=(0.25,))
        >>> facts = describe(observer, (1, 2, 2), True, ["cat", "dog"])
        >>> facts["input"], facts["mean"], facts["class_names"]
        ('"images (N, 1, 2, 2), float32 in [0, 1] (uint8 divided by 255)"', '[0.5]', '["cat", "dog"]')
    """
    facts = {
        "input": input_of(observer, image_shape, folded),
        "image_shape": list(image_shape),
        "mean": _numbers(observer.mean),
        "std": _numbers(observer.std),
        "normalization": "folded" if folded else "none",
        "class_names": None if class_names is None else list(class_names),
        "made_by": f"lightning-condkd {_version()}",
    }
    return {name: json.dumps(value) for name, value in facts.items()}


def input_of(observer: Observer, image_shape: Sequence[int], folded: bool) -> str:
    """Return what a file takes as its input, in words.

    Args:
        observer: the classifier.
        image_shape: ``(C, H, W)`` of its images.
        folded: whether the file normalises images.

    Example:
        >>> observer = Observer(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), mean=(0.5,), std=(0.25,))
        >>> input_of(observer, (1, 2, 2), folded=False)
        'images (N, 1, 2, 2), float32 in [0, 1] (uint8 divided by 255), minus [0.5], divided by [0.25]'
    """
    mean, std = (None if folded else _numbers(one) for one in (observer.mean, observer.std))
    steps = ("" if mean is None else f", minus {mean}") + ("" if std is None else f", divided by {std}")
    return f"images (N, {', '.join(map(str, image_shape))}), float32 in [0, 1] (uint8 divided by 255){steps}"


def _numbers(values: Tensor | None) -> list[float] | None:
    return None if values is None else [float(f"{value:.7g}") for value in values.tolist()]  # 0.3, not 0.300000012


def _version() -> str:
    try:
        return version("lightning-condkd")
    except PackageNotFoundError:  # run from a copy of the source
        return "(not installed)"


def _compare(run: Run | None, observer: Observer, shape: tuple[int, ...], folded: bool) -> Check:
    own = copy.deepcopy(observer).to("cpu", torch.float32).eval()
    drawn = [_drawn(count, shape) for count in _BATCHES]
    expected = [own(images).logits for images in drawn]
    largest = max(float(logits.abs().max()) for logits in expected)
    if run is None:
        return Check(None, largest)
    given = [images if folded else own.normalize(images) for images in drawn]
    found = _recorded("the written file", observer.network, lambda: [run(images) for images in given])
    difference = max(float((a - b).abs().max()) for a, b in zip(found, expected, strict=True))
    if not difference <= _TOLERANCE * max(1.0, largest):
        raise ValueError(
            f"the logits of the written graph differ from the network's by {difference:.1e} (largest logit "
            f"{largest:.1e}), so nothing was written: the graph of {type(observer.network).__name__} seems to depend "
            "on values or on the number of images; try another format, or export its weights"
        )
    return Check(difference, largest)


def _drawn(count: int, shape: tuple[int, ...]) -> Tensor:
    """Return images of all brightnesses."""
    generator = torch.Generator().manual_seed(count)
    return torch.rand(count, *shape, generator=generator) * torch.rand(count, 1, 1, 1, generator=generator)


def _recorded(what: str, network: nn.Module, record: Callable[[], Any]) -> Any:  # noqa: ANN401 - of torch
    try:
        return record()
    except Exception as error:  # the exporters raise anything, with reports of many pages
        if isinstance(error, ModuleNotFoundError) and str(error.name).startswith("onnxscript"):
            raise ModuleNotFoundError(
                f"torch {torch.__version__} needs a newer onnxscript: pip install --upgrade onnxscript", name=error.name
            ) from error
        name = type(network).__name__
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ValueError(
            f"{what} cannot hold the graph of {name} for any number of images ({reason[:300]}): try another format, or "
            "export its weights"
        ) from error


def _write_onnx(graph: ImageGraph, images: Tensor, metadata: dict[str, str]) -> bytes:
    try:
        import onnx
        import onnxscript  # noqa: F401 - torch needs it
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"ONNX needs the package {error.name}: {EXTRA}", name=error.name) from error
    size = sum(value.nbytes for value in graph.state_dict().values())
    if size > _LARGEST:
        raise ValueError(f"an ONNX file holds 2 GB, the network has {size / 1e9:.1f} GB: write a .pt2 or its weights")
    names: dict[str, Any] = {"input_names": ["images"], "output_names": ["logits"], "dynamic_shapes": _any_number()}
    program = _recorded(
        "ONNX", graph.network, lambda: torch.onnx.export(graph, (images,), dynamo=True, verbose=False, **names)
    )
    model = program.model_proto
    if not model.graph.input[0].type.tensor_type.shape.dim[0].dim_param:  # torch only warns of it
        raise ValueError(f"the ONNX graph of {type(graph.network).__name__} is for 2 images only: export its weights")
    for part in (model.graph, *model.functions):  # they name the files of the source, and lines in them
        for entry in (part, *part.node, *part.value_info):
            del entry.metadata_props[:]
    onnx.helper.set_model_props(model, metadata)
    onnx.checker.check_model(model)
    return cast(bytes, model.SerializeToString())


def _load_onnx(path: Path) -> Run | None:
    if find_spec("onnxruntime") is None:
        return None
    import onnxruntime

    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


def _any_number() -> Any:  # noqa: ANN401 - of torch
    return ({0: torch.export.Dim("N")},)


def _write_pt2(graph: ImageGraph, images: Tensor, metadata: dict[str, str]) -> bytes:
    shapes = _any_number()
    program = _recorded(
        "torch.export", graph.network, lambda: torch.export.export(graph, (images,), dynamic_shapes=shapes)
    )
    stream = BytesIO()
    torch.export.save(program, stream, extra_files={METADATA: json.dumps(metadata)})
    return stream.getvalue()


def _load_pt2(path: Path) -> Run:
    return cast(Run, torch.export.load(BytesIO(path.read_bytes())).module())


def _write_torchscript(graph: ImageGraph, images: Tensor, metadata: dict[str, str]) -> bytes:
    stream = BytesIO()
    with _without_its_warnings():
        trace: Any = torch.jit.trace
        traced = _recorded("TorchScript", graph.network, lambda: trace(graph, images, check_trace=False))
        torch.jit.save(traced, stream, _extra_files={METADATA: json.dumps(metadata)})
    return stream.getvalue()


def _load_torchscript(path: Path) -> Run:
    with _without_its_warnings():
        return cast(Run, torch.jit.load(BytesIO(path.read_bytes())))  # type: ignore[no-untyped-call]


@contextmanager
def _without_its_warnings() -> Iterator[None]:
    """Silence torch's advice against TorchScript, and its doubts about a trace, which is compared afterwards."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*torch\.jit\.\w+` is (deprecated|not supported)")
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)  # type: ignore[attr-defined]
        yield


_WAYS: dict[GraphFormat, tuple[Callable[[ImageGraph, Tensor, dict[str, str]], bytes], Callable[[Path], Run | None]]] = {
    "onnx": (_write_onnx, _load_onnx),
    "pt2": (_write_pt2, _load_pt2),
    "torchscript": (_write_torchscript, _load_torchscript),
}
