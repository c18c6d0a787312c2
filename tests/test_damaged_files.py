"""Files that were cut or changed are refused, or read with a remark on what they lack."""

import contextlib
import io
import re
import warnings

import numpy as np
import pytest
from hostile_files import PNG_SIGNATURE, encoded, half, photograph
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from cait_viz.errors import ImageError
from cait_viz.images.read import load_image, read_image

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


@settings(max_examples=300)
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


@pytest.mark.parametrize("quality", [60, 75, 90, 95])
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("share", [0.93, 0.95, 0.97])
def test_a_progressive_jpeg_cut_in_its_last_refinement_is_read_and_says_so(quality, mode, share):
    data = encoded("JPEG", photograph(320, 240).convert(mode), quality=quality, progressive=True)
    loaded, whole = load_image(data[: int(share * len(data))]), read_image(data)
    rows = re.fullmatch(
        r"the image ends too early; the last (\d+) of its 240 rows lack their finest detail\.", loaded.remark
    )
    apart = np.asarray(loaded.image, int) - np.asarray(whole, int)
    assert not apart[: 240 - int(rows[1])].any()
    assert np.sqrt((apart**2).mean()) < 5


# Where the last rows of the file are in the image as it is shown, by EXIF orientation.
SIDES = {
    1: "last 300 rows",
    2: "last 300 rows",
    3: "first 300 rows",
    4: "first 300 rows",
    5: "last 300 columns",
    6: "first 300 columns",
    7: "first 300 columns",
    8: "last 300 columns",
}


@pytest.mark.parametrize("orientation", SIDES)
def test_the_lost_rows_of_a_turned_jpeg_are_told_as_the_image_is_shown(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded("JPEG", photograph(400, 300), exif=exif.tobytes())
    loaded, whole = load_image(data[: int(0.95 * len(data))]), np.asarray(read_image(data))
    which, length, unit = SIDES[orientation].split()
    count = re.search(rf"the {which} (\d+) of its {length} {unit} are damaged", loaded.remark)
    wrong = (np.asarray(loaded.image) != whole).any(axis=(1 if unit == "rows" else 0, 2)).nonzero()[0]
    lost = (0, int(count[1])) if which == "first" else (300 - int(count[1]), 300)
    assert lost[0] <= wrong.min() <= wrong.max() < lost[1]


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_is_refused_when_more_than_a_tenth_of_it_is_lost(progressive):
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


@settings(max_examples=600)
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


@settings(max_examples=300)
@given(
    start=st.sampled_from(
        [PNG_SIGNATURE, b"\xff\xd8\xff", b"GIF89a", b"BM", b"II*\0", b"MM\0+", b"RIFF", b""]
    ),
    rest=st.binary(max_size=300),
)
def test_any_bytes_behind_a_signature_are_read_or_refused(start, rest):
    read_or_refused(start + rest)
