"""Deletion and insertion: how much a model's answer depends on the places that a map points at.

Petsiuk, Das and Saenko, "RISE: Randomized Input Sampling for Explanation of Black-box Models" (2018,
arXiv:1806.07421). Both take the pixels of an image in the order of a map, the highest value first, and follow
the probability of one class, in RISE the one that the model predicts on the whole image:

* *deletion* replaces them by the image's mean color. The lower the area under the curve the better: the
  probability falls early only if the answer needs the map's highest places.
* *insertion* starts from a blurred image and puts the original pixels in. The higher the area the better: the
  probability rises early only if the map's highest places suffice for the answer.

The areas depend on the model, the images, the mean color and the blur, so a number by itself says little:
read it beside that of a random map and of a map that always points at the middle, where photographs have
their object.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from math import sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cait_viz._checks import all_finite
from cait_viz.attention import maps
from cait_viz.attention.maps import Floats
from cait_viz.attention.probabilities import probabilities
from cait_viz.images.preprocess import normalize
from cait_viz.metrics.accuracy import as_two_classes, default_class

# Normalized images (B, height, width, 3) to the probabilities of the classes, (B, classes).
Predict = Callable[[Floats], NDArray[np.floating]]
# Normalized images (B, height, width, 3) to logits (B, classes) and each block's class attention
# (B, heads, 1 + N).
Network = Callable[[Floats], tuple[NDArray[np.floating], Sequence[NDArray[np.floating]]]]
# By the name of each map, (images, 2): the areas of deletion and insertion.
Areas = dict[str, NDArray[np.float64]]

# As in TorchCAM's DeletionInsertionMetric. RISE's 224 steps are eleven times the work.
STEPS = 20
BATCH = 8  # images per forward pass: enough to keep two cores busy
RANDOM_MAPS = 5
RANDOM, CENTER = "random map", "centered Gaussian"

# RISE's blur for inputs of 224 pixels: a Gaussian cut off to 11 × 11 pixels. It grows with the input, because
# larger inputs show the same things larger.
_BLUR_SIGMA, _BLUR_RADIUS, _BLUR_SIDE = 5.0, 5, 224

# Sigma of the centered Gaussian, in units of the sides; only the order of the values counts.
_GAUSSIAN_SIGMA = 0.25

# Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), ask for at least 1,000; these cost nothing.
RESAMPLES = 10_000
CONFIDENCE = 0.95
# Numbers that are drawn together: more take memory and save no time.
_DRAWN = 10**6


class Curve(NamedTuple):
    """The share of the pixels that is replaced, 0 to 1, and the probability of the class meanwhile.

    (steps + 1,) float64; fewer where the map has equal values, whose pixels are replaced together.
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


def curves(
    pixels: ArrayLike,
    saliencies: Sequence[ArrayLike],
    predict: Predict,
    steps: int = STEPS,
    batch: int = BATCH,
    target: int | None = None,
) -> list[Curves]:
    """Deletion and insertion of several maps of one image, in their order.

    Args:
        pixels: (height, width, 3) uint8, what the network sees of an image (`preprocess.resize_and_crop`).
        saliencies: maps (height, width) on the same pixels (a patch grid through `maps.upsample`). Only the
            order of the values counts; the curves of a flat map are straight lines.
        predict: gets float32 images.
        steps: in how many equal steps, as far as equal values allow, all pixels are replaced.
        batch: how many images `predict` gets per call, always the same number.
        target: index of the class whose probability is followed; by default the most probable one.

    Raises:
        ValueError: the pixels are not uint8, or a map is not finite or of another shape.
    """
    array = np.asarray(pixels)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise ValueError(
            f"the pixels must be uint8 of the shape (height, width, 3), not {array.dtype} {array.shape}"
        )
    original = normalize(array)
    mean = np.broadcast_to(original.mean(axis=(0, 1), dtype=np.float64).astype(np.float32), original.shape)
    blur = blurred(original)
    checked = [np.asarray(saliency, np.float32) for saliency in saliencies]
    for values in checked:
        if values.shape != original.shape[:2]:
            raise ValueError(f"a map must have the shape {original.shape[:2]}, not {values.shape}")
        if not all_finite(values):
            raise ValueError("the map must be finite numbers, but some are NaN or infinite")
    ranked = [_steps(values, steps) for values in checked]

    def images() -> Iterator[Floats]:
        yield from (original, mean, blur)
        for values, (thresholds, _) in zip(checked, ranked, strict=True):
            for threshold in thresholds:
                replaced = (values >= threshold)[..., np.newaxis]
                yield np.where(replaced, mean, original)
                yield np.where(replaced, original, blur)

    # The ends of all curves are predicted once.
    on_original, on_mean, on_blur, *between = _of_one_class(images(), predict, batch, target)
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


class Confidence(NamedTuple):
    """What is left of a class on what a map lets through.

    Chattopadhyay et al. 2018, arXiv:1710.11063, section 4.1; reported as TorchCAM does.

    Attributes:
        drop: by how much of itself the probability falls, from 0 to 1; the lower the better.
        increase: whether it rises instead.
    """

    drop: float
    increase: bool


def confidence(
    pixels: NDArray[np.uint8], saliencies: Sequence[Floats], predict: Predict, target: int | None = None
) -> list[Confidence]:
    """What is left of a class where the normalized image is multiplied by each map.

    Args:
        pixels: (height, width, 3) uint8, what the network sees of an image.
        saliencies: maps (height, width) float32 in [0, 1] on the same pixels.
        predict: gets float32 images, `BATCH` at a time.
        target: index of the class; by default the most probable one.
    """
    original = normalize(pixels)
    altered = (original * saliency[..., np.newaxis] for saliency in saliencies)
    whole, *left = _of_one_class(chain([original], altered), predict, BATCH, target)
    # A class may be so improbable that nothing can be lost.
    drops = [max(0.0, whole - share) / whole if whole else 0.0 for share in left]
    return [Confidence(float(drop), bool(share > whole)) for drop, share in zip(drops, left, strict=True)]


def mean_curve(several: Sequence[Curve]) -> Curve:
    """The mean of several curves at equal steps."""
    fractions = np.linspace(0, 1, STEPS + 1)
    heights = [np.interp(fractions, curve.fractions, curve.probabilities) for curve in several]
    return Curve(fractions, np.mean(heights, axis=0))


def measure(
    images: Iterable[NDArray[np.uint8]], network: Network, grid_shape: tuple[int, int], seed: int
) -> Areas:
    """The areas of the mean of the heads of each class-attention block, and of the reference maps.

    Args:
        images: what the network sees of each, (height, width, 3) uint8; at least one.
        network: it always gets `BATCH` images, about 310 altered ones for each image.
        grid_shape: rows and columns of its patches.
        seed: decides the random maps, of each image by its position, whatever the other images are.

    Returns:
        By `block_name`, `CENTER` and `RANDOM`, which is the mean of `RANDOM_MAPS` random maps.
    """
    measured = []
    for number, pixels in enumerate(images):
        logits, attention = network(np.repeat(normalize(pixels)[np.newaxis], BATCH, axis=0))
        generator = np.random.default_rng([seed, number])
        grids = [
            *(maps.saliency(block[0], grid_shape) for block in attention),
            gaussian_map(grid_shape),
            *generator.random((RANDOM_MAPS, *grid_shape), np.float32),  # noise, as coarse as the maps
        ]
        upsampled = [maps.upsample(grid, pixels.shape[:2]) for grid in grids]
        found = curves(
            pixels,
            upsampled,
            lambda altered: probabilities(as_two_classes(network(altered)[0])),
            target=default_class(logits.shape[1]),
        )
        measured.append([(curve.deletion.area, curve.insertion.area) for curve in found])
    areas = np.array(measured).transpose(1, 0, 2)
    names = [*map(block_name, range(len(attention))), CENTER]
    return dict(zip(names, areas, strict=False)) | {RANDOM: areas[len(names) :].mean(axis=0)}


def block_name(block: int) -> str:
    """What the class-attention block of that index is called in reports, where blocks count from 1."""
    return f"CA block {block + 1}"


def blurred(image: ArrayLike) -> Floats:
    """The image from which insertion starts, (height, width, 3) float32: RISE's blur, mirrored edges."""
    from scipy.ndimage import gaussian_filter  # type: ignore[import-untyped]

    values = np.asarray(image, np.float64)
    scale = sqrt(values.shape[0] * values.shape[1]) / _BLUR_SIDE
    radius = max(1, round(_BLUR_RADIUS * scale))
    sides = radius, radius, 0
    deviations = [_BLUR_SIGMA * scale if side else 0 for side in sides]
    return np.asarray(gaussian_filter(values, deviations, radius=sides, mode="mirror"), np.float32)


def gaussian_map(grid_shape: tuple[int, int]) -> Floats:
    """A centered Gaussian, (rows, cols) float32 in (0, 1]: a map that always points at the middle."""
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
) -> tuple[float, float]:
    """The ends of the percentile interval of a mean by the bootstrap (Efron and Tibshirani 1993, chapter 13).

    To compare two maps, give their difference on each image: what the images have in common cancels.

    Args:
        values: (n,), one number per image, at least one and all finite, else a ValueError.
        generator: draws the resamples.
        resamples: how many.
        confidence: how often the interval is meant to contain the true mean, in (0, 1).
    """
    sample = np.asarray(values, np.float64)
    if sample.ndim != 1 or sample.size == 0 or not all_finite(sample):
        raise ValueError(f"an interval needs finite numbers of shape (n,), n > 0, not {sample.shape}")
    together = max(1, _DRAWN // sample.size)
    counts = [min(together, resamples - start) for start in range(0, resamples, together)]
    draws = (sample[generator.integers(sample.size, size=(count, sample.size))] for count in counts)
    means = np.concatenate([drawn.mean(axis=1) for drawn in draws])
    outside = (1 - confidence) / 2
    low, high = np.quantile(means, [outside, 1 - outside])
    return float(low), float(high)


def _steps(values: Floats, steps: int) -> tuple[Floats, NDArray[np.float64]]:
    """For each step but the last, the value from which on pixels are replaced; and their shares, from 0 to 1.

    A step that would end among pixels of one value ends before or after all of them, whichever is nearer.
    Steps that end alike are joined.
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


def _of_one_class(
    images: Iterator[Floats], predict: Predict, batch: int, target: int | None
) -> NDArray[np.float64]:
    """The probability of a class on each image, (images,); None is the most probable on the first one."""
    found = []
    while chunk := list(islice(images, batch)):
        # Filled up, so that a compiled model meets a single shape.
        filled = np.stack(chunk + chunk[-1:] * (batch - len(chunk)))
        found.append(np.asarray(predict(filled), np.float64)[: len(chunk)])
    together = np.concatenate(found)
    return together[:, together[0].argmax() if target is None else target]
