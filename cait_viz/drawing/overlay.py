"""From a map and an image to an image, in three styles.

A map is laid on the part of the image that the network saw, at the image's own resolution, and every
result has the image's full size. The functions are pure, so threads may share them. NumPy, Pillow and
Matplotlib's colormaps only; the figures of the paper are in `figures`.
"""

from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cait_viz._checks import check_choice, check_number
from cait_viz.attention.maps import INTERPOLATIONS, SCALES, Floats, Interpolation, Scale, upsample
from cait_viz.drawing.plotting import exclusive_matplotlib
from cait_viz.images.preprocess import Box

Style = Literal["overlay", "paper", "map"]
STYLES: tuple[Style, ...] = get_args(Style)
COLORMAPS = ("viridis", "cividis", "inferno", "magma", "plasma", "gray")

# At the patch with the most attention; less attention, less opacity. Even there the image shines through.
DEFAULT_ALPHA = 0.8

# What each style is drawn in where nothing else is asked for: cividis is the paper's (Figure 7),
# inferno the tutorial's overlay, whose bright end stands out from dark and from bright photographs.
DEFAULT_COLORMAPS: dict[Style, str] = {"overlay": "inferno", "paper": "cividis", "map": "viridis"}

# What scores of either sign are drawn in: white at zero, blue below and red above.
SIGNED_COLORMAP = "RdBu_r"

_LEVELS = 255


@dataclass(frozen=True, kw_only=True)
class Appearance:
    """How a map is drawn.

    Attributes:
        style: "overlay", the colored map over the color image, the more opaque the more attention;
            "paper", the gray-level image multiplied by the map and colored (Figure 7); "map", the colored
            map alone.
        colormap: viridis, cividis, inferno, magma, plasma or gray (default: inferno for the overlay, cividis
            for the paper's style, viridis for maps alone).
        alpha: opacity of the map in the style "overlay" where it has its largest value, 1, from 0 (the image)
            to 1 (the map's color). Elsewhere it is alpha times the map's value: what got no attention stays
            the image.
        interpolation: "bicubic", or "nearest", which shows the patches as squares.
        scale: of the colors: "head" stretches each map to the full range by itself; "shared" uses one range
            for all maps that are compared, those of all heads of all class-attention blocks of an image, or
            two side by side.
        dim_unseen: how much darker the part is drawn that the network did not see, from 0 (as it
            is) to 1 (black).

    Raises:
        SelectionError: a value that does not exist; the message names it and the allowed ones.
    """

    style: Style = "overlay"
    colormap: str | None = None
    alpha: float = DEFAULT_ALPHA
    interpolation: Interpolation = "bicubic"
    scale: Scale = "head"
    dim_unseen: float = 0.0

    def __post_init__(self) -> None:
        check_choice("style", self.style, STYLES)
        if self.colormap is not None:
            check_choice("colormap", self.colormap, COLORMAPS)
        check_choice("interpolation", self.interpolation, INTERPOLATIONS)
        check_choice("scale", self.scale, SCALES)
        for name in ("alpha", "dim_unseen"):
            object.__setattr__(self, name, check_number(name, getattr(self, name), "from 0 to 1"))

    @property
    def colors(self) -> str:
        """The colormap that is drawn with: the one asked for, else the style's own."""
        return self.colormap or DEFAULT_COLORMAPS[self.style]

    def facts(self) -> dict[str, Any]:
        """The fields with the colormap that is drawn with, ready for JSON."""
        return {**asdict(self), "colormap": self.colors}


@lru_cache
def color_table(colormap: str) -> NDArray[np.uint8]:
    """The colors of the levels 0 to 255 of one of `COLORMAPS`, `(256, 3)` uint8 RGB, read-only."""
    with exclusive_matplotlib():
        from matplotlib import colormaps

        colors = colormaps[colormap]
        table = np.ascontiguousarray(colors(np.arange(_LEVELS + 1), bytes=True)[:, :3])
    table.flags.writeable = False
    return table


def color_ramp(colormap: str) -> Image.Image:
    """All colors of a colormap from the least to the most, RGB, one pixel high."""
    return Image.fromarray(color_table(colormap)[np.newaxis])


def colored(values: Floats, colormap: str) -> Image.Image:
    """A map of values in [0, 1] in color, `(height, width) -> RGB image` of that size."""
    indexed = _levels(values)
    indexed.putpalette(color_table(colormap).tobytes())
    return indexed.convert("RGB")


def _levels(values: Floats) -> Image.Image:
    """Values in [0, 1] as gray levels, `(height, width) -> L image` of that size."""
    levels = values * np.float32(_LEVELS)
    np.rint(levels, out=levels)
    return Image.fromarray(levels.astype(np.uint8))


def render(image: Image.Image, box: Box, grid: Floats, appearance: Appearance) -> Image.Image:
    """One map drawn with its image, RGB, in the image's own size; what the network did not see is dimmed.

    Args:
        image: RGB.
        box: what the network saw, in pixels of the image and within it.
        grid: the map, `(rows, cols)` float32 in [0, 1], of what lies in the box.
        appearance: how to draw it.
    """
    seen = image.crop(box.pixels())
    values = upsample(grid, (seen.height, seen.width), appearance.interpolation)
    if appearance.style == "paper":
        # Pillow's "L" is the luma of ITU-R 601.
        values = values * (np.asarray(seen.convert("L"), dtype=np.float32) / np.float32(_LEVELS))
    drawn = colored(values, appearance.colors)
    if appearance.style == "overlay":
        drawn = Image.composite(drawn, seen, _levels(values * np.float32(appearance.alpha)))
    return _framed(image, box, drawn, appearance)


def render_signed(image: Image.Image, box: Box, scores: Floats, appearance: Appearance) -> Image.Image:
    """As `render`, for scores of either sign: the farther from zero the more opaque, a color for each sign.

    Args:
        image: RGB.
        box: what the network saw, in pixels of the image and within it.
        scores: the map, `(rows, cols)` float32 in [-1, 1], of what lies in the box.
        appearance: how to draw it; the colors are those of `SIGNED_COLORMAP`. The paper's style has the
            gray-level image below.
    """
    seen = image.crop(box.pixels())
    values = upsample(scores, (seen.height, seen.width), appearance.interpolation)
    drawn = colored((values + np.float32(1)) / np.float32(2), SIGNED_COLORMAP)
    if appearance.style != "map":
        under = seen.convert("L").convert("RGB") if appearance.style == "paper" else seen
        # The opacity is the overlay's; the paper's style has none to choose.
        alpha = appearance.alpha if appearance.style == "overlay" else DEFAULT_ALPHA
        drawn = Image.composite(drawn, under, _levels(np.abs(values) * np.float32(alpha)))
    return _framed(image, box, drawn, appearance)


def _framed(image: Image.Image, box: Box, drawn: Image.Image, appearance: Appearance) -> Image.Image:
    """What was drawn in its place, and around it the image, as dim as the appearance says."""
    if drawn.size == image.size:
        return drawn
    dimmed = [round(level * (1 - appearance.dim_unseen)) for level in range(_LEVELS + 1)]
    result = image.point(dimmed * len(image.getbands()))
    result.paste(drawn, box.pixels())
    return result


def reduced(image: Image.Image, box: Box, max_side: int) -> tuple[Image.Image, Box]:
    """The image, RGB, and a box in it made smaller: drawing for a screen is to cost no more than a screen.

    `max_side` is the longer side of the result in pixels; an image that is no larger is returned as it is.

    Raises:
        SelectionError: `max_side` is not a whole number of at least 1.
    """
    factor = check_number("max_side", max_side, "at least 1", whole=True) / max(image.size)
    if factor >= 1:
        return image, box
    width, height = (max(1, round(side * factor)) for side in image.size)
    # A gap of 2 lets Pillow average whole blocks of a large image first: faster, and as good.
    smaller = image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=2.0)
    across, down = width / image.width, height / image.height
    right, bottom = min(box.right * across, width), min(box.bottom * down, height)
    return smaller, Box(box.left * across, box.top * down, right, bottom)
