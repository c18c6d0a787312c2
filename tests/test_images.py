"""Images from files, bytes, Pillow and arrays."""

import dataclasses
import hashlib
import io
import json
import os
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from image_files import BLUE, RED, UNDO, WHITE, difference, encoded, gradient, pixel, png_chunk, tiff
from PIL import Image, TiffImagePlugin

from cait_viz._resources import SAMPLES
from cait_viz.errors import ImageError
from cait_viz.images.read import LoadedImage, load_image, load_thumbnail, read_image

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


def test_a_png_with_more_text_than_pillow_allows_is_read():
    chunk = b"Comment\0\0\0\0\0" + b"x" * 3_000_000
    data = encoded(gradient(), "PNG")
    bomb = data[:33] + png_chunk(b"iTXt", chunk) + png_chunk(b"acTL", b"\0\0") + data[33:]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_image(bomb).tobytes() == gradient().tobytes()


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
    assert (loaded.name, loaded.file_sha256) == ("photo.jpg", digest)
    assert load_image(data).name == "the image"
    assert load_image(data, "upload.jpg").name == "upload.jpg"
    assert load_image(data, "up\r\nload.jpg").name == "up load.jpg"
    assert all(load_image(source).file_sha256 == digest for source in (path, str(path), data))


def test_without_a_file_there_is_no_digest_of_one():
    assert load_image(gradient()).file_sha256 is None
    assert load_image(np.asarray(gradient())).file_sha256 is None


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
        load_image(source)


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


@settings(max_examples=50)
@given(arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3))))
def test_an_array_of_uint8_comes_back_as_it_was(array):
    assert (np.asarray(read_image(array)) == array).all()
    assert (np.asarray(read_image(array[::-1, ::-1])) == array[::-1, ::-1]).all()


def test_every_kind_of_array_that_is_an_image_is_read():
    gray = np.array([[0, 128, 255]], np.uint8)
    expected = np.repeat(gray[..., None], 3, axis=-1)
    sources = {
        "(H, W)": gray,
        "(H, W, 1)": gray[..., None],
        "(H, W, 3)": expected,
        "(H, W, 4)": np.concatenate([expected, np.full((1, 3, 1), 255, np.uint8)], axis=-1),
        "uint16": gray.astype(np.uint16) * 257,
        "big endian": (gray.astype(np.uint16) * 257).astype(">u2"),
        "float16": (gray / 255).astype(np.float16),
        "float64": gray / 255,
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


def test_a_thumbnail_is_like_the_image_and_not_smaller_than_asked_for():
    rows, columns = np.mgrid[:900, :1200]
    pixels = np.stack([rows * 255 // 900, columns * 255 // 1200, rows * 0], axis=2).astype(np.uint8)
    file = io.BytesIO()
    exif = Image.Exif()
    exif[274] = 6  # to be turned by 90 degrees
    Image.fromarray(pixels).save(file, "JPEG", quality=95, exif=exif)
    small, large = load_thumbnail(file.getvalue(), "photo.jpg", 112), read_image(file.getvalue())
    assert large.size == (900, 1200)
    assert 112 <= min(small.size) < 300
    assert small.height > small.width
    difference = np.asarray(large.resize(small.size), int) - np.asarray(small, int)
    assert np.abs(difference).mean() < 3
    with pytest.raises(ImageError, match=r"^letter\.jpg: "):
        load_thumbnail(b"Dear reader", "letter.jpg", 112)
