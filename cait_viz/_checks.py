"""A choice or an index that was given, checked in one place."""

import operator
from collections.abc import Sequence
from typing import TypeVar

from cait_viz.errors import SelectionError

Choice = TypeVar("Choice", bound=str)


def check_choice(what: str, value: object, allowed: Sequence[Choice]) -> Choice:
    """The value, if it is one of those allowed.

    Args:
        what: what is chosen, for the message ("style").
        value: anything.
        allowed: the choices there are.

    Raises:
        SelectionError: it is none of them; the message names the value and lists the choices.
    """
    for choice in allowed:
        if isinstance(value, str) and value == choice:
            return choice
    raise SelectionError(f"there is no {what} {value!r}; choose one of {', '.join(allowed)}")


def check_index(what: str, value: object, count: int) -> int:
    """The value as a whole number from 0 to `count` - 1.

    Args:
        what: what is counted, for the message ("head").
        value: any integer, NumPy's included; True and False are refused.
        count: how many there are.

    Raises:
        SelectionError: it is no such number; the message names the value and the range.
    """
    try:
        # NumPy's truth values have no index, Python's do.
        index = -1 if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        index = -1
    if not 0 <= index < count:
        numbers = "0" if count == 1 else f"from 0 to {count - 1}"
        raise SelectionError(f"there is no {what} {value!r}; this model has {count}, numbered {numbers}")
    return index
