"""The app as a person meets it, without a browser: every widget, what runs the network and what does not."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest
import streamlit as st
from app_page import (
    analysis_of,
    choose_patch,
    choose_sample,
    choose_tile,
    chosen_sample,
    chosen_tile,
    is_usable,
    maps,
    notices,
    picture,
    pictures,
    predictions,
    samples,
    tiles,
    upload,
    visit,
)

from cait_viz._resources import APP
from cait_viz.drawing.figures import FIGURE_FORMATS
from cait_viz.drawing.overlay import COLORMAPS, STYLES
from cait_viz.serving import state
from cait_viz.serving.answers import Answer
from cait_viz.weights.registry import BUNDLED, VARIANTS

pytestmark = pytest.mark.usefixtures("counted")


# --- the first screen ---------------------------------------------------------------------------------


def test_the_first_screen_shows_a_sample_already_analyzed(asked):
    page = visit()
    assert not page.exception
    assert notices(page) == []
    assert len(asked) == 1
    assert chosen_sample(page) == "pagoda"
    alt, _ = maps(page)[0]
    assert f"class-attention block {BUNDLED.saliency_block + 1}, mean of the heads" in alt


def test_the_first_screen_names_five_classes_and_marks_those_above_ten_percent():
    page = visit()
    analysis = analysis_of(page)
    shown = predictions(page)
    assert [label for label, _, _ in shown] == [label for label, _ in analysis.predictions[:5]]
    assert [marked for _, _, marked in shown] == [share > 0.1 for _, share in analysis.predictions[:5]]


def test_every_class_above_ten_percent_is_named_even_when_they_are_more_than_five(counted):
    page = visit()
    logits = np.zeros(1000, np.float32)
    probabilities = np.array([0.13] * 7 + [0.09 / 993] * 993, np.float32)
    counted.answer = Answer()
    counted.answer.set_result(replace(analysis_of(page), logits=logits, probabilities=probabilities))
    choose_sample(page, "coffee")
    assert [marked for _, _, marked in predictions(page)] == [True] * 7


def test_the_page_says_whose_predictions_they_are_and_how_good_the_model_is():
    page = visit()
    assert f"What {BUNDLED.name} says" in [heading.value for heading in page.header]
    assert any(BUNDLED.accuracy in caption.value for caption in page.caption)


def test_the_page_says_what_class_attention_is_not_and_links_the_paper():
    texts = [text.value for text in visit().markdown]
    assert any(
        "not an explanation of one class" in text and "arxiv.org/abs/2103.17239" in text for text in texts
    )


def test_the_page_says_that_an_image_is_neither_kept_nor_sent():
    assert any("never written to disk or sent" in caption.value for caption in visit().caption)


def test_the_gallery_has_at_least_six_samples_and_says_whose_they_are():
    page = visit()
    assert is_usable(page)
    assert any("CC0" in caption.value for caption in page.caption)


def test_every_image_has_a_text_in_its_place_and_no_two_the_same():
    page = visit()
    alts = [image["alt"] for image in (*samples(page), *pictures(page), *tiles(page))]
    assert all(alts)
    assert len(set(alts)) == len(alts)


def test_the_image_is_told_by_its_name_beside_its_map():
    page = upload(visit(), "my cup.png", picture())
    photograph, overlay = pictures(page)
    assert photograph["caption"] == "my cup.png"
    assert photograph["note"] == "The network saw 64 × 64 of its 96 × 64 pixels."
    assert overlay["caption"] == "Mean of the heads of CA block 2"
    assert photograph["image"] != overlay["image"]


def test_what_a_map_says_is_a_sentence_and_the_exact_figures_are_one_click_away():
    page = visit(block="0", head="2")
    itself, entropy, patches = analysis_of(page).concentration(0, 2)
    [sentence] = [text for text in page.markdown if "looks at about" in text.value]
    assert sentence.value.startswith(f"Head 3 looks at about **{patches:.0f} of 196 patches** and keeps ")
    assert f"{entropy:.2f} nats" in sentence.help
    assert f"{100 * itself:.2f} %" in sentence.help


def test_all_heads_of_both_blocks_are_shown_with_their_numbers():
    page = visit()
    config = BUNDLED.config
    assert len(tiles(page)) == config.ca_ffn_layers * (config.num_heads + 1)
    assert len(maps(page)) == 1 + len(tiles(page))
    first = tiles(page)[1]
    assert (first["caption"], first["label"]) == ("Head 1", "Head 1, CA block 1")
    assert first["note"] == f"about {analysis_of(page).effective_patches(0)[0]:.0f} patches"
    assert f"entropy {analysis_of(page).entropy(0)[0]:.2f} nats" in first["help"]


# --- what runs the network, and what does not ---------------------------------------------------------


CHANGES_OF_THE_LOOK = {
    "the block": lambda page: page.button_group(key="block").set_value(0),
    "the head": lambda page: page.selectbox(key="head").set_value(2),
    "the style": lambda page: page.button_group(key="style").set_value("paper"),
    "the colors": lambda page: page.selectbox(key="colormap").set_value("viridis"),
    "the opacity": lambda page: page.slider(key="opacity").set_value(30),
    "the scale": lambda page: page.button_group(key="scale").set_value("shared"),
    "the upsampling": lambda page: page.button_group(key="interpolation").set_value("nearest"),
    "a tile": lambda page: choose_tile(page, 0, 3),
}


@pytest.mark.parametrize("change", CHANGES_OF_THE_LOOK.values(), ids=CHANGES_OF_THE_LOOK)
def test_changing_the_look_draws_another_map_without_the_network(asked, change):
    page = visit()
    before = maps(page)[0]
    change(page).run()
    assert is_usable(page)
    assert maps(page)[0] != before
    assert len(asked) == 1


def test_no_look_runs_the_network_even_when_the_server_has_forgotten_the_image(asked, counted):
    page = visit()
    state.start(analyzer=counted)
    page.button_group(key="block").set_value(0).run()
    assert len(asked) == 1


def test_changing_the_image_runs_the_network_once(asked):
    page = visit()
    choose_sample(page, "rocket")
    assert [request.image_name for request in asked] == ["pagoda.jpg", "rocket.jpg"]
    assert chosen_sample(page) == "rocket"
    page.run()
    assert len(asked) == 2


def test_going_back_to_an_image_does_not_run_the_network_again(asked):
    page = visit()
    choose_sample(page, "rocket")
    choose_sample(page, "pagoda")
    assert "pagoda.jpg" in maps(page)[0][0]
    assert len(asked) == 2


def test_a_second_visitor_of_the_same_sample_does_not_run_the_network_again(asked):
    visit()
    visit()
    assert len(asked) == 1


def test_changing_the_part_of_the_image_runs_the_network_once(asked):
    page = visit()
    page.button_group(key="view").set_value("squash").run()
    assert [request.view for request in asked] == ["crop", "squash"]
    assert analysis_of(page).view == "squash"
    assert "saw the whole image" in pictures(page)[0]["note"]


# --- the widgets --------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", STYLES)
def test_every_style_is_drawn_in_every_colormap(style):
    page = visit(style=style)
    drawn = set()
    for colormap in COLORMAPS:
        page.selectbox(key="colormap").set_value(colormap).run()
        assert is_usable(page)
        drawn.add(maps(page)[0][1])
    assert len(drawn) == len(COLORMAPS)


@pytest.mark.parametrize(("style", "means_something"), [("overlay", True), ("paper", False), ("map", False)])
def test_the_opacity_can_be_moved_only_where_it_means_something(style, means_something):
    assert visit(style=style).slider(key="opacity").proto.disabled is not means_something


@pytest.mark.parametrize("opacity", [0, 100])
def test_the_ends_of_the_opacity_are_drawn(opacity):
    page = visit()
    page.slider(key="opacity").set_value(opacity).run()
    assert is_usable(page)


def test_a_tile_chooses_its_block_and_head():
    page = visit()
    choose_tile(page, 0, 3)
    assert page.button_group(key="block").value == 0
    assert page.selectbox(key="head").value == 3
    assert "class-attention block 1, head 4" in maps(page)[0][0]
    assert chosen_tile(page) == "0_3"
    choose_tile(page, 1, "mean")
    assert page.selectbox(key="head").value == "mean"
    assert chosen_tile(page) == "1_mean"


def test_a_patch_is_told_with_its_share_until_the_choice_is_taken_back():
    page = visit(block="0", head="2")
    share = analysis_of(page).attention(0, 2)[1 + 31]

    def told():
        return [text.value for text in page.markdown if "row 3, column 4 " in text.value]

    choose_patch(page, 31)
    assert [f"**{100 * share:.2f} %**" in sentence for sentence in told()] == [True]
    page.selectbox(key="head").set_value(0).run()
    assert len(told()) == 1
    choose_patch(page, None)
    assert told() == []


def test_a_patch_of_another_image_is_not_chosen():
    page = choose_patch(visit(), 31)
    choose_sample(page, "rocket")
    assert not [text.value for text in page.markdown if "row 3, column 4 " in text.value]


def test_blocks_and_heads_count_from_one_where_a_person_reads_them():
    page = visit()
    assert page.button_group(key="block").options == ["CA block 1", "CA block 2"]
    assert page.selectbox(key="head").options == ["Mean of the heads", "Head 1", "Head 2", "Head 3", "Head 4"]


def test_the_list_of_models_tells_size_accuracy_and_what_is_not_here():
    page = visit()
    options = page.selectbox(key="model").options
    assert len(options) == len(VARIANTS)
    assert "↓" not in options[0]
    assert options[1:] == [option for option in options if "% · ↓" in option]
    assert any("6.6 M parameters, on this machine" in caption.value for caption in page.caption)


def test_an_upload_is_analyzed_once_and_its_name_is_in_the_files(asked):
    page = upload(visit(), "my holiday.png", picture())
    assert asked[-1].image == picture()
    assert len(asked) == 2
    assert "my holiday.png" in maps(page)[0][0]
    keys = [button.key for button in page.get("download_button")]
    assert len(keys) == 5
    assert all("my-holiday" in key for key in keys)
    page.selectbox(key="head").set_value(1).run()
    assert len(asked) == 2


def test_a_sample_takes_the_place_of_an_upload():
    page = upload(visit(), "mine.png", picture())
    choose_sample(page, "dahlia")
    assert "dahlia.jpg" in maps(page)[0][0]
    assert page.file_uploader[0].value == []


def test_removing_an_upload_brings_the_sample_back():
    page = upload(visit(sample="pagoda"), "mine <b>.png", picture())
    assert pictures(page)[0]["caption"] == "mine <b>.png"
    page.button(key="remove").click().run()
    assert "pagoda.jpg" in maps(page)[0][0]
    assert pictures(page)[0]["caption"] == "pagoda.jpg"
    assert not [button for button in page.button if button.key == "remove"]


def test_one_upload_after_another_runs_the_model_for_each_and_for_nothing_between(asked):
    page = visit()
    for number in range(3):
        upload(page, f"{number}.png", picture(number))
    assert [request.image_name for request in asked] == ["pagoda.jpg", "0.png", "1.png", "2.png"]


def test_the_camera_is_off_until_it_is_asked_for_and_its_photograph_is_analyzed(asked):
    page = visit()
    assert not page.get("camera_input")
    page.toggle[0].set_value(True).run()
    page.camera_input[0].upload("photo.jpg", picture(image_format="JPEG")).run()
    assert asked[-1].image_name == "photo.jpg"
    assert "photo.jpg" in maps(page)[0][0]


def test_no_download_runs_the_page_again():
    page = visit()
    buttons = page.get("download_button")
    assert len(buttons) == 5
    assert all(button.proto.ignore_rerun for button in buttons)


@pytest.mark.parametrize("file_format", FIGURE_FORMATS)
def test_the_figures_come_in_every_format(file_format):
    page = visit()
    page.selectbox[0].set_value(file_format).run()
    labels = [button.label for button in page.get("download_button")]
    assert sum(f"({file_format.upper()})" in label for label in labels if "Figure" in label) == 2


# --- TensorFlow stays out of the server -----------------------------------------------------------------

VISIT = """
import os, sys, time
from streamlit.testing.v1 import AppTest
from cait_viz.serving.state import start
start()
page = AppTest.from_file(sys.argv[1], default_timeout=180).run()
assert not page.exception and page.session_state["result"], page
times = []
for head in (0, 1, 2):
    start = time.perf_counter()
    page.selectbox(key="head").set_value(head).run()
    times.append(time.perf_counter() - start)
page.query_params["sample"] = "rocket"
page.run()
assert page.session_state["result"].small.image_name == "rocket.jpg"
print(sorted({name.partition(".")[0] for name in sys.modules} & {"keras", "tensorflow", "torch"}))
print(sorted(times)[1])
"""


def test_neither_keras_nor_tensorflow_enters_the_server_and_a_rerun_is_short(run_python):
    modules, seconds = run_python(VISIT, APP)[0].splitlines()[-2:]
    assert modules == "[]"
    # A rerun takes 0.2 s; with Keras in the process it takes 2 to 3 s on the same machine, at best.
    assert float(seconds) < 1.5


def test_a_whole_upload_stays_in_memory_while_the_server_reads_it(monkeypatch):
    from starlette.datastructures import Headers
    from starlette.formparsers import MultiPartParser

    visit()
    limit = st.get_option("server.maxUploadSize") * 2**20
    boundary = b"--x\r\nContent-Disposition: form-data; name=f; filename=p.jpg\r\n\r\n"

    async def request():
        yield boundary + b"0" * limit + b"\r\n--x--\r\n"

    parser = MultiPartParser(Headers({"content-type": "multipart/form-data; boundary=x"}), request())
    monkeypatch.setattr("tempfile.TemporaryFile", lambda **_: pytest.fail("the upload was spooled to a file"))
    (_, upload) = asyncio.run(parser.parse()).multi_items()[0]
    assert upload.size == limit
