"""The Keras tutorial's own calls, from top to bottom, give what the tutorial shows."""

import keras
import matplotlib as mpl
import numpy as np
import pytest
from folder_server import serving
from keras import ops
from PIL import Image

import cait_viz
from cait_viz import tutorial
from cait_viz._resources import SAMPLES
from cait_viz.images.preprocess import normalize, prepare
from cait_viz.model.export import export_model
from cait_viz.model.layers import LayerScale, SelfAttentionBlock, TalkingHeadAttention

PHOTO = sorted(SAMPLES.glob("*.jpg"))[0]
BLOCK = {
    "projection_dim": 48,
    "num_heads": 4,
    "layer_norm_eps": 1e-6,
    "init_values": 0.5,
    "mlp_units": [96, 48],
    "dropout_rate": 0.0,
    "sd_prob": 0.0,
    "name": "block",
}


@pytest.fixture
def photo_url():
    """The web address of a sample photograph."""
    with serving(SAMPLES) as site:
        yield f"{site}/{PHOTO.name}"


def test_the_tutorial_runs_from_top_to_bottom(bundled, photo_url, tmp_path):
    from cait_viz.tutorial import (
        CaiT,
        crop_layer,
        get_cls_attention_map,
        get_config,
        image_size,
        imagenet_labels,
        load_image_from_url,
    )

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    # Model instantiation
    config = get_config()
    cait_xxs24_224 = CaiT(**config)
    logits, sa_scores, ca_scores = cait_xxs24_224(ops.ones((2, image_size, image_size, 3)))
    assert logits.shape == (2, 1000)
    assert {name: tuple(scores.shape) for name, scores in sa_scores.items()} == {
        f"sa_ffn_block_{block}_att": (2, 4, 196, 196) for block in range(24)
    }
    assert {name: tuple(scores.shape) for name, scores in ca_scores.items()} == {
        f"ca_ffn_block_{block}_att": (2, 4, 1, 197) for block in range(2)
    }

    # Load a pretrained model; the bundled one stands for the author's port.
    export_model(bundled, tmp_path / "cait", "savedmodel")
    model_path = str(tmp_path / "cait")
    pretrained_model = keras.Sequential([keras.layers.TFSMLayer(model_path, call_endpoint="serving_default")])

    # Load an image
    image, preprocessed_image = load_image_from_url(photo_url)
    assert image.size == Image.open(PHOTO).size
    assert preprocessed_image.shape == (1, 224, 224, 3)

    # Obtain predictions
    predictions = pretrained_model.predict(preprocessed_image, verbose=0)
    logits = predictions["output_1"]
    ca_ffn_block_0_att = predictions["output_3_ca_ffn_block_0_att"]
    ca_ffn_block_1_att = predictions["output_3_ca_ffn_block_1_att"]
    predicted_label = imagenet_labels[int(np.argmax(logits))]
    analysis = cait_viz.analyze(PHOTO, bundled)
    assert predicted_label == analysis.predictions[0][0]

    # Visualizing the attention layers
    assert ca_ffn_block_0_att.shape == (1, 4, 1, 197)
    for scores in (ca_ffn_block_0_att, ca_ffn_block_1_att):
        attentions = get_cls_attention_map(scores)
        assert tuple(attentions.shape) == (224, 224, 4)
        fig, axes = plt.subplots(nrows=1, ncols=4, figsize=(13, 13))
        for i in range(attentions.shape[-1]):
            axes[i].imshow(attentions[:, :, i])
            axes[i].title.set_text(f"Attention head: {i}")
            axes[i].axis("off")
        plt.close(fig)

    saliency_attention = get_cls_attention_map(ca_ffn_block_0_att, return_saliency=True)
    image = np.array(image)
    image_resized = ops.expand_dims(image, 0)
    resize_size = int((256 / 224) * image_size)
    image_resized = ops.image.resize(image_resized, (resize_size, resize_size), interpolation="bicubic")
    image_resized = crop_layer(image_resized)
    fig = plt.figure()
    plt.imshow(image_resized.numpy().squeeze().astype("int32"))
    plt.imshow(saliency_attention.numpy().squeeze(), cmap="cividis", alpha=0.9)
    plt.close(fig)
    assert saliency_attention.numpy().squeeze().shape == (224, 224)
    middles = saliency_attention.numpy()[8::16, 8::16, 0]
    assert np.corrcoef(middles.ravel(), analysis.saliency(block=0).ravel())[0, 1] > 0.95


def test_a_block_is_a_functional_model_that_computes_what_ours_does():
    patches = np.random.default_rng(0).standard_normal((2, 16, 48)).astype(np.float32)
    block = tutorial.LayerScaleBlock(**BLOCK)
    ours = SelfAttentionBlock(num_heads=4, mlp_dim=96, init_values=0.5)
    ours.build((None, 16, 48))
    random = np.random.default_rng(1)
    block.set_weights([0.3 * random.standard_normal(weight.shape) for weight in block.weights])
    norms, scales, dense, attention = (
        [layer for layer in block.layers if isinstance(layer, kind)]
        for kind in (keras.layers.LayerNormalization, LayerScale, keras.layers.Dense, TalkingHeadAttention)
    )
    own = [
        ours.norm1,
        ours.norm2,
        ours.layer_scale1,
        ours.layer_scale2,
        ours.mlp.fc1,
        ours.mlp.fc2,
        ours.attn,
    ]
    for layer, same in zip(own, [*norms, *scales, *dense, *attention], strict=True):
        layer.set_weights(same.get_weights())
    outputs, scores = block(patches)
    expected, expected_scores = ours(patches)
    assert isinstance(block, keras.Model)
    assert block.name == "block"
    np.testing.assert_allclose(outputs, expected, atol=1e-5)
    np.testing.assert_allclose(scores, expected_scores, atol=1e-6)


def test_a_block_of_the_class_stage_takes_patches_and_class_token():
    tokens = np.random.default_rng(0).standard_normal((2, 17, 48)).astype(np.float32)
    block = tutorial.LayerScaleBlockClassAttention(**BLOCK)
    class_token, scores = block([tokens[:, 1:], tokens[:, :1]])
    assert class_token.shape == (2, 1, 48)
    assert scores.shape == (2, 4, 1, 17)
    np.testing.assert_allclose(np.sum(scores, axis=-1), 1, atol=1e-6)


@pytest.mark.parametrize("init_values", [None, 0])
def test_without_init_values_there_is_no_layer_scale(init_values):
    with_scale, without = (
        tutorial.CaiT(
            **tutorial.get_config(
                image_size=32, projection_dim=8, sa_ffn_layers=1, ca_ffn_layers=1, init_values=value
            )
        )
        for value in (1e-5, init_values)
    )
    assert with_scale.count_params() - without.count_params() == 4 * 8
    block = tutorial.LayerScaleBlock(**(BLOCK | {"init_values": init_values}))
    assert tutorial.LayerScaleBlock(**BLOCK).count_params() - block.count_params() == 2 * 48


def test_stochastic_depth_and_dropout_act_in_training_only():
    block = tutorial.LayerScaleBlock(**(BLOCK | {"dropout_rate": 0.5, "sd_prob": 0.5}))
    patches = np.random.default_rng(0).standard_normal((8, 16, 48)).astype(np.float32)
    seen = np.asarray(block(patches)[0])
    np.testing.assert_array_equal(block(patches)[0], seen)
    assert np.abs(block(patches, training=True)[0] - seen).max() > 0.01


def test_class_attention_drops_as_the_tutorials_does():
    layer = tutorial.ClassAttention(projection_dim=48, num_heads=4, dropout_rate=0.5)
    tokens = np.ones((2, 17, 48), np.float32)
    assert np.count_nonzero(np.asarray(layer(tokens)[1]) == 0) == 0
    assert np.count_nonzero(np.asarray(layer(tokens, training=True)[1]) == 0) > 0


def test_layers_and_mlp_take_the_tutorials_arguments():
    x = np.ones((2, 5, 48), np.float32)
    np.testing.assert_allclose(tutorial.LayerScale(0.1, 48)(x), 0.1 * x)
    np.testing.assert_array_equal(tutorial.StochasticDepth(drop_prob=0.5)(x), x)
    output, scores = tutorial.TalkingHeadAttention(48, 4, 0.0)(x)
    assert (tuple(output.shape), tuple(scores.shape)) == ((2, 5, 48), (2, 4, 5, 5))
    assert tutorial.mlp(x, dropout_rate=0.0, hidden_units=[96, 48]).shape == (2, 5, 48)


def test_every_part_is_float32_whatever_the_users_keras_settings_say():
    usual = keras.config.floatx()
    keras.config.set_floatx("float16")
    try:
        parts = [
            tutorial.LayerScale(0.1, 8),
            tutorial.StochasticDepth(0.1),
            tutorial.ClassAttention(8, 2, 0.0),
            tutorial.TalkingHeadAttention(8, 2, 0.0),
            *tutorial.LayerScaleBlock(**BLOCK).layers,
            *tutorial.LayerScaleBlockClassAttention(**BLOCK).layers,
        ]
        outputs = [*tutorial.LayerScaleBlock(**BLOCK).outputs, tutorial.mlp(keras.Input((8,)), 0.1, [8, 8])]
    finally:
        keras.config.set_floatx(usual)
    assert {part.compute_dtype for part in parts} == {part.variable_dtype for part in parts} == {"float32"}
    assert {output.dtype for output in outputs} == {"float32"}


def test_pooling_the_patches_works():
    config = tutorial.get_config(
        image_size=32, projection_dim=8, sa_ffn_layers=1, global_pool="avg", pre_logits=True
    )
    features, _, _ = tutorial.CaiT(**config)(np.zeros((3, 32, 32, 3), np.float32))
    assert features.shape == (3, 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_patches": 190}, "num_patches"),
        ({"mlp_units": [96, 96]}, "mlp_units"),
        ({"num_heads": 5}, "num_heads"),
    ],
)
def test_arguments_that_make_no_network_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        tutorial.CaiT(**(tutorial.get_config() | changes))


def test_an_image_keeps_its_shape_unless_it_is_squashed_as_in_the_tutorial():
    # Its left part is black: little of that is in the center, more in the squashed whole.
    pixels = np.full((100, 300, 3), 255, np.uint8)
    pixels[:, :110] = 0
    image = Image.fromarray(pixels)
    black = tutorial.preprocess_image(np.zeros((9, 9, 3), np.uint8), 64)[0, 0, 0]
    share = [
        np.mean(
            np.all(np.isclose(tutorial.preprocess_image(image, 64, squash)[0, 32], black, atol=0.2), axis=-1)
        )
        for squash in (False, True)
    ]
    assert share == pytest.approx([0.1, 0.35], abs=0.04)
    np.testing.assert_array_equal(tutorial.preprocess_image(PHOTO, 64), prepare(PHOTO, 64))


def test_the_norm_layer_takes_out_imagenets_mean_and_deviation():
    pixels = np.full((1, 4, 4, 3), 200, np.uint8)
    np.testing.assert_allclose(tutorial.norm_layer(pixels.astype(np.float32)), normalize(pixels), atol=1e-5)


def test_a_flat_map_is_drawn_flat():
    scores = np.full((1, 4, 1, 17), 1 / 17, np.float32)
    assert np.ptp(tutorial.get_cls_attention_map(scores)) < 1e-6
    assert not np.any(tutorial.get_cls_attention_map(scores, return_saliency=True))
