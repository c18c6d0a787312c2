"""What happened before the class token: arithmetic on the self-attention of all blocks.

*Attention* here is what a block's softmax gives, (heads, N, N): row i says how patch i spreads its attention
over the N patches, and sums to one. The scores after `proj_w`, which mixes the heads, are no distribution
and must not be rolled out. NumPy only.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cait_viz.attention.maps import Floats, check_class_attention

# The share that a block's residual branch is taken to keep: half, as Abnar and Zuidema have it.
RESIDUAL = 0.5


def rollout(attention: Iterable[ArrayLike], residual: float = RESIDUAL) -> NDArray[np.float64]:
    """Attention rollout over the patches (Abnar and Zuidema 2020, arXiv:2005.00928, section 3).

    A block adds what its attention gathers to what was there, so of the token after block k the share
    r is taken to come from the same token before it, and 1 - r from those that it attends to:

        Ā_k = r I + (1 - r) mean over the heads of A_k,        R = Ā_L ⋯ Ā_2 Ā_1

    Row i of R says from which patches of the image patch i after the last block is made. Every row of every
    Ā_k sums to one, and so does every row of R. LayerScale, the values and the feed-forward networks are left
    out, as in the paper.

    Args:
        attention: for each block from the first on, the mean over the heads of its softmax, (N, N).
        residual: r, from 0 to 1.

    Returns:
        (N, N) float64.

    Raises:
        ValueError: no block, or blocks of different shapes.
    """
    rolled: NDArray[np.float64] | None = None
    for block in attention:
        mixed = (1 - residual) * np.asarray(block, np.float64)
        mixed[np.diag_indices_from(mixed)] += residual
        rolled = mixed if rolled is None else mixed @ rolled
    if rolled is None:
        raise ValueError("a rollout needs at least one block")
    return rolled


def read_out(class_attention: ArrayLike, rolled: ArrayLike) -> Floats:
    """What a class-attention head reads of the image, when its patches are traced back by a rollout.

    In CaiT the class token enters after the last self-attention block, and the class-attention blocks change
    no patch. A head of such a block attends with the weights a = (a_0, a_1 … a_N): a_0 to the class token
    itself, a_j to patch j. Patch j is made of the image's patches as row j of R says, so that

        map = (a_1 … a_N) R / (a_1 + … + a_N)

    The token's own share a_0 is left out and the rest made to sum to one. In the first block the token is the
    same for every image and comes from no patch; in a later one it holds what the blocks before have read,
    which their own maps show. For the same reason the class stage's residual has no part in it.

    Args:
        class_attention: (heads, N + 1), index 0 being the class token itself.
        rolled: (N, N), of `rollout`.

    Returns:
        (heads, N) float32. Every row sums to one; that of a head that pays the patches no attention is 0.
    """
    rows = check_class_attention(class_attention)[:, 1:].astype(np.float64)
    totals = rows.sum(axis=1, keepdims=True)
    shares = np.divide(rows, totals, out=np.zeros_like(rows), where=totals > 0)
    return (shares @ np.asarray(rolled, np.float64)).astype(np.float32)


def mean_distance(attention: ArrayLike, grid_shape: tuple[int, int], patch_size: int) -> Floats:
    """How far each head looks, on average (Dosovitskiy et al. 2021, arXiv:2010.11929, Figure 7).

    The distance between the centers of two patches, weighted by the attention, averaged over all patches that
    look.

    Args:
        attention: (heads, N, N), after the softmax.
        grid_shape: rows and columns of patches.
        patch_size: side of a patch in pixels.

    Returns:
        (heads,) float32, in pixels of the network's input.
    """
    weights = np.asarray(attention, np.float32)
    return np.einsum("hij,ij->h", weights, _distances(grid_shape, patch_size)) / np.float32(weights.shape[-1])


def _distances(grid_shape: tuple[int, int], patch_size: int) -> Floats:
    rows, cols = np.indices(grid_shape).reshape(2, -1)
    across = np.subtract.outer(rows, rows), np.subtract.outer(cols, cols)
    return (patch_size * np.hypot(*across)).astype(np.float32)
