"""From class attention to maps: patch grids, ranges, upsampling and the numbers of each head.

Two kinds of array go through this module:

* *class attention*, `(heads, N + 1)`: for each head, how the class token spreads its attention over
  itself (index 0) and the N patches (from index 1 on, row by row). Every row sums to one.
* a *grid*, `(rows, cols)`: one value for each patch, laid out as the patches lie in the image.

NumPy and Pillow only.
"""

from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from cait_viz._checks import check_choice

Floats = NDArray[np.float32]
Interpolation = Literal["bicubic", "nearest"]
Scale = Literal["head", "shared"]
INTERPOLATIONS: tuple[Interpolation, ...] = get_args(Interpolation)
SCALES: tuple[Scale, ...] = get_args(Scale)

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "nearest": Image.Resampling.NEAREST}

# Two float32 numbers closer than this, relative to their size, differ by rounding alone. Stretching
# such a difference to the full range would draw a pattern that the network never made.
_ROUNDING = 4 * float(np.finfo(np.float32).eps)


class Range(NamedTuple):
    """The two values that are drawn as nothing and as everything."""

    low: float
    high: float


def check_class_attention(attention: ArrayLike) -> Floats:
    """Class attention as a float32 array `(heads, N + 1)`.

    Raises:
        ValueError: another shape, no patches, or a value that is not a finite number of at least 0.
    """
    array = _finite("class attention", attention)
    if array.ndim != 2 or array.shape[0] < 1 or array.shape[1] < 2:
        raise ValueError(f"class attention must have the shape (heads, N + 1), not {array.shape}")
    if array.min() < 0:
        raise ValueError(f"class attention must not be negative, but its smallest value is {array.min():g}")
    return array


def patch_grids(attention: ArrayLike, grid_shape: tuple[int, int]) -> Floats:
    """The class token's attention to the patches, laid out as they lie in the image.

    `(heads, rows * cols + 1) -> (heads, rows, cols)`, float32. The class token's attention to itself,
    index 0, is left out (see `class_token_attention`); nothing is rescaled.

    Args:
        attention: class attention, `(heads, N + 1)`.
        grid_shape: rows and columns of patches, in this order.

    Raises:
        ValueError: the shapes do not belong together, or a value is negative or not finite.
    """
    array = check_class_attention(attention)
    rows, cols = grid_shape
    patches = array.shape[1] - 1
    if rows < 1 or cols < 1 or rows * cols != patches:
        raise ValueError(f"{patches} patches do not fill a grid of {rows} rows and {cols} columns")
    return array[:, 1:].reshape(-1, rows, cols)


def head_mean(grids: ArrayLike) -> Floats:
    """The mean over the heads, `(heads, rows, cols) -> (rows, cols)`, float32 (paper, Figure 7)."""
    array = _finite("the grids", grids)
    if array.ndim != 3 or array.shape[0] < 1:
        raise ValueError(f"the grids must have the shape (heads, rows, cols), not {array.shape}")
    return array.mean(axis=0, dtype=np.float64).astype(np.float32)


def value_range(grids: ArrayLike) -> Range:
    """The smallest and the largest value of an array of any shape."""
    array = _finite("the grids", grids)
    return Range(float(array.min()), float(array.max()))


def min_max(grid: ArrayLike, bounds: Range | None = None) -> Floats:
    """The values stretched to [0, 1], in the shape they came in, float32.

    Args:
        grid: an array of any shape.
        bounds: what becomes 0 and what becomes 1; the grid's own smallest and largest value if None.
            Values outside are clipped. One range for several maps makes them comparable.

    A range without extent (a flat map) becomes all 0: no place stands out, so none is highlighted.

    Raises:
        ValueError: empty, or a value that is not finite.
    """
    array = _finite("the map", grid).astype(np.float64)
    low, high = bounds if bounds is not None else value_range(array)
    if high - low <= _ROUNDING * max(abs(low), abs(high)):
        return np.zeros(array.shape, np.float32)
    return np.clip((array - low) / (high - low), 0.0, 1.0).astype(np.float32)


def symmetric(scores: ArrayLike) -> Floats:
    """Scores of either sign brought to [-1, 1] with zero where it was, in the shape they came in, float32.

    Divided by the largest magnitude; all zeros stay so.

    Raises:
        ValueError: empty, or a value that is not finite.
    """
    array = _finite("the map", scores).astype(np.float64)
    largest = np.abs(array).max()
    return (array / largest if largest else array).astype(np.float32)


def saliency(attention: ArrayLike, grid_shape: tuple[int, int]) -> Floats:
    """The mean over the heads, stretched to [0, 1]: `(heads, N + 1) -> (rows, cols)`, float32.

    Paper, Figure 7, before it is upsampled. Arguments and errors as in `patch_grids`.
    """
    return min_max(head_mean(patch_grids(attention, grid_shape)))


def upsample(grid: ArrayLike, size: tuple[int, int], interpolation: str = "bicubic") -> Floats:
    """A grid brought to a number of pixels, `(rows, cols) -> (height, width)`, float32.

    Args:
        grid: one map.
        size: height and width of the result.
        interpolation: "bicubic" (Pillow's; smaller results are antialiased) or "nearest", which shows
            the patches as they are. What bicubic overshoots is clipped to the range of the grid.

    Raises:
        SelectionError: another interpolation.
        ValueError: no grid, no pixels, or a value that is not finite.
    """
    check_choice("interpolation", interpolation, INTERPOLATIONS)
    array = _finite("the map", grid)
    if array.ndim != 2:
        raise ValueError(f"a map must have the shape (rows, cols), not {array.shape}")
    height, width = size
    if height < 1 or width < 1:
        raise ValueError(f"a map cannot be drawn on {height} x {width} pixels")
    low, high = value_range(array)
    resized = Image.fromarray(array).resize((width, height), _FILTERS[interpolation])
    pixels = np.array(resized, np.float32)
    return np.clip(pixels, low, high, out=pixels)


def class_token_attention(attention: ArrayLike) -> Floats:
    """The share of its attention that the class token pays to itself, `(heads, N + 1) -> (heads,)`.

    Between 0 and 1. Min-max hides it: a head that looks almost only at itself gives a map as bright
    as any other.
    """
    return check_class_attention(attention)[:, 0].copy()


def patch_entropy(attention: ArrayLike) -> Floats:
    """Entropy of each head over the patches in nats, `(heads, N + 1) -> (heads,)`, float32.

    The attention to the patches is first made to sum to one. 0 when a single patch gets all of it,
    `log(N)` when all get the same; lower is more concentrated. A head that pays the patches no
    attention at all has none to spread and is given 0.
    """
    patches = check_class_attention(attention)[:, 1:].astype(np.float64)
    totals = patches.sum(axis=1, keepdims=True)
    shares = np.divide(patches, totals, out=np.zeros_like(patches), where=totals > 0)
    logs = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
    entropy = -(shares * logs).sum(axis=1)
    return np.clip(entropy, 0.0, np.log(patches.shape[1])).astype(np.float32)


def effective_patches(attention: ArrayLike) -> Floats:
    """Over how many patches each head spreads, `(heads, N + 1) -> (heads,)`, float32.

    The exponential of `patch_entropy`: a head that divides its attention evenly among k patches gives
    k, so it lies between 1 and N. 0 for a head that pays the patches no attention at all.
    """
    looked = check_class_attention(attention)[:, 1:].any(axis=1)
    return np.where(looked, np.exp(patch_entropy(attention)), 0.0).astype(np.float32)


def center(attention: ArrayLike, grid_shape: tuple[int, int]) -> Floats:
    """The center of each head's attention to the patches, `(heads, N + 1) -> (heads, 2)`, float32: x and y.

    In parts of the width and the height of what the network sees, from its upper left corner. A head that
    pays the patches no attention at all is given the middle. Arguments and errors as in `patch_grids`.
    """
    return _moments(attention, grid_shape)[0].astype(np.float32)


def spread(attention: ArrayLike, grid_shape: tuple[int, int]) -> Floats:
    """How far each head's attention lies from its center, `(heads, N + 1) -> (heads,)`, float32.

    The root mean square distance, in the parts in which `center` counts: 0 for one patch, and for all alike
    0.41 on fine grids. Arguments and errors as in `patch_grids`.
    """
    middle, squares = _moments(attention, grid_shape)
    variance = (squares - middle**2).sum(axis=1)
    return np.sqrt(np.maximum(variance, 0.0)).astype(np.float32)


def _moments(attention: ArrayLike, grid_shape: tuple[int, int]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Means of x and y, and of their squares, over each head's attention to the patches: (heads, 2) each."""
    weights = patch_grids(attention, grid_shape).astype(np.float64)
    weights[~weights.any(axis=(1, 2))] = 1
    rows, cols = ((np.arange(count) + 0.5) / count for count in grid_shape)
    weights /= weights.sum(axis=(1, 2), keepdims=True)
    across, down = weights.sum(axis=1), weights.sum(axis=2)
    means, squares = (np.stack([across @ cols**power, down @ rows**power], axis=1) for power in (1, 2))
    return means, squares


def _finite(what: str, values: ArrayLike) -> NDArray[Any]:
    array = np.asarray(values)
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{what} must be numbers, not {array.dtype}")
    array = np.ascontiguousarray(array, dtype=np.float32)
    if array.size == 0:
        raise ValueError(f"{what} must not be empty; the shape is {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{what} must be finite numbers, but some are NaN or infinite")
    return array
