"""Two maps side by side: in the library, on the command line and on the page."""

import io
import itertools
import json
import shutil
import time

import numpy as np
import pytest
from app_page import choose_sample, component, drawn, notices, upload, visit
from PIL import Image

import cait_viz
from cait_viz._resources import SAMPLES
from cait_viz.attention.maps import Range
from cait_viz.engine.openvino import OpenVINOEngine
from cait_viz.engine.tape import ClassGradients
from cait_viz.errors import SelectionError
from cait_viz.results.comparison import shared_limits

CAT, CUP = SAMPLES / "cat.jpg", SAMPLES / "coffee.jpg"


@pytest.fixture(scope="module")
def engine(tiny_weights):
    return cait_viz.load_engine(weights=tiny_weights)


@pytest.fixture(scope="module")
def cat(engine):
    return cait_viz.analyze(CAT, engine)


def test_each_method_gives_the_map_that_its_own_function_gives(engine, cat):
    trace, explanation = cait_viz.trace(CAT, engine), cait_viz.explain(CAT, engine, 3)
    expected = {
        "attention": cat.attention(0, 1)[1:].reshape(cat.grid_shape),
        "rollout": trace.rollout(0, 1),
        "gradient": explanation.grid("gradient", 0),
        "relevance": explanation.grid(),
    }
    for method, grid in expected.items():
        found = cait_viz.find_map(CAT, engine, method, block=0, head=1, target=3)
        np.testing.assert_allclose(found.grid, grid, atol=1e-6)
        assert found.facts["method"] == method
        assert found.facts.get("block", 0) == 0
    with pytest.raises(SelectionError, match="there is no method 'gradcam'"):
        cait_viz.find_map(CAT, engine, "gradcam")


def test_on_one_scale_one_value_has_one_color(engine):
    one, other = (cait_viz.find_map(CAT, engine, block=0, head=head) for head in (0, 1))
    limits = shared_limits([one, other])
    assert limits == Range(min(one.grid.min(), other.grid.min()), max(one.grid.max(), other.grid.max()))
    appearance = {"style": "map", "interpolation": "nearest", "colormap": "gray"}
    levels = []
    for each in (one, other):
        image = np.asarray(each.draw(limits, **appearance))[..., 0]
        left, top, right, bottom = each.analysis.box.pixels()
        rows, columns = each.grid.shape
        row = top + (np.arange(rows) + 0.5) * (bottom - top) / rows
        column = left + (np.arange(columns) + 0.5) * (right - left) / columns
        levels.append(image[np.ix_(row.astype(int), column.astype(int))])
    values = np.stack([one.grid, other.grid]).ravel()
    order = np.argsort(values, kind="stable")
    assert (np.diff(np.stack(levels).ravel()[order].astype(int)) >= 0).all()
    assert np.ptp(np.stack(levels)) == 255


@pytest.mark.parametrize("scale", ["head", "shared"])
def test_a_figure_tells_what_it_compares_and_is_the_same_each_time(engine, scale):
    maps = [
        cait_viz.find_map(CAT, engine, "rollout", block=0),
        cait_viz.find_map(CUP, engine, "rollout", head=2),
    ]
    content = cait_viz.draw_comparison(maps, scale=scale)
    assert content == cait_viz.draw_comparison(maps, scale=scale)
    facts = json.loads(Image.open(io.BytesIO(content)).text["Description"])
    assert [fact["image"] for fact in facts] == ["cat.jpg", "coffee.jpg"]
    assert [fact["head"] for fact in facts] == ["mean", 2]
    svg = cait_viz.draw_comparison(maps, "svg", scale=scale)
    assert svg.startswith(b"<?xml")
    with pytest.raises(SelectionError, match="figure format"):
        cait_viz.draw_comparison(maps, "gif")


def test_a_flat_map_is_compared_like_any_other(engine, cat):
    flat = cait_viz.find_map(CAT, engine)
    flat.grid[:] = 0.25
    assert cait_viz.draw_comparison([flat, flat], scale="shared")


# --- the command line -------------------------------------------------------------------------------------


def facts_of(path):
    return json.loads(Image.open(path).text["Description"])


def test_what_is_given_twice_is_for_the_first_and_the_second(succeed, small, tmp_path):
    path = tmp_path / "out.png"
    out = succeed("compare", CAT, CUP, *small, "-o", path, "--method", "rollout", "--head", 1, "--head",
                  "mean", "--block", 0, "--block", 1, "--scale", "shared")  # fmt: skip
    assert "Rollout, CA block 1, head 2 of cat.jpg beside Rollout, CA block 2, mean" in out
    assert [(fact["image"], fact["method"], fact["block"], fact["head"]) for fact in facts_of(path)] == [
        ("cat.jpg", "rollout", 0, 1), ("coffee.jpg", "rollout", 1, "mean")
    ]  # fmt: skip


def test_two_models_are_compared_on_one_image(succeed, small, tmp_path):
    path = tmp_path / "out.png"
    succeed("compare", CAT, *small, "--other-model", "bundled", "-o", path, "--method", "attention")
    assert [(fact["image"], fact["model"]) for fact in facts_of(path)] == [
        ("cat.jpg", "tiny"), ("cat.jpg", "bundled")
    ]  # fmt: skip


def test_two_trainings_on_the_same_classes_have_one_file_of_labels(
    run, small, tiny_weights, kinds_file, tmp_path
):
    other = shutil.copy(tiny_weights, tmp_path / "other.safetensors")
    path = tmp_path / "out.png"
    options = ["--labels", kinds_file, "--other-weights", other, "--method", "gradient", "--class", "kind 7"]
    status, out, err = run("compare", CAT, *small, "-o", path, *options)
    assert (status, err) == (0, "")
    assert out.count("kind 7") == 2


def test_what_cannot_be_compared_in_python_is_refused(engine):
    with pytest.raises(SelectionError, match="at least one map"):
        cait_viz.draw_comparison([])
    maps = [cait_viz.find_map(CAT, engine, method) for method in ("attention", "rollout")]
    with pytest.raises(SelectionError, match="is for maps of one method"):
        cait_viz.draw_comparison(maps, scale="shared")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--scale", "shared"), "--scale shared is for two maps of one method"),
        (("--head", 0, "--head", 1, "--head", 2), "--head can be given twice at most"),
        (("--head", 9), "head 9"),
        (("--block", 0, "--block", 7), "CA block 7"),
        (("--class", "dragon", "--method", "gradient"), "there is no class 'dragon'"),
        (("--class", "dragon"), "--class is for --method gradient or relevance"),
        (("--method", "relevance", "--block", 0), "--block is for --method attention or rollout or gradient"),
        (("--method", "gradient", "--head", 0), "--head is for --method attention or rollout"),
        (("--method", "gradcam"), "--method"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_drawn(run, small, tmp_path, options, said):
    status, _, err = run("compare", CAT, *small, "-o", tmp_path / "out.png", *options)
    assert status == 2
    assert said in err
    assert not (tmp_path / "out.png").exists()


# --- the page ---------------------------------------------------------------------------------------------


def compare(**address):
    page = visit(question="compare", sample="cat", **address)
    assert not page.exception
    return page


def texts(page):
    return [text.value for text in page.markdown]


@pytest.mark.usefixtures("counted")
def test_attention_stands_beside_its_rollout_at_first():
    page = compare()
    assert notices(page) == []
    said = " ".join(texts(page))
    assert "Attention, CA block 2, mean of the heads" in said
    assert "Rollout, CA block 2, mean of the heads" in said
    assert "Two methods measure in two units" in " ".join(text.value for text in page.caption)
    page.selectbox(key="head").set_value(1).run()
    assert (page.query_params["map"], page.query_params["other_map"]) == ("attention", "rollout")
    assert "Attention, CA block 2, head 2" in " ".join(texts(page))


@pytest.mark.usefixtures("counted")
def test_the_address_holds_both_sides_and_brings_them_back():
    page = compare()
    page.selectbox(key="other_map").set_value("attention").run()
    page.selectbox(key="other_block").set_value(0).run()
    page.selectbox(key="other_head").set_value(2).run()
    page.selectbox(key="other").set_value("coffee").run()
    page.button_group(key="ranges").set_value("shared").run()
    address = dict(page.query_params)
    again = visit(**address)
    for found in (page, again):
        said = " ".join(texts(found))
        assert "Attention, CA block 1, head 3" in said
        assert "coffee.jpg" in said
        assert found.button_group(key="ranges").value == "shared"
    assert dict(again.query_params) == address


@pytest.mark.usefixtures("counted")
def test_other_views_have_nothing_of_the_comparison_in_their_address_and_it_is_kept_meanwhile():
    page = compare(other_map="attention", other_head="1")
    page.button_group(key="question").set_value("look").run()
    assert not any("other" in name for name in page.query_params)
    page.button_group(key="question").set_value("compare").run()
    assert page.selectbox(key="other_head").value == 1
    assert page.query_params["other_head"] == "1"


@pytest.mark.usefixtures("counted")
def test_a_line_divides_two_maps_of_one_image_alone():
    page = compare(shown="line", other_map="attention", other_block="0")
    _, data = component(page, "divided")
    expected = cait_viz.analyze(CAT, cait_viz.load_engine())
    for image, block in zip(data["pictures"], (1, 0), strict=True):
        drawing = expected.draw(expected.attention(block)[1:].reshape(14, 14), dim_unseen=0.6)
        assert np.abs(drawn(image) - np.asarray(drawing, int)).mean() < 3
    page.selectbox(key="other").set_value("coffee").run()
    assert component(page, "divided")[1] is None


@pytest.mark.usefixtures("counted")
def test_the_images_of_ones_own_are_among_those_to_compare_with():
    page = visit(question="compare")
    for name, image in (("one.png", CAT), ("two.png", CUP)):
        file = io.BytesIO()
        Image.open(image).save(file, "PNG")
        page = upload(page, name, file.getvalue())
    [chosen] = [key for key, image in page.session_state["given_images"].items() if image.name == "one.png"]
    page.selectbox(key="other").set_value(chosen).run()
    said = " ".join(texts(page))
    assert not page.exception
    assert "`two.png`, `bundled`" in said
    assert "`one.png`, `bundled`" in said
    assert "other" not in page.query_params
    page.selectbox(key="other_head").set_value(1).run()
    assert page.selectbox(key="other").value == chosen
    assert visit(**page.query_params).selectbox(key="other").value == "same"
    choose_sample(page, "pagoda")
    assert page.selectbox(key="other").options[-2:] == ["Yours: two.png", "Yours: one.png"]
    page = upload(page, "two.png", CAT.read_bytes())
    assert "Yours: two.png" in page.selectbox(key="other").options
    choose_sample(page, "pagoda")
    assert page.selectbox(key="other").options[-3:] == [
        "Yours: two.png", "Yours: two.png (2)", "Yours: one.png",
    ]  # fmt: skip


@pytest.mark.usefixtures("counted")
@pytest.mark.parametrize(("name", "value"), [("other", "../x"), ("other_block", "7"), ("map", "gradcam")])
def test_an_address_that_asks_for_what_is_not_there_gets_the_default_and_is_told(name, value):
    page = compare(**{name: value})
    assert "names what does not exist" in " ".join(notices(page))
    assert "Rollout, CA block 2, mean of the heads" in " ".join(texts(page))


@pytest.mark.usefixtures("counted")
def test_a_run_may_wait_for_both_images(monkeypatch):
    forward = OpenVINOEngine.forward

    def slow(*arguments):
        time.sleep(0.6)
        return forward(*arguments)

    monkeypatch.setattr(OpenVINOEngine, "forward", slow)
    page = visit(question="compare", sample="rocket", other="photographer", other_map="attention")
    assert not page.exception
    assert "`photographer.jpg`" in " ".join(texts(page))


@pytest.mark.usefixtures("counted")
def test_a_block_and_a_head_can_be_chosen_where_the_method_has_them(monkeypatch):
    def even(self, _image, _target):
        shape = self.config.ca_ffn_layers, self.config.num_heads, 1 + self.config.num_patches
        shares = np.full(shape, 1 / shape[-1], np.float32)
        return ClassGradients(shares, shares, shares[0, 0, 1:])

    monkeypatch.setattr(OpenVINOEngine, "class_gradients", even)
    for method, fixed in {"gradient": [False, True], "relevance": [True, True]}.items():
        page = compare(other_map=method)
        assert [page.selectbox(key=f"other_{name}").disabled for name in ("block", "head")] == fixed


def test_every_pair_of_methods_can_be_drawn(engine):
    methods = ("attention", "rollout", "gradient", "relevance")
    found = {method: cait_viz.find_map(CAT, engine, method) for method in methods}
    for pair in itertools.combinations_with_replacement(methods, 2):
        assert cait_viz.draw_comparison([found[method] for method in pair], style="paper")
