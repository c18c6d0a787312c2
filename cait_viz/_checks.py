"""A choice, an index or a number that was given, and a network's numbers, checked in one place."""

import operator
from collections.abc import Sequence
from numbers import Integral, Real
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike

from cait_viz.errors import CheckpointError, SelectionError

Choice = TypeVar("Choice", bound=str)


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


def check_number(
    what: str, value: object, least: float, most: float | None = None, *, whole: bool = False
) -> float:
    """The value, a number of any library within bounds, as a float; else a SelectionError."""
    kind = Integral if whole else Real
    if isinstance(value, kind) and not isinstance(value, bool):
        number = float(value)
        if number >= least and (most is None or number <= most):
            return number
    wanted = "a whole number" if whole else "a number"
    bounds = f"of at least {least}" if most is None else f"from {least} to {most}"
    raise SelectionError(f"{what} must be {wanted} {bounds}, not {value!r}")


def check_finite(weights: str, *arrays: ArrayLike) -> None:
    """Refuse what a network says if it is not finite, by a CheckpointError that names its weights."""
    if not all(np.isfinite(array).all() for array in arrays):
        raise CheckpointError(
            f"{weights}: the network answers with numbers that are not finite; the weights are damaged, use "
            "another file"
        )
