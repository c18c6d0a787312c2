"""Maps are measured beside maps that know nothing, on a network whose answer can be worked out."""

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import cait_viz
from cait_viz.attention import maps
from cait_viz.errors import SelectionError
from cait_viz.images.preprocess import normalize, resize_and_crop
from cait_viz.images.read import read_image
from cait_viz.metrics.faithfulness import CENTER, RANDOM, confidence, curves
from cait_viz.results.trustworthiness import measure_trust

SIDE, GRID = 32, (4, 4)


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(1).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


def corner(pixels):
    """A model that is sure as far as the pixels of the upper left patch are the image's own."""
    original = normalize(pixels)[:8, :8]

    def predict(images):
        kept = (np.abs(images[:, :8, :8] - original) < 1e-6).all(axis=-1).mean(axis=(1, 2))
        first = 0.5 + 0.5 * kept
        return np.stack([first, 1 - first], axis=1)

    return predict


def pointing(row, column):
    grid = np.zeros(GRID, np.float32)
    grid[row, column] = 1
    return grid


def test_a_map_that_points_at_the_cause_beats_one_that_does_not_and_both_baselines(pixels):
    trust = measure_trust(pixels, {"cause": pointing(0, 0), "other": pointing(3, 3)}, corner(pixels))
    assert list(trust.curves) == ["cause", "other", CENTER, RANDOM]
    assert list(trust.confidence) == ["cause", "other", CENTER]
    areas = {name: (both.deletion.area, both.insertion.area) for name, both in trust.curves.items()}
    for name in ("other", CENTER, RANDOM):
        assert areas["cause"][0] < areas[name][0]
        assert areas["cause"][1] > areas[name][1]
    assert trust.nbytes > 0


def test_the_curves_are_those_of_the_maps_alone(pixels):
    predict = corner(pixels)
    trust = measure_trust(pixels, {"cause": pointing(0, 0)}, predict)
    [alone] = curves(pixels, [maps.upsample(pointing(0, 0), (SIDE, SIDE))], predict)
    for found, expected in zip(trust.curves["cause"], alone, strict=True):
        np.testing.assert_array_equal(found.probabilities, expected.probabilities)


def test_confidence_is_what_is_left_of_the_predicted_class(pixels):
    def predict(images):
        first = 0.5 + 0.4 * np.tanh(np.abs(images).mean(axis=(1, 2, 3)))
        return np.stack([first, 1 - first], axis=1)

    everything, half, nothing = (np.full((SIDE, SIDE), share, np.float32) for share in (1, 0.5, 0))
    whole = predict(normalize(pixels)[np.newaxis])[0, 0]
    kept, halved, lost = confidence(pixels, [everything, half, nothing], predict)
    assert kept.drop == pytest.approx(0, abs=1e-6)
    assert not kept.increase
    assert 0 < halved.drop < lost.drop
    assert lost.drop == pytest.approx((whole - 0.5) / whole, abs=1e-6)
    rising = lambda images: predict(-1 / (1 + np.abs(images)))  # noqa: E731
    assert confidence(pixels, [nothing], rising)[0] == (0, True)


def test_another_class_is_followed_when_it_is_asked_for(pixels):
    predict, grids = corner(pixels), {"cause": pointing(0, 0)}
    first, second = measure_trust(pixels, grids, predict, 0), measure_trust(pixels, grids, predict, 1)
    for one, other in zip(first.curves["cause"], second.curves["cause"], strict=True):
        np.testing.assert_allclose(other.probabilities, 1 - one.probabilities, atol=1e-12)
    assert second.confidence["cause"] == (0, True)


def test_a_class_without_any_probability_has_none_to_lose(pixels):
    certain = lambda images: np.tile([1.0, 0.0], (len(images), 1))  # noqa: E731
    trust = measure_trust(pixels, {"any": pointing(0, 0)}, certain, 1)
    assert trust.confidence["any"] == (0, False)
    assert trust.curves["any"].deletion.area == 0


def test_the_progress_is_told_and_ends_the_measurement(pixels):
    told = []
    measure_trust(pixels, {"a": pointing(1, 1)}, corner(pixels), progress=lambda *part: told.append(part))
    *before, (done, total) = told
    assert before == [(number, total) for number in range(len(before))]
    assert done == total  # equal values are replaced together, in fewer steps
    assert len(before) <= total <= len(before) + 4

    def stop(done, total):
        if done == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        measure_trust(pixels, {"a": pointing(1, 1)}, corner(pixels), progress=stop)


@pytest.mark.parametrize("name", [CENTER, RANDOM])
def test_a_map_is_not_called_as_a_baseline_is(pixels, name):
    with pytest.raises(SelectionError, match=f"{name}: names a baseline"):
        measure_trust(pixels, {name: pointing(1, 1)}, corner(pixels))


def test_a_flat_map_is_measured_too(pixels):
    trust = measure_trust(pixels, {"flat": np.ones(GRID, np.float32)}, corner(pixels))
    assert len(trust.curves["flat"].deletion.fractions) == 2


def test_the_network_is_asked_about_what_it_saw(photo, tiny_weights):
    engine = cait_viz.load_engine(weights=tiny_weights)
    grids = {"attention": cait_viz.analyze(photo, engine).saliency()}
    trust = cait_viz.trust(photo, engine, grids, seed=4)
    seen = np.asarray(resize_and_crop(read_image(photo), engine.config.image_size))

    def predict(images):
        logits = engine.forward(images)[0].astype(np.float64)
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        return shares / shares.sum(axis=1, keepdims=True)

    expected = measure_trust(seen, grids, predict, seed=4)
    for name, both in trust.curves.items():
        np.testing.assert_allclose(both.deletion.area, expected.curves[name].deletion.area, atol=1e-5)
    other = cait_viz.trust(photo, engine, grids, seed=5)
    assert other.curves[RANDOM].deletion.area != trust.curves[RANDOM].deletion.area
    assert other.curves[CENTER].deletion.area == trust.curves[CENTER].deletion.area
    first = cait_viz.trust(
        photo, engine, grids, seed=4, target=int(cait_viz.analyze(photo, engine).ranking[0])
    )
    assert first.curves[CENTER].deletion.area == trust.curves[CENTER].deletion.area
    with pytest.raises(SelectionError, match="no class"):
        cait_viz.trust(photo, engine, grids, target=10)


def test_a_sigmoid_s_only_class_is_the_one_that_is_followed(photo, tmp_path, tiny_weights):
    tensors = load_file(tiny_weights)
    head = {"head.weight": 0 * tensors["head.weight"][:1], "head.bias": 0 * tensors["head.bias"][:1] - 1.5}
    save_file(tensors | head, tmp_path / "one_class.safetensors")
    engine = cait_viz.load_engine(weights=tmp_path / "one_class.safetensors")
    grid = np.arange(np.prod(engine.config.grid_shape), dtype=np.float32).reshape(engine.config.grid_shape)
    followed, chosen = (cait_viz.trust(photo, engine, {"map": grid}, target=target) for target in (None, 0))
    assert followed.curves["map"].deletion.area == chosen.curves["map"].deletion.area
    assert followed.curves["map"].deletion.area == pytest.approx(1 / (1 + np.exp(1.5)), abs=1e-3)


def test_a_map_of_another_shape_is_refused(photo, tiny_weights):
    engine = cait_viz.load_engine(weights=tiny_weights)
    for grid in (np.ones((3, 7)), np.ones(16), [[1.0, 2.0]]):
        with pytest.raises(ValueError, match=r"the map 'a' must be of the network's \(4, 4\) patches"):
            cait_viz.trust(photo, engine, {"a": grid})
