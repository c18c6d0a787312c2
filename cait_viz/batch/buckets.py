"""Images in buckets: s3:// and gs:// addresses, through Arrow's file systems and their own settings."""

import io
import posixpath
import re
from collections.abc import Iterator
from functools import cache
from typing import Any, TextIO

import pyarrow as pa
from pyarrow import fs

from cait_viz._text import one_line
from cait_viz.errors import DatasetError, ImageError
from cait_viz.images.read import MAX_FILE_BYTES
from cait_viz.images.web import is_web_address

_SCHEMES = ("s3://", "gs://")


def in_bucket(name: str) -> bool:
    """Whether a name is an address in a bucket."""
    return name.startswith(_SCHEMES)


def is_address(name: str) -> bool:
    """Whether a name is that of no file of this machine: a web address or one in a bucket."""
    return is_web_address(name) or in_bucket(name)


def read_bytes(address: str) -> bytes:
    """The content of a file, or as much as tells that it is too large for an image.

    Raises:
        ImageError: it cannot be read.
    """
    name = one_line(posixpath.basename(address), 255)
    try:
        files, path = _opened(address)
        with files.open_input_file(path) as file:
            return bytes(file.read(MAX_FILE_BYTES + 1))
    except FileNotFoundError:
        raise ImageError(f"{name}: there is no such file; check its name and folder") from None
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ImageError(f"{name}: the file cannot be read ({_reason(error)}); check the address") from None


def open_list(address: str) -> TextIO:
    """A list to read, as text in UTF-8; what goes wrong is an OSError."""
    files, path = _opened(address)
    return io.TextIOWrapper(files.open_input_stream(path), encoding="utf-8-sig")


def is_folder(address: str) -> bool:
    """Whether there are files below an address; DatasetError if its bucket cannot be asked."""
    return _kind(address) == fs.FileType.Directory


def files_below(address: str) -> Iterator[str]:
    """The files in a folder at any depth, sorted; hidden ones are ignored.

    Raises:
        DatasetError: the folder cannot be read.
    """
    try:
        files, path = _opened(address)
        # Arrow lists the folders of Google's only where somebody made an object of their name.
        selector = fs.FileSelector(path, recursive=not isinstance(files, fs.S3FileSystem))
        found = sorted(files.get_file_info(selector), key=lambda entry: str(entry.path).split("/"))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise _unreachable(address, error) from None
    for entry in found:
        below = entry.path.removeprefix(path).lstrip("/")
        if any(part.startswith(".") for part in below.split("/")):
            continue
        if entry.type == fs.FileType.File:
            yield _beginning(address) + entry.path
        elif not selector.recursive:
            yield from files_below(_beginning(address) + entry.path)


def matches(pattern: str) -> Iterator[str]:
    """The files that a pattern means, sorted, or the one that is called so; see `files_below`."""
    from fsspec.utils import glob_translate

    if _kind(pattern) == fs.FileType.File:
        yield pattern
        return
    fixed = re.split(r"[*?\[]", pattern, maxsplit=1)[0].rpartition("/")[0]
    wanted = re.compile(glob_translate(pattern))
    yield from (address for address in files_below(fixed) if wanted.match(address))


def _kind(address: str) -> Any:
    try:
        files, path = _opened(address)
        return files.get_file_info(path).type
    except (OSError, ValueError, pa.ArrowException) as error:
        raise _unreachable(address, error) from None


def _unreachable(address: str, error: Exception) -> DatasetError:
    return DatasetError(
        f"{one_line(address, 200)}: cannot be read ({_reason(error)}); check the address and your access"
    )


def _reason(error: Exception) -> str:
    return one_line(getattr(error, "strerror", None) or str(error), 200)


def _opened(address: str) -> tuple[Any, str]:
    """The file system of an address, and the path in it."""
    beginning = _beginning(address)
    path = address.removeprefix(beginning)
    return _file_system(beginning + path.partition("/")[0]), path


def _beginning(address: str) -> str:
    """What stands before the bucket: "s3://", or with the user that Arrow takes, "gs://anonymous@"."""
    scheme, _, rest = address.partition("://")
    user, at, _ = rest.partition("/")[0].rpartition("@")
    return f"{scheme}://{user}{at}"


@cache
def _file_system(bucket: str) -> Any:
    return fs.FileSystem.from_uri(bucket)[0]
