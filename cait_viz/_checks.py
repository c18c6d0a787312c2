"""A choice, an index or a number that was given, and a network's numbers, checked in one place."""

import math
import operator
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike

from cait_viz.errors import CheckpointError, SelectionError

Choice = TypeVar("Choice", bound=str)

_RANGES: dict[str, Callable[[float], bool]] = {
    "at least 1": lambda value: 1 <= value < math.inf,
    "at least 0": lambda value: 0 <= value < math.inf,
    "above 0": lambda value: 0 < value < math.inf,
    "from 0 to 1": lambda value: 0 <= value <= 1,
    "at least 0 and below 1": lambda value: 0 <= value < 1,
    "above 0 and at most 1": lambda value: 0 < value <= 1,
    "at least 0 and below 2**32": lambda value: 0 <= value < 2**32,
}


def check_choice(what: str, value: object, allowed: Sequence[Choice]) -> Choice:
    """The value, if it is one of those allowed; else a SelectionError that lists them."""
    for choice in allowed:
        if isinstance(value, str) and value == choice:
            return choice
    raise SelectionError(f"there is no {what} {value!r}; choose one of {', '.join(allowed)}")


def check_index(what: str, value: object, count: int) -> int:
    """The value, an integer of any library, if it is from 0 to `count` - 1; else a SelectionError."""
    try:
        # NumPy's truth values have no index, Python's do.
        index = -1 if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        index = -1
    if not 0 <= index < count:
        numbers = "0" if count == 1 else f"from 0 to {count - 1}"
        raise SelectionError(f"there is no {what} {value!r}; this model has {count}, numbered {numbers}")
    return index


def check_number(what: str, value: object, wanted: str, *, whole: bool = False) -> float:
    """The value, a number of any library in one of `_RANGES`, as a float; else a SelectionError."""
    if isinstance(value, bool) or not isinstance(value, Integral if whole else Real):
        raise SelectionError(f"{what} must be a {'whole ' if whole else ''}number, not {value!r}")
    number = float(value)
    if not _RANGES[wanted](number):
        raise SelectionError(f"{what} must be {wanted}, not {value!r}")
    return number


def all_finite(*arrays: ArrayLike) -> bool:
    """Whether no value of the arrays is infinite or NaN."""
    return all(np.isfinite(array).all() for array in arrays)


def check_finite(weights: str, *arrays: ArrayLike) -> None:
    """Refuse what a network says if it is not finite, by a CheckpointError that names its weights."""
    if not all_finite(*arrays):
        raise CheckpointError(
            f"{weights}: the network answers with numbers that are not finite; the weights are damaged, use "
            "another file"
        )
