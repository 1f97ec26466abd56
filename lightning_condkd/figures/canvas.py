"""Access to matplotlib, an optional package: empty figures, and figures as pixels and PNG files."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor

from lightning_condkd.formats.image_folder import picture
from lightning_condkd.pixels import to_pixels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 100
MOST_LISTED = 20  # colors that a legend can tell apart
PALETTE = 256


def check_matplotlib(what: str) -> None:
    """Check that matplotlib is installed.

    Args:
        what: name of the part that draws with it.

    Raises:
        ModuleNotFoundError: with the command that installs it.
    """
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{what} draws with the package {error.name}: pip install 'lightning-condkd[plots]'", name=error.name
        ) from error


def empty_figure(width: float, height: float, panels: int = 1, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """Return a white figure, and its panels from left to right and top to bottom; it needs no display.

    Args:
        width: inches of 100 pixels.
        height: likewise.
        panels: number of panels.
        columns: largest number of panels in a row.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    columns = min(columns, panels)
    axes = figure.subplots(-(-panels // columns), columns, squeeze=False).flatten().tolist()
    for unused in axes[panels:]:
        unused.remove()
    return figure, axes[:panels]


def colors(count: int) -> list[tuple[float, float, float, float]]:
    """Return colors that are as different as possible, as red, green, blue and opacity in [0, 1].

    Args:
        count: how many.
    """
    from matplotlib import colormaps

    if count <= MOST_LISTED:
        listed = colormaps["tab10" if count <= 10 else "tab20"]
        return [listed(index) for index in range(count)]
    return [colormaps["turbo"](index / (count - 1)) for index in range(count)]


def figure_pixels(figure: Figure) -> Tensor:
    """Return a drawn figure as ``(3, H, W)``, pixels in [0, 1].

    Args:
        figure: the result of :func:`empty_figure`, with content.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    canvas.draw()
    pixels = torch.frombuffer(bytearray(canvas.buffer_rgba()), dtype=torch.uint8)
    width, height = canvas.get_width_height()
    return to_pixels(pixels.view(height, width, 4)[..., :3].permute(2, 0, 1))


def png(pixels: Tensor, palette: bool = False) -> bytes:
    """Return a picture as the content of a PNG file.

    Args:
        pixels: ``(3, H, W)``, pixels in [0, 1].
        palette: whether to reduce it to 256 colors, which makes the file about three times smaller.

    Example:
        >>> png(torch.zeros(3, 2, 2))[1:4]
        b'PNG'
    """
    image = picture(pixels)
    if palette:
        image = image.quantize(PALETTE, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def shown_names(num_classes: int, names: Sequence[str] | None) -> list[str]:
    """Return the names of classes, numbers if there are none.

    Args:
        num_classes: number of classes K.
        names: their names; ``None`` or empty if they are not known.

    Example:
        >>> shown_names(2, None), shown_names(2, ["cat", "dog"])
        (['0', '1'], ['cat', 'dog'])
    """
    return list(names) if names else [str(label) for label in range(num_classes)]
