"""The app's page without a browser: opening it, giving it images, and reading what is on it."""

import base64
import html
import io
import json
import re

import numpy as np
from PIL import Image
from streamlit.components.v2.component_manager import BidiComponentManager
from streamlit.runtime.scriptrunner import script_runner
from streamlit.testing.v1 import AppTest

from cait_viz._resources import APP
from cait_viz.weights.registry import get_variant

PUBLISHED = "cait_xxs24_224"
REPOSITORY = get_variant(PUBLISHED).repo_id

# After each run Streamlit clears a Keras that is in its process, and collects all garbage. A server has none;
# here other tests have brought it in.
script_runner._clean_problem_modules = lambda: None
# What a server does once, a test does for each visitor: it looks for components in all installed packages.
# The page has none but its own.
BidiComponentManager.discover_and_register_components = lambda *_, **__: None

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
    return upload_all(page, (name, content))


def upload_all(page, *files):
    """Give several files at once, each a name and its content."""
    page.file_uploader[0].set_value([(name, content, "image/png") for name, content in files]).run()
    return page


def picture(seed=0, size=(96, 64), image_format="PNG"):
    """A file with a picture that no other seed has."""
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(file, image_format)
    return file.getvalue()


def component(page, key):
    """The identity and the data of a component that runs code in the browser, or (None, None)."""
    protos = [element.proto for element in page.get("bidi_component")]
    found = [(proto.id, json.loads(proto.json)) for proto in protos if proto.id.endswith(f"-{key}")]
    return found[0] if found else (None, None)


def choose(page, key, value):
    """Choose in a component as its code in the browser does, and run the page."""
    identity, _ = component(page, key)
    states = page._tree.get_widget_states()
    state = states.widgets.add()
    state.id = f"$$STREAMLIT_INTERNAL_KEY_{identity}__events"
    state.json_trigger_value = json.dumps([{"event": "chosen", "value": value}])
    return page._run(states)


def choose_sample(page, slug):
    return choose(page, "samples", slug)


def choose_tile(page, block, head):
    return choose(page, "heads", f"{block}_{head}")


def choose_patch(page, patch):
    return choose(page, "pictures_of_map", {"patch": patch})


def chosen_sample(page):
    """The slug of the sample that is marked as chosen."""
    return component(page, "samples")[1]["chosen"]


def chosen_tile(page):
    """Block and head of the tile that is marked as chosen."""
    return component(page, "heads")[1]["chosen"]


def samples(page):
    """What is offered in the strip of samples."""
    [group] = component(page, "samples")[1]["groups"]
    return group["options"]


def own_images(page):
    """What is offered in the strip of the visitor's own images, by value."""
    groups = (component(page, "own")[1] or {"groups": [{"options": []}]})["groups"]
    return {option["value"]: option for option in groups[0]["options"]}


def tiles(page):
    """The heads' small maps, block by block."""
    groups = (component(page, "heads")[1] or {"groups": []})["groups"]
    return [option for group in groups for option in group["options"]]


def pictures(page):
    """The photograph and its map."""
    return (component(page, "pictures_of_map")[1] or {"pictures": []})["pictures"]


def maps(page):
    """The images of maps as (text in place of the image, address): the large one first."""
    return [(image["alt"], image["image"]) for image in (*pictures(page)[1:], *tiles(page))]


def drawn(image):
    """The pixels of an image of a component."""
    with Image.open(io.BytesIO(base64.b64decode(image["image"].partition(",")[2]))) as opened:
        return np.asarray(opened.convert("RGB"), int)


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
    [text] = [
        text.partition('<ol class="ranked predictions">')[2]
        for text in html_of(page)
        if "predictions" in text
    ]
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
    return not page.exception and len(samples(page)) >= 6
