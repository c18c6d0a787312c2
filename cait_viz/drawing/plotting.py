"""Matplotlib for one thread at a time, and the letters of its figures: DejaVu Sans, which comes with it.

Matplotlib is imported within functions: drawing one map needs only its colormaps, and most commands nothing.
"""

import logging
import threading
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from cait_viz._text import printable

INK, FAINT = "#1a1a1a", "#6b6b6b"

_POINTS_PER_INCH = 72
# The distance of two lines in units of the letters' size.
_LINE_SPACING = 1.35
# More letters than fit any line; what lies beyond is not measured.
_LONGEST_LINE = 400
_UNDRAWABLE = "\N{WHITE SQUARE}"

# The settings that a figure depends on: all as Matplotlib has them, and none of the user's.
_SETTINGS = r"^(axes|figure|font|image|path|pdf|savefig|svg|text)\."

# Settings are global, and saving a figure reads some of them.
_lock = threading.Lock()


@contextmanager
def exclusive_matplotlib() -> Iterator[None]:
    """Import and use Matplotlib within this block, with its own settings and without its log lines.

    When it is first imported and cannot keep its font cache in the home folder, Matplotlib logs warnings.
    The cache then lies in a temporary folder, and there is nothing to be done.
    """
    logger = logging.getLogger("matplotlib")
    with _lock:
        level = logger.level
        logger.setLevel(logging.ERROR)
        try:
            from matplotlib import rc_context, rcParamsDefault

            with rc_context({**rcParamsDefault.find_all(_SETTINGS), "svg.hashsalt": "cait-viz"}):
                yield
        finally:
            logger.setLevel(level)


def letters(size: float, color: str = INK) -> dict[str, Any]:
    """The options of a text. A dollar sign in a label is a dollar sign and begins no formula."""
    from matplotlib.font_manager import FontProperties

    return {
        "fontproperties": FontProperties(fname=_font_file(), size=size),
        "color": color,
        "linespacing": _LINE_SPACING,
        "parse_math": False,
    }


@lru_cache
def _font_file() -> Path:
    from matplotlib import get_data_path

    return Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")


@lru_cache
def _font_characters() -> frozenset[int]:
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(str(_font_file())).get_charmap())


def shortened(text: str, width: float, size: float) -> str:
    """The text as it can be drawn, or as much of its beginning as fits the width, with an ellipsis."""
    known = _font_characters()
    text = "".join(letter if ord(letter) in known else _UNDRAWABLE for letter in printable(text))
    if len(text) <= _LONGEST_LINE and text_width(text, size) <= width:
        return text
    lengths = range(1, min(len(text), _LONGEST_LINE) + 1)
    kept = bisect_right(lengths, width, key=lambda length: text_width(f"{text[:length]}…", size))
    return f"{text[:kept].rstrip()}…"


def text_width(text: str, size: float) -> float:
    """The width of a line at most: hinted to the pixels of a PNG, it may grow by 3 %."""
    from matplotlib.textpath import text_to_path

    font = letters(size)["fontproperties"]
    return text_to_path.get_text_width_height_descent(text, font, ismath=False)[0] * 1.03 / _POINTS_PER_INCH


def lines_height(count: int, size: float) -> float:
    """The height in inches of lines under each other."""
    return count * size * _LINE_SPACING / _POINTS_PER_INCH
