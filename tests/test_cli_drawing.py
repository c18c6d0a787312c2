"""`cait-viz render` and `figure` draw what the library draws."""

from pathlib import Path

import pytest
from image_helpers import assert_same_drawing, pixels_of
from PIL import Image

SAMPLES = Path(__file__).parent.parent / "assets" / "samples"
CAT = SAMPLES / "cat.jpg"


def test_render_draws_the_saliency_unless_told_otherwise(succeed, bundled_cat, tmp_path):
    output = tmp_path / "cat.PNG"
    out = succeed("render", CAT, "-o", output)
    assert out == f"{output}: {bundled_cat.title()}\n"
    assert "class-attention block 2, mean of the heads" in out
    assert_same_drawing(output, bundled_cat.png())
    assert pixels_of(output).shape == bundled_cat.image.shape


@pytest.mark.parametrize("style", ["overlay", "paper", "map"])
def test_render_is_the_library_s_drawing(succeed, small, small_cat, tmp_path, style):
    appearance = {
        "style": style,
        "colormap": "magma",
        "alpha": 0.3,
        "interpolation": "nearest",
        "scale": "shared",
    }
    options = [part for name, value in appearance.items() for part in (f"--{name}", value)]
    succeed("render", CAT, *small, "-o", tmp_path / "out.png", "--block", 0, "--head", 3, *options)
    assert_same_drawing(tmp_path / "out.png", small_cat.png(0, 3, **appearance))
    text = Image.open(tmp_path / "out.png").text
    assert (text["block"], text["head"], text["style"], text["model"]) == ("0", "3", style, "tiny")


def test_render_takes_mean_for_a_head_and_any_order_of_arguments(succeed, small, small_cat, tmp_path):
    succeed("render", "--head", "mean", "--output", tmp_path / "out.png", *small, CAT, "--block=0")
    assert_same_drawing(tmp_path / "out.png", small_cat.png(0, None))


def test_an_option_leaves_the_others_of_a_drawing_at_their_defaults(succeed, small, small_cat, tmp_path):
    succeed("render", CAT, *small, "-o", tmp_path / "out.png", "--interpolation", "nearest")
    assert_same_drawing(tmp_path / "out.png", small_cat.png(interpolation="nearest"))


def test_render_replaces_an_earlier_output_and_keeps_a_link_to_it(succeed, small, tmp_path):
    earlier, link = tmp_path / "earlier.png", tmp_path / "link.png"
    earlier.write_bytes(b"old")
    link.symlink_to(earlier)
    succeed("render", CAT, *small, "-o", link)
    assert link.is_symlink()
    assert pixels_of(earlier).ndim == 3
    assert sorted(tmp_path.iterdir()) == [earlier, link]


@pytest.mark.parametrize(
    ("kind", "ending", "start"),
    [("heads", "png", b"\x89PNG"), ("saliency", "svg", b"<?xml"), ("saliency", "PDF", b"%PDF")],
)
def test_figure_is_written_in_the_format_of_its_ending(
    succeed, small, small_cat, tmp_path, kind, ending, start
):
    output = tmp_path / f"figure.{ending}"
    out = succeed("figure", CAT, *small, "-o", output, "--kind", kind)
    assert out == f"{output}: {kind} of cat.jpg\n"
    content = output.read_bytes()
    assert content.startswith(start)
    if ending == "png":
        assert_same_drawing(content, small_cat.figure(kind))


def test_figure_takes_several_images_and_the_options_of_drawing(succeed, small, tmp_path):
    coffee = SAMPLES / "coffee.jpg"
    figure = ["figure", CAT, coffee, *small, "--kind", "saliency"]
    succeed(*figure, "-o", tmp_path / "plain.png", "--block", 0)
    appearance = ["--colormap", "gray", "--interpolation", "nearest", "--scale", "shared"]
    succeed(*figure, "-o", tmp_path / "two.png", "--block", 0, *appearance)
    plain, drawn = pixels_of(tmp_path / "plain.png"), pixels_of(tmp_path / "two.png")
    assert plain.shape == drawn.shape
    assert (plain != drawn).any()
    succeed("figure", CAT, *small, "--kind", "saliency", "-o", tmp_path / "one.png")
    assert plain.shape != pixels_of(tmp_path / "one.png").shape
