"""Images in buckets: s3:// and gs:// addresses, through Arrow's file systems and their own settings."""

import io
import posixpath
from collections.abc import Iterator
from functools import cache
from typing import Any, TextIO

import pyarrow as pa

from cait_viz._text import one_line
from cait_viz.errors import DatasetError, ImageError
from cait_viz.images.read import MAX_FILE_BYTES

_SCHEMES = ("s3://", "gs://")


def in_bucket(name: str) -> bool:
    """Whether a name is an address in a bucket."""
    return name.startswith(_SCHEMES)


def read_bytes(address: str) -> bytes:
    """The content of a file, or as much as tells that it is too large for an image.

    Raises:
        ImageError: it cannot be read.
    """
    name = one_line(posixpath.basename(address), 255)
    try:
        files, path = _opened(address)
        with files.open(path, "rb") as file:
            return bytes(file.read(MAX_FILE_BYTES + 1))
    except FileNotFoundError:
        raise ImageError(f"{name}: there is no such file; check its name and folder") from None
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ImageError(f"{name}: the file cannot be read ({_reason(error)}); check the address") from None


def open_list(address: str) -> TextIO:
    """A list to read, as text in UTF-8; what goes wrong is an OSError."""
    files, path = _opened(address)
    return io.TextIOWrapper(files.fs.open_input_stream(path), encoding="utf-8")


def is_folder(address: str) -> bool:
    """Whether there are files below an address; DatasetError if its bucket cannot be asked."""
    try:
        files, path = _opened(address)
        return bool(files.isdir(path))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise _unreachable(address, error) from None


def files_below(address: str) -> Iterator[str]:
    """The files in a folder at any depth, sorted folder by folder; hidden ones are ignored.

    Raises:
        DatasetError: the folder cannot be read.
    """
    try:
        files, path = _opened(address)
        found = sorted(files.ls(path, detail=True), key=lambda entry: str(entry["name"]))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise _unreachable(address, error) from None
    for entry in found:
        below = f"{address.partition('://')[0]}://{entry['name']}"
        if posixpath.basename(below).startswith("."):
            continue
        if entry["type"] == "directory":
            yield from files_below(below)
        else:
            yield below


def matches(pattern: str) -> Iterator[str]:
    """The files that a pattern means, sorted, or the one that is called so; see `files_below`."""
    try:
        files, path = _opened(pattern)
        found = {path: files.info(path)} if files.isfile(path) else files.glob(path, detail=True)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise _unreachable(pattern, error) from None
    scheme = pattern.partition("://")[0]
    yield from (f"{scheme}://{name}" for name, entry in found.items() if entry["type"] == "file")


def _unreachable(address: str, error: Exception) -> DatasetError:
    return DatasetError(
        f"{one_line(address, 200)}: cannot be read ({_reason(error)}); check the address and your access"
    )


def _reason(error: Exception) -> str:
    return one_line(getattr(error, "strerror", None) or str(error), 200)


def _opened(address: str) -> tuple[Any, str]:
    """The file system of an address, with fsspec's methods, and the path in it."""
    scheme, _, path = address.partition("://")
    return _bucket(scheme, path.partition("/")[0]), path


@cache
def _bucket(scheme: str, bucket: str) -> Any:
    from fsspec.implementations.arrow import ArrowFSWrapper
    from pyarrow.fs import FileSystem

    return ArrowFSWrapper(FileSystem.from_uri(f"{scheme}://{bucket}")[0])
