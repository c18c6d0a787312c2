"""Files that a person asked for: checked before the work begins, written whole or not at all."""

import contextlib
import errno
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

# What is being written lies in a folder of this name, with random digits, beside where it will be.
_PART = ".cait-viz-{}.part"


def check_output(path: Path, endings: Sequence[str], inputs: Iterable[Path] = ()) -> None:
    """Refuse a file that cannot or must not be written, before anything is written.

    Args:
        path: the file to be.
        endings: those of the known formats, such as ".png", in either case; another is a SelectionError.
        inputs: the files that are read; to replace one of them is an OutputError, as is any other obstacle.
    """
    if path.suffix.lower() not in endings:
        known = ", ".join(endings)
        raise SelectionError(f"{path_text(path)}: the output's format follows from its ending; use {known}")
    with _refusing(path, OSError, RuntimeError):  # RuntimeError: links in a circle
        target = path.resolve()
        _check_place(path, target)
        if any(target.exists() and given.exists() and target.samefile(given) for given in inputs):
            raise _obstacle(path, "is read as an input and would be lost; choose another output")


def check_folder(path: Path, inputs: Iterable[Path] = ()) -> None:
    """Refuse, by an OutputError, a folder that cannot or must not be made, before anything is written.

    Args:
        path: the folder to be; an empty one may be there already.
        inputs: what is read, in which no folder may be made.
    """
    with _refusing(path, OSError, RuntimeError):
        target = path.resolve()
        if target.exists() and not target.is_dir():
            raise _obstacle(path, "is a file; name a new folder")
        if target.exists() and any(target.iterdir()):
            raise _obstacle(path, "is there already and not empty; name a new folder")
        if any(given.resolve() in (target, *target.parents) for given in inputs):
            raise _obstacle(path, "lies within what is read; name a folder elsewhere")
        if not target.exists():
            _check_place(path, target)


def _check_place(path: Path, target: Path) -> None:
    folder = target.parent
    if not folder.is_dir():
        raise _obstacle(path, f"there is no folder {path_text(folder)}; make it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise _obstacle(path, f"the folder {path_text(folder)} may not be written; choose another")
    if target.exists() and not target.is_file():
        raise _obstacle(path, "is a folder or a device; choose another output")
    if target.exists() and not os.access(target, os.W_OK):
        raise _obstacle(path, "is there already and may not be written; choose another output")


def _obstacle(path: Path, problem: str) -> OutputError:
    return OutputError(f"{path_text(path)}: {problem}")


@contextlib.contextmanager
def _refusing(path: Path, *errors: type[Exception]) -> Iterator[None]:
    """Turn what the system says into an OutputError."""
    try:
        yield
    except errors as error:
        reason = getattr(error, "strerror", None) or one_line(str(error))
        full = getattr(error, "errno", None) == errno.ENOSPC
        way_out = "make room there, or choose another output" if full else "choose another output"
        raise _obstacle(path, f"cannot be written ({reason}); {way_out}") from None


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A path of the same ending to write a file or a folder to; it becomes `path` when the block is done.

    What lay there before stays until then, and for good if the block fails, by an OutputError if `path`
    cannot be written. A link stays a link.
    """
    target = path.resolve()
    folder = target.with_name(_PART.format(secrets.token_hex(8)))
    part = folder / f"part{target.suffix.lower()}"
    try:
        with _refusing(path, OSError):
            folder.mkdir()
            yield part
            if part.is_dir() and target.is_dir():
                target.rmdir()  # it is empty; only POSIX would let it be replaced
            elif target.exists():
                shutil.copymode(target, part)
            elif part.is_file():
                with contextlib.suppress(OSError):  # a file system without permissions
                    # The folder has what the user's umask leaves; safetensors makes files of mode 0600.
                    part.chmod(folder.stat().st_mode & 0o666)
            part.replace(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which takes its place under `path` as `atomic_path` says."""
    with atomic_path(path) as part, part.open("xb") as file:
        yield file


def remove_remains(folder: Path) -> None:
    """Remove what was being written in a folder when the program was killed."""
    for part in folder.glob(_PART.format("?" * 16)):
        shutil.rmtree(part, ignore_errors=True)


def remove_folder(folder: Path) -> None:
    """Remove a folder at once, and its files after that: if killed, what is left are remains."""
    part = folder.with_name(_PART.format(secrets.token_hex(8)))
    folder.rename(part)
    shutil.rmtree(part)


def sha256(path: Path) -> str:
    """The file's SHA-256 in hexadecimal, computed once for as long as the file does not change."""
    state = path.stat()
    return _sha256(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=64)
def _sha256(path: Path, _size: int, _modified: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
