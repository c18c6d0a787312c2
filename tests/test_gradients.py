"""Gradients with respect to attention: against finite differences in float64, and from another process."""

import numpy as np
import pytest
from reference import lively_weights, timm_shapes

import cait_viz
from cait_viz.attention.relevance import class_relevance, patch_relevance, weighted
from cait_viz.engine.tape import GradientTape
from cait_viz.errors import EngineError, SelectionError
from cait_viz.model.cait import CaiT
from cait_viz.model.config import CaiTConfig
from cait_viz.model.layers import changed_attention
from cait_viz.model.timm_names import assign

STEP = 1e-6


def network(**options):
    """A tiny network in float64 whose every branch matters."""
    config = CaiTConfig(
        image_size=16, patch_size=8, projection_dim=8, sa_ffn_layers=2, num_classes=3, **options
    )
    model = CaiT(config, dtype="float64")
    assign(model, lively_weights(timm_shapes(config)))
    return model


def noise(seed=0, side=16):
    return np.random.default_rng(seed).standard_normal((1, side, side, 3)).astype(np.float32)


def run(model, image, changes=()):
    """The logits, and every attention, with what is added to some of them, by their place."""
    seen = []

    def change(attention):
        seen.append(attention)
        return attention + dict(changes).get(len(seen) - 1, 0.0)

    with changed_attention(change):
        logits, _ = model.classify(model.encode(image.astype(np.float64), training=False))
    return np.asarray(logits)[0], [np.asarray(attention) for attention in seen]


def finite_difference(model, image, target, place, shape):
    """The gradient of a class's logit with respect to one attention, number by number."""
    found = np.zeros(shape)
    for index in np.ndindex(*shape):
        ends = []
        for sign in (1, -1):
            added = np.zeros(shape)
            added[index] = sign * STEP
            ends.append(run(model, image, {place: added})[0][target])
        found[index] = (ends[0] - ends[1]) / (2 * STEP)
    return found


@pytest.mark.parametrize("options", [{"num_heads": 2}, {"num_heads": 1, "ca_ffn_layers": 1}])
def test_gradients_and_relevance_are_those_of_finite_differences(options):
    model, image = network(**options), noise()
    _, attention = run(model, image)
    depth, tape = model.config.sa_ffn_layers, GradientTape(model)
    for target in (2, 0):
        found = tape.gradients(image, target)
        by_hand = [finite_difference(model, image, target, k, one.shape) for k, one in enumerate(attention)]
        pairs = [(one[0], other[0]) for one, other in zip(attention, by_hand, strict=True)]
        for block, (one, other) in enumerate(pairs[depth:]):
            np.testing.assert_allclose(found.attention[block], one[:, 0], atol=1e-6)
            np.testing.assert_allclose(found.gradient[block], other[:, 0], rtol=1e-4, atol=1e-7)
        rows = [weighted(one[:, 0], other[:, 0]) for one, other in pairs[depth:]]
        expected = class_relevance(rows, patch_relevance(weighted(*pair) for pair in pairs[:depth]))
        np.testing.assert_allclose(found.relevance, expected, rtol=1e-4, atol=1e-8)
        assert found.relevance.max() > 0


def test_one_patch_has_all_the_relevance():
    config = CaiTConfig(
        image_size=8, patch_size=8, projection_dim=8, sa_ffn_layers=1, num_heads=2, num_classes=2
    )
    model = CaiT(config)
    assign(model, lively_weights(timm_shapes(config)))
    assert GradientTape(model).gradients(noise(side=8), 1).relevance.shape == (1,)


def test_a_network_that_asks_no_class_token_has_no_relevance():
    assert not GradientTape(network(num_heads=2, global_pool="avg")).gradients(noise(), 1).relevance.any()


class Counted(CaiT):
    """A network that notes each pass through its patch stage in Python: a compilation."""

    def encode(self, *arguments, **named):
        self.__dict__.setdefault("passes", []).append(1)
        return super().encode(*arguments, **named)


def test_the_network_is_compiled_once_and_each_image_and_class_has_its_own_gradients():
    config = CaiTConfig(
        image_size=16, patch_size=8, projection_dim=8, sa_ffn_layers=1, num_heads=2, num_classes=3
    )
    model = Counted(config)
    assign(model, lively_weights(timm_shapes(config)))
    tape = GradientTape(model)
    asked = [(seed, target) for seed in (0, 1) for target in (0, 2, 0)]
    found = [tape.gradients(noise(seed), target) for seed, target in asked]
    assert model.passes == [1]
    for (seed, target), one in zip(asked, found, strict=True):
        alone = GradientTape(model).gradients(noise(seed), target)
        np.testing.assert_allclose(one.gradient, alone.gradient, atol=1e-7)
    assert np.abs(found[0].gradient - found[1].gradient).max() > 1e-4
    assert np.abs(found[0].gradient - found[3].gradient).max() > 1e-4


def test_the_attention_of_a_network_is_not_changed_when_nobody_asks(tiny_model, photo):
    image = cait_viz.preprocess(photo, tiny_model)
    before = np.asarray(tiny_model(image)[0])
    with changed_attention(lambda attention: attention * 0):
        assert np.abs(np.asarray(tiny_model(image)[0]) - before).max() > 1e-3
    np.testing.assert_array_equal(np.asarray(tiny_model(image)[0]), before)


def test_another_process_gives_the_same_without_tensorflow_in_this_one(
    run_python, tiny_weights, tiny_model, photo, tmp_path
):
    image = cait_viz.preprocess(photo, tiny_model)
    np.save(tmp_path / "image.npy", image)
    script = """
import sys
import numpy as np
from cait_viz.api import load_engine
engine = load_engine(weights=sys.argv[1])
image = np.load(sys.argv[2])
found = [engine.class_gradients(image, target) for target in (3, 4)]
arrays = {f"{k}_{name}": a for k, one in enumerate(found) for name, a in one._asdict().items()}
np.savez(sys.argv[3], **arrays)
assert not {"keras", "tensorflow"} & set(sys.modules)
"""
    run_python(script, tiny_weights, tmp_path / "image.npy", tmp_path / "found.npz")
    expected = [GradientTape(tiny_model).gradients(image, target) for target in (3, 4)]
    with np.load(tmp_path / "found.npz") as found:
        for k, one in enumerate(expected):
            for name, array in one._asdict().items():
                np.testing.assert_allclose(found[f"{k}_{name}"], array, rtol=1e-3, atol=1e-6)


def test_a_class_that_is_not_there_is_refused(tiny_weights, photo):
    engine = cait_viz.load_engine(weights=tiny_weights)
    image = cait_viz.preprocess(photo, engine)
    with pytest.raises(SelectionError, match="no class 10"):
        engine.class_gradients(image, 10)


def test_what_the_memory_has_no_room_for_is_refused_at_once(tiny_weights, photo, monkeypatch):
    from cait_viz.engine import memory

    engine = cait_viz.load_engine(weights=tiny_weights)
    monkeypatch.setattr(memory, "available", lambda: 10**8)
    with pytest.raises(
        EngineError, match=r"gradients of tiny need about .* GB of memory and 0\.1 GB are free"
    ):
        engine.class_gradients(cait_viz.preprocess(photo, engine), 1)
