"""What the page says of its options is what it draws, whatever was chosen before."""

import io
import itertools
import random

import numpy as np
import pytest
from app_page import analysis_of, drawn, is_usable, maps, pictures, tiles, visit
from PIL import Image

from cait_viz.drawing.overlay import COLORMAPS, DEFAULT_COLORMAPS, STYLES

pytestmark = pytest.mark.usefixtures("small_app")

OPTIONS = {
    "style": STYLES,
    "colormap": COLORMAPS,
    "opacity": (0, 45, 100),
    "scale": ("head", "shared"),
    "interpolation": ("bicubic", "nearest"),
    "view": ("crop", "fit", "whole"),
    "detail": ("1", "2"),
    "block": (0, 1),
    "head": ("mean", 0, 3),
}


def widget(page, name):
    if name in ("colormap", "head"):
        return page.selectbox(key=name)
    return page.slider(key=name) if name == "opacity" else page.button_group(key=name)


def pairs(options):
    return set(itertools.combinations(sorted(options.items()), 2))


def walk():
    """Choices of all options, in which each option of one widget meets each of another at least once."""
    every = [{first: one, second: other} for first, second in itertools.combinations(OPTIONS, 2)
             for one in OPTIONS[first] for other in OPTIONS[second]]  # fmt: skip
    missing = {pair for both in every for pair in pairs(both)}
    chance = random.Random(0)
    while missing:
        (first, second) = min(missing, key=str)
        tries = [
            {name: chance.choice(values) for name, values in OPTIONS.items()} | dict([first, second])
            for _ in range(50)
        ]
        best = max(tries, key=lambda options: len(pairs(options) & missing))
        missing -= pairs(best)
        yield best


def as_sent(image):
    """An image as it comes out of a JPEG file of the page's quality."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=88)
    return np.asarray(Image.open(file), int)


def said(page):
    """The style and so on by what the widgets say."""
    values = {name: widget(page, name).value for name in OPTIONS}
    assert widget(page, "colormap").options == list(COLORMAPS), "a colormap is called by its name alone"
    head = None if values["head"] == "mean" else values["head"]
    appearance = {name: values[name] for name in ("style", "colormap", "scale", "interpolation")}
    return values["block"], head, appearance | {"alpha": values["opacity"] / 100, "dim_unseen": 0.6}


def assert_true(page):
    """The map is the one that the widgets say."""
    block, head, appearance = said(page)
    expected = as_sent(analysis_of(page).overlay(block, head, **appearance))
    assert np.abs(drawn(pictures(page)[1]) - expected).mean() < 0.5
    name = "mean of the heads" if head is None else f"head {head + 1}"
    assert maps(page)[0][0].endswith(f"class-attention block {block + 1}, {name}.")
    view = widget(page, "view").value
    assert analysis_of(page).view == ("crop" if view == "crop" else "whole")
    width, height = analysis_of(page).size if view == "fit" else (1, 1)
    rows, columns = analysis_of(page).grid_shape
    assert columns / rows == pytest.approx(width / height, rel=0.2)
    trained = analysis_of(page).model.trained_size // analysis_of(page).model.patch_size
    assert rows * columns == pytest.approx((trained * float(widget(page, "detail").value)) ** 2, rel=0.2)
    index = block * (len(tiles(page)) // 2) + (0 if head is None else 1 + head)
    expected = as_sent(page.session_state["result"].tile.overlay(block, head, **appearance))
    assert np.abs(drawn(tiles(page)[index]) - expected).mean() < 3


def test_what_is_said_is_what_is_drawn_for_every_pair_of_options():
    page = visit()
    assert_true(page)
    for options in walk():
        widget(page, "style").set_value(options["style"]).run()
        assert_true(page)
        if options["style"] != "overlay":  # whose slider alone can be moved
            del options["opacity"]
        for name, value in options.items():
            widget(page, name).set_value(value)
        page.run()
        assert is_usable(page)
        assert {name: widget(page, name).value for name in options} == options
        assert_true(page)


@pytest.mark.parametrize(("first", "second"), list(itertools.permutations(STYLES, 2)))
def test_another_style_brings_its_own_colors_and_says_so(first, second):
    page = visit(style=first)
    assert page.selectbox(key="colormap").value == DEFAULT_COLORMAPS[first]
    page.button_group(key="style").set_value(second).run()
    assert page.selectbox(key="colormap").value == DEFAULT_COLORMAPS[second]
    assert_true(page)
    page.query_params["style"] = first
    page.run()
    assert page.selectbox(key="colormap").value == DEFAULT_COLORMAPS[first]
    assert_true(page)


def test_colors_that_were_chosen_stay_with_another_style():
    page = visit()
    page.selectbox(key="colormap").set_value("magma").run()
    page.button_group(key="style").set_value("paper").run()
    assert page.selectbox(key="colormap").value == "magma"
    assert_true(page)
