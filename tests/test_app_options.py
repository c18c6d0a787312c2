"""What the page says of its options is what it draws, whatever was chosen before."""

import io
import itertools
import random
from functools import partial

import numpy as np
import pytest
import streamlit as st
from app_page import analysis_of, component, drawn, is_usable, maps, pictures, tiles, visit
from PIL import Image

import cait_viz
from cait_viz._resources import SAMPLES
from cait_viz.drawing.overlay import COLORMAPS, DEFAULT_COLORMAPS, STYLES
from cait_viz.engine.gradients import ClassGradients
from cait_viz.engine.openvino import OpenVINOEngine
from cait_viz.results.ablation import signed
from cait_viz.results.comparison import attention_map, rollout_map, shared_limits
from cait_viz.serving.page.why import METHODS

pytestmark = pytest.mark.usefixtures("small_app")


@pytest.fixture(scope="module")
def engine(tiny_weights, kinds_file):
    return cait_viz.load_engine(weights=tiny_weights, labels=kinds_file)


OPTIONS = {
    "style": STYLES,
    "colormap": COLORMAPS,
    "opacity": (0, 45, 100),
    "scale": ("head", "shared"),
    "interpolation": ("bicubic", "nearest"),
    "view": ("crop", "fit", "squash"),
    "detail": ("1", "2"),
    "block": (0, 1),
    "head": ("mean", 0, 3),
}


# What a list holds; all else has its options side by side.
SELECTED = (
    "colormap",
    "head",
    "sa_block",
    "sa_head",
    "class",
    "map",
    "other_map",
    "other_block",
    "other_head",
    "other",
)


def widget(page, name):
    if name in SELECTED:
        return page.selectbox(key=name)
    return page.slider(key=name) if name == "opacity" else page.button_group(key=name)


def pairs(options):
    return set(itertools.combinations(sorted(options.items()), 2))


def walk(every_option):
    """Choices of all options, in which each option of one widget meets each of another at least once."""
    every = [{first: one, second: other} for first, second in itertools.combinations(every_option, 2)
             for one in every_option[first] for other in every_option[second]]  # fmt: skip
    missing = {pair for both in every for pair in pairs(both)}
    chance = random.Random(0)
    while missing:
        (first, second) = min(missing, key=str)
        tries = [
            {name: chance.choice(values) for name, values in every_option.items()} | dict([first, second])
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
    assert analysis_of(page).view == ("crop" if view == "crop" else "squash")
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
    for options in walk(OPTIONS):
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


OF_PATH = {
    "style": STYLES,
    "interpolation": ("bicubic", "nearest"),
    "view": ("crop", "squash"),
    "sa_block": (0, 2),
    "sa_head": ("mean", 0, 3),
    "direction": ("out", "in"),
    "scores": ("softmax", "mixed"),
}


def run_with(page, options):
    """Choose the style, and what else decides which widgets there are, before the rest."""
    for name in options.keys() & {"style", "map", "other_map"}:
        widget(page, name).set_value(options[name])
    page.run()
    for name, value in options.items():
        widget(page, name).set_value(value)
    page.run()
    assert is_usable(page)
    assert {name: widget(page, name).value for name in options} == options


def appearance_of(page):
    values = {name: widget(page, name).value for name in ("style", "colormap", "interpolation")}
    return values | {"alpha": widget(page, "opacity").value / 100, "dim_unseen": 0.6}


def test_what_is_said_of_a_patch_is_what_is_drawn_for_every_pair_of_options(engine):
    page = visit(question="path", sample="coffee")
    for options in walk(OF_PATH):
        run_with(page, options)
        head = None if options["sa_head"] == "mean" else options["sa_head"]
        mixed, incoming = options["scores"] == "mixed", options["direction"] == "in"
        asked = {"view": options["view"], "block": options["sa_block"], "mixed": mixed}
        block = cait_viz.block_attention(SAMPLES / "coffee.jpg", engine, **asked)
        shown = component(page, "pictures_of_patch")[1]
        patch, picture = shown["chosen"], shown["pictures"][1]
        grid = block.grid(patch, head, incoming=incoming)
        expected = analysis_of(page).draw(grid, signed=mixed, **appearance_of(page))
        assert np.abs(drawn(picture) - as_sent(expected)).mean() < 1
        assert picture["alt"] == block.title(patch, head, incoming=incoming) + "."
        whose = "Mean of the heads" if head is None else f"Head {head + 1}"
        where = "Who looks at it" if incoming else "Where it looks"
        assert picture["caption"] == f"{where}: {whose} of SA block {options['sa_block'] + 1}"


OF_COMPARISON = {
    "style": STYLES,
    "map": ("attention", "rollout"),
    "other_map": ("attention", "rollout"),
    "other_block": (0, 1),
    "other_head": ("mean", 2),
    "block": (0, 1),
    "ranges": ("own", "shared"),
}


def test_what_is_said_of_two_maps_is_what_is_drawn_for_every_pair_of_options(engine):
    page = visit(question="compare", sample="coffee", other_map="attention", shown="line")
    traced = cait_viz.trace(SAMPLES / "coffee.jpg", engine)
    of = {"attention": partial(attention_map, traced.analysis), "rollout": partial(rollout_map, traced)}
    for options in walk(OF_COMPARISON):
        alike = options["map"] == options["other_map"]
        if not alike:  # two methods have no range in common
            del options["ranges"]
        run_with(page, options)
        assert ("ranges" in [group.key for group in page.button_group]) == alike
        head = None if options["other_head"] == "mean" else options["other_head"]
        both = [of[options["map"]](options["block"]), of[options["other_map"]](options["other_block"], head)]
        limits = shared_limits(both) if alike and options["ranges"] == "shared" else None
        for picture, one in zip(component(page, "divided")[1]["pictures"], both, strict=True):
            expected = one.analysis.reduced(1024).draw(one.grid, limits=limits, **appearance_of(page))
            assert picture["alt"] == f"{one.title}."
            assert np.abs(drawn(picture) - as_sent(expected)).mean() < 1


OF_CLASS = {
    "style": STYLES,
    "colormap": ("inferno", "magma"),
    "opacity": (20, 90),
    "scale": ("head", "shared"),
    "interpolation": ("bicubic", "nearest"),
    "block": (0, 1),
    "head": ("mean", 2),
    "class": ("top", 5),
}


def test_what_is_said_of_a_class_is_what_is_drawn_for_every_pair_of_options(engine, monkeypatch):
    def gradients(self, image, target):
        chance = np.random.default_rng(target)
        rows, weights = chance.random((2, 4, 17), np.float32), chance.normal(size=(2, 4, 17))
        return ClassGradients(rows, weights.astype(np.float32), chance.random(16, np.float32))

    given = {}
    show = st.image

    def record(image, **options):
        if "caption" in options:  # not the sample that stands there while one waits
            given[options["caption"]] = np.asarray(image, int), options["alt"]
        return show(image, **options)

    monkeypatch.setattr(OpenVINOEngine, "class_gradients", gradients)
    monkeypatch.setattr(st, "image", record)
    page = visit(question="why", sample="coffee")
    page.toggle(key="gradients").set_value(True).run()
    ablation = cait_viz.ablate(SAMPLES / "coffee.jpg", engine)
    for options in walk(OF_CLASS):
        if options["style"] != "overlay":
            del options["opacity"]
        given.clear()
        run_with(page, options)
        block, head, appearance = options["block"], options["head"], appearance_of(page)
        small, tile = analysis_of(page), page.session_state["result"].tile
        target = int(small.ranking[0]) if options["class"] == "top" else options["class"]
        scaled = appearance | {"scale": options["scale"]}

        expected = small.overlay(block, None if head == "mean" else head, **scaled)
        assert np.abs(drawn(pictures(page)[1]) - as_sent(expected)).mean() < 1
        silenced = component(page, "silenced")[1]
        assert silenced["chosen"] == f"{block}_{head}"
        of_heads = [option for group in silenced["groups"] for option in group["options"]]
        changes = ablation.changes(target)
        for option, (at, number) in zip(of_heads, np.ndindex(2, 4), strict=True):
            assert option["note"] == signed(changes[at, number])
            assert np.abs(drawn(option) - as_sent(tile.overlay(at, number, **scaled))).mean() < 3

        explanation = cait_viz.explain(SAMPLES / "coffee.jpg", engine, target=target)
        for method, of_block in (("relevance", None), ("gradient", block)):
            image, alt = given[METHODS[method]]
            assert np.abs(image - small.draw(explanation.grid(method, of_block), **appearance)).mean() < 1
            assert alt == f"{explanation.title(method, of_block)}."
        [remark] = [text.value for text in page.caption if text.value.startswith("What speaks against")]
        assert f"of CA block {block + 1} alone" in remark
        assert "each map has its own color range" in remark.lower(), "whatever the heads' scale"
