"""Files that nobody should send, and what is said of them.

Every file is made here. One that is read at all comes out as an image; every other is refused with one
sentence that names it, with no warning and no memory to speak of.
"""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hostile_files import BOMBS, READ, REFUSED, encoded, half, png, zipped

from cait_viz.errors import CaitVizError, ImageError
from cait_viz.images.read import read_image

ROOT = Path(__file__).resolve().parent.parent


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
