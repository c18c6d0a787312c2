"""What speaks for a class: the maps, the choice of the class, and `cait-viz explain` and `ablate`."""

from pathlib import Path

import numpy as np
import pytest
from image_helpers import assert_same_drawing
from PIL import Image

import cait_viz
from cait_viz.attention.relevance import weighted
from cait_viz.engine.tape import GradientTape
from cait_viz.errors import SelectionError
from cait_viz.results.explanation import class_of

CAT = Path(__file__).parent.parent / "assets" / "samples" / "cat.jpg"
LABELS = ("tabby, tabby cat", "crane", "crane", "tiger cat", "Border terrier")


@pytest.fixture(scope="module")
def explanation(tiny_model):
    return cait_viz.explain(CAT, tiny_model, 6)


def test_the_maps_are_those_of_the_gradients(explanation, tiny_model):
    found = GradientTape(tiny_model).gradients(cait_viz.preprocess(CAT, tiny_model), 6)
    np.testing.assert_allclose(explanation.grid().ravel(), found.relevance, rtol=1e-4, atol=1e-9)
    for block in (0, 1):
        expected = weighted(found.attention[block], found.gradient[block])[1:]
        np.testing.assert_allclose(
            explanation.grid("gradient", block).ravel(), expected, rtol=1e-4, atol=1e-9
        )
    assert explanation.grid().shape == explanation.analysis.grid_shape
    assert explanation.nbytes > explanation.analysis.nbytes
    np.testing.assert_allclose(
        explanation.analysis.class_attention["ca_ffn_block_1_att"], found.attention[1], atol=1e-6
    )


def test_the_most_probable_class_is_explained_unless_another_is_named(tiny_model, explanation):
    first = cait_viz.explain(CAT, tiny_model)
    assert first.target == first.analysis.ranking[0]
    named = cait_viz.explain(CAT, tiny_model, explanation.label.upper())
    np.testing.assert_allclose(named.grid(), explanation.grid())


@pytest.mark.parametrize(
    ("target", "index"),
    [("tabby", 0), ("Tabby Cat", 0), ("tabby, tabby cat", 0), (" border terrier ", 4), ("3", 3), (2, 2)],
)
def test_a_class_is_found_by_its_index_or_any_of_its_names(target, index):
    assert class_of(LABELS, target) == index


@pytest.mark.parametrize(
    ("labels", "target", "index"),
    [
        (("Cardigan, Cardigan Welsh corgi", "cardigan"), "Cardigan", 1),
        (("dog", "Cat, cat"), "cat", 1),
        (("3", "2", "1"), "3", 0),
        (("3", "2", "1"), "0", 0),
        (("3", "2", "1"), 1, 1),
    ],
)
def test_a_whole_label_comes_before_a_part_of_another_and_a_name_before_an_index(labels, target, index):
    assert class_of(labels, target) == index


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        ("9" * 5000, "there is no class '999"),
        ("crane", "several classes are called 'crane'; give the index of one: 1, 2"),
        ("tiger", "no class 'tiger'; do you mean one of tiger cat"),
        ("xyz", "there is no class 'xyz'$"),
        (5, "no class 5"),
        ("5", "no class 5"),
        (-1, "no class -1"),
        ("", "no class ''"),
    ],
)
def test_a_class_that_is_not_there_is_refused_with_those_near_it(target, problem):
    with pytest.raises(SelectionError, match=problem):
        class_of(LABELS, target)


@pytest.mark.parametrize(("method", "block"), [("attention", None), ("gradient", 2)])
def test_a_map_that_is_not_there_is_refused(explanation, method, block):
    with pytest.raises(SelectionError):
        explanation.grid(method, block)


def test_explain_draws_what_the_library_draws(succeed, small, explanation, tmp_path):
    for method, options in (("relevance", ()), ("gradient", ("--block", 0))):
        output = tmp_path / f"{method}.png"
        chosen = ("--class", 6, "--method", method, *options, "--style", "map")
        out = succeed("explain", CAT, *small, "-o", output, *chosen)
        block = 0 if options else None
        title = explanation.title(method, block)
        drawn = explanation.analysis.map_png(explanation.grid(method, block), title, {}, style="map")
        assert_same_drawing(output, drawn)
        assert out == f"{output}: {title}\n"
        text = Image.open(output).text
        assert (text["method"], text["target"], text["Title"]) == (method, "6", title)


def test_ablate_writes_the_figure_of_the_class(succeed, small, tiny_weights, tmp_path):
    out = succeed("ablate", CAT, *small, "-o", tmp_path / "out.svg", "--class", "6")
    expected = cait_viz.ablate(CAT, cait_viz.load_engine(weights=tiny_weights)).figure(6, "svg")
    assert (tmp_path / "out.svg").read_bytes() == expected
    assert "without each head, in cat.jpg" in out


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("explain", "--class", "unicorn"), "no class 'unicorn'"),
        (("explain", "--block", 0), "relevance is of all blocks"),
        (("explain", "--method", "gradient", "--block", 2), "no CA block 2"),
        (("ablate", "--class", 10), "no class 10"),
    ],
)
def test_what_is_not_there_is_wrong_usage(run, small, tmp_path, words, problem):
    status, _, err = run(*words, CAT, *small, "-o", tmp_path / "out.png")
    assert status == 2
    assert problem in err
