"""From an image to the network's input, as every CaiT was evaluated; and which part of it the network saw.

The rule is torchvision's Resize and CenterCrop, which timm evaluates with at crop 1.0 and bicubic
interpolation; only it gives the published accuracies.
"""

from math import floor, sqrt
from typing import Literal, NamedTuple, get_args

import numpy as np
from PIL import Image

from cait_viz._checks import check_choice
from cait_viz._sizes import ImageSize, image_shape
from cait_viz.images.read import ImageSource, read_image

View = Literal["crop", "squash"]
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


def seen_box(size: tuple[int, int], image_size: ImageSize, view: View) -> Box:
    """The part of an image that the network sees.

    Args:
        size: width and height of the image, in pixels.
        image_size: of the network's input, in pixels: the side of a square, or height and width.
        view: as `resize_and_crop` takes it, errors included.
    """
    width, height = size
    if check_choice("view", view, VIEWS) == "squash":
        return Box(0.0, 0.0, float(width), float(height))
    resized = resized_size(size, image_size)
    left, top = _crop_start(resized, image_size)
    rows, columns = image_shape(image_size)
    # Multiplied before divided: the edge of the resized image falls exactly on the image's.
    return Box(
        left * width / resized[0],
        top * height / resized[1],
        (left + columns) * width / resized[0],
        (top + rows) * height / resized[1],
    )


def resize_and_crop(image: Image.Image, image_size: ImageSize, view: View = "crop") -> Image.Image:
    """What the network sees, as an image of mode "RGB" and of the size of the network's input.

    Args:
        image: mode "RGB", of any size.
        image_size: of the network's input, in pixels: the side of a square, or height and width.
        view: "crop" makes the image as small as still covers the input and cuts out the center;
            "squash" squashes all of it to the input's shape.

    Raises:
        SelectionError: there is no such view.
    """
    height, width = image_shape(image_size)
    if check_choice("view", view, VIEWS) == "squash":
        return image.resize((width, height), Image.Resampling.BICUBIC)
    size = resized_size(image.size, image_size)
    left, top = _crop_start(size, image_size)
    resized = image.resize(size, Image.Resampling.BICUBIC)
    return resized.crop((left, top, left + width, top + height))


def normalize(pixels: np.ndarray) -> np.ndarray:
    """RGB pixels, (..., width, 3) uint8, with ImageNet's mean and deviation taken out, in float32."""
    # Whole rows of pixels at a time: NumPy is many times slower where it has to begin anew at every pixel.
    width = pixels.shape[-2]
    rows = pixels.reshape(-1, 3 * width).astype(np.float32)
    rows /= _WHITE
    rows -= np.tile(_MEAN, width)
    rows /= np.tile(_DEVIATION, width)
    return rows.reshape(pixels.shape)


def prepare(source: ImageSource, image_size: ImageSize, view: View = "crop") -> np.ndarray:
    """The network's input made from an image, float32 of shape (1, height, width, 3), normalized.

    The source is as `read_image` takes it, the rest as `resize_and_crop` does, errors included.
    """
    return normalize(np.asarray(resize_and_crop(read_image(source), image_size, view)))[np.newaxis]


def resized_size(size: tuple[int, int], image_size: ImageSize) -> tuple[int, int]:
    """Width and height of the image made as small as still covers the network's input.

    One of them is the input's; the other is cut off to whole pixels, as torchvision does.
    """
    (width, height), (rows, columns) = size, image_shape(image_size)
    if width * rows <= height * columns:
        return columns, int(columns * height / width)
    return int(rows * width / height), rows


def fitted_size(size: tuple[int, int], image_size: int, patch_size: int) -> ImageSize:
    """An input of the shape of an image, of about as many patches as a square one.

    Args:
        size: width and height of the image.
        image_size: side of the square input, in pixels.
        patch_size: side of a patch, in pixels, of which both sides are multiples.

    Returns:
        Height and width in pixels. The whole image is squashed by no more than half a patch a side to fit.
    """
    width, height = size
    side = image_size // patch_size
    rows, columns = (
        min(max(1, round(side * sqrt(ratio))), side**2) for ratio in (height / width, width / height)
    )
    return (rows * patch_size, columns * patch_size) if rows != columns else rows * patch_size


def _crop_start(size: tuple[int, int], image_size: ImageSize) -> tuple[int, int]:
    """First pixels of the center crop: a half goes to the even neighbor, as in torchvision."""
    (width, height), (rows, columns) = size, image_shape(image_size)
    return round((width - columns) / 2), round((height - rows) / 2)
