"""Every mode and depth of pixels becomes 8-bit RGB."""

import io
import struct
import zlib

import numpy as np
import pytest
from image_files import BLACK, BLUE, GREEN, RED, WHITE, difference, encoded, gradient, pixel, png_chunk, tiff
from PIL import Image

from cait_viz.errors import ImageError
from cait_viz.images.read import load_image, read_image


def test_grey_stays_grey():
    gray = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    for image_format in ("PNG", "BMP", "TIFF", "GIF"):
        image = np.asarray(read_image(encoded(gray, image_format)))
        assert (image == np.asarray(gray)[..., None]).all(), image_format


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
# How TIFFs hold gray: NumPy's type, bits that are used, SampleFormat, and whether that tells the range.
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
    return tiff({256: width, 257: height, 278: height, **bits, **given}, pixels, order=order)


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


@pytest.mark.parametrize("tag", ["t281", "t341"])
@pytest.mark.parametrize(("largest", "expected"), [(4095, [0, 62]), (65535, [0, 4]), (800, [0, 249])])
def test_a_declared_largest_value_tells_the_depth(tag, largest, expected):
    loaded = load_image(grey_tiff(np.array([[0, 1000]], np.uint16), **{tag: largest}))
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


# Pillow's modes, and how a TIFF says the same: by PhotometricInterpretation and ExtraSamples.
PIXELS = {
    "L": (1, None),
    "LA": (1, 2),
    "La": (1, 1),
    "RGB": (2, None),
    "RGBA": (2, 2),
    "RGBa": (2, 1),
    "CMYK": (5, None),
}


def twelve_bits(mode):
    """An image of 8 bits in a mode, and its samples in 12 bits, (H, W, S)."""
    twin = gradient()
    twin.putalpha(gradient().convert("L"))
    twin = twin.convert({"La": "LA", "CMYK": "RGB"}.get(mode, "RGBA")).convert(mode)
    samples = np.dstack([np.asarray(band) for band in twin.split()])
    return twin, np.rint(samples / 255 * 4095).astype(np.uint16)


def pieces_of(samples, size, order, compression, predictor):
    """Strips or tiles of samples, as a TIFF has them."""
    height, width = size
    down, across = (-samples.shape[axis] % side for axis, side in enumerate(size))
    filled = np.pad(samples, ((0, down if width < samples.shape[1] else 0), (0, across), (0, 0)))
    for y in range(0, len(filled), height):
        for x in range(0, filled.shape[1], width):
            piece = filled[y : y + height, x : x + width]
            if predictor == 2:
                piece = np.diff(piece, axis=1, prepend=np.zeros_like(piece[:, :1]))
            data = piece.astype(order + "u2").tobytes()
            yield zlib.compress(data) if compression == 8 else data


@pytest.mark.parametrize("order", ["<", ">"], ids=["little-endian", "big-endian"])
@pytest.mark.parametrize(
    ("compression", "predictor"), [(1, 1), (8, 1), (8, 2)], ids=["plain", "deflate", "differences"]
)
@pytest.mark.parametrize("tile", [None, (16, 32)], ids=["strips", "tiles"])
@pytest.mark.parametrize("planes", [False, True], ids=["together", "in planes"])
@pytest.mark.parametrize("mode", PIXELS)
def test_twelve_of_sixteen_bits_of_a_tiff_look_as_eight_do(mode, planes, tile, compression, predictor, order):
    twin, samples = twelve_bits(mode)
    height, width, count = samples.shape
    meaning, extra = PIXELS[mode]
    tags = {
        256: width,
        257: height,
        258: 16,
        259: compression,
        262: meaning,
        277: count,
        284: 1 + planes,
        317: predictor,
    }
    tags |= {322: tile[1], 323: tile[0]} if tile else {278: 25}
    tags |= {338: extra} if extra else {}
    parts = np.split(samples, count, axis=2) if planes else [samples]
    pieces = [
        piece
        for part in parts
        for piece in pieces_of(part, tile or (25, width), order, compression, predictor)
    ]
    for declared in ({}, {281: 4095}):
        loaded = load_image(tiff(tags | declared, *pieces, order=order, tiled=bool(tile)))
        assert difference(loaded.image, read_image(twin)) <= 1
        assert ("4095 as white" in loaded.remark) is not bool(declared)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_twelve_of_sixteen_bits_of_a_png_or_an_array_look_as_eight_do(mode):
    twin, samples = twelve_bits(mode)
    sources = [deep_png(samples)]
    if mode != "LA":  # which no array is
        sources += [samples.squeeze(), samples.squeeze().astype(">u2")]
    for source in sources:
        loaded = load_image(source)
        assert difference(loaded.image, read_image(twin)) <= 1
        assert "0 was taken as black and 4095 as white" in loaded.remark
    full = load_image(deep_png(np.rint(samples * (65535 / 4095)).astype(np.uint16)))
    assert difference(full.image, read_image(twin)) <= 1
    assert not full.remark


def deep_png(samples):
    """A PNG of 16 bits, (H, W, S)."""
    height, width, count = samples.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[count], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    chunks = png_chunk(b"IHDR", header), png_chunk(b"IDAT", zlib.compress(rows)), png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_a_tiff_of_more_samples_than_a_color_and_its_opacity_says_so():
    tags = {256: 2, 257: 2, 258: 16, 259: 1, 262: 2, 277: 6, 278: 2}
    with pytest.raises(ImageError, match="its pixels are of 6 samples of 16 bits, which cannot be read"):
        read_image(tiff(tags, bytes(96)))


@pytest.mark.parametrize("brightest", [255, 63, 15, 1, 0])
def test_sixteen_bits_of_a_declared_range_equal_their_eight_bit_twin_however_dark(brightest):
    gray = np.rint(GREY * (brightest / 255)).astype(np.uint8)
    color = np.stack([gray, gray.T, gray[::-1]], axis=-1)
    for twin in (gray, color):
        loaded = load_image(twin.astype(np.uint16) * 257)
        assert difference(loaded.image, read_image(twin)) == 0
        assert not loaded.remark
    deep = Image.fromarray(gray.astype(np.uint16) * 257)
    data = encoded(deep, "PNG")
    # Twelve significant bits: they are scaled to sixteen all the same.
    with_sbit = data[:33] + png_chunk(b"sBIT", b"\x0c") + data[33:]
    for source in (deep, data, with_sbit, Image.open(io.BytesIO(with_sbit))):
        loaded = load_image(source)
        assert difference(loaded.image, read_image(gray)) == 0
        assert not loaded.remark


def test_deep_grey_of_a_tiff_is_the_same_from_its_file_and_from_pillow():
    values = (GREY.astype(np.uint16) << 4) + (GREY >> 4)
    data = encoded(Image.fromarray(values), "TIFF")
    for source in (data, Image.open(io.BytesIO(data))):
        loaded = load_image(source)
        assert (np.asarray(loaded.image)[..., 0] == GREY).all()
        assert "4095 as white" in loaded.remark
    inverted = grey_tiff(np.uint16(65535) - GREY.astype(np.uint16) * 257, t262=0)
    assert (np.asarray(read_image(Image.open(io.BytesIO(inverted))))[..., 0] == GREY).all()


@pytest.mark.parametrize("order", ["<", ">"], ids=["little-endian", "big-endian"])
@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize(
    ("bits", "sample_format", "kind"),
    [
        (16, 3, "16-bit floats"),
        (64, 3, "64-bit floats"),
        (64, 1, "64-bit unsigned integers"),
        (64, 2, "64-bit signed integers"),
        (64, 6, "64-bit complex floats"),
        (10, 1, "10-bit unsigned integers"),
    ],
)
def test_a_tiff_of_numbers_that_cannot_be_read_says_what_they_are(bits, sample_format, kind, samples, order):
    photometric = 1 if samples == 1 else 2
    tags = {256: 2, 257: 2, 258: bits, 259: 1, 262: photometric, 277: samples, 278: 2, 339: sample_format}
    data = tiff(tags, struct.pack(order + "3H", *[bits] * 3) + bytes(192), order=order)
    if samples == 3:  # the bits of each then stand elsewhere in the file, here before the pixels
        one, three = (struct.pack(order + "HHII", 258, *entry) for entry in ((4, 1, bits), (3, 3, 8)))
        data = data.replace(one, three)
    with pytest.raises(ImageError, match=f"its pixels are {kind}, which cannot be read; save it again as"):
        read_image(data)


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
@pytest.mark.parametrize("color", [0, 2], ids=["gray", "RGB"])
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
