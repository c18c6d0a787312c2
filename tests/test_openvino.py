"""The engine that looks: the same numbers as Keras', without Keras in the process."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from reference import lively_weights, timm_shapes
from safetensors.numpy import save_file

import cait_viz
from cait_viz.engine import memory
from cait_viz.engine.base import Engine
from cait_viz.engine.load import ENGINE_SETTING, load_engine
from cait_viz.engine.openvino import OpenVINOEngine
from cait_viz.errors import CheckpointError, EngineError, SelectionError
from cait_viz.model.config import CaiTConfig
from cait_viz.weights.architecture import Checkpoint
from cait_viz.weights.resolve import resolve
from cait_viz.weights.safetensors import open_safetensors

ARCHITECTURES = {
    "usual": CaiTConfig(image_size=64, projection_dim=48, sa_ffn_layers=3, num_classes=10),
    "one head, mean of the patches": CaiTConfig(
        image_size=24,
        patch_size=8,
        projection_dim=20,
        sa_ffn_layers=2,
        ca_ffn_layers=1,
        num_heads=1,
        num_classes=3,
        global_pool="avg",
    ),
    "one head and one patch, no LayerScale": CaiTConfig(
        image_size=16,
        projection_dim=24,
        sa_ffn_layers=1,
        ca_ffn_layers=3,
        num_heads=1,
        mlp_ratio=2.5,
        layer_norm_eps=1e-3,
        init_values=None,
        num_classes=1,
    ),
    "features": CaiTConfig(image_size=32, projection_dim=24, sa_ffn_layers=2, num_heads=2, pre_logits=True),
}


def noise(batch, size):
    return np.random.default_rng(batch).standard_normal((batch, size, size, 3)).astype(np.float32)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.delenv(ENGINE_SETTING, raising=False)
        yield


@pytest.fixture(scope="module", params=ARCHITECTURES)
def checkpoint(request, tmp_path_factory):
    config = ARCHITECTURES[request.param]
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_file(lively_weights(timm_shapes(config)), path)
    return Checkpoint(
        name="mine", config=config, variant=None, as_published=False, file=open_safetensors(path)
    )


@pytest.fixture(scope="module")
def engines(checkpoint):
    return load_engine(checkpoint), load_engine(checkpoint, engine="keras")


def assert_same(found, expected, tolerance=1e-5):
    assert [list(part) for part in found[1:]] == [list(part) for part in expected[1:]]
    for one, other in zip(arrays(found), arrays(expected), strict=True):
        assert type(one) is np.ndarray
        assert one.dtype == np.float32
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance)


def arrays(answer):
    logits, *attention = answer
    return [logits, *(array for part in attention for array in part.values())]


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_every_architecture_and_batch_gives_kerass_numbers(engines, batch):
    openvino, keras = engines
    images = noise(batch, openvino.config.image_size)
    assert_same(openvino.forward(images), keras.forward(images))


def test_each_self_attention_block_gives_kerass_numbers(engines):
    openvino, keras = engines
    images = noise(2, openvino.config.image_size)
    depth = openvino.config.sa_ffn_layers
    for blocks in [*((block,) for block in range(depth)), (0, depth - 1)]:
        assert_same(openvino.forward(images, blocks), keras.forward(images, blocks))


def test_each_part_of_the_network_gives_kerass_numbers_and_those_of_the_whole(engines):
    openvino, keras = engines
    config, image = openvino.config, noise(1, openvino.config.image_size)
    logits, _, attention = openvino.forward(image)
    patches = openvino.patches(image)
    assert patches.shape == (config.sa_ffn_layers + 1, config.num_patches, config.projection_dim)
    np.testing.assert_allclose(patches, keras.patches(image), atol=1e-5)
    np.testing.assert_array_equal(openvino.patches(image, [1, 0]), patches[[1, 0]])
    read = openvino.class_stage(patches[-1:])
    assert_same((read[0], read[1]), (logits, attention))
    _, whole, _ = keras.forward(image, range(config.sa_ffn_layers))
    for block, mixed in enumerate(whole.values()):
        softmax = [engine.self_attention(patches[block], block) for engine in engines]
        np.testing.assert_allclose(softmax[0].sum(axis=-1), 1, atol=1e-5)
        np.testing.assert_allclose(softmax[0], softmax[1], atol=1e-5)
        for engine in engines:
            found = engine.self_attention(patches[block], block, mixed=True)
            np.testing.assert_allclose(found, mixed[0], atol=1e-5)


def test_a_silenced_head_changes_what_it_can(engines):
    openvino, keras = engines
    config = openvino.config
    patches = openvino.patches(noise(1, config.image_size))[-1:]
    heads = (config.ca_ffn_layers, config.num_heads)
    masks = 1 - np.eye(np.prod(heads), dtype=np.float32).reshape(-1, *heads)
    many = np.repeat(patches, len(masks), axis=0)
    found = openvino.class_stage(many, masks)
    assert_same(found, keras.class_stage(many, masks))
    whole, attention = openvino.class_stage(patches)
    changed = np.abs(found[0] - whole).max(axis=-1) > 1e-4
    # The mean of the patches asks no class token.
    assert changed.all() if config.global_pool == "token" else not changed.any()
    # A head of the first block cannot change where that block itself looked.
    np.testing.assert_allclose(
        found[1]["ca_ffn_block_0_att"], np.repeat(attention["ca_ffn_block_0_att"], len(masks), 0), atol=1e-6
    )


@pytest.mark.parametrize("depth", [-1, 13, 1.5])
def test_a_depth_that_is_not_there_is_refused(bundled_engine, depth):
    with pytest.raises(SelectionError, match="numbered from 0 to 12"):
        bundled_engine.patches(noise(1, 224), [depth])


def test_patches_are_of_one_image(bundled_engine):
    with pytest.raises(ValueError, match="one image"):
        bundled_engine.patches(noise(2, 224))


def test_an_answer_is_not_changed_by_the_next(engines):
    openvino, _ = engines
    size = openvino.config.image_size
    answer = openvino.forward(noise(2, size))
    kept = [array.copy() for array in arrays(answer)]
    openvino.forward(noise(2, size) + 1)
    for array, before in zip(arrays(answer), kept, strict=True):
        np.testing.assert_array_equal(array, before)


def test_threads_get_their_own_answers(engines):
    openvino, _ = engines
    batches = [noise(batch, openvino.config.image_size) for batch in (1, 2, 3, 4)] * 5
    alone = [openvino.forward(images) for images in batches]
    with ThreadPoolExecutor(4) as threads:
        for found, expected in zip(threads.map(openvino.forward, batches), alone, strict=True):
            assert_same(found, expected)


def test_bfloat16_is_float32_outside_and_near_it(bundled_engine):
    images = noise(2, 224)
    rough = load_engine(resolve(), precision="bfloat16").forward(images)
    assert_same(rough, bundled_engine.forward(images), tolerance=0.2)


def test_float32_is_float32_on_processors_that_have_bfloat16(bundled_engine, bundled):
    images = noise(2, 224)
    assert_same(bundled_engine.forward(images), load_engine(resolve(), engine="keras").forward(images))
    assert bundled_engine.labels == bundled.labels
    assert bundled_engine.source == bundled.source


@pytest.fixture(scope="module")
def bundled_engine():
    return load_engine(resolve())


LOOK = """
import json, sys
import cait_viz
from cait_viz._resources import SAMPLES
engine = cait_viz.load_engine()
analysis = cait_viz.analyze(SAMPLES / "cat.jpg", engine)
analysis.png()
heavy = {"keras", "tensorflow", "torch", "jax"} & set(sys.modules)
print(json.dumps([sorted(heavy), analysis.top(1)]))
"""

# Of every Python process that is started: what it would have sent.
WATCH = """
import os, sys
def note(event, details):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        with open(os.environ["WATCHED"], "a") as file:
            file.write(f"{event} {details}\\n")
sys.addaudithook(note)
with open(os.environ["WATCHED"], "a") as file:
    file.write("started\\n")
"""


def test_who_only_looks_imports_no_keras_and_no_process_sends_anything(
    run_python, environment, monkeypatch, tmp_path
):
    (tmp_path / "sitecustomize.py").write_text(WATCH)
    monkeypatch.setitem(environment, "WATCHED", str(tmp_path / "watched"))
    monkeypatch.setitem(environment, "PYTHONPATH", f"{tmp_path}{os.pathsep}{environment['PYTHONPATH']}")
    monkeypatch.setitem(environment, "XDG_CACHE_HOME", str(tmp_path))  # exported anew
    assert json.loads(run_python(LOOK)[0])[0] == []
    assert set((tmp_path / "watched").read_text().splitlines()) == {"started"}
    assert (tmp_path / "watched").read_text().count("started") >= 2


def test_the_users_keras_settings_change_nothing(
    run_python, environment, monkeypatch, tmp_path, bundled_engine
):
    (tmp_path / "keras.json").write_text(json.dumps({"floatx": "bfloat16", "backend": "jax"}))
    monkeypatch.setitem(environment, "KERAS_HOME", str(tmp_path))
    monkeypatch.setitem(environment, "KERAS_BACKEND", "torch")
    monkeypatch.setitem(environment, "XDG_CACHE_HOME", str(tmp_path))  # exported anew
    usual = json.loads(run_python(LOOK)[0])[1]
    monkeypatch.undo()
    assert usual == json.loads(run_python(LOOK)[0])[1]


CONTROL_C = """
import signal, sys
import cait_viz
signal.signal(signal.SIGINT, signal.default_int_handler)
engines = [cait_viz.load_engine(weights=path) for path in sys.argv[1:]]
while engines:
    del engines[0]
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_control_c_interrupts_a_process_that_has_given_up_networks(run_python, tiny_weights, small_weights):
    out, _ = run_python(CONTROL_C, tiny_weights, small_weights, tiny_weights)
    assert out == "interrupted\n"


def test_without_openvino_keras_looks_and_says_so(tiny_weights, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    said = []
    engine = load_engine(resolve(weights=tiny_weights), tell=said.append)
    assert not isinstance(engine, OpenVINOEngine)
    assert engine.forward(noise(1, 64))[0].shape == (1, 10)
    assert len(said) == 1
    assert "OpenVINO cannot be imported" in said[0]
    with pytest.raises(EngineError, match="OpenVINO cannot be imported"):
        load_engine(resolve(weights=tiny_weights), engine="openvino")


@pytest.mark.parametrize("options", [{"engine": "Keras"}, {"precision": "bf16"}])
def test_an_engine_or_a_precision_that_is_none_is_refused(tiny_weights, options):
    with pytest.raises(SelectionError, match=r"there is no (engine 'Keras'|precision 'bf16'); choose one of"):
        cait_viz.load_engine(weights=tiny_weights, **options)


def test_where_openvino_is_not_installed_it_is_said_in_a_sentence(run_python, tiny_weights):
    script = """
import importlib.metadata, sys
from cait_viz.engine.openvino import OpenVINOEngine
from cait_viz.errors import EngineError
from cait_viz.weights.resolve import resolve

found = importlib.metadata.distribution

def distribution(name):
    if name == "openvino":
        raise importlib.metadata.PackageNotFoundError(name)
    return found(name)

sys.modules["openvino"], importlib.metadata.distribution = None, distribution
try:
    OpenVINOEngine(resolve(weights=sys.argv[1]))
except EngineError as error:
    print(error)
"""
    assert "OpenVINO cannot be imported" in run_python(script, tiny_weights)[0]


def test_where_the_memory_has_no_room_for_several_images_they_are_seen_one_after_the_other(
    tiny_weights, monkeypatch
):
    images = noise(3, 64)
    several = load_engine(resolve(weights=tiny_weights)).forward(images)
    engine = load_engine(resolve(weights=tiny_weights))
    monkeypatch.setattr(memory, "available", lambda: 1000)
    assert_same(engine.forward(images), several)


def test_the_environment_names_the_engine(tiny_weights, monkeypatch):
    checkpoint = resolve(weights=tiny_weights)
    monkeypatch.setenv(ENGINE_SETTING, "keras")
    assert not isinstance(load_engine(checkpoint), OpenVINOEngine)
    assert isinstance(load_engine(checkpoint, engine="openvino"), OpenVINOEngine)
    monkeypatch.setenv(ENGINE_SETTING, "tensorrt")
    with pytest.raises(SelectionError, match="openvino, keras, not 'tensorrt'"):
        load_engine(checkpoint)
    monkeypatch.setenv(ENGINE_SETTING, "")
    assert isinstance(load_engine(checkpoint), Engine)


def test_a_checkpoint_that_changed_before_the_export_is_refused(tiny_weights, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = tmp_path / "mine.safetensors"
    path.write_bytes(tiny_weights.read_bytes())
    checkpoint = resolve(weights=path)
    assert checkpoint.sha256
    path.write_bytes(path.read_bytes()[:-4] + b"\x01\x02\x03\x04")
    with pytest.raises(CheckpointError, match="has changed"):
        load_engine(checkpoint, engine="openvino")


def test_arrays_of_another_shape_are_refused_before_they_reach_openvino(tiny_weights):
    engine = cait_viz.load_engine(weights=tiny_weights, engine="openvino")
    patches = np.zeros((2, 16, 48), np.float32)
    for wrong in (patches[:0], patches[:, :15], patches[0]):
        with pytest.raises(ValueError, match="patches must have the shape"):
            engine.class_stage(wrong)
    with pytest.raises(ValueError, match="head_mask must have the shape"):
        engine.class_stage(patches, np.ones((1, 2, 4), np.float32))
    with pytest.raises(ValueError, match="patches must have the shape"):
        engine.self_attention(patches[0, :5], 0)
    with pytest.raises(ValueError, match="one image at a time, not 2"):
        engine.class_gradients(np.zeros((2, 64, 64, 3), np.float32), 1)


def test_no_maps_cannot_be_measured(tiny_weights, photo):
    with pytest.raises(SelectionError, match="at least one map"):
        cait_viz.trust(photo, cait_viz.load_engine(weights=tiny_weights), {})


AT_ONCE = """
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
import cait_viz
together = Barrier(8)
def load(_):
    together.wait()
    return cait_viz.load_engine(weights=sys.argv[1])
with ThreadPoolExecutor(8) as pool:
    assert len(list(pool.map(load, range(8)))) == 8
"""


def test_threads_that_load_the_first_engines_at_once_get_theirs(environment, tiny_weights):
    load_engine(resolve(weights=tiny_weights))  # exported before, which takes turns
    for _ in range(3):
        command = [sys.executable, "-c", AT_ONCE, tiny_weights]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr
