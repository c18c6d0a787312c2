"""`cait-viz trace`, `patch` and `render --method rollout` draw what the library draws."""

import io
from pathlib import Path

import numpy as np
import pytest
from image_helpers import assert_same_drawing
from PIL import Image

import cait_viz

PLACE = ("--sa-block", 0, "--row", 0, "--column", 0)
CAT = Path(__file__).parent.parent / "assets" / "samples" / "cat.jpg"


@pytest.fixture(scope="module")
def engine(tiny_weights):
    return cait_viz.load_engine(weights=tiny_weights)


@pytest.fixture(scope="module")
def traced(engine):
    return cait_viz.trace(CAT, engine)


def test_a_rollout_is_drawn_in_place_of_the_attention(succeed, small, traced, tmp_path):
    output = tmp_path / "out.png"
    appearance = {"style": "map", "interpolation": "nearest"}
    options = [part for name, value in appearance.items() for part in (f"--{name}", value)]
    out = succeed(
        "render", CAT, *small, "-o", output, "--method", "rollout", "--block", 0, "--head", 2, *options
    )
    assert_same_drawing(output, traced.analysis.map_png(traced.rollout(0, 2), "", {}, **appearance))
    assert out.startswith(f"{output}: Attention rollout: what tiny read of cat.jpg: class-attention block 1")
    text = Image.open(output).text
    assert (text["method"], text["block"], text["head"]) == ("rollout", "0", "2")
    assert float(text["largest"]) == pytest.approx(traced.rollout(0, 2).max(), rel=1e-5)


@pytest.mark.parametrize(
    ("options", "choice", "said"),
    [
        ((), {}, "Where the patch in row 2, column 4 looks: self-attention block 3, mean of the heads"),
        (("--incoming",), {"incoming": True}, "Who looks at the patch in row 2, column 4: self-att"),
        (
            ("--mixed", "--head", 1),
            {"head": 1},
            "head 2, scores after the mixing of the heads",
        ),
    ],
)
def test_a_patch_is_drawn_as_asked(succeed, small, engine, traced, tmp_path, options, choice, said):
    output = tmp_path / "out.png"
    where = ("--sa-block", 2, "--row", 1, "--column", 3)
    out = succeed("patch", CAT, *small, "-o", output, *where, *options, "--style", "map")
    signed = "--mixed" in options
    grid = cait_viz.block_attention(CAT, engine, 2, mixed=signed).grid(7, **choice)
    assert_same_drawing(output, traced.analysis.map_png(grid, "", {}, signed=signed, style="map"))
    assert said in out
    text = Image.open(output).text
    assert said in text["Title"]
    assert text["colormap"] == ("RdBu_r" if signed else "viridis")


def test_a_trace_is_a_figure_or_the_numbers(succeed, small, traced, tmp_path):
    succeed("trace", CAT, *small, "-o", tmp_path / "trace.npz")
    with np.load(tmp_path / "trace.npz") as numbers:
        for name in ("attention", "distances", "lens_probabilities"):
            np.testing.assert_allclose(numbers[name], getattr(traced, name), rtol=1e-5)
        np.testing.assert_allclose(numbers["rollout"], traced.rolled, rtol=1e-5)
        np.testing.assert_allclose(
            numbers["lens_ca_ffn_block_1_att"], traced.lens_attention["ca_ffn_block_1_att"], rtol=1e-4
        )
        assert "tiny" in str(numbers["manifest"])
    for ending, start in (("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")):
        succeed("trace", CAT, *small, "-o", tmp_path / f"trace.{ending}", "--block", 0)
        assert (tmp_path / f"trace.{ending}").read_bytes().startswith(start)
    assert (tmp_path / "trace.svg").read_bytes() == traced.figure("svg", block=0)


@pytest.mark.parametrize("option", [("--block", 0), ("--colormap", "gray")])
def test_the_numbers_of_a_trace_take_no_option_of_a_figure(run, small, tmp_path, option):
    status, _, err = run("trace", CAT, *small, "-o", tmp_path / "out.npz", *option)
    assert status == 2
    assert "the numbers are of all blocks" in err


def test_a_trace_shows_the_block_that_was_asked_for(traced):
    first, second = (np.asarray(Image.open(io.BytesIO(traced.figure(block=block)))) for block in (0, 1))
    assert first.shape == second.shape
    assert (first != second).any()


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("patch", "--sa-block", 3, "--row", 0, "--column", 0), "no SA block 3"),
        (
            ("patch", "--sa-block", 0, "--row", 4, "--column", 0),
            "there is no row 4; this model has 4, numbered from 0 to 3",
        ),
        (("patch", "--sa-block", 0, "--row", 0, "--column", -1), "there is no column -1; this model has 4"),
        (("patch", *PLACE, "--head", 4), "no head 4"),
        (("patch", *PLACE, "--scale", "shared"), "--scale"),
        (("patch", *PLACE, "--mixed", "--colormap", "gray"), "--colormap is not for --mixed"),
        (("trace", "--block", 2), "no CA block 2"),
        (
            ("render", "--method", "rollout", "--scale", "shared"),
            "cannot be combined with --method rollout; leave it out",
        ),
        (("render", "--method", "magic"), "magic"),
    ],
)
def test_what_is_not_there_is_wrong_usage(run, small, tmp_path, words, problem):
    status, _, err = run(*words, CAT, *small, "-o", tmp_path / "out.png")
    assert status == 2
    assert problem in err
    assert not (tmp_path / "out.png").exists()
