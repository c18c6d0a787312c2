"""Rollout, its read-out and the attention distance, against brute force in float64."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cait_viz.attention.patch_stage import mean_distance, read_out, rollout


def distributions(*shape, seed=0):
    values = np.random.default_rng(seed).random(shape)
    return values / values.sum(axis=-1, keepdims=True)


sizes = st.integers(1, 5)


@given(st.integers(1, 4), sizes, st.floats(0, 1), st.integers(0, 9))
def test_a_rollout_is_the_sum_over_all_paths(depth, patches, residual, seed):
    attention = distributions(depth, patches, patches, seed=seed)
    found = rollout(attention, residual)
    assert found.dtype == np.float64
    expected = np.zeros((patches, patches))
    for path in itertools.product(range(patches), repeat=depth + 1):  # from the last block back to the image
        share = 1.0
        for step, (here, there) in enumerate(itertools.pairwise(path)):
            share *= residual * (here == there) + (1 - residual) * attention[depth - 1 - step, here, there]
        expected[path[0], path[-1]] += share
    np.testing.assert_allclose(found, expected, atol=1e-12)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-12)


def test_a_rollout_goes_back_through_the_blocks_in_their_order():
    first, second = np.eye(3)[[1, 2, 0]], np.eye(3)[[0, 2, 1]]  # where each patch looks, and nowhere else
    np.testing.assert_array_equal(rollout([first, second], residual=0).argmax(axis=1), [1, 0, 2])


def test_a_rollout_of_no_block_is_refused():
    with pytest.raises(ValueError, match="at least one block"):
        rollout([])


@given(st.integers(1, 3), sizes, st.integers(0, 9))
def test_a_read_out_is_the_rollout_of_all_tokens_without_what_comes_from_the_class_token(
    heads, patches, seed
):
    class_attention = distributions(heads, patches + 1, seed=seed)
    rolled = distributions(patches, patches, seed=seed + 1)
    # The class token and the patches as one set of tokens; the token comes from itself alone.
    together = np.eye(patches + 1)
    together[1:, 1:] = rolled
    expected = (class_attention @ together)[:, 1:]
    found = read_out(class_attention, rolled)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected / expected.sum(axis=1, keepdims=True), atol=1e-6)


def test_a_head_that_looks_at_itself_alone_reads_nothing():
    assert read_out([[1, 0, 0], [0, 1, 1]], np.eye(2)).tolist() == [[0, 0], [0.5, 0.5]]


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.integers(1, 32), st.integers(0, 9))
def test_the_distance_is_that_between_the_centers_of_patches(heads, rows, cols, side, seed):
    attention = distributions(heads, rows * cols, rows * cols, seed=seed)
    centers = [((row + 0.5) * side, (col + 0.5) * side) for row in range(rows) for col in range(cols)]
    expected = [
        sum(
            head[i, j] * math.dist(centers[i], centers[j]) / len(centers)
            for i in range(len(centers))
            for j in range(len(centers))
        )
        for head in attention
    ]
    found = mean_distance(attention, (rows, cols), side)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_patch_that_looks_at_itself_looks_nowhere_else():
    assert mean_distance(np.eye(6)[np.newaxis], (2, 3), 16).tolist() == [0]
