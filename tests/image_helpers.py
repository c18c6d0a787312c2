"""Images for tests to look at, and the comparison of two drawings."""

import io
import os
from pathlib import Path

import numpy as np
from PIL import Image

from cait_viz.batch.index import Index
from cait_viz.batch.listing import list_images


def blobs(seed):
    """A PNG of colored blobs."""
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize((90, 75), Image.Resampling.BICUBIC).save(file, "PNG")
    return file.getvalue()


def many_images(folder, count):
    """Write images of as many shapes into the folders even and odd, one more by a name that is no text.

    And a file that is none, and a hidden one.
    """
    for number in range(count):
        path = folder / ("even" if number % 2 == 0 else "odd") / f"{number:03}.png"
        path.parent.mkdir(exist_ok=True)
        with Image.open(io.BytesIO(blobs(number))) as image:
            image.resize((40 + number, 60)).save(path)
    (folder / "even" / "044 notes.jpg").write_text("no image")
    (folder / "odd" / ".hidden").write_text("hidden")
    (folder / "odd" / os.fsdecode(b"100 \xff.png")).write_bytes(blobs(0))


def pixels_of(source):
    """The pixels of an image's path or bytes."""
    return np.asarray(Image.open(io.BytesIO(source) if isinstance(source, bytes) else source))


def assert_same_drawing(source, expected):
    """Two networks with the same weights may add up in another order."""
    difference = pixels_of(source).astype(int) - pixels_of(expected)
    assert abs(difference).max() <= 1


def all_images(sources):
    """Every image that the sources mean, once."""
    return list(Index(list_images(sources, Path("no such folder"))).missing())
