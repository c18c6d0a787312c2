"""Views of images for training: crops, flips, colors, and two images mixed. NumPy and Pillow only.

A view follows from the seed, the image's number and the view's number alone, so that a teacher sees the very
view that its student sees, at a resolution of its own; so that its outputs can be kept; and so that a
training that is resumed gets the views it would have had. Keras' random layers allow none of the three.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageStat

from cait_viz.training.cache import DecodedImages
from cait_viz.training.config import Augmentation

Floats = NDArray[np.float32]

# Ratio of width to height of a random crop (Szegedy et al. 2015, arXiv:1409.4842, section 6).
_RATIOS = (3 / 4, 4 / 3)
# How often a crop is drawn that may exceed the image before the largest that fits is taken.
_TRIES = 10
# Mixed with a larger share of the first image than this, the second could not be seen and is left out.
_LARGEST_SHARE = 63 / 64
# ITU-R BT.601, as Pillow converts to gray.
_LUMA = (0.299, 0.587, 0.114)


class Crop(NamedTuple):
    """One image's part in a view."""

    image: int  # its number
    box: tuple[float, float, float, float]  # left, top, right and bottom, in the image's pixels
    mirrored: bool  # left and right are exchanged
    brightness: float  # factor of the colors
    contrast: float  # factor of their distance from the image's mean gray
    saturation: float  # factor of their distance from the pixel's gray


class AugmentedView(NamedTuple):
    """One crop, or two mixed, `share` being the first one's, at least a half."""

    first: Crop
    second: Crop | None = None
    share: float = 1.0


def draw_view(
    augmentation: Augmentation, sizes: NDArray[np.int64], seed: int, image: int, number: int
) -> AugmentedView:
    """The view of that number of the image of that number; the same arguments give the same view.

    The sizes, (P, 2), are height and width of all images, any of which may be mixed in.
    """
    generator = np.random.default_rng((seed, image, number))
    first = _draw_crop(augmentation, sizes, image, generator)
    if not augmentation.mixup:
        return AugmentedView(first)
    share = float(generator.beta(augmentation.mixup, augmentation.mixup))
    share = max(share, 1 - share)  # or every other view would be another image's
    if share > _LARGEST_SHARE:
        return AugmentedView(first)
    second = _draw_crop(augmentation, sizes, int(generator.integers(len(sizes))), generator)
    return AugmentedView(first, second, share)


def _draw_crop(
    augmentation: Augmentation, sizes: NDArray[np.int64], image: int, generator: np.random.Generator
) -> Crop:
    height, width = sizes[image].tolist()
    box = _draw_box(augmentation.crop_scale, height, width, generator)
    mirrored = bool(generator.random() < augmentation.flip)
    factors = 1 + augmentation.color_jitter * generator.uniform(-1, 1, 3)
    return Crop(image, box, mirrored, *factors.tolist())


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
            break
    else:
        crop_width, crop_height = min(width, height * _RATIOS[1]), min(height, width / _RATIOS[0])
        left, top = (width - crop_width) / 2, (height - crop_height) / 2
    return left, top, left + crop_width, top + crop_height


def render(view: AugmentedView, images: DecodedImages, size: int) -> Image.Image:
    """The view as a network sees it: mode "RGB", `size` × `size` pixels."""
    first = _render_crop(view.first, images, size)
    if view.second is None:
        return first
    return Image.blend(first, _render_crop(view.second, images, size), 1 - view.share)


def _render_crop(crop: Crop, images: DecodedImages, size: int) -> Image.Image:
    image = images[crop.image].resize((size, size), Image.Resampling.BICUBIC, box=crop.box)
    if crop.mirrored:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if crop.brightness == crop.contrast == crop.saturation == 1:
        return image
    # Each of the three is linear in the colors, so that all of them are one matrix and one offset.
    mean_gray = crop.brightness * ImageStat.Stat(image.convert("L")).mean[0]
    matrix = crop.saturation * np.eye(3) + (1 - crop.saturation) * np.array(_LUMA)
    rows = np.column_stack([crop.brightness * crop.contrast * matrix, 3 * [(1 - crop.contrast) * mean_gray]])
    return image.convert("RGB", tuple(rows.ravel().tolist()))


def mixed_labels(view: AugmentedView, labels: NDArray[np.int64], classes: int) -> Floats:
    """The labels of a view's images, mixed: (classes,), in sum below one where one is unknown (negative)."""
    target = np.zeros(classes, np.float32)
    for crop, share in ((view.first, view.share), (view.second, 1 - view.share)):
        if crop is not None and labels[crop.image] >= 0:
            target[labels[crop.image]] += np.float32(share)
    return target
