"""What a network in training is shown of a picture: crops, flips, colours, and two pictures mixed.

A *view* is drawn from the seed, the picture's number and the view's number alone, so that a teacher sees the
very view that its student sees, at a resolution of its own; what it said of it can be kept; and a training
that is taken up again goes on with the views it would have had. Keras' random layers draw from a state that
runs through the training and differs between backends, which allows none of the three.

NumPy and Pillow only.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageStat

from cait_viz.training.config import Augmentation
from cait_viz.training.datasets import Pixels

Floats = NDArray[np.float32]

# Ratio of width to height of a random crop (Szegedy et al. 2015, arXiv:1409.4842, section 6).
_RATIOS = (3 / 4, 4 / 3)
# How often a crop is drawn that may reach over the picture's edge before the largest that fits is taken.
_TRIES = 10
# A second picture with a smaller share than the rest cannot be seen, and is not drawn.
_ALL = 63 / 64
# ITU-R BT.601, as Pillow makes grey of colour.
_GREY = (0.299, 0.587, 0.114)


class Crop(NamedTuple):
    """One picture's part in a view.

    Attributes:
        image: its number.
        box: left, top, right and bottom, in the picture's pixels.
        mirrored: whether left and right are exchanged.
        brightness: factor of the colours.
        contrast: factor of their distance from the picture's mean grey.
        saturation: factor of their distance from the pixel's grey.
    """

    image: int
    box: tuple[float, float, float, float]
    mirrored: bool
    brightness: float
    contrast: float
    saturation: float


class View(NamedTuple):
    """What is shown: one crop, or two mixed, `weight` being the first one's share, at least a half."""

    first: Crop
    second: Crop | None
    weight: float


def draw_view(how: Augmentation, sizes: NDArray[np.int64], seed: int, picture: int, number: int) -> View:
    """View `number` of a picture; the same arguments give the same view.

    Args:
        how: how much views differ.
        sizes: (P, 2), height and width of all the pictures, any of which may be mixed in.
        seed: the training's.
        picture: the picture's number, below P.
        number: which of its views, from 0.
    """
    generator = np.random.default_rng((seed, picture, number))
    first = _draw_crop(how, sizes, picture, generator)
    if not how.mixup:
        return View(first, None, 1.0)
    share = float(generator.beta(how.mixup, how.mixup))
    weight = max(share, 1 - share)  # or every other view would be another picture's
    if weight > _ALL:
        return View(first, None, 1.0)
    second = _draw_crop(how, sizes, int(generator.integers(len(sizes))), generator)
    return View(first, second, weight)


def _draw_crop(
    how: Augmentation, sizes: NDArray[np.int64], picture: int, generator: np.random.Generator
) -> Crop:
    height, width = (int(side) for side in sizes[picture])
    box = _draw_box(how.crop_scale, height, width, generator)
    mirrored = bool(generator.random() < how.flip)
    factors = 1 + how.color_jitter * generator.uniform(-1, 1, 3)
    return Crop(picture, box, mirrored, *factors.tolist())


def _draw_box(
    smallest: float, height: int, width: int, generator: np.random.Generator
) -> tuple[float, float, float, float]:
    for _ in range(_TRIES):
        area = height * width * generator.uniform(smallest, 1)
        ratio = math.exp(generator.uniform(math.log(_RATIOS[0]), math.log(_RATIOS[1])))
        crop_width, crop_height = math.sqrt(area * ratio), math.sqrt(area / ratio)
        if crop_width <= width and crop_height <= height:
            left = generator.uniform(0, width - crop_width)
            top = generator.uniform(0, height - crop_height)
            return left, top, left + crop_width, top + crop_height
    crop_width, crop_height = min(width, height * _RATIOS[1]), min(height, width / _RATIOS[0])
    left, top = (width - crop_width) / 2, (height - crop_height) / 2
    return left, top, left + crop_width, top + crop_height


def render(view: View, pixels: Pixels, size: int) -> Image.Image:
    """The view as a network sees it: mode "RGB", `size` × `size` pixels."""
    shown = _render_crop(view.first, pixels, size)
    if view.second is None:
        return shown
    return Image.blend(shown, _render_crop(view.second, pixels, size), 1 - view.weight)


def _render_crop(crop: Crop, pixels: Pixels, size: int) -> Image.Image:
    picture = pixels[crop.image].resize((size, size), Image.Resampling.BICUBIC, box=crop.box)
    if crop.mirrored:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if crop.brightness == crop.contrast == crop.saturation == 1:
        return picture
    # Each of the three is linear in the colours, so that all of them are one matrix and one offset.
    mean_grey = crop.brightness * ImageStat.Stat(picture.convert("L")).mean[0]
    matrix = crop.saturation * np.eye(3) + (1 - crop.saturation) * np.array(_GREY)
    rows = np.column_stack([crop.brightness * crop.contrast * matrix, 3 * [(1 - crop.contrast) * mean_grey]])
    return picture.convert("RGB", tuple(rows.ravel().tolist()))


def mixed_labels(view: View, labels: NDArray[np.int64], classes: int) -> Floats:
    """The labels of a view's pictures, mixed as they are: (classes,) float32.

    Sums to less than one where a picture's label is unknown (negative).
    """
    target = np.zeros(classes, np.float32)
    for crop, weight in ((view.first, view.weight), (view.second, 1 - view.weight)):
        if crop is not None and labels[crop.image] >= 0:
            target[labels[crop.image]] += np.float32(weight)
    return target
