"""Files that a person asked for: checked before the work begins, written whole or not at all."""

import contextlib
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from cait_viz._text import one_line, path_text
from cait_viz.errors import OutputError, SelectionError

# A file that is being written; with random digits.
_PART = ".cait-viz-{}.part"


def check_output(path: Path, endings: Sequence[str], inputs: Iterable[Path] = ()) -> None:
    """Refuse a path that cannot or must not be written. Nothing is written yet.

    Args:
        path: the file to be.
        endings: the endings of the known formats, such as ".png", in either case.
        inputs: the files that are read; none of them may be replaced.

    Raises:
        SelectionError: another ending.
        OutputError: there is no such folder, it may not be written, or the file must not be replaced.
    """
    if path.suffix.lower() not in endings:
        known = ", ".join(endings)
        raise SelectionError(f"{path_text(path)}: the output's format follows from its ending; use {known}")
    try:
        target = path.resolve()
        _check_place(path, target)
        kept = [given for given in inputs if target.exists() and given.exists() and target.samefile(given)]
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        raise _unwritable(path, error) from None
    if kept:
        raise OutputError(f"{path_text(path)}: is read as an input and would be lost; choose another output")


def _check_place(path: Path, target: Path) -> None:
    folder = target.parent
    if not folder.is_dir():
        raise OutputError(f"{path_text(path)}: there is no folder {path_text(folder)}; make it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(
            f"{path_text(path)}: the folder {path_text(folder)} may not be written; choose another"
        )
    if target.exists() and not target.is_file():
        raise OutputError(f"{path_text(path)}: is a folder or a device; choose another output")
    if target.exists() and not os.access(target, os.W_OK):
        raise OutputError(
            f"{path_text(path)}: is there already and may not be written; choose another output"
        )


def check_folder(path: Path, inputs: Iterable[Path] = ()) -> None:
    """Refuse a folder that could not or should not be made. Nothing is written yet.

    Args:
        path: the folder to be; an empty one may be there already.
        inputs: what is read, in which no folder may be made.

    Raises:
        OutputError: it holds something, is a file, lies among the inputs or may not be written.
    """
    try:
        target = path.resolve()
        if target.exists() and not target.is_dir():
            raise OutputError(f"{path_text(path)}: is a file; name a new folder")
        if target.exists() and any(target.iterdir()):
            raise OutputError(f"{path_text(path)}: is there already and not empty; name a new folder")
        if any(given.resolve() in (target, *target.parents) for given in inputs):
            raise OutputError(f"{path_text(path)}: lies within what is read; name a folder elsewhere")
        if not target.exists():
            _check_place(path, target)
    except (OSError, RuntimeError) as error:
        raise _unwritable(path, error) from None


@contextlib.contextmanager
def placing(path: Path) -> Iterator[Path]:
    """A path of the same ending to write a file or a folder to; it becomes `path` when the block is done.

    For writers that take a path; `replacing` is for those that take a file. Nothing is left where the
    block fails.

    Raises:
        OutputError: it cannot be written.
    """
    target = path.resolve()
    folder = target.with_name(_PART.format(secrets.token_hex(8)))
    try:
        folder.mkdir()
        part = folder / f"part{target.suffix.lower()}"
        yield part
        if target.is_dir():
            target.rmdir()  # it is empty; only POSIX would let it be replaced
        part.replace(target)
    except OSError as error:
        raise _unwritable(path, error) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which takes its place under `path` only when all of it is written.

    What lay there before stays until then, and for good if the block fails. A link stays a link.

    Raises:
        OutputError: it cannot be written; nothing is left of it.
    """
    target = path.resolve()
    part = target.with_name(_PART.format(secrets.token_hex(8)))
    try:
        with part.open("xb") as file:
            yield file
        if target.exists():
            shutil.copymode(target, part)
        part.replace(target)
    except OSError as error:
        raise _unwritable(path, error) from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def user_cache() -> Path:
    """The program's folder in the user's cache; it may not be there yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cait-viz"


def remove_remains(folder: Path) -> None:
    """Remove what `replacing` left in a folder when the program was killed in the middle."""
    for part in folder.glob(_PART.format("?" * 16)):
        with contextlib.suppress(OSError):
            part.unlink()


def _unwritable(path: Path, error: Exception) -> OutputError:
    reason = getattr(error, "strerror", None) or one_line(str(error))
    return OutputError(f"{path_text(path)}: cannot be written ({reason}); choose another output")


def sha256(path: Path) -> str:
    """The file's SHA-256 in hexadecimal, computed once for as long as the file does not change."""
    state = path.stat()
    return _sha256(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=64)
def _sha256(path: Path, _size: int, _modified: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
