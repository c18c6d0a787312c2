"""Images in: a path, web address, bytes, array or Pillow image; upright 8-bit sRGB or an `ImageError` out."""

import hashlib
import io
import os
import re
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from cait_viz._text import one_line
from cait_viz.errors import ImageError
from cait_viz.images import formats
from cait_viz.images.color import eight_bit_image, orientation, upright_srgb
from cait_viz.images.formats import Tiff
from cait_viz.images.web import address_name, fetch, is_web_address

# Above the 50 megapixels of a phone's full-resolution mode (8192 × 6144).
MAX_PIXELS = 60_000_000
MAX_FILE_BYTES = 200_000_000
# A strip grows when its short side is brought to the network's: of 1 × 50000 pixels, to 224 × 11 million.
MAX_ASPECT_RATIO = 100
# The limit under which libjpeg-turbo is fuzzed; a progressive photograph has about ten scans.
MAX_JPEG_SCANS = 500
# Three times as many as MAX_FILE_BYTES has room for when they are full.
MAX_JPEG_SEGMENTS = 10_000
# An image of MAX_PIXELS in tiles of 16 × 16, the smallest that TIFF allows.
MAX_TIFF_PIECES = 250_000
# A file cut short is still read when no more than this share of its rows is lost; of a progressive one, where
# rows only lack detail, this share of its bytes.
MAX_LOST = 0.1

_UNNAMED = "the image"
_LONGEST_NAME = 255  # of a file, on every common system

# Pillow's decoders of 16-bit samples, which keep their upper byte; and what gives the lower one, or both.
_OTHER_BYTES = {"RGB;16B": "RGB;16L", "RGBA;16B": "RGBA;16L", "LA;16B": "RGBA"}
# Pillow's decoders of big-endian pixels, and what they must be where libtiff has swapped the bytes already.
_NATIVE_ORDER = {"I;16BS": "I;16NS", "I;32BS": "I;32NS", "F;32BF": "F;32NF"}

# Held while Pillow decodes: the filter on its warnings belongs to the whole process, and images of
# MAX_PIXELS are better decoded one after the other than all in memory at once.
_DECODING = threading.Lock()


@dataclass(frozen=True, eq=False)
class LoadedImage:
    """An image that was read.

    Attributes:
        image: upright, mode "RGB", 8 bits, sRGB.
        name: what to call it in a sentence or a title: one line, printable.
        remark: a sentence for whoever gave the image, on what it lacks or what had to be assumed; else "".
    """

    image: Image.Image
    name: str
    remark: str = ""
    _file: bytes | None = field(default=None, repr=False)

    @cached_property
    def pixels(self) -> NDArray[np.uint8]:
        """The image as an array (height, width, 3) that all its results share; read-only."""
        pixels = np.asarray(self.image)
        pixels.flags.writeable = False
        return pixels

    @cached_property
    def file_sha256(self) -> str | None:
        """Hex digest of the file's bytes; None where no file was given."""
        return None if self._file is None else hashlib.sha256(self._file).hexdigest()


ImageSource = str | os.PathLike[str] | bytes | Image.Image | np.ndarray | LoadedImage


def read_image(source: ImageSource) -> Image.Image:
    """The image as an upright, 8-bit sRGB image of mode "RGB".

    Transparency is laid over white, EXIF orientation and color profiles are applied, and of an animation the
    first frame is taken.

    Args:
        source: a file's path, web address ("https://…") or bytes; a Pillow image; a loaded image; or an array
            (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) of uint8, uint16, bool, or floats in [0, 1].

    Raises:
        ImageError: it cannot be read as an image; the message is one sentence that says why.
    """
    return load_image(source).image


def load_image(source: ImageSource, name: str | None = None) -> LoadedImage:
    """The image with its name and digest; a loaded image is returned as it is.

    Args and errors as of `read_image`. `name` is what to call the image; by default the name of the file, or
    the last part of a web address, else "the image".
    """
    if isinstance(source, LoadedImage):
        return source
    name = one_line(name or _source_name(source), _LONGEST_NAME) or _UNNAMED
    data = None
    if isinstance(source, np.ndarray):
        image, remark = _from_array(source, name)
    elif isinstance(source, Image.Image):
        _check_size(source.size, name)
        with _decoding():
            try:
                source.load()
            except Exception:  # see _from_bytes
                raise ImageError(f"{name}: the image cannot be loaded; open its file again") from None
            image, remark = upright_srgb(source, name)
    else:
        data = _file_bytes(source, name)
        image, remark = _from_bytes(data, name)
    return LoadedImage(image, name, remark, data)


def load_thumbnail(data: bytes, name: str, side: int) -> Image.Image:
    """A file's image like that of `load_image`; where that is quicker, smaller, with sides of `side` or more.

    Raises:
        ImageError: it cannot be read as an image.
    """
    _check_file_size(len(data), name)
    return _from_bytes(data, name, side)[0]


def _source_name(source: object) -> str:
    if isinstance(source, str) and is_web_address(source):
        return address_name(source)
    path = os.fsdecode(source) if isinstance(source, str | os.PathLike) else ""
    return Path(path).name or path


def _file_bytes(source: object, name: str) -> bytes:
    """The bytes of a path, a web address or bytes-like data, refused when there are none or too many."""
    if isinstance(source, bytes | bytearray | memoryview):
        _check_file_size(memoryview(source).nbytes, name)
        return bytes(source)
    if isinstance(source, str) and is_web_address(source):
        return fetch(source, allow_private=True)
    if not isinstance(source, str | os.PathLike):
        kind = type(source).__name__
        raise ImageError(f"{name}: {kind} is not an image; give a path, bytes, a Pillow image or an array")
    path = Path(os.fsdecode(source))
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise ImageError(f"{name}: this is a folder; give an image inside it")
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(f"{name}: this is a device or a pipe; save the image to a file first")
        _check_file_size(status.st_size, name)
        with path.open("rb") as file:
            # The file may have grown since; what is read stays bounded all the same.
            data = file.read(MAX_FILE_BYTES + 1)
    except ImageError:  # a ValueError too
        raise
    except FileNotFoundError:
        raise ImageError(f"{name}: there is no such file; check its name and folder") from None
    except PermissionError:
        raise ImageError(f"{name}: the file may not be read; change its permissions or copy it") from None
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        reason = one_line(getattr(error, "strerror", None) or str(error))
        raise ImageError(f"{name}: the file cannot be read ({reason}); check the path") from None
    _check_file_size(len(data), name)
    return data


def _check_file_size(size: int, name: str) -> None:
    if not size:
        raise ImageError(f"{name}: the file is empty; download or export it again")
    if size > MAX_FILE_BYTES:
        limit = MAX_FILE_BYTES // 10**6
        raise ImageError(f"{name}: the file has {size / 1e6:.0f} MB, more than {limit}; save a smaller copy")


def _from_bytes(data: bytes, name: str, least: int | None = None) -> tuple[Image.Image, str]:
    """Decode a file's bytes, having looked at its header first; a JPEG with sides of no less than `least`."""
    image_format, tiff = formats.require_format(data, name), None
    if image_format == "JPEG":
        _check_jpeg(data, name)
    if image_format == "PNG":
        data = formats.essential_png(data)
    if image_format == "TIFF":
        tiff = formats.readable_tiff(data)
        if tiff.pieces > MAX_TIFF_PIECES:
            raise ImageError(f"{name}: the TIFF has more than {MAX_TIFF_PIECES} pieces; save it as PNG")
    with _decoding():
        with _open(data, image_format, name, tiff) as image:
            _check_size(tiff.shape[1::-1] if tiff and tiff.shape else image.size, name)
            if least is not None:
                image.draft(None, (least, least))
            # Decoders meet hostile bytes in every state they can be in, and Pillow passes on whatever its
            # plugins raise: struct.error, KeyError, ZeroDivisionError and a dozen more.
            try:
                samples = _tiff_samples(image, tiff) if tiff else _png_samples(image, data)
                image.load()
            except Exception:
                pass
            else:
                return upright_srgb(image, name, samples)
        if image_format == "JPEG" and (ended := _without_its_end(data, name)):
            return ended
    raise ImageError(f"{name}: the file is damaged or cut short; download or export it again")


def _check_jpeg(data: bytes, name: str) -> None:
    segments, scans = formats.jpeg_segments(data, MAX_JPEG_SEGMENTS)
    if segments >= MAX_JPEG_SEGMENTS or scans > MAX_JPEG_SCANS:
        trouble = f"the JPEG has more than {MAX_JPEG_SCANS} scans or {MAX_JPEG_SEGMENTS} segments"
        raise ImageError(f"{name}: {trouble}; save it again as JPEG")


def _open(data: bytes, image_format: str, name: str, tiff: Tiff | None) -> Image.Image:
    try:
        if image_format == "HEIF":  # not known to Pillow unless registered, for the whole process
            from pillow_heif import HeifImageFile

            return HeifImageFile(io.BytesIO(data))
        return (
            _open_tiff(next(tiff.files), tiff.tags)
            if tiff
            else Image.open(io.BytesIO(data), formats=[image_format])
        )
    except ImportError:
        way_out = "install pillow-heif (pip install pillow-heif) or save it as JPEG"
        raise ImageError(f"{name}: this is HEIC, for which no reader is installed; {way_out}") from None
    except Image.DecompressionBombError as error:
        count = re.search(r"(\d+) pixels", str(error))
        pixels = f"{int(count[1]) / 1e6:.0f} million pixels" if count else "the pixels"
        raise ImageError(_too_many_pixels(name, pixels)) from None
    except Exception:  # see _from_bytes
        trouble = "its header is damaged or of an unknown kind"
        if tiff and tiff.unreadable:
            trouble = f"its pixels are {tiff.unreadable}, which cannot be read"
        raise ImageError(f"{name}: {trouble}; save it again as JPEG or PNG") from None


def _open_tiff(data: bytes, tags: dict[int, int]) -> TiffImageFile:
    """A TIFF with the tags that it had, and the byte order in which libtiff gives pixels."""
    # Not by Image.open, which refuses many pixels: gray that was color has several for one.
    image = TiffImageFile(io.BytesIO(data))
    image.tag_v2.update(tags)
    for number, tile in enumerate(image.tile):
        if tile.codec_name == "libtiff" and isinstance(tile.args, tuple):
            decoder, *rest = tile.args
            image.tile[number] = tile._replace(args=(_NATIVE_ORDER.get(decoder, decoder), *rest))
    return image


def _tiff_samples(image: Image.Image, tiff: Tiff) -> np.ndarray | None:
    """The samples (height, width, S) of color that became gray."""
    if tiff.shape is None:
        return None
    planes = [np.asarray(image), *(np.asarray(_open_tiff(data, tiff.tags)) for data in tiff.files)]
    if len(planes) > 1:
        return np.stack(planes, axis=2)
    samples = planes[0].reshape(tiff.shape)
    if tiff.step:
        parts = np.split(samples, range(tiff.step, tiff.shape[1], tiff.step), axis=1)
        samples = np.concatenate([np.cumsum(part, axis=1, dtype=part.dtype) for part in parts], axis=1)
    return samples


def _png_samples(image: Image.Image, data: bytes) -> np.ndarray | None:
    """The samples (height, width, S) of 16-bit color or opacity in a PNG that is open."""
    decoder = image.tile[0].args if isinstance(image, PngImageFile) and image.tile else None
    if decoder not in _OTHER_BYTES:
        return None
    with PngImageFile(io.BytesIO(data)) as again:
        again.tile = [tile._replace(args=_OTHER_BYTES[decoder]) for tile in again.tile]
        other = np.asarray(again)
    if decoder == "LA;16B":  # the four bytes of a pixel
        return other.view(">u2")
    return np.asarray(image).astype(np.uint16) << 8 | other


def _without_its_end(data: bytes, name: str) -> tuple[Image.Image, str] | None:
    """A JPEG that ends too early, if most of it is there."""
    ended = formats.ended_jpeg(data)
    if ended is None:
        return None
    *variants, refining = ended
    try:
        one, other = (Image.open(io.BytesIO(variant), formats=["JPEG"]) for variant in variants)
        changed = (np.asarray(one) != np.asarray(other)).reshape(one.height, -1).any(axis=1)
    except Exception:  # see _from_bytes
        return None
    rows = one.height - int(changed.argmax()) if changed.any() else 0
    lost = rows / one.height
    if refining and lost < 1:
        missing = refining * lost / (1 - lost)
        lost = missing / (len(data) + missing)
    if lost > MAX_LOST:
        return None
    # In the words for the image as it is shown, which EXIF may have turned.
    turn = orientation(one)
    side = f"the {'first' if turn in (3, 4, 6, 7) else 'last'} {rows} of its {one.height}"
    side += " columns" if turn in (5, 6, 7, 8) else " rows"
    lack = "lack their finest detail" if refining else "are damaged"
    return upright_srgb(one, name)[0], (
        f"{name} ends too early; {f'{side} {lack}' if rows else 'its pixels are complete'}."
    )


def _from_array(array: np.ndarray, name: str) -> tuple[Image.Image, str]:
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.ndim not in (2, 3) or channels not in (1, 3, 4):
        shapes = "(H, W), (H, W, 1), (H, W, 3) or (H, W, 4)"
        raise ImageError(f"{name}: an array of shape {array.shape} is not an image; give one of {shapes}")
    _check_size((array.shape[1], array.shape[0]), name)
    samples, remark = array.reshape(*array.shape[:2], channels), ""
    if array.dtype == np.bool_:
        samples = samples * np.uint8(255)
    elif array.dtype.kind == "f":
        low, high = array.min(), array.max()
        if np.isfinite([low, high]).all() and (low < 0 or high > 1):
            raise ImageError(f"{name}: the floats run from {low:g} to {high:g}; bring them into 0 to 1")
    elif array.dtype.newbyteorder("=") not in (np.uint8, np.uint16):
        dtypes = "uint8, uint16, bool, or floats from 0 to 1"
        raise ImageError(f"{name}: an array of {array.dtype} is not an image; convert it to {dtypes}")
    if samples.dtype == np.uint8:
        image = Image.fromarray(np.ascontiguousarray(samples[..., 0] if channels == 1 else samples))
    else:
        image, remark = eight_bit_image(samples, name, 8 * samples.itemsize, colors=min(channels, 3))
    return upright_srgb(image, name)[0], remark


@contextmanager
def _decoding() -> Iterator[None]:
    """Alone, and without Pillow's warnings."""
    with _DECODING, warnings.catch_warnings():
        # Only Pillow's own: should another thread's filters get entangled with these, no more is lost.
        warnings.filterwarnings("ignore", module=r"PIL(\.|$)")
        yield


def _check_size(size: tuple[int, int], name: str) -> None:
    width, height = size
    if min(size) < 1:
        raise ImageError(f"{name}: {width} × {height} pixels are no image; give one that has pixels")
    if width * height > MAX_PIXELS:
        raise ImageError(_too_many_pixels(name, f"{width} × {height} pixels"))
    if max(size) > MAX_ASPECT_RATIO * min(size):
        limit = f"a side more than {MAX_ASPECT_RATIO} times the other"
        raise ImageError(f"{name}: {width} × {height} pixels have {limit}; crop the image")


def _too_many_pixels(name: str, pixels: str) -> str:
    return f"{name}: {pixels} are more than {MAX_PIXELS // 1_000_000} million; make the image smaller"
