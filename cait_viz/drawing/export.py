"""What kept files need: names that are safe everywhere, archives, and the versions that made them."""

import io
import unicodedata
import zipfile
from collections.abc import Iterable
from functools import lru_cache
from importlib import metadata

from cait_viz import __version__

SOFTWARE = f"cait-viz {__version__}"

# The libraries that take part in making a picture, with the names of their distributions.
_LIBRARIES = {
    "keras": ("keras",),
    "matplotlib": ("matplotlib",),
    "numpy": ("numpy",),
    "pillow": ("pillow",),
    "tensorflow": ("tensorflow-cpu", "tensorflow"),
}

# File systems allow 255 bytes for a whole name; a picture's and a model's name share one.
_NAME_BYTES = 80

# The earliest that a ZIP can tell: the same content gives the same archive.
_ZIP_DATE = (1980, 1, 1, 0, 0, 0)


@lru_cache
def versions() -> dict[str, str]:
    """The version of this program and of each library, read without importing it."""
    found = {"cait_viz": __version__}
    for library, distributions in _LIBRARIES.items():
        for distribution in distributions:
            try:
                found[library] = metadata.version(distribution)
            except metadata.PackageNotFoundError:
                continue
            break
    return found


def safe_name(text: str, otherwise: str) -> str:
    """The text as a part of a file name on any system: letters, digits, `.`, `_` and `-`, not too long.

    Args:
        text: anything.
        otherwise: what to return when nothing of it is left.
    """
    composed = unicodedata.normalize("NFC", text)
    kept = "".join(letter if letter.isalnum() or letter in "._-" else " " for letter in composed)
    # A dot in front hides the file, a minus looks like an option.
    joined = "-".join(kept.split()).strip(".-")
    return joined.encode()[:_NAME_BYTES].decode(errors="ignore").rstrip(".-") or otherwise


def zip_bytes(files: Iterable[tuple[str, bytes]]) -> bytes:
    """The files in one ZIP, stored as they are: PNG files are compressed already."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in files:
            archive.writestr(zipfile.ZipInfo(name, _ZIP_DATE), content)
    return buffer.getvalue()
