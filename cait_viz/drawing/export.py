"""What is kept of a result: PNG files that say what they show, ZIP and NPZ archives with a manifest."""

import io
import json
import unicodedata
import zipfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import lru_cache
from importlib import metadata
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from cait_viz._version import __version__

SOFTWARE = f"cait-viz {__version__}"

# The libraries that take part in a result.
_LIBRARIES = ("keras", "matplotlib", "numpy", "openvino", "pillow", "tensorflow")

# File systems allow 255 bytes for a whole name; an image's and a model's name share one.
_NAME_BYTES = 80

# Photographs hardly compress further: zlib's level 6 takes five times as long and saves an eighth.
_PNG_COMPRESSION = 1

# How many pixels the maps of one archive have together. Made in memory, they take about two bytes a
# pixel. Ten maps of a 12-megapixel photograph stay below.
_ARCHIVE_PIXELS = 150_000_000

# The earliest date that a ZIP can hold: the same content gives the same archive.
_ZIP_DATE = (1980, 1, 1, 0, 0, 0)


@lru_cache
def versions() -> dict[str, str]:
    """The version of this program and of each library, read without importing it."""
    found = {"cait_viz": __version__}
    for library in _LIBRARIES:
        for distribution in (library, f"{library}-cpu"):
            with suppress(metadata.PackageNotFoundError):
                found[library] = metadata.version(distribution)
    return found


def safe_name(text: str, otherwise: str) -> str:
    """The text as a part of a file name on any system, not too long; `otherwise` if nothing of it is left."""
    composed = unicodedata.normalize("NFC", text)
    kept = "".join(letter if letter.isalnum() or letter in "._-" else " " for letter in composed)
    # A dot in front hides the file, a minus looks like an option.
    joined = "-".join(kept.split()).strip(".-")
    return joined.encode()[:_NAME_BYTES].decode(errors="ignore").rstrip(".-") or otherwise


def png_bytes(image: Image.Image, text: Mapping[str, Any]) -> bytes:
    """The image as a PNG file with a text chunk for each entry of `text`; what is no text becomes JSON.

    Latin-1 text becomes a tEXt chunk, any other an iTXt chunk. The keys are Latin-1, 79 letters at most.
    """
    chunks = PngInfo()
    for key, value in text.items():
        said = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        # A text chunk holds neither NUL nor halves of surrogate pairs.
        chunks.add_text(key, said.replace("\0", " ").encode("utf-8", "replace").decode("utf-8"))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=chunks, compress_level=_PNG_COMPRESSION)
    return buffer.getvalue()


def archive_side(size: tuple[int, int], count: int) -> int:
    """The longer side, in pixels, of `count` maps of one archive: the image's own up to 150 megapixels."""
    width, height = size
    shrink = min(1.0, (_ARCHIVE_PIXELS / (count * width * height)) ** 0.5)
    return max(1, int(max(width, height) * shrink))


def zip_bytes(files: Iterable[tuple[str, bytes, Mapping[str, Any]]], manifest: Mapping[str, Any]) -> bytes:
    """A ZIP of files, each with its name, content and entry in the list of files of `manifest.json`.

    They are stored as they are: PNG files are compressed already.
    """
    buffer, entries = io.BytesIO(), []
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content, facts in files:
            archive.writestr(zipfile.ZipInfo(name, _ZIP_DATE), content)
            entries.append({"file": name, **facts})
        listed = json.dumps({**manifest, "files": entries}, indent=2)
        archive.writestr(zipfile.ZipInfo("manifest.json", _ZIP_DATE), listed)
    return buffer.getvalue()


def npz_bytes(arrays: Mapping[str, ArrayLike], manifest: Mapping[str, Any]) -> bytes:
    """The arrays in a compressed NumPy archive, readable without pickle, and `manifest` as JSON text."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays, manifest=json.dumps(manifest))
    return buffer.getvalue()
