"""How many pictures that were not trained on a network names."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from cait_viz.images.preprocess import prepare
from cait_viz.training.datasets import Pixels

# Pictures at a time.
_BATCH = 32
_FIVE = 5  # of top-5, which says nothing of so few classes


def accuracy(
    predict: Callable[[np.ndarray], np.ndarray], pixels: Pixels, labels: NDArray[np.int64], image_size: int
) -> dict[str, float]:
    """Share of the pictures whose class is the most probable and, of more classes, among the first five.

    Args:
        predict: prepared pictures (B, S, S, 3) to scores (B, classes); always asked for the same B.
        pixels: the pictures, P of them.
        labels: (P,) the class of each.
        image_size: S.

    Returns:
        "top1" and "top5", from 0 to 1.
    """
    scores = []
    for start in range(0, len(pixels), _BATCH):
        numbers = range(start, min(start + _BATCH, len(pixels)))
        images = np.concatenate([prepare(pixels[number], image_size) for number in numbers])
        # Filled up, so that one shape is compiled.
        scores.append(predict(np.resize(images, (_BATCH, *images.shape[1:])))[: len(numbers)])
    ranking = np.argsort(-np.concatenate(scores), axis=1, kind="stable")
    shares = {"top1": float((ranking[:, 0] == labels).mean())}
    if ranking.shape[1] > _FIVE:
        shares["top5"] = float((ranking[:, :_FIVE] == labels[:, None]).any(axis=1).mean())
    return shares
