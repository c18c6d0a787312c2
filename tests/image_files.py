"""Image files made by hand, for the tests that read them."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

from cait_viz.images.read import read_image

RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)


def gradient(width=83, height=61) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([y * 4 % 256, x * 3 % 256, (x + y) % 256], axis=-1).astype(np.uint8))


def encoded(image: Image.Image, image_format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def pixel(source, at=(0, 0)) -> tuple[int, int, int]:
    return read_image(source).getpixel(at)


def difference(one, other) -> int:
    return int(np.abs(np.asarray(one, np.int16) - np.asarray(other, np.int16)).max())


def tiff(tags: dict[int, int], *pieces: bytes, order: str = "<", tiled: bool = False) -> bytes:
    """A TIFF of those strips or tiles, with those tags, each one number."""
    starts = [8 + sum(map(len, pieces[:place])) for place in range(len(pieces))]
    offsets, lengths = (324, 325) if tiled else (273, 279)
    entries = {tag: [value] for tag, value in tags.items()} | {
        offsets: starts,
        lengths: list(map(len, pieces)),
    }
    content = b"".join(pieces)
    content += bytes(len(content) % 2)
    directory = b""
    for tag, values in sorted(entries.items()):
        packed = struct.pack(f"{order}{len(values)}I", *values)
        if len(values) > 1:
            packed, content = struct.pack(order + "I", 8 + len(content)), content + packed
        directory += struct.pack(order + "HHI", tag, 4, len(values)) + packed
    header = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8 + len(content))
    return header + content + struct.pack(order + "H", len(entries)) + directory + bytes(4)


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


# Where the image's first row and first column are as shown, by EXIF orientation (EXIF 2.3, figure 14),
# written as what undoes it.
UNDO = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}
