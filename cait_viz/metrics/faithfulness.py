"""Deletion and insertion: how much a model's answer depends on the places that a map points at.

Petsiuk, Das and Saenko, "RISE: Randomized Input Sampling for Explanation of Black-box Models" (2018,
arXiv:1806.07421). Both take the pixels of an image in the order of a map, the highest value first, and follow
the probability of the class that the model predicts on the whole image:

* *deletion* replaces them by the image's mean color. The lower the area under the curve the better: the
  probability falls early only if the answer needs the map's highest places.
* *insertion* starts from a blurred image and puts the original pixels in. The higher the area the better: the
  probability rises early only if the map's highest places suffice for the answer.

The areas depend on the model, the images, the mean color and the blur, so a number by itself says little:
read it beside that of a random map and of a map that always points at the middle, where photographs have
their object. NumPy and Pillow only.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from math import isqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cait_viz.attention import maps
from cait_viz.attention.maps import Floats
from cait_viz.attention.probabilities import probabilities
from cait_viz.images.preprocess import normalize
from cait_viz.metrics.accuracy import with_rest

Predict = Callable[[Floats], NDArray[np.floating]]
# Normalized images (B, S, S, 3) to logits (B, classes) and each block's class attention (B, heads, 1 + N).
Network = Callable[[Floats], tuple[NDArray[np.floating], Sequence[NDArray[np.floating]]]]
# By the name of each map, (images, 2): the areas of deletion and insertion.
Areas = dict[str, NDArray[np.float64]]

# As in TorchCAM's DeletionInsertionMetric, which like `Curve.area` integrates over the shares that were
# really replaced. RISE replaces 224 pixels at a time: 224 steps, eleven times the work.
STEPS = 20

# Images per forward pass: enough to keep two cores busy.
BATCH = 8

RANDOM_MAPS = 5
RANDOM, CENTER = "random map", "centered Gaussian"

# RISE's blur for inputs of 224 pixels: a Gaussian with a sigma of 5 pixels, cut off to 11 × 11. It grows with
# the input, because larger inputs show the same things larger.
_BLUR_SIGMA, _BLUR_RADIUS, _BLUR_SIDE = 5.0, 5, 224

# Sigma of the centered Gaussian, in units of the sides. Its size hardly matters: only the order of the
# values counts, and nearer to the middle is higher for every sigma.
_GAUSSIAN_SIGMA = 0.25

# Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), ask for at least 1,000; these cost nothing.
RESAMPLES = 10_000
CONFIDENCE = 0.95
_VALUES_AT_ONCE = 4_000_000


class Curve(NamedTuple):
    """The probability of the predicted class while pixels are replaced.

    Attributes:
        fractions: (steps + 1,) float64, the share of the pixels that is replaced, from 0 to 1. Fewer
            where the map has equal values: pixels of one value are replaced together.
        probabilities: (steps + 1,) float64, of the class that is predicted on the original image.
    """

    fractions: NDArray[np.float64]
    probabilities: NDArray[np.float64]

    @property
    def area(self) -> float:
        """The score: the area under the curve by the trapezoid rule, from 0 to 1."""
        return float(np.trapezoid(self.probabilities, self.fractions))


class Curves(NamedTuple):
    """Both curves of one map: the lower the area of deletion and the higher that of insertion, the better."""

    deletion: Curve
    insertion: Curve


class Interval(NamedTuple):
    """The two ends of a confidence interval."""

    low: float
    high: float


def curves(
    pixels: ArrayLike,
    saliencies: Sequence[ArrayLike],
    predict: Predict,
    steps: int = STEPS,
    batch: int = BATCH,
) -> list[Curves]:
    """Deletion and insertion of several maps of one image, in their order.

    Petsiuk et al. 2018 (RISE). Deleted pixels get the image's mean color; insertion starts from `blurred`.
    The original image, its mean color and its blurred copy are the ends of all curves and are predicted once.

    Args:
        pixels: (S, S, 3) uint8, what the network sees of an image (`preprocess.resize_and_crop`).
        saliencies: maps (S, S) on the same pixels (a patch grid through `maps.upsample`). Only the order of
            the values counts. A flat map has none: all pixels are replaced at once, and its curves are
            straight lines.
        predict: (batch, S, S, 3) float32, normalized, to probabilities (batch, classes).
        steps: in how many equal steps, as far as equal values allow, all pixels are replaced.
        batch: how many images `predict` gets per call, always the same number.

    Raises:
        ValueError: the pixels are not uint8, or a map is not finite or of another shape.
    """
    original = _checked_pixels(pixels)
    mean = np.broadcast_to(original.mean(axis=(0, 1), dtype=np.float64).astype(np.float32), original.shape)
    blur = blurred(original)
    checked = [_checked_map(saliency, original.shape[:2]) for saliency in saliencies]
    ranked = [_steps(values, steps) for values in checked]

    def images() -> Iterator[Floats]:
        yield from (original, mean, blur)
        for values, (thresholds, _) in zip(checked, ranked, strict=True):
            for threshold in thresholds:
                replaced = (values >= threshold)[..., np.newaxis]
                yield np.where(replaced, mean, original)
                yield np.where(replaced, original, blur)

    on_original, on_mean, on_blur, *between = _of_the_predicted_class(images(), predict, batch)
    found, pairs = [], np.reshape(between, (-1, 2))
    for thresholds, fractions in ranked:
        inner, pairs = np.split(pairs, [len(thresholds)])
        found.append(
            Curves(
                Curve(fractions, np.array([on_original, *inner[:, 0], on_mean])),
                Curve(fractions, np.array([on_blur, *inner[:, 1], on_original])),
            )
        )
    return found


def measure(images: Iterable[NDArray[np.uint8]], network: Network, seed: int) -> Areas:
    """The areas of the mean of the heads of each class-attention block, and of the reference maps.

    Args:
        images: what the network sees of each, (S, S, 3) uint8; at least one.
        network: it always gets `BATCH` images. It sees about 310 altered images per image.
        seed: decides the random maps, of each image by its position, whatever the other images are.

    Returns:
        The areas by `block_name`, `CENTER` and `RANDOM`, which is the mean of `RANDOM_MAPS` random maps.
    """

    def predict(altered: Floats) -> NDArray[np.floating]:
        return probabilities(with_rest(network(altered)[0]))

    measured = []
    for number, pixels in enumerate(images):
        _, attention = network(np.repeat(normalize(pixels)[np.newaxis], BATCH, axis=0))
        grid_shape = (isqrt(attention[0].shape[-1] - 1),) * 2
        generator = np.random.default_rng([seed, number])
        grids = [
            *(maps.saliency(block[0], grid_shape) for block in attention),
            gaussian_map(grid_shape),
            *(random_map(grid_shape, generator) for _ in range(RANDOM_MAPS)),
        ]
        upsampled = [maps.upsample(grid, pixels.shape[:2]) for grid in grids]
        found = curves(pixels, upsampled, predict)
        measured.append([(curve.deletion.area, curve.insertion.area) for curve in found])
    areas = np.array(measured).transpose(1, 0, 2)
    names = [*map(block_name, range(len(attention))), CENTER]
    return dict(zip(names, areas, strict=False)) | {RANDOM: areas[len(names) :].mean(axis=0)}


def block_name(block: int) -> str:
    """What the class-attention block of that index is called in reports, where blocks count from 1."""
    return f"CA block {block + 1}"


def blurred(image: ArrayLike) -> Floats:
    """The image from which insertion starts, (S, S, 3) -> (S, S, 3) float32.

    A Gaussian with a sigma of 5 pixels at an input of 224, cut off after 5 pixels to each side (RISE's 11 ×
    11), both in proportion at other sizes; the edges are mirrored.

    Args:
        image: (S, S, 3) numbers.
    """
    values = np.asarray(image, np.float32)
    scale = values.shape[0] / _BLUR_SIDE
    radius = max(1, round(_BLUR_RADIUS * scale))
    offsets = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (offsets / (_BLUR_SIGMA * scale)) ** 2)
    weights /= weights.sum()
    for axis, side in enumerate(values.shape[:2]):
        around = [(radius, radius) if axis == padded else (0, 0) for padded in range(3)]
        padded = np.moveaxis(np.pad(values.astype(np.float64), around, mode="reflect"), axis, 0)
        summed = sum(weight * padded[start : start + side] for start, weight in enumerate(weights))
        values = np.moveaxis(np.asarray(summed), 0, axis)
    return values.astype(np.float32)


def random_map(grid_shape: tuple[int, int], generator: np.random.Generator) -> Floats:
    """Uniform noise on the patches, (rows, cols) float32 in [0, 1): a map that knows nothing of the image.

    Noise on patches and not on pixels, so that it is as coarse as the maps it is compared with.
    """
    return generator.random(grid_shape, np.float32)


def gaussian_map(grid_shape: tuple[int, int]) -> Floats:
    """A centered Gaussian, (rows, cols) float32 in (0, 1]: a map that always points at the middle.

    Its sigma is a quarter of the rows and of the columns.
    """
    rows, cols = (
        np.exp(-0.5 * ((np.arange(length) - (length - 1) / 2) / (_GAUSSIAN_SIGMA * length)) ** 2)
        for length in grid_shape
    )
    return np.outer(rows, cols).astype(np.float32)


def bootstrap_interval(
    values: ArrayLike,
    generator: np.random.Generator,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Interval:
    """The percentile interval of a mean by the bootstrap (Efron and Tibshirani 1993, chapter 13).

    To compare two maps on the same images, give the difference for each image: what the images have in common
    cancels.

    Args:
        values: (n,), one number per image, at least one.
        generator: draws the resamples.
        resamples: how many.
        confidence: how often the interval is meant to contain the true mean, in (0, 1).

    Raises:
        ValueError: there are no values, or some are not finite.
    """
    sample = np.asarray(values, np.float64)
    if sample.ndim != 1 or sample.size == 0 or not np.isfinite(sample).all():
        raise ValueError(
            f"an interval needs finite numbers of shape (n,) with n at least 1, not of shape {sample.shape}"
        )
    # A few rows of resamples at a time: all of them at once are gigabytes for ImageNet's 50,000 images.
    rows = max(1, _VALUES_AT_ONCE // sample.size)
    means = [
        sample[generator.integers(sample.size, size=(min(rows, resamples - done), sample.size))].mean(axis=1)
        for done in range(0, resamples, rows)
    ]
    outside = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(means), [outside, 1 - outside])
    return Interval(float(low), float(high))


def _steps(values: Floats, steps: int) -> tuple[Floats, NDArray[np.float64]]:
    """For each step but the last, the value from which on pixels are replaced; and their shares, from 0 to 1.

    A step that would end among pixels of one value ends before or after all of them, whichever is nearer, so
    that their position in the image decides nothing. Steps that end alike are joined.
    """
    falling = np.sort(values, axis=None)[::-1]
    count = falling.size
    ends = np.rint(np.arange(1, steps) * count / steps).astype(int)
    ends = ends[ends < count]
    before = np.searchsorted(-falling, -falling[ends], "left")
    after = np.searchsorted(-falling, -falling[ends], "right")
    replaced = np.unique(np.where(ends - before <= after - ends, before, after))
    replaced = replaced[(replaced > 0) & (replaced < count)]
    return falling[replaced - 1], np.array([0, *replaced, count]) / count


def _of_the_predicted_class(images: Iterator[Floats], predict: Predict, batch: int) -> NDArray[np.float64]:
    """The probability on each image of the class that is the most probable on the first one, (images,)."""
    found = []
    while chunk := list(islice(images, batch)):
        # Filled up, so that a compiled model meets a single shape.
        filled = np.stack(chunk + chunk[-1:] * (batch - len(chunk)))
        found.append(np.asarray(predict(filled), np.float64)[: len(chunk)])
    together = np.concatenate(found)
    return together[:, together[0].argmax()]


def _checked_pixels(pixels: ArrayLike) -> Floats:
    array = np.asarray(pixels)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or array.shape[0] != array.shape[1]:
        raise ValueError(f"the pixels must be uint8 of the shape (S, S, 3), not {array.dtype} {array.shape}")
    return normalize(array)


def _checked_map(saliency: ArrayLike, size: tuple[int, ...]) -> Floats:
    array = np.asarray(saliency, np.float32)
    if array.shape != size:
        raise ValueError(f"a map on these pixels must have the shape {size}, not {array.shape}; upsample it")
    if not np.isfinite(array).all():
        raise ValueError("the map must be finite numbers, but some are NaN or infinite")
    return array
