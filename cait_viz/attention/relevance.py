"""Why this class: what the gradient of a class's logit makes of the attention. NumPy only.

A is an attention after its softmax, ∇A the gradient of the logit of a class with respect to it. Only what
speaks for the class counts: the positive part of ∇A ⊙ A.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cait_viz.attention.maps import Floats


def weighted(attention: ArrayLike, gradient: ArrayLike) -> Floats:
    """Ā, the mean over the heads of (∇A ⊙ A)⁺ (Chefer et al. 2021, arXiv:2103.15679, equation 5).

    Args:
        attention: (heads, …), after the softmax.
        gradient: of the class's logit with respect to it, in the same shape.

    Returns:
        The shape without the heads, float32.
    """
    product = np.asarray(attention, np.float64) * np.asarray(gradient, np.float64)
    return np.maximum(product, 0).mean(axis=0).astype(np.float32)


def patch_relevance(weights: Iterable[ArrayLike]) -> NDArray[np.float64]:
    """Relevance of the image's patches to those after the last self-attention block (equation 6).

    At first each patch is relevant to itself alone, R = I. A block mixes the patches and keeps its residual:

        R ← R + Ā R

    Args:
        weights: for each self-attention block from the first on, Ā of `weighted`, (N, N).

    Returns:
        (N, N) float64; row i is of patch i after the last block. At least one block is needed, else a
        ValueError.
    """
    relevance: NDArray[np.float64] | None = None
    for weight in weights:
        block = np.asarray(weight, np.float64)
        relevance = np.eye(len(block)) if relevance is None else relevance
        relevance = relevance + block @ relevance
    if relevance is None:
        raise ValueError("relevance needs at least one self-attention block")
    return relevance


def class_relevance(weights: Iterable[ArrayLike], patches: ArrayLike) -> Floats:
    """Relevance of the image's patches to the class token, through both stages of CaiT.

    The same rule, R ← R + Ā R, over the class token and the patches together. In a class-attention block only
    the token attends: of Ā only its row is not zero, (ā_0, ā_p), with ā_0 its weight on itself. The patches'
    rows stay what the patch stage has left, P, with nothing of the token in them. So the token's row (c, r),
    which is (1, 0) when it enters, becomes

        c ← c + ā_0 c,        r ← r + ā_0 r + ā_p P

    and r after the last block is the map. What the token pays itself does not point at the image, but it
    carries on what earlier blocks have read: ā_0 r.

    Args:
        weights: for each class-attention block from the first on, Ā of `weighted`, (1 + N,), index 0 being
            the class token itself.
        patches: P of `patch_relevance`, (N, N).

    Returns:
        r, (N,) float32, not negative.
    """
    stage = np.asarray(patches, np.float64)
    token = np.zeros(len(stage))
    for weight in weights:
        row = np.asarray(weight, np.float64)
        token = token + row[0] * token + row[1:] @ stage
    return token.astype(np.float32)
