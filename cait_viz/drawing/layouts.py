"""How the two figures are laid out: what is drawn where on the page. Lengths are in inches."""

from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image

from cait_viz.attention.maps import FIGURE_FORMATS, check_choice
from cait_viz.drawing.pages import (
    FAINT,
    Caption,
    Page,
    exclusive_matplotlib,
    leading,
    shortened,
    text_width,
    wrapped,
)

# The longer side of a drawn map and of a drawn picture in pixels: what 200 dots an inch can show.
MAP_PIXELS = 340
PICTURE_PIXELS = 720

# Tiles shrink as heads are added, so that 16 of them still fit a wide page.
_MARGIN = 0.25
_GAP = 0.08
_LARGEST_TILE, _SMALLEST_TILE = 1.6, 0.95
_WIDTH_FOR_TILES = 13.0
_PICTURE_COLUMNS = 2.5
_NARROWEST_COLUMN, _LOWEST_ROW = 0.75, 0.8
_BLOCK_LABEL = 0.22
_BETWEEN_PANELS = 0.3
_SALIENCY_TILE = 2.3

# Sizes of letters in points.
_TITLE, _LABEL, _NOTE = 10.0, 8.5, 6.5


class HeadsPanel(NamedTuple):
    """One picture's part of Figure 6.

    Attributes:
        title: a line above it.
        image: what the network saw, RGB.
        maps: for each class-attention block, the map of each head.
        notes: for each map, the lines under it.
    """

    title: str
    image: Image.Image
    maps: Sequence[Sequence[Image.Image]]
    notes: Sequence[Sequence[Sequence[str]]]


class SaliencyPanel(NamedTuple):
    """One picture's part of Figure 7.

    Attributes:
        image: what the network saw, RGB.
        saliency: the same in the paper's style.
        classes: each class to name under it, with what is said of it (its probability).
    """

    image: Image.Image
    saliency: Image.Image
    classes: Sequence[tuple[str, str]]


def lay_out_heads(panels: Sequence[HeadsPanel], caption: Caption, file_format: str = "png") -> bytes:
    """Figure 6 of the paper as a file: a row for each block, a column for each head.

    Args:
        panels: one for each picture; they lie under each other.
        caption: what is said of the figure.
        file_format: "png" (200 dots an inch), "svg" or "pdf".

    Raises:
        SelectionError: another format, or more pictures than a page can hold.
    """
    check_choice("figure format", file_format, FIGURE_FORMATS)
    with exclusive_matplotlib():
        layout = _HeadsLayout.of(panels)
        footer = wrapped(caption.footer, layout.width - 2 * _MARGIN, _NOTE)
        page = Page(layout.width, layout.height(panels) + leading(_NOTE) * len(footer), file_format)
        top = _MARGIN
        for panel in panels:
            _draw_heads_panel(page, panel, layout, top)
            top += layout.panel_height(panel) + _BETWEEN_PANELS
        page.lines(_MARGIN, top - _BETWEEN_PANELS + _GAP, footer, _NOTE, color=FAINT)
        return page.save(caption)


def lay_out_saliency(panels: Sequence[SaliencyPanel], caption: Caption, file_format: str = "png") -> bytes:
    """Figure 7 of the paper as a file: each picture, its saliency, and the classes under them.

    Args:
        panels: one for each picture; up to three lie beside each other.
        caption: what is said of the figure.
        file_format: "png" (200 dots an inch), "svg" or "pdf".

    Raises:
        SelectionError: another format, or more pictures than a page can hold.
    """
    check_choice("figure format", file_format, FIGURE_FORMATS)
    columns = 1 if len(panels) == 1 else 2 if len(panels) <= 4 else 3
    panel_width = 2 * _SALIENCY_TILE + _GAP
    width = 2 * _MARGIN + columns * panel_width + (columns - 1) * _BETWEEN_PANELS
    rows = [panels[first : first + columns] for first in range(0, len(panels), columns)]
    heights = [max(_saliency_height(panel) for panel in row) for row in rows]
    with exclusive_matplotlib():
        footer = wrapped(caption.footer, width - 2 * _MARGIN, _NOTE)
        below = _BETWEEN_PANELS / 2 + leading(_NOTE) * len(footer)
        total = 2 * _MARGIN + sum(heights) + (len(rows) - 1) * _BETWEEN_PANELS + below
        page = Page(width, total, file_format)
        top = _MARGIN
        for row, height in zip(rows, heights, strict=True):
            for column, panel in enumerate(row):
                _draw_saliency_panel(page, panel, _MARGIN + column * (panel_width + _BETWEEN_PANELS), top)
            top += height + _BETWEEN_PANELS
        page.lines(_MARGIN, top - _BETWEEN_PANELS / 2, footer, _NOTE, color=FAINT)
        return page.save(caption)


class _HeadsLayout(NamedTuple):
    """Lengths in inches that all panels of a Figure 6 share."""

    tile: float
    column: float
    picture_width: float
    width: float

    @classmethod
    def of(cls, panels: Sequence[HeadsPanel]) -> "_HeadsLayout":
        heads = max(len(row) for panel in panels for row in panel.maps)
        tile = min(max(_WIDTH_FOR_TILES / (heads + _PICTURE_COLUMNS), _SMALLEST_TILE), _LARGEST_TILE)
        column = max(_NARROWEST_COLUMN, *(_fitted(panel.image, tile, tile)[0] for panel in panels))
        draft = cls(tile, column, 0.0, 0.0)
        picture_width = max(draft.picture_size(panel)[0] for panel in panels)
        width = 2 * _MARGIN + picture_width + _GAP + _BLOCK_LABEL + heads * (column + _GAP) - _GAP
        return cls(tile, column, picture_width, width)

    def tile_height(self, panel: HeadsPanel) -> float:
        return max(_fitted(panel.image, self.tile, self.tile)[1], _LOWEST_ROW)

    def row_height(self, panel: HeadsPanel) -> float:
        """From the top of one row of maps to the top of the next."""
        lines = max(len(note) for row in panel.notes for note in row)
        return self.tile_height(panel) + leading(_NOTE) * lines + 2 * _GAP

    def picture_size(self, panel: HeadsPanel) -> tuple[float, float]:
        """From the top of the first row of maps to the bottom of the second, if there is one."""
        further_rows = min(len(panel.maps), 2) - 1
        height = further_rows * self.row_height(panel) + self.tile_height(panel)
        return _fitted(panel.image, _PICTURE_COLUMNS * self.tile, height)

    def panel_height(self, panel: HeadsPanel) -> float:
        return leading(_TITLE) + _GAP + leading(_LABEL) + len(panel.maps) * self.row_height(panel)

    def height(self, panels: Sequence[HeadsPanel]) -> float:
        between = (len(panels) - 1) * _BETWEEN_PANELS
        return 2 * _MARGIN + sum(self.panel_height(panel) for panel in panels) + between + _GAP


def _draw_heads_panel(page: Page, panel: HeadsPanel, layout: _HeadsLayout, top: float) -> None:
    title = shortened(panel.title, layout.width - 2 * _MARGIN, _TITLE)
    page.text(_MARGIN, top, title, _TITLE)
    labels = top + leading(_TITLE) + _GAP
    first = labels + leading(_LABEL)
    width, height = layout.picture_size(panel)
    page.image(_MARGIN, first, width, height, panel.image)
    left = _MARGIN + layout.picture_width + _GAP + _BLOCK_LABEL
    width, height = _fitted(panel.image, layout.tile, layout.tile)
    for block, (maps, notes) in enumerate(zip(panel.maps, panel.notes, strict=True)):
        row = first + block * layout.row_height(panel)
        page.upright(left - _GAP, row + height / 2, f"CA block {block + 1}", _LABEL)
        for head, (drawn, note) in enumerate(zip(maps, notes, strict=True)):
            x = left + head * (layout.column + _GAP)
            center = x + layout.column / 2
            if block == 0:
                page.text(center, labels, f"Head {head + 1}", _LABEL, align="center")
            page.image(center - width / 2, row, width, height, drawn)
            page.lines(center, row + height + _GAP / 2, note, _NOTE, color=FAINT, align="center")


def _saliency_height(panel: SaliencyPanel) -> float:
    _, height = _fitted(panel.image, _SALIENCY_TILE, _SALIENCY_TILE)
    return height + _GAP + leading(_LABEL) * len(panel.classes)


def _draw_saliency_panel(page: Page, panel: SaliencyPanel, left: float, top: float) -> None:
    width, height = _fitted(panel.image, _SALIENCY_TILE, _SALIENCY_TILE)
    middle = left + _SALIENCY_TILE + _GAP / 2
    page.image(middle - _GAP / 2 - width, top, width, height, panel.image)
    page.image(middle + _GAP / 2, top, width, height, panel.saliency)
    available = 2 * _SALIENCY_TILE + _GAP
    said = [
        f"{shortened(label, available - text_width(f'  {value}', _LABEL), _LABEL)}  {value}".strip()
        for label, value in panel.classes
    ]
    page.lines(middle, top + height + _GAP, said, _LABEL, align="center")


def _fitted(picture: Image.Image, width: float, height: float) -> tuple[float, float]:
    """The largest width and height in inches that keep the picture's shape."""
    factor = min(width / picture.width, height / picture.height)
    return picture.width * factor, picture.height * factor
