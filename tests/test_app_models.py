"""Models in the app: a person's own, and those that are not on the machine."""

import shutil
import socket
from dataclasses import replace

import numpy as np
import pyarrow
import pytest
import streamlit as st
from app_page import (
    PUBLISHED,
    REPOSITORY,
    analysis_of,
    choose_sample,
    choose_tile,
    html_of,
    is_usable,
    maps,
    markdown_of,
    notices,
    point_hub_at,
    predictions,
    tiles,
    visit,
)
from hub_server import HubServer
from reference import lively_weights, timm_shapes
from safetensors.numpy import save, save_file

from cait_viz._resources import SAMPLES
from cait_viz.api import analyze, load_engine
from cait_viz.drawing.figures import percent
from cait_viz.model.config import CaiTConfig
from cait_viz.serving import state
from cait_viz.serving.engines import ModelChoice
from cait_viz.serving.models import user_model
from cait_viz.weights import resolve as checkpoints
from cait_viz.weights.registry import BUNDLED, VARIANTS, get_variant

pytestmark = pytest.mark.usefixtures("counted")


# None of its numbers is that of another model here.
OWN_CONFIG = CaiTConfig(
    image_size=48, projection_dim=36, sa_ffn_layers=1, ca_ffn_layers=3, num_heads=6, num_classes=5
)
OWN_NAMES = ["rose", "tulip & lily", "<b>daisy</b>", "poppy", "iris"]


@pytest.fixture
def give(tmp_path, counted):
    """Start the server with a model of the person's own, saved under this path; gives the model."""

    def give(path="petals.safetensors", config=OWN_CONFIG, names=OWN_NAMES):
        weights, labels = tmp_path / path, tmp_path / "names.txt"
        weights.parent.mkdir(exist_ok=True)
        save_file(lively_weights(timm_shapes(config)), weights)
        labels.write_text("".join(f"{name}\n" for name in names))
        model = user_model(checkpoints.resolve(weights=weights), labels)
        state.start(model, analyzer=counted)
        return model

    return give


def test_two_classes_of_one_name_are_told_apart_by_their_places(give, tmp_path):
    own = give(names=["crane"] * 5)
    page = visit(detail="2", sample="coffee")
    weights = own.choice.checkpoint.path
    large, small = (
        analyze(SAMPLES / "coffee.jpg", load_engine(weights=weights, image_size=size)) for size in (96, 48)
    )
    expected = [f"{percent(p)} ({percent(q)})" for p, q in zip(
        large.probabilities[large.ranking], small.probabilities[large.ranking], strict=True)]  # fmt: skip
    assert len(set(expected)) > 1
    assert [share for _, share, _ in predictions(page)] == expected
    page = visit(question="path", sample="coffee")
    [chart] = page.get("vega_lite_chart")[:1]
    points = pyarrow.ipc.open_stream(chart.proto.data.data or chart.proto.datasets[0].data.data).read_all()
    lines = set(points["class"].to_pylist())
    assert lines == {"crane", *(f"crane ({number})" for number in range(2, 6))}


def test_the_page_opens_on_a_persons_own_model_and_its_classes(asked, give):
    own = give()
    page = visit()
    assert not page.exception
    assert notices(page) == []
    assert [request.model for request in asked] == [own.choice]
    assert sorted(label for label, _, _ in predictions(page)) == sorted(OWN_NAMES)
    assert "What `petals` says" in [heading.value for heading in page.header]
    assert (
        maps(page)[0][0] == "Where petals looked in pagoda.jpg: class-attention block 1, mean of the heads."
    )
    keys = [button.key for button in page.get("download_button")]
    assert len(keys) == 5
    assert all("pagoda_petals" in key for key in keys)


def test_the_sidebar_and_the_page_say_whose_weights_speak(give):
    give()
    page = visit()
    options = page.selectbox(key="model").options
    assert (options[0], len(options)) == ("petals · 0.1 M", 1 + len(VARIANTS))
    captions = [caption.value for caption in page.caption]
    assert "0.1 M parameters, your own weights (`petals.safetensors`)" in captions
    assert any(
        "Your own weights (`petals.safetensors`), whose accuracy is not known here." in caption
        for caption in captions
    )
    assert not [button for button in page.button if "Download" in button.label]


def test_all_blocks_and_heads_of_a_persons_own_model_are_there(give):
    give()
    page = visit()
    assert page.button_group(key="block").options == ["CA block 1", "CA block 2", "CA block 3"]
    assert len(page.selectbox(key="head").options) == 7
    assert len(tiles(page)) == 3 * 7
    assert any("After 1 block in" in text.value and "in 3 **class" in text.value for text in page.markdown)
    choose_tile(page, 2, 5)
    assert "class-attention block 3, head 6" in maps(page)[0][0]


def test_the_address_opens_on_a_persons_own_model_and_names_it(give):
    give("my petals/model.safetensors")
    page = visit(model="my petals", block="2", head="5")
    assert notices(page) == []
    assert "Where my petals looked in pagoda.jpg: class-attention block 3, head 6" in maps(page)[0][0]
    assert page.query_params["model"] == "my petals"
    assert analysis_of(visit(model="bundled")).model.name == "bundled"


def test_an_address_of_a_model_that_nobody_offers_here_opens_on_the_own_one(give):
    give()
    page = visit(model="leaves", block="2")
    [sentence] = notices(page)
    assert "model leaves" in sentence
    assert "Where petals looked in pagoda.jpg: class-attention block 3" in maps(page)[0][0]


def test_a_persons_own_model_of_another_ones_file_name_is_never_taken_for_it(asked, give):
    own = give("bundled.safetensors")
    page = visit()
    ours = predictions(page)
    page.selectbox(key="model").set_value("bundled").run()
    assert is_usable(page)
    assert page.button_group(key="block").value == BUNDLED.saliency_block
    assert analysis_of(page).model.name == "bundled"
    assert predictions(page) != ours
    page.selectbox(key="model").set_value(own.name).run()
    assert predictions(page) == ours
    assert [request.model for request in asked] == [own.choice, ModelChoice("bundled")]


@pytest.mark.parametrize("then", ["vanished", "changed"])
def test_own_weights_that_are_no_longer_those_of_the_start_are_told_in_a_sentence(give, then):
    own = give()
    page = visit()
    shown = maps(page)
    if then == "vanished":
        own.choice.checkpoint.path.unlink()
    else:
        save_file(lively_weights(timm_shapes(replace(OWN_CONFIG, num_heads=3))), own.choice.checkpoint.path)
    choose_sample(page, "rocket")
    assert is_usable(page)
    [sentence] = notices(page)
    assert sentence.startswith("petals.safetensors: ")
    assert sentence.endswith(" Below is still the image before it.")
    assert maps(page) == shown
    page.selectbox(key="model").set_value("bundled").run()
    assert notices(page) == []
    assert "Where bundled looked in rocket.jpg" in maps(page)[0][0]


def test_own_weights_that_have_vanished_before_the_first_image_leave_the_gallery(give):
    give().choice.checkpoint.path.unlink()
    page = visit()
    assert is_usable(page)
    assert len(notices(page)) == 1
    assert maps(page) == []


def test_the_name_of_own_weights_is_never_read_as_markdown_or_html(give):
    stem = "**b** $x^2$ `c` :smile: [link](x) <i> -> www.evil.example"
    give(f"{stem}.safetensors")
    page = visit()
    assert is_usable(page)
    assert all(stem not in text for text in html_of(page))
    told = [text for text in markdown_of(page) if "evil" in text]
    assert len(told) == 3
    # Only within the backticks of code, and without any of its own.
    assert all("evil" in text.split("`")[1] and text.count("`") == 2 for text in told)


def test_a_head_of_one_class_shows_the_probability_of_that_class(give):
    give(config=replace(OWN_CONFIG, num_classes=1), names=["rose"])
    page = visit()
    [(label, share, _)] = predictions(page)
    assert label == "rose"
    assert share != "100 %"
    assert analysis_of(page).probabilities[0] == pytest.approx(1 / (1 + np.exp(-analysis_of(page).logits[0])))


# --- models that are not on the machine ---------------------------------------------------------------


def test_a_model_that_is_not_here_is_offered_with_its_size(asked):
    page = visit()
    page.selectbox(key="model").set_value("cait_m48_448").run()
    assert is_usable(page)
    assert maps(page) == []
    assert any("not on this machine yet" in text.value and "1,426 MB" in text.value for text in page.markdown)
    assert [button.label for button in page.button if "Download" in button.label] == ["Download it"]
    assert len(asked) == 1


def test_looking_at_a_model_that_is_not_here_loses_no_choice():
    page = visit(view="squash")
    page.slider(key="opacity").set_value(70).run()
    page.button_group(key="style").set_value("paper")
    page.button_group(key="scale").set_value("shared").run()
    page.selectbox(key="model").set_value(PUBLISHED).run()
    page.selectbox(key="model").set_value("bundled").run()
    assert page.button_group(key="style").value == "paper"
    assert page.button_group(key="view").value == "squash"
    assert page.button_group(key="scale").value == "shared"
    assert page.slider(key="opacity").value == 70


def test_a_model_opens_on_its_own_saliency_block_and_on_heads_it_has():
    page = visit(model="cait_m36_384", head="15")
    assert notices(page) == []
    assert page.selectbox(key="head").value == 15
    page.selectbox(key="model").set_value("bundled").run()
    assert is_usable(page)
    assert page.button_group(key="block").value == BUNDLED.saliency_block
    assert page.selectbox(key="head").value == "mean"


@pytest.fixture
def no_network(monkeypatch):
    """A hub at an address where nobody answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        point_hub_at(monkeypatch, f"http://127.0.0.1:{free.getsockname()[1]}")


def press_download(page):
    [button] = [button for button in page.button if button.label == "Download it"]
    return button.click().run()


def test_without_a_network_the_download_ends_in_a_sentence(no_network):
    page = press_download(visit(model=PUBLISHED))
    assert is_usable(page)
    [sentence] = notices(page)
    assert sentence.startswith(f"{PUBLISHED}: ")
    assert "cannot be reached" in sentence
    [again] = [button for button in page.button if button.label == "Try again"]
    again.click().run()
    assert [button for button in page.button if button.label == "Download it"]


def test_a_hub_that_does_not_know_the_model_is_told_in_a_sentence(monkeypatch):
    with HubServer() as answering:
        point_hub_at(monkeypatch, answering.endpoint)
        page = press_download(visit(model=PUBLISHED))
    assert is_usable(page)
    [sentence] = notices(page)
    assert "is not there" in sentence


def test_a_download_shows_its_progress_and_then_the_image(home, asked, monkeypatch):
    told = []
    progress = st.delta_generator.DeltaGenerator.progress
    monkeypatch.setattr(
        st.delta_generator.DeltaGenerator,
        "progress",
        lambda self, value, text=None: told.append((value, text)) or progress(self, value, text),
    )
    weights = lively_weights(timm_shapes(get_variant(PUBLISHED).config))
    content = save({name: tensor.astype(np.float16) for name, tensor in weights.items()})
    page = visit(model=PUBLISHED, head="2")
    with HubServer({REPOSITORY: content}) as answering:
        point_hub_at(monkeypatch, answering.endpoint)
        press_download(page)
    try:
        assert [value for value, _ in told] == sorted(value for value, _ in told)
        assert told[-1] == (1.0, f"Downloading {PUBLISHED}: 24 of 24 MB")
        assert is_usable(page)
        assert analysis_of(page).model.name == PUBLISHED
        assert "class-attention block 1, head 3" in maps(page)[0][0]
        assert "↓" not in page.selectbox(key="model").options[1]
        assert [request.model.name for request in asked] == [PUBLISHED]
        page.selectbox(key="model").set_value("bundled").run()
        page.selectbox(key="model").set_value(PUBLISHED).run()
        assert [request.model.name for request in asked] == [PUBLISHED, "bundled"]
    finally:
        shutil.rmtree(home / "hub")
