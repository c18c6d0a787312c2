"""From a map and a picture to a picture: the three styles, and PNG files that tell what they show.

A map is laid on the part of the picture that the network saw, at the picture's own resolution, and
every result has the picture's full size. The functions are pure, so threads may share them. NumPy,
Pillow and the colour tables of Matplotlib only; the figures of the paper are in `figures`.
"""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TypedDict

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from cait_viz.attention.maps import (
    COLORMAPS,
    INTERPOLATIONS,
    SCALES,
    STYLES,
    Floats,
    check_choice,
    upsample,
)
from cait_viz.errors import SelectionError
from cait_viz.images.preprocess import Box

# Half and half: the brightest patch is unmistakable and the picture below it is still recognised.
DEFAULT_ALPHA = 0.5

# What each style is drawn in where nothing else is asked for: cividis is the paper's (Figure 7),
# inferno the tutorial's overlay; its black end darkens what got no attention instead of tinting it.
DEFAULT_COLORMAPS = {"overlay": "inferno", "paper": "cividis", "map": "viridis"}

# Photographs hardly compress further: zlib's level 6 takes five times as long and saves an eighth.
_PNG_COMPRESSION = 1

_LEVELS = 255
_NUMBERS = (int, float, np.integer, np.floating)


class LookOptions(TypedDict, total=False):
    """The fields of `Look` as keyword arguments."""

    style: str
    colormap: str | None
    alpha: float
    interpolation: str
    scale: str
    dim_unseen: float


@dataclass(frozen=True, kw_only=True)
class Look:
    """How a map is drawn.

    Attributes:
        style: "overlay", the coloured map over the colour picture; "paper", the grey-level picture
            multiplied by the map and coloured (Figure 7); "map", the coloured map alone.
        colormap: one of `COLORMAPS` (default: the own one of the style or figure).
        alpha: opacity of the map in the style "overlay", from 0 (the picture) to 1 (the map).
        interpolation: "bicubic", or "nearest", which shows the patches as squares.
        scale: "head" stretches each map to the full range by itself; "shared" uses one range for
            all heads of all class-attention blocks of the picture, so that any two maps compare.
        dim_unseen: how much darker the part is drawn that the network did not see, from 0 (as it
            is) to 1 (black).

    Raises:
        SelectionError: a value that does not exist; the message names it and the allowed ones.
    """

    style: str = "overlay"
    colormap: str | None = None
    alpha: float = DEFAULT_ALPHA
    interpolation: str = "bicubic"
    scale: str = "head"
    dim_unseen: float = 0.0

    def __post_init__(self) -> None:
        check_choice("style", self.style, STYLES)
        if self.colormap is not None:
            check_choice("colormap", self.colormap, COLORMAPS)
        check_choice("interpolation", self.interpolation, INTERPOLATIONS)
        check_choice("scale", self.scale, SCALES)
        for name in ("alpha", "dim_unseen"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, _NUMBERS) or not 0 <= value <= 1:
                raise SelectionError(f"{name} must be a number from 0 to 1, not {value!r}")
            object.__setattr__(self, name, float(value))

    @property
    def colors(self) -> str:
        """The colormap that is drawn with: the one asked for, else the style's own."""
        return self.colormap or DEFAULT_COLORMAPS[self.style]


@lru_cache
def color_table(colormap: str) -> NDArray[np.uint8]:
    """The colours of the levels 0 to 255, `(256, 3)` uint8 RGB, read-only.

    Raises:
        SelectionError: no colormap of that name in `COLORMAPS`.
    """
    check_choice("colormap", colormap, COLORMAPS)
    # Matplotlib spells it the American way.
    colors = colormaps["gray" if colormap == "grey" else colormap]
    table = np.ascontiguousarray(colors(np.arange(_LEVELS + 1), bytes=True)[:, :3])
    table.flags.writeable = False
    return table


def colored(values: Floats, colormap: str) -> Image.Image:
    """A map of values in [0, 1] in colour, `(height, width) -> RGB picture` of that size."""
    levels = values * np.float32(_LEVELS)
    np.rint(levels, out=levels)
    indexed = Image.fromarray(levels.astype(np.uint8))
    indexed.putpalette(color_table(colormap).tobytes())
    return indexed.convert("RGB")


def render(picture: Image.Image, box: Box, grid: Floats, look: Look) -> Image.Image:
    """One map drawn with its picture, in the picture's own size.

    Args:
        picture: RGB.
        box: what the network saw, in pixels of the picture and within it.
        grid: the map, `(rows, cols)` float32 in [0, 1], of what lies in the box.
        look: how to draw it.

    Returns:
        A new RGB picture: the map inside the box; outside it the picture as it is, or dimmed if the
        look says so.
    """
    seen = seen_part(picture, box)
    values = upsample(grid, (seen.height, seen.width), look.interpolation)
    result = _dimmed(picture, look.dim_unseen)
    result.paste(_STYLES[look.style](seen, values, look), box.pixels())
    return result


def reduced(picture: Image.Image, box: Box, max_side: int) -> tuple[Image.Image, Box]:
    """The picture and its box made smaller, so that drawing for a screen costs no more than a screen.

    Args:
        picture: RGB.
        box: a part of it, in its pixels.
        max_side: the longer side of the result in pixels; a picture that is no larger is returned as
            it is.

    Raises:
        SelectionError: `max_side` is not a whole number of at least 1.
    """
    if isinstance(max_side, bool) or not isinstance(max_side, int | np.integer) or max_side < 1:
        raise SelectionError(f"max_side must be a whole number of at least 1, not {max_side!r}")
    factor = max_side / max(picture.size)
    if factor >= 1:
        return picture, box
    width, height = (max(1, round(side * factor)) for side in picture.size)
    # A gap of 2 lets Pillow average whole blocks of a large picture first: faster, and as good.
    smaller = picture.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=2.0)
    across, down = width / picture.width, height / picture.height
    return smaller, Box(
        box.left * across,
        box.top * down,
        min(box.right * across, width),
        min(box.bottom * down, height),
    )


def seen_part(picture: Image.Image, box: Box) -> Image.Image:
    """What the network saw of the picture."""
    return picture.crop(box.pixels())


def png_bytes(picture: Image.Image, text: Mapping[str, str]) -> bytes:
    """The picture as a PNG file that carries each entry of `text` as a text chunk.

    Latin-1 text becomes a tEXt chunk, any other an iTXt chunk. The keys are Latin-1, 79 letters at most.
    """
    chunks = PngInfo()
    for key, value in text.items():
        chunks.add_text(key, _storable(value))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", pnginfo=chunks, compress_level=_PNG_COMPRESSION)
    return buffer.getvalue()


def _overlay(seen: Image.Image, values: Floats, look: Look) -> Image.Image:
    return Image.blend(seen, colored(values, look.colors), look.alpha)


def _paper(seen: Image.Image, values: Floats, look: Look) -> Image.Image:
    # Pillow's "L" is the luma of ITU-R 601.
    grey = np.asarray(seen.convert("L"), dtype=np.float32) / np.float32(_LEVELS)
    return colored(grey * values, look.colors)


def _map(seen: Image.Image, values: Floats, look: Look) -> Image.Image:
    return colored(values, look.colors)


_STYLES: dict[str, Callable[[Image.Image, Floats, Look], Image.Image]] = {
    "overlay": _overlay,
    "paper": _paper,
    "map": _map,
}


def _dimmed(picture: Image.Image, share: float) -> Image.Image:
    if not share:
        return picture.copy()
    levels = [round(level * (1 - share)) for level in range(_LEVELS + 1)]
    return picture.point(levels * len(picture.getbands()))


def _storable(text: str) -> str:
    """The text without what a PNG text chunk cannot hold: NUL, and halves of surrogate pairs."""
    return text.replace("\0", " ").encode("utf-8", "replace").decode("utf-8")
