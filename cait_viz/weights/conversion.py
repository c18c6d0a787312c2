"""Weights that are no safetensors file become one, once, in the user's cache.

TensorFlow and PyTorch read them in a process of their own, where what a damaged file does ends.
"""

import hashlib
import sys
from pathlib import Path

from safetensors.numpy import save_file

from cait_viz._files import placing, sha256, user_cache
from cait_viz._process import run_module, status_of
from cait_viz._text import file_text, one_line, path_text
from cait_viz.errors import CheckpointError, ProcessDiedError
from cait_viz.weights import pytorch, savedmodel

_READERS = {"savedmodel": savedmodel.read, "pytorch": pytorch.read}


def as_safetensors(path: Path) -> Path:
    """Convert a SavedModel's folder or a PyTorch checkpoint; any other path is returned as it is."""
    try:
        if (path / "saved_model.pb").is_file():
            reader, files = "savedmodel", sorted((path / "variables").glob("variables.*"))
        elif pytorch.is_pickle(path):
            reader, files = "pytorch", [path]
        else:
            return path
        digest = hashlib.sha256("".join(sha256(file) for file in files).encode()).hexdigest()
        folder = user_cache() / "converted" / digest
        target = folder / f"{one_line(path.resolve().stem, 100)}.safetensors"
        if not target.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            _convert(reader, path, target)
    except OSError as error:
        raise CheckpointError(
            f"{file_text(path)}: cannot be converted ({path_text(Path(error.filename or path))}: "
            f"{error.strerror}); check its rights, or set XDG_CACHE_HOME to a folder of your own"
        ) from None
    return target


def _convert(reader: str, path: Path, target: Path) -> None:
    try:
        run_module("cait_viz.weights.conversion", reader, str(path.resolve()), str(target))
    except ProcessDiedError:
        raise CheckpointError(f"{file_text(path)}: the process that reads it died") from None


def convert(reader: str, path: str, target: str) -> None:
    """Read weights and write them as safetensors, in that process."""
    tensors = _READERS[reader](Path(path))
    with placing(Path(target)) as part:
        save_file(tensors, part, metadata={"format": "pt"})


if __name__ == "__main__":
    sys.exit(status_of(convert, *sys.argv[1:]))
