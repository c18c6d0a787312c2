"""Tensors into a network and back."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import lively_weights, timm_shapes
from safetensors.numpy import load_file, save_file

from cait_viz._resources import BUNDLED_WEIGHTS
from cait_viz.api import load_model
from cait_viz.model.cait import CaiT
from cait_viz.model.config import CaiTConfig
from cait_viz.model.initial import zero_weights
from cait_viz.model.timm_names import assign, state_dict


def assert_same(tensors, expected):
    assert tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(tensors[name], tensor, err_msg=name)


def test_a_saved_state_dict_is_a_checkpoint_that_gives_the_same_network(tiny_model, tmp_path):
    save_file(state_dict(tiny_model), tmp_path / "again.safetensors")
    again = load_model(weights=tmp_path / "again.safetensors")
    assert_same(state_dict(again), state_dict(tiny_model))
    assert again.config == tiny_model.config
    pixels = np.random.default_rng(0).standard_normal((2, 64, 64, 3)).astype(np.float32)
    np.testing.assert_array_equal(again(pixels)[0], tiny_model(pixels)[0])


def test_the_bundled_model_holds_every_tensor_of_its_file(bundled):
    assert_same(state_dict(bundled), load_file(BUNDLED_WEIGHTS))


def test_assigning_and_reading_back_reaches_each_weight_of_the_network_once(tiny_config):
    with zero_weights():
        model = CaiT(tiny_config)
    weights = lively_weights(timm_shapes(tiny_config))
    before = [weight.numpy() for weight in model.weights]
    assign(model, weights)
    assert len(model.weights) == len(weights)
    changed = [(old != weight.numpy()).any() for old, weight in zip(before, model.weights, strict=True)]
    assert all(changed)


def test_a_state_dict_is_float32_and_laid_out_as_it_is_written(tiny_model):
    for name, tensor in state_dict(tiny_model).items():
        assert tensor.dtype == np.float32, name
        assert tensor.flags.c_contiguous, name


def test_a_state_dict_does_not_change_with_the_network_it_was_read_from(tiny_config):
    model = CaiT(tiny_config)
    tensors = state_dict(model)
    kept = {name: tensor.copy() for name, tensor in tensors.items()}
    assign(model, lively_weights(timm_shapes(tiny_config)))
    assert_same(tensors, kept)


@settings(max_examples=8)
@given(
    grid=st.integers(1, 3),
    patch=st.integers(1, 5),
    heads=st.integers(1, 3),
    head_dim=st.integers(1, 4),
    depths=st.tuples(st.integers(1, 2), st.integers(1, 3)),
    ratio=st.sampled_from((1, 2, 3, 4)),
    classes=st.integers(1, 4),
    pre_logits=st.booleans(),
)
def test_any_architecture_takes_timms_names_and_shapes(
    grid, patch, heads, head_dim, depths, ratio, classes, pre_logits
):
    config = CaiTConfig(
        image_size=grid * patch,
        patch_size=patch,
        projection_dim=heads * head_dim,
        num_heads=heads,
        sa_ffn_layers=depths[0],
        ca_ffn_layers=depths[1],
        mlp_ratio=ratio,
        num_classes=classes,
        pre_logits=pre_logits,
    )
    weights = lively_weights(timm_shapes(config))
    model = CaiT(config)
    assign(model, weights)
    assert_same(state_dict(model), weights)
    assert model.count_params() == sum(tensor.size for tensor in weights.values())


@pytest.mark.parametrize("ratio", [3, 2.5])
def test_a_checkpoint_of_another_feed_forward_width_is_loaded(tiny_config, ratio, tmp_path):
    config = replace(tiny_config, mlp_ratio=ratio)
    weights = lively_weights(timm_shapes(config))
    save_file(weights, tmp_path / "narrow.safetensors")
    model = load_model(weights=tmp_path / "narrow.safetensors")
    assert model.config == config
    assert_same(state_dict(model), weights)
