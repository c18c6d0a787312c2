"""The network against timm's, computed in float64 under weights that make every branch matter.

The files in `parity/` hold timm 1.0.31's outputs; `reference.lively_weights` makes their weights.
Preprocessing takes no part: the input is given as pixels.
"""

from collections import namedtuple
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from reference import lively_weights, timm_shapes
from safetensors.numpy import save_file

from cait_viz.api import load_model
from cait_viz.engine.keras import engine_of
from cait_viz.engine.load import load_engine
from cait_viz.model import layers
from cait_viz.model.config import CaiTConfig
from cait_viz.model.timm_names import state_dict
from cait_viz.weights.resolve import resolve

NAMES = ("tiny", "tiny_one_head", "cait_xxs24_224")
LOGITS, CLASS_ATTENTION, SELF_ATTENTION = 1e-5, 1e-6, 1e-5

FILES = {}  # the checkpoint of each network
Golden = namedtuple("Golden", "config pixels arrays")


@cache
def golden(name):
    with np.load(Path(__file__).parent / "parity" / f"{name}.npz") as file:
        arrays = dict(file)
    image, patch, dim, heads, depth, ca_depth, classes, batch = (int(v) for v in arrays.pop("config"))
    config = CaiTConfig(
        image_size=image,
        patch_size=patch,
        projection_dim=dim,
        sa_ffn_layers=depth,
        ca_ffn_layers=ca_depth,
        num_heads=heads,
        num_classes=classes,
    )
    drawn = np.random.default_rng(0).standard_normal((batch, image, image, 3)).astype(np.float32)
    return Golden(config, arrays.pop("pixels", drawn), arrays)


@pytest.fixture(scope="module", params=NAMES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def weights(name):
    return lively_weights(timm_shapes(golden(name).config))


@pytest.fixture(scope="module")
def model(name, weights, tmp_path_factory):
    path = tmp_path_factory.mktemp("parity") / f"{name}.safetensors"
    save_file(weights, path)
    model = load_model(weights=path)
    FILES[id(model)] = path
    return model


def eager(model, pixels):
    return model(pixels)


def compiled(model, pixels):
    return engine_of(model).forward(pixels, sa_blocks=(0, model.config.sa_ffn_layers - 1))


def compiled_by_xla(model, pixels):
    return tf.function(model, autograph=False, jit_compile=True)(pixels)


def by_openvino(model, pixels):
    engine = load_engine(resolve(weights=FILES[id(model)]), engine="openvino")
    return engine.forward(pixels, sa_blocks=(0, model.config.sa_ffn_layers - 1))


@pytest.fixture(scope="module", params=[eager, compiled, compiled_by_xla, by_openvino])
def outputs(request, name, model):
    return tf.nest.map_structure(np.asarray, request.param(model, golden(name).pixels))


def test_logits_are_timms(name, outputs):
    np.testing.assert_allclose(outputs[0], golden(name).arrays["logits"], rtol=0, atol=LOGITS)


def test_class_attention_is_timms_in_every_block(name, outputs):
    expected = {key: value for key, value in golden(name).arrays.items() if key.startswith("ca_")}
    assert list(outputs[2]) == sorted(expected)
    for key, value in expected.items():
        np.testing.assert_allclose(outputs[2][key], value, rtol=0, atol=CLASS_ATTENTION)


def test_self_attention_is_timms_after_the_mixing_of_heads(name, outputs):
    depth = golden(name).config.sa_ffn_layers
    for block in {0, depth - 1}:
        key = f"sa_ffn_block_{block}_att"
        np.testing.assert_allclose(
            outputs[1][key], golden(name).arrays[key], rtol=0, atol=SELF_ATTENTION, err_msg=key
        )


def test_the_distribution_is_timms_softmax_before_the_mixing_of_heads(name, model):
    for block, distribution in distributions(model, golden(name).pixels).items():
        expected = golden(name).arrays[f"sa_ffn_block_{block}_softmax"]
        np.testing.assert_allclose(distribution, expected, rtol=0, atol=SELF_ATTENTION)
        np.testing.assert_allclose(distribution.sum(-1), 1, atol=1e-5)


def distributions(model, pixels):
    """The softmax of the first and the last self-attention block."""
    config = model.config
    patches = np.reshape(model.patch_embed(pixels), (-1, config.num_patches, config.projection_dim))
    patches = patches + np.asarray(model.pos_embed)
    found = {}
    for index, block in enumerate(model.blocks):
        if index in (0, config.sa_ffn_layers - 1):
            found[index] = np.asarray(block.attn.distribution(block.norm1(patches)))
        patches, _ = block(patches)
    return found


def test_every_loaded_tensor_is_the_checkpoints(model, weights):
    loaded = state_dict(model)
    assert loaded.keys() == weights.keys()
    for key, tensor in weights.items():
        np.testing.assert_array_equal(loaded[key], tensor, err_msg=key)


def test_the_features_before_the_head_are_timms(name, weights, tmp_path):
    headless = {key: value for key, value in weights.items() if not key.startswith("head.")}
    save_file(headless, tmp_path / "headless.safetensors")
    model = load_model(weights=tmp_path / "headless.safetensors")
    assert model.config.pre_logits
    features, _, _ = model(golden(name).pixels)
    np.testing.assert_allclose(features, golden(name).arrays["pre_logits"], rtol=0, atol=LOGITS)


def deviation(name, model):
    return np.abs(model(golden(name).pixels)[0] - golden(name).arrays["logits"]).max()


def test_the_tanh_gelu_would_be_seen(name, model, monkeypatch):
    gelu = layers.ops.gelu
    monkeypatch.setattr(layers.ops, "gelu", lambda x, approximate=True: gelu(x, approximate=True))
    assert deviation(name, model) > 5 * LOGITS


@pytest.mark.parametrize("part", ["proj_l", "proj_w"])
def test_heads_mixed_the_wrong_way_round_would_be_seen(model, name, part):
    if model.config.num_heads == 1:
        pytest.skip("one head mixes with itself")
    kernel = getattr(model.blocks[0].attn, part).kernel
    kept = kernel.numpy()
    kernel.assign(kept.T)
    try:
        assert deviation(name, model) > 5 * LOGITS
    finally:
        kernel.assign(kept)


def test_another_epsilon_would_be_seen(model, name, monkeypatch):
    for block in (*model.blocks, *model.blocks_token_only):
        for norm in (block.norm1, block.norm2):
            monkeypatch.setattr(norm, "epsilon", 1e-3)
    assert deviation(name, model) > 5 * LOGITS
