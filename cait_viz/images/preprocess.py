"""From an image to the network's input, as every CaiT was evaluated; and which part of it the network saw.

The rule is torchvision's Resize and CenterCrop, which timm evaluates with at crop 1.0 and bicubic
interpolation; only it gives the published accuracies.
"""

from math import floor
from typing import Literal, NamedTuple, get_args

import numpy as np
from PIL import Image

from cait_viz._checks import check_choice
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
        """The edges as whole pixels, right and bottom exclusive; never empty, and within the image."""
        left, top, right, bottom = (floor(edge + 0.5) for edge in self)
        if left == right:
            left, right = floor(self.left), floor(self.left) + 1
        if top == bottom:
            top, bottom = floor(self.top), floor(self.top) + 1
        return left, top, right, bottom


def seen_box(size: tuple[int, int], image_size: int, view: View) -> Box:
    """The part of an image that the network sees.

    Args:
        size: width and height of the image, in pixels.
        image_size: side of the network's input, in pixels.
        view: as `resize_and_crop` takes it, errors included.
    """
    width, height = size
    if check_choice("view", view, VIEWS) == "whole":
        return Box(0.0, 0.0, float(width), float(height))
    resized = resized_size(size, image_size)
    left, top = _crop_start(resized, image_size)
    # Multiplied before divided: the edge of the resized image falls exactly on the image's.
    return Box(
        left * width / resized[0],
        top * height / resized[1],
        (left + image_size) * width / resized[0],
        (top + image_size) * height / resized[1],
    )


def resize_and_crop(image: Image.Image, image_size: int, view: View = "crop") -> Image.Image:
    """What the network sees, as an image of mode "RGB", `image_size` × `image_size` pixels.

    Args:
        image: mode "RGB", of any size.
        image_size: side of the network's input, in pixels.
        view: "crop" resizes the shorter side to `image_size` and cuts out the center; "whole"
            squashes the whole image to a square.

    Raises:
        SelectionError: there is no such view.
    """
    if check_choice("view", view, VIEWS) == "whole":
        return image.resize((image_size, image_size), Image.Resampling.BICUBIC)
    size = resized_size(image.size, image_size)
    left, top = _crop_start(size, image_size)
    resized = image.resize(size, Image.Resampling.BICUBIC)
    return resized.crop((left, top, left + image_size, top + image_size))


def normalize(pixels: np.ndarray) -> np.ndarray:
    """RGB pixels, (..., width, 3) uint8, with ImageNet's mean and deviation taken out, in float32."""
    # Whole rows of pixels at a time: NumPy is many times slower where it has to begin anew at every pixel.
    width = pixels.shape[-2]
    rows = pixels.reshape(-1, 3 * width).astype(np.float32)
    rows /= _WHITE
    rows -= np.tile(_MEAN, width)
    rows /= np.tile(_DEVIATION, width)
    return rows.reshape(pixels.shape)


def prepare(source: ImageSource, image_size: int, view: View = "crop") -> np.ndarray:
    """The network's input made from an image, float32 of shape (1, image_size, image_size, 3), normalized.

    The source is as `read_image` takes it, the rest as `resize_and_crop` does, errors included.
    """
    return normalize(np.asarray(resize_and_crop(read_image(source), image_size, view)))[np.newaxis]


def resized_size(size: tuple[int, int], image_size: int) -> tuple[int, int]:
    """Size whose shorter side is `image_size`; the longer is cut off to whole pixels, as torchvision does."""
    width, height = size
    if width <= height:
        return image_size, int(image_size * height / width)
    return int(image_size * width / height), image_size


def _crop_start(size: tuple[int, int], image_size: int) -> tuple[int, int]:
    """First pixels of the center crop: a half goes to the even neighbor, as in torchvision."""
    width, height = size
    return round((width - image_size) / 2), round((height - image_size) / 2)
