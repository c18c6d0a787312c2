"""What the bytes of an image file say of themselves, before anything is decoded.

Found here are the ways in which a small file costs much with few pixels, against which Pillow has no guard;
what a file is when it is no image; and the few headers that Pillow misreads, which are rewritten.
"""

import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
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
_PNG_GRAY = 0

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

    Pillow brings gray of 2 and 4 bits to 8 bits, and compares with samples that it has not brought there.
    """
    depth, color = depth_and_color
    samples = struct.unpack(f">{(len(chunk) - 12) // 2}H", chunk[8 : 8 + (len(chunk) - 12) // 2 * 2])
    if color == _PNG_GRAY and depth in (2, 4):
        samples = tuple(min(sample, 2**depth - 1) * 255 // (2**depth - 1) for sample in samples)
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


BITS_PER_SAMPLE, PHOTOMETRIC, SAMPLE_FORMAT, EXTRA_SAMPLES = 258, 262, 339, 338
MAX_SAMPLE, SMAX_SAMPLE = 281, 341  # both hold the largest value, the second in any type
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, CMYK = 0, 1, 2, 5
# How many samples a color has.
COLOR_SAMPLES = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, CMYK: 4}
# What the sample after the color is: nothing known, or opacity, which the colors may be multiplied by.
UNSPECIFIED, PREMULTIPLIED, STRAIGHT = 0, 1, 2
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
_WIDTH, _HEIGHT, _TILE_WIDTH, _SAMPLES, _PLANAR, _COMPRESSION, _PREDICTOR = 256, 257, 322, 277, 284, 259, 317
_PIECES = _STRIP_OFFSETS, _STRIP_LENGTHS, _TILE_OFFSETS, _TILE_LENGTHS = 273, 279, 324, 325
_IN_PLANES, _DIFFERENCES = 2, 2
_UNPREDICTED = 1, 32773  # compressions that know no predictor: none, and PackBits
_LONG = 4
_NUMBER_TYPES = {3: "H", _LONG: "L", 16: "Q"}


@dataclass(frozen=True)
class Tiff:
    """The first page of a TIFF, such that Pillow can open it.

    Of more than 8 bits, or with a sign, Pillow opens most kinds only where black is zero, and big-endian
    files of 32 bits only where they are signed; of color it keeps 8 bits. So color becomes gray: the samples
    of a row beside each other, or each plane by itself. What they mean is for the caller to put right.

    Attributes:
        pieces: how many strips or tiles it claims; Pillow makes an object of each before it looks at any.
        files: the file; of color in planes one for each.
        tags: the first number of each tag that was changed, to be given back to Pillow's reader.
        unreadable: the kind of its pixels' numbers, where Pillow cannot open it for that; else "".
        shape: of color that became gray: height, width and samples of a pixel.
        step: after how many pixels of such a row a difference from the one before is none; 0 if all are
            themselves.
    """

    pieces: int
    files: Iterator[bytes]
    tags: dict[int, int]
    unreadable: str
    shape: tuple[int, int, int] | None = None
    step: int = 0


class _Directory:
    """The entries of a TIFF's first page, by tag: type, count, and the value or its offset."""

    def __init__(self, data: bytes) -> None:
        self.data, self.order = data, "<" if data.startswith(b"II") else ">"
        big = data[2:4] in (b"+\0", b"\0+")
        offset, number, entry, self._where = ("Q", "Q", "HHQ8s", 8) if big else ("L", "H", "HHL4s", 4)
        self._offset, self._number, self._entry = (self.order + form for form in (offset, number, entry))
        self.entries: dict[int, tuple[int, int, bytes]] = {}
        with suppress(struct.error, OverflowError):  # a damaged file has none
            (start,) = struct.unpack_from(self._offset, data, self._where)
            (count,) = struct.unpack_from(self._number, data, start)
            start, size = start + struct.calcsize(self._number), struct.calcsize(self._entry)
            entries = data[start : start + min(count, (len(data) - start) // size) * size]
            self.entries = {
                tag: (kind, *rest) for tag, kind, *rest in struct.iter_unpack(self._entry, entries)
            }

    def count(self, tag: int) -> int:
        """How many numbers a tag has."""
        return self.entries[tag][1] if tag in self.entries else 0

    def first(self, tag: int, default: int) -> int:
        """The first number of a tag."""
        with suppress(KeyError, struct.error, OverflowError):
            content, form = self._content(tag)
            return int(struct.unpack_from(form, content)[0])
        return default

    def _content(self, tag: int) -> tuple[bytes, str]:
        """The numbers of a tag as the file has them, and their format."""
        kind, count, value = self.entries[tag]
        form = self.order + _NUMBER_TYPES[kind]
        if (size := count * struct.calcsize(form)) <= len(value):
            return value[:size], form
        (start,) = struct.unpack(self._offset, value)
        return self.data[start : start + size], form

    def rewritten(self, changed: Mapping[int, int], plane: int = 0, planes: int = 1) -> bytes:
        """The file with other numbers, and of its planes with one."""
        entries, more = dict(self.entries), bytes(len(self.data) % 2)
        entries |= {tag: (_LONG, 1, struct.pack(self.order + "L", new)) for tag, new in changed.items()}
        for tag in set(_PIECES) & set(entries) if planes > 1 else ():
            (kind, count, value), (content, _) = entries[tag], self._content(tag)
            size = len(content) // planes
            content = content[plane * size : (plane + 1) * size]
            if size > len(value):
                content, more = struct.pack(self._offset, len(self.data) + len(more)), more + content
            entries[tag] = (kind, count // planes, content)
        directory = struct.pack(self._number, len(entries)) + b"".join(
            struct.pack(self._entry, tag, *fields) for tag, fields in sorted(entries.items())
        )
        first = struct.pack(self._offset, len(self.data) + len(more))
        head = self.data[: self._where] + first
        return head + self.data[len(head) :] + more + directory + bytes(len(first))


def readable_tiff(data: bytes) -> Tiff:
    """Look at the header of a TIFF, and change it where Pillow needs that."""
    page = _Directory(data)
    pieces = max(map(page.count, _PIECES))
    bits, form = page.first(BITS_PER_SAMPLE, 1), page.first(SAMPLE_FORMAT, UNSIGNED)
    samples, meaning = page.first(_SAMPLES, 1), page.first(PHOTOMETRIC, WHITE_IS_ZERO)
    deep, gray = bits > 8 or form != UNSIGNED, samples == 1
    known = not deep or form not in _NUMBERS or bits in (_DEEP_GRAY if gray else _DEEP_COLOR).get(form, ())
    unreadable = "" if known else f"{bits}-bit {_NUMBERS[form]}"
    if deep and known and not gray:
        if samples - COLOR_SAMPLES.get(meaning, samples + 1) in (0, 1):
            return _as_gray(page, pieces)
        unreadable = f"of {samples} samples of {bits} bits"
    changed: dict[int, int] = {}
    if deep and gray:
        if meaning == WHITE_IS_ZERO:
            changed[PHOTOMETRIC] = BLACK_IS_ZERO
        if (bits, form) == (32, UNSIGNED):
            changed[SAMPLE_FORMAT] = SIGNED
        if page.first(_PLANAR, 1) == _IN_PLANES:  # which of one sample means nothing
            changed[_PLANAR] = 1
    files = iter([page.rewritten(changed) if changed else data])
    tags = {tag: meaning if tag == PHOTOMETRIC else page.first(tag, UNSIGNED) for tag in changed}
    return Tiff(pieces, files, tags, unreadable)


def _as_gray(page: _Directory, pieces: int) -> Tiff:
    """A TIFF of unsigned color of more than 8 bits."""
    width, height, samples = (page.first(tag, 0) for tag in (_WIDTH, _HEIGHT, _SAMPLES))
    changed = {PHOTOMETRIC: BLACK_IS_ZERO, _SAMPLES: 1, _PLANAR: 1}
    changed |= {BITS_PER_SAMPLE: page.first(BITS_PER_SAMPLE, 0), SAMPLE_FORMAT: UNSIGNED}
    tags = {
        PHOTOMETRIC: page.first(PHOTOMETRIC, WHITE_IS_ZERO),
        EXTRA_SAMPLES: page.first(EXTRA_SAMPLES, STRAIGHT),
    }
    planes, step = samples, 0
    if page.first(_PLANAR, 1) != _IN_PLANES:
        tile = page.first(_TILE_WIDTH, width)
        if page.first(_PREDICTOR, 1) == _DIFFERENCES and page.first(_COMPRESSION, 1) not in _UNPREDICTED:
            step = tile
        planes = 1
        changed |= {_WIDTH: width * samples, _PREDICTOR: 1}
        if page.count(_TILE_WIDTH):
            changed[_TILE_WIDTH] = tile * samples
    page.entries.pop(EXTRA_SAMPLES, None)
    files = (page.rewritten(changed, plane, planes) for plane in range(planes))
    return Tiff(pieces, files, tags, "", (height, width, samples), step)
