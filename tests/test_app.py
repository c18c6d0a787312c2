"""The app as a person meets it, without a browser: every widget, what runs the network and what does not."""

import asyncio
import html
import io
import os
import re
import shutil
import signal
import socket
from concurrent.futures import Future
from dataclasses import replace

import httpx2
import numpy as np
import pytest
import streamlit as st
from hub_server import HubServer
from PIL import Image
from reference import lively_weights, timm_shapes
from safetensors.numpy import save, save_file
from streamlit.testing.v1 import AppTest

from cait_viz._resources import APP
from cait_viz.drawing.figures import FIGURE_FORMATS
from cait_viz.drawing.overlay import COLORMAPS, STYLES
from cait_viz.errors import WorkerDiedError
from cait_viz.model.config import CaiTConfig
from cait_viz.serving import state
from cait_viz.serving.models import user_model
from cait_viz.serving.worker import ModelChoice, Workers
from cait_viz.weights import resolve as checkpoints
from cait_viz.weights.registry import BUNDLED, VARIANTS, get_variant

PUBLISHED = "cait_xxs24_224"
REPOSITORY = get_variant(PUBLISHED).repo_id

# A worker that has to start takes seconds, on a busy machine many.
TIMEOUT = 180

HOSTILE_NAMES = [
    "<b>bold</b><img src=x onerror=alert(1)>.png",
    "![picture](http://evil.example/x.png) **b** _i_ `c` ~~d~~.png",
    "$x^2$ :smile: :material/home: :red[red] -> www.evil.example.png",
    "# [link](http://evil.example).png",
    "&lt;b&gt; & \"quoted\" 'name'.png",
    "снимок 日本語 \u202egnp.jpg.png",
    f"{'long ' * 40}.png",
]


# --- one worker for all tests, one page for each ------------------------------------------------------


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """An empty home for the hub's cache, of this process and of the worker's."""
    from huggingface_hub import constants

    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HOME", str(folder))
        patch.setattr(constants, "HF_HUB_CACHE", str(folder / "hub"))
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield folder


@pytest.fixture(scope="module")
def workers(home):
    workers = Workers(first=ModelChoice(BUNDLED.name))
    yield workers
    workers.stop()


class Counted:
    """The workers, what they were asked, and the answer to give in place of theirs, if there is one."""

    def __init__(self, workers):
        self.workers = workers
        self.requests = []
        self.answer = None

    def analyze(self, request):
        self.requests.append(request)
        return self.answer or self.workers.analyze(request)


@pytest.fixture(autouse=True)
def counted(workers):
    """The workers of a server that was started for this test."""
    counted = Counted(workers)
    state.start(workers=counted)
    return counted


@pytest.fixture
def asked(counted):
    """The requests to the workers in this test."""
    return counted.requests


@pytest.fixture
def no_network(monkeypatch):
    """A hub at an address where nobody answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        point_hub_at(monkeypatch, f"http://127.0.0.1:{free.getsockname()[1]}")


def point_hub_at(monkeypatch, endpoint):
    from huggingface_hub import constants

    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    )


def visit(**address):
    """Open the page as a new visitor, with this in the address."""
    page = AppTest.from_file(str(APP), default_timeout=TIMEOUT)
    page.query_params.update(address)
    return page.run()


def upload(page, name, content):
    page.file_uploader[0].set_value((name, content, "image/png")).run()
    return page


def picture(seed=0, size=(96, 64), image_format="PNG"):
    """A file with a picture that no other seed has."""
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(file, image_format)
    return file.getvalue()


# --- what is on the page ------------------------------------------------------------------------------


def maps(page):
    """The images of maps as (text in place of the image, address): the large one first."""
    images = [image.proto.imgs[0] for image in page.get("image")]
    return [(image.alt, image.url) for image in images if image.alt.startswith("Where ")]


def analysis_of(page):
    return page.session_state["result"].small


def html_of(page):
    return [element.value for element in page.get("html") if "<style>" not in element.value]


def notices(page):
    """The sentences that stand out, as a person reads them."""
    found = (re.fullmatch(r'<p class="notice" role="alert">(.*)</p>', text) for text in html_of(page))
    return [html.unescape(match[1]) for match in found if match]


def predictions(page):
    """(label, share, whether it is marked) of each line under the heading."""
    [text] = [text for text in html_of(page) if "predictions" in text]
    lines = re.findall(
        r'<li class="(\w*)">.*?<span>(.*?)</span><span class="share">(.*?)</span>.*?</li>', text
    )
    return [(html.unescape(label), share, mark == "confident") for mark, label, share in lines]


def markdown_of(page):
    """Everything that Streamlit reads as Markdown."""
    texts = [
        element.value
        for kind in ("markdown", "caption", "title", "header", "subheader", "error", "warning", "info")
        for element in page.get(kind)
    ]
    for kind in ("button", "selectbox", "slider", "button_group", "file_uploader", "toggle"):
        texts += [text for element in page.get(kind) for text in (element.label, element.help)]
    return texts


def is_usable(page):
    """Whether a person finds no traceback, and the gallery to go on with."""
    return not page.exception and sum("sample_" in (button.key or "") for button in page.button) >= 6


def chosen(page):
    """The keys of the buttons that are shown as chosen."""
    return [button.key for button in page.button if button.proto.type == "primary"]


# --- the first screen ---------------------------------------------------------------------------------


def test_the_first_screen_shows_a_sample_already_analysed(asked):
    page = visit()
    assert not page.exception
    assert notices(page) == []
    assert len(asked) == 1
    assert [key for key in chosen(page) if key.startswith("sample_")]
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
    counted.answer = Future()
    counted.answer.set_result(replace(analysis_of(page), logits=logits, probabilities=probabilities))
    page.button(key="sample_coffee").click().run()
    assert [marked for _, _, marked in predictions(page)] == [True] * 7


def test_the_page_says_whose_predictions_they_are_and_how_good_the_model_is():
    page = visit()
    assert f"What {BUNDLED.name} says" in [heading.value for heading in page.subheader]
    assert any(BUNDLED.accuracy in caption.value for caption in page.caption)


def test_the_page_says_what_class_attention_is_not_and_links_the_paper():
    texts = [text.value for text in visit().markdown]
    assert any(
        "not an explanation of one class" in text and "arxiv.org/abs/2103.17239" in text for text in texts
    )


def test_the_page_says_that_a_picture_is_neither_kept_nor_sent():
    assert any("never written to disk or sent" in caption.value for caption in visit().caption)


def test_the_gallery_has_at_least_six_samples_and_says_whose_they_are():
    page = visit()
    assert is_usable(page)
    assert any("CC0" in caption.value for caption in page.caption)


def test_every_image_has_a_text_in_its_place_and_no_two_maps_the_same():
    page = visit()
    alts = [image.proto.imgs[0].alt for image in page.get("image")]
    assert all(alts)
    assert len(set(alts)) == len(alts)


def test_all_heads_of_both_blocks_are_shown_with_their_numbers():
    page = visit()
    config = BUNDLED.config
    tiles = [button for button in page.button if button.key.startswith("tile_")]
    assert len(tiles) == config.ca_ffn_layers * (config.num_heads + 1)
    assert len(maps(page)) == 1 + len(tiles)
    told = [caption.value for caption in page.caption if caption.value.startswith("itself ")]
    assert len(told) == len(tiles)
    assert f"entropy {analysis_of(page).entropy(0)[0]:.2f} nats" in told[1]


# --- what runs the network, and what does not ---------------------------------------------------------

CHANGES_OF_THE_LOOK = {
    "the block": lambda page: page.button_group(key="block").set_value(0),
    "the head": lambda page: page.selectbox(key="head").set_value(2),
    "the style": lambda page: page.button_group(key="style").set_value("paper"),
    "the colours": lambda page: page.selectbox(key="colormap").set_value("viridis"),
    "the opacity": lambda page: page.slider(key="opacity").set_value(80),
    "the scale": lambda page: page.button_group(key="scale").set_value("shared"),
    "the upsampling": lambda page: page.button_group(key="interpolation").set_value("nearest"),
    "a tile": lambda page: page.button(key="tile_0_3").click(),
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
    state.start(workers=counted)
    page.button_group(key="block").set_value(0).run()
    assert len(asked) == 1


def test_changing_the_picture_runs_the_network_once(asked):
    page = visit()
    page.button(key="sample_rocket").click().run()
    assert [request.image_name for request in asked] == ["cat.jpg", "rocket.jpg"]
    assert chosen(page)[0] == "sample_rocket"
    page.run()
    assert len(asked) == 2


def test_going_back_to_a_picture_does_not_run_the_network_again(asked):
    page = visit()
    page.button(key="sample_rocket").click().run()
    page.button(key="sample_cat").click().run()
    assert "cat.jpg" in maps(page)[0][0]
    assert len(asked) == 2


def test_a_second_visitor_of_the_same_sample_does_not_run_the_network_again(asked):
    visit()
    visit()
    assert len(asked) == 1


def test_changing_the_part_of_the_picture_runs_the_network_once(asked):
    page = visit()
    page.button_group(key="view").set_value("whole").run()
    assert [request.view for request in asked] == ["crop", "whole"]
    assert analysis_of(page).view == "whole"
    assert any("saw the whole image" in caption.value for caption in page.caption)


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
    page.button(key="tile_0_3").click().run()
    assert page.button_group(key="block").value == 0
    assert page.selectbox(key="head").value == 3
    assert "class-attention block 1, head 4" in maps(page)[0][0]
    assert chosen(page)[1:] == ["tile_0_3"]
    page.button(key="tile_1_mean").click().run()
    assert page.selectbox(key="head").value == "mean"
    assert chosen(page)[1:] == ["tile_1_mean"]


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


def test_an_upload_is_analysed_once_and_its_name_is_in_the_files(asked):
    page = upload(visit(), "my holiday.png", picture())
    assert asked[-1].image == picture()
    assert len(asked) == 2
    assert "my holiday.png" in maps(page)[0][0]
    assert all("my-holiday" in button.key for button in page.get("download_button"))
    page.selectbox(key="head").set_value(1).run()
    assert len(asked) == 2


def test_a_sample_takes_the_place_of_an_upload():
    page = upload(visit(), "mine.png", picture())
    page.button(key="sample_dahlia").click().run()
    assert "dahlia.jpg" in maps(page)[0][0]
    assert page.file_uploader[0].value is None


def test_taking_an_upload_away_brings_the_sample_back():
    page = upload(visit(sample="pagoda"), "mine.png", picture())
    page.file_uploader[0].clear().run()
    assert "pagoda.jpg" in maps(page)[0][0]


def test_the_camera_is_off_until_it_is_asked_for_and_its_photograph_is_analysed(asked):
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


# --- an image from the web ------------------------------------------------------------------------------


@pytest.fixture
def web(monkeypatch):
    """The images in the web, by address; all other addresses answer 404."""
    images, lookup = {}, socket.getaddrinfo

    def answer(request):
        content = images.get(f"http://{request.headers['host']}{request.url.raw_path.decode()}")
        return httpx2.Response(404) if content is None else httpx2.Response(200, content=content)

    def find(host, port, *arguments, **options):
        public = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("93.184.216.34", port))]
        return public if host == "images.example" else lookup(host, port, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", find)
    monkeypatch.setattr(httpx2, "HTTPTransport", lambda: httpx2.MockTransport(answer))
    return images


def ask_web(page, url):
    return page.text_input[0].set_value(url).run()


def test_an_image_at_a_web_address_is_fetched_and_analyzed_once_and_is_not_in_the_address(asked, web):
    web["http://images.example/mine/my%20cup.png"] = image = picture()
    page = ask_web(visit(), "http://images.example/mine/my%20cup.png")
    assert notices(page) == []
    assert (asked[-1].image, asked[-1].image_name) == (image, "my cup.png")
    assert "my cup.png" in maps(page)[0][0]
    web.clear()
    page.selectbox(key="head").set_value(1).run()
    assert notices(page) == []
    assert len(asked) == 2
    assert page.query_params == {
        "model": "bundled", "block": "1", "head": "1", "style": "overlay", "view": "crop"
    }  # fmt: skip


@pytest.mark.parametrize(
    "url",
    [
        "http://images.example/nothing.png", "http://images.example/letter.png", "http://127.0.0.1/x.png",
        "file:///etc/passwd", "http://[", "<b>images</b>",
    ],
)  # fmt: skip
def test_a_web_address_without_an_image_is_one_sentence_and_the_image_before_it_stays(asked, web, url):
    web["http://images.example/letter.png"] = b"Dear reader"
    page = upload(visit(), "mine.png", picture())
    before = maps(page)
    ask_web(page, url)
    assert is_usable(page)
    assert len(notices(page)) == 1
    assert maps(page) == before
    assert len(asked) == 2


def test_a_web_address_that_failed_is_asked_again_by_its_button_alone(web):
    page = ask_web(visit(), "http://images.example/late.png")
    web["http://images.example/late.png"] = picture()
    page.selectbox(key="head").set_value(1).run()
    assert len(notices(page)) == 1
    page.button(key="retry_web").click().run()
    assert notices(page) == []
    assert "late.png" in maps(page)[0][0]


def test_of_an_upload_a_web_address_and_a_sample_the_last_is_shown(web):
    web["http://images.example/web.png"] = picture(1)
    page = upload(visit(), "mine.png", picture(2))
    for change, name in [
        (lambda: ask_web(page, "http://images.example/web.png"), "web.png"),
        (lambda: upload(page, "other.png", picture(3)), "other.png"),
        (lambda: page.button(key="sample_rocket").click().run(), "rocket.jpg"),
    ]:
        change()
        assert f" {name}: " in maps(page)[0][0]
    assert page.text_input[0].value == ""


# --- the address --------------------------------------------------------------------------------------


def test_the_address_holds_the_view_of_a_sample():
    page = visit()
    page.button(key="sample_rocket").click().run()
    page.button(key="tile_0_3").click().run()
    page.button_group(key="style").set_value("paper").run()
    assert page.query_params == {
        "model": "bundled", "sample": "rocket", "block": "0", "head": "3", "style": "paper", "view": "crop",
    }  # fmt: skip


def test_a_shared_address_shows_the_same_view(asked):
    first = visit()
    first.button(key="sample_rocket").click().run()
    first.button(key="tile_0_3").click().run()
    first.button_group(key="style").set_value("map").run()
    second = visit(**first.query_params)
    assert maps(second) == maps(first)
    assert len(asked) == 2


def test_the_address_opens_on_every_part_of_a_view():
    page = visit(model="bundled", sample="astronaut", block="0", head="2", style="paper", view="whole")
    assert notices(page) == []
    assert page.button_group(key="block").value == 0
    assert page.selectbox(key="head").value == 2
    assert page.button_group(key="style").value == "paper"
    assert page.button_group(key="view").value == "whole"
    assert "astronaut.jpg: class-attention block 1, head 3" in maps(page)[0][0]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("block", "2"), ("block", "-1"), ("block", "٠"), ("head", "4"), ("head", "1.0"), ("head", "MEAN"),
        ("style", "neon"), ("view", "half"), ("sample", "../../etc/passwd"), ("model", "resnet50"),
        ("sample", "![x](http://evil.example/x.png)"), ("model", "<script>alert(1)</script>"),
        ("head", "9" * 5000),
    ],
)  # fmt: skip
def test_what_an_address_asks_for_in_vain_is_told_once_and_shown_as_it_is(name, value):
    page = visit(**{name: value, "style": "paper"} if name != "style" else {name: value})
    assert is_usable(page)
    [sentence] = notices(page)
    assert f"{name} {value}" in sentence or len(value) > 100
    assert len(sentence) < 400
    assert all(value not in text for text in markdown_of(page) if len(value) > 6)
    assert maps(page)[0][0].endswith("cat.jpg: class-attention block 2, mean of the heads.")
    page.run()
    assert notices(page) == []


def test_an_address_that_names_a_thing_twice_is_no_trouble():
    page = visit(head=["1", "3"])
    assert is_usable(page)
    assert page.selectbox(key="head").value == 3


def test_an_address_that_says_what_is_shown_is_left_as_it_is():
    assert visit().query_params == {}
    assert visit(head="2").query_params == {"head": "2"}


def test_the_view_follows_an_address_that_changes():
    page = visit()
    page.button(key="sample_rocket").click().run()
    page.button(key="tile_0_3").click().run()
    for address, alt in [
        (
            {"sample": "coffee", "block": "1", "head": "0", "style": "map"},
            "coffee.jpg: class-attention block 2, head 1.",
        ),
        ({}, "cat.jpg: class-attention block 2, mean of the heads."),
    ]:
        page.query_params.clear()
        page.query_params.update(address)
        page.run()
        assert maps(page)[0][0].endswith(alt)
        assert page.button_group(key="style").value == address.get("style", "overlay")
        assert page.query_params == address


def test_the_model_follows_an_address_that_changes():
    page = visit()
    page.query_params.update({"model": "cait_m48_448", "block": "1", "head": "15"})
    page.run()
    assert page.selectbox(key="head").value == 15
    assert any("**cait_m48_448 is not on this machine yet.**" in text.value for text in page.markdown)


def test_an_address_from_before_the_last_choice_does_not_undo_the_next_one():
    page = visit()
    old = dict(page.query_params)
    page.button(key="tile_0_3").click().run()
    page.query_params.clear()
    page.query_params.update(old)
    page.button_group(key="style").set_value("paper").run()
    assert maps(page)[0][0].endswith("class-attention block 1, head 4.")
    assert page.query_params == {
        "model": "bundled", "sample": "cat", "block": "0", "head": "3", "style": "paper", "view": "crop",
    }  # fmt: skip


def test_an_address_that_names_a_sample_takes_the_place_of_an_upload():
    page = visit(sample="pagoda", head="2")
    before = dict(page.query_params)
    upload(page, "mine.png", picture())
    assert "sample" not in page.query_params
    page.query_params.clear()
    page.query_params.update(before)
    page.run()
    assert maps(page)[0][0].endswith("pagoda.jpg: class-attention block 2, head 3.")
    assert page.query_params == before


def test_an_upload_is_never_in_the_address_and_its_view_is_kept_on_reload():
    page = upload(visit(), "secret holiday.png", picture())
    page.button(key="tile_0_1").click().run()
    page.button_group(key="style").set_value("map").run()
    assert page.query_params == {
        "model": "bundled", "block": "0", "head": "1", "style": "map", "view": "crop"
    }  # fmt: skip
    again = visit(**page.query_params)
    assert notices(again) == []
    assert "class-attention block 1, head 2" in maps(again)[0][0]
    assert again.button_group(key="style").value == "map"


# --- a model of one's own -----------------------------------------------------------------------------

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
        state.start(model, counted)
        return model

    return give


def test_the_page_opens_on_a_persons_own_model_and_its_classes(asked, give):
    own = give()
    page = visit()
    assert not page.exception
    assert notices(page) == []
    assert [request.model for request in asked] == [own.choice]
    assert sorted(label for label, _, _ in predictions(page)) == sorted(OWN_NAMES)
    assert "What `petals` says" in [heading.value for heading in page.subheader]
    assert maps(page)[0][0] == "Where petals looked in cat.jpg: class-attention block 1, mean of the heads."
    assert all("cat_petals" in button.key for button in page.get("download_button"))


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
    assert sum(button.key.startswith("tile_") for button in page.button) == 3 * 7
    assert any("After 1 block in" in text.value and "in 3 **class" in text.value for text in page.markdown)
    page.button(key="tile_2_5").click().run()
    assert "class-attention block 3, head 6" in maps(page)[0][0]


def test_the_address_opens_on_a_persons_own_model_and_names_it(give):
    give("my petals/model.safetensors")
    page = visit(model="my petals", block="2", head="5")
    assert notices(page) == []
    assert "Where my petals looked in cat.jpg: class-attention block 3, head 6" in maps(page)[0][0]
    assert page.query_params["model"] == "my petals"
    assert analysis_of(visit(model="bundled")).model.name == "bundled"


def test_an_address_of_a_model_that_nobody_offers_here_opens_on_the_own_one(give):
    give()
    page = visit(model="leaves", block="2")
    [sentence] = notices(page)
    assert "model leaves" in sentence
    assert "Where petals looked in cat.jpg: class-attention block 3" in maps(page)[0][0]


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
        own.choice.weights.unlink()
    else:
        save_file(lively_weights(timm_shapes(replace(OWN_CONFIG, num_heads=3))), own.choice.weights)
    page.button(key="sample_rocket").click().run()
    assert is_usable(page)
    [sentence] = notices(page)
    assert sentence.startswith("petals.safetensors: ")
    assert sentence.endswith(" Below is still the image before it.")
    assert maps(page) == shown
    page.selectbox(key="model").set_value("bundled").run()
    assert notices(page) == []
    assert "Where bundled looked in rocket.jpg" in maps(page)[0][0]


def test_own_weights_that_have_vanished_before_the_first_picture_leave_the_gallery(give):
    give().choice.weights.unlink()
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
    page = visit(view="whole")
    page.slider(key="opacity").set_value(70).run()
    page.button_group(key="style").set_value("paper")
    page.button_group(key="scale").set_value("shared").run()
    page.selectbox(key="model").set_value(PUBLISHED).run()
    page.selectbox(key="model").set_value("bundled").run()
    assert page.button_group(key="style").value == "paper"
    assert page.button_group(key="view").value == "whole"
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


def test_a_download_shows_its_progress_and_then_the_picture(home, asked, monkeypatch):
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


# --- pictures that cannot be read, and names that nobody should give ----------------------------------

JPEG = picture(size=(640, 480), image_format="JPEG")
BAD_PICTURES = {
    "a text": ("letter.png", b"Dear reader, this is no picture.\n" * 10),
    "half a JPEG": ("half.jpg", JPEG[: len(JPEG) // 2]),
    "nothing": ("empty.png", b""),
    "a header that claims 60000 x 60000": (
        "bomb.png",
        picture()[:16] + (60000).to_bytes(4, "big") * 2 + picture()[24:],
    ),
}


@pytest.mark.parametrize(("name", "content"), BAD_PICTURES.values(), ids=BAD_PICTURES)
def test_a_bad_picture_is_refused_in_one_sentence_and_nothing_is_lost(name, content):
    page = visit(sample="coffee")
    before = maps(page)
    upload(page, name, content)
    assert is_usable(page)
    [sentence] = notices(page)
    assert sentence.startswith(f"{name}: ")
    assert sentence.count(". ") == 1  # and one that says what is shown
    assert maps(page) == before
    page.button(key="tile_0_1").click().run()
    assert "coffee.jpg: class-attention block 1, head 2" in maps(page)[0][0]
    page.button(key="sample_rocket").click().run()
    assert notices(page) == []
    assert "rocket.jpg" in maps(page)[0][0]


def test_a_bad_picture_before_any_good_one_leaves_the_gallery(monkeypatch):
    page = visit(model=PUBLISHED)
    page.selectbox(key="model").set_value("bundled")
    upload(page, *BAD_PICTURES["a text"])
    assert is_usable(page)
    assert len(notices(page)) == 1
    assert maps(page) == []


def test_what_an_image_lacks_is_said_below_its_map():
    name = "*cut* :smile: <b>.jpg"
    page = upload(visit(), name, JPEG[:-40])
    assert notices(page) == []
    [remark] = [caption.value for caption in page.caption if "cut" in caption.value]
    assert name in remark.split("`")[1]
    assert remark.count("`") == 2


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_the_name_of_a_picture_is_never_read_as_markdown_or_html(name):
    page = visit()
    stem = name[:-4]
    for content in (picture(), b"no picture"):
        upload(page, name, content)
        assert is_usable(page)
        assert all(stem not in text for text in markdown_of(page))
        assert all(stem not in text for text in html_of(page) if html.escape(stem) != stem)


def test_the_names_of_classes_are_never_read_as_html(counted):
    page = visit()
    labels = tuple(f"<img src=x onerror=alert({index})> & co" for index in range(1000))
    counted.answer = Future()
    counted.answer.set_result(replace(analysis_of(page), labels=labels))
    page.button(key="sample_coffee").click().run()
    assert all("<img" not in text for text in html_of(page))
    assert {label for label, _, _ in predictions(page)} <= set(labels)


# --- several people, and a worker that dies -----------------------------------------------------------


def test_two_people_at_once_never_see_each_others_picture():
    ours, theirs = visit(), visit()
    upload(ours, "same.png", picture(1, (90, 60)))
    upload(theirs, "same.png", picture(2, (60, 90)))
    ours.button(key="tile_0_1").click().run()
    third = visit()
    assert analysis_of(ours).size == (90, 60)
    assert analysis_of(theirs).size == (60, 90)
    assert not {url for _, url in maps(ours)} & {url for _, url in maps(theirs)}
    assert all("cat.jpg" in alt for alt, _ in maps(third))


def test_a_picture_of_another_name_is_shown_under_its_own(asked):
    upload(visit(), "mine.png", picture(1))
    page = upload(visit(), "theirs.png", picture(1))
    assert all("theirs.png" in alt for alt, _ in maps(page))


def test_when_the_model_dies_in_the_middle_the_page_says_so_and_the_next_click_works(asked, counted):
    page = visit()
    counted.answer = Future()
    counted.answer.set_exception(WorkerDiedError("the model's process ended: try again"))
    page.button(key="sample_rocket").click().run()
    counted.answer = None
    assert is_usable(page)
    sentence = "the model's process ended: try again. Below is still the image before it."
    assert notices(page) == [sentence]
    page.slider(key="opacity").set_value(30).run()
    assert notices(page) == [sentence]
    assert len(asked) == 2, "an image that ended the process is asked for again only by its button"
    page.button(key="retry_analysis").click().run()
    assert notices(page) == []
    assert "rocket.jpg" in maps(page)[0][0]


def test_a_worker_killed_from_outside_is_replaced_and_the_next_click_works(workers, asked):
    page = visit()
    killed = workers.ready().result(TIMEOUT)
    os.kill(killed, signal.SIGKILL)
    page.button(key="sample_rocket").click().run()
    if notices(page):  # the click came before the death was known
        page.button(key="retry_analysis").click().run()
    assert notices(page) == []
    assert "rocket.jpg" in maps(page)[0][0]
    assert workers.ready().result(TIMEOUT) != killed


# --- TensorFlow stays out of the server ---------------------------------------------------------------

VISIT = """
import os, sys, time
from streamlit.testing.v1 import AppTest
from cait_viz.serving.state import start
from cait_viz.serving.worker import ModelChoice, Workers
workers = Workers(first=ModelChoice())
start(workers=workers)
page = AppTest.from_file(sys.argv[1], default_timeout=180).run()
assert not page.exception and page.session_state["result"], page
times = []
for head in (0, 1, 2):
    start = time.perf_counter()
    page.selectbox(key="head").set_value(head).run()
    times.append(time.perf_counter() - start)
page.button(key="sample_rocket").click().run()
print(sorted({name.partition(".")[0] for name in sys.modules} & {"keras", "tensorflow", "torch"}))
print(sorted(times)[1])
workers.stop()
"""


def test_neither_keras_nor_tensorflow_enters_the_server_and_a_rerun_is_short(run_python):
    modules, seconds = run_python(VISIT, APP)[0].splitlines()[-2:]
    assert modules == "[]"
    # A rerun takes 0.2 s; with Keras in the process it takes 2 to 3 s on the same machine, at best.
    assert float(seconds) < 1.5


def test_a_whole_upload_stays_in_memory_while_the_server_reads_it():
    from starlette.datastructures import Headers
    from starlette.formparsers import MultiPartParser

    visit()
    limit = st.get_option("server.maxUploadSize") * 2**20
    boundary = b"--x\r\nContent-Disposition: form-data; name=f; filename=p.jpg\r\n\r\n"

    async def request():
        yield boundary + b"0" * limit + b"\r\n--x--\r\n"

    parser = MultiPartParser(Headers({"content-type": "multipart/form-data; boundary=x"}), request())
    (_, upload) = asyncio.run(parser.parse()).multi_items()[0]
    assert upload.size == limit
    assert not upload.file._rolled, "the upload was spooled to a file"


def test_a_head_of_one_class_shows_the_probability_of_that_class(give):
    give(config=replace(OWN_CONFIG, num_classes=1), names=["rose"])
    page = visit()
    [(label, share, _)] = predictions(page)
    assert label == "rose"
    assert share != "100 %"
    assert analysis_of(page).probabilities[0] == pytest.approx(1 / (1 + np.exp(-analysis_of(page).logits[0])))
