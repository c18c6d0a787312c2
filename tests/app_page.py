"""The app's page without a browser: opening it, giving it images, and reading what is on it."""

import html
import io
import re

import numpy as np
from PIL import Image
from streamlit.testing.v1 import AppTest

from cait_viz._resources import APP
from cait_viz.weights.registry import get_variant

PUBLISHED = "cait_xxs24_224"
REPOSITORY = get_variant(PUBLISHED).repo_id

# A model that has to be loaded takes seconds, on a busy machine many.
TIMEOUT = 180


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
