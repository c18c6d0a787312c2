"""The figures as files: every head (the paper's Figure 6), the saliency (Figure 7), the way there by depth.

Touvron et al., "Going deeper with Image Transformers" (2021), section 5.5. Matplotlib lays them out
(subfigures, constrained layout), through its objects alone: pyplot keeps one current figure for the whole
process, and the app has threads. The same arguments give the same bytes: no dates, no random identifiers,
none of the user's settings, and the DejaVu Sans that comes with Matplotlib. Lengths are in inches.
"""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cait_viz._text import printable
from cait_viz.drawing.export import SOFTWARE
from cait_viz.drawing.plotting import (
    FAINT,
    INK,
    exclusive_matplotlib,
    letters,
    lines_height,
    shortened,
    text_width,
)
from cait_viz.errors import SelectionError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

Kind = Literal["heads", "saliency"]
FigureFormat = Literal["png", "svg", "pdf"]
FIGURES: tuple[Kind, ...] = get_args(Kind)
FIGURE_FORMATS: tuple[FigureFormat, ...] = get_args(FigureFormat)

# The longer side in pixels of a map and of an image: what 200 dots an inch can show.
MAP_PIXELS, IMAGE_PIXELS = 340, 720

_DOTS_PER_INCH = 200
# A PDF page ends at 200 inches, a PNG of Matplotlib's at 65,536 pixels.
_TALLEST_PAGE = 150.0
_MARGIN, _GAP, _BETWEEN_PANELS = 0.25, 0.08, 0.3
# Around everything; an axis label beyond its axes adds as much again, which makes a gap between two tiles.
_PAD = _GAP / 4

# Maps shrink as heads are added, so that 16 of them still fit a wide page.
_LARGEST_MAP, _SMALLEST_MAP, _WIDTH_FOR_MAPS = 1.6, 0.95, 13.0
_IMAGE_COLUMNS = 2.5
_NARROWEST_COLUMN, _LOWEST_ROW = 0.75, 0.8

# Maps that are compared: the longer side, and the height of their colors.
_COMPARED, _RAMP = 4.2, 0.12

# Sizes of letters in points.
_TITLE, _LABEL, _NOTE = 10.0, 8.5, 6.5

# Where each format keeps a caption, and a date, which would make the same figure another file each time.
_METADATA = {
    "png": ("Title", "Description", "Software"),
    "svg": ("Title", "Description", "Creator", "Date"),
    "pdf": ("Title", "Subject", "Creator", "CreationDate"),
}


class Caption(NamedTuple):
    """What is said of a whole figure."""

    title: str  # what the figure is, kept in the file
    footer: str  # sentences drawn under it
    description: str  # what made it, kept in the file


class HeadsPanel(NamedTuple):
    """One image's part of Figure 6."""

    title: str  # a line above it
    image: Image.Image  # what the network saw, RGB
    # For each class-attention block, the map of each head and the two lines under it.
    rows: Sequence[Sequence[tuple[Image.Image, str]]]


class TracePanel(NamedTuple):
    """What happened to one image before the class token, by depth: after k self-attention blocks."""

    title: str  # a line above it
    image: Image.Image  # what the network saw, RGB
    tiles: Sequence[tuple[Image.Image, str]]  # for each depth the map drawn from it, and the class named
    classes: Sequence[tuple[str, NDArray[np.float32]]]  # a label, and its probability at each depth
    distances: NDArray[np.float32]  # (blocks, heads), in pixels


class ComparedPanel(NamedTuple):
    """One of several maps that stand beside each other."""

    title: str  # a line above it
    image: Image.Image  # the map drawn with its image, RGB
    note: str  # lines under it
    colors: Image.Image  # all colors from the least to the most, RGB, one pixel high
    limits: tuple[float, float]  # the values of the two


class SaliencyPanel(NamedTuple):
    """One image's part of Figure 7."""

    tiles: Sequence[Image.Image]  # of one size, beside each other: what the network saw, and its saliency
    lines: Sequence[tuple[str, str]]  # under them: a label, shortened if need be, and what follows it in full


def draw_heads(panels: Sequence[HeadsPanel], caption: Caption, file_format: str) -> bytes:
    """Figure 6 as a file of one of `FIGURE_FORMATS`: for each image a row a block and a column a head.

    Raises:
        SelectionError: more images than a page can hold.
    """
    heads = max(len(row) for panel in panels for row in panel.rows)
    side = min(max(_WIDTH_FOR_MAPS / (heads + _IMAGE_COLUMNS), _SMALLEST_MAP), _LARGEST_MAP)
    sizes = [_fitted(panel.image, side, side) for panel in panels]
    column = max(_NARROWEST_COLUMN, *(width for width, _ in sizes))
    notes = lines_height(2, _NOTE) + _GAP
    rows = [max(height, _LOWEST_ROW) + notes for _, height in sizes]
    # An image reaches from the top of the first row of maps to the bottom of the second, if there is one.
    image = max(
        _fitted(panel.image, _IMAGE_COLUMNS * side, row * min(len(panel.rows), 2) - notes)[0]
        for panel, row in zip(panels, rows, strict=True)
    )
    above = lines_height(1, _TITLE) + lines_height(1, _LABEL) + _GAP
    heights = [above + row * len(panel.rows) for panel, row in zip(panels, rows, strict=True)]
    width = image + lines_height(1, _LABEL) + heads * column + (heads + 1) * _GAP
    with exclusive_matplotlib():
        figure, parts = _page(width, heights, 1, caption.footer)
        for part, panel in zip(parts, panels, strict=True):
            title = shortened(panel.title, width, _TITLE)
            part.suptitle(title, x=_PAD / width, ha="left", **letters(_TITLE))
            widths, gaps = [image, *[column] * heads], (1 + heads) * _GAP / width
            grid = part.add_gridspec(len(panel.rows), 1 + heads, width_ratios=widths, wspace=gaps)
            _show(part.add_subplot(grid[:2, 0]), panel.image, "NW")
            for block, tiles in enumerate(panel.rows):
                for head, (drawn, note) in enumerate(tiles):
                    axes = part.add_subplot(grid[block, 1 + head])
                    _show(axes, drawn, "N")
                    axes.set_xlabel(note, labelpad=3, **letters(_NOTE, FAINT))
                    if block == 0:
                        axes.set_title(f"Head {head + 1}", pad=3, **letters(_LABEL))
                    if head == 0:
                        axes.set_ylabel(f"CA block {block + 1}", labelpad=4, **letters(_LABEL))
        return _file(figure, caption, file_format)


def draw_saliency(
    panels: Sequence[SaliencyPanel],
    caption: Caption,
    file_format: str,
    *,
    columns: int | None = None,
    tile: float = 2.3,
    headings: Sequence[str] = (),
) -> bytes:
    """Figure 7 as a file of one of `FIGURE_FORMATS`: each image's tiles beside each other, lines under them.

    As many images lie beside each other as `columns` says, up to three for None; `tile` is the longer side of
    a tile, and `headings` stand above each tile of the first row.

    Raises:
        SelectionError: more images than a page can hold.
    """
    columns = columns or (1 if len(panels) == 1 else 2 if len(panels) <= 4 else 3)
    tiles = len(panels[0].tiles)
    longest = tiles * tile + (tiles - 1) * _GAP
    sizes = [
        _fitted(panel.tiles[0], tile, tile)[1] + lines_height(len(panel.lines), _LABEL) for panel in panels
    ]
    heights = [max(sizes[first : first + columns]) + _GAP for first in range(0, len(panels), columns)]
    heights[0] += lines_height(1, _LABEL) if headings else 0
    with exclusive_matplotlib():
        width = columns * (longest + _GAP) + (columns - 1) * _BETWEEN_PANELS
        figure, parts = _page(width, heights, columns, caption.footer)
        for number, (part, panel) in enumerate(zip(parts, panels, strict=False)):
            every = part.subplots(1, tiles, squeeze=False)[0]
            for place, (axes, image) in enumerate(zip(every, panel.tiles, strict=True)):
                # Towards the middle, so that narrow tiles stay beside each other.
                _show(axes, image, "NE" if 2 * place + 1 < tiles else "NW" if 2 * place + 1 > tiles else "N")
                if headings and number < columns:
                    axes.set_title(headings[place], pad=3, **letters(_LABEL, FAINT))
            lines = [
                f"{shortened(label, longest - text_width(f'  {rest}', _LABEL), _LABEL)}  {rest}".strip()
                for label, rest in panel.lines
            ]
            # Centered under the middle tile, or under the gap between the two.
            x = 0.5 if tiles % 2 else 1 + _GAP / 2 / _fitted(panel.tiles[0], tile, tile)[0]
            every[(tiles - 1) // 2].set_xlabel("\n".join(lines), x=x, labelpad=4, **letters(_LABEL))
        return _file(figure, caption, file_format)


def draw_trace(panel: TracePanel, caption: Caption, file_format: str) -> bytes:
    """What happened before the class token, as a file of one of `FIGURE_FORMATS`.

    A film strip of the maps that each depth would have drawn, the classes that it would have named
    (nostalgebraist 2020), and how far each head looks (Dosovitskiy et al. 2021, Figure 7).
    """
    per_row, side = 7, 1.35
    width, height = _fitted(panel.image, side, side)
    film = -(-len(panel.tiles) // per_row)
    row = height + lines_height(1, _NOTE) + lines_height(1, _LABEL) + 2 * _GAP
    above, plots = lines_height(1, _TITLE) + _GAP, 2.6
    image = _fitted(panel.image, 2 * side, 2 * row - _GAP if film > 1 else row)[0]
    whole = image + per_row * (width + _GAP) + _GAP
    with exclusive_matplotlib():
        figure, parts = _page(whole, [above + film * row, plots], 1, caption.footer)
        parts[0].suptitle(shortened(panel.title, whole, _TITLE), x=_PAD / whole, ha="left", **letters(_TITLE))
        grid = parts[0].add_gridspec(film, 1 + per_row, width_ratios=[image, *[width] * per_row])
        _show(parts[0].add_subplot(grid[:2, 0]), panel.image, "NW")
        for depth, (drawn, label) in enumerate(panel.tiles):
            axes = parts[0].add_subplot(grid[depth // per_row, 1 + depth % per_row])
            _show(axes, drawn, "N")
            axes.set_title(_depth_name(depth), pad=3, **letters(_NOTE))
            axes.set_xlabel(shortened(label, width, _NOTE), labelpad=3, **letters(_NOTE, FAINT))
        said, far = parts[1].subplots(1, 2)
        depths = range(len(panel.tiles))
        lines = [said.plot(depths, 100 * shares, marker="o", markersize=3)[0] for _, shares in panel.classes]
        # Named afterwards: a legend leaves out what begins with "_", and reads formulas.
        legend = said.legend(lines, [" "] * len(lines), prop=letters(_NOTE)["fontproperties"], frameon=False)
        for text, (label, _) in zip(legend.get_texts(), panel.classes, strict=True):
            text.set(text=shortened(label, 2.0, _NOTE), parse_math=False)
        _name_axes(said, "After so many self-attention blocks", "Probability in %")
        blocks = np.arange(1, len(panel.distances) + 1)
        far.plot(blocks, panel.distances, ".", color=INK, alpha=0.5, markersize=5)
        far.plot(blocks, panel.distances.mean(axis=1), color=INK, linewidth=1)
        _name_axes(far, "Self-attention block", "Mean attention distance in pixels")
        return _file(figure, caption, file_format)


def draw_comparison(panels: Sequence[ComparedPanel], caption: Caption, file_format: str) -> bytes:
    """Maps beside each other as a file of one of `FIGURE_FORMATS`."""
    side = _COMPARED
    image = max(_fitted(panel.image, side, side)[1] for panel in panels)
    lines = max(panel.note.count("\n") for panel in panels) + 3
    height = image + _RAMP + lines_height(1, _LABEL) + lines_height(lines, _NOTE) + 3 * _GAP
    width = len(panels) * side + (len(panels) - 1) * _BETWEEN_PANELS
    with exclusive_matplotlib():
        figure, parts = _page(width, [height], len(panels), caption.footer)
        for part, panel in zip(parts, panels, strict=True):
            above, below = part.subplots(2, 1, height_ratios=[image, _RAMP])
            _show(above, panel.image, "S")
            above.set_title(shortened(panel.title, side, _LABEL), pad=4, **letters(_LABEL))
            _show(below, panel.colors, "N")
            below.set_aspect("auto")
            below.set_xticks([0, panel.colors.width - 1], [f"{value:.3g}" for value in panel.limits])
            below.tick_params(length=0, pad=3)
            for label, where in zip(below.get_xticklabels(), ("left", "right"), strict=True):
                label.set(ha=where, fontproperties=letters(_NOTE)["fontproperties"])
            note = "\n".join(shortened(line, side, _NOTE) for line in panel.note.split("\n"))
            below.set_xlabel(note, labelpad=4, **letters(_NOTE))
        return _file(figure, caption, file_format)


def _depth_name(depth: int) -> str:
    return "before block 1" if depth == 0 else f"after block {depth}"


def _name_axes(axes: "Axes", x: str, y: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel(x, **letters(_NOTE))
    axes.set_ylabel(y, **letters(_NOTE))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        label.set(fontproperties=letters(_NOTE)["fontproperties"])


def percent(share: float) -> str:
    """A share of one as a person reads it: "57 %", "<1 %"."""
    rounded = f"{100 * share:.0f} %"
    return "<1 %" if rounded == "0 %" and share > 0 else rounded


def _page(
    width: float, heights: Sequence[float], columns: int, footer: str
) -> "tuple[Figure, list[SubFigure]]":
    """A white page with the footer at its foot, and its parts, row by row."""
    from matplotlib.figure import Figure

    lines: list[str] = []
    for word in footer.split():
        longer = " ".join([*lines[-1:], shortened(word, width, _NOTE)])
        fits = lines and text_width(longer, _NOTE) <= width
        lines[-1 if fits else len(lines) :] = [longer if fits else shortened(word, width, _NOTE)]
    rows = len(heights)
    height = sum(heights) + (rows - 1) * _BETWEEN_PANELS + lines_height(len(lines) + 1, _NOTE) + _GAP
    if height > _TALLEST_PAGE:
        raise SelectionError(
            f"the figure would be {height:.0f} inches high, and {_TALLEST_PAGE:.0f} is the limit; "
            "draw fewer images at a time"
        )
    figure = Figure((width, height), _DOTS_PER_INCH)
    figure.supxlabel("\n".join(["", *lines]), x=_PAD / width, ha="left", **letters(_NOTE, FAINT))
    gaps = {"wspace": columns * _BETWEEN_PANELS / width, "hspace": rows * _BETWEEN_PANELS / height}
    parts = figure.subfigures(rows, columns, squeeze=False, height_ratios=heights, **gaps)
    return figure, list(parts.flat)


def _file(figure: "Figure", caption: Caption, file_format: str) -> bytes:
    from matplotlib.image import AxesImage
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.transforms import Bbox

    values = (printable(caption.title), printable(caption.description), SOFTWARE, None)
    metadata = dict(zip(_METADATA[file_format], values, strict=False))
    # A PNG's own grid needs resampling; vector files keep the pixels they are given.
    for image in figure.findobj(AxesImage):
        image.set_interpolation("antialiased" if file_format == "png" else "none")
    # Laid out once, and cut to what is on it: saved with "tight", every image would be resampled twice.
    ConstrainedLayoutEngine(w_pad=_PAD, h_pad=_PAD, wspace=0, hspace=0).execute(figure)
    # The solver's last decimals differ from run to run.
    for axes in figure.axes:
        axes.set_position(Bbox(np.round(axes.get_position(original=True).get_points(), 6)))
        axes.set_in_layout(True)
    used = Bbox(np.round(figure.get_tightbbox().padded(_MARGIN).get_points(), 4))
    buffer = io.BytesIO()
    figure.savefig(buffer, format=file_format, bbox_inches=used, metadata=metadata)
    return buffer.getvalue()


def _show(axes: "Axes", image: Image.Image, anchor: str) -> None:
    # Not clipped to its axes, which it fills: a clip's name in an SVG is made of all its decimals.
    axes.imshow(image, clip_on=False)
    axes.set(xticks=[], yticks=[], anchor=anchor)
    axes.spines[:].set_visible(False)


def _fitted(image: Image.Image, width: float, height: float) -> tuple[float, float]:
    """The largest width and height that keep the image's shape."""
    factor = min(width / image.width, height / image.height)
    return image.width * factor, image.height * factor
