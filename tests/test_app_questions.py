"""The views *How did it get there?* and *Why this class, and can I trust it?*, without a browser."""

import numpy as np
import pytest
from app_page import analysis_of, choose, choose_sample, component, drawn, markdown_of, notices, visit
from reference import lively_weights, timm_shapes
from safetensors.numpy import save_file

import cait_viz
from cait_viz._resources import SAMPLES
from cait_viz.engine.gradients import ClassGradients
from cait_viz.engine.openvino import OpenVINOEngine
from cait_viz.metrics.faithfulness import CENTER, RANDOM
from cait_viz.results.ablation import signed
from cait_viz.serving import state
from cait_viz.serving.models import user_model
from cait_viz.weights.resolve import resolve

pytestmark = pytest.mark.usefixtures("small_app")

PATCH = 9  # of four rows of four


@pytest.fixture(scope="module")
def engine(tiny_weights, kinds_file):
    return cait_viz.load_engine(weights=tiny_weights, labels=kinds_file)


@pytest.fixture(scope="module")
def trace(engine):
    return cait_viz.trace(SAMPLES / "coffee.jpg", engine)


def data(page, key):
    return component(page, key)[1]


def options(page, key):
    return [option for group in data(page, key)["groups"] for option in group["options"]]


def same(image, expected):
    """Whether an image of a component is this one but for JPEG's loss."""
    return np.abs(drawn(image) - np.asarray(expected, int)).mean() < 3


def texts(page):
    return " ".join(filter(None, markdown_of(page)))


# --- how did it get there ---------------------------------------------------------------------------------


def path(**address):
    page = visit(question="path", sample="coffee", **address)
    assert not page.exception
    assert notices(page) == []
    return page


def test_the_patch_that_the_class_token_looks_at_most_is_shown_first(trace):
    page = path()
    patch = int(trace.analysis.attention()[1:].argmax())
    assert data(page, "pictures_of_patch")["chosen"] == patch
    row, column = divmod(patch, trace.analysis.grid_shape[1])
    assert [number.value for number in page.number_input] == [row + 1, column + 1]
    assert [option["caption"] for option in options(page, "sa_blocks")] == [
        str(k + 1) for k in range(trace.blocks)
    ]
    assert data(page, "sa_blocks")["chosen"] == str(trace.blocks - 1)


def test_a_patch_is_chosen_on_the_image_or_by_its_row_and_column(engine, trace):
    page = path()
    small = analysis_of(page)
    choose(page, "pictures_of_patch", {"patch": PATCH})
    page.number_input(key="patch_column").set_value(4).run()
    patch = PATCH + 2
    assert data(page, "pictures_of_patch")["chosen"] == patch
    block = cait_viz.block_attention(SAMPLES / "coffee.jpg", engine, trace.blocks - 1)
    shown = data(page, "pictures_of_patch")["pictures"][1]
    assert same(shown, small.draw(block.grid(patch), dim_unseen=0.6))
    assert "Where the patch in row 3, column 4 looks: self-attention block 3" in shown["alt"]


def test_the_patch_is_in_the_address_and_is_the_same_where_it_is_told_how_much_it_gets():
    page = path()
    assert "patch" not in page.query_params
    choose(page, "pictures_of_patch", {"patch": PATCH})
    page.button_group(key="question").set_value("look").run()
    assert data(page, "pictures_of_map")["chosen"] == PATCH
    assert "The patch in row 3, column 2 gets" in texts(page)
    again = visit(**page.query_params)
    assert data(again, "pictures_of_map")["chosen"] == PATCH
    # Back from another image brings the patch of the first.
    before = dict(page.query_params)
    choose_sample(page, "pagoda")
    assert data(page, "pictures_of_map")["chosen"] is None
    page.query_params.clear()
    page.query_params.update(before)
    page.run()
    assert data(page, "pictures_of_map")["chosen"] == PATCH
    choose(page, "pictures_of_map", {"patch": None})
    assert "patch" not in page.query_params


def test_direction_head_and_scores_draw_what_they_say(engine):
    page = path()
    small, patch = analysis_of(page), data(page, "pictures_of_patch")["chosen"]
    choose(page, "sa_blocks", "1")
    page.selectbox(key="sa_head").select(2).run()
    for incoming in (False, True):
        for mixed in (False, True):
            page.button_group(key="direction").set_value("in" if incoming else "out")
            page.button_group(key="scores").set_value("mixed" if mixed else "softmax").run()
            shown = data(page, "pictures_of_patch")["pictures"][1]
            block = cait_viz.block_attention(SAMPLES / "coffee.jpg", engine, 1, mixed=mixed)
            grid = block.grid(patch, 2, incoming=incoming)
            assert same(shown, small.draw(grid, signed=mixed, dim_unseen=0.6))
            assert shown["alt"] == block.title(patch, 2, incoming=incoming) + "."
            assert shown["caption"].startswith("Who looks at it" if incoming else "Where it looks")
            assert ("negative (blue)" in texts(page)) == mixed
    assert not page.exception
    again = visit(**page.query_params)
    assert data(again, "pictures_of_patch")["pictures"][1]["alt"] == shown["alt"]
    assert page.query_params["sa_block"] == "1"


def test_each_depth_tells_the_class_it_would_have_named(trace):
    page = path()
    depths = options(page, "depths")
    assert len(depths) == trace.blocks + 1
    for depth, option in enumerate(depths):
        [(label, _)] = trace.lens_top(depth)
        assert label in option["note"]
    choose(page, "depths", "2")
    assert all(label in texts(page) for label, _ in trace.lens_top(2, 5))
    assert data(visit(**page.query_params), "depths")["chosen"] == "2"


def test_a_new_image_has_a_patch_of_its_own_and_the_block_stays():
    page = path()
    choose(page, "pictures_of_patch", {"patch": PATCH})
    choose(page, "sa_blocks", "1")
    choose_sample(page, "pagoda")
    assert data(page, "pictures_of_patch")["chosen"] == int(analysis_of(page).attention()[1:].argmax())
    assert data(page, "sa_blocks")["chosen"] == "1"


def test_a_model_with_fewer_heads_and_blocks_shows_what_it_has(counted, tmp_path):
    config = cait_viz.CaiTConfig(
        image_size=64, projection_dim=48, sa_ffn_layers=3, num_heads=2, num_classes=10
    )
    save_file(lively_weights(timm_shapes(config)), tmp_path / "own.safetensors")
    own = user_model(resolve(weights=tmp_path / "own.safetensors"))
    state.start(own, analyzer=counted)
    page = path(model="bundled")
    choose(page, "sa_blocks", "9")
    choose(page, "depths", "11")
    page.selectbox(key="sa_head").select(3).run()
    page.selectbox(key="model").select(own.name).run()
    assert not page.exception
    assert data(page, "sa_blocks")["chosen"] == "2"
    assert data(page, "depths")["chosen"] == "3"
    assert page.selectbox(key="sa_head").value == "mean"
    assert (page.query_params["sa_block"], page.query_params["sa_head"]) == ("2", "mean")
    before = {**page.query_params, "model": "bundled", "sa_block": "9"}
    page.query_params.clear()
    page.query_params.update(before)
    page.run()  # as Back does
    assert page.selectbox(key="model").value == "bundled"
    assert data(page, "sa_blocks")["chosen"] == "9"


def test_nothing_of_it_is_asked_before_the_question_is(asked):
    page = visit()
    assert len(asked) == 1
    page.button_group(key="question").set_value("path").run()
    assert not page.exception
    assert {request.question for request in asked[:2]} == {cait_viz.api.analyze, cait_viz.questions.trace}
    before = len(asked)
    page.button_group(key="question").set_value("look").run()
    assert page.query_params["question"] in ("look", ["look"])
    assert not page.exception
    # Back again, everything is still there.
    page.button_group(key="question").set_value("path").run()
    assert len(asked) == before


# --- why this class ---------------------------------------------------------------------------------------


def why():
    page = visit(question="why", sample="coffee")
    assert not page.exception
    assert notices(page) == []
    return page


def test_each_head_shows_what_the_class_loses_without_it(engine):
    page = why()
    ablation = cait_viz.ablate(SAMPLES / "coffee.jpg", engine)
    first = int(ablation.analysis.ranking[0])
    assert page.selectbox(key="class").value == "top"
    for chosen in (first, 5):
        if chosen != first:
            page.selectbox(key="class").select(chosen).run()
        notes = [option["note"] for option in options(page, "silenced")]
        assert notes == [signed(change) for change in ablation.changes(chosen).ravel()]
        assert ablation.analysis.labels[chosen] in texts(page)
    choose(page, "silenced", "0_2")
    assert (page.session_state["block"], page.session_state["head"]) == (0, 2)
    assert data(page, "silenced")["chosen"] == "0_2"
    assert page.query_params["class"] == "5"
    again = visit(**page.query_params)
    assert [option["note"] for option in options(again, "silenced")] == notes
    choose_sample(page, "pagoda")
    assert page.selectbox(key="class").value == "top"
    assert "class" not in page.query_params


def test_maps_are_measured_when_asked_and_beside_both_baselines(asked):
    page = why()
    assert not any(request.long for request in asked)
    page.button(key="test_map").click().run()
    assert not page.exception
    [table] = [text.value for text in page.markdown if text.value.startswith("| Map")]
    for name in ("This map (mean of the heads, CA block 1)", "Its rollout", CENTER, RANDOM):
        assert name in table
    assert any(f"All are of `{analysis_of(page).predictions[0][0]}`." in text.value for text in page.caption)
    # Another map was not measured.
    page.button_group(key="block").set_value(1).run()
    assert page.button(key="test_map")
    assert not any(text.value.startswith("| Map") for text in page.markdown)


def test_the_gradients_are_asked_when_told_and_again_for_another_class(monkeypatch):
    targets = []

    def gradients(self, image, target):
        targets.append(target)
        rows = np.ones((2, 4, 17), np.float32)
        return ClassGradients(rows, rows, np.arange(16, dtype=np.float32))

    monkeypatch.setattr(OpenVINOEngine, "class_gradients", gradients)
    page = why()
    assert targets == []
    page.toggle(key="gradients").set_value(True).run()
    page.selectbox(key="class").select(7).run()
    assert not page.exception
    assert targets == [int(analysis_of(page).ranking[0]), 7]
    page.button(key="test_map").click().run()
    [table] = [text.value for text in page.markdown if text.value.startswith("| Map")]
    assert f"Relevance for {analysis_of(page).labels[7]}" in table


def test_gradients_that_cannot_be_had_are_told_in_a_sentence(monkeypatch):
    def refuse(self, image, target):
        raise cait_viz.EngineError("the gradients of bundled need about 9 GB of memory and 1 GB are free")

    monkeypatch.setattr(OpenVINOEngine, "class_gradients", refuse)
    page = why()
    page.toggle(key="gradients").set_value(True).run()
    assert notices(page) == ["the gradients of bundled need about 9 GB of memory and 1 GB are free."]
    assert page.button(key="test_map")
