"""Inputs of another size than the weights were trained for: finer grids, and the shape of the image."""

import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import cait_viz
from cait_viz._sizes import image_shape
from cait_viz.engine import memory
from cait_viz.errors import EngineError, SelectionError
from cait_viz.images.preprocess import fitted_size, prepare, resize_and_crop, seen_box
from cait_viz.model.cait import CaiT
from cait_viz.model.config import CaiTConfig
from cait_viz.model.timm_names import assign, resample_positions

WIDE = (64, 128)  # height and width in pixels; the tiny network was made for 64 x 64


@pytest.fixture(scope="module")
def wide_engine(tiny_weights):
    return cait_viz.load_engine(weights=tiny_weights, image_size=WIDE)


@pytest.fixture(scope="module")
def picture():
    """A photograph twice as wide as high."""
    pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((160, 80), Image.Resampling.BICUBIC)


def test_height_and_width_make_a_grid_of_rows_and_columns():
    config = CaiTConfig(image_size=(64, 128))
    assert (config.image_shape, config.grid_shape, config.num_patches) == ((64, 128), (4, 8), 32)
    assert CaiTConfig(**json.loads(json.dumps(config.to_dict()))) == config
    assert CaiTConfig(image_size=(64, 64)) == CaiTConfig(image_size=64)


@pytest.mark.parametrize("size", [(64, 60), (0, 64), (64,), (64, 64, 64), (64, 80.0), ()])
def test_sizes_that_make_no_grid_are_refused(size):
    with pytest.raises(ValueError, match="image_size must be"):
        CaiTConfig(image_size=size)


def test_a_position_embedding_keeps_its_rows_apart_from_its_columns():
    row, column = np.mgrid[0:8, 0:8]
    positions = np.stack([row, column], -1).reshape(1, 64, 2).astype(np.float32)
    wide = resample_positions(positions, (8, 16)).reshape(8, 16, 2)
    # Away from the edge bicubic interpolation keeps what is linear.
    np.testing.assert_allclose(wide[3:5, 8, 0], [3, 4], atol=1e-5)
    np.testing.assert_allclose(wide[4, 4:12, 1], (np.arange(4, 12) + 0.5) / 2 - 0.5, atol=1e-5)


def test_every_figure_says_that_the_network_was_not_trained_at_that_size(wide_engine, picture, small_cat):
    analysis = cait_viz.analyze(picture, wide_engine)
    figures = [
        analysis.figure("heads", "svg"),
        analysis.figure("saliency", "svg"),
        cait_viz.trace(picture, wide_engine).figure("svg"),
        cait_viz.ablate(picture, wide_engine).figure(None, "svg"),
    ]
    for figure in figures:
        said = " ".join(re.findall(r"<!-- (.*?) -->", figure.decode()))
        assert "input has 128 × 64 pixels; the network was trained at 64 × 64" in said
    assert b"trained at" not in small_cat.figure("heads", "svg")


def test_both_engines_give_what_the_network_of_that_shape_gives(
    wide_engine, tiny_weights, tiny_config, weights, picture
):
    config = CaiTConfig(**(tiny_config.to_dict() | {"image_size": WIDE}))
    network = CaiT(config)
    assign(network, weights | {"pos_embed": resample_positions(weights["pos_embed"], config.grid_shape)})
    image = prepare(picture, WIDE, "squash")
    assert image.shape == (1, *WIDE, 3)
    expected, _, attention = network(image)
    for engine in (wide_engine, cait_viz.load_model(weights=tiny_weights, image_size=WIDE)):
        np.testing.assert_array_equal(cait_viz.preprocess(picture, engine, "squash"), image)
        analysis = cait_viz.analyze(picture, engine, "squash")
        np.testing.assert_allclose(analysis.logits, expected[0], atol=1e-4)
        np.testing.assert_allclose(
            analysis.class_attention["ca_ffn_block_1_att"],
            attention["ca_ffn_block_1_att"][0, :, 0],
            atol=1e-5,
        )
        assert analysis.grid_shape == (4, 8)
        assert not analysis.model.as_trained
        assert analysis.model.trained_size == 64


def test_every_question_is_answered_on_a_grid_that_is_no_square(wide_engine, picture):
    asked = {"source": picture, "model": wide_engine, "view": "squash"}
    trace = cait_viz.trace(**asked)
    block = cait_viz.block_attention(**asked, block=1)
    explanation = cait_viz.explain(**asked)
    ablation = cait_viz.ablate(**asked)
    grids = {
        "saliency": trace.analysis.saliency(),
        "rollout": trace.rollout(),
        "patch": block.grid(9),
        "relevance": explanation.grid(),
    }
    assert {grid.shape for grid in grids.values()} == {(4, 8)}
    trust = cait_viz.trust(**asked, grids=grids)
    assert set(grids) < set(trust.curves)
    for drawn in (trace.analysis.overlay(), trace.analysis.draw(grids["patch"])):
        assert drawn.size == picture.size
    for content in (
        trace.figure("png"),
        ablation.figure(0, "png"),
        trace.analysis.figure("heads"),
        trace.analysis.figure("saliency"),
        trace.analysis.archive(),
    ):
        assert len(content) > 1000


def test_a_patch_lies_where_it_is_in_the_image(wide_engine):
    """A bright patch in the last column of the first row; its neighbors are dark."""
    pixels = np.zeros((*WIDE, 3), np.uint8)
    pixels[:16, -16:] = 255
    patches = cait_viz.preprocess(Image.fromarray(pixels), wide_engine)
    bright = patches.reshape(4, 16, 8, 16, 3).mean(axis=(1, 3, 4)).reshape(-1)
    assert bright.argmax() == 7
    before = wide_engine.patches(patches, [0])[0]
    dark = wide_engine.patches(np.full_like(patches, patches.min()), [0])[0]
    assert np.abs(before - dark).max(axis=1).argmax() == 7


def test_weights_at_their_own_size_are_left_as_they_are(tiny_weights, picture):
    own, asked = (cait_viz.load_engine(weights=tiny_weights, image_size=size) for size in (None, 64))
    assert own.config == asked.config
    assert cait_viz.analyze(picture, asked).model.as_trained


def test_a_size_that_the_patches_do_not_divide_is_refused(tiny_weights):
    with pytest.raises(SelectionError, match=r"multiples of 16 pixels, not \(64, 100\)"):
        cait_viz.load_engine(weights=tiny_weights, image_size=(64, 100))


def test_in_a_container_the_files_that_were_read_leave_their_memory_free(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    for name, text in [
        ("max", "2000000"),
        ("current", "1900000"),
        ("stat", "anon 1\ninactive_file 1500000\n"),
    ]:
        (tmp_path / f"memory.{name}").write_text(text)
    assert memory.available() == 1_600_000


def test_an_input_that_the_memory_has_no_room_for_is_refused_before_anything_is_loaded(
    tiny_weights, monkeypatch
):
    monkeypatch.setattr(memory, "available", lambda: 8 * 10**9)
    with pytest.raises(EngineError, match=r"needs about .* GB of memory for 8192 × 8192 pixels and 8.0 GB"):
        cait_viz.load_engine(weights=tiny_weights, image_size=8192)


@settings(max_examples=200)
@given(
    width=st.integers(1, 12_000),
    height=st.integers(1, 12_000),
    side=st.integers(2, 24),
    patch=st.integers(4, 32),
)
def test_a_fitted_input_has_the_shape_of_the_image_and_about_as_many_patches(width, height, side, patch):
    rows, columns = (
        length // patch for length in image_shape(fitted_size((width, height), side * patch, patch))
    )
    exact = side * (height / width) ** 0.5, side * (width / height) ** 0.5
    if max(exact) < side**2:
        assert abs(rows - exact[0]) <= 0.5 or rows == 1
        assert abs(columns - exact[1]) <= 0.5 or columns == 1
    assert rows * columns <= max(side**2, (exact[0] + 0.5) * (exact[1] + 0.5))
    assert image_shape(fitted_size((width, width), side * patch, patch)) == (side * patch, side * patch)


@settings(max_examples=200)
@given(
    width=st.integers(1, 500), height=st.integers(1, 500), rows=st.integers(1, 6), columns=st.integers(1, 6)
)
def test_the_crop_has_the_shape_of_the_input_and_lies_in_the_middle(width, height, rows, columns):
    size = (16 * rows, 16 * columns)
    box = seen_box((width, height), size, "crop")
    assert 0 <= box.left < box.right <= width
    assert 0 <= box.top < box.bottom <= height
    assert box.left == 0 or box.top == 0
    if max(width, height) <= 40 * min(width, height):
        assert resize_and_crop(Image.new("RGB", (width, height)), size).size == (16 * columns, 16 * rows)
        seen = (box.right - box.left) / (box.bottom - box.top)
        assert seen == pytest.approx(columns / rows, rel=0.08)


def test_the_command_line_takes_a_size_or_the_shape_of_the_image(run, small, picture, tmp_path):
    path = tmp_path / "wide.png"
    picture.save(path)
    found = [
        json.loads(run("predict", path, *small, "--json", *options)[1])["input_size"]
        for options in ([], ["--image-size", "128"], ["--image-size", "64x96"], ["--view", "fit"])
    ]
    assert found == [[64, 64], [128, 128], [96, 64], [96, 48]]
    _, _, err = run("predict", path, *small, "--view", "fit")
    assert "sees 96 × 48 pixels; it was trained at 64 × 64" in err
    assert "at 64 × 64 pixels it gives" in err
    code, _, err = run("predict", path, *small, "--image-size", "64x")
    assert code == 2
    assert "give SIDE or HEIGHTxWIDTH in pixels" in err


def test_the_shape_of_one_image_is_not_that_of_another(run, small, picture, tmp_path):
    paths = [tmp_path / "wide.png", tmp_path / "square.png"]
    picture.save(paths[0])
    picture.resize((80, 80)).save(paths[1])
    code, _, err = run(
        "figure", *paths, *small, "--view", "fit", "--kind", "saliency", "-o", tmp_path / "out.png"
    )
    assert code == 2
    assert "these have several shapes" in err
