"""The figures of the paper, as files."""

import html
import json
import os
import re
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from analyses import LABELS, MODEL, analysis_of, read_png

import cait_viz
from cait_viz.drawing.figures import FIGURE_FORMATS, FIGURES, percent
from cait_viz.errors import SelectionError
from cait_viz.results.analysis import draw_figure

TESTS = Path(__file__).parent


@pytest.fixture(scope="module")
def analysis():
    return analysis_of()


def words(svg):
    """The lines of text of a figure, which Matplotlib repeats as comments beside their outlines."""
    return [html.unescape(line) for line in re.findall(r"<!-- (.*?) -->", svg.decode())]


def test_the_figure_of_the_heads_has_a_row_for_each_block_and_a_column_for_each_head(analysis):
    drawn = analysis.figure("heads", "svg")
    said = words(drawn)
    assert [line for line in said if line.startswith("Head")] == ["Head 1", "Head 2", "Head 3", "Head 4"]
    assert [line for line in said if line.startswith("CA block")] == ["CA block 1", "CA block 2"]
    assert drawn.count(b"<image") == 1 + 2 * 4
    numbers = zip(analysis.class_token_attention(1), analysis.effective_patches(1), strict=True)
    for own, spread in numbers:
        assert f"itself {percent(own)}" in said
        assert f"{spread:.0f} patches" in said


@pytest.mark.parametrize("heads", [1, 4, 16])
@pytest.mark.parametrize("kind", FIGURES)
def test_any_number_of_heads_makes_a_figure_of_sane_size(heads, kind):
    drawn = read_png(analysis_of(heads=heads).figure(kind))
    assert 800 <= drawn.width <= 4000
    assert 400 <= drawn.height <= 1600


def test_a_figure_of_several_images_holds_each():
    several = [analysis_of(image_name=f"{name}.png") for name in ("one", "two", "three")]
    assert words(draw_figure(several, "heads", "svg")).count("Head 4") == 3
    assert draw_figure(several, "saliency", "svg").count(b"<image") == 6


def test_the_figure_of_the_saliency_names_every_class_above_ten_percent(analysis):
    said = words(analysis.figure("saliency", "svg"))
    assert said[:3] == ["tabby, tabby cat  60 %", "goldfish  15 %", "Egyptian cat  15 %"]
    assert not any("tench" in line for line in said)


def test_a_figure_of_a_guess_says_so():
    labels = tuple(f"class {index}" for index in range(20))
    found = analysis_of(probabilities=[0.06] + [0.94 / 19] * 19, labels=labels)
    assert words(found.figure("saliency", "svg"))[:2] == ["no class above 10 %; the first is", "class 0  6 %"]


def test_the_saliency_of_another_block_is_another_figure(analysis):
    first, second = (analysis.figure("saliency", block=block) for block in (0, 1))
    assert first == analysis.figure("saliency")
    assert first != second


@pytest.mark.parametrize("file_format", FIGURE_FORMATS)
@pytest.mark.parametrize("kind", FIGURES)
def test_the_same_figure_is_the_same_file(analysis, kind, file_format):
    drawn = analysis.figure(kind, file_format)
    assert drawn == analysis.figure(kind, file_format)
    assert drawn.startswith({"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[file_format])


def test_figures_tell_what_made_them(analysis):
    png = read_png(analysis.figure("heads")).text
    assert png["Software"] == f"cait-viz {cait_viz.__version__}"
    assert json.loads(png["Description"])[0]["image_sha256"] == "ab" * 32
    svg = analysis.figure("saliency", "svg")
    ElementTree.fromstring(svg)
    assert b"ab" * 32 in svg
    assert b"/Creator (cait-viz" in analysis.figure("heads", "pdf")


@pytest.mark.parametrize("file_format", FIGURE_FORMATS)
@pytest.mark.parametrize(
    ("label", "drawn"),
    [
        ("$x^2$", "$x^2$"),
        ("$", "$"),
        ("$\\frac{1}{$", "$\\frac{1}{$"),
        ("猫 cat", "□ cat"),
        ("caf\udce9", "caf "),
        ("a\tb\nc", "a b c"),
        ("<b>&amp;", "<b>&amp;"),
    ],
)
def test_odd_labels_are_drawn_as_they_are(label, drawn, file_format):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = analysis_of(labels=(*LABELS[:2], label, *LABELS[3:])).figure("saliency", file_format)
    if file_format == "svg":
        ElementTree.fromstring(figure)
        assert f"{drawn}  60 %" in words(figure)


@pytest.mark.parametrize("label", ["word " * 100, "W" * 500, "i" * 5000])
def test_a_label_longer_than_the_figure_is_cut_and_keeps_its_probability(label):
    said = words(analysis_of(labels=(*LABELS[:2], label, *LABELS[3:])).figure("saliency", "svg"))
    assert re.fullmatch(r"[word Wi]{20,}…  60 %", said[0])


def test_threads_draw_the_figures_that_one_thread_draws(analysis):
    chosen = [(kind, file_format) for kind in FIGURES for file_format in FIGURE_FORMATS]
    alone = [analysis.figure(*choice) for choice in chosen]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda choice: analysis.figure(*choice), chosen)) == alone


def test_drawing_figures_leaves_the_settings_alone(analysis):
    before = matplotlib.rcParams.copy()
    analysis.figure("heads", "svg")
    assert matplotlib.rcParams.copy() == before


@pytest.mark.parametrize("kind", FIGURES)
def test_the_settings_of_a_user_change_no_figure(analysis, kind):
    usual = analysis.figure(kind, "svg")
    own = {"axes.titlesize": 40, "axes.titlelocation": "left", "font.size": 20, "image.origin": "lower"}
    own |= {"figure.constrained_layout.w_pad": 1, "savefig.bbox": "tight", "svg.fonttype": "none"}
    with matplotlib.rc_context(own):
        assert analysis.figure(kind, "svg") == usual


def draw_everything(environment):
    """Every figure in a process of its own: (whether pyplot was imported, standard error)."""
    program = (
        "import sys\n"
        "from analyses import analysis_of\n"
        "for kind in ('heads', 'saliency'):\n"
        "    for file_format in ('png', 'svg', 'pdf'):\n"
        "        analysis_of().figure(kind, file_format)\n"
        "analysis_of().archive()\n"
        "print('matplotlib.pyplot' in sys.modules)"
    )
    # The first import of Matplotlib is ours, and not the one of the module of tests.
    program = "import cait_viz.results.analysis; cait_viz.results.analysis.Analysis\n" + program
    path = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env=environment | {"PYTHONPATH": path},
    )
    return done.stdout.strip(), done.stderr


def test_drawing_figures_never_imports_pyplot():
    assert draw_everything(dict(os.environ))[0] == "False"


def test_a_home_that_cannot_be_written_is_no_reason_to_print_anything():
    without = {
        key: value for key, value in os.environ.items() if key not in ("MPLCONFIGDIR", "XDG_CACHE_HOME")
    }
    without.pop("XDG_CONFIG_HOME", None)
    # Below a device there is no folder, not even for root.
    assert draw_everything(without | {"HOME": "/dev/null/home"})[1] == ""


def surroundings(drawn):
    """The pixels of a PNG within 0.2 inches of its edges."""
    pixels = np.asarray(read_png(drawn).convert("RGB"))
    return np.concatenate(
        [pixels[:40].ravel(), pixels[-40:].ravel(), pixels[:, :40].ravel(), pixels[:, -40:].ravel()]
    )


@pytest.mark.parametrize("name", ["cat.jpg", "W" * 300, "many words " * 40])
@pytest.mark.parametrize("kind", FIGURES)
def test_nothing_of_a_figure_is_cut_however_long_the_names(kind, name):
    labels = (*LABELS[:2], name, *LABELS[3:])
    found = analysis_of(image_name=name, labels=labels, model=replace(MODEL, name=name))
    drawn = found.figure(kind)
    assert (surroundings(drawn) == 255).all()
    assert abs(read_png(drawn).width - read_png(analysis_of().figure(kind)).width) <= 4


def test_maps_are_as_large_in_a_figure_of_many_images():
    one, three = (read_png(draw_figure([analysis_of()] * count)).height for count in (1, 3))
    assert 2.5 * one < three < 3 * one


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"kind": "head"}, "there is no figure 'head'; choose one of heads, saliency"),
        ({"format": "jpg"}, "there is no figure format 'jpg'; choose one of png, svg, pdf"),
        ({"kind": "saliency", "block": 5}, "there is no CA block 5; this model has 2, numbered from 0 to 1"),
        ({"colormap": "jet"}, "there is no colormap 'jet'; choose one of viridis, cividis, inferno"),
        ({"scale": "x"}, "there is no scale 'x'; choose one of head, shared"),
    ],
)
def test_a_figure_that_is_not_there_is_refused(analysis, options, sentence):
    with pytest.raises(SelectionError) as refused:
        analysis.figure(**options)
    assert str(refused.value).startswith(sentence)


def test_a_figure_of_nothing_is_refused():
    with pytest.raises(SelectionError, match=r"^a figure needs at least one image, and none was given$"):
        draw_figure([])


def test_a_figure_of_too_many_images_is_refused(analysis):
    with pytest.raises(SelectionError, match=r"inches high, and 150 is the limit; draw fewer images"):
        draw_figure([analysis] * 400, "saliency")


@pytest.mark.parametrize(
    ("share", "said"),
    [(0, "0 %"), (0.001, "<1 %"), (0.005, "<1 %"), (0.01, "1 %"), (0.574, "57 %"), (1, "100 %")],
)
def test_shares_are_said_in_percent(share, said):
    assert percent(share) == said
