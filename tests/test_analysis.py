"""What an analysis tells, draws and is."""

import io
import math
import pickle
import warnings
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from analyses import MODEL, analysis_of, attention_of
from PIL import Image

from cait_viz.attention import maps
from cait_viz.drawing.overlay import STYLES, color_table
from cait_viz.errors import CheckpointError, SelectionError
from cait_viz.images.preprocess import Box


def small_model_analysis(rows, **changes):
    """Two blocks of one head each over a grid of two rows and two columns."""
    attention = {f"ca_ffn_block_{block}_att": np.array([row], np.float32) for block, row in enumerate(rows)}
    return analysis_of(model=replace(MODEL, image_size=32), class_attention=attention, **changes)


@pytest.fixture(scope="module")
def analysis():
    return analysis_of()


# What the network said


def test_predictions_come_best_first_and_equals_in_order(analysis):
    assert analysis.predictions == [
        ("tabby, tabby cat", pytest.approx(0.6)),
        ("goldfish", pytest.approx(0.15)),
        ("Egyptian cat", pytest.approx(0.15)),
        ("tench", pytest.approx(0.05)),
        ("lynx", pytest.approx(0.05)),
    ]
    assert analysis.ranking.tolist() == [2, 1, 3, 0, 4]
    assert analysis.top(2) == analysis.predictions[:2]
    assert analysis.top(99) == analysis.predictions


def test_confident_classes_have_more_than_ten_percent():
    probabilities = (0.1, 0.1000001, 0.2, 0.5999999)
    found = analysis_of(probabilities=probabilities).confident()
    assert [label for label, _ in found] == ["Egyptian cat", "tabby, tabby cat", "goldfish"]


def test_nothing_is_confident_where_all_is_guessed():
    labels = tuple(f"class {index}" for index in range(20))
    assert analysis_of(probabilities=[0.05] * 20, labels=labels).confident() == []


# Where it looked


def test_saliency_is_the_mean_of_the_heads_of_the_block_that_serves_best(analysis):
    expected = maps.saliency(analysis.class_attention["ca_ffn_block_0_att"], (14, 14))
    assert (analysis.saliency() == expected).all()
    assert (analysis.saliency(0) == expected).all()
    second = analysis_of(model=replace(MODEL, saliency_block=1))
    assert (second.saliency() == analysis.saliency(1)).all()
    assert not (second.saliency() == expected).all()


def test_the_grid_of_the_mean_is_the_saliency(analysis):
    assert (analysis.grid(1) == analysis.saliency(1)).all()
    assert analysis.grid_shape == (14, 14)


def test_each_head_has_its_own_range_or_one_shared_by_all_blocks():
    found = small_model_analysis([[0.2, 0, 0.1, 0.2, 0.5], [0.0, 0.25, 0.25, 0.5, 0]])
    assert found.grid(0, 0) == pytest.approx(np.array([[0, 0.2], [0.4, 1]]))
    assert found.grid(1, 0) == pytest.approx(np.array([[0.5, 0.5], [1, 0]]))
    shifted = small_model_analysis([[0.2, 0.1, 0.1, 0.2, 0.4], [0.0, 0.2, 0.2, 0.6, 0]])
    assert shifted.shared_range == pytest.approx((0, 0.6))
    assert shifted.grid(0, 0, "shared") == pytest.approx(np.array([[1, 1], [2, 4]]) / 6)
    assert shifted.grid(1, 0, "shared") == pytest.approx(np.array([[1, 1], [3, 0]]) / 3)


def test_a_head_tells_what_the_map_hides():
    found = small_model_analysis([[0.5, 0.25, 0.25, 0, 0], [0.2, 0.2, 0.2, 0.2, 0.2]])
    assert found.class_token_attention(0) == pytest.approx([0.5])
    assert found.entropy(0) == pytest.approx([math.log(2)])
    assert found.effective_patches(0) == pytest.approx([2])
    assert found.class_token_attention(1) == pytest.approx([0.2])
    assert found.effective_patches(1) == pytest.approx([4])


def test_flat_attention_renders_without_nan():
    found = small_model_analysis([[0.2, 0.2, 0.2, 0.2, 0.2], [1, 0, 0, 0, 0]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for block in (0, 1):
            drawn = np.asarray(found.overlay(block, style="map"))
            assert (drawn[:, 10:50] == color_table("viridis")[0]).all()


# Drawn


@pytest.mark.parametrize("style", STYLES)
def test_a_drawing_has_the_images_own_size(analysis, style):
    drawn = analysis.overlay(block=0, head=None, style=style)
    assert (drawn.size, drawn.mode) == ((60, 40), "RGB")
    unseen = np.r_[0:10, 50:60]
    assert (np.asarray(drawn)[:, unseen] == analysis.image[:, unseen]).all()
    assert (np.asarray(drawn)[:, 10:50] != analysis.image[:, 10:50]).any()


def test_every_head_and_block_is_drawn_differently(analysis):
    drawn = {analysis.overlay(block, head).tobytes() for block in (0, 1) for head in (None, 0, 1, 2, 3)}
    assert len(drawn) == 10


def test_a_drawing_for_a_screen_is_that_of_the_smaller_image(analysis):
    small = analysis.reduced(30)
    assert (small.size, small.box) == ((30, 20), Box(5, 0, 25, 20))
    assert analysis.overlay(max_side=30).tobytes() == small.overlay().tobytes()
    assert analysis.reduced(60) is analysis


def test_what_was_seen_is_the_part_in_the_box(analysis):
    seen = analysis.seen()
    assert (seen.image == analysis.image[:, 10:50]).all()
    assert seen.overlay().tobytes() == analysis.overlay().crop((10, 0, 50, 40)).tobytes()


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (15, 17)])
def test_images_of_any_shape_are_drawn(size):
    found = analysis_of(*size)
    for style in STYLES:
        assert found.overlay(style=style).size == size
    assert found.overlay(max_side=8).size == tuple(
        max(1, min(side, round(side * 8 / max(size)))) for side in size
    )
    assert Image.open(io.BytesIO(found.figure("heads"))).format == "PNG"
    assert Image.open(io.BytesIO(found.figure("saliency"))).format == "PNG"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"block": 2}, "there is no CA block 2; this model has 2, numbered from 0 to 1"),
        ({"block": -1}, "there is no CA block -1; this model has 2, numbered from 0 to 1"),
        ({"block": True}, "there is no CA block True; this model has 2, numbered from 0 to 1"),
        ({"head": 4}, "there is no head 4; this model has 4, numbered from 0 to 3"),
        ({"head": False}, "there is no head False; this model has 4, numbered from 0 to 3"),
        ({"head": "mean"}, "there is no head 'mean'; this model has 4, numbered from 0 to 3"),
        ({"style": "x"}, "there is no style 'x'; choose one of overlay, paper, map"),
        ({"interpolation": "x"}, "there is no interpolation 'x'; choose one of bicubic, nearest"),
        ({"scale": "x"}, "there is no scale 'x'; choose one of head, shared"),
        ({"alpha": 2}, "alpha must be from 0 to 1, not 2"),
        ({"max_side": 0}, "max_side must be at least 1, not 0"),
    ],
)
def test_a_view_that_is_not_there_is_refused(analysis, options, sentence):
    for draw in (analysis.overlay, analysis.png):
        with pytest.raises(SelectionError) as refused:
            draw(**options)
        assert str(refused.value) == sentence


@pytest.mark.parametrize(
    "question", ["saliency", "class_token_attention", "entropy", "effective_patches", "concentration"]
)
def test_a_block_that_is_not_there_has_no_numbers(analysis, question):
    with pytest.raises(SelectionError, match=r"^there is no CA block 7; "):
        getattr(analysis, question)(7)


def test_an_option_that_does_not_exist_is_no_silent_mistake(analysis):
    with pytest.raises(TypeError, match="opacity"):
        analysis.overlay(opacity=0.5)


# The thing itself


def test_an_analysis_survives_the_way_between_processes(analysis):
    copy = pickle.loads(pickle.dumps(analysis))
    assert copy.model == analysis.model
    assert copy.box == analysis.box
    assert copy.predictions == analysis.predictions
    assert copy.png(1, 2) == analysis.png(1, 2)
    assert not copy.image.flags.writeable


def test_an_analysis_cannot_be_changed(analysis):
    with pytest.raises(FrozenInstanceError):
        analysis.view = "squash"
    for array in (analysis.image, analysis.probabilities, analysis.class_attention["ca_ffn_block_0_att"]):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_the_arrays_given_stay_their_owners():
    picture = np.zeros((4, 4, 3), np.uint8)
    analysis_of(image=picture, box=Box(0, 0, 4, 4))
    picture[0] = 1


def test_an_analysis_says_what_it_is_in_one_line(analysis):
    assert repr(analysis) == "<Analysis of 'my cat.jpg' by cait_xxs24_224: 'tabby, tabby cat', 60.0%>"


def test_an_analysis_knows_its_size_in_memory(analysis):
    assert analysis.nbytes == 60 * 40 * 3 + 2 * 5 * 4 + 2 * 4 * 197 * 4


def test_damaged_weights_are_named_as_the_cause():
    attention = attention_of(4, 196)
    attention["ca_ffn_block_1_att"][0, 0] = np.nan
    with pytest.raises(CheckpointError) as refused:
        analysis_of(class_attention=attention)
    assert str(refused.value) == (
        "model.safetensors: the network answers with numbers that are not finite; "
        "the weights are damaged, use another file"
    )
    with pytest.raises(CheckpointError):
        analysis_of(logits=np.full(5, np.nan))
