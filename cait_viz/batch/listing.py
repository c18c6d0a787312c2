"""The images that a command is given: files, folders, patterns, addresses and lists of them."""

import glob
import mimetypes
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import chain
from pathlib import Path, PurePath

from cait_viz._text import one_line, path_text
from cait_viz.batch import buckets
from cait_viz.batch.index import in_order
from cait_viz.errors import SelectionError
from cait_viz.images.folders import walk
from cait_viz.images.web import is_web_address

# The standard input, and the ending of a file, that holds a list.
STANDARD_INPUT, LIST = "-", ".txt"

# Windows puts them into folders of images.
_WINDOWS_FILES = ("thumbs.db", "desktop.ini")

# Of so many folders it is remembered whether they lie in the output: their images come one after the other.
_FOLDERS = 256

# Gets the name of a file that is left out.
LeaveOut = Callable[[str], object]


def list_images(
    sources: Iterable[str], output: Path, leave_out: LeaveOut = lambda name: None
) -> Iterator[str]:
    """Every image that is meant, in the order in which they were given; one may come twice.

    No more than a folder's own names are in memory.

    Args:
        sources: paths and addresses (https://, s3://, gs://) of images; folders, for the files in them at any
            depth, sorted, but for what by its ending is no image, such as .csv; patterns of files and folders
            with * or ?, ** for any depth; text files (.txt) of all these, one a line; "-" for such lines from
            the standard input. In a list, a folder of a bucket ends in "/".
        output: a folder whose files are not meant, wherever it lies.
        leave_out: gets the name of each file in a folder that is no image by its ending.

    Raises:
        SelectionError: no image is meant, or a list cannot be read.
        DatasetError: a folder cannot be read.
    """
    found, written = False, output.resolve()
    in_output = lru_cache(_FOLDERS)(lambda folder: Path(folder).resolve().is_relative_to(written))
    for source in sources:
        for image in _listed(source, leave_out):
            if buckets.is_address(image) or not in_output(os.path.dirname(image)):  # noqa: PTH120 - quicker
                found = True
                yield image
    if not found:
        raise SelectionError("there are no images in what was given")


def _listed(source: str, leave_out: LeaveOut) -> Iterator[str]:
    if source == STANDARD_INPUT:
        for line in sys.stdin:
            # A list that Windows' PowerShell hands over may begin with a byte order mark.
            yield from _named(line.rstrip("\r\n").removeprefix("\ufeff"), leave_out, in_list=True)
    elif source.lower().endswith(LIST) and not (is_web_address(source) or _is_pattern(source)):
        for line in _lines(source):
            yield from _named(line, leave_out, in_list=True)
    else:
        yield from _named(source, leave_out)


def _lines(source: str) -> Iterator[str]:
    try:
        with (
            buckets.open_list(source)
            if buckets.in_bucket(source)
            else Path(source).open(encoding="utf-8-sig")
        ) as lines:
            yield from (line.rstrip("\n") for line in lines)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise SelectionError(f"{path_text(Path(source))}: the list cannot be read ({reason})") from None


def _named(name: str, leave_out: LeaveOut, *, in_list: bool = False) -> Iterator[str]:
    """The images of one name that is no list; none of an empty line."""
    if not name.strip():
        return
    if is_web_address(name):
        yield name
    elif buckets.in_bucket(name):
        yield from _in_bucket(name, leave_out, in_list=in_list)
    elif not _is_pattern(name):
        yield from _file_or_folder(name, leave_out)
    else:
        matches = in_order(glob.iglob(name, recursive=True))  # noqa: PTH207 - Path's takes no absolute pattern
        for match in _some(matches, name):
            yield from _file_or_folder(match, leave_out)


def _file_or_folder(name: str, leave_out: LeaveOut) -> Iterator[str]:
    if os.path.isdir(name):  # noqa: PTH112 - Path's fails for names that no system would take
        yield from _of_folder(map(str, walk(Path(name))), leave_out)
    else:
        yield name


def _of_folder(files: Iterable[str], leave_out: LeaveOut) -> Iterator[str]:
    """The files but for those that by their ending are no images; one without a known ending may be one."""
    for file in files:
        kind, _ = mimetypes.guess_type(PurePath(file).name)
        if (kind and not kind.startswith("image/")) or file.lower().endswith(_WINDOWS_FILES):
            leave_out(file)
        else:
            yield file


def _in_bucket(name: str, leave_out: LeaveOut, *, in_list: bool) -> Iterator[str]:
    # To ask for each name of a list whether it is a folder would take longer than to read the images.
    if name.endswith("/") or (not in_list and buckets.is_folder(name)):
        yield from _of_folder(buckets.files_below(name.rstrip("/")), leave_out)
    elif _is_pattern(name):
        yield from _some(buckets.matches(name), name)
    else:
        yield name


def _is_pattern(name: str) -> bool:
    """Whether a name is a pattern, and not that of a file which is there."""
    return any(letter in name for letter in "*?") and not os.path.lexists(name)


def _some(matches: Iterator[str], pattern: str) -> Iterator[str]:
    """What matches a pattern; an error if nothing does."""
    first = next(matches, None)
    if first is None:
        sets = "; [ and ] enclose a set of letters there, [[] is a bracket" if "[" in pattern else ""
        raise SelectionError(f"no file matches {one_line(pattern)}{sets}")
    yield from chain([first], matches)
