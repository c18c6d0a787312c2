"""What the bytes of a picture file say of themselves, before anything is decoded.

Pillow guards against files that claim too many pixels. The functions here find the ways in which a
small file costs much with few pixels, and name what a file is when it is not a picture.
Nothing here decodes, and nothing here raises on damaged bytes.
"""

import re
import struct
import zlib
from collections.abc import Iterator
from itertools import islice

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_SIGNATURES = {
    "JPEG": (b"\xff\xd8\xff",),
    "PNG": (_PNG_SIGNATURE,),
    "GIF": (b"GIF87a", b"GIF89a"),
    "BMP": (b"BM",),
    "TIFF": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
}
# What the first frame's pixels depend on. Left out are text (which Pillow refuses when it is long,
# as Photoshop's edit history is), and the chunks of an animation.
_PNG_REPEATED = frozenset({b"IDAT"})
_PNG_ONCE = frozenset({b"IHDR", b"PLTE", b"tRNS", b"iCCP", b"eXIf", b"sRGB", b"IEND"})
# Pillow's PngImagePlugin.MAX_TEXT_CHUNK: it refuses the whole file for a longer profile.
_PNG_PROFILE_BYTES = 1 << 20

# A marker that ends entropy-coded data: not a stuffed zero, a restart or a fill byte.
_JPEG_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
_JPEG_STANDALONE = frozenset({0x01, 0xD8})
_JPEG_END, _JPEG_SCAN = 0xD9, 0xDA

_TIFF_STRIP_OFFSETS, _TIFF_TILE_OFFSETS = 273, 324

_HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"})
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
# Brands that say "a container of pictures" and leave the coding to the list of compatible brands.
_GENERIC_BRANDS = frozenset({b"mif1", b"msf1"})

_OTHER_KINDS = (
    (re.compile(rb"%PDF"), "a PDF document"),
    (re.compile(rb"PK\x03\x04|PK\x05\x06"), "a ZIP archive or an office document"),
    (re.compile(rb"\x1f\x8b|7z\xbc\xaf|Rar!|BZh|\xfd7zXZ"), "a compressed archive"),
    (re.compile(rb"8BPS"), "a Photoshop document"),
    (re.compile(rb"\xff\x0a|\x00\x00\x00\x0cJXL "), "JPEG XL"),
    (re.compile(rb"\x00\x00\x00\x0cjP  |\xff\x4f\xff\x51"), "JPEG 2000"),
    (re.compile(rb"\x00\x00\x01\x00"), "an icon file"),
    (re.compile(rb"%!PS|\xc5\xd0\xd3\xc6"), "a PostScript document"),
    (re.compile(rb"....ftyp|\x1aE\xdf\xa3|RIFF....AVI ", re.DOTALL), "a video"),
    (re.compile(rb"\s*(<!doctype html|<html|<head|<body)", re.IGNORECASE), "a web page"),
    # Without repetition inside repetition: such a pattern takes for ever on bytes made for it.
    (re.compile(rb"\s*<(?=.*<svg|svg)", re.DOTALL), "an SVG drawing"),
)
_PROLOGUE_BYTES = 2048


def image_format(data: bytes) -> str | None:
    """The format whose signature the bytes carry, by Pillow's name; None for anything else.

    Only the formats that the program reads are known here: whatever else Pillow could open stays
    out of reach of a file with a misleading name.
    """
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WEBP"
    for image_format, signatures in _SIGNATURES.items():
        if data.startswith(signatures):
            return image_format
    return _coded_in_boxes(data)


def other_kind(data: bytes) -> str | None:
    """In words, what bytes are that are not a picture the program reads; None when unknown."""
    prologue = data[:_PROLOGUE_BYTES]
    for pattern, words in _OTHER_KINDS:
        if pattern.match(prologue):
            return words
    return None


def essential_png(data: bytes) -> bytes:
    """The PNG without the chunks that its first frame does not depend on.

    Long text, animation frames and repeated profiles cost time and memory and, in Pillow, warnings
    or the refusal of a good picture. Damaged chunks are left for the decoder to report.
    """
    kept = [_PNG_SIGNATURE]
    seen: set[bytes] = set()
    position = len(_PNG_SIGNATURE)
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if kind in _PNG_REPEATED or (kind in _PNG_ONCE and kind not in seen):
            chunk = data[position:end]
            if kind != b"iCCP" or _inflates_within_limit(chunk[8:-4]):
                kept.append(chunk)
        seen.add(kind)
        position = end
    return b"".join(kept)


def jpeg_segments(data: bytes, limit: int) -> tuple[int, int]:
    """Number of segments of a JPEG, counted up to a limit, and how many of them are scans.

    Every scan of a progressive JPEG goes over the whole picture and may take ten bytes, so that a
    file of a few megabytes can keep a decoder busy for hours.
    """
    segments = scans = 0
    for marker in islice(_jpeg_markers(data), limit):
        if marker == _JPEG_END:
            break
        segments += 1
        scans += marker == _JPEG_SCAN
    return segments, scans


def tiff_pieces(data: bytes) -> int:
    """Number of strips or tiles that the first page of a TIFF claims; 0 when that cannot be told.

    Pillow makes an object of each before it looks at any.
    """
    order = "<" if data.startswith(b"II") else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    entry, count_format, start_format = ("HHQ8s", "Q", 8) if big else ("HHL4s", "H", 4)
    try:
        (start,) = struct.unpack_from(order + ("Q" if big else "L"), data, start_format)
        (entries,) = struct.unpack_from(order + count_format, data, start)
        start += struct.calcsize(order + count_format)
        size = struct.calcsize(order + entry)
        entries = min(entries, (len(data) - start) // size)
        directory = struct.iter_unpack(order + entry, data[start : start + entries * size])
    except (struct.error, OverflowError):
        return 0
    offsets = (_TIFF_STRIP_OFFSETS, _TIFF_TILE_OFFSETS)
    return max((count for tag, _, count, _ in directory if tag in offsets), default=0)


def _coded_in_boxes(data: bytes) -> str | None:
    """HEIF or AVIF, by the brands of an ISO media file."""
    if data[4:8] != b"ftyp":
        return None
    length = int.from_bytes(data[:4], "big")
    header = data[8 : min(length, _PROLOGUE_BYTES)]
    brands = {header[i : i + 4] for i in range(0, len(header), 4)}
    major = header[:4]
    if major in _AVIF_BRANDS or (major in _GENERIC_BRANDS and brands & _AVIF_BRANDS):
        return "AVIF"
    if major in _HEIF_BRANDS or major in _GENERIC_BRANDS:
        return "HEIF"
    return None


def _inflates_within_limit(chunk: bytes) -> bool:
    """Whether the profile in the content of an iCCP chunk is one that Pillow will unpack."""
    _, _, packed = chunk.partition(b"\0")
    try:
        profile = zlib.decompressobj().decompress(packed[1:], _PNG_PROFILE_BYTES + 1)
    except zlib.error:
        return False
    return len(profile) <= _PNG_PROFILE_BYTES


def _jpeg_markers(data: bytes) -> Iterator[int]:
    """The markers of a JPEG in order, jumping over the content of its segments."""
    position = 0
    while found := _JPEG_MARKER.search(data, position):
        marker = found[1][0]
        position = found.end()
        yield marker
        if marker not in _JPEG_STANDALONE:
            position += max(2, int.from_bytes(data[position : position + 2], "big"))
