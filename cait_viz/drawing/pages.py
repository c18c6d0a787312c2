"""A page to draw pictures and lines of text on, in inches, and to save as PNG, SVG or PDF.

Matplotlib's object-oriented interface only: pyplot keeps one current figure for the whole process, and
the app has threads. The same page gives the same bytes: no dates, no random identifiers, and the
DejaVu Sans that comes with Matplotlib.
"""

import io
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.ft2font import FT2Font
from PIL import Image

from cait_viz.errors import SelectionError

INK, FAINT = "#1a1a1a", "#6b6b6b"

_DOTS_PER_INCH = 200
_POINTS_PER_INCH = 72

# In inches. A PDF page ends at 200, a PNG of Matplotlib's at 65,536 pixels.
_TALLEST_PAGE = 150.0

# The distance of two lines in units of the letters' size, and where in it the baseline lies.
_LINE_SPACING = 1.35
_BASELINE = 0.75

# FreeType counts in 64ths of a pixel; hinted to the pixels of a PNG, a line may grow by this much.
_MEASURED_SIZE = 128
_FONT_UNITS = 64
_HINTING = 1.03

# Far more than fits any page: what lies beyond is not measured.
_LONGEST_LINE = 400
_UNDRAWABLE = "\N{WHITE SQUARE}"

# Matplotlib's settings are global, and saving reads some of them (the salt of SVG identifiers).
_matplotlib_lock = threading.Lock()
_SETTINGS: dict[Any, Any] = {
    "svg.hashsalt": "cait-viz",
    "svg.fonttype": "path",
    "pdf.fonttype": 3,
    "text.usetex": False,
    "savefig.bbox": None,
    "path.sketch": None,
}

# Vector files keep the pixels they are given; only the screen's own grid needs resampling.
_IMAGE_INTERPOLATION = {"png": "antialiased", "svg": "none", "pdf": "none"}


class Caption(NamedTuple):
    """What is said of a whole figure.

    Attributes:
        title: what the figure is, kept in the file.
        footer: a sentence drawn under it.
        description: what made it, kept in the file.
        software: the name and version of the program, kept in the file.
    """

    title: str
    footer: str
    description: str
    software: str


class Page:
    """A white page measured in inches from its upper left corner.

    To be made, drawn on and saved inside one `exclusive_matplotlib`.
    """

    def __init__(self, width: float, height: float, file_format: str) -> None:
        if height > _TALLEST_PAGE:
            raise SelectionError(
                f"the figure would be {height:.0f} inches high, and {_TALLEST_PAGE:.0f} is the limit; "
                "draw fewer pictures at a time"
            )
        self._format = file_format
        self._figure = Figure(figsize=(width, height), dpi=_DOTS_PER_INCH, facecolor="white")
        # Each picture stays a picture of its own in a vector file.
        self._figure.suppressComposite = True
        self._axes: Axes = self._figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
        self._axes.set_axis_off()

    def image(self, left: float, top: float, width: float, height: float, picture: Image.Image) -> None:
        """A picture, stretched to the given size."""
        self._axes.imshow(
            picture,
            extent=(left, left + width, top + height, top),
            aspect="auto",
            interpolation=_IMAGE_INTERPOLATION[self._format],
        )

    def text(self, x: float, y: float, text: str, size: float, *, align: str = "left") -> None:
        """One line with its upper edge at y."""
        self.lines(x, y, [text], size, align=align)

    def lines(
        self, x: float, y: float, lines: Sequence[str], size: float, *, color: str = INK, align: str = "left"
    ) -> None:
        """Lines under each other, the upper edge of the first at y."""
        for number, line in enumerate(lines):
            baseline = y + (number + _BASELINE) * leading(size)
            self._write(x, baseline, line, size, color=color, ha=align, va="baseline")

    def upright(self, x: float, y: float, text: str, size: float) -> None:
        """One line that reads upwards, centred on y, with its right edge at x."""
        self._write(x, y, text, size, color=INK, ha="right", va="center", rotation=90)

    def save(self, caption: Caption) -> bytes:
        """The page as a file."""
        buffer = io.BytesIO()
        metadata = _METADATA[self._format](caption)
        self._figure.savefig(buffer, format=self._format, facecolor="white", metadata=metadata)
        return buffer.getvalue()

    def _write(self, x: float, y: float, text: str, size: float, **options: Any) -> None:
        font = FontProperties(fname=_font_file(), size=size)
        # A dollar sign in a label is a dollar sign and begins no formula.
        self._axes.text(x, y, _drawable(text), fontproperties=font, parse_math=False, **options)


# A date in the file would make the same figure a different file each time.
_METADATA: dict[str, Callable[[Caption], dict[str, str | None]]] = {
    "png": lambda caption: {
        "Title": plain_text(caption.title),
        "Description": plain_text(caption.description),
        "Software": plain_text(caption.software),
    },
    "svg": lambda caption: {
        "Title": plain_text(caption.title),
        "Description": plain_text(caption.description),
        "Creator": plain_text(caption.software),
        "Date": None,
    },
    "pdf": lambda caption: {
        "Title": plain_text(caption.title),
        "Subject": plain_text(caption.description),
        "Creator": plain_text(caption.software),
        "CreationDate": None,
    },
}


@contextmanager
def exclusive_matplotlib() -> Iterator[None]:
    """Matplotlib for this thread alone, with the settings that the files depend on."""
    with _matplotlib_lock, matplotlib.rc_context(_SETTINGS):
        yield


def leading(size: float) -> float:
    """The distance of two lines in inches, for letters of a size in points."""
    return size * _LINE_SPACING / _POINTS_PER_INCH


def plain_text(text: str) -> str:
    """The text on one line, without control characters and halves of surrogate pairs."""
    return "".join(character if character.isprintable() else " " for character in text)


@lru_cache
def _font_file() -> Path:
    return Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")


@lru_cache
def _font_characters() -> frozenset[int]:
    return frozenset(FT2Font(str(_font_file())).get_charmap())


def _drawable(text: str) -> str:
    """The text with a square in place of each character that the font does not have."""
    known = _font_characters()
    return "".join(letter if ord(letter) in known else _UNDRAWABLE for letter in plain_text(text))


def text_width(text: str, size: float) -> float:
    """The width of a line in inches, for letters of a size in points."""
    font = FT2Font(str(_font_file()))
    # Measured large, where no hinting rounds the letters to pixels.
    font.set_size(_MEASURED_SIZE, _POINTS_PER_INCH)
    font.set_text(_drawable(text))
    points = font.get_width_height()[0] / _FONT_UNITS * size / _MEASURED_SIZE
    return _HINTING * points / _POINTS_PER_INCH


def shortened(text: str, width: float, size: float) -> str:
    """The text, or as much of its beginning as fits the width in inches, with an ellipsis."""
    if len(text) <= _LONGEST_LINE and text_width(text, size) <= width:
        return text
    beginnings = range(1, min(len(text), _LONGEST_LINE) + 1)
    kept = bisect_right(beginnings, width, key=lambda length: text_width(f"{text[:length]}…", size))
    return f"{text[:kept].rstrip()}…"


def wrapped(text: str, width: float, size: float) -> list[str]:
    """The text's words on as many lines as the width in inches asks for."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(longer, size) <= width:
            lines[-1] = longer
        else:
            lines.append(shortened(word, width, size))
    return lines
