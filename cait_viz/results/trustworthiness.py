"""`Trust`: how much an answer depends on what maps of the image point at, beside maps that know nothing."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cait_viz._text import listed
from cait_viz.attention import maps
from cait_viz.attention.maps import Floats
from cait_viz.errors import SelectionError
from cait_viz.metrics.faithfulness import (
    BATCH,
    CENTER,
    RANDOM,
    STEPS,
    Confidence,
    Curves,
    Predict,
    confidence,
    curves,
    gaussian_map,
    mean_curve,
)

# Gets how much is done and how much there is in all; what it raises ends the measurement.
Progress = Callable[[int, int], object]

# The average of these is the baseline; more cost time and change it little.
RANDOM_MAPS = 3


@dataclass(frozen=True, eq=False)
class Trust:
    """Deletion, insertion and confidence of maps of one image, for one class.

    `cait_viz.metrics.faithfulness` says what they mean. The mean of random maps and a centered Gaussian are
    always among them: a map that does no better than these says nothing of the network.

    Attributes:
        curves: by the name of each map, the random one being the mean of `RANDOM_MAPS` curves.
        confidence: by the name of each map but the random one.
    """

    curves: Mapping[str, Curves]
    confidence: Mapping[str, Confidence]

    @property
    def nbytes(self) -> int:
        """The memory that the arrays take, in bytes."""
        every = [curve for both in self.curves.values() for curve in both]
        return sum(curve.fractions.nbytes + curve.probabilities.nbytes for curve in every)


def measure_trust(
    pixels: NDArray[np.uint8],
    grids: Mapping[str, Floats],
    predict: Predict,
    target: int | None = None,
    seed: int | Sequence[int] = 0,
    progress: Progress = lambda done, total: None,
) -> Trust:
    """Measure maps of one image.

    Args:
        pixels: (height, width, 3) uint8, what the network sees of the image.
        grids: by name, maps (rows, cols) of one shape, at least one; for the curves only the order of their
            values counts.
        predict: gets float32 images, `BATCH` at a time, about 40 for each map and baseline.
        target: index of the class; by default the most probable one on the whole image.
        seed: decides the random maps.
        progress: is called before each batch, and at the end.

    Raises:
        SelectionError: a map is called as a baseline is.
    """
    if taken := {CENTER, RANDOM} & set(grids):
        raise SelectionError(f"{listed(sorted(taken))}: names a baseline; call the map otherwise")
    shape = next(iter(grids.values())).shape
    noise = np.random.default_rng(seed).random((RANDOM_MAPS, *shape), np.float32)
    known = dict(grids) | {CENTER: gaussian_map((shape[0], shape[1]))}
    upsampled = [maps.upsample(maps.min_max(grid), pixels.shape[:2]) for grid in (*known.values(), *noise)]
    batches = math.ceil((3 + 2 * (STEPS - 1) * len(upsampled)) / BATCH) + math.ceil((1 + len(known)) / BATCH)
    done = 0

    def counted(images: Floats) -> NDArray[np.floating]:
        nonlocal done
        progress(done, batches)
        done += 1
        return predict(images)

    found = curves(pixels, upsampled, counted, target=target)
    left = confidence(pixels, upsampled[: len(known)], counted, target)
    progress(batches, batches)
    random = found[len(known) :]
    mean = Curves(*(mean_curve([both[which] for both in random]) for which in (0, 1)))
    return Trust(
        curves=dict(zip(known, found, strict=False)) | {RANDOM: mean},
        confidence=dict(zip(known, left, strict=True)),
    )
