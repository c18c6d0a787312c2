"""From an image to its analysis: preprocessing and network, each by itself and together."""

import hashlib
import io
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from reference import lively_weights, timm_shapes
from safetensors.numpy import load_file, save_file

from cait_viz._files import sha256
from cait_viz._resources import BUNDLED_WEIGHTS
from cait_viz.api import analyze, attention_tensors, load_model, preprocess
from cait_viz.attention.probabilities import probabilities
from cait_viz.errors import CheckpointError, ImageError, SelectionError, UnknownModelError
from cait_viz.model.cait import CaiT
from cait_viz.model.config import CaiTConfig
from cait_viz.model.timm_names import assign
from cait_viz.weights.registry import BUNDLED

NUMBERS = ("image", "probabilities", "logits")


def picture_of(photo):
    return Image.open(io.BytesIO(photo)).convert("RGB")


def as_torchvision_prepares(picture, side):
    """Resize the shorter side, cut out the center, normalize; written apart from the library."""
    width, height = picture.size
    size = (side, int(side * height / width)) if width <= height else (int(side * width / height), side)
    pixels = np.asarray(picture.resize(size, Image.Resampling.BICUBIC)).astype(np.float32) / 255
    top, left = round((size[1] - side) / 2), round((size[0] - side) / 2)
    pixels = pixels[top : top + side, left : left + side]
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    return ((pixels - mean) / deviation)[None]


def assert_same_analysis(found, expected):
    for name in NUMBERS:
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert found.class_attention.keys() == expected.class_attention.keys()
    for key, attention in expected.class_attention.items():
        np.testing.assert_array_equal(found.class_attention[key], attention)
    assert (found.box, found.view, found.labels) == (expected.box, expected.view, expected.labels)
    assert found.model == expected.model


# The two halves apart


def test_the_pixels_are_torchvisions_whatever_the_network_makes_of_them(tiny_model, photo):
    found = attention_tensors(photo, tiny_model)["pixels"]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, as_torchvision_prepares(picture_of(photo), 64), atol=1e-6)


def test_the_logits_are_the_networks_whatever_made_its_pixels(tiny_model, photo):
    tensors = attention_tensors(photo, tiny_model, sa_blocks=[1])
    logits, sa_attention, ca_attention = tiny_model(tensors["pixels"])
    expected = {"sa_ffn_block_1_att": sa_attention["sa_ffn_block_1_att"], "logits": logits, **ca_attention}
    assert tensors.keys() == expected.keys() | {"pixels"}
    for key, value in expected.items():
        np.testing.assert_allclose(tensors[key], value, atol=1e-5, err_msg=key)


def test_preprocessing_takes_its_size_from_the_model(tiny_model, bundled, photo):
    assert preprocess(photo, tiny_model).shape == (1, 64, 64, 3)
    assert preprocess(photo, bundled).shape == (1, 224, 224, 3)


# Analysis


def test_an_analysis_is_the_networks_answer(tiny_model, photo):
    analysis = analyze(photo, tiny_model)
    logits, _, ca_attention = tiny_model(preprocess(photo, tiny_model))
    np.testing.assert_allclose(analysis.logits, logits[0], atol=1e-5)
    exponentials = np.exp(np.asarray(logits[0], np.float64))
    np.testing.assert_allclose(analysis.probabilities, exponentials / exponentials.sum(), atol=1e-6)
    assert analysis.class_attention.keys() == ca_attention.keys()
    for key, attention in analysis.class_attention.items():
        assert attention.shape == (4, 17)
        np.testing.assert_allclose(attention, ca_attention[key][0, :, 0], atol=1e-6)
    np.testing.assert_array_equal(analysis.image, np.asarray(picture_of(photo)))
    assert analysis.labels == tuple(f"class {index}" for index in range(10))


def test_path_bytes_image_and_array_give_the_same_analysis(tiny_model, photo, tmp_path):
    path = tmp_path / "my photo.png"
    path.write_bytes(photo)
    expected = analyze(photo, tiny_model)
    for source in (path, str(path), picture_of(photo), np.asarray(picture_of(photo))):
        assert_same_analysis(analyze(source, tiny_model), expected)


def test_an_analysis_says_which_image_it_is_of(tiny_model, photo, tmp_path):
    path = tmp_path / "my photo.png"
    path.write_bytes(photo)
    from_path, named = analyze(path, tiny_model), analyze(photo, tiny_model, name="hers.png")
    assert (from_path.image_name, named.image_name) == ("my photo.png", "hers.png")
    assert from_path.image_sha256 == named.image_sha256 == hashlib.sha256(photo).hexdigest()


def test_the_pixels_of_an_image_without_a_file_are_hashed_when_that_is_asked_for(
    tiny_model, photo, monkeypatch
):
    pixels = np.asarray(picture_of(photo))
    with monkeypatch.context() as patch:
        patch.setattr(hashlib, "sha256", None)
        analysis = analyze(pixels, tiny_model)
        analysis.overlay(max_side=20)
        parts = [analysis.reduced(20), analysis.seen(), analysis.seen().reduced(20)]
    again = [part.image_sha256 for part in (*parts, *pickle.loads(pickle.dumps(parts)))]
    assert set(again) == {analysis.image_sha256}
    assert analysis.image_sha256 == hashlib.sha256(pixels.tobytes()).hexdigest()


def test_an_analysis_says_which_model_made_it(bundled, photo):
    model = analyze(photo, bundled).model
    assert (model.name, model.weights, model.saliency_block) == ("bundled", "bundled.safetensors", 1)
    assert (model.image_size, model.patch_size) == (224, 16)
    assert model.weights_sha256 == sha256(BUNDLED_WEIGHTS)


def test_the_whole_image_is_another_view_with_a_box_of_its_own(tiny_model, photo):
    crop, whole = analyze(photo, tiny_model), analyze(photo, tiny_model, "squash")
    assert crop.box == (pytest.approx(130 / 92 * 14), 0, pytest.approx(130 / 92 * 78), 90)
    assert whole.box == (0, 0, 130, 90)
    assert np.abs(crop.logits - whole.logits).max() > 1e-3
    squashed = np.asarray(picture_of(photo).resize((64, 64), Image.Resampling.BICUBIC))
    np.testing.assert_allclose(
        preprocess(photo, tiny_model, "squash")[0],
        (squashed / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225],
        atol=1e-6,
    )


def test_a_model_that_came_from_no_file_analyzes_too(tiny_config, photo):
    model = CaiT(tiny_config, name="mine")
    assign(model, lively_weights(timm_shapes(tiny_config)))
    analysis = analyze(photo, model)
    assert (analysis.model.name, analysis.model.weights, analysis.model.weights_sha256) == ("mine", "", "")
    assert analysis.predictions[0][0].startswith("class ")
    assert analysis.model.saliency_block == 0


@given(
    arrays(
        np.float32, st.tuples(st.integers(0, 3), st.integers(1, 4)), elements=st.floats(-1e4, 1e4, width=32)
    )
)
def test_probabilities_are_a_distribution_over_the_classes_or_the_chance_of_the_only_one(logits):
    found = probabilities(logits)
    assert (found.dtype, found.shape) == (np.float32, logits.shape)
    assert ((found >= 0) & (found <= 1)).all()
    if logits.shape[1] > 1:
        np.testing.assert_allclose(found.sum(-1), 1, atol=1e-6)
    else:  # as the second of two classes whose first has a logit of zero
        np.testing.assert_allclose(found, probabilities(np.insert(logits, 0, 0, axis=1))[:, 1:], atol=1e-6)


def test_large_logits_make_no_infinite_probability():
    np.testing.assert_array_equal(
        probabilities(np.array([[1e4], [0], [-1e4]], np.float32)), [[1], [0.5], [0]]
    )
    np.testing.assert_array_equal(probabilities(np.array([1e4, 0, -1e4], np.float32)), [1, 0, 0])
    shifted = probabilities(np.array([1000, 1001], np.float32))
    np.testing.assert_allclose(shifted, probabilities(np.array([0, 1], np.float32)))


# Refusals


def test_a_model_without_a_classifier_is_not_asked_for_classes(tiny_config, photo):
    from dataclasses import replace

    with pytest.raises(CheckpointError, match="pre_logits"):
        analyze(photo, CaiT(replace(tiny_config, pre_logits=True)))


def test_numbers_that_are_not_finite_are_refused_and_not_drawn(tiny_config, photo):
    model = CaiT(tiny_config)
    model.head.bias.assign(np.full(10, np.nan, np.float32))
    with pytest.raises(CheckpointError, match="finite"):
        analyze(photo, model)


def test_what_is_no_image_is_refused(tiny_model):
    for action in (analyze, preprocess, attention_tensors):
        with pytest.raises(ImageError):
            action(b"not a picture", tiny_model)


def test_a_view_or_block_that_is_not_there_is_refused(tiny_model, photo):
    with pytest.raises(SelectionError, match="'left'"):
        analyze(photo, tiny_model, "left")
    with pytest.raises(SelectionError, match="block 3"):
        attention_tensors(photo, tiny_model, sa_blocks=[3])


# Loading


def test_without_arguments_the_bundled_model_is_loaded(bundled):
    assert bundled.config == BUNDLED.config
    assert bundled.source.file == BUNDLED_WEIGHTS.name
    assert len(bundled.labels) == 1000


def test_given_weights_show_their_architecture_and_labels_name_their_classes(
    tiny_config, tiny_weights, photo, tmp_path
):
    names = tmp_path / "labels.txt"
    names.write_text("\n".join(f"name {index}" for index in range(10)))
    model = load_model(weights=tiny_weights, labels=names)
    assert model.config == tiny_config
    assert {label for label, _ in analyze(photo, model).predictions} == {f"name {i}" for i in range(10)}


def test_weights_of_another_model_than_the_one_named_are_refused(tiny_weights):
    with pytest.raises(CheckpointError, match="does not fit cait_xxs24_224"):
        load_model("cait_xxs24_224", weights=tiny_weights)


def test_an_unknown_model_is_refused_by_name():
    with pytest.raises(UnknownModelError, match="'cait_xl'"):
        load_model("cait_xl")


def test_a_network_of_odd_sizes_goes_all_the_way(photo):
    config = CaiTConfig(
        image_size=21,
        patch_size=7,
        projection_dim=10,
        num_heads=5,
        sa_ffn_layers=1,
        ca_ffn_layers=1,
        num_classes=1,
    )
    analysis = analyze(photo, CaiT(config))
    assert analysis.saliency(0).shape == (3, 3)
    assert analysis.overlay().size == (130, 90)


def test_a_head_of_one_class_is_a_sigmoid_and_not_sure_of_everything(tmp_path, photo):
    tensors = load_file(BUNDLED_WEIGHTS)
    # A bias that says no by itself: what a softmax over one class would make into 100 %.
    head = {"head.weight": 0 * tensors["head.weight"][:1], "head.bias": tensors["head.bias"][:1] * 0 - 1}
    save_file(tensors | head, tmp_path / "one_class.safetensors")
    analysis = analyze(photo, load_model(weights=tmp_path / "one_class.safetensors"))
    ((label, probability),) = analysis.predictions
    assert label == "class 0"
    assert probability == pytest.approx(1 / (1 + np.exp(-float(analysis.logits[0]))))
    assert 0 < probability < 0.5


def test_a_part_of_the_package_is_there_without_an_import_of_its_own(run_python):
    script = "import cait_viz\nprint(cait_viz.training.Stage(96, 1), hasattr(cait_viz, 'nothing'))"
    out, _ = run_python(script)
    assert out == "Stage(image_size=96, epochs=1) False\n"
