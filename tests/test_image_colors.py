"""Orientation and color profiles are applied once."""

import struct

import numpy as np
import pytest
from image_files import UNDO, WHITE, difference, encoded, gradient, pixel
from PIL import Image, ImageCms

from cait_viz.images.read import read_image


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
    gray = Image.new("L", (4, 4), 128)
    assert difference(pixel(encoded(gray, "PNG", icc_profile=linear)), (188, 188, 188)) <= 2


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
    ids=["text", "zeros", "cut", "cut late", "gray without a curve", "for inks"],
)
@pytest.mark.parametrize("image_format", ["PNG", "TIFF"])
def test_a_profile_that_cannot_be_used_is_ignored(broken, image_format):
    data = encoded(gradient(), image_format, icc_profile=broken)
    assert read_image(data).tobytes() == gradient().tobytes()


def test_a_profile_too_long_for_pillow_is_ignored():
    data = encoded(gradient(), "PNG", icc_profile=display_p3() + bytes(3_000_000))
    assert read_image(data).tobytes() == gradient().tobytes()
