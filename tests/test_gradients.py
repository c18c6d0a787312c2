"""Gradients with respect to attention: against finite differences in float64, and from another process."""

import contextlib
import os
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
from reference import lively_weights, timm_shapes
from safetensors.numpy import load_file, save_file

import cait_viz
from cait_viz.attention.probabilities import probabilities
from cait_viz.attention.relevance import class_relevance, patch_relevance, weighted
from cait_viz.engine import gradients
from cait_viz.engine.keras import engine_of
from cait_viz.engine.tape import FixedGradientTape, GradientTape
from cait_viz.engine.worker import Worker
from cait_viz.errors import CheckpointError, EngineError, SelectionError
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
    """The logits, and every attention; to that at some places something is added."""
    seen = []

    def change(attention):
        seen.append(attention)
        return attention + dict(changes).get(len(seen) - 1, 0.0)

    with changed_attention(change):
        logits, _ = model.classify(model.encode(image.astype(np.float64), training=False))
    return np.asarray(logits), [np.asarray(attention) for attention in seen]


def finite_difference(model, image, target, place, shape):
    """The gradient of a logit with respect to one attention; each number moves in a copy of the image."""
    moved = STEP * np.eye(np.prod(shape)).reshape(-1, *shape[1:])
    logits, _ = run(model, np.repeat(image, 2 * len(moved), axis=0), {place: np.concatenate([moved, -moved])})
    ahead, behind = np.split(logits[:, target], 2)
    return ((ahead - behind) / (2 * STEP)).reshape(shape)


@pytest.mark.parametrize(
    "options",
    [{"num_heads": 2}, {"num_heads": 1, "ca_ffn_layers": 1}, {"num_heads": 2, "global_pool": "avg"}],
)
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
        row = class_relevance([weighted(one[:, 0], other[:, 0]) for one, other in pairs[depth:]])
        if options.get("global_pool") == "avg":  # the classifier reads all patches alike, and no class token
            assert not row.any()
            row = np.full(model.config.num_patches, 1 / model.config.num_patches)
        expected = patch_relevance(row, [weighted(*pair) for pair in pairs[:depth][::-1]])
        np.testing.assert_allclose(found.relevance, expected, rtol=1e-4, atol=1e-8)
        assert found.relevance.max() > 0


def test_one_patch_has_all_the_relevance():
    config = CaiTConfig(
        image_size=8, patch_size=8, projection_dim=8, sa_ffn_layers=1, num_heads=2, num_classes=2
    )
    model = CaiT(config)
    assign(model, lively_weights(timm_shapes(config)))
    assert GradientTape(model).gradients(noise(side=8), 1).relevance.shape == (1,)


class Counted(CaiT):
    """A network that notes each forward pass, and each time that its class stage is compiled."""

    def embed(self, *arguments, **named):
        self.__dict__.setdefault("passes", []).append(1)
        return super().embed(*arguments, **named)

    def classify(self, *arguments, **named):
        self.__dict__.setdefault("compilations", []).append(1)
        return super().classify(*arguments, **named)


@pytest.fixture
def counted():
    config = CaiTConfig(
        image_size=16, patch_size=8, projection_dim=8, sa_ffn_layers=2, num_heads=2, num_classes=3
    )
    model = Counted(config)
    assign(model, lively_weights(timm_shapes(config)))
    return model


def test_another_class_of_an_image_takes_no_forward_pass_and_nothing_is_compiled_twice(counted):
    tape = FixedGradientTape(counted)
    asked = [(seed, target) for seed in (0, 1) for target in (0, 2, 0)]
    found = [tape.gradients(noise(seed), target) for seed, target in asked]
    assert len(counted.passes) == 2
    assert len(counted.compilations) == 1
    for (seed, target), one in zip(asked, found, strict=True):
        alone = GradientTape(counted).gradients(noise(seed), target)
        np.testing.assert_allclose(one.gradient, alone.gradient, atol=1e-7)
        np.testing.assert_allclose(one.relevance, alone.relevance, atol=1e-7)
    assert np.abs(found[0].gradient - found[1].gradient).max() > 1e-4
    assert np.abs(found[0].gradient - found[3].gradient).max() > 1e-4


def test_an_array_that_is_written_anew_is_another_image():
    model, image = network(num_heads=2), noise()
    tape = FixedGradientTape(model)
    tape.gradients(image, 1)
    image[:] = noise(1)
    np.testing.assert_allclose(
        tape.gradients(image, 1).gradient, GradientTape(model).gradients(noise(1), 1).gradient
    )


def test_two_threads_get_the_gradients_of_their_own_images():
    model = network(num_heads=2)
    tape, seeds = FixedGradientTape(model), [0, 1] * 8
    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(lambda seed: tape.gradients(noise(seed), 1), seeds))
    expected = [GradientTape(model).gradients(noise(seed), 1).gradient for seed in (0, 1)]
    for seed, one in zip(seeds, found, strict=True):
        np.testing.assert_allclose(one.gradient, expected[seed])


def test_a_network_whose_weights_change_has_new_gradients(counted):
    before = engine_of(counted).class_gradients(noise(), 1)
    for weight in counted.blocks[1].attn.proj_w.weights:
        weight.assign(2 * weight)
    after = engine_of(counted).class_gradients(noise(), 1)
    np.testing.assert_allclose(
        after.relevance, GradientTape(counted).gradients(noise(), 1).relevance, rtol=1e-4
    )
    assert np.abs(after.gradient - before.gradient).max() > 1e-4


def test_a_probability_of_1_leaves_its_class_gradients(counted):
    counted.head.bias.assign([0.0, 1000.0, 0.0])
    assert probabilities(np.asarray(counted(noise())[0]))[0, 1] == 1
    found = GradientTape(counted).gradients(noise(), 1)
    assert all(np.isfinite(array).all() for array in found)
    assert found.relevance.max() > 0


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


def worker_processes():
    """The processes of loky's that this one has started and that run."""
    found = set()
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):  # it has just ended
            if "popen_loky" in " ".join(child.cmdline()):
                found.add(child.pid)
    return found


def test_the_process_ends_when_idle_and_a_new_one_answers_unless_the_checkpoint_has_changed(
    tiny_weights, photo, tmp_path, monkeypatch
):
    monkeypatch.setattr(gradients, "WORKER", Worker("computes gradients", idle_seconds=1))
    path = shutil.copy(tiny_weights, tmp_path / "mine.safetensors")
    engine, before = cait_viz.load_engine(weights=path), worker_processes()
    image = cait_viz.preprocess(photo, engine)
    first = engine.class_gradients(image, 3)
    until = time.monotonic() + 60
    while worker_processes() > before and time.monotonic() < until:
        time.sleep(0.2)
    assert worker_processes() == before
    content = path.read_bytes()
    path.write_bytes(content[:-4] + b"\0\0\0\0")
    with pytest.raises(CheckpointError, match=r"mine\.safetensors: has changed since it was loaded"):
        engine.class_gradients(image, 3)
    path.write_bytes(content)
    np.testing.assert_allclose(engine.class_gradients(image, 3).relevance, first.relevance, rtol=1e-5)


def test_a_checkpoint_that_is_written_anew_is_another_one(tiny_weights, photo, tmp_path):
    path = Path(shutil.copy(tiny_weights, tmp_path / "training.safetensors"))
    before = cait_viz.load_engine(weights=path)
    image = cait_viz.preprocess(photo, before)
    before.class_gradients(image, 3)
    save_file({name: 0.5 * tensor for name, tensor in load_file(path).items()}, path)
    after, elsewhere = (
        cait_viz.load_engine(weights=place)
        for place in (path, shutil.copy(path, tmp_path / "other.safetensors"))
    )
    expected = elsewhere.class_gradients(image, 3)
    np.testing.assert_array_equal(after.class_gradients(image, 3).relevance, expected.relevance)
    new, fresh = (engine.randomized(image, 3, 0) for engine in (after, elsewhere))
    np.testing.assert_array_equal(new.rolled, fresh.rolled)


def test_two_first_questions_at_once_start_one_process_and_one_that_ended_is_replaced(
    tiny_weights, photo, monkeypatch
):
    monkeypatch.setattr(gradients, "WORKER", Worker("computes gradients"))
    engine, before = cait_viz.load_engine(weights=tiny_weights), worker_processes()
    image = cait_viz.preprocess(photo, engine)
    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(lambda target: engine.class_gradients(image, target), (3, 4)))
    [started] = worker_processes() - before
    # One that ended while nobody asked is replaced.
    os.kill(started, signal.SIGKILL)
    until = time.monotonic() + 60
    while started in worker_processes() and time.monotonic() < until:
        time.sleep(0.2)
    time.sleep(1)
    np.testing.assert_allclose(engine.class_gradients(image, 3).gradient, found[0].gradient, atol=1e-6)
    assert np.abs(found[0].gradient - found[1].gradient).max() > 1e-4


def test_without_tensorflow_the_message_says_what_to_install(tiny_weights, photo, monkeypatch):
    engine = cait_viz.load_engine(weights=tiny_weights)
    image = cait_viz.preprocess(photo, engine)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(EngineError, match="pip install tensorflow"):
        engine.class_gradients(image, 3)


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
