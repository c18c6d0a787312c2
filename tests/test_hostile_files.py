"""Files that nobody should send, and what is said of them.

Every file is made here. One that is read at all comes out as an image; every other is refused with one
sentence that names it, with no warning and no memory to speak of.
"""

import contextlib
import io
import os
import random
import re
import stat
import struct
import subprocess
import sys
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from cait_viz.errors import CaitVizError, ImageError
from cait_viz.images import read as images
from cait_viz.images.read import load_image, read_image

ROOT = Path(__file__).resolve().parent.parent
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


# --- files made by hand ------------------------------------------------------------------------------


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


def sentence_about(data: bytes, tmp_path: Path) -> str:
    path = tmp_path / "holiday photo.png"
    path.write_bytes(data)
    with pytest.raises(ImageError) as caught:
        read_image(path)
    assert isinstance(caught.value, CaitVizError)
    return str(caught.value)


@pytest.mark.parametrize("make", REFUSED.values(), ids=REFUSED)
def test_a_hostile_file_is_refused_in_one_sentence_that_names_it(
    make: Callable[[], bytes], tmp_path, capfd, recwarn, request
):
    sentence = sentence_about(make(), tmp_path)
    # The thing, what is wrong with it, and the way out.
    assert re.fullmatch(r"holiday photo\.png: [^;\n]+; [^;\n]+[^.\n]", sentence)
    assert "Error" not in sentence
    out, err = capfd.readouterr()
    assert out == ""
    # libtiff writes there by itself; only a program may silence its own standard error, a library may not.
    assert err == "" or "tiff" in request.node.callspec.id
    assert not recwarn.list


@pytest.mark.parametrize("make", REFUSED.values(), ids=REFUSED)
def test_the_same_bytes_without_a_name_are_refused_as_the_image(make):
    with pytest.raises(ImageError, match=r"^the image: "):
        read_image(make())


@pytest.mark.parametrize("make", READ.values(), ids=READ)
def test_a_strange_file_that_holds_an_image_is_read(make, capfd, recwarn):
    assert read_image(make()).mode == "RGB"
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "empty"),
        (zipped(), "ZIP archive"),
        (b"%PDF-1.7", "PDF"),
        (b"<html><svg/></html>", "web page"),
        (b"<svg/>", "SVG"),
        (b"words", "not an image"),
        (half(encoded("JPEG")), "cut short"),
        (png(60_000, 60_000), "3600 million pixels are more than 60 million"),
        (png(8_000, 8_000), "8000 × 8000 pixels are more than 60 million"),
        (png(1, 50_000), "1 × 50000 pixels"),
    ],
    ids=["empty", "zip", "pdf", "html", "svg", "text", "half", "bomb", "large", "strip"],
)
def test_the_sentence_says_what_is_wrong(data, said, tmp_path):
    assert said in sentence_about(data, tmp_path)


def test_no_bomb_costs_memory(tmp_path):
    files = []
    for number, make in enumerate([*BOMBS.values(), *READ.values()]):
        path = tmp_path / f"{number}.bin"
        path.write_bytes(make())
        files.append(str(path))
    program = """
import resource, sys
from PIL import Image
from cait_viz.errors import ImageError
from cait_viz.images.read import read_image
refused = 0
Image.init()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[1:]:
    try:
        read_image(path)
    except ImageError:
        refused += 1
print(refused, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    pytest.importorskip("resource")
    # The limit on time is there for a decoder that never comes back.
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", program, *files],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
        timeout=120,
    )
    refused, grown = map(int, done.stdout.split())
    assert refused == len(BOMBS)
    assert grown * (1 if sys.platform == "darwin" else 1024) < 64_000_000


# --- damage in every place ---------------------------------------------------------------------------

WHOLE = {
    "JPEG": encoded("JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"),
    "progressive JPEG": encoded("JPEG", progressive=True),
    "CMYK JPEG": encoded("JPEG", photograph().convert("CMYK")),
    "PNG": encoded("PNG"),
    "palette PNG": encoded("PNG", photograph().quantize(16)),
    "GIF": encoded("GIF", photograph().quantize(16), save_all=True, append_images=[photograph().quantize(8)]),
    "WebP": encoded("WEBP"),
    "lossless WebP": encoded("WEBP", lossless=True),
    "BMP": encoded("BMP"),
    "TIFF": encoded("TIFF"),
    "TIFF, LZW": encoded("TIFF", compression="tiff_lzw"),
    "TIFF, deflate": encoded("TIFF", compression="tiff_adobe_deflate"),
    "TIFF, JPEG": encoded("TIFF", compression="jpeg"),
    "TIFF, fax": encoded("TIFF", photograph().convert("1"), compression="group4"),
}


def read_or_refused(data: bytes) -> Image.Image | None:
    """The image, or None for a refusal in one sentence; anything else is an error of the test."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            image = read_image(data)
        except ImageError as error:
            sentence = str(error)
        else:
            assert image.mode == "RGB"
            return image
    assert re.fullmatch(r"the image: [^\n]+; [^\n]+", sentence)
    return None


@settings(max_examples=300, deadline=None)
@given(kind=st.sampled_from(sorted(WHOLE)), share=st.floats(0, 1))
@example(kind="JPEG", share=0.999)
@example(kind="PNG", share=0.99)
def test_a_file_cut_anywhere_is_refused_or_complete_or_a_jpeg_that_says_so(kind, share):
    data = WHOLE[kind]
    with contextlib.suppress(ImageError):
        loaded = load_image(data[: int(share * len(data))])
        whole = read_image(data)
        assert loaded.image.size == whole.size
        assert loaded.image.tobytes() == whole.tobytes() or (loaded.remark and "JPEG" in kind)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}, {"mode": "CMYK"}])
@pytest.mark.parametrize("missing", [1, 2, 3, 10, 100])
def test_a_jpeg_without_its_last_bytes_is_read_and_says_what_is_lost(options, missing):
    options = dict(options)
    image = photograph(640, 480).convert(options.pop("mode", "RGB"))
    data = encoded("JPEG", image, **options)
    loaded, whole = load_image(data[:-missing]), np.asarray(read_image(data))
    assert loaded.remark.startswith("the image ends too early; ")
    same = (np.asarray(loaded.image) == whole).reshape(480, -1).all(axis=1)
    named = re.search(r"the last (\d+) of its 480 rows", loaded.remark)
    lost = int(named[1]) if named else 0
    assert same[: 480 - lost].all()
    assert lost <= 48
    assert named or missing <= 10


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_is_refused_when_more_than_a_tenth_of_its_rows_is_lost(progressive):
    data = encoded("JPEG", photograph(320, 800), progressive=progressive)
    for share in (0.5, 0.7, 0.85):
        with pytest.raises(ImageError, match="cut short"):
            load_image(data[: int(share * len(data))])
    assert "rows" in load_image(data[: int(0.99 * len(data))]).remark


def test_a_jpeg_whose_last_part_was_never_written_is_not_taken_for_whole():
    data = encoded("JPEG", photograph(320, 800))
    start = int(len(data) * 0.96)
    assert "rows" in load_image(data[:start] + bytes(len(data) - start)).remark
    with pytest.raises(ImageError):
        load_image(half(data) + bytes(len(data) // 2))


def test_reading_a_cut_file_leaves_pillow_strict():
    load_image(encoded("JPEG")[:-2])
    with pytest.raises(OSError, match="truncated"):
        Image.open(io.BytesIO(encoded("JPEG")[:-2])).load()


@settings(max_examples=600, deadline=None)
@given(
    kind=st.sampled_from(sorted(WHOLE)),
    changes=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=9
    ),
    in_header=st.booleans(),
)
def test_a_file_with_changed_bytes_is_read_or_refused(kind, changes, in_header):
    data = bytearray(WHOLE[kind])
    reach = min(len(data), 300) if in_header else len(data)
    for where, value in changes:
        data[int(where * reach)] = value
    read_or_refused(bytes(data))


@settings(max_examples=300, deadline=None)
@given(
    start=st.sampled_from(
        [PNG_SIGNATURE, b"\xff\xd8\xff", b"GIF89a", b"BM", b"II*\0", b"MM\0+", b"RIFF", b""]
    ),
    rest=st.binary(max_size=300),
)
def test_any_bytes_behind_a_signature_are_read_or_refused(start, rest):
    read_or_refused(start + rest)


# --- paths that are no files --------------------------------------------------------------------------


def refusal(path) -> str:
    with pytest.raises(ImageError) as caught:
        load_image(path)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.count(": ") >= 1
    return sentence


def test_a_folder_is_refused(tmp_path):
    folder = tmp_path / "images.png"
    folder.mkdir()
    assert refusal(folder) == "images.png: this is a folder; give an image inside it"
    for path in ("/", "."):
        assert refusal(path).startswith(f"{path}: this is a folder")


def test_a_missing_file_is_refused_by_name(tmp_path):
    assert refusal(tmp_path / "gone.jpg").startswith("gone.jpg: there is no such file")
    assert refusal(tmp_path / "no folder" / "gone.jpg").startswith("gone.jpg: there is no such file")
    assert refusal("").startswith("the image: ")


@pytest.mark.parametrize("name", ["a\0b.png", "x" * 5000 + ".png", "\n"])
def test_a_name_that_no_file_can_have_is_refused(name):
    refusal(name)


def test_a_file_where_a_folder_should_be_is_refused(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(encoded("JPEG"))
    assert refusal(tmp_path / "photo.jpg" / "photo.jpg").startswith("photo.jpg: ")


def test_a_file_that_may_not_be_read_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "private.png"
    path.write_bytes(encoded("PNG"))
    path.chmod(0)
    if os.access(path, os.R_OK):  # as root, or on a file system without permissions

        def denied(*_args, **_kwargs):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "open", denied)
    assert refusal(path).startswith("private.png: the file may not be read")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_that_nobody_writes_to_is_refused_at_once(tmp_path):
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert "device or a pipe" in refusal(pipe)
    if Path("/dev/zero").exists():
        assert "device or a pipe" in refusal("/dev/zero")


def test_links_that_lead_nowhere_are_refused(tmp_path):
    (tmp_path / "nowhere.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "circle.png").symlink_to(tmp_path / "circle.png")
    assert refusal(tmp_path / "nowhere.png").startswith("nowhere.png: ")
    assert refusal(tmp_path / "circle.png").startswith("circle.png: ")


def test_a_file_above_the_limit_is_refused_unread(tmp_path, monkeypatch):
    path = tmp_path / "huge.tif"
    with path.open("wb") as file:
        file.write(b"II*\0")
        file.truncate(5_000_000_000)
    monkeypatch.setattr(Path, "open", None)
    assert refusal(path) == "huge.tif: the file has 5000 MB, more than 200; save a smaller copy"


def test_a_refusal_shows_nothing_of_the_error_beneath_it(tmp_path):
    for data in (half(encoded("PNG")), png(0, 9)):
        with pytest.raises(ImageError) as caught:
            read_image(data)
        assert caught.value.__suppress_context__ or caught.value.__context__ is None
    with pytest.raises(ImageError) as caught:
        read_image(tmp_path / "gone.png")
    assert caught.value.__suppress_context__
