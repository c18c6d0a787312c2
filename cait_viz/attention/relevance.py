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
    product = np.asarray(attention) * np.asarray(gradient)
    return np.maximum(product, 0, out=product).mean(axis=0, dtype=np.float64).astype(np.float32)


def class_relevance(weights: Iterable[ArrayLike]) -> NDArray[np.float64]:
    """Relevance of the patches after the last self-attention block to the class token (equation 6).

    The rule is R ← R + Ā R, over the class token and the patches together. In a class-attention block only
    the token attends: of Ā only its row is not zero, (ā_0, ā_p), with ā_0 its weight on itself. The patches'
    rows stay what they are, with nothing of the token in them: (0, I) here, as each patch is relevant to
    itself alone. So the token's row (c, r), which is (1, 0) when it enters, becomes

        c ← c + ā_0 c,        r ← r + ā_0 r + ā_p

    What the token pays itself does not point at the image, but it carries on what earlier blocks have read:
    ā_0 r. Nothing of c enters r.

    Args:
        weights: for each class-attention block from the first on, Ā of `weighted`, (1 + N,), index 0 being
            the class token itself.

    Returns:
        r, (N,) float64, not negative.
    """
    relevance: NDArray[np.float64] = np.zeros(())
    for weight in weights:
        row = np.asarray(weight, np.float64)
        relevance = relevance + row[0] * relevance + row[1:]
    return relevance


def patch_relevance(relevance: ArrayLike, weights: Iterable[ArrayLike]) -> Floats:
    """Relevance of the image's patches, from that of the patches after the last self-attention block.

    Had the patches' rows begun with what the patch stage leaves of them, P, the class token's would be r P.
    By the same rule P is (I + Ā_K) … (I + Ā_1), for the blocks 1 to K. So r takes the blocks from the last to
    the first, the order of a backward pass, and no product of two matrices is needed:

        r ← r + r Ā

    Args:
        relevance: r of `class_relevance`, (N,).
        weights: for each self-attention block, from the last to the first, Ā of `weighted`, (N, N).

    Returns:
        r, (N,) float32, not negative.
    """
    row = np.asarray(relevance, np.float64)
    for weight in weights:
        row = row + row @ np.asarray(weight, np.float64)
    return row.astype(np.float32)
