"""The images that a command is given: files, folders, patterns, web addresses and lists of them."""

import glob
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from cait_viz._text import one_line, path_text
from cait_viz.errors import SelectionError
from cait_viz.images.folders import files_below
from cait_viz.images.web import is_web_address

# The standard input, and the ending of a file, that holds a list.
STANDARD_INPUT, LIST = "-", ".txt"


def list_images(sources: Iterable[str]) -> list[str]:
    """Every image that is meant, once, in the order in which they were given.

    Args:
        sources: paths and web addresses of images; folders, for the files in them at any depth, sorted;
            patterns with * or ?, ** for any depth; text files (.txt) of all these, one a line; "-" for such
            lines from the standard input.

    Raises:
        SelectionError: no image is meant, or a list cannot be read.
        DatasetError: a folder cannot be read.
    """
    found = list(dict.fromkeys(image for source in sources for image in _listed(source)))
    if not found:
        raise SelectionError("there are no images in what was given")
    return found


def _listed(source: str) -> Iterator[str]:
    if source == STANDARD_INPUT:
        for line in sys.stdin:
            yield from _named(line.rstrip("\r\n"))
    elif source.lower().endswith(LIST) and not is_web_address(source):
        try:
            lines = Path(source).read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
            raise SelectionError(f"{path_text(Path(source))}: the list cannot be read ({reason})") from None
        for line in lines:
            yield from _named(line)
    else:
        yield from _named(source)


def _named(name: str) -> Iterator[str]:
    """The images of one name that is no list; none of an empty line."""
    if not name.strip():
        return
    if is_web_address(name):
        yield name
    elif Path(name).is_dir():
        yield from map(str, files_below(Path(name)))
    elif any(letter in name for letter in "*?") and not Path(name).exists():
        matches = sorted(glob.iglob(name, recursive=True))  # noqa: PTH207 - Path's takes no absolute pattern
        if not matches:
            raise SelectionError(f"no file matches {one_line(name)}")
        yield from (match for match in matches if Path(match).is_file())
    else:
        yield name
