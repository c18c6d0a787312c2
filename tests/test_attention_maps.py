import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cait_viz.attention import maps
from cait_viz.attention.maps import Range
from cait_viz.errors import SelectionError

finite = st.floats(-1e6, 1e6, width=32)
shapes = st.tuples(st.integers(1, 9), st.integers(1, 9))
sizes = st.tuples(st.integers(1, 40), st.integers(1, 40))
grids = shapes.flatmap(lambda shape: arrays(np.float32, shape, elements=finite))


def test_patches_are_laid_out_row_by_row():
    attention = [[0.5, 1, 2, 3, 4, 5, 6], [0.1, 6, 5, 4, 3, 2, 1]]
    expected = [[[1, 2, 3], [4, 5, 6]], [[6, 5, 4], [3, 2, 1]]]
    assert maps.patch_grids(attention, (2, 3)).tolist() == expected


def test_a_tall_grid_is_not_a_wide_one_turned():
    attention = [[0, 1, 2, 3, 4, 5, 6]]
    assert maps.patch_grids(attention, (3, 2)).tolist() == [[[1, 2], [3, 4], [5, 6]]]


@given(shapes, st.integers(1, 5), st.data())
def test_every_patch_keeps_its_row_and_column(shape, heads, data):
    rows, cols = shape
    row, col = data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, cols - 1))
    attention = np.zeros((heads, rows * cols + 1), np.float32)
    attention[:, 1 + row * cols + col] = 1
    found = maps.patch_grids(attention, shape)
    assert found.shape == (heads, rows, cols)
    assert found.dtype == np.float32
    assert np.argwhere(found[0]).tolist() == [[row, col]]


@pytest.mark.parametrize("shape", [(2, 2), (3, 3), (0, 6), (-2, -3), (6, 2)])
def test_a_grid_that_the_patches_do_not_fill_is_refused(shape):
    with pytest.raises(ValueError, match=r"^6 patches do not fill a grid of -?\d rows and -?\d columns$"):
        maps.patch_grids(np.ones((4, 7)), shape)


@pytest.mark.parametrize("shape", [(7,), (1, 4, 7), (0, 7), (4, 1), (4, 0)])
def test_class_attention_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"class attention must"):
        maps.check_class_attention(np.ones(shape))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_class_attention_that_is_not_finite_is_refused(value):
    attention = np.ones((2, 5))
    attention[1, 3] = value
    with pytest.raises(ValueError, match=r"^class attention must be finite numbers, but some are NaN"):
        maps.patch_grids(attention, (2, 2))


def test_negative_class_attention_is_refused():
    with pytest.raises(ValueError, match=r"^class attention must not be negative, .* value is -0\.25$"):
        maps.class_token_attention([[0.5, -0.25, 0.75]])


def test_words_are_no_class_attention():
    with pytest.raises(ValueError, match=r"^class attention must be numbers, not <U1$"):
        maps.class_token_attention([["a", "b"]])


def test_the_mean_is_over_the_heads():
    assert maps.head_mean([[[1, 2], [3, 4]], [[3, 2], [1, 0]]]).tolist() == [[2, 2], [2, 2]]


def test_the_mean_of_a_single_grid_is_refused():
    with pytest.raises(ValueError, match=r"must have the shape \(heads, rows, cols\), not \(2, 2\)"):
        maps.head_mean([[1, 2], [3, 4]])


def test_min_max_stretches_to_the_whole_range():
    assert maps.min_max([[2, 4], [6, 10]]).tolist() == [[0, 0.25], [0.5, 1]]


def test_min_max_with_a_given_range_keeps_maps_comparable():
    assert maps.min_max([[2, 4], [6, 12]], Range(2, 10)).tolist() == [[0, 0.25], [0.5, 1]]


@given(grids)
def test_a_stretched_map_lies_between_0_and_1_and_keeps_its_order(grid):
    stretched = maps.min_max(grid)
    assert stretched.shape == grid.shape
    assert stretched.dtype == np.float32
    assert stretched.min() >= 0
    assert stretched.max() <= 1
    if stretched.any():
        assert (stretched.min(), stretched.max()) == (0, 1)
    order = np.argsort(grid, axis=None, kind="stable")
    assert (np.diff(stretched.ravel()[order]) >= 0).all()


@given(shapes, finite)
def test_a_flat_map_is_drawn_as_nothing_without_a_warning(shape, value):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not maps.min_max(np.full(shape, value, np.float32)).any()


def test_differences_of_rounding_are_not_stretched_into_a_pattern():
    uniform = np.float32(1 / 197)
    grid = np.full((14, 14), uniform)
    grid[::2] = np.nextafter(uniform, np.float32(1))
    assert not maps.min_max(grid).any()


def test_small_but_real_differences_are_stretched():
    assert maps.min_max([[1e-12, 2e-12]]).tolist() == [[0, 1]]


def test_saliency_is_the_stretched_mean_of_the_heads():
    attention = [[0.9, 1, 0, 0, 3], [0.1, 1, 2, 4, 1]]
    assert maps.saliency(attention, (2, 2)).tolist() == [[0, 0], [1, 1]]


@pytest.mark.parametrize("interpolation", maps.INTERPOLATIONS)
def test_upsampled_maps_have_height_and_width(interpolation):
    assert maps.upsample(np.eye(3), (30, 20), interpolation).shape == (30, 20)


def test_nearest_repeats_every_patch():
    grid = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
    expected = grid.repeat(4, axis=0).repeat(5, axis=1)
    assert (maps.upsample(grid, (8, 15), "nearest") == expected).all()


def test_bicubic_overshoot_is_clipped():
    grid = np.zeros((4, 4), np.float32)
    grid[:, 2:] = 1
    upsampled = maps.upsample(grid, (64, 64))
    assert upsampled.min() == 0
    assert upsampled.max() == 1


def test_bicubic_is_smooth_where_nearest_has_steps():
    grid = np.array([[0, 1]], np.float32)
    assert len(np.unique(maps.upsample(grid, (1, 16), "nearest"))) == 2
    assert len(np.unique(maps.upsample(grid, (1, 16)))) > 4


@given(grids, sizes, st.sampled_from(maps.INTERPOLATIONS))
def test_upsampling_adds_no_value_that_no_patch_has(grid, size, interpolation):
    upsampled = maps.upsample(grid, size, interpolation)
    assert upsampled.shape == size
    assert upsampled.dtype == np.float32
    assert upsampled.min() >= grid.min()
    assert upsampled.max() <= grid.max()


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (-1, 5)])
def test_a_map_without_pixels_is_refused(size):
    with pytest.raises(ValueError, match=r"a map cannot be drawn on -?\d x \d pixels"):
        maps.upsample(np.eye(3), size)


def test_upsampling_several_grids_at_once_is_refused():
    with pytest.raises(ValueError, match=r"^a map must have the shape \(rows, cols\), not \(2, 3, 3\)$"):
        maps.upsample(np.ones((2, 3, 3)), (9, 9))


def test_an_empty_map_is_refused():
    with pytest.raises(ValueError, match=r"^the map must not be empty; the shape is \(0, 3\)$"):
        maps.min_max(np.ones((0, 3)))


def test_an_unknown_interpolation_is_refused_with_the_known_ones():
    with pytest.raises(SelectionError) as refused:
        maps.upsample(np.eye(3), (9, 9), "linear")
    assert str(refused.value) == "there is no interpolation 'linear'; choose one of bicubic, nearest"


def test_self_attention_is_the_first_number_of_each_head():
    assert maps.class_token_attention([[0.5, 0.5, 0], [0.25, 0, 0.75]]).tolist() == [0.5, 0.25]


def test_entropy_is_taken_over_the_patches_alone():
    attention = [[0.9, 0.05, 0.05, 0, 0], [0.2, 0.2, 0.2, 0.2, 0.2], [0.5, 0, 0.5, 0, 0]]
    assert maps.patch_entropy(attention) == pytest.approx([math.log(2), math.log(4), 0])


def test_effective_patches_count_what_shares_the_attention():
    attention = [[0.9, 0.05, 0.05, 0, 0], [0.2, 0.2, 0.2, 0.2, 0.2], [0.5, 0, 0.5, 0, 0]]
    assert maps.effective_patches(attention) == pytest.approx([2, 4, 1])


def test_a_head_that_looks_only_at_itself_has_numbers_and_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert maps.patch_entropy([[1, 0, 0, 0, 0]]).tolist() == [0]
        assert maps.effective_patches([[1, 0, 0, 0, 0]]).tolist() == [0]


@given(
    st.tuples(st.integers(1, 4), st.integers(2, 30)).flatmap(
        lambda shape: arrays(np.float32, shape, elements=st.floats(0, 1, width=32))
    )
)
def test_entropy_lies_between_one_patch_and_all(attention):
    patches = attention.shape[1] - 1
    entropy, spread = maps.patch_entropy(attention), maps.effective_patches(attention)
    assert (entropy >= 0).all()
    assert (entropy <= math.log(patches) + 1e-6).all()
    looked = attention[:, 1:].any(axis=1)
    assert (spread[looked] >= 1).all()
    assert (spread <= patches * (1 + 1e-5)).all()
    assert not spread[~looked].any()


def test_the_arrays_given_are_left_alone():
    attention = np.array([[0.2, 0.5, 0.3]], np.float32)
    before = attention.copy()
    maps.class_token_attention(attention)[:] = 7
    maps.patch_entropy(attention)
    maps.saliency(attention, (1, 2))
    maps.upsample(attention, (4, 4))
    assert (attention == before).all()
