"""Pictures in: a path, bytes, an array or a Pillow image; upright 8-bit sRGB out.

Every refusal is an `ImageError` of one sentence. Pillow and NumPy only.
"""

import ctypes
import hashlib
import io
import logging
import os
import stat
import threading
import unicodedata
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageFile, _imaging
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from cait_viz.errors import ImageError
from cait_viz.images import formats

ImageSource = str | os.PathLike[str] | bytes | Image.Image | np.ndarray

# Above the 50 megapixels of a phone's full-resolution mode (8192 × 6144).
MAX_PIXELS = 60_000_000
MAX_FILE_BYTES = 200_000_000
# A strip grows when its short side is brought to the network's: of 1 × 50000 pixels, to 224 × 11 million.
MAX_ASPECT_RATIO = 100
# The limit under which libjpeg-turbo is fuzzed; a progressive photograph has about ten scans.
MAX_JPEG_SCANS = 500
# Three times as many as MAX_FILE_BYTES has room for when they are full.
MAX_JPEG_SEGMENTS = 10_000
# A picture of MAX_PIXELS in tiles of 16 × 16, the smallest that TIFF allows.
MAX_TIFF_PIECES = 250_000

_UNNAMED = "the picture"
_FORMATS_IN_WORDS = "JPEG, PNG, WebP, GIF, BMP or TIFF"
_WHITE = (255, 255, 255)
_WHITE_8_BIT, _WHITE_12_BIT, _WHITE_16_BIT = 255, 4095, 65535
_BITS_PER_SAMPLE = 258  # TIFF tag

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Pillow mode of the pixels that a profile of each colour space describes.
_PROFILED_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
# A profile that moves no colour by more than this is sRGB under another name; applying it would only
# round the pixels anew.
_SAME_COLOUR = 2

# Pillow logs what it dislikes in a TIFF; without a handler, Python prints that on standard error.
logging.getLogger("PIL").addHandler(logging.NullHandler())
# So does libtiff by itself, on the descriptor, unless told not to. Where libtiff is linked into Pillow
# with its names hidden there is nobody to tell.
with suppress(AttributeError, OSError):
    ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler(None)
# Held while Pillow decodes: the filter on its warnings belongs to the whole process, and pictures of
# MAX_PIXELS are better decoded one after the other than all in memory at once.
_DECODING = threading.Lock()


@dataclass(frozen=True)
class Picture:
    """A picture that was read.

    Attributes:
        image: the upright picture, mode "RGB", 8 bits, sRGB.
        name: what to call it in a sentence or a title: one line, printable.
        sha256: hex digest of the bytes given; of the RGB pixels where no file was given.
    """

    image: Image.Image
    name: str
    sha256: str


def read_image(source: ImageSource) -> Image.Image:
    """The picture as an upright, 8-bit sRGB image of mode "RGB".

    Transparency is laid over white, the EXIF orientation is applied, embedded colour profiles are
    converted to sRGB, and of an animation the first frame is taken.

    Args:
        source: path of a file; the bytes of one; a Pillow image; or an array of shape (H, W), (H, W, 1),
            (H, W, 3) or (H, W, 4) holding uint8, uint16, bool, or floats in [0, 1].

    Raises:
        ImageError: it cannot be read as a picture; the message is one sentence that says why.
    """
    return load_image(source).image


def load_image(source: ImageSource, name: str | None = None) -> Picture:
    """The picture with its name and digest; a file is read once.

    Args:
        source: as `read_image` takes it.
        name: what to call the picture, such as the name of an uploaded file; by default the name of
            the file at a path, else "the picture".

    Raises:
        ImageError: it cannot be read as a picture; the message is one sentence that says why.
    """
    name = _one_line(name) if name else source_name(source)
    if isinstance(source, Image.Image | np.ndarray):
        image = _from_array(source, name) if isinstance(source, np.ndarray) else _from_pillow(source, name)
        return Picture(image, name, hashlib.sha256(image.tobytes()).hexdigest())
    data = _file_bytes(source, name)
    return Picture(_from_bytes(data, name), name, hashlib.sha256(data).hexdigest())


def source_name(source: object) -> str:
    """What to call a source in a sentence: the file's name for a path, else "the picture"."""
    if isinstance(source, str | os.PathLike):
        path = os.fsdecode(source)
        return _one_line(Path(path).name or path) or _UNNAMED
    return _UNNAMED


# --- from bytes to Pillow ---------------------------------------------------------------------------


def _file_bytes(source: object, name: str) -> bytes:
    """The bytes of a path or of bytes-like data, refused when there are none or too many."""
    if isinstance(source, bytes | bytearray | memoryview):
        _check_file_size(memoryview(source).nbytes, name)
        return bytes(source)
    if not isinstance(source, str | os.PathLike):
        kind = type(source).__name__
        raise ImageError(f"{name}: {kind} is not a picture; give a path, bytes, a Pillow image or an array")
    try:
        return _read_file(Path(os.fsdecode(source)), name)
    except ImageError:  # a ValueError too
        raise
    except FileNotFoundError:
        raise ImageError(f"{name}: there is no such file; check its name and folder") from None
    except PermissionError:
        raise ImageError(f"{name}: the file may not be read; change its permissions or copy it") from None
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        reason = _one_line(getattr(error, "strerror", None) or str(error))
        raise ImageError(f"{name}: the file cannot be read ({reason}); check the path") from None


def _read_file(path: Path, name: str) -> bytes:
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise ImageError(f"{name}: this is a folder; give a picture inside it")
    if not stat.S_ISREG(status.st_mode):
        raise ImageError(f"{name}: this is a device or a pipe; save the picture to a file first")
    _check_file_size(status.st_size, name)
    with path.open("rb") as file:
        # The file may have grown since; what is read stays bounded all the same.
        data = file.read(MAX_FILE_BYTES + 1)
    _check_file_size(len(data), name)
    return data


def _check_file_size(size: int, name: str) -> None:
    if not size:
        raise ImageError(f"{name}: the file is empty; download or export it again")
    if size > MAX_FILE_BYTES:
        limit = MAX_FILE_BYTES // 1_000_000
        raise ImageError(f"{name}: the file has {size / 1e6:.0f} MB, more than {limit}; save a smaller copy")


def _from_bytes(data: bytes, name: str) -> Image.Image:
    """Decode a file's bytes, having looked at its header first."""
    reader = _reader(data, name)
    with _pillow_kept_quiet():
        # Decoders meet hostile bytes in every state they can be in, and Pillow passes on whatever its
        # plugins raise: struct.error, KeyError, ZeroDivisionError and a dozen more.
        try:
            image = reader(io.BytesIO(data))
        except Image.DecompressionBombError:
            raise ImageError(_too_many_pixels(name)) from None
        except Exception:
            trouble = "its header is damaged or of an unknown kind"
            raise ImageError(f"{name}: {trouble}; save it again as JPEG or PNG") from None
        with image:
            _check_size(image.size, name)
            try:
                image.load()
            except Exception:
                trouble = "the file is damaged or cut short"
                raise ImageError(f"{name}: {trouble}; download or export it again") from None
            return _to_upright_srgb(image, name)


def _reader(data: bytes, name: str) -> Callable[[io.BytesIO], ImageFile.ImageFile]:
    """What opens these bytes, if they are a picture at all."""
    image_format = formats.image_format(data)
    if image_format == "JPEG":
        _check_jpeg(data, name)
    if image_format == "TIFF" and formats.tiff_pieces(data) > MAX_TIFF_PIECES:
        raise ImageError(f"{name}: the TIFF has more than {MAX_TIFF_PIECES} pieces; save it as PNG")
    if image_format == "HEIF":
        return _heif_reader(name)
    if image_format == "AVIF":
        return _avif_reader(name)
    if image_format is None:
        kind = formats.other_kind(data)
        what = f"this is {kind}, not a picture that can be read" if kind else "this is not a picture"
        raise ImageError(f"{name}: {what}; save it as {_FORMATS_IN_WORDS}")
    return _READERS[image_format]


def _check_jpeg(data: bytes, name: str) -> None:
    segments, scans = formats.jpeg_segments(data, MAX_JPEG_SEGMENTS)
    if segments >= MAX_JPEG_SEGMENTS or scans > MAX_JPEG_SCANS:
        trouble = f"the JPEG has more than {MAX_JPEG_SCANS} scans or {MAX_JPEG_SEGMENTS} segments"
        raise ImageError(f"{name}: {trouble}; save it again as JPEG")


def _png_reader(file: io.BytesIO) -> PngImageFile:
    return PngImageFile(io.BytesIO(formats.essential_png(file.getvalue())))


# The plugins' classes and not `Image.open`, which warns of sizes that are refused here anyway, and
# which picks a plugin out of everything that was ever registered.
_READERS: dict[str, Callable[[io.BytesIO], ImageFile.ImageFile]] = {
    "JPEG": JpegImageFile,
    "PNG": _png_reader,
    "GIF": GifImageFile,
    "BMP": BmpImageFile,
    "TIFF": TiffImageFile,
    "WEBP": WebPImageFile,
}


def _heif_reader(name: str) -> Callable[[io.BytesIO], ImageFile.ImageFile]:
    try:
        from pillow_heif import HeifImageFile
    except ImportError:
        way_out = "install pillow-heif (pip install pillow-heif) or save it as JPEG"
        raise ImageError(f"{name}: this is HEIC, for which no reader is installed; {way_out}") from None
    return HeifImageFile


def _avif_reader(name: str) -> Callable[[io.BytesIO], ImageFile.ImageFile]:
    try:
        from PIL.AvifImagePlugin import SUPPORTED, AvifImageFile
    except ImportError:  # Pillow before 11.3
        SUPPORTED = False
    if not SUPPORTED:
        raise ImageError(f"{name}: this is AVIF, which this Pillow cannot read; save it as JPEG")
    return AvifImageFile


@contextmanager
def _pillow_kept_quiet() -> Iterator[None]:
    with _DECODING, warnings.catch_warnings():
        # Only Pillow's own: should another thread's filters get entangled with these, no more is lost.
        warnings.filterwarnings("ignore", module=r"PIL(\.|$)")
        yield


def _check_size(size: tuple[int, int], name: str) -> None:
    width, height = size
    if min(size) < 1:
        raise ImageError(f"{name}: {width} × {height} pixels are no picture; give one that has pixels")
    if width * height > MAX_PIXELS:
        raise ImageError(_too_many_pixels(name, f"{width} × {height} pixels"))
    if max(size) > MAX_ASPECT_RATIO * min(size):
        limit = f"a side more than {MAX_ASPECT_RATIO} times the other"
        raise ImageError(f"{name}: {width} × {height} pixels have {limit}; crop the picture")


def _too_many_pixels(name: str, size: str = "the picture's pixels") -> str:
    limit = MAX_PIXELS // 1_000_000
    return f"{name}: {size} are more than {limit} million; make the picture smaller"


# --- from Pillow or an array to RGB -----------------------------------------------------------------


def _from_pillow(image: Image.Image, name: str) -> Image.Image:
    _check_size(image.size, name)
    with _pillow_kept_quiet():
        try:
            image.load()
        except Exception:  # see _from_bytes
            raise ImageError(f"{name}: the image cannot be loaded; open its file again") from None
        return _to_upright_srgb(image, name)


def _from_array(array: np.ndarray, name: str) -> Image.Image:
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.ndim not in (2, 3) or channels not in (1, 3, 4):
        shapes = "(H, W), (H, W, 1), (H, W, 3) or (H, W, 4)"
        raise ImageError(f"{name}: an array of shape {array.shape} is not a picture; give one of {shapes}")
    _check_size((array.shape[1], array.shape[0]), name)
    pixels = _eight_bits(array, name)
    image = Image.fromarray(pixels[:, :, 0] if pixels.ndim == 3 and channels == 1 else pixels)
    return _to_upright_srgb(image, name)


def _eight_bits(array: np.ndarray, name: str) -> np.ndarray:
    """An array's values as uint8, C-contiguous, of the same shape."""
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(_WHITE_8_BIT)
    if array.dtype.newbyteorder("=") == np.uint16:
        return _rescale(array, _WHITE_16_BIT)
    if not np.issubdtype(array.dtype, np.floating):
        dtypes = "uint8, uint16, bool, or floats from 0 to 1"
        raise ImageError(f"{name}: an array of {array.dtype} is not a picture; convert it to {dtypes}")
    low, high = _finite_range(array, name)
    if low < 0 or high > 1:
        raise ImageError(f"{name}: the floats run from {low:g} to {high:g}; bring them into 0 to 1")
    return np.rint(array.astype(np.float32, copy=False) * np.float32(_WHITE_8_BIT)).astype(np.uint8)


def _to_upright_srgb(image: Image.Image, name: str) -> Image.Image:
    """A new RGB image; the loaded image that was given stays as it is."""
    try:
        colour, alpha = _colour_and_alpha(image, name)
        rgb = _profile_to_srgb(colour, image.info.get("icc_profile")).convert("RGB")
    except ImageError:
        raise
    except Exception:  # a damaged palette, a transparent colour out of range, a mode nobody converts
        raise ImageError(f"{name}: the pixels ({image.mode}) cannot be converted; save it as RGB") from None
    if alpha is not None:
        paper = Image.new("RGB", rgb.size, _WHITE)
        paper.paste(rgb, mask=alpha)
        rgb = paper
    turn = _UPRIGHT.get(_orientation(image))
    upright = rgb.transpose(turn) if turn is not None else rgb
    upright.info = {}  # an orientation or a profile left here would be applied a second time
    return upright


def _colour_and_alpha(image: Image.Image, name: str) -> tuple[Image.Image, Image.Image | None]:
    """Colour of mode L, RGB or CMYK, 8 bits; and the opacity, of mode L, where there is one."""
    if image.mode.startswith("I") or image.mode == "F":
        return _deep_grey(image, name), None
    if image.has_transparency_data:
        # Out of premultiplied modes there is no direct way to RGBA.
        plain = image.convert("LA") if image.mode == "La" else image
        rgba = plain.convert("RGBA")
        grey = image.mode in ("1", "L", "LA", "La")
        return rgba.convert("RGB").convert("L" if grey else "RGB"), rgba.getchannel("A")
    if image.mode == "1":
        return image.convert("L"), None
    return (image if image.mode in ("L", "RGB", "CMYK") else image.convert("RGB")), None


def _deep_grey(image: Image.Image, name: str) -> Image.Image:
    """A grey picture of more than 8 bits, brought to 8.

    Mode "I;16" holds 16 bits, or 12 in some TIFFs. "I" and "F" come without a stated range: where every value
    fits in 8 bits they are taken as 8 bits, else "I" as 16; floats that stay within 0 to 1 as fractions.
    """
    values = np.asarray(image)
    if image.mode == "F":
        low, high = _finite_range(values, name)
        white = 1 if high <= 1 else _WHITE_8_BIT
        if low < 0 or high > white:
            raise ImageError(f"{name}: its grey runs from {low:g} to {high:g}; save it as 8-bit grey")
        return Image.fromarray(np.rint(values * np.float32(_WHITE_8_BIT / white)).astype(np.uint8))
    if image.mode == "I":
        low, high = values.min(), values.max()
        if low < 0 or high > _WHITE_16_BIT:
            raise ImageError(f"{name}: its grey runs from {low} to {high}; save it as 8-bit grey")
        return Image.fromarray(_rescale(values, _WHITE_8_BIT if high <= _WHITE_8_BIT else _WHITE_16_BIT))
    twelve_bits = isinstance(image, TiffImageFile) and image.tag_v2.get(_BITS_PER_SAMPLE) == (12,)
    return Image.fromarray(_rescale(values, _WHITE_12_BIT if twelve_bits else _WHITE_16_BIT))


def _finite_range(values: np.ndarray, name: str) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise ImageError(f"{name}: some of its values are not finite; replace NaN and infinity")
    return low, high


def _rescale(values: np.ndarray, white: int) -> np.ndarray:
    """Whole numbers from 0 to `white`, rounded to uint8 from 0 to 255; numbers above `white` are white."""
    table = np.rint(np.arange(_WHITE_16_BIT + 1) * (_WHITE_8_BIT / white)).clip(0, _WHITE_8_BIT)
    return table.astype(np.uint8)[values]


def _profile_to_srgb(colour: Image.Image, profile: bytes | None) -> Image.Image:
    """The picture in sRGB if its profile can be used, else as it is, taken as sRGB."""
    if not profile:
        return colour
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if _PROFILED_MODES.get(source.profile.xcolor_space.strip()) != colour.mode:
            return colour
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), colour.mode, "RGB")
        if colour.mode == "RGB" and _changes_nothing(transform):
            return colour
        return transform.apply(colour)
    except Exception:  # a broken profile is no reason to refuse a picture
        return colour


def _changes_nothing(transform: ImageCms.ImageCmsTransform) -> bool:
    probe = _colour_probe()
    moved = np.asarray(transform.apply(probe), dtype=np.int16) - np.asarray(probe, dtype=np.int16)
    return int(np.abs(moved).max()) <= _SAME_COLOUR


@lru_cache(maxsize=1)
def _colour_probe() -> Image.Image:
    """Every mixture of 16 levels of red, green and blue: 64 × 64 pixels."""
    levels = np.linspace(0, _WHITE_8_BIT, 16).astype(np.uint8)
    cube = np.stack(np.meshgrid(levels, levels, levels), axis=-1)
    return Image.fromarray(cube.reshape(64, 64, 3))


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8; 1 where there is none or the metadata is damaged."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # the parser meets hostile bytes; see _from_bytes
        return 1


def _one_line(text: str) -> str:
    """The text with what would break a line, or is no character at all, written as an escape."""
    return "".join(
        character.encode("unicode_escape").decode("ascii")
        if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")
        else character
        for character in text
    )
