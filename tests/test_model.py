"""CaiT as a whole: what it returns, each of its options, training, saving."""

import gc
import json
import re
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf
from reference import lively_weights, timm_shapes

from cait_viz.model.cait import CaiT
from cait_viz.model.config import CaiTConfig
from cait_viz.model.initial import zero_weights
from cait_viz.model.timm_names import assign
from cait_viz.weights.registry import VARIANTS

SMALL = CaiTConfig(
    image_size=32,
    patch_size=8,
    projection_dim=24,
    sa_ffn_layers=3,
    ca_ffn_layers=2,
    num_heads=3,
    num_classes=7,
)
# Far from every default, as a saved model has to bring all of it back.
UNUSUAL = CaiTConfig(
    image_size=30,
    patch_size=6,
    projection_dim=20,
    sa_ffn_layers=2,
    ca_ffn_layers=3,
    num_heads=5,
    mlp_ratio=2.5,
    layer_norm_eps=1e-3,
    init_values=0.1,
    dropout_rate=0.1,
    sd_prob=0.2,
    global_pool="avg",
    num_classes=3,
)


def lively(config):
    """A network of that architecture under weights that make every branch matter."""
    model = CaiT(config)
    assign(model, lively_weights(timm_shapes(config)))
    return model


def pixels(config, batch=2):
    shape = (batch, config.image_size, config.image_size, 3)
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def logits(model, batch=2, **options):
    return np.asarray(model(pixels(model.config, batch), **options)[0])


@pytest.fixture(scope="module")
def small():
    return lively(SMALL)


# What it returns


@pytest.mark.parametrize("config", [SMALL, UNUSUAL, replace(SMALL, image_size=16, pre_logits=True)])
def test_a_call_returns_the_tutorials_keys_and_shapes(config):
    model = CaiT(config)
    out, sa_attention, ca_attention = model(pixels(config, 3))
    heads, patches = config.num_heads, config.num_patches
    assert out.shape == (3, config.projection_dim if config.pre_logits else config.num_classes)
    assert list(sa_attention) == [f"sa_ffn_block_{k}_att" for k in range(config.sa_ffn_layers)]
    assert list(ca_attention) == [f"ca_ffn_block_{i}_att" for i in range(config.ca_ffn_layers)]
    assert {value.shape for value in sa_attention.values()} == {(3, heads, patches, patches)}
    assert {value.shape for value in ca_attention.values()} == {(3, heads, 1, patches + 1)}
    for value in ca_attention.values():
        np.testing.assert_allclose(np.sum(value, -1), 1, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 32, 32), (1, 32, 32, 1), (1, 3, 32, 32), (1, 16, 16, 3), (32, 32, 3)])
def test_pictures_of_another_shape_are_refused_with_both_shapes(small, shape):
    with pytest.raises(ValueError, match=re.escape("(B, 32, 32, 3)")) as caught:
        small(np.zeros(shape, np.float32))
    assert str(shape) in str(caught.value)


def test_batches_of_any_size_go_through_keras_own_loop(small):
    out, sa_attention, ca_attention = small.predict(pixels(SMALL, 5), batch_size=2, verbose=0)
    np.testing.assert_allclose(out, logits(small, 5), atol=1e-5)
    assert (len(sa_attention), len(ca_attention)) == (3, 2)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_named_model_builds_with_exactly_its_number_of_weights(name):
    with zero_weights():
        model = CaiT(VARIANTS[name].config)
    assert model.count_params() == VARIANTS[name].parameters
    assert sum(weight.shape.num_elements() for weight in model.trainable_weights) == VARIANTS[name].parameters
    del model
    gc.collect()


def names(model):
    return [weight.path.partition("/")[2] for weight in model.weights]


def test_every_weight_is_named_after_what_it_is_and_not_after_when_it_was_made():
    CaiT(SMALL)
    first, second = names(CaiT(SMALL)), names(CaiT(SMALL))
    assert first == second
    assert len(set(first)) == len(first)
    automatic = re.compile(r"(dense|conv2d|layer_normalization|dropout|layer_scale|feed_forward)(_\d+)?/")
    assert not [name for name in first if automatic.search(name)]
    assert "sa_ffn_block_2/attn/proj_w/kernel" in first
    assert "ca_ffn_block_1/mlp/fc2/bias" in first


# Options


@pytest.mark.parametrize(
    "option",
    [
        {"mlp_ratio": 3},
        {"layer_norm_eps": 1e-2},
        {"sa_ffn_layers": 2},
        {"ca_ffn_layers": 1},
        {"num_heads": 4},
        {"patch_size": 16},
        {"global_pool": "avg"},
        {"projection_dim": 12},
        {"num_classes": 5},
        {"pre_logits": True},
    ],
)
def test_every_option_of_the_network_changes_it(small, option):
    config = replace(SMALL, **option)
    other = logits(lively(config))
    assert other.shape != (2, 7) or np.abs(other - logits(small)).max() > 1e-4


def test_layer_scale_starts_at_the_option_in_every_block():
    model = CaiT(replace(SMALL, init_values=0.25))
    for block in (*model.blocks, *model.blocks_token_only):
        for scale in (block.layer_scale1, block.layer_scale2):
            np.testing.assert_array_equal(scale.gamma, np.full(24, 0.25, np.float32))


@pytest.mark.parametrize("none", [None, 0, 0.0])
def test_without_an_initial_value_there_is_no_layer_scale_as_in_the_tutorial(none, tmp_path):
    model = CaiT(replace(SMALL, init_values=none))
    assert not [name for name in names(model) if "gamma" in name and "layer_scale" in name]
    weights = lively_weights(timm_shapes(SMALL))
    assign(model, {name: tensor for name, tensor in weights.items() if "gamma" not in name})
    # A LayerScale of ones is none.
    ones = CaiT(SMALL)
    assign(ones, {name: np.ones_like(x) if "gamma" in name else x for name, x in weights.items()})
    np.testing.assert_allclose(logits(model), logits(ones), atol=1e-6)
    model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(logits(keras.models.load_model(tmp_path / "model.keras")), logits(model))


def test_epsilon_reaches_every_norm():
    model = CaiT(replace(SMALL, layer_norm_eps=1e-2))
    blocks = (*model.blocks, *model.blocks_token_only)
    epsilons = {
        model.norm.epsilon,
        *(norm.epsilon for block in blocks for norm in (block.norm1, block.norm2)),
    }
    assert epsilons == {1e-2}


def test_the_hidden_width_follows_the_ratio():
    model = CaiT(replace(SMALL, mlp_ratio=2.5))
    widths = {block.mlp.fc1.kernel.shape for block in (*model.blocks, *model.blocks_token_only)}
    assert widths == {(24, 60)}


def test_features_before_the_head_are_what_the_head_classifies(small):
    features = logits(lively(replace(SMALL, pre_logits=True)))
    np.testing.assert_allclose(small.head(features), logits(small), atol=1e-5)


def test_average_pooling_takes_the_mean_of_the_normalized_patches(small):
    model = lively(replace(SMALL, global_pool="avg"))
    patches = np.reshape(model.patch_embed(pixels(SMALL)), (2, 16, 24)) + np.asarray(model.pos_embed)
    for block in model.blocks:
        patches, _ = block(patches)
    expected = model.head(np.mean(model.norm(patches), axis=1))
    np.testing.assert_allclose(logits(model), expected, atol=1e-5)
    assert np.abs(logits(model) - logits(small)).max() > 0.01


def test_average_pooling_still_returns_the_class_attention(small):
    model = lively(replace(SMALL, global_pool="avg"))
    expected, found = small(pixels(SMALL))[2], model(pixels(SMALL))[2]
    for key, attention in expected.items():
        np.testing.assert_allclose(found[key], attention, atol=1e-6)


def test_a_model_is_float32_whatever_the_users_keras_settings_say(small):
    usual = keras.config.floatx(), keras.config.dtype_policy()
    try:
        keras.config.set_floatx("float16")
        keras.config.set_dtype_policy("mixed_float16")
        model = lively(SMALL)
        assert {weight.dtype for weight in model.weights} == {"float32"}
        np.testing.assert_array_equal(logits(model), logits(small))
        assert keras.config.floatx() == "float16"
    finally:
        keras.config.set_floatx(usual[0])
        keras.config.set_dtype_policy(usual[1])


def test_a_model_in_half_precision_runs():
    model = CaiT(SMALL, dtype="mixed_bfloat16")
    out, _, ca_attention = model(pixels(SMALL), training=True)
    assert out.dtype == ca_attention["ca_ffn_block_0_att"].dtype == tf.bfloat16
    assert np.isfinite(np.asarray(out, np.float32)).all()


# Training mode


def test_inference_drops_nothing_and_is_the_default(small):
    model = lively(replace(SMALL, dropout_rate=0.5, sd_prob=0.5))
    np.testing.assert_array_equal(logits(model), logits(small))
    np.testing.assert_array_equal(logits(model, training=False), logits(small))


@pytest.mark.parametrize("option", [{"dropout_rate": 0.5}, {"sd_prob": 0.5}])
def test_training_drops_and_draws_anew_at_every_call(small, option):
    model = lively(replace(SMALL, **option))
    first, second = logits(model, 8, training=True), logits(model, 8, training=True)
    assert np.abs(first - logits(small, 8)).max() > 1e-3
    assert np.abs(first - second).max() > 1e-3


def test_training_without_any_rate_is_inference(small):
    np.testing.assert_array_equal(logits(small, training=True), logits(small))


def test_every_branch_of_every_block_drops_samples_of_its_own():
    keras.utils.set_random_seed(0)
    model = CaiT(replace(SMALL, sd_prob=0.5))
    paths = [path for block in model.blocks for path in (block.drop_path1, block.drop_path2)]
    ones = np.ones((32, 1, 1), np.float32)
    draws = {tuple(np.asarray(path(ones, training=True)).ravel()) for path in paths}
    assert len(draws) == len(paths) == 6


def test_dropout_is_in_every_part_of_the_patch_stage_and_nowhere_else():
    model = CaiT(replace(SMALL, dropout_rate=0.25))
    drops = [
        model.pos_drop,
        *(drop for b in model.blocks for drop in (b.attn.attn_drop, b.attn.proj_drop, b.mlp.drop)),
    ]
    assert {drop.rate for drop in drops} == {0.25}
    assert {block.mlp.drop.rate for block in model.blocks_token_only} == {0}


def test_dropout_reaches_the_embedded_patches(monkeypatch):
    model = CaiT(replace(SMALL, dropout_rate=0.25))
    seen = []
    monkeypatch.setattr(model.blocks[0].norm1, "call", lambda x: seen.append(np.asarray(x)) or x)
    logits(model, 8, training=True)
    assert np.mean(seen[0] == 0) == pytest.approx(0.25, abs=0.05)


def gradients(model):
    """Largest gradient of each weight, by name; None where the loss does not see it."""
    labels = np.arange(8) % model.config.num_classes
    with tf.GradientTape() as tape:
        out, _, _ = model(pixels(model.config, 8), training=True)
        loss = tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(labels, out, from_logits=True))
    found = tape.gradient(loss, [weight.value for weight in model.trainable_weights])
    return {
        weight.path.partition("/")[2]: None if gradient is None else np.asarray(gradient)
        for weight, gradient in zip(model.trainable_weights, found, strict=True)
    }


def is_cancelled_by_the_softmax(name):
    return name.endswith("attn/k/bias") or name.endswith("attn/proj_l/bias")


@pytest.mark.parametrize("rates", [{}, {"dropout_rate": 0.1, "sd_prob": 0.1}])
def test_gradients_reach_every_weight_but_biases_that_the_softmax_cancels(rates):
    for name, gradient in gradients(lively(replace(SMALL, **rates))).items():
        assert gradient is not None, name
        size = np.abs(gradient).max()
        assert (size < 1e-7) == is_cancelled_by_the_softmax(name), (name, size)
        if name.endswith("attn/qkv/bias"):
            query, key, value = np.abs(gradient).reshape(3, -1).max(1)
            assert key < 1e-7 < min(query, value), name


def test_with_average_pooling_exactly_the_class_stage_gets_no_gradient():
    found = gradients(lively(replace(SMALL, global_pool="avg")))
    unseen = {name for name, gradient in found.items() if gradient is None}
    assert unseen == {name for name in found if name.startswith("ca_ffn_block_") or name == "cls_token"}


def test_steps_down_the_gradient_lower_the_loss():
    model = CaiT(replace(SMALL, sa_ffn_layers=1, init_values=0.1, dropout_rate=0.05, sd_prob=0.05))
    images, labels = pixels(SMALL, 8), np.arange(8) % 7
    optimizer = keras.optimizers.Adam(3e-3)

    def loss(training):
        out, _, _ = model(images, training=training)
        return tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(labels, out, from_logits=True))

    before = float(loss(training=False))
    for _ in range(10):
        with tf.GradientTape() as tape:
            value = loss(training=True)
        found = tape.gradient(value, [weight.value for weight in model.trainable_weights])
        optimizer.apply(found, model.trainable_weights)
    assert float(loss(training=False)) < 0.8 * before


# Saving


@pytest.mark.parametrize("config", [UNUSUAL, replace(SMALL, pre_logits=True)])
def test_a_saved_model_comes_back_with_its_options_and_numbers(config, tmp_path):
    model = lively(config)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert isinstance(again, CaiT)
    assert again.config == config
    assert again.name == model.name
    np.testing.assert_array_equal(logits(again), logits(model))
    for old, new in zip(model.weights, again.weights, strict=True):
        np.testing.assert_array_equal(new, old, err_msg=old.path)


def test_a_saved_model_opens_in_a_fresh_process_after_importing_the_model_alone(run_python, tmp_path):
    model = lively(UNUSUAL)
    model.save(tmp_path / "model.keras")
    script = """
import sys, cait_viz.model.cait, keras, numpy as np
model = keras.models.load_model(sys.argv[1])
pixels = np.random.default_rng(0).standard_normal((2, 30, 30, 3)).astype(np.float32)
print(model(pixels)[0].numpy().tolist())
"""
    out, _ = run_python(script, tmp_path / "model.keras")
    np.testing.assert_allclose(json.loads(out), logits(model), atol=1e-6)


def test_the_configuration_is_plain_enough_for_json():
    config = CaiT(UNUSUAL).get_config()
    again = CaiT.from_config(json.loads(json.dumps(config)))
    assert again.config == UNUSUAL


def test_a_model_without_options_is_the_smallest_published_one():
    with zero_weights():
        assert CaiT().config == VARIANTS["cait_xxs24_224"].config
