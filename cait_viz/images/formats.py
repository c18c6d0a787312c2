"""What the bytes of an image file say of themselves, before anything is decoded.

Found here are the ways in which a small file costs much with few pixels, against which Pillow has no guard;
what a file is when it is no image; and the few headers that Pillow misreads, which are rewritten.
"""

import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice, takewhile

from cait_viz.errors import ImageError

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# By Pillow's names. Whatever else Pillow could open stays out of reach of a file with a misleading name.
_FORMATS = (
    (re.compile(rb"\xff\xd8\xff"), "JPEG"),
    (re.compile(_PNG_SIGNATURE), "PNG"),
    (re.compile(rb"GIF8[79]a"), "GIF"),
    (re.compile(rb"BM"), "BMP"),
    (re.compile(rb"II[*+]\0|MM\0[*+]"), "TIFF"),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), "WEBP"),
)
_FORMATS_IN_WORDS = "JPEG, PNG, WebP, GIF, BMP or TIFF"
# What the first frame's pixels depend on. Left out are text (Pillow refuses the whole file when it is
# long, as Photoshop's edit history is), and the chunks of an animation.
_PNG_ONCE = frozenset({b"IHDR", b"PLTE", b"tRNS", b"iCCP", b"eXIf", b"sRGB", b"IEND"})
# Pillow's PngImagePlugin.MAX_TEXT_CHUNK: it refuses the whole file for a longer profile.
_PNG_PROFILE_BYTES = 1 << 20
_PNG_GRAY, _PNG_RGB = 0, 2

# A marker that ends entropy-coded data: not a stuffed zero, a restart or a fill byte.
_JPEG_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
_JPEG_END, _JPEG_SCAN = 0xD9, 0xDA
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Any bytes will do that are no marker and decode to something: they are compared with no bytes at all.
_JPEG_NOISE = bytes(89 * number % 254 + 1 for number in range(1, 1001))

_HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"})
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
# Brands that say "a container of images" and leave the coding to the list of compatible brands.
_GENERIC_BRANDS = frozenset({b"mif1", b"msf1"})

_OTHER_KINDS = (
    (re.compile(rb"%PDF"), "a PDF document"),
    (re.compile(rb"PK\x03\x04|PK\x05\x06"), "a ZIP archive or an office document"),
    (re.compile(rb"8BPS"), "a Photoshop document"),
    (re.compile(rb"\xff\x0a|\x00\x00\x00\x0cJXL "), "JPEG XL"),
    (re.compile(rb"\x00\x00\x00\x0cjP  |\xff\x4f\xff\x51"), "JPEG 2000"),
    (re.compile(rb"....ftyp|\x1aE\xdf\xa3|RIFF....AVI ", re.DOTALL), "a video"),
    (re.compile(rb"\s*(<!doctype html|<html|<head|<body)", re.IGNORECASE), "a web page"),
    # Without repetition inside repetition: such a pattern takes forever on bytes made for it.
    (re.compile(rb"\s*<(?=.*<svg|svg)", re.DOTALL), "an SVG drawing"),
)
_PROLOGUE_BYTES = 2048


def image_format(data: bytes) -> str | None:
    """The format whose signature the bytes carry, by Pillow's name; None for anything else."""
    return _kind(data, _FORMATS) or _coded_in_boxes(data)


def require_format(data: bytes, name: str) -> str:
    """The format of an image file, as `image_format` gives it.

    Raises:
        ImageError: the bytes are no image; the message says what they are, where that is known.
    """
    if found := image_format(data):
        return found
    kind = _kind(data, _OTHER_KINDS)
    what = f"this is {kind}, not an image that can be read" if kind else "this is not an image"
    raise ImageError(f"{name}: {what}; save it as {_FORMATS_IN_WORDS}")


def _kind(data: bytes, kinds: tuple[tuple[re.Pattern[bytes], str], ...]) -> str | None:
    return next((kind for pattern, kind in kinds if pattern.match(data[:_PROLOGUE_BYTES])), None)


def _coded_in_boxes(data: bytes) -> str | None:
    """HEIF or AVIF, by the brands of an ISO media file."""
    header = data[8 : min(int.from_bytes(data[:4], "big"), _PROLOGUE_BYTES)]
    brands = {header[i : i + 4] for i in range(0, len(header), 4)}
    major = header[:4]
    if data[4:8] != b"ftyp" or major not in _HEIF_BRANDS | _AVIF_BRANDS | _GENERIC_BRANDS:
        return None
    avif = major in _AVIF_BRANDS or (major in _GENERIC_BRANDS and brands & _AVIF_BRANDS)
    return "AVIF" if avif else "HEIF"


def essential_png(data: bytes) -> bytes:
    """The PNG without the chunks that its first frame does not depend on.

    Long text, animation frames and repeated profiles cost time and memory and, in Pillow, warnings or the
    refusal of a good image.
    """
    kept = [_PNG_SIGNATURE]
    seen: set[bytes] = set()
    position = len(_PNG_SIGNATURE)
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if kind == b"IDAT" or (kind in _PNG_ONCE and kind not in seen):
            chunk = data[position:end]
            if kind == b"tRNS":
                chunk = _transparency_for_pillow(data[24:26], chunk)
            if kind != b"iCCP" or _inflates_within_limit(chunk[8:-4]):
                kept.append(chunk)
        seen.add(kind)
        position = end
    return b"".join(kept)


def _transparency_for_pillow(depth_and_color: bytes, chunk: bytes) -> bytes:
    """A tRNS chunk with the samples of the transparent color as Pillow gives the pixels.

    Pillow brings gray of 2 and 4 bits and RGB of 16 bits to 8 bits, and compares with samples that it
    has not brought there.
    """
    depth, color = depth_and_color
    samples = struct.unpack(f">{(len(chunk) - 12) // 2}H", chunk[8 : 8 + (len(chunk) - 12) // 2 * 2])
    if color == _PNG_GRAY and depth in (2, 4):
        samples = tuple(min(sample, 2**depth - 1) * 255 // (2**depth - 1) for sample in samples)
    elif color == _PNG_RGB and depth == 16:
        samples = tuple(sample >> 8 for sample in samples)
    else:
        return chunk
    content = b"tRNS" + struct.pack(f">{len(samples)}H", *samples)
    return struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))


def _inflates_within_limit(chunk: bytes) -> bool:
    """Whether the profile in the content of an iCCP chunk is one that Pillow will unpack."""
    _, _, packed = chunk.partition(b"\0")
    try:
        profile = zlib.decompressobj().decompress(packed[1:], _PNG_PROFILE_BYTES + 1)
    except zlib.error:
        return False
    return len(profile) <= _PNG_PROFILE_BYTES


def jpeg_segments(data: bytes, limit: int) -> tuple[int, int]:
    """Number of segments of a JPEG, counted up to a limit, and how many of them are scans.

    Every scan of a progressive JPEG goes over the whole image and may take ten bytes.
    """
    markers = (marker for marker, _ in islice(_jpeg_markers(data), limit))
    segments = list(takewhile(lambda marker: marker != _JPEG_END, markers))
    return len(segments), segments.count(_JPEG_SCAN)


def ended_jpeg(data: bytes) -> tuple[bytes, bytes, int] | None:
    """A JPEG without its last bytes, with an end; and the same with other pixels in what is missing.

    From the first row that decodes differently, its last scan is lost. The third is how many bytes there are
    of that scan if it only refines what earlier ones gave, else 0. None where whole scans are missing.
    """
    # Not half a marker; nor the zeros of a file that was allocated and not filled.
    data = data.rstrip(b"\0\xff")
    components = refining = 0
    missing_bits: dict[tuple[int, int], int] = {}  # by component and coefficient
    for marker, start in _jpeg_markers(data):
        content = data[start + 2 : start + 2 + 256]
        if marker in _JPEG_FRAMES and len(content) > 5:
            components = content[5]
        if marker == _JPEG_SCAN and content and len(content) > 2 * content[0] + 3:
            count = content[0]
            first, last, approximation = content[2 * count + 1 : 2 * count + 4]
            for component in content[1 : 2 * count + 1 : 2]:
                for coefficient in range(first, last + 1):
                    missing_bits[component, coefficient] = approximation & 15
            refining = len(data) - start if approximation >> 4 else 0
    if len(missing_bits) < 64 * components or any(missing_bits.values()):
        return None
    end = b"\xff\xd9"
    return data + end, data + _JPEG_NOISE + end, refining


def _jpeg_markers(data: bytes) -> Iterator[tuple[int, int]]:
    """The markers of a JPEG in order, and where their content starts; the content is jumped over."""
    position = 0
    while found := _JPEG_MARKER.search(data, position):
        marker = found[1][0]
        position = found.end()
        yield marker, position
        if marker not in (0x01, 0xD8):  # which have no content
            position += max(2, int.from_bytes(data[position : position + 2], "big"))


BITS_PER_SAMPLE, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339
MAX_SAMPLE, SMAX_SAMPLE = 281, 341  # both hold the largest value, the second in any type
WHITE_IS_ZERO, BLACK_IS_ZERO = 0, 1
UNSIGNED, SIGNED, _FLOAT = 1, 2, 3
_NUMBERS = {
    UNSIGNED: "unsigned integers",
    SIGNED: "signed integers",
    _FLOAT: "floats",
    5: "complex integers",
    6: "complex floats",
}
# What Pillow knows beside unsigned integers of up to 8 bits: of one sample a pixel, and of several.
_DEEP_GRAY = {UNSIGNED: (12, 16, 32), SIGNED: (8, 16, 32), _FLOAT: (32,)}
_DEEP_COLOR = {UNSIGNED: (16,)}
_SAMPLES_PER_PIXEL, _STRIP_OFFSETS, _TILE_OFFSETS = 277, 273, 324
_SHORT, _LONG = 3, 4


def readable_tiff(data: bytes) -> tuple[int, bytes, dict[int, int], str]:
    """How many strips or tiles a TIFF claims, one that Pillow can open, and the tags to give its reader back.

    The last is the kind of its pixels' numbers, where Pillow cannot open it for that; else "".

    Pillow makes an object of each strip or tile before it looks at any. Of more than 8 bits, or with a sign,
    it opens most kinds only where black is zero, and big-endian files of 32 bits only where they are signed.
    What the pixels mean is then for the caller to put right. Only the first page is looked at.
    """
    order = "<" if data.startswith(b"II") else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    offset, number, entry, where = ("Q", "Q", "HHQ8s", 8) if big else ("L", "H", "HHL4s", 4)
    offset, number, entry = order + offset, order + number, order + entry
    entries: dict[int, tuple[int, int, bytes]] = {}  # by tag: type, count, and the value or its offset
    with suppress(struct.error, OverflowError):  # a damaged file has none
        (start,) = struct.unpack_from(offset, data, where)
        (count,) = struct.unpack_from(number, data, start)
        start, size = start + struct.calcsize(number), struct.calcsize(entry)
        directory = data[start : start + min(count, (len(data) - start) // size) * size]
        entries = {
            tag: (kind, count, value) for tag, kind, count, value in struct.iter_unpack(entry, directory)
        }
    pieces = max((entries[tag][1] for tag in (_STRIP_OFFSETS, _TILE_OFFSETS) if tag in entries), default=0)
    tags: dict[int, int] = {}  # the first number of each
    for tag, (kind, count, value) in entries.items():
        if kind in (_SHORT, _LONG):
            numbers = struct.Struct(order + ("H" if kind == _SHORT else "L"))
            with suppress(struct.error, OverflowError):
                if count * numbers.size > len(value):
                    tags[tag] = numbers.unpack_from(data, struct.unpack(offset, value)[0])[0]
                else:
                    tags[tag] = numbers.unpack_from(value)[0]
    given: dict[int, int] = {}
    bits, form = tags.get(BITS_PER_SAMPLE, 1), tags.get(SAMPLE_FORMAT, UNSIGNED)
    deep, gray = bits > 8 or form != UNSIGNED, tags.get(_SAMPLES_PER_PIXEL, 1) == 1
    known = not deep or form not in _NUMBERS or bits in (_DEEP_GRAY if gray else _DEEP_COLOR).get(form, ())
    kind_of_pixels = "" if known else f"{bits}-bit {_NUMBERS[form]}"
    if deep and gray:
        if tags.get(PHOTOMETRIC, WHITE_IS_ZERO) == WHITE_IS_ZERO:
            given[PHOTOMETRIC] = WHITE_IS_ZERO
        if (bits, form) == (32, UNSIGNED):
            given[SAMPLE_FORMAT] = UNSIGNED
    if not given:
        return pieces, data, given, kind_of_pixels
    changed = {PHOTOMETRIC: BLACK_IS_ZERO, SAMPLE_FORMAT: SIGNED}
    entries |= {tag: (_SHORT, 1, struct.pack(order + "H", changed[tag])) for tag in given}
    directory = struct.pack(number, len(entries)) + b"".join(
        struct.pack(entry, tag, *fields) for tag, fields in sorted(entries.items())
    )
    data += bytes(len(data) % 2)
    first = struct.pack(offset, len(data))
    data = data[:where] + first + data[where + len(first) :] + directory + bytes(len(first))
    return pieces, data, given, kind_of_pixels
