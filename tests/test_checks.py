"""A choice or an index that is not there is refused in one sentence that lists what there is."""

import numpy as np
import pytest

from cait_viz._checks import check_choice, check_index, check_number
from cait_viz.errors import SelectionError


@pytest.mark.parametrize("value", [4, -1, 1.0, "1", True, False, np.True_, None, [0]])
def test_an_index_that_is_not_there_is_refused(value):
    with pytest.raises(SelectionError) as refused:
        check_index("head", value, 4)
    assert str(refused.value) == f"there is no head {value!r}; this model has 4, numbered from 0 to 3"


def test_a_single_head_is_numbered_0():
    with pytest.raises(SelectionError, match=r"^there is no head 1; this model has 1, numbered 0$"):
        check_index("head", 1, 1)


@pytest.mark.parametrize("value", [0, 3, np.int64(3), np.uint8(2)])
def test_any_kind_of_integer_selects(value):
    assert check_index("head", value, 4) == int(value)


@pytest.mark.parametrize("value", ["", "Overlay", None, 3, ["overlay"]])
def test_a_choice_that_is_not_there_is_refused(value):
    with pytest.raises(SelectionError) as refused:
        check_choice("style", value, ("overlay", "paper", "map"))
    assert str(refused.value) == f"there is no style {value!r}; choose one of overlay, paper, map"


@pytest.mark.parametrize(
    ("value", "wanted", "whole"),
    [
        (-1, "at least 0", False),
        (0.0, "above 0", False),
        (1.0, "at least 0 and below 1", False),
        (np.nan, "from 0 to 1", False),
        (np.inf, "at least 1", False),
        (1.5, "at least 1", True),
        (True, "at least 1", True),
        ("1", "at least 1", False),
    ],
)
def test_a_number_out_of_its_range_or_none_is_named_with_the_value(value, wanted, whole):
    with pytest.raises(SelectionError, match=rf"^ema must be (a (whole )?number|{wanted}), not {value!r}$"):
        check_number("ema", value, wanted, whole=whole)


@pytest.mark.parametrize("value", [0, 0.5, np.float32(0.5), np.int64(1)])
def test_any_kind_of_number_is_one(value):
    assert check_number("ema", value, "from 0 to 1") == float(value)
