"""Weights that are no safetensors file become one, once, in the user's cache.

An entry's key is made of the weights' hashes and this program's own code for them, so that what an earlier
version converted is not taken.

TensorFlow and PyTorch read them in a process of their own, where what a damaged file does ends.
"""

import hashlib
import json
import sys
import tempfile
from functools import cache
from pathlib import Path

from safetensors.numpy import save_file

from cait_viz._cache import CONTENTS, mark_used, shrink, user_cache
from cait_viz._files import atomic_path, atomic_write, sha256
from cait_viz._process import run_module, status_of
from cait_viz._text import file_text, one_line, path_text
from cait_viz.errors import CheckpointError, OutputError, ProcessDiedError
from cait_viz.weights import pytorch, savedmodel

_READERS = {"savedmodel": savedmodel.read, "pytorch": pytorch.read}


def folder() -> Path:
    """Where the converted checkpoints lie; it may not be there yet."""
    return user_cache("converted")


def as_safetensors(path: Path) -> Path:
    """Convert a SavedModel's folder or a PyTorch checkpoint; any other path is returned as it is.

    Where the cache cannot be written, the file lies in a temporary folder that goes when this process ends.

    Raises:
        CheckpointError: it cannot be read or converted.
    """
    try:
        if (path / "saved_model.pb").is_file():
            reader, files = "savedmodel", sorted((path / "variables").glob("variables.*"))
        elif pytorch.is_pickle(path):
            reader, files = "pytorch", [path]
        else:
            return path
        hashes = "".join([*map(sha256, files), _converter()])
        digest = hashlib.sha256(hashes.encode()).hexdigest()
    except OSError as error:
        raise CheckpointError(
            f"{file_text(path)}: cannot be read ({path_text(Path(error.filename or path))}: "
            f"{error.strerror}); check its permissions"
        ) from None
    try:
        return _converted(reader, path, folder() / digest)
    except (OSError, OutputError):
        pass
    try:
        return _converted(reader, path, Path(_temporary().name) / digest)
    except (OSError, OutputError) as error:
        raise CheckpointError(
            f"{file_text(path)}: cannot be converted ({one_line(str(error))}); set XDG_CACHE_HOME or TMPDIR "
            "to a folder of your own"
        ) from None


def _converted(reader: str, path: Path, entry: Path) -> Path:
    """The safetensors file of an entry, from before or made now."""
    target = entry / "model.safetensors"
    if not target.is_file():
        entry.mkdir(parents=True, exist_ok=True)
        with atomic_path(target) as part:
            try:
                run_module("cait_viz.weights.conversion", reader, str(path.absolute()), str(part))
            except ProcessDiedError:
                raise CheckpointError(f"{file_text(path)}: the process that reads it died") from None
        with atomic_write(entry / CONTENTS) as file:
            file.write(json.dumps({"name": one_line(path.name, 100)}).encode())
        shrink(entry.parent, keep=entry)
    mark_used(entry)
    return target


@cache
def _converter() -> str:
    """The hashes of the code that would convert a checkpoint now."""
    code = sorted(Path(__file__).parent.glob("*.py"))
    return "".join(hashlib.sha256(file.read_bytes()).hexdigest() for file in code)


@cache
def _temporary() -> tempfile.TemporaryDirectory[str]:
    """This process's folder for what the cache has no room for."""
    return tempfile.TemporaryDirectory(prefix="cait-viz-", ignore_cleanup_errors=True)


def convert(reader: str, path: str, target: str) -> None:
    """Read weights and write them as safetensors, in that process."""
    save_file(_READERS[reader](Path(path)), target, metadata={"format": "pt"})


if __name__ == "__main__":
    sys.exit(status_of(convert, *sys.argv[1:]))
