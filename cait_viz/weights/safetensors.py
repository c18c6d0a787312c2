"""A safetensors file on disk: its header, and words for every other kind of file given by mistake."""

import zipfile
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open

from cait_viz._text import file_text, one_line
from cait_viz.errors import CheckpointError

_SAVE_AS_SAFETENSORS = "save its state_dict with safetensors.torch.save_file and give that file"
_KINDS_BY_START = (
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file of Keras weights; give a safetensors file with timm's tensor names"),
    (
        b"version https://git-lfs",
        "a Git LFS pointer and not the weights themselves; fetch them with `git lfs pull`",
    ),
    (
        b"<",
        "a web page and not the weights themselves; download the file again from the page's download link",
    ),
    (b"GGUF", "a GGUF file; give a safetensors file with timm's tensor names"),
    (b"\x93NUMPY", "a NumPy array; give a safetensors file with timm's tensor names"),
    (b"\x1f\x8b", "a gzip archive; unpack it and give the safetensors file inside"),
    (b"{", "a JSON text and not the weights themselves; give the safetensors file that belongs to it"),
)
_KINDS_BY_SUFFIX = {
    ".onnx": "an ONNX file; give a safetensors file with timm's tensor names",
    ".tflite": "a TensorFlow Lite file; give a safetensors file with timm's tensor names",
    ".pb": "a TensorFlow graph; give a safetensors file with timm's tensor names",
    ".pth": f"not a safetensors file but, by its name, a PyTorch pickle; {_SAVE_AS_SAFETENSORS}",
    ".pt": f"not a safetensors file but, by its name, a PyTorch pickle; {_SAVE_AS_SAFETENSORS}",
    ".h5": "not a safetensors file; give one with timm's tensor names",
    ".keras": "not a safetensors file; give one with timm's tensor names",
}
_PICKLE = f"a PyTorch pickle, which can run code when it is opened; {_SAVE_AS_SAFETENSORS}"


Shape = tuple[int, ...]


class Tensor(NamedTuple):
    """What a header says of one tensor; the type is safetensors' name of it."""

    shape: Shape
    dtype: str


def read_header(path: Path) -> dict[str, Tensor]:
    """Names, shapes and types of a safetensors file's tensors."""
    _require_file(path)
    try:
        with safe_open(path, framework="np") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
            return {
                name: Tensor(tuple(tensor.get_shape()), tensor.get_dtype()) for name, tensor in slices.items()
            }
    except (SafetensorError, OSError) as error:
        raise unreadable(path, error) from None


def _require_file(path: Path) -> None:
    """Refuse what is not there, not a file, or a file of another kind, each in its own words."""
    name = file_text(path)
    try:
        if path.is_dir():
            raise CheckpointError(f"{name}: is a folder; give the safetensors file itself")
        if not path.exists():
            raise CheckpointError(f"{name}: there is no such file; check the path {one_line(str(path))}")
        if not path.is_file():
            raise CheckpointError(f"{name}: is not a file; give a safetensors file")
        with path.open("rb") as file:
            start = file.read(512)
    except CheckpointError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        raise unreadable(path, error) from None
    if not start:
        raise CheckpointError(f"{name}: is empty; download or save it again")
    kind = _other_kind(path, start)
    if kind is not None:
        raise CheckpointError(f"{name}: this is {kind}")


def _other_kind(path: Path, start: bytes) -> str | None:
    """What a file is and what to do with it, if it is none of safetensors."""
    if start[8:9] == b"{":  # the header of a safetensors file, after its length
        return None
    if start.startswith(b"PK\x03\x04"):
        return _kind_of_zip(path)
    if start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05":
        return _PICKLE
    for magic, kind in _KINDS_BY_START:
        if start.lstrip().startswith(magic):
            return kind
    return _KINDS_BY_SUFFIX.get(path.suffix.lower())


def _kind_of_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile):
        names = []
    if any(name.endswith("data.pkl") for name in names) or path.suffix.lower() in (".pth", ".pt", ".bin"):
        return _PICKLE
    if "config.json" in names or path.suffix.lower() == ".keras":
        return (
            "a Keras model; load it with keras.models.load_model after `import cait_viz.model.cait`, or "
            "give a safetensors file with timm's tensor names"
        )
    return "a ZIP archive; unpack it and give the safetensors file inside"


def unreadable(path: Path, error: Exception) -> CheckpointError:
    """The error for a file that cannot be read, or only in part."""
    if isinstance(error, OSError) and error.strerror:
        return CheckpointError(
            f"{file_text(path)}: cannot be read ({error.strerror}); check its rights and its disk"
        )
    reason = one_line(str(error)).removeprefix("Error while deserializing header: ")
    return CheckpointError(
        f"{file_text(path)}: not a whole safetensors file ({reason}); download or save it again"
    )
