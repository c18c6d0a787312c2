"""Deletion and insertion have the areas worked out by hand; references and intervals hold what they say."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cait_viz.attention import maps
from cait_viz.images.preprocess import normalize
from cait_viz.metrics.faithfulness import (
    STEPS,
    blurred,
    bootstrap_interval,
    curves,
    gaussian_map,
)

SIDE = 12


def noise(seed=0, side=SIDE):
    """An image no pixel of which equals its mean or its blurred copy."""
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def ranks(seed=0, side=SIDE):
    """A map whose values all differ."""
    return np.random.default_rng(seed).permutation(side * side).reshape(side, side).astype(np.float32)


class Watching:
    """A model of two classes: the first is as sure as many of the watched pixels are the image's own.

    Its probability goes from 1 with all of them to 1/2 with none. The batches it gets are kept.
    """

    def __init__(self, pixels, watched):
        self.original = normalize(pixels)
        self.watched = watched
        self.batches = []

    def __call__(self, images):
        self.batches.append(images)
        kept = (images == self.original).all(axis=-1)[:, self.watched].mean(axis=1)
        first = 0.5 + 0.5 * kept
        return np.stack([first, 1 - first], axis=1)


def watching_all(pixels):
    return Watching(pixels, np.ones(pixels.shape[:2], bool))


def some(share, seed=0, side=SIDE):
    """A mask of that share of the pixels."""
    return ranks(seed, side) < share * side * side


@given(seed=st.integers(0, 1000), steps=st.integers(1, 40))
@settings(max_examples=30)
def test_where_every_pixel_counts_the_same_every_map_scores_the_same(seed, steps):
    pixels = noise(seed)
    [both] = curves(pixels, [ranks(seed + 1)], watching_all(pixels), steps)
    assert both.deletion.area == pytest.approx(0.75)
    assert both.insertion.area == pytest.approx(0.75)
    np.testing.assert_allclose(both.deletion.probabilities, 1 - both.deletion.fractions / 2)
    np.testing.assert_allclose(both.insertion.probabilities, 0.5 + both.insertion.fractions / 2)


@given(share=st.integers(1, 99), seed=st.integers(0, 100))
@settings(max_examples=30)
def test_the_map_of_the_pixels_that_count_has_the_area_worked_out_by_hand(share, seed):
    pixels, watched = noise(seed), some(share / 100, seed + 1)
    [both] = curves(pixels, [watched], Watching(pixels, watched))
    # They go all at once, since they have one value in the map; the rest changes nothing.
    part = watched.mean()
    assert both.deletion.area == pytest.approx(0.75 * part + 0.5 * (1 - part))
    assert both.insertion.area == pytest.approx(0.75 * part + 1.0 * (1 - part))


def test_the_map_of_the_pixels_that_count_beats_random_maps_and_its_own_reverse():
    pixels, watched = noise(), some(0.2)
    generator = np.random.default_rng(0)
    noises = [maps.upsample(generator.random((4, 4)), (SIDE, SIDE)) for _ in range(5)]
    right, wrong, *random = curves(pixels, [watched, ~watched, *noises], Watching(pixels, watched))
    for other in (wrong, *random):
        assert right.deletion.area < other.deletion.area
        assert right.insertion.area > other.insertion.area
    for better in random:
        assert wrong.deletion.area > better.deletion.area
        assert wrong.insertion.area < better.insertion.area


def test_the_fractions_are_the_shares_that_were_really_replaced():
    pixels = noise(side=7)
    model = watching_all(pixels)
    [both] = curves(pixels, [ranks(side=7)], model)
    expected = np.round(np.arange(STEPS + 1) * 49 / STEPS) / 49
    np.testing.assert_allclose(both.deletion.fractions, expected)
    np.testing.assert_allclose(both.insertion.fractions, expected)
    np.testing.assert_allclose(both.deletion.probabilities, 1 - expected / 2)


@given(levels=st.integers(1, 6), steps=st.integers(1, 30), seed=st.integers(0, 100))
@settings(max_examples=30)
def test_pixels_of_one_value_go_together_and_their_share_is_given(levels, steps, seed):
    pixels = noise(seed)
    values = np.random.default_rng(seed).integers(0, levels, (SIDE, SIDE)).astype(np.float32)
    curve = curves(pixels, [values], watching_all(pixels), steps)[0].deletion
    possible = {np.mean(values >= level) for level in np.unique(values)} | {0.0}
    assert set(curve.fractions) <= possible
    assert (np.diff(curve.fractions) > 0).all()
    assert (curve.fractions[0], curve.fractions[-1]) == (0, 1)
    np.testing.assert_allclose(curve.probabilities, 1 - curve.fractions / 2)


def test_a_flat_map_has_no_order_so_that_its_curves_are_straight_lines():
    pixels = noise()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        [both] = curves(pixels, [np.full((SIDE, SIDE), 0.25)], watching_all(pixels))
    for curve in both:
        np.testing.assert_array_equal(curve.fractions, [0, 1])
    assert both.deletion.area == pytest.approx(0.75)
    assert both.insertion.area == pytest.approx(0.75)


def test_more_steps_than_pixels_replace_one_pixel_at_a_time():
    pixels = noise(side=4)
    curve = curves(pixels, [ranks(side=4)], watching_all(pixels), steps=100)[0].insertion
    np.testing.assert_allclose(curve.fractions, np.arange(17) / 16)


def test_only_the_order_of_a_map_counts():
    pixels, watched, values = noise(), some(0.3), ranks()
    [plain] = curves(pixels, [values], Watching(pixels, watched))
    [bent] = curves(pixels, [np.exp(values / 50) - 7], Watching(pixels, watched))
    for curve, other in zip(plain, bent, strict=True):
        np.testing.assert_array_equal(curve.probabilities, other.probabilities)


def test_several_maps_at_once_give_what_each_gives_alone():
    pixels, watched = noise(), some(0.3)
    several = [ranks(1), np.zeros((SIDE, SIDE)), ranks(2)]
    for values, both in zip(several, curves(pixels, several, Watching(pixels, watched)), strict=True):
        for alone, together in zip(*curves(pixels, [values], Watching(pixels, watched)), both, strict=True):
            np.testing.assert_array_equal(alone.fractions, together.fractions)
            np.testing.assert_array_equal(alone.probabilities, together.probabilities)


@pytest.mark.parametrize("batch", [1, 8, 100])
def test_the_model_meets_one_shape_and_no_image_more_than_is_needed(batch):
    pixels = noise()
    model = watching_all(pixels)
    found = curves(pixels, [ranks(1), ranks(2)], model, batch=batch)
    assert {images.shape for images in model.batches} == {(batch, SIDE, SIDE, 3)}
    assert {images.dtype for images in model.batches} == {np.dtype(np.float32)}
    # Three ends for all, and for both maps all other steps of both curves.
    assert len(model.batches) == -(-(3 + 2 * 2 * (STEPS - 1)) // batch)
    assert [both.deletion.area for both in found] == pytest.approx([0.75, 0.75])


def test_the_ends_are_the_image_its_mean_color_and_its_blurred_copy():
    pixels = noise()
    model = watching_all(pixels)
    curves(pixels, [ranks()], model)
    original, mean, blur = model.batches[0][:3]
    np.testing.assert_array_equal(original, normalize(pixels))
    np.testing.assert_allclose(mean, np.broadcast_to(original.mean(axis=(0, 1)), mean.shape), atol=1e-6)
    np.testing.assert_array_equal(blur, blurred(original))


def test_the_class_that_is_followed_is_the_one_predicted_on_the_whole_image():
    pixels = noise()

    def fickle(images):
        whole = (images == normalize(pixels)).all(axis=(1, 2, 3))
        return np.where(whole[:, None], [[0.2, 0.7, 0.1]], [[0.05, 0.15, 0.8]])

    [both] = curves(pixels, [ranks()], fickle)
    assert both.deletion.probabilities[0] == both.insertion.probabilities[-1] == pytest.approx(0.7)
    assert both.deletion.probabilities[1:] == pytest.approx(0.15)
    assert both.insertion.probabilities[:-1] == pytest.approx(0.15)


@pytest.mark.parametrize(
    ("pixels", "saliency", "message"),
    [
        (noise().astype(np.float32), ranks(), "uint8 of the shape"),
        (noise(), ranks(side=4), r"must have the shape \(12, 12\), not \(4, 4\)"),
        (noise(), np.full((SIDE, SIDE), np.nan), "NaN"),
    ],
)
def test_what_does_not_belong_together_is_refused(pixels, saliency, message):
    with pytest.raises(ValueError, match=message):
        curves(pixels, [saliency], lambda images: np.ones((len(images), 2)))


def test_the_blur_is_a_gaussian_of_11_pixels_at_224():
    point = np.zeros((224, 224, 3))
    point[100, 100] = 1
    blur = blurred(point)
    assert blur.dtype == np.float32
    rows, cols, _ = np.nonzero(blur)
    assert (rows.min(), rows.max(), cols.min(), cols.max()) == (95, 105, 95, 105)
    assert blur.sum(axis=(0, 1)) == pytest.approx(1, abs=1e-5)
    assert blur[103, 100, 0] / blur[100, 100, 0] == pytest.approx(np.exp(-0.5 * (3 / 5) ** 2), rel=1e-5)


@pytest.mark.parametrize("side", [16, 64, 224, 384])
def test_the_blur_keeps_a_plain_image_up_to_its_edges(side):
    image = np.broadcast_to(np.float32([0.5, -1, 2]), (side, side, 3))
    np.testing.assert_allclose(blurred(image), image, rtol=1e-6)


@pytest.mark.parametrize("grid_shape", [(14, 14), (9, 9), (4, 7)])
def test_the_gaussian_points_at_the_middle(grid_shape):
    grid = gaussian_map(grid_shape)
    assert grid.shape == grid_shape
    np.testing.assert_allclose(grid, grid[::-1, ::-1], rtol=1e-6)
    rows, cols = (length // 2 for length in grid_shape)
    assert grid[rows, cols] == grid.max()
    assert (np.diff(grid[rows, cols:]) < 0).all()
    assert (np.diff(grid[rows:, cols]) < 0).all()


def test_the_gaussians_sigma_is_a_quarter_of_the_side():
    grid = gaussian_map((9, 9))
    assert grid[4, 4] == 1
    assert grid[4, 8] == pytest.approx(np.exp(-0.5 * (4 / 2.25) ** 2))


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=60))
@settings(max_examples=50)
def test_an_interval_holds_the_mean_of_its_values(values):
    low, high = bootstrap_interval(values, np.random.default_rng(0), resamples=2000)
    assert low - 1e-9 <= np.mean(values) <= high + 1e-9
    assert min(values) - 1e-9 <= low
    assert high <= max(values) + 1e-9


def test_an_interval_is_the_same_for_the_same_seed_and_moves_with_another():
    values = np.random.default_rng(0).normal(size=40)
    first, again, other = (bootstrap_interval(values, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_an_interval_is_that_of_the_means_of_the_resamples():
    values = np.random.default_rng(0).normal(size=3000)
    drawn = values[np.random.default_rng(1).integers(3000, size=(2000, 3000))].mean(axis=1)
    interval = bootstrap_interval(values, np.random.default_rng(1), resamples=2000)
    assert interval == pytest.approx(np.quantile(drawn, [0.025, 0.975]))


def test_intervals_hold_the_true_mean_about_as_often_as_they_claim():
    generator = np.random.default_rng(0)
    held = []
    for _ in range(300):
        low, high = bootstrap_interval(generator.normal(3, 2, 60), generator, resamples=1000)
        held.append(low <= 3 <= high)
    assert 0.90 <= np.mean(held) <= 0.99


@pytest.mark.parametrize("values", [[], [[1.0]], [np.nan], [1.0, np.inf]])
def test_an_interval_of_nothing_or_of_no_numbers_is_refused(values):
    with pytest.raises(ValueError, match="finite numbers"):
        bootstrap_interval(values, np.random.default_rng(0))
