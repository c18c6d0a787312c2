"""From an image to the network's input, as every CaiT was evaluated; and which part of it the network saw.

The rule is torchvision's Resize and CenterCrop, which timm evaluates with at crop 1.0 and bicubic
interpolation; only it gives the published accuracies.
"""

from math import floor
from typing import Literal, NamedTuple, get_args

import numpy as np
from PIL import Image

from cait_viz.errors import SelectionError
from cait_viz.images.read import ImageSource, read_image

View = Literal["crop", "whole"]
VIEWS: tuple[View, ...] = get_args(View)

# Per-channel mean and standard deviation, RGB in [0, 1], with which every CaiT was trained
# and evaluated (timm: IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD).
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_WHITE = np.float32(255)
_MEAN = np.array(IMAGENET_MEAN, np.float32)
_DEVIATION = np.array(IMAGENET_STD, np.float32)


class Box(NamedTuple):
    """A rectangle in an image, in its pixels: x runs to the right, y down, (0, 0) is the image's corner.

    The edges are exact and so need not be whole: one network pixel is rarely a whole number of the image's.
    """

    left: float
    top: float
    right: float
    bottom: float

    def pixels(self) -> tuple[int, int, int, int]:
        """The rectangle's edges as whole pixels, (left, top, right, bottom), right and bottom exclusive.

        Never empty, and within the image if the box is.
        """
        left, right = _whole_edges(self.left, self.right)
        top, bottom = _whole_edges(self.top, self.bottom)
        return left, top, right, bottom


def seen_box(size: tuple[int, int], image_size: int, view: View) -> Box:
    """The part of an image that the network sees.

    Args:
        size: width and height of the image, in pixels.
        image_size: side of the network's input, in pixels.
        view: "crop" for the center crop of the evaluation, "whole" for the whole image.

    Raises:
        SelectionError: there is no such view.
    """
    width, height = size
    if _checked(view) == "whole":
        return Box(0.0, 0.0, float(width), float(height))
    resized_width, resized_height = resized_size(size, image_size)
    left, right = _seen_edges(width, resized_width, image_size)
    top, bottom = _seen_edges(height, resized_height, image_size)
    return Box(left, top, right, bottom)


def resize_and_crop(image: Image.Image, image_size: int, view: View = "crop") -> Image.Image:
    """What the network sees, as an image.

    Args:
        image: mode "RGB", of any size.
        image_size: side of the network's input, in pixels.
        view: "crop" resizes the shorter side to `image_size` and cuts out the center; "whole"
            squashes the whole image to a square.

    Returns:
        An image of mode "RGB", `image_size` × `image_size` pixels.

    Raises:
        SelectionError: there is no such view.
    """
    if _checked(view) == "whole":
        return image.resize((image_size, image_size), Image.Resampling.BICUBIC)
    width, height = resized_size(image.size, image_size)
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = _crop_start(width, image_size), _crop_start(height, image_size)
    return resized.crop((left, top, left + image_size, top + image_size))


def normalize(pixels: np.ndarray) -> np.ndarray:
    """Pixels with ImageNet's mean and deviation taken out.

    Args:
        pixels: uint8 of shape (..., width, 3), RGB.

    Returns:
        float32 of the same shape.
    """
    # Whole rows of pixels at a time: NumPy is many times slower where it has to begin anew at every pixel.
    width = pixels.shape[-2]
    rows = pixels.reshape(-1, 3 * width).astype(np.float32)
    rows /= _WHITE
    rows -= np.tile(_MEAN, width)
    rows /= np.tile(_DEVIATION, width)
    return rows.reshape(pixels.shape)


def prepare(source: ImageSource, image_size: int, view: View = "crop") -> np.ndarray:
    """The network's input made from an image.

    Args:
        source: as `images.read.load_image` takes it; an image that was loaded already is not read again.
        image_size: side of the network's input, in pixels.
        view: "crop" or "whole"; see `resize_and_crop`.

    Returns:
        float32 of shape (1, image_size, image_size, 3), normalised.

    Raises:
        ImageError: the image cannot be read.
        SelectionError: there is no such view.
    """
    seen = resize_and_crop(read_image(source), image_size, _checked(view))
    return normalize(np.asarray(seen))[np.newaxis]


def _checked(view: View) -> View:
    if view not in VIEWS:
        raise SelectionError(f"there is no view {view!r}; choose {' or '.join(VIEWS)}")
    return view


def resized_size(size: tuple[int, int], image_size: int) -> tuple[int, int]:
    """Size whose shorter side is `image_size`; the longer is cut off to whole pixels, as torchvision does."""
    width, height = size
    if width <= height:
        return image_size, int(image_size * height / width)
    return int(image_size * width / height), image_size


def _crop_start(length: int, image_size: int) -> int:
    """First pixel of the center crop: a half goes to the even neighbour, as in torchvision."""
    return round((length - image_size) / 2)


def _seen_edges(length: int, resized: int, image_size: int) -> tuple[float, float]:
    """The center crop's edges along one side, in pixels before resizing."""
    start = _crop_start(resized, image_size)
    # Multiplied before divided: the edge of the resized image falls exactly on the image's.
    return start * length / resized, (start + image_size) * length / resized


def _whole_edges(low: float, high: float) -> tuple[int, int]:
    first, last = floor(low + 0.5), floor(high + 0.5)
    return (first, last) if first < last else (floor(low), floor(low) + 1)
