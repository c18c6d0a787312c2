import io
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from matplotlib import colormaps
from PIL import Image

from cait_viz.attention import maps
from cait_viz.drawing.export import png_bytes
from cait_viz.drawing.overlay import (
    COLORMAPS,
    DEFAULT_COLORMAPS,
    SIGNED_COLORMAP,
    STYLES,
    Appearance,
    color_table,
    colored,
    reduced,
    render,
    render_signed,
)
from cait_viz.errors import SelectionError
from cait_viz.images.preprocess import Box

looks = st.builds(
    Appearance,
    style=st.sampled_from(STYLES),
    colormap=st.sampled_from((*COLORMAPS, None)),
    alpha=st.floats(0, 1),
    interpolation=st.sampled_from(maps.INTERPOLATIONS),
)


def noise(width, height, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def whole(picture):
    return Box(0, 0, picture.width, picture.height)


def pixels(picture):
    return np.asarray(picture).astype(int)


@pytest.mark.parametrize("name", COLORMAPS)
def test_colors_are_those_of_matplotlib(name):
    table = colormaps[name](np.linspace(0, 1, 256), bytes=True)[:, :3]
    assert (color_table(name) == table).all()


def test_a_color_table_cannot_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        color_table("viridis")[0] = 0


def test_an_unknown_colormap_is_refused_with_the_known_ones():
    with pytest.raises(SelectionError) as refused:
        Appearance(colormap="jet")
    assert str(refused.value) == (
        "there is no colormap 'jet'; choose one of viridis, cividis, inferno, magma, plasma, gray"
    )


def test_values_from_0_to_1_take_the_colors_from_first_to_last():
    drawn = pixels(colored(np.array([[0, 0.5, 1]], np.float32), "gray"))
    assert drawn[0, :, 0].tolist() == [0, 128, 255]


def test_the_map_alone_is_the_colored_map():
    picture, grid = noise(12, 8), np.array([[0, 1]], np.float32)
    drawn = pixels(render(picture, whole(picture), grid, Appearance(style="map", interpolation="nearest")))
    assert (drawn[:, :6] == color_table("viridis")[0]).all()
    assert (drawn[:, 6:] == color_table("viridis")[255]).all()


def test_the_opacity_of_the_overlay_rises_with_the_attention():
    picture, grid = noise(24, 16), np.random.default_rng(4).random((2, 3), np.float32)
    colors = pixels(render(picture, whole(picture), grid, Appearance(style="map", colormap="inferno")))
    opacity = 0.6 * maps.upsample(grid, (16, 24))[..., np.newaxis]
    drawn = pixels(render(picture, whole(picture), grid, Appearance(alpha=0.6)))
    expected = (1 - opacity) * pixels(picture) + opacity * colors
    assert np.abs(drawn - expected).max() <= 2


@pytest.mark.parametrize("colormap", COLORMAPS)
def test_what_got_no_attention_stays_the_image_and_what_got_the_most_takes_the_color(colormap):
    picture, grid = noise(12, 8), np.array([[0, 1]], np.float32)
    appearance = Appearance(alpha=1, colormap=colormap, interpolation="nearest")
    drawn = pixels(render(picture, whole(picture), grid, appearance))
    assert (drawn[:, :6] == pixels(picture)[:, :6]).all()
    assert (drawn[:, 6:] == color_table(colormap)[255]).all()


def test_an_overlay_of_no_opacity_is_the_image():
    picture, grid = noise(12, 8), np.array([[0.2, 1]], np.float32)
    clear = render(picture, whole(picture), grid, Appearance(alpha=0))
    assert (pixels(clear) == pixels(picture)).all()


@pytest.mark.parametrize("shade", ["black", "gray", "white"])
def test_the_default_overlay_marks_the_most_attention_on_dark_and_on_bright_images(shade):
    picture, grid = Image.new("RGB", (8, 8), shade), np.array([[0, 1]], np.float32)
    drawn = pixels(render(picture, whole(picture), grid, Appearance(interpolation="nearest")))
    assert np.abs(drawn[:, 4:] - drawn[:, :4]).max() > 70


def test_the_image_shines_through_the_most_attention():
    grid = np.ones((2, 2), np.float32)
    drawn = [
        pixels(render(picture, whole(picture), grid, Appearance()))
        for picture in (Image.new("RGB", (8, 8), "black"), Image.new("RGB", (8, 8), "white"))
    ]
    assert np.abs(drawn[0] - drawn[1]).min() > 40


def test_the_paper_style_colors_the_grey_levels_times_the_map():
    picture = noise(20, 10)
    grid = np.random.default_rng(1).random((3, 4), np.float32)
    values = maps.upsample(grid, (10, 20))
    red, green, blue = np.moveaxis(pixels(picture), 2, 0)
    # ITU-R 601, as integers the way Pillow rounds it.
    gray = (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16
    expected = color_table("cividis")[np.rint(gray.astype(np.float32) * values).astype(int)]
    drawn = pixels(render(picture, whole(picture), grid, Appearance(style="paper")))
    # One level apart where float32 rounds a half the other way.
    assert np.abs(drawn - expected.astype(int)).max() <= 3


def test_every_style_has_a_colormap_of_its_own():
    assert {style: Appearance(style=style).colors for style in STYLES} == DEFAULT_COLORMAPS
    assert DEFAULT_COLORMAPS["paper"] == "cividis"
    assert Appearance(style="paper", colormap="gray").colors == "gray"


@pytest.mark.parametrize("style", STYLES)
def test_a_hot_patch_lands_where_it_was_in_a_grid_that_is_not_square(style):
    picture = Image.new("RGB", (70, 50), (200, 200, 200))
    grid = np.zeros((2, 5), np.float32)
    grid[1, 3] = 1
    box = Box(10, 8, 60, 48)
    appearance = Appearance(style=style, interpolation="nearest")
    drawn = pixels(render(picture, box, grid, appearance))
    cold = pixels(render(picture, box, np.zeros((2, 5), np.float32), appearance))
    rows, cols = np.nonzero((drawn != cold).any(axis=2))
    assert (rows.min(), rows.max() + 1) == (28, 48)
    assert (cols.min(), cols.max() + 1) == (40, 50)
    assert len(rows) == 20 * 10


@given(
    st.integers(1, 25),
    st.integers(1, 25),
    st.tuples(st.integers(1, 6), st.integers(1, 6)),
    st.data(),
    looks,
)
def test_any_map_on_any_image_keeps_the_size_and_what_was_not_seen(width, height, shape, data, appearance):
    picture = noise(width, height)
    left, top = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    right, bottom = data.draw(st.integers(left + 1, width)), data.draw(st.integers(top + 1, height))
    before = pixels(picture)
    grid = np.random.default_rng(2).random(shape, np.float32)
    drawn = render(picture, Box(left, top, right, bottom), grid, appearance)
    assert drawn.mode == "RGB"
    assert drawn.size == (width, height)
    unseen = np.ones((height, width), bool)
    unseen[top:bottom, left:right] = False
    assert (pixels(drawn)[unseen] == before[unseen]).all()
    assert (pixels(picture) == before).all()


def test_edges_between_pixels_are_drawn_on_whole_ones():
    picture = Image.new("RGB", (10, 1), "white")
    drawn = pixels(
        render(picture, Box(2.4, 0.0, 7.6, 1.0), np.ones((1, 1), np.float32), Appearance(style="map"))
    )
    changed = np.nonzero((drawn[0] != 255).any(axis=1))[0]
    assert changed.tolist() == [2, 3, 4, 5, 6, 7]


def test_a_flat_map_highlights_nothing():
    picture = noise(9, 9)
    drawn = render(picture, whole(picture), maps.min_max(np.full((3, 3), 0.2)), Appearance(style="paper"))
    assert (pixels(drawn) == color_table("cividis")[0]).all()


def test_what_was_not_seen_is_dimmed_on_request():
    picture = Image.new("RGB", (10, 4), (200, 100, 50))
    drawn = pixels(render(picture, Box(0, 0, 4, 4), np.ones((2, 2), np.float32), Appearance(dim_unseen=0.5)))
    assert (drawn[:, 4:] == (100, 50, 25)).all()
    bright = pixels(render(picture, Box(0, 0, 4, 4), np.ones((2, 2), np.float32), Appearance()))
    assert (drawn[:, :4] == bright[:, :4]).all()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"style": "heat"}, "there is no style 'heat'; choose one of overlay, paper, map"),
        ({"colormap": "grey"}, "there is no colormap 'grey'; choose one of viridis, cividis, inferno"),
        ({"interpolation": None}, "there is no interpolation None; choose one of bicubic, nearest"),
        ({"scale": "block"}, "there is no scale 'block'; choose one of head, shared"),
        ({"alpha": 1.5}, "alpha must be from 0 to 1, not 1.5"),
        ({"alpha": -0.1}, "alpha must be from 0 to 1, not -0.1"),
        ({"alpha": float("nan")}, "alpha must be from 0 to 1, not nan"),
        ({"alpha": True}, "alpha must be a number, not True"),
        ({"alpha": "half"}, "alpha must be a number, not 'half'"),
        ({"dim_unseen": 2}, "dim_unseen must be from 0 to 1, not 2"),
    ],
)
def test_a_look_that_does_not_exist_is_refused(options, sentence):
    with pytest.raises(SelectionError) as refused:
        Appearance(**options)
    assert str(refused.value).startswith(sentence)


def test_numbers_of_numpy_are_numbers():
    assert Appearance(alpha=np.float32(0.5)).alpha == 0.5
    assert Appearance(alpha=np.int64(1)) == Appearance(alpha=1.0)


def test_a_reduced_image_has_the_longer_side_asked_for_and_its_box_with_it():
    picture, box = reduced(noise(400, 200), Box(100, 0, 300, 200), 100)
    assert picture.size == (100, 50)
    assert box == Box(25, 0, 75, 50)


def test_an_image_that_is_small_enough_is_not_reduced():
    picture = noise(40, 20)
    assert reduced(picture, whole(picture), 40) == (picture, whole(picture))


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 50))
def test_a_reduced_box_stays_inside_the_reduced_image(width, height, max_side):
    picture = Image.new("RGB", (width, height))
    side = min(width, height)
    box = Box((width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2)
    smaller, scaled = reduced(picture, box, max_side)
    left, top, right, bottom = scaled.pixels()
    assert max(smaller.size) == min(max_side, max(width, height))
    assert 0 <= left < right <= smaller.width
    assert 0 <= top < bottom <= smaller.height


@pytest.mark.parametrize("max_side", [0, -5, 10.0, True, "10"])
def test_a_longest_side_that_is_no_length_is_refused(max_side):
    with pytest.raises(SelectionError, match=r"^max_side must be (a whole number|at least 1), not "):
        reduced(noise(4, 4), Box(0, 0, 4, 4), max_side)


def test_a_png_tells_what_it_was_told():
    told = {"model": "bundled", "picture": "Füße.jpg", "label": "猫 😀", "empty": ""}
    with Image.open(io.BytesIO(png_bytes(noise(5, 4), told))) as kept:
        kept.load()
        assert kept.text == told
        assert (pixels(kept) == pixels(noise(5, 4))).all()


def test_text_that_a_png_cannot_hold_is_made_to_fit():
    with Image.open(io.BytesIO(png_bytes(noise(5, 4), {"picture": "a\0b\udce9.jpg"}))) as kept:
        kept.load()
        assert kept.text == {"picture": "a b?.jpg"}


def test_threads_draw_what_one_thread_draws():
    picture, grid = noise(60, 40), np.random.default_rng(3).random((4, 4), np.float32)
    chosen = [Appearance(style=style, colormap=name) for style in STYLES for name in COLORMAPS] * 4
    alone = [render(picture, whole(picture), grid, appearance).tobytes() for appearance in chosen]
    color_table.cache_clear()
    with ThreadPoolExecutor(8) as pool:
        together = list(
            pool.map(lambda appearance: render(picture, whole(picture), grid, appearance).tobytes(), chosen)
        )
    assert together == alone


def test_drawing_needs_neither_pyplot_nor_keras():
    program = (
        "import sys, cait_viz.results.analysis, cait_viz.drawing.figures\n"
        "print([name for name in ('matplotlib.pyplot', 'keras', 'tensorflow', 'streamlit') "
        "if name in sys.modules])"
    )
    root = Path(__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=root
    )
    assert done.stdout.strip() == "[]"


scores = maps.symmetric(np.array([[-2, 0, 1]], np.float32))


def signed(picture, **appearance):
    return pixels(
        render_signed(picture, whole(picture), scores, Appearance(interpolation="nearest", **appearance))
    )


def test_signed_scores_are_blue_below_zero_red_above_and_nothing_at_zero():
    picture = noise(12, 4)
    drawn = signed(picture, alpha=1)
    red, _, blue = drawn[:, :4].reshape(-1, 3).mean(axis=0)
    assert blue > red + 50
    assert (drawn[:, 4:8] == pixels(picture)[:, 4:8]).all()
    # Half as far from zero, the color is half as opaque.
    color = color_table(SIGNED_COLORMAP)[191].astype(int)
    np.testing.assert_allclose(drawn[:, 8:], (pixels(picture)[:, 8:] + color) / 2, atol=2)
    assert color[0] > color[2] + 50


def test_signed_scores_alone_are_white_at_zero_and_gray_below_in_the_papers_style():
    picture = noise(12, 4)
    assert (signed(picture, style="map")[:, 4:8] >= 246).all()
    gray = pixels(picture.convert("L").convert("RGB"))
    assert (signed(picture, style="paper")[:, 4:8] == gray[:, 4:8]).all()
    for style in ("map", "paper"):  # the opacity is the overlay's
        assert (signed(picture, style=style, alpha=0.1) == signed(picture, style=style)).all()


@given(arrays(np.float32, (2, 3), elements=st.floats(-1e6, 1e6, width=32)))
def test_scores_are_brought_to_their_largest_magnitude_and_zero_stays(values):
    found = maps.symmetric(values)
    assert found.dtype == np.float32
    assert np.abs(found).max() == (1 if values.any() else 0)
    assert (np.sign(found) == np.sign(values)).all() or np.abs(values[values != 0]).min() < 1e-30
    np.testing.assert_allclose(found * np.abs(values).max(), values, rtol=1e-5, atol=1e-30)
