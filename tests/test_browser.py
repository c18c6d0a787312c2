"""The app in a browser, end to end, against a server started as a person starts it.

Needs Chromium. Without it these tests are skipped, or fail where CAIT_VIZ_REQUIRE_BROWSER=1 is set.
"""

import contextlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hub_server import HubServer
from PIL import Image
from reference import lively_weights, timm_shapes
from safetensors.numpy import save

from cait_viz._resources import SAMPLES
from cait_viz.weights.registry import BUNDLED, get_variant

pytestmark = pytest.mark.browser

REQUIRE_SETTING = "CAIT_VIZ_REQUIRE_BROWSER"
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None
)
# Silent on the network, and able to run in a container.
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
]  # fmt: skip

WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
# The last thing on the page; where it stands the rest does too.
LAST = "What you are looking at"
MAPS = 'img[alt^="Where "]'
# Milliseconds. A worker that has to start takes seconds, on a busy machine many.
PATIENCE = 90_000

# WCAG 2.2, success criterion 1.4.3, for text of usual size.
ENOUGH_CONTRAST = 4.5


# --- the server and the browser -----------------------------------------------------------------------


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def browser():
    unavailable = pytest.fail if os.environ.get(REQUIRE_SETTING) == "1" else pytest.skip
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        unavailable("playwright is not installed")
    if CHROMIUM is None:
        unavailable("there is no Chromium on this machine")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def app(browser, environment, tmp_path_factory):
    """A running `cait-viz app`, started in a folder of no importance, with no hub within reach."""
    with started(tmp_path_factory.mktemp("app"), environment) as process:
        yield process


@contextlib.contextmanager
def started(folder, environment, *arguments, hub=None):
    """`cait-viz app` with these arguments, run in that folder; without a hub, none is within reach."""
    port = free_port()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "cait_viz", "app", "--port", str(port), "--host", "127.0.0.1", *arguments],
            cwd=folder,
            env=environment | hub_environment(folder, hub or f"http://127.0.0.1:{free_port()}"),
            stdout=log,
            stderr=log,
        )
    process.log, process.url = folder / "log", f"http://127.0.0.1:{port}"
    try:
        wait_until_healthy(process)
        yield process
    finally:
        process.terminate()
        process.wait(30)


def hub_environment(folder, endpoint):
    """An empty cache, and the hub's address."""
    return {
        "HF_HOME": str(folder),
        "HF_ENDPOINT": endpoint,
        "no_proxy": "127.0.0.1,localhost",
    }


def wait_until_healthy(process):
    for _ in range(240):
        if process.poll() is not None:
            pytest.fail(f"the app ended at once: {process.log.read_text()}")
        try:
            with urllib.request.urlopen(f"{process.url}/_stcore/health", timeout=5):
                return
        except OSError:
            time.sleep(0.25)
    pytest.fail("the app did not answer within a minute")


class Visitor:
    """One person at the page, with a browser session of their own."""

    def __init__(self, browser, url, **options):
        self.url = url
        self.complaints, self.outside, self.runs = [], [], 0
        self.context = browser.new_context(**{"viewport": WIDE} | options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE)
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", self._request)
        self.page.on("websocket", lambda socket: socket.on("framereceived", self._frame))

    def _console(self, message):
        if message.type == "error":
            self.complaints.append(message.text)

    def _request(self, request):
        if not request.url.startswith((self.url, "data:", "blob:")):
            self.outside.append(request.url)

    def _frame(self, frame):
        """Count the runs of the script: the server tells the page when one has ended."""
        from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

        message = ForwardMsg()
        message.ParseFromString(frame)
        self.runs += message.WhichOneof("type") == "script_finished"

    def open(self, address=""):
        self.page.goto(f"{self.url}/{address}")
        self.settle()
        return self

    def settle(self):
        """Wait until the page is whole: every kind of element comes in a file of its own."""
        self.page.get_by_text(LAST).wait_for()
        self.page.locator(MAPS).nth(BUNDLED.config.ca_ffn_layers * (BUNDLED.config.num_heads + 1)).wait_for()
        self.rest()

    def rest(self):
        self.page.wait_for_function(
            "document.querySelector('[data-testid=stApp]').dataset.testScriptState === 'notRunning'"
        )

    def after(self, action):
        """Do something that runs the script, and wait until it has run."""
        before = self.runs
        action()
        while self.runs == before:
            self.page.wait_for_timeout(20)
        self.rest()

    def upload(self, name, content):
        file = {"name": name, "mimeType": "image/png", "buffer": content}
        self.after(lambda: self.page.locator("input[type=file]").set_input_files(file))

    def choose(self, label, option):
        def pick():
            box = self.page.get_by_role("combobox", name=label, exact=True)
            box.scroll_into_view_if_needed()  # a list that is open closes when the page moves
            self.calm(box.bounding_box)
            box.click()
            self.page.get_by_role("option", name=option, exact=True).click()

        self.after(pick)

    def press(self, name):
        self.after(self.page.get_by_role("radio", name=name, exact=True).click)

    def download(self, label):
        """(file name, content) of what a button gives."""
        with self.page.expect_download() as download:
            self.page.get_by_role("button", name=label).click()
        return download.value.suggested_filename, Path(download.value.path()).read_bytes()

    @property
    def maps(self):
        """The texts in place of the maps, the large one's first."""
        alts = "images => images.map(image => image.alt)"
        return self.calm(lambda: self.page.locator(MAPS).evaluate_all(alts))

    @property
    def notices(self):
        """The sentences that stand out."""
        return self.calm(self.page.locator(".notice").all_inner_texts)

    def calm(self, read):
        """What can be read from the page, once it has stopped to change: it is drawn after it has come."""
        before = read()
        while True:
            self.page.wait_for_timeout(150)
            now = read()
            if now == before:
                return now
            before = now


@pytest.fixture
def visitors(app, browser):
    """Make visitors. However they fare, no page may complain, and nothing may be asked of anybody else."""
    known = []

    def make(**options):
        known.append(Visitor(browser, app.url, **options))
        return known[-1]

    yield make
    for visitor in known:
        visitor.context.close()
    assert [visitor.complaints for visitor in known] == [[]] * len(known)
    assert [visitor.outside for visitor in known] == [[]] * len(known)


@pytest.fixture
def visitor(visitors):
    return visitors().open()


def photograph(name, size):
    """A photograph that is none of the samples: a part of one, as a PNG."""
    with Image.open(SAMPLES / name) as picture:
        file = io.BytesIO()
        picture.convert("RGB").crop((20, 10, 20 + size[0], 10 + size[1])).save(file, "PNG")
    return file.getvalue()


PHOTOGRAPH = photograph("coffee.jpg", (310, 200))


# --- the first screen ---------------------------------------------------------------------------------


def test_the_first_screen_is_a_photograph_with_its_map_its_classes_and_the_gallery(visitor):
    large = visitor.page.locator(MAPS).first
    assert large.bounding_box()["width"] > 400
    assert visitor.page.evaluate("image => image.naturalWidth", large.element_handle()) > 0
    assert visitor.page.locator(".predictions li").count() >= 5
    assert visitor.page.get_by_text("Sample photographs").is_visible()
    assert visitor.page.get_by_text(BUNDLED.accuracy).is_visible()


def test_the_server_follows_its_own_settings_in_whatever_folder_it_was_started(visitor):
    visitor.page.get_by_text("20MB per file").wait_for()


def test_every_image_has_a_text_in_its_place(visitor):
    alts = [image.get_attribute("alt") for image in visitor.page.locator("img").all()]
    assert len(alts) > 15
    assert all(alts)


# --- upload, choose, download -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kept(app, browser):
    """What a person keeps who uploads a picture, and chooses block 1 and head 3 in the style of the paper."""
    visitor = Visitor(browser, app.url, accept_downloads=True).open()
    visitor.upload("my cup.png", PHOTOGRAPH)
    visitor.press("CA block 1")
    visitor.choose("Head", "Head 3")
    visitor.press("Paper")
    visitor.choose("Format of the figures", "SVG")
    runs = visitor.runs
    files = dict(
        visitor.download(label)
        for label in ("This map (PNG)", "Figure 6", "Figure 7", "Every map (ZIP)", "The numbers (NPZ)")
    )
    visitor.page.wait_for_timeout(500)
    reruns = visitor.runs - runs
    visitor.choose("Format of the figures", "PDF")
    files |= dict(visitor.download(label) for label in ("Figure 6", "Figure 7"))
    yield {"files": files, "reruns": reruns, "alt": visitor.maps[0], "address": visitor.page.url}
    assert visitor.complaints == visitor.outside == []
    visitor.context.close()


@pytest.fixture(scope="module")
def own(bundled):
    """The library's own analysis of the picture that was uploaded."""
    from cait_viz.api import analyze

    return analyze(PHOTOGRAPH, bundled, name="my cup.png")


def test_the_page_shows_the_block_and_head_that_were_chosen(kept):
    assert kept["alt"] == ("Where bundled looked in my cup.png: class-attention block 1, head 3.")


def test_an_upload_is_not_in_the_address_bar(kept):
    assert "block=0&head=2&style=paper" in kept["address"]
    assert "sample" not in kept["address"]
    assert "cup" not in kept["address"]


def test_a_download_does_not_run_the_page_again(kept):
    assert kept["reruns"] == 0


def test_files_are_named_after_the_picture_the_model_the_block_and_the_head(kept):
    assert set(kept["files"]) == {
        "my-cup_bundled_ca0_head2_paper.png",
        "my-cup_bundled_heads.svg", "my-cup_bundled_ca0_saliency.svg",
        "my-cup_bundled_heads.pdf", "my-cup_bundled_ca0_saliency.pdf",
        "my-cup_bundled_maps.zip", "my-cup_bundled.npz",
    }  # fmt: skip


def assert_same_picture(found, expected):
    """Equal up to the last bit of the network's float32, which may tip a level of the colour table."""
    found, expected = (np.asarray(picture, np.int16) for picture in (found, expected))
    assert found.shape == expected.shape
    difference = np.abs(found - expected)
    assert difference.max() <= 4
    assert (difference > 0).mean() < 0.01


def test_the_downloaded_map_is_the_librarys_own_drawing_pixel_by_pixel(kept, own):
    found = Image.open(io.BytesIO(kept["files"]["my-cup_bundled_ca0_head2_paper.png"]))
    assert found.size == own.size
    dimmed = float(found.text["dim_unseen"])
    assert dimmed > 0
    assert_same_picture(found, own.overlay(0, 2, style="paper", dim_unseen=dimmed))
    assert found.text["image_sha256"] == own.image_sha256
    assert (found.text["block"], found.text["head"]) == ("0", "2")


def test_the_archive_holds_every_map_and_a_manifest_of_them(kept, own):
    with zipfile.ZipFile(io.BytesIO(kept["files"]["my-cup_bundled_maps.zip"])) as archive:
        manifest = json.loads(archive.read("manifest.json"))
        names = set(archive.namelist()) - {"manifest.json"}
        mean = Image.open(io.BytesIO(archive.read("my-cup_bundled_ca1_mean.png")))
        mean.load()
    assert names == {entry["file"] for entry in manifest["files"]}
    assert len(names) == own.blocks * (own.heads + 1)
    assert manifest["weights_sha256"] == own.model.weights_sha256
    assert manifest["image_size"] == [310, 200]
    look = {key: manifest[key] for key in ("style", "dim_unseen")}
    assert_same_picture(mean, own.overlay(1, **look))


def test_the_numbers_are_the_networks_own(kept, own):
    with np.load(io.BytesIO(kept["files"]["my-cup_bundled.npz"])) as numbers:
        for key, attention in own.class_attention.items():
            np.testing.assert_allclose(numbers[key], attention, atol=1e-6)
        np.testing.assert_allclose(numbers["logits"], own.logits, atol=1e-4)


def test_the_figures_are_drawings_that_scale(kept):
    for kind in ("heads", "ca0_saliency"):
        assert b"<svg" in kept["files"][f"my-cup_bundled_{kind}.svg"][:1000]
        assert kept["files"][f"my-cup_bundled_{kind}.pdf"].startswith(b"%PDF-")


# --- the address --------------------------------------------------------------------------------------


def test_a_view_is_the_same_after_a_reload(visitor):
    visitor.page.get_by_text("Sample photographs").click()
    visitor.after(visitor.page.get_by_role("button", name="Rocket", exact=True).click)
    visitor.after(visitor.page.get_by_role("button", name="Head 2", exact=True).first.click)
    before = visitor.maps
    assert before[0] == "Where bundled looked in rocket.jpg: class-attention block 1, head 2."
    visitor.page.reload()
    visitor.settle()
    assert visitor.maps == before


def test_back_and_forward_bring_back_each_view_and_the_address_that_names_it(visitor):
    page = visitor.page

    def seen():
        paper = page.get_by_role("radio", name="Paper", exact=True)
        return visitor.calm(lambda: (visitor.maps[0], paper.get_attribute("aria-checked"), page.url))

    steps, views = page.evaluate("history.length"), [seen()]
    page.get_by_text("Sample photographs").click()
    for choose in (
        page.get_by_role("button", name="Rocket", exact=True).click,
        page.get_by_role("button", name="Head 2", exact=True).first.click,
        page.get_by_role("radio", name="Paper", exact=True).click,
    ):
        visitor.after(choose)
        views.append(seen())
    assert len(set(views)) == 4
    assert page.evaluate("history.length") == steps + 3
    for step, expected in [
        (page.go_back, views[2]),
        (page.go_back, views[1]),
        (page.go_back, views[0]),
        (page.go_forward, views[1]),
    ]:
        visitor.after(step)
        assert seen() == expected
    assert page.evaluate("history.length") == steps + 3


def test_a_choice_of_what_is_chosen_and_a_drag_of_the_slider_add_no_step_to_the_history(visitor):
    page = visitor.page
    visitor.after(page.get_by_role("button", name="Head 2", exact=True).first.click)
    steps, address = page.evaluate("history.length"), page.url
    visitor.after(page.get_by_role("button", name="Head 2", exact=True).first.click)
    page.get_by_role("slider", name="Opacity of the map").focus()
    for _ in range(5):
        visitor.after(lambda: page.keyboard.press("ArrowRight"))
    assert (page.evaluate("history.length"), page.url) == (steps, address)


def test_choices_faster_than_the_page_are_all_kept(visitor):
    page = visitor.page
    page.get_by_role("radio", name="Paper", exact=True).click()
    page.get_by_role("radio", name="CA block 1", exact=True).click()
    page.get_by_role("radio", name="Patches", exact=True).click()
    page.wait_for_url("**block=0&head=mean&style=paper**")
    visitor.rest()
    for name in ("Paper", "CA block 1", "Patches"):
        assert page.get_by_role("radio", name=name, exact=True).get_attribute("aria-checked") == "true"


# --- a model of one's own -----------------------------------------------------------------------------


def test_weights_of_ones_own_are_in_the_sidebar_under_their_name_and_name_their_classes(
    browser, environment, tiny_weights, tmp_path
):
    names = [f"petal <{index}>" for index in range(10)]
    (tmp_path / "petals").mkdir()
    shutil.copy(tiny_weights, tmp_path / "petals" / "model.safetensors")
    (tmp_path / "petals" / "labels.txt").write_text("".join(f"{name}\n" for name in names))
    given = ("--weights", "petals/model.safetensors", "--labels", "petals/labels.txt")
    with started(tmp_path, environment, *given) as process:
        visitor = Visitor(browser, process.url).open()
        page = visitor.page
        assert page.get_by_role("combobox", name="Model", exact=True).input_value() == "petals · 0.2 M"
        assert page.get_by_role("heading", name="What petals says").is_visible()
        assert page.get_by_text("Your own weights (model.safetensors), whose accuracy").is_visible()
        assert set(page.locator(".predictions span:not(.share)").all_inner_texts()) <= set(names)
        assert visitor.maps[0].startswith("Where petals looked in cat.jpg")
        visitor.choose("Model", "bundled · 7 M")
        visitor.settle()
        assert visitor.maps[0].startswith("Where bundled looked in cat.jpg")
        page.goto(f"{process.url}/?model=petals&block=1&head=3")
        visitor.settle()
        assert visitor.maps[0] == "Where petals looked in cat.jpg: class-attention block 2, head 4."
        assert (visitor.notices, visitor.complaints, visitor.outside) == ([], [], [])
        visitor.context.close()


def test_a_model_that_was_downloaded_stays_chosen(browser, environment, tmp_path):
    variant = get_variant("cait_xxs24_224")
    content = save(lively_weights(timm_shapes(variant.config)))
    with (
        HubServer({variant.repo_id: content}) as hub,
        started(tmp_path, environment, hub=hub.endpoint) as process,
    ):
        visitor = Visitor(browser, process.url)
        page = visitor.page
        page.goto(process.url)
        visitor.settle()
        visitor.choose("Model", "cait_xxs24_224 · 12 M · 78.4 % · ↓")
        page.get_by_role("button", name="Download it").click()
        visitor.page.locator('img[alt^="Where cait_xxs24_224"]').first.wait_for()
        visitor.rest()
        visitor.press("Paper")
        assert visitor.maps[0].startswith("Where cait_xxs24_224 looked in cat.jpg")
        visitor.choose("Head", "Head 3")
        assert visitor.maps[0].endswith("class-attention block 1, head 3.")
        assert page.get_by_role("combobox", name="Model", exact=True).input_value() == (
            "cait_xxs24_224 · 12 M · 78.4 %"
        )
        visitor.context.close()


# --- what a person should not do ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "<img src=x onerror=alert(1)>.png",
        "![x](http:∕∕evil.example∕x.png) **b** $x^2$ :smile: -> :red[red] www.evil.example.png",
    ],
)
def test_the_name_of_a_picture_is_shown_as_it_is(visitor, name):
    visitor.upload(name, b"no picture")
    [sentence] = visitor.notices
    assert sentence.startswith(f"{name}: this is not an image")
    visitor.upload(name, photograph("rocket.jpg", (90, 60)))
    assert visitor.notices == []
    assert all(name in alt for alt in visitor.maps)
    assert visitor.page.locator("img[src='x'], img[src^=http\\:\\/\\/evil], .katex").count() == 0


def test_what_an_address_asks_for_in_vain_is_shown_as_it_is(visitors):
    visitor = visitors().open("?head=![x](http://evil.example/x.png)&sample=<b>x</b>")
    [sentence] = visitor.notices
    assert "head ![x](http://evil.example/x.png)" in sentence
    assert "sample <b>x</b>" in sentence


def test_a_file_that_is_no_picture_is_refused_beside_what_was_there(visitor):
    before = visitor.maps
    visitor.upload("letter.png", b"Dear reader")
    assert len(visitor.notices) == 1
    assert visitor.page.locator(".notice").get_attribute("role") == "alert"
    assert visitor.maps == before


def test_without_a_network_a_model_that_is_not_here_is_refused_in_a_sentence(visitors):
    visitor = visitors()
    visitor.page.goto(f"{visitor.url}/?model=cait_xxs24_224")
    download = visitor.page.get_by_role("button", name="Download it")
    download.wait_for()
    visitor.rest()
    visitor.after(download.click)
    [sentence] = visitor.notices
    assert "cannot be reached" in sentence


def test_two_people_at_once_see_each_their_own_picture(visitors):
    ours, theirs = visitors().open(), visitors().open()
    ours.upload("ours.png", photograph("dahlia.jpg", (90, 60)))
    theirs.upload("theirs.png", photograph("pagoda.jpg", (60, 90)))
    ours.press("Map alone")
    theirs.press("Paper")
    assert all("ours.png" in alt for alt in ours.maps)
    assert all("theirs.png" in alt for alt in theirs.maps)
    assert "saw 60 × 60 of its 90 × 60" in ours.page.inner_text("body")
    assert "saw 60 × 60 of its 60 × 90" in theirs.page.inner_text("body")


# --- for every reader ---------------------------------------------------------------------------------

# The contrast of a text with what lies behind it, colours and opacities of all elements around it composed.
CONTRAST = """element => {
  const parse = text => {
    const numbers = text.match(/[\\d.]+/g).map(Number);
    return text.startsWith('color(srgb') ? [...numbers.slice(0, 3).map(v => 255 * v), numbers[3] ?? 1]
      : [...numbers.slice(0, 3), numbers[3] ?? 1];
  };
  const over = (top, bottom) => top.slice(0, 3).map((v, i) => v * top[3] + bottom[i] * (1 - top[3]));
  const line = [];
  for (let e = element; e; e = e.parentElement) line.unshift(getComputedStyle(e));
  let behind = [255, 255, 255], opacity = 1;
  for (const style of line) {
    opacity *= Number(style.opacity);
    const colour = parse(style.backgroundColor);
    behind = over([...colour.slice(0, 3), colour[3] * opacity], behind);
  }
  const colour = parse(getComputedStyle(element).color);
  const text = over([...colour.slice(0, 3), colour[3] * opacity], behind);
  const luminance = rgb => rgb.map(v => v / 255)
    .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const [dark, light] = [luminance(text), luminance(behind)].sort((a, b) => a - b);
  return (light + .05) / (dark + .05);
}"""

TEXTS = {
    "a chosen button": "[data-testid=stBaseButton-primary] p",
    "another button": "[data-testid=stBaseButton-secondary] p",
    "a chosen option": "[role=radio][aria-checked=true] p",
    "another option": "[role=radio][aria-checked=false] p",
    "small print": "[data-testid=stCaptionContainer] p",
    "small print in the sidebar": "[data-testid=stSidebar] [data-testid=stCaptionContainer] p",
    "a label": "[data-testid=stWidgetLabel] p",
    "a heading": "h3",
    "a prediction": ".predictions span",
    "a link": "[data-testid=stMarkdownContainer] p a",
    "a notice": ".notice",
}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read_in_light_and_in_dark(visitors, scheme):
    visitor = visitors(color_scheme=scheme).open("?head=9")
    visitor.page.locator(TEXTS["a chosen option"]).first.wait_for()
    contrasts = {
        what: min(visitor.page.locator(selector).evaluate_all(f"texts => texts.map({CONTRAST})"))
        for what, selector in TEXTS.items()
    }
    assert {what: round(found, 2) for what, found in contrasts.items() if found < ENOUGH_CONTRAST} == {}


def test_on_a_phone_nothing_scrolls_sideways(visitors):
    visitor = visitors(viewport=PHONE, is_mobile=True, has_touch=True).open(f"?sample={'x' * 60}")
    visitor.page.get_by_text("Sample photographs").click()
    visitor.page.get_by_role("button", name="Coffee", exact=True).wait_for()
    wide = visitor.page.evaluate(
        """() => [...document.querySelectorAll('html, [data-testid^=stMain]')]
             .filter(e => e.scrollWidth > e.clientWidth).map(e => e.outerHTML.slice(0, 80))"""
    )
    assert wide == []
    assert visitor.page.locator(MAPS).first.bounding_box()["width"] > 300


def test_the_keyboard_reaches_a_head_and_chooses_it(visitor):
    page = visitor.page
    for _ in range(120):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.innerText") == "Head 3":
            break
    else:
        pytest.fail("Tab never came to a head's button")
    assert page.evaluate("document.activeElement.matches(':focus-visible')")
    visitor.after(lambda: page.keyboard.press("Enter"))
    assert visitor.maps[0].endswith("class-attention block 1, head 3.")


# --- a worker that dies; last, for the next one needs seconds to start --------------------------------


def worker_of(process):
    """The process of the model, among the server's children."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    lines = {int(child): Path(f"/proc/{child}/cmdline").read_text() for child in children}
    return next(child for child, line in lines.items() if "popen_loky" in line)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux to find the worker's process")
def test_a_worker_killed_from_outside_is_replaced_while_the_page_waits(app, visitor):
    killed = worker_of(app)
    os.kill(killed, signal.SIGKILL)
    visitor.page.get_by_text("Sample photographs").click()
    visitor.page.get_by_role("button", name="Astronaut", exact=True).click()
    shown = visitor.page.locator('img[alt*="astronaut.jpg"]')
    again = visitor.page.get_by_role("button", name="Try again")
    shown.or_(again).first.wait_for()
    if again.is_visible():  # the click came before the death was known
        again.click()
    shown.first.wait_for()
    visitor.rest()
    assert visitor.notices == []
    assert worker_of(app) != killed


def test_the_server_has_met_no_error_of_its_own(app):
    log = app.log.read_text()
    assert app.poll() is None
    assert "Traceback" not in log
    assert "Uncaught" not in log
