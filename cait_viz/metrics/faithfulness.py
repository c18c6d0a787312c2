"""Deletion and insertion: how much of a model's answer hangs on what a map points at.

Petsiuk, Das and Saenko, "RISE: Randomized Input Sampling for Explanation of Black-box Models" (2018,
arXiv:1806.07421). Both take the pixels of a picture in the order of a map, the highest value first, and
follow the probability of the class that the model names on the whole picture:

* *deletion* replaces them by the picture's mean colour. The lower the area under the curve the better:
  where the probability falls early, the map's highest places are those that the answer needs.
* *insertion* begins with a blurred picture and puts the original pixels in. The higher the area the
  better: where the probability rises early, the map's highest places suffice for the answer.

The areas depend on the model, the pictures, the mean colour and the blur, so a number by itself says
little. It is read beside that of a random map, which knows nothing, and of a map that always points at
the middle, where photographs have their object. NumPy and Pillow only.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cait_viz.attention.maps import Floats
from cait_viz.images.preprocess import normalize

Predict = Callable[[Floats], NDArray[np.floating]]

# As TorchCAM's DeletionInsertionMetric has it, which like `Curve.area` integrates over the shares that were
# really replaced. RISE goes 224 pixels at a time: 224 steps, eleven times the work.
STEPS = 20

# Pictures a forward pass: enough to keep two cores busy.
BATCH = 8

# RISE's blur for inputs of 224 pixels: a Gaussian with a sigma of 5 pixels, cut off to 11 × 11. Larger
# inputs show the same things larger, so that it grows with them.
_BLUR_SIGMA, _BLUR_RADIUS, _BLUR_SIDE = 5.0, 5, 224

# Sigma of the centred Gaussian, in units of the sides. Its size hardly matters: only the order of the
# values counts, and nearer to the middle is higher whatever the sigma.
_GAUSSIAN_SIGMA = 0.25

# Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), ask for 1,000 at least; these cost nothing.
RESAMPLES = 10_000
CONFIDENCE = 0.95
_VALUES_AT_ONCE = 4_000_000

# The three pictures at the ends of the curves: every map of a picture shares them.
_ORIGINAL, _MEAN, _BLURRED = range(3)
_DELETION, _INSERTION = (_ORIGINAL, _MEAN), (_BLURRED, _ORIGINAL)


class Curve(NamedTuple):
    """The probability of the predicted class while pixels are replaced.

    Attributes:
        fractions: (steps + 1,) float64, the share of the pixels that is replaced, from 0 to 1. Fewer
            where the map has equal values: pixels of one value go together.
        probabilities: (steps + 1,) float64, of the class that is predicted on the original picture.
    """

    fractions: NDArray[np.float64]
    probabilities: NDArray[np.float64]

    @property
    def area(self) -> float:
        """The area under the curve by the trapezoid rule, from 0 to 1: the score."""
        return float(np.trapezoid(self.probabilities, self.fractions))


class Curves(NamedTuple):
    """Both curves of one map.

    Attributes:
        deletion: the lower its area, the better.
        insertion: the higher its area, the better.
    """

    deletion: Curve
    insertion: Curve


class Interval(NamedTuple):
    """The two ends of a confidence interval."""

    low: float
    high: float


def deletion(
    pixels: ArrayLike, saliency: ArrayLike, predict: Predict, steps: int = STEPS, batch: int = BATCH
) -> Curve:
    """Delete the pixels to which a map gives the highest values, and see how fast the model changes its mind.

    Petsiuk et al. 2018 (RISE). Deleted pixels get the picture's mean colour.

    Reading the score, `Curve.area`: lower is better, because the probability falls early only where the
    pixels that go first are those that the model's answer hangs on. A map that points anywhere else
    leaves the probability high for longer.

    Args:
        pixels: (S, S, 3) uint8, what the network sees of a picture (`preprocessing.resize_and_crop`).
        saliency: (S, S), the map on the same pixels (a patch grid through `maps.upsample`). Its order alone
            counts. A flat map has none: all pixels go at once, and its curve is one straight line.
        predict: (batch, S, S, 3) float32, normalised, to probabilities (batch, classes).
        steps: in how many equal steps, as far as pixels of one value allow, all pixels are replaced.
        batch: how many pictures `predict` is given each time, always the same.

    Raises:
        ValueError: shapes that do not belong together, a map that is not finite, or no steps.
    """
    return _curves([_DELETION], pixels, [saliency], predict, steps, batch)[0][0]


def insertion(
    pixels: ArrayLike, saliency: ArrayLike, predict: Predict, steps: int = STEPS, batch: int = BATCH
) -> Curve:
    """Show the pixels to which a map gives the highest values, and see how fast the model finds its answer.

    Petsiuk et al. 2018 (RISE). The first picture is `blurred`.

    Reading the score, `Curve.area`: higher is better, because the probability rises early only where the
    pixels that come first suffice for the model's answer.

    Arguments and errors as in `deletion`.
    """
    return _curves([_INSERTION], pixels, [saliency], predict, steps, batch)[0][0]


def curves(
    pixels: ArrayLike,
    saliencies: Sequence[ArrayLike],
    predict: Predict,
    steps: int = STEPS,
    batch: int = BATCH,
) -> list[Curves]:
    """Deletion and insertion of several maps of one picture, in their order.

    The same numbers as `deletion` and `insertion`, with fewer forward passes: the original picture, its
    mean colour and its blurred copy are the ends of all curves, and are shown to the model once.

    Args:
        pixels: as in `deletion`.
        saliencies: maps, each as in `deletion`.
        predict: as in `deletion`.
        steps: as in `deletion`.
        batch: as in `deletion`.

    Raises:
        ValueError: shapes that do not belong together, a map that is not finite, or no steps.
    """
    return [
        Curves(*pair) for pair in _curves([_DELETION, _INSERTION], pixels, saliencies, predict, steps, batch)
    ]


def blurred(picture: ArrayLike) -> Floats:
    """The picture from which insertion starts, (S, S, 3) -> (S, S, 3) float32.

    A Gaussian with a sigma of 5 pixels at an input of 224, cut off after 5 pixels to each side (RISE's 11 ×
    11), both in proportion at other sizes; the edges are mirrored.

    Args:
        picture: (S, S, 3) numbers.
    """
    values = np.asarray(picture, np.float32)
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
    """A map that knows nothing of the picture: uniform noise on the patches, (rows, cols) float32 in [0, 1).

    Noise on patches and not on pixels, so that it is as coarse as the maps it is compared with.

    Args:
        grid_shape: rows and columns of patches.
        generator: where the noise comes from.
    """
    return generator.random(grid_shape, np.float32)


def gaussian_map(grid_shape: tuple[int, int]) -> Floats:
    """A map that always points at the middle: a centred Gaussian, (rows, cols) float32 in (0, 1].

    Its sigma is a quarter of the rows and of the columns.

    Args:
        grid_shape: rows and columns of patches.
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
    """The bootstrap's percentile interval of a mean.

    Efron and Tibshirani 1993, chapter 13. For two maps on the same pictures give the difference of each
    picture: what the pictures have in common cancels.

    Args:
        values: (n,), one number a picture, at least one.
        generator: which resamples are drawn; the same state gives the same interval.
        resamples: how many.
        confidence: how often the interval is meant to hold the true mean, in (0, 1).

    Raises:
        ValueError: no values, or some that are not finite.
    """
    sample = np.asarray(values, np.float64)
    if sample.ndim != 1 or sample.size == 0 or not np.isfinite(sample).all():
        raise ValueError(
            f"an interval needs finite numbers in the shape (n,), n at least 1, not {sample.shape}"
        )
    # A few rows of resamples at a time: all of them at once are gigabytes for ImageNet's 50,000 pictures.
    rows = max(1, _VALUES_AT_ONCE // sample.size)
    means = [
        sample[generator.integers(sample.size, size=(min(rows, resamples - done), sample.size))].mean(axis=1)
        for done in range(0, resamples, rows)
    ]
    outside = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(means), [outside, 1 - outside])
    return Interval(float(low), float(high))


def _curves(
    ends: Sequence[tuple[int, int]],
    pixels: ArrayLike,
    saliencies: Sequence[ArrayLike],
    predict: Predict,
    steps: int,
    batch: int,
) -> list[list[Curve]]:
    """For each map a curve between each of the ends, which are numbers of shared pictures."""
    if steps < 1 or batch < 1:
        raise ValueError(
            f"there must be at least 1 step and 1 picture a batch, not {steps} steps and {batch}"
        )
    original = _checked_pixels(pixels)
    shared = (original, _mean_color(original), blurred(original))
    maps = [_checked_map(saliency, original.shape[:2]) for saliency in saliencies]
    ranked = [_steps(values, steps) for values in maps]

    def pictures() -> Iterator[Floats]:
        yield from shared
        for values, (thresholds, _) in zip(maps, ranked, strict=True):
            for threshold in thresholds:
                replaced = (values >= threshold)[..., np.newaxis]
                for first, last in ends:
                    yield np.where(replaced, shared[last], shared[first])

    probabilities = _of_the_predicted_class(pictures(), predict, batch)
    between = iter(probabilities[len(shared) :])
    found = []
    for _, fractions in ranked:
        inner = np.array([[next(between) for _ in ends] for _ in fractions[1:-1]]).reshape(-1, len(ends))
        found.append(
            [
                Curve(fractions, np.array([probabilities[first], *inner[:, column], probabilities[last]]))
                for column, (first, last) in enumerate(ends)
            ]
        )
    return found


def _mean_color(picture: Floats) -> Floats:
    """The picture's mean colour, (S, S, 3) in the picture's shape."""
    return np.broadcast_to(picture.mean(axis=(0, 1), dtype=np.float64).astype(np.float32), picture.shape)


def _steps(values: Floats, steps: int) -> tuple[Floats, NDArray[np.float64]]:
    """From which value on pixels are replaced at each step but the last; and the shares of them, from 0 to 1.

    A step that would end among pixels of one value ends before or after all of them, whichever is nearer,
    so that their place in the picture decides nothing; of steps that end alike there is one.
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


def _of_the_predicted_class(pictures: Iterator[Floats], predict: Predict, batch: int) -> NDArray[np.float64]:
    """Probability of the first picture's most probable class on each of the pictures, (pictures,)."""
    found = []
    while chunk := list(islice(pictures, batch)):
        # Filled up, so that a compiled model meets a single shape.
        filled = np.stack(chunk + chunk[-1:] * (batch - len(chunk)))
        probabilities = np.asarray(predict(filled), np.float64)
        if probabilities.ndim != 2 or len(probabilities) != batch:
            raise ValueError(
                f"predict must return probabilities ({batch}, classes), not an array {probabilities.shape}"
            )
        found.append(probabilities[: len(chunk)])
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
