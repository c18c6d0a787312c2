import dataclasses
import hashlib
import io
import json
import os
import struct
import sys
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageCms, TiffImagePlugin

from cait_viz._resources import SAMPLES
from cait_viz.errors import ImageError
from cait_viz.images.read import LoadedImage, load_image, read_image

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


# --- formats ----------------------------------------------------------------------------------------

LOSSLESS = {
    "PNG": ("PNG", {}),
    "interlaced-free BMP": ("BMP", {}),
    "WebP": ("WEBP", {"lossless": True}),
    "TIFF": ("TIFF", {}),
    "TIFF, LZW": ("TIFF", {"compression": "tiff_lzw"}),
    "TIFF, deflate": ("TIFF", {"compression": "tiff_adobe_deflate"}),
    "BigTIFF": ("TIFF", {"big_tiff": True}),
}


@pytest.mark.parametrize(("image_format", "options"), LOSSLESS.values(), ids=LOSSLESS)
def test_a_lossless_format_comes_back_pixel_for_pixel(image_format, options):
    image = read_image(encoded(gradient(), image_format, **options))
    assert type(image) is Image.Image
    assert image.mode == "RGB"
    assert image.tobytes() == gradient().tobytes()


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"quality": 100}])
def test_a_jpeg_is_read_as_pillow_reads_it(options):
    data = encoded(gradient(), "JPEG", **options)
    assert read_image(data).tobytes() == Image.open(io.BytesIO(data)).convert("RGB").tobytes()


def test_avif_is_read_where_pillow_can():
    pytest.importorskip("PIL.AvifImagePlugin")
    assert difference(read_image(encoded(gradient(), "AVIF", quality=100)), gradient()) < 30


def heic(image: Image.Image, **options) -> bytes:
    pytest.importorskip("pillow_heif").register_heif_opener()
    return encoded(image, "HEIF", quality=-1, **options)


def test_heic_is_read_with_its_reader_and_turned_once():
    assert difference(read_image(heic(gradient())), gradient()) < 30
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = heic(gradient(), exif=exif.tobytes())
    assert difference(read_image(turned), UNDO[6](np.asarray(gradient()))) < 30


def test_without_its_reader_heic_is_refused_by_name(monkeypatch):
    data = heic(gradient())
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ImageError, match=r"^phone\.heic: this is HEIC.*pillow-heif.*JPEG$"):
        load_image(data, "phone.heic")


def test_of_an_animation_the_first_frame_is_taken():
    red, blue = Image.new("RGB", (20, 10), RED), Image.new("RGB", (20, 10), BLUE)
    for image_format in ("GIF", "PNG", "WEBP", "TIFF"):
        data = encoded(red, image_format, save_all=True, append_images=[blue, blue])
        assert difference(read_image(data), red) <= 4, image_format


def tiff(tags: dict[int, int], pixels: bytes, order: str = "<") -> bytes:
    """A TIFF of one strip with those tags, each one number."""
    entries = {**tags, 273: 8, 279: len(pixels)}
    directory = b"".join(
        struct.pack(order + "HHII", tag, 4, 1, value) for tag, value in sorted(entries.items())
    )
    pixels += bytes(len(pixels) % 2)
    header = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8 + len(pixels))
    return header + pixels + struct.pack(order + "H", len(entries)) + directory + bytes(4)


def test_a_png_with_more_text_than_pillow_allows_is_read():
    chunk = b"Comment\0\0\0\0\0" + b"x" * 3_000_000
    data = encoded(gradient(), "PNG")
    bomb = data[:33] + png_chunk(b"iTXt", chunk) + png_chunk(b"acTL", b"\0\0") + data[33:]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_image(bomb).tobytes() == gradient().tobytes()


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


# --- modes ------------------------------------------------------------------------------------------


def test_grey_stays_grey():
    grey = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    for image_format in ("PNG", "BMP", "TIFF", "GIF"):
        image = np.asarray(read_image(encoded(grey, image_format)))
        assert (image == np.asarray(grey)[..., None]).all(), image_format


def test_one_bit_is_black_and_white():
    bits = Image.new("1", (9, 2), 1)
    bits.putpixel((3, 0), 0)
    for image_format, options in (
        ("PNG", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "group4"}),
    ):
        data = encoded(bits, image_format, **options)
        assert (pixel(data, (3, 0)), pixel(data, (4, 0))) == (BLACK, WHITE)


GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)
# How TIFFs hold grey: NumPy's type, bits that are used, SampleFormat, and whether that tells the range.
DEPTHS = {
    "8 bits": ("u1", 8, 1, True),
    "8 bits, signed": ("i1", 7, 2, True),
    "16 bits": ("u2", 16, 1, True),
    "16 bits, signed": ("i2", 15, 2, True),
    "32 bits": ("u4", 32, 1, True),
    "32 bits, signed": ("i4", 31, 2, True),
    "8 bits in 16": ("u2", 8, 1, False),
    "10 bits in 16": ("u2", 10, 1, False),
    "12 bits in 16": ("u2", 12, 1, False),
    "14 bits in 16": ("u2", 14, 1, False),
    "12 bits in 16, signed": ("i2", 12, 2, False),
    "12 bits in 32": ("u4", 12, 1, False),
    "16 bits in 32": ("u4", 16, 1, False),
    "20 bits in 32, signed": ("i4", 20, 2, False),
    "fractions": ("f4", 0, 3, True),
}


def grey_tiff(values, order="<", compression=1, **tags) -> bytes:
    """A TIFF of exactly these values in one strip; `tags` by number, as "t262"."""
    given = {int(tag[1:]): value for tag, value in tags.items()}
    height, width = values.shape
    pixels = values.astype(values.dtype.newbyteorder(order)).tobytes()
    pixels = zlib.compress(pixels) if compression == 8 else pixels
    bits = {258: 8 * values.itemsize, 259: compression, 262: 1, 277: 1}
    return tiff({256: width, 257: height, 278: height, **bits, **given}, pixels, order)


@pytest.mark.parametrize("order", ["<", ">"], ids=["little-endian", "big-endian"])
@pytest.mark.parametrize("compression", [1, 8], ids=["plain", "deflate"])
@pytest.mark.parametrize("photometric", [0, 1], ids=["white is zero", "black is zero"])
@pytest.mark.parametrize("depth", DEPTHS)
def test_grey_of_every_depth_looks_the_same(depth, photometric, compression, order):
    dtype, bits, sample_format, stated = DEPTHS[depth]
    share = (GREY if photometric else 255 - GREY) / 255
    values = (np.rint(share * (2**bits - 1)) if bits else share).astype(dtype)
    tags = {"t262": photometric, "t339": sample_format}
    loaded = load_image(grey_tiff(values, order, compression, **tags))
    assert difference(loaded.image, np.repeat(GREY[..., None], 3, axis=-1)) <= (1 if bits in (7, 8) else 0)
    assert bool(loaded.remark) is not stated
    if sample_format == 1:  # which is the default
        again = load_image(grey_tiff(values, order, compression, t262=photometric))
        assert (again.image.tobytes(), again.remark) == (loaded.image.tobytes(), loaded.remark)


def test_the_remark_says_what_was_taken_as_white():
    values = np.array([[0, 4000]], np.uint16)
    sentence = "The pixel values of a.tif have no stated range; 0 was taken as black and 4095 as white."
    assert load_image(grey_tiff(values), "a.tif").remark == sentence
    assert "4095 was taken as black and 0 as white" in load_image(grey_tiff(values, t262=0)).remark


@pytest.mark.parametrize(("largest", "expected"), [(4095, [0, 62]), (65535, [0, 4]), (800, [0, 249])])
def test_a_declared_largest_value_tells_the_depth(largest, expected):
    loaded = load_image(grey_tiff(np.array([[0, 1000]], np.uint16), t281=largest))
    assert np.asarray(loaded.image)[0, :, 0].tolist() == expected
    assert bool(loaded.remark) is (largest < 1000)


def test_twelve_packed_bits_are_scaled_by_their_own_white():
    # Two pixels in three bytes: 0xFFF and 0x000.
    for photometric, expected in ((1, [WHITE, BLACK]), (0, [BLACK, WHITE])):
        tags = {256: 2, 257: 1, 258: 12, 259: 1, 262: photometric, 277: 1, 278: 1}
        data = tiff(tags, b"\xff\xf0\x00")
        assert [pixel(data, (x, 0)) for x in (0, 1)] == expected
        assert not load_image(data).remark
    dark = load_image(tiff({256: 2, 257: 1, 258: 12, 259: 1, 262: 1, 277: 1, 278: 1}, b"\x10\x00\x00"))
    assert (dark.image.getpixel((0, 0)), dark.remark) == ((16, 16, 16), "")


@pytest.mark.parametrize("image_format", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_and_not_clipped(image_format):
    values = np.array([[0, 257, 128 * 257, 65535, 20000]], np.uint16)
    for source in (Image.fromarray(values), values, encoded(Image.fromarray(values), image_format)):
        loaded = load_image(source)
        assert np.asarray(loaded.image)[0, :, 0].tolist() == [0, 1, 128, 255, 78]
        assert not loaded.remark


def test_deep_grey_is_the_same_from_a_file_from_pillow_and_from_an_array():
    values = (GREY.astype(np.uint16) << 4) + (GREY >> 4)
    for image_format in ("PNG", "TIFF"):
        data = encoded(Image.fromarray(values), image_format)
        for source in (data, Image.open(io.BytesIO(data)), Image.fromarray(values), values):
            loaded = load_image(source)
            assert (np.asarray(loaded.image)[..., 0] == GREY).all()
            assert "4095 as white" in loaded.remark
    inverted = grey_tiff(np.uint16(65535) - GREY.astype(np.uint16) * 257, t262=0)
    assert (np.asarray(read_image(Image.open(io.BytesIO(inverted))))[..., 0] == GREY).all()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 0.5, 1], [0, 128, 255]),
        ([0, 100.4, 255], [0, 100, 255]),
        ([-1, 5], [0, 255]),
        ([1000, 2000, 3000], [0, 128, 255]),
        ([7, 7], [7, 7]),
        ([-7, -7], [0, 0]),
    ],
)
@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_grey_without_a_stated_range_is_stretched_and_says_so(dtype, values, expected):
    if dtype == np.int32 and values[-1] in (1, 255, 3000):
        pytest.skip("whole numbers have the range of their bits")
    image = Image.fromarray(np.array([values], dtype))
    for source in (image, encoded(image, "TIFF")):
        loaded = load_image(source)
        assert np.asarray(loaded.image)[0, :, 0].tolist() == expected
        assert bool(loaded.remark) is (values[-1] != 1)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("color", [0, 2], ids=["grey", "RGB"])
def test_the_transparent_color_of_a_png_is_white_at_every_depth(bits, color):
    if color == 2 and bits < 8:
        pytest.skip("there is no such PNG")
    channels = 3 if color else 1
    # A row of the transparent color and one of black, whole bytes wide.
    clear = {1: 1, 2: 1, 4: 5, 8: 90, 16: 23210}[bits]
    row = {1: b"\xff", 2: b"\x55", 4: b"\x55", 8: b"\x5a", 16: b"\x5a\xaa"}[bits] * channels
    pixels = b"\0" + row + b"\0" + bytes(len(row))
    width = max(1, 8 // bits)
    data = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, 2, bits, color, 0, 0, 0))
    data += png_chunk(b"tRNS", struct.pack(">H", clear) * channels)
    data += png_chunk(b"IDAT", zlib.compress(pixels)) + png_chunk(b"IEND", b"")
    assert [pixel(data, (x, 0)) for x in range(width)] == [WHITE] * width
    assert pixel(data, (0, 1)) == BLACK


@pytest.mark.parametrize("image_format", ["PNG", "TIFF", "WEBP"])
def test_transparency_lies_over_white(image_format):
    image = Image.new("RGBA", (3, 1), (*RED, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    image.putpixel((2, 0), (0, 0, 0, 128))
    data = encoded(image, image_format, **({"lossless": True} if image_format == "WEBP" else {}))
    assert [pixel(data, (x, 0)) for x in range(3)] == [RED, WHITE, (127, 127, 127)]


@pytest.mark.parametrize("mode", ["LA", "La", "RGBA", "RGBa", "PA"])
def test_every_mode_with_alpha_lies_over_white(mode):
    clear = Image.new("LA", (2, 2), (0, 0)) if mode == "La" else Image.new("RGBA", (2, 2), (0, 0, 0, 0))
    clear = clear.convert(mode)
    assert pixel(clear) == WHITE
    assert clear.mode == mode


def test_a_palette_keeps_its_colors_and_its_transparent_entry_is_white():
    image = Image.new("P", (2, 1), 0)
    image.putpalette([*RED, *BLUE])
    image.putpixel((1, 0), 1)
    for image_format in ("PNG", "GIF"):
        assert [pixel(encoded(image, image_format), (x, 0)) for x in (0, 1)] == [RED, BLUE]
        data = encoded(image, image_format, transparency=1)
        assert [pixel(data, (x, 0)) for x in (0, 1)] == [RED, WHITE]
    partly = encoded(image, "PNG", transparency=bytes([255, 0]))
    assert [pixel(partly, (x, 0)) for x in (0, 1)] == [RED, WHITE]


@pytest.mark.parametrize(("mode", "clear", "other"), [("L", 7, 8), ("RGB", RED, GREEN), ("1", 0, 255)])
def test_a_transparent_color_is_white(mode, clear, other):
    image = Image.new(mode, (2, 1), clear)
    image.putpixel((1, 0), other)
    data = encoded(image, "PNG", transparency=0 if mode == "1" else clear)
    assert pixel(data, (0, 0)) == WHITE
    assert pixel(data, (1, 0)) == Image.new(mode, (1, 1), other).convert("RGB").getpixel((0, 0))


def test_cmyk_is_not_inverted():
    # Cyan ink alone is cyan, no ink is paper; Pillow writes a JPEG of it the way Adobe does, inverted.
    for image_format, options in (("TIFF", {}), ("JPEG", {"quality": 100})):
        data = encoded(Image.new("CMYK", (16, 16), (255, 0, 0, 0)), image_format, **options)
        assert difference(pixel(data), (0, 255, 255)) <= 2
        assert difference(pixel(encoded(Image.new("CMYK", (16, 16), 0), image_format)), WHITE) <= 2


def test_ycbcr_and_lab_become_rgb():
    assert difference(pixel(gradient().convert("YCbCr")), gradient().getpixel((0, 0))) <= 2
    assert difference(read_image(encoded(Image.new("LAB", (4, 4), (255, 128, 128)), "TIFF")), WHITE) <= 2
    assert difference(pixel(gradient().convert("HSV")), gradient().getpixel((0, 0))) <= 6


# --- orientation and color --------------------------------------------------------------------------

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


@pytest.mark.parametrize("orientation", UNDO)
@pytest.mark.parametrize(
    ("image_format", "options"),
    [
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("JPEG", {"quality": 100, "subsampling": 0}),
    ],
)
def test_a_turned_image_is_put_upright(image_format, options, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(gradient(), image_format, exif=exif.tobytes(), **options)
    upright = read_image(data)
    assert difference(upright, UNDO[orientation](np.asarray(gradient()))) <= (
        4 if image_format == "JPEG" else 0
    )
    assert not upright.getexif()


def test_an_upright_image_read_again_is_not_turned_again():
    exif = Image.Exif()
    exif[0x0112] = 6
    once = read_image(encoded(gradient(), "PNG", exif=exif.tobytes()))
    assert read_image(once).tobytes() == once.tobytes()


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0" + b"\xff" * 5000, b"x"]
)
def test_damaged_exif_leaves_the_image_as_it_is(exif):
    data = encoded(gradient(), "JPEG", exif=exif)
    assert read_image(data).size == gradient().size


def profile(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    """An ICC profile of version 2 for a display, from its tags' contents."""
    header = struct.pack(">4x4sI4s4s4s12x4s", b"", 0x02400000, b"mntr", space, b"XYZ ", b"acsp")
    header += bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    header += bytes(128 - len(header))
    table, body = struct.pack(">I", len(tags)), b""
    start = len(header) + 4 + 12 * len(tags)
    for name, content in tags.items():
        table += struct.pack(">4sII", name, start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    data = header + table + body
    return struct.pack(">I", len(data)) + data[4:]


def xyz(*values: float) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(v * 65536) for v in values))


def gamma(exponent: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(exponent * 256)) + b"\0\0"


# Columns: the primaries in XYZ relative to D50 (Apple's Display P3 profile; IEC 61966-2-1 through Bradford).
P3_TO_XYZ = np.array([[0.5151, 0.2920, 0.1571], [0.2412, 0.6922, 0.0666], [-0.0011, 0.0419, 0.7841]])
SRGB_TO_XYZ = np.array([[0.4361, 0.3851, 0.1431], [0.2225, 0.7169, 0.0606], [0.0139, 0.0971, 0.7141]])


def display_p3() -> bytes:
    columns = {name: xyz(*P3_TO_XYZ[:, i]) for i, name in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))}
    curves = dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), gamma(2.2))
    return profile(b"RGB ", {b"wtpt": xyz(0.9642, 1, 0.8249), **columns, **curves})


def p3_in_srgb(color: tuple[int, int, int]) -> np.ndarray:
    light = np.linalg.inv(SRGB_TO_XYZ) @ P3_TO_XYZ @ (np.array(color) / 255) ** 2.2
    light = light.clip(0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize(
    "color", [(200, 100, 50), (90, 180, 120), (255, 255, 255), (128, 128, 128), (40, 40, 200)]
)
def test_display_p3_is_brought_to_srgb(color):
    data = encoded(Image.new("RGB", (8, 8), color), "PNG", icc_profile=display_p3())
    assert np.abs(np.array(pixel(data)) - p3_in_srgb(color)).max() <= 2
    if len(set(color)) > 1:
        assert pixel(data) != color


def test_a_profile_converts_the_color_and_leaves_the_transparency():
    image = Image.new("RGBA", (2, 1), (200, 100, 50, 255))
    image.putpixel((1, 0), (200, 100, 50, 0))
    data = encoded(image, "PNG", icc_profile=display_p3())
    assert np.abs(np.array(pixel(data)) - p3_in_srgb((200, 100, 50))).max() <= 2
    assert pixel(data, (1, 0)) == WHITE


def test_a_palette_with_a_profile_is_converted():
    image = Image.new("P", (1, 1), 0)
    image.putpalette([200, 100, 50])
    data = encoded(image, "PNG", icc_profile=display_p3())
    assert np.abs(np.array(pixel(data)) - p3_in_srgb((200, 100, 50))).max() <= 2


def test_linear_grey_is_brought_to_srgb():
    linear = profile(b"GRAY", {b"wtpt": xyz(0.9642, 1, 0.8249), b"kTRC": gamma(1)})
    grey = Image.new("L", (4, 4), 128)
    assert difference(pixel(encoded(grey, "PNG", icc_profile=linear)), (188, 188, 188)) <= 2


def test_srgb_under_any_name_changes_no_pixel():
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert read_image(encoded(gradient(), "PNG", icc_profile=srgb)).tobytes() == gradient().tobytes()


@pytest.mark.parametrize(
    "broken",
    [
        b"no profile",
        bytes(200),
        display_p3()[:150],
        display_p3()[:-40],
        profile(b"GRAY", {}),
        profile(b"CMYK", {}),
    ],
    ids=["text", "zeros", "cut", "cut late", "grey without a curve", "for inks"],
)
@pytest.mark.parametrize("image_format", ["PNG", "TIFF"])
def test_a_profile_that_cannot_be_used_is_ignored(broken, image_format):
    data = encoded(gradient(), image_format, icc_profile=broken)
    assert read_image(data).tobytes() == gradient().tobytes()


def test_a_profile_too_long_for_pillow_is_ignored():
    data = encoded(gradient(), "PNG", icc_profile=display_p3() + bytes(3_000_000))
    assert read_image(data).tobytes() == gradient().tobytes()


# --- sources ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "photo.png",
        "no extension",
        "Ελένη 猫 😀.png",
        "wrong.txt",
        "line\nbreak.png",
        "👩\u200d🔬.png",
        "-rf.png",
        "%s{0}.png",
        ".png",
    ],
)
def test_a_file_is_read_whatever_its_name(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(encoded(gradient(), "PNG"))
    for source in (path, str(path)):
        loaded = load_image(source)
        assert loaded.image.tobytes() == gradient().tobytes()
        assert loaded.name == name.replace("\n", " ")


@pytest.mark.skipif(os.name == "nt", reason="file names are Unicode there")
def test_a_file_name_that_is_no_text_can_still_be_shown(tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe.png"))
    path.write_bytes(encoded(gradient(), "PNG"))
    name = load_image(path).name
    assert name.encode("utf-8").isascii()
    assert name.endswith(".png")


def test_an_image_tells_its_name_and_the_digest_of_its_file(tmp_path):
    data = encoded(gradient(), "JPEG")
    digest = hashlib.sha256(data).hexdigest()
    path = tmp_path / "photo.jpg"
    path.write_bytes(data)
    loaded = load_image(path)
    assert isinstance(loaded, LoadedImage)
    assert (loaded.name, loaded.sha256) == ("photo.jpg", digest)
    assert load_image(data).name == "the image"
    assert load_image(data, "upload.jpg").name == "upload.jpg"
    assert load_image(data, "up\r\nload.jpg").name == "up load.jpg"
    assert load_image(path).sha256 == load_image(str(path)).sha256 == load_image(data).sha256 == digest


def test_without_a_file_the_digest_is_of_the_pixels():
    digest = hashlib.sha256(gradient().tobytes()).hexdigest()
    assert load_image(gradient()).sha256 == digest
    assert load_image(np.asarray(gradient())).sha256 == digest


def test_a_loaded_image_is_returned_as_it_is(tmp_path):
    path = tmp_path / "photo.png"
    path.write_bytes(encoded(gradient(), "PNG"))
    loaded = load_image(path)
    path.unlink()
    assert load_image(loaded) is loaded
    assert read_image(loaded) is loaded.image
    assert load_image(loaded, "another name") is loaded


def test_no_digest_is_computed_before_it_is_asked_for(monkeypatch):
    monkeypatch.setattr(hashlib, "sha256", None)
    for source in (gradient(), np.asarray(gradient()), encoded(gradient(), "PNG")):
        loaded = load_image(source)
        with pytest.raises(TypeError):
            _ = loaded.sha256


def test_a_loaded_image_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        load_image(gradient()).name = "another"


def test_a_pillow_image_is_left_as_it_was():
    image = gradient().convert("P")
    image.info["exif"] = b"Exif\0\0"
    before = image.tobytes(), dict(image.info), image.mode
    copy = read_image(image)
    copy.paste(RED, (0, 0, 5, 5))
    assert (image.tobytes(), dict(image.info), image.mode) == before
    rgb = gradient()
    read_image(rgb).paste(RED, (0, 0, 5, 5))
    assert rgb.tobytes() == gradient().tobytes()


def test_a_pillow_image_not_loaded_yet_is_read(tmp_path):
    path = tmp_path / "lazy.jpg"
    path.write_bytes(encoded(gradient(), "JPEG"))
    with Image.open(path) as lazy:
        assert read_image(lazy).tobytes() == read_image(path).tobytes()


def test_a_closed_pillow_image_is_refused():
    image = Image.open(io.BytesIO(encoded(gradient(), "JPEG")))
    image.close()
    with pytest.raises(ImageError, match="cannot be loaded"):
        read_image(image)


@settings(max_examples=50, deadline=None)
@given(arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3))))
def test_an_array_of_uint8_comes_back_as_it_was(array):
    assert (np.asarray(read_image(array)) == array).all()
    assert (np.asarray(read_image(array[::-1, ::-1])) == array[::-1, ::-1]).all()


def test_every_kind_of_array_that_is_an_image_is_read():
    grey = np.array([[0, 128, 255]], np.uint8)
    expected = np.repeat(grey[..., None], 3, axis=-1)
    sources = {
        "(H, W)": grey,
        "(H, W, 1)": grey[..., None],
        "(H, W, 3)": expected,
        "(H, W, 4)": np.concatenate([expected, np.full((1, 3, 1), 255, np.uint8)], axis=-1),
        "uint16": grey.astype(np.uint16) * 257,
        "big endian": (grey.astype(np.uint16) * 257).astype(">u2"),
        "float16": (grey / 255).astype(np.float16),
        "float64": grey / 255,
        "float32 RGB": (expected / 255).astype(np.float32),
    }
    for name, array in sources.items():
        assert (np.asarray(read_image(array)) == expected).all(), name
    assert np.asarray(read_image(np.array([[True, False]])))[0].tolist() == [[255] * 3, [0] * 3]
    assert pixel(np.zeros((2, 2, 4), np.uint8)) == WHITE


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros(5), "shape"),
        (np.zeros((2, 2, 2)), "shape"),
        (np.zeros((3, 20, 20)), "shape"),
        (np.zeros((1, 20, 20, 3)), "shape"),
        (np.array(3.0), "shape"),
        (np.zeros((0, 5, 3), np.uint8), "0 pixels"),
        (np.zeros((5, 0)), "0 × 5 pixels"),
        (np.zeros((4, 4), np.int64), "int64"),
        (np.zeros((4, 4), complex), "complex128"),
        (np.full((4, 4), None), "object"),
        (np.full((4, 4), "a"), "<U1"),
        (np.full((4, 4), np.nan), "not finite"),
        (np.full((4, 4), np.inf), "not finite"),
        (np.full((4, 4), 255.0), "255"),
        (np.full((4, 4), -0.1), "-0.1"),
        (np.broadcast_to(np.uint8(0), (60_000, 60_000)), "60000 × 60000"),
        (np.zeros((1, 500), np.uint8), "500 × 1"),
    ],
)
def test_an_array_that_is_no_image_is_refused_with_a_reason(array, said):
    with pytest.raises(ImageError) as caught:
        read_image(array)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", [None, 3, ["a.png"], io.BytesIO(b"x"), object()])
def test_what_is_no_source_of_images_is_refused(source):
    with pytest.raises(ImageError, match=r"is not an image; give a path, bytes"):
        read_image(source)


# --- threads and samples -----------------------------------------------------------------------------


def test_many_threads_read_at_once_and_leave_the_warnings_as_they_were():
    strange_tags = {256: 4, 257: 4, 258: 8, 259: 1, 262: 1, 277: 1, 278: 4, TiffImagePlugin.ARTIST: 9}
    files = [encoded(gradient(40 + i, 30), "PNG") for i in range(6)] + [tiff(strange_tags, bytes(16))] * 6
    expected = [read_image(data).tobytes() for data in files]
    filters = list(warnings.filters)
    seen: dict[int, bytes] = {}
    threads = [
        threading.Thread(target=lambda i=i, data=data: seen.__setitem__(i, read_image(data).tobytes()))
        for i, data in enumerate(files)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [seen[i] for i in range(len(files))] == expected
    assert warnings.filters == filters


def test_reading_changes_nothing_of_the_process_that_reads(run_python, tmp_path):
    (tmp_path / "photo.jpg").write_bytes(encoded(gradient(), "JPEG")[:-2])
    script = """
import logging, os, sys, warnings
import numpy
from PIL import Image, ImageFile, TiffImagePlugin
def settings():
    known = logging.root.manager.loggerDict.items()
    loggers = [(name, list(getattr(one, "handlers", []))) for name, one in known]
    limits = (ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS, dict(TiffImagePlugin.OPEN_INFO))
    return dict(os.environ), list(warnings.filters), [one for one in loggers if one[1]], limits
before = settings()
import cait_viz.images.preprocess, cait_viz.images.web
assert cait_viz.read_image(sys.argv[1])
assert settings() == before
"""
    run_python(script, tmp_path / "photo.jpg")


def test_every_sample_is_a_photograph_with_a_licence_and_a_description():
    listed = json.loads((SAMPLES / "samples.json").read_text(encoding="utf-8"))
    assert len(listed) >= 6
    assert {entry["file"] for entry in listed} == {path.name for path in SAMPLES.glob("*.jpg")}
    readme = (SAMPLES / "README.md").read_text(encoding="utf-8")
    for entry in listed:
        assert max(read_image(SAMPLES / entry["file"]).size) <= 1024
        for key in ("file", "title", "author", "license", "source"):
            assert entry[key]
            assert entry[key] in readme
        assert entry["alt"]
        assert entry["license_url"].startswith("https://")
