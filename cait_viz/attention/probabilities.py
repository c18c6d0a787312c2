"""From logits to probabilities."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def probabilities(logits: NDArray[Any]) -> NDArray[np.float32]:
    """The probability of each class of a classifier, (…, C) -> (…, C) float32, computed in float64.

    The softmax over the last axis; of a head of one class, which tells it from everything else, the sigmoid.
    """
    logits = logits.astype(np.float64)
    if logits.shape[-1] == 1:
        return np.exp(-np.logaddexp(0, -logits)).astype(np.float32)
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return (exponentials / exponentials.sum(axis=-1, keepdims=True)).astype(np.float32)
