"""The layers, each against its definition written once more in NumPy."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from cait_viz.model import layers
from cait_viz.model.initial import zero_weights
from cait_viz.model.layers import (
    ClassAttention,
    ClassAttentionBlock,
    FeedForward,
    HeadMixing,
    LayerScale,
    SelfAttentionBlock,
    StochasticDepth,
    TalkingHeadAttention,
)

B, N, C, H = 3, 6, 12, 3
D = C // H

LAYERS = {
    LayerScale: {"init_values": 0.25},
    StochasticDepth: {"sd_prob": 0.3, "seed": 5},
    FeedForward: {"hidden_dim": 7, "dropout_rate": 0.2},
    HeadMixing: {"num_heads": H},
    TalkingHeadAttention: {"num_heads": H, "dropout_rate": 0.2},
    ClassAttention: {"num_heads": H},
    SelfAttentionBlock: {
        "num_heads": H,
        "mlp_dim": 7,
        "layer_norm_eps": 1e-3,
        "init_values": 0.5,
        "dropout_rate": 0.2,
        "sd_prob": 0.3,
    },
    ClassAttentionBlock: {"num_heads": H, "mlp_dim": 7, "layer_norm_eps": 1e-3, "init_values": 0.5},
}


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def lively(layer, *shapes):
    """The layer, built, with every weight random."""
    layer.build(*shapes)
    for index, weight in enumerate(layer.trainable_weights):
        weight.assign(0.5 * noise(*weight.shape, seed=index))
    return layer


def affine(dense, x):
    return x @ dense.kernel.numpy().astype(np.float64) + dense.bias.numpy()


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def heads(x):
    """(B, T, C) -> (B, H, T, D)."""
    return x.reshape(*x.shape[:2], H, D).swapaxes(1, 2)


def exact_gelu(x):
    return x / 2 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def zero_rate(array):
    return np.mean(np.asarray(array) == 0)


# LayerScale


def test_layer_scale_multiplies_each_channel_by_its_factor():
    layer = lively(LayerScale(), (None, N, C))
    x = noise(B, N, C, seed=1)
    np.testing.assert_array_equal(layer(x), x * layer.gamma.numpy())


def test_layer_scale_starts_at_its_initial_value_in_every_channel():
    layer = LayerScale(1e-4)
    layer.build((None, N, C))
    np.testing.assert_array_equal(layer.gamma, np.full(C, 1e-4, np.float32))


# Stochastic depth


def dropped(layer, samples=64):
    """Which of many samples of ones the layer drops; those that stay are divided by the rate of staying."""
    y = np.asarray(layer(np.ones((samples, 2, 3), np.float32), training=True))
    np.testing.assert_array_equal(y, np.broadcast_to(y[:, :1, :1], y.shape))  # whole samples
    kept = np.float32(1 / (1 - layer.sd_prob))
    np.testing.assert_allclose(y[y != 0], kept, rtol=1e-6)
    return y[:, 0, 0] == 0


def test_stochastic_depth_drops_whole_samples_and_keeps_the_expectation():
    layer = StochasticDepth(0.3, seed=1)
    share = dropped(layer, samples=20_000).mean()
    assert share == pytest.approx(0.3, abs=5 * math.sqrt(0.3 * 0.7 / 20_000))
    mean = np.mean(layer(np.ones((20_000, 1), np.float32), training=True))
    assert mean == pytest.approx(1, abs=0.03)


def test_stochastic_depth_draws_anew_at_every_call():
    layer = StochasticDepth(0.5, seed=1)
    assert (dropped(layer) != dropped(layer)).any()


def test_two_stochastic_depths_drop_different_samples_even_under_one_global_seed():
    keras.utils.set_random_seed(0)
    first, second = dropped(StochasticDepth(0.5)), dropped(StochasticDepth(0.5))
    assert (first != second).any()
    keras.utils.set_random_seed(0)
    np.testing.assert_array_equal(dropped(StochasticDepth(0.5)), first)


def test_stochastic_depth_of_the_same_seed_draws_the_same():
    np.testing.assert_array_equal(
        dropped(StochasticDepth(0.5, seed=3)), dropped(StochasticDepth(0.5, seed=3))
    )


def test_a_compiled_stochastic_depth_draws_anew_at_every_call():
    layer = StochasticDepth(0.5, seed=1)
    step = tf.function(lambda x: layer(x, training=True), autograph=False)
    x = tf.ones((64, 2))
    assert (step(x).numpy() != step(x).numpy()).any()


@pytest.mark.parametrize("training", [False, None])
def test_stochastic_depth_is_nothing_in_inference(training):
    x = noise(B, N, C)
    np.testing.assert_array_equal(StochasticDepth(0.9)(x, training=training), x)


def test_stochastic_depth_of_probability_zero_is_nothing_in_training():
    x = noise(B, N, C)
    np.testing.assert_array_equal(StochasticDepth(0.0)(x, training=True), x)


# Feed-forward network


def test_the_feed_forward_network_has_the_exact_gelu_between_two_dense_layers():
    layer = lively(FeedForward(7), (None, N, C))
    x = 2 * noise(B, N, C, seed=9)
    expected = affine(layer.fc2, exact_gelu(affine(layer.fc1, x.astype(np.float64))))
    np.testing.assert_allclose(layer(x), expected, atol=2e-6)


def test_the_tanh_gelu_would_be_seen(monkeypatch):
    layer = lively(FeedForward(7), (None, N, C))
    x = 2 * noise(B, N, C, seed=9)
    exact = np.asarray(layer(x))
    gelu = layers.ops.gelu
    monkeypatch.setattr(layers.ops, "gelu", lambda x, approximate=True: gelu(x, approximate=True))
    assert np.abs(np.asarray(layer(x)) - exact).max() > 1e-4


def test_the_feed_forward_network_drops_hidden_and_output_values_in_training_only():
    layer = lively(FeedForward(64, dropout_rate=0.5), (None, N, C))
    x = noise(100, N, C)
    still, shaken = np.asarray(layer(x)), np.asarray(layer(x, training=True))
    np.testing.assert_array_equal(layer(x, training=False), still)
    assert zero_rate(still) == 0
    assert zero_rate(shaken) == pytest.approx(0.5, abs=0.05)
    # Were the hidden layer whole, each output that stays would be twice the one in inference.
    stayed = shaken != 0
    assert np.abs(shaken[stayed] - 2 * still[stayed]).max() > 0.1


# Talking heads


def talking_heads(layer, x):
    """Output, attention after `proj_w` and the softmax before it, in float64."""
    query, key, value = (
        heads(part) for part in np.split(affine(layer.qkv, x.astype(np.float64)), 3, axis=-1)
    )
    scores = query / math.sqrt(D) @ key.swapaxes(-1, -2)
    mixed = np.einsum("bhij,hg->bgij", scores, layer.proj_l.kernel.numpy())
    distribution = softmax(mixed + layer.proj_l.bias.numpy()[:, None, None])
    attention = np.einsum("bhij,hg->bgij", distribution, layer.proj_w.kernel.numpy())
    attention = attention + layer.proj_w.bias.numpy()[:, None, None]
    output = affine(layer.proj, (attention @ value).swapaxes(1, 2).reshape(x.shape))
    return output, attention, distribution


def test_talking_heads_mix_the_scores_before_and_the_attention_after_the_softmax():
    layer = lively(TalkingHeadAttention(H), (None, N, C))
    x = noise(B, N, C, seed=9)
    output, attention = layer(x)
    expected_output, expected_attention, expected_distribution = talking_heads(layer, x)
    np.testing.assert_allclose(attention, expected_attention, atol=1e-6)
    np.testing.assert_allclose(output, expected_output, atol=1e-5)
    np.testing.assert_allclose(layer.distribution(x), expected_distribution, atol=1e-6)


def test_only_the_softmax_of_talking_heads_is_a_distribution():
    layer = lively(TalkingHeadAttention(H), (None, N, C))
    x = noise(B, N, C, seed=9)
    distribution, (_, attention) = np.asarray(layer.distribution(x)), layer(x)
    assert distribution.shape == attention.shape == (B, H, N, N)
    assert (distribution >= 0).all()
    np.testing.assert_allclose(distribution.sum(-1), 1, atol=1e-6)
    assert np.abs(distribution.sum(-2) - 1).max() > 0.1  # the row says where a patch looks, not the column
    assert (np.asarray(attention) < 0).any()
    assert np.abs(np.asarray(attention).sum(-1) - 1).max() > 0.1


def test_head_mixing_mixes_heads_and_nothing_else():
    layer = lively(HeadMixing(H), (None, H, None, None))
    x = noise(B, H, 4, 5, seed=9)
    expected = np.einsum("bhij,hg->bgij", x, layer.kernel.numpy()) + layer.bias.numpy()[:, None, None]
    np.testing.assert_allclose(layer(x), expected, atol=1e-6)


def test_talking_heads_drop_attention_and_output_in_training_only():
    layer = lively(TalkingHeadAttention(H, dropout_rate=0.5), (None, N, C))
    x = noise(100, N, C, seed=9)
    output, attention = layer(x, training=True)
    assert zero_rate(attention) == pytest.approx(0.5, abs=0.05)
    assert zero_rate(output) == pytest.approx(0.5, abs=0.05)
    output, attention = layer(x)
    assert zero_rate(attention) == zero_rate(output) == 0


# Class attention


def test_class_attention_asks_with_the_first_token_alone():
    layer = lively(ClassAttention(H), (None, 1 + N, C))
    u = noise(B, 1 + N, C, seed=9)
    output, attention = layer(u)
    u = u.astype(np.float64)
    query, key, value = heads(affine(layer.q, u[:, :1])), heads(affine(layer.k, u)), heads(affine(layer.v, u))
    expected = softmax(query / math.sqrt(D) @ key.swapaxes(-1, -2))
    assert attention.shape == (B, H, 1, 1 + N)
    np.testing.assert_allclose(attention, expected, atol=1e-6)
    np.testing.assert_allclose(np.sum(attention, axis=-1), 1, atol=1e-6)
    merged = (expected @ value).swapaxes(1, 2).reshape(B, 1, C)
    np.testing.assert_allclose(output, affine(layer.proj, merged), atol=1e-5)


def test_class_attention_follows_patches_that_change_places():
    layer = lively(ClassAttention(H), (None, 1 + N, C))
    u = noise(B, 1 + N, C, seed=9)
    order = np.array([0, 4, 2, 6, 1, 5, 3])
    output, attention = layer(u)
    moved_output, moved_attention = layer(u[:, order])
    np.testing.assert_allclose(moved_attention, np.asarray(attention)[..., order], atol=1e-6)
    np.testing.assert_allclose(moved_output, output, atol=1e-5)


# Blocks


def test_a_self_attention_block_adds_two_scaled_branches():
    block = lively(SelfAttentionBlock(H, 7), (None, N, C))
    x = noise(B, N, C, seed=9)
    branch, expected_attention = block.attn(block.norm1(x))
    middle = x + branch * block.layer_scale1.gamma.numpy()
    expected = middle + block.mlp(block.norm2(middle)) * block.layer_scale2.gamma.numpy()
    output, attention = block(x)
    np.testing.assert_allclose(output, expected, atol=1e-5)
    np.testing.assert_allclose(attention, expected_attention, atol=1e-6)


def test_a_self_attention_block_drops_its_two_branches_by_themselves():
    block = lively(SelfAttentionBlock(H, 7, sd_prob=0.5), (None, N, C))
    x = noise(200, N, C, seed=9)
    output, _ = block(x, training=True)
    unchanged = (np.asarray(output) == x).all(axis=(1, 2))
    # Both dropped in a quarter of the samples; with one draw for both it were a half.
    assert unchanged.mean() == pytest.approx(0.25, abs=0.15)
    assert not (np.asarray(block(x)[0]) == x).all(axis=(1, 2)).any()


def test_a_class_attention_block_changes_the_class_token_and_looks_at_it_and_the_patches():
    block = lively(ClassAttentionBlock(H, 7), (None, N, C))
    patches, token = noise(B, N, C, seed=8), noise(B, 1, C, seed=9)
    branch, expected_attention = block.attn(block.norm1(np.concatenate([token, patches], axis=1)))
    middle = token + branch * block.layer_scale1.gamma.numpy()
    expected = middle + block.mlp(block.norm2(middle)) * block.layer_scale2.gamma.numpy()
    output, attention = block(patches, token)
    assert output.shape == (B, 1, C)
    np.testing.assert_allclose(output, expected, atol=1e-5)
    np.testing.assert_allclose(attention, expected_attention, atol=1e-6)


@pytest.mark.parametrize(
    "layer", [SelfAttentionBlock(H, 7, layer_norm_eps=0.5), ClassAttentionBlock(H, 7, 0.5)]
)
def test_a_block_gives_its_norms_the_epsilon(layer):
    layer.build((None, N, C))
    assert layer.norm1.epsilon == layer.norm2.epsilon == 0.5


# All


@pytest.mark.parametrize("kind", LAYERS)
def test_a_layer_returns_every_argument_and_is_registered(kind):
    layer = kind(**LAYERS[kind], name="mine")
    config = layer.get_config()
    assert config.items() >= (LAYERS[kind] | {"name": "mine"}).items()
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert type(again) is kind
    assert again.get_config() == config


@pytest.mark.parametrize("kind", [FeedForward, TalkingHeadAttention, ClassAttention, SelfAttentionBlock])
def test_kernels_start_as_the_authors_drew_them_and_biases_at_zero(kind):
    layer = kind(**LAYERS[kind])
    layer.build((None, N, 120))
    for weight in layer.trainable_weights:
        value = weight.numpy()
        if weight.name == "kernel" and value.size > 1000:
            assert value.std() == pytest.approx(0.02, rel=0.15)
            assert np.abs(value).max() <= 0.04 + 1e-6
        elif weight.name in ("bias", "beta"):
            assert not value.any()


def test_weights_are_drawn_again_after_zeros_were_asked_for():
    with zero_weights():
        empty = FeedForward(7)
        empty.build((None, N, C))
    drawn = FeedForward(7)
    drawn.build((None, N, C))
    assert not empty.fc1.kernel.numpy().any()
    assert drawn.fc1.kernel.numpy().any()


@pytest.mark.parametrize("kind", [FeedForward, TalkingHeadAttention, ClassAttention])
def test_samples_of_a_batch_do_not_see_each_other(kind):
    layer = lively(kind(**LAYERS[kind]), (None, N, C))
    x = noise(B, N, C, seed=9)
    for whole, single in zip(tf.nest.flatten(layer(x)), tf.nest.flatten(layer(x[1:2])), strict=True):
        np.testing.assert_allclose(whole[1:2], single, atol=1e-5)
