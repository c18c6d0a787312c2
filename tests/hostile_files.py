"""Files that nobody should send; made here."""

import io
import random
import struct
import zipfile
import zlib

import numpy as np
from PIL import Image

from cait_viz.images import read as images

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def photograph(width=83, height=61) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([y * 4 % 256, x * 3 % 256, x * y % 256], axis=-1).astype(np.uint8))


def encoded(image_format: str, image: Image.Image | None = None, **options) -> bytes:
    buffer = io.BytesIO()
    (image or photograph()).save(buffer, image_format, **options)
    return buffer.getvalue()


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(
    width: int, height: int, *extra: bytes, pixels: bytes = b"\0", depth: int = 8, color: int = 2
) -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    rest = png_chunk(b"IDAT", zlib.compress(pixels)) + png_chunk(b"IEND", b"")
    return PNG_SIGNATURE + header + b"".join(extra) + rest


def gif(screen: tuple[int, int], frame: tuple[int, int, int, int], extension: bytes = b"") -> bytes:
    palette = bytes(6)
    return (
        b"GIF89a"
        + struct.pack("<HHBBB", *screen, 0x80, 0, 0)
        + palette
        + extension
        + b","
        + struct.pack("<HHHHB", *frame, 0)
        + b"\x02\x02\x44\x01\0;"
    )


def bmp(width: int, height: int, bits: int = 24, compression: int = 0, pixels: bytes = bytes(64)) -> bytes:
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(pixels), 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(pixels), 0, 0, 54) + info + pixels


def tiff(tags: dict[int, int | tuple[int, int, int]], body: bytes = bytes(64)) -> bytes:
    """A little-endian TIFF: for each tag a number, or its type, count and value."""
    entries = [
        struct.pack("<HHII", tag, *(value if isinstance(value, tuple) else (4, 1, value)))
        for tag, value in sorted(tags.items())
    ]
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(body)) + body + directory


GREY_TIFF = {256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 8, 279: 64}


def tiff_of_tiles(count: int) -> bytes:
    """Tiles of one pixel's height, all in the same place."""
    tags = {256: 1000, 257: 1000, 258: 8, 259: 1, 262: 1, 277: 1, 322: 1, 323: 1, 324: (3, count, 8)}
    return tiff(tags, struct.pack("<H", 8) * count)


def webp(width: int, height: int) -> bytes:
    """A canvas of that size around a small image."""
    size = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    body = b"VP8X" + struct.pack("<I", 10) + bytes(4) + size + encoded("WEBP", photograph(4, 4))[12:]
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def jpeg_of_size(width: int, height: int) -> bytes:
    """A JPEG whose header claims another size than its data fills."""
    data = bytearray(encoded("JPEG"))
    start = data.index(b"\xff\xc0") + 5
    data[start : start + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def jpeg_of_scans(count: int) -> bytes:
    """A progressive JPEG that goes over its pixels again and again."""
    data = encoded("JPEG", Image.new("L", (64, 64), 100), progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * count + b"\xff\xd9"


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("photo.png", encoded("PNG"))
    return buffer.getvalue()


def with_flipped_byte(data: bytes, at: bytes) -> bytes:
    """One byte of what follows a marker, flipped."""
    changed = bytearray(data)
    changed[data.index(at) + len(at) + 3] ^= 0xFF
    return bytes(changed)


NOT_IMAGES = {
    "empty": lambda: b"",
    "one byte": lambda: b"\x89",
    "zeros": lambda: bytes(10_000),
    "noise": lambda: random.Random(0).randbytes(10_000),
    "text": lambda: b"just some words\n" * 50,
    "web page": lambda: b"<!DOCTYPE html><html><img src=x></html>",
    "svg": lambda: b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
    "svg with prologue": lambda: b'<?xml version="1.0"?>\n<!-- \xe2\x80\xa6 -->\n<svg width="9" height="9"/>',
    # Each alone keeps a careless pattern busy for longer than anyone lives.
    "comments without end": lambda: b"<!---->" * 10_000,
    "prologues without end": lambda: b"<?xml?> " * 10_000,
    "spaces without end": lambda: b" \n" * 10_000,
    "pdf": lambda: b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n",
    "pdf by Pillow": lambda: encoded("PDF"),
    "zip": zipped,
    "gzip": lambda: b"\x1f\x8b\x08\0\0\0\0\0" + bytes(50),
    "photoshop": lambda: b"8BPS\0\x01" + bytes(100),
    "postscript": lambda: encoded("EPS"),
    "icon": lambda: encoded("ICO"),
    "portable pixmap": lambda: encoded("PPM"),
    "targa": lambda: encoded("TGA"),
    "video": lambda: b"\0\0\0\x18ftypmp42\0\0\0\0isommp42" + bytes(100),
    "jpeg xl": lambda: b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(50),
    "jpeg 2000": lambda: b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(50),
}
CUT_SHORT = {
    "jpeg": lambda: half(encoded("JPEG")),
    "progressive jpeg": lambda: half(encoded("JPEG", progressive=True)),
    "png": lambda: half(encoded("PNG")),
    "gif": lambda: half(encoded("GIF")),
    "webp": lambda: half(encoded("WEBP")),
    "lossless webp": lambda: half(encoded("WEBP", lossless=True)),
    "bmp": lambda: half(encoded("BMP")),
    "tiff": lambda: half(encoded("TIFF")),
    "tiff lzw": lambda: half(encoded("TIFF", compression="tiff_lzw")),
    "jpeg signature": lambda: b"\xff\xd8\xff",
    "png signature": lambda: PNG_SIGNATURE,
    "gif signature": lambda: b"GIF89a",
    "bmp signature": lambda: b"BM",
    "tiff signature": lambda: b"II*\0",
    "bigtiff signature": lambda: b"MM\0+\0\x08\0\0",
    "webp signature": lambda: b"RIFF\x10\0\0\0WEBP",
    "heic signature": lambda: b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
    "avif signature": lambda: b"\0\0\0\x1cftypavif\0\0\0\0mif1avifmiaf",
    "jpeg without pixels": lambda: b"\xff\xd8\xff\xd9",
}
DAMAGED = {
    "png checksum": lambda: with_flipped_byte(encoded("PNG"), b"IDAT"),
    "png header checksum": lambda: with_flipped_byte(encoded("PNG"), b"IHDR"),
    "png without pixels": lambda: (
        PNG_SIGNATURE + png_chunk(b"IHDR", struct.pack(">IIBBBBB", 9, 9, 8, 2, 0, 0, 0))
    ),
    "png of zero width": lambda: png(0, 9),
    "png of zero size": lambda: png(0, 0),
    "png of no depth": lambda: png(9, 9, depth=3),
    "png that never inflates": lambda: encoded("PNG").replace(b"IDATx", b"IDAT\0"),
    "png with a chunk of 2 GB": lambda: PNG_SIGNATURE + b"\x7f\xff\xff\xffIHDR" + bytes(50),
    "bmp of zero height": lambda: bmp(9, 0),
    "bmp of negative width": lambda: bmp(-9, 9),
    "bmp of unknown compression": lambda: bmp(9, 9, compression=77),
    "gif without a frame": lambda: b"GIF89a\x09\0\x09\0\0\0\0;",
    "gif of zero size": lambda: gif((0, 0), (0, 0, 0, 0)),
    "tiff without a size": lambda: tiff({258: 8, 262: 1}),
    "tiff of zero size": lambda: tiff({**GREY_TIFF, 256: 0}),
    "tiff of seven channels": lambda: tiff({**GREY_TIFF, 277: 7}),
    "tiff of a billion channels": lambda: tiff({**GREY_TIFF, 277: 10**9}),
    **{
        f"tiff of deep color, {name}": lambda tags=tags: tiff({**GREY_TIFF, 258: 16, 262: 2, 277: 3, **tags})
        for name, tags in {
            "too short": {},
            "of no size": {256: 0},
            "of four billion columns": {256: 2**32 - 1},
            "with tiles of four billion": {322: 2**32 - 1, 323: 8, 324: 8, 325: 64},
            "with tiles of nothing": {317: 2, 259: 8, 322: 0, 323: 0, 324: 8, 325: 64},
            "in planes that are not there": {284: 2},
            "in planes beyond the end": {284: 2, 273: (4, 2**31, 8), 279: (4, 2**31, 8)},
        }.items()
    },
    "tiff of unknown compression": lambda: tiff({**GREY_TIFF, 259: 4711}),
    "tiff with pixels outside": lambda: tiff({**GREY_TIFF, 273: 10**9}),
    "tiff with a directory outside": lambda: b"II*\0\xff\xff\xff\xff" + bytes(50),
    "tiff with a directory in itself": lambda: b"II*\0\0\0\0\0" + bytes(50),
    "tiff with tags beyond its end": lambda: tiff(dict.fromkeys(range(256, 900), (1, 2**31, 8))),
    "tiff with broken deflate": lambda: tiff({**GREY_TIFF, 259: 8}),
    "tiff of numbers that are not": lambda: encoded("TIFF", Image.new("F", (4, 4), float("nan"))),
}
BOMBS = {
    "png of 60000 by 60000": lambda: png(60_000, 60_000),
    "png of two billion by two billion": lambda: png(2**31 - 1, 2**31 - 1),
    "png just above the limit": lambda: png(8_000, images.MAX_PIXELS // 8_000 + 1),
    "one-bit png of 100000 by 100000": lambda: png(100_000, 100_000, depth=1, color=0),
    "gif of 65535 by 65535": lambda: gif((65_535, 65_535), (0, 0, 1, 1)),
    "gif with a frame larger than its screen": lambda: gif((8, 8), (65_000, 65_000, 500, 500)),
    "bmp of 100000 by 100000": lambda: bmp(100_000, 100_000),
    "run-length bmp of 100000 by 100000": lambda: bmp(100_000, 100_000, bits=8, compression=1),
    "tiff of four billion by four billion": lambda: tiff({**GREY_TIFF, 256: 2**32 - 1, 257: 2**32 - 1}),
    "tiff of 100000 by 100000": lambda: tiff({**GREY_TIFF, 256: 100_000, 257: 100_000, 278: 100_000}),
    "tiff of many pieces": lambda: tiff_of_tiles(2_000_000),
    "webp of 16384 by 16384": lambda: webp(16_384, 16_384),
    "webp of 9000 by 9000": lambda: webp(9_000, 9_000),
    "jpeg of 65500 by 65500": lambda: jpeg_of_size(65_500, 65_500),
    "jpeg of 9000 by 9000": lambda: jpeg_of_size(9_000, 9_000),
    "jpeg of many scans": lambda: jpeg_of_scans(100_000),
    "jpeg of many segments": lambda: b"\xff\xd8\xff" + b"\xff\xe0\0\2" * 1_000_000,
    "strip of 1 by 50000": lambda: png(1, 50_000),
    "strip of 50000 by 1": lambda: png(50_000, 1),
}
REFUSED = {
    f"{group}, {name}": make
    for group, files in (
        ("not an image", NOT_IMAGES),
        ("cut short", CUT_SHORT),
        ("damaged", DAMAGED),
        ("bomb", BOMBS),
    )
    for name, make in files.items()
}
# What looks as bad and is an image all the same.
READ = {
    "png with compressed text of 200 MB": lambda: png(
        1, 1, png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(200_000_000))), pixels=bytes(4)
    ),
    "png with a profile of 200 MB": lambda: png(
        1, 1, png_chunk(b"iCCP", b"ICC\0\0" + zlib.compress(bytes(200_000_000))), pixels=bytes(4)
    ),
    "png with pixels to spare": lambda: png(1, 1, pixels=bytes(50_000_000)),
    "jpeg with an archive behind it": lambda: encoded("JPEG") + zipped(),
    "gif with a comment of 3 MB": lambda: gif(
        (8, 8), (0, 0, 1, 1), b"!\xfe" + (b"\xff" + bytes(255)) * 12_000 + b"\0"
    ),
    "tiff whose next page is itself": lambda: tiff(GREY_TIFF)[:-4] + struct.pack("<I", 8 + 64),
    "jpeg with 60 KB of broken exif": lambda: encoded(
        "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0" + b"\xff" * 60_000
    ),
    "jpeg with sixty profiles": lambda: encoded("JPEG", icc_profile=bytes(60 * 65_000)),
}
