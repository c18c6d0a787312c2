"""Safetensors files, of which only the header has been read; and words for other files given by mistake."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from cait_viz._text import file_text, one_line, path_text
from cait_viz.errors import CheckpointError

# Each kind by its first bytes, else by its ending.
_OTHER_KINDS: tuple[tuple[bytes, tuple[str, ...], str], ...] = (
    (
        rb"\x89HDF|PK.*config\.json",
        (".h5", ".keras"),
        "a Keras file; load it in Python with keras.models.load_model after `import cait_viz.model.cait`, or "
        "give a safetensors file with timm's tensor names",
    ),
    (
        rb"\x08\x01\x12",
        (".pb",),
        "the graph of a SavedModel and not the weights; give the folder {folder}, in which it lies",
    ),
    (
        rb"\x08[\x03-\x1f][\x12:]",  # the format's version and then the producer or the graph
        (".onnx",),
        "an ONNX file; give what it was exported from: a safetensors file with timm's tensor names, a "
        "PyTorch checkpoint or a SavedModel's folder",
    ),
    (
        rb"version https://git-lfs",
        (),
        "a Git LFS pointer and not the weights; fetch them with `git lfs pull`",
    ),
    (rb"\s*<", (), "a web page and not the weights; download the file again from the page's download link"),
    (rb"\s*\{", (".json",), "a JSON text and not the weights; give the safetensors file that belongs to it"),
    (
        rb"(?!)",  # one that begins as it should is read in `pytorch`
        (".pth", ".pt", ".bin", ".ckpt"),
        "neither a PyTorch checkpoint nor a safetensors file; download or save it again",
    ),
)


class Tensor(NamedTuple):
    """A tensor's shape, its type by safetensors' name ("F32"), and its name in the file."""

    shape: tuple[int, ...]
    dtype: str
    stored: str


@dataclass(frozen=True, kw_only=True)
class TensorFile:
    """A safetensors file.

    Attributes:
        path: the file.
        origin: the file or folder that this one was converted from; without a conversion the same as `path`.
        header: its tensors by name.
        remark: a sentence on how the file was understood, where that needs one; else empty.
    """

    path: Path
    origin: Path
    header: Mapping[str, Tensor] = field(repr=False, compare=False)
    remark: str = ""

    def read(self, names: Iterable[str]) -> dict[str, np.ndarray]:
        """The tensors of these names; a CheckpointError if the file cannot be read any more."""
        if any(tensor.dtype == "BF16" for tensor in self.header.values()):
            import ml_dtypes  # noqa: F401  (teaches NumPy the type; comes with Keras)
        try:
            with safe_open(self.path, framework="np") as file:
                return {name: file.get_tensor(self.header[name].stored) for name in names}
        except (SafetensorError, OSError) as error:
            raise _unreadable(self.path, self.origin, error) from None


def open_safetensors(path: Path, origin: Path | None = None) -> TensorFile:
    """Read the header of a safetensors file; `origin` is what it was converted from, if anything.

    Raises:
        CheckpointError: there is no such file, it cannot be read or is of another kind.
    """
    origin = origin or path
    name = file_text(origin)
    try:
        if path.is_dir():
            raise CheckpointError(f"{name}: is a folder; give the safetensors file itself")
        if not path.exists():
            raise CheckpointError(f"{name}: there is no such file; check the path {one_line(str(path))}")
        if not path.is_file():  # to open a pipe would wait for ever
            raise CheckpointError(f"{name}: is not a file; give a safetensors file")
        with safe_open(path, framework="np") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
            header = {
                name: Tensor(tuple(part.get_shape()), part.get_dtype(), name) for name, part in slices.items()
            }
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, origin, error) from None
    return TensorFile(path=path, origin=origin, header=header)


def _unreadable(path: Path, origin: Path, error: Exception) -> CheckpointError:
    """The error for a file that is of another kind, or cannot be read, or only in part."""
    name = file_text(origin)
    if isinstance(error, OSError) and error.strerror:
        return CheckpointError(
            f"{name}: cannot be read ({error.strerror}); check its permissions and its disk"
        )
    with path.open("rb") as file:
        start = file.read(512)
    if not start:
        return CheckpointError(f"{name}: is empty; download or save it again")
    if start[8:9] != b"{":  # in a safetensors file the header begins there, after its length
        kinds = [kind for pattern, _, kind in _OTHER_KINDS if re.match(pattern, start, re.DOTALL)]
        kinds += [kind for _, endings, kind in _OTHER_KINDS if path.suffix.lower() in endings]
        if kinds:
            return CheckpointError(f"{name}: this is {kinds[0].format(folder=path_text(path.parent))}")
    reason = one_line(str(error)).removeprefix("Error while deserializing header: ")
    return CheckpointError(f"{name}: not a whole safetensors file ({reason}); download or save it again")
