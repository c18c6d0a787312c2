"""From any of Pillow's modes, and from samples of any depth, to upright 8-bit sRGB."""

import io
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, ImageOps

from cait_viz.errors import ImageError
from cait_viz.images.formats import (
    BITS_PER_SAMPLE,
    BLACK_IS_ZERO,
    CMYK,
    COLOR_SAMPLES,
    EXTRA_SAMPLES,
    MAX_SAMPLE,
    PHOTOMETRIC,
    PREMULTIPLIED,
    RGB,
    SAMPLE_FORMAT,
    SIGNED,
    SMAX_SAMPLE,
    STRAIGHT,
    UNSIGNED,
    UNSPECIFIED,
    WHITE_IS_ZERO,
)

_BLACK, _WHITE = np.uint8(0), np.uint8(255)
_PAPER = (255, 255, 255)
# Pillow mode of the pixels that a profile of each color space describes.
_PROFILED_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
# A profile that moves no color by more than this is sRGB under another name; applying it would only
# round the pixels anew.
_SAME_COLOR = 2
# Every mixture of 16 levels of red, green and blue.
_EVERY_COLOR = Image.fromarray((np.indices((16, 16, 16)) * 17).astype(np.uint8).T.reshape(64, 64, 3))
# How many rows are brought to 8 bits at once: the numbers in between take four bytes each.
_ROWS = 256


def upright_srgb(image: Image.Image, name: str, samples: np.ndarray | None = None) -> tuple[Image.Image, str]:
    """A new upright 8-bit sRGB image, and a sentence on what had to be guessed of its pixels, else "".

    Args:
        image: of any mode.
        name: what to call it.
        samples: its samples, (H, W, S), where Pillow has no mode for their depth.

    Raises:
        ImageError: the pixels cannot be converted.
    """
    try:
        shallow, remark = _shallow(image, name, samples)
        color, alpha = _color_and_alpha(shallow)
        rgb = _profile_to_srgb(color, image.info.get("icc_profile")).convert("RGB")
    except ImageError:
        raise
    except Exception:  # a damaged palette, a transparent color out of range, a mode nobody converts
        raise ImageError(f"{name}: the pixels ({image.mode}) cannot be converted; save it as RGB") from None
    if alpha is not None:
        paper = Image.new("RGB", rgb.size, _PAPER)
        paper.paste(rgb, mask=alpha)
        rgb = paper
    # A profile or an orientation left here would be applied a second time; and Pillow fails to rewrite
    # metadata that is damaged.
    rgb.info = {}
    rgb.getexif()[ExifTags.Base.Orientation] = orientation(image)
    ImageOps.exif_transpose(rgb, in_place=True)
    rgb.getexif().clear()
    return rgb, remark


def orientation(image: Image.Image) -> int:
    """How the image has to be turned, by EXIF's number; 1, not at all, where that cannot be read."""
    with suppress(Exception):  # the parser meets hostile bytes
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    return 1


def _color_and_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Color of mode L, RGB or CMYK; and the opacity, of mode L, where there is one."""
    if image.has_transparency_data:
        # Out of premultiplied modes there is no direct way to RGBA.
        plain = image.convert("LA") if image.mode == "La" else image
        rgba = plain.convert("RGBA")
        gray = image.mode in ("1", "L", "LA", "La")
        return rgba.convert("RGB").convert("L" if gray else "RGB"), rgba.getchannel("A")
    if image.mode == "1":
        return image.convert("L"), None
    return (image if image.mode in ("L", "RGB", "CMYK") else image.convert("RGB")), None


def _shallow(image: Image.Image, name: str, samples: np.ndarray | None) -> tuple[Image.Image, str]:
    """The image, of more than 8 bits or with a sign brought to 8 by what its file declares; and a remark."""
    if samples is None:
        signed = image.mode == "L" and _tag(image, SAMPLE_FORMAT, UNSIGNED) == SIGNED
        if not (image.mode.startswith("I") or image.mode == "F" or signed):
            return image, ""
        samples = np.asarray(image)[..., np.newaxis]
    bits = _tag(image, BITS_PER_SAMPLE, 8 * samples.itemsize)
    if image.mode == "L":
        samples = samples.view(np.int8)
    elif image.mode == "I" and bits == 32 and _tag(image, SAMPLE_FORMAT, SIGNED) == UNSIGNED:
        samples = samples.view(np.uint32)
    # Bits that fill no whole bytes are all in use.
    largest = 2**bits - 1 if bits % 8 else max(_tag(image, MAX_SAMPLE, 0), _tag(image, SMAX_SAMPLE, 0))
    meaning = _tag(image, PHOTOMETRIC, RGB if samples.shape[2] > 2 else BLACK_IS_ZERO)
    colors, extra = COLOR_SAMPLES[meaning], _tag(image, EXTRA_SAMPLES, STRAIGHT)
    if extra == UNSPECIFIED or meaning == CMYK:
        samples = samples[..., :colors]
    shallow, remark = eight_bit_image(
        samples,
        name,
        bits,
        largest,
        colors,
        inverted=meaning == WHITE_IS_ZERO,
        straight=extra != PREMULTIPLIED,
    )
    clear = image.info.get("transparency")
    if clear is not None:
        shallow.putalpha(Image.fromarray(np.where((samples == clear).all(axis=2), _BLACK, _WHITE)))
    return shallow, remark


def _tag(image: Image.Image, tag: int, default: int) -> int:
    """The number in a tag of an image that was read from a TIFF, else the default."""
    value = getattr(image, "tag_v2", {}).get(tag, default)
    value = value[0] if isinstance(value, tuple) and value else value
    return value if isinstance(value, int) else default


def eight_bit_image(
    samples: np.ndarray,
    name: str,
    bits: int,
    largest: int = 0,
    colors: int = 3,
    *,
    inverted: bool = False,
    straight: bool = True,
) -> tuple[Image.Image, str]:
    """Samples of any range, linearly from black to white.

    Whole numbers without a sign run from 0 to the end of their bits; where they do not reach a quarter of
    that, to the end of the fewest of 8, 10, 12, … bits that hold them, as cameras and microscopes write them;
    but 8 bits that were made 16, 257 for each level, stay as dark as they were. Floats within 0 to 1 are
    fractions. All else has no stated range: floats within 0 to 255 are taken as 8 bits, and what remains is
    stretched from its smallest to its largest value. Opacity has its own range.

    Args:
        samples: integers or floats, (H, W, S): the colors, and where there are more, the opacity.
        name: what to call the image.
        bits: how many bits of each integer are used, its sign included.
        largest: the largest value that the file declares; 0 if it does not.
        colors: 1 of gray, 3 of RGB or 4 of CMYK.
        inverted: whether white is the smallest value.
        straight: whether the colors are not multiplied by the opacity.

    Returns:
        An image of mode L, RGB or CMYK, with opacity LA or RGBA, or premultiplied La or RGBa; and a sentence
        on the range that was assumed, else "".

    Raises:
        ImageError: some values are not finite.
    """
    color, black, white, declared = _in_eight_bits(samples[..., :colors], name, bits, largest)
    if inverted:
        color = _WHITE - color
        black, white = white, black
    mode, bands = {1: "L", 3: "RGB", 4: "CMYK"}[colors], list(np.moveaxis(color, 2, 0))
    if samples.shape[2] > colors:
        mode += "A" if straight else "a"
        bands.append(_in_eight_bits(samples[..., colors], name, bits, largest)[0])
    taken = f"{black:.9g} was taken as black and {white:.9g} as white"
    remark = "" if declared else f"The pixel values of {name} have no stated range; {taken}."
    return Image.merge(mode, [Image.fromarray(np.ascontiguousarray(band)) for band in bands]), remark


def _in_eight_bits(
    values: np.ndarray, name: str, bits: int, largest: int
) -> tuple[NDArray[np.uint8], float, float, bool]:
    """The values in 8 bits, what was taken as black and as white, and whether that is their stated range."""
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise ImageError(f"{name}: some of its values are not finite; replace NaN and infinity")
    black, white, declared = low, high, False
    if values.dtype.kind == "f":
        if low >= 0 and high <= _WHITE:
            declared = high <= 1
            black, white = 0, 1 if declared else int(_WHITE)
    elif low >= 0:
        bits -= values.dtype.kind == "i"
        needed = max(int(high), largest).bit_length()
        needed = max(8, needed + needed % 2)
        declared = needed >= bits or largest >= high or not high
        if not declared and bits == 16 and not (values % 257).any():
            needed, declared = bits, True
        black, white = 0, 2 ** min(bits, needed) - 1
    levels = np.empty(values.shape, np.uint8)
    for start in range(0, len(values), _ROWS):
        scaled = values[start : start + _ROWS].astype(np.float32)
        scaled -= np.float32(black)
        scaled *= np.float32(_WHITE / (white - black or 1))
        levels[start : start + _ROWS] = np.rint(scaled, out=scaled).clip(_BLACK, _WHITE, out=scaled)
    return levels, black, white, declared


def _profile_to_srgb(color: Image.Image, profile: bytes | None) -> Image.Image:
    """The image in sRGB if its profile can be used, else as it is, taken as sRGB."""
    if not profile:
        return color
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if _PROFILED_MODES.get(source.profile.xcolor_space.strip()) != color.mode:
            return color
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), color.mode, "RGB")
        if color.mode == "RGB":
            moved = np.asarray(transform.apply(_EVERY_COLOR), np.int16) - np.asarray(_EVERY_COLOR, np.int16)
            if np.abs(moved).max() <= _SAME_COLOR:
                return color
        return transform.apply(color)
    except Exception:  # a broken profile is no reason to refuse an image
        return color
