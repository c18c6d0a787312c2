"""The app in a browser, end to end, against a server started as a person starts it.

Needs Chromium. Without it these tests are skipped, or fail where CAIT_VIZ_REQUIRE_BROWSER=1 is set.
"""

import re
import shutil

import pytest
from browser_visitor import MAPS, Visitor, photograph, started
from hub_server import HubServer
from reference import lively_weights, timm_shapes
from safetensors.numpy import save

from cait_viz.weights.registry import BUNDLED, get_variant

pytestmark = pytest.mark.browser

# What a browser says of an image that the server no longer has, and Streamlit after it.
SUPERSEDED = re.compile(r"404 \(Not Found\)|Image source error")


# --- the first screen ---------------------------------------------------------------------------------


def test_the_first_screen_is_a_photograph_with_its_map_its_classes_and_the_gallery(visitor):
    large = visitor.page.locator(MAPS).first
    assert large.bounding_box()["width"] > 400
    assert visitor.page.get_by_alt_text("The image pagoda.jpg").is_visible()
    assert visitor.page.evaluate("image => image.naturalWidth", large.element_handle()) > 0
    assert visitor.page.locator(".predictions li").count() >= 5
    assert visitor.page.get_by_role("radiogroup", name="Sample photograph").get_by_role("radio").count() >= 6
    assert visitor.page.get_by_text(BUNDLED.accuracy).is_visible()


def test_the_server_follows_its_own_settings_in_whatever_folder_it_was_started(visitor):
    visitor.page.get_by_text("up to 20 MB").wait_for()


def test_every_image_has_a_text_in_its_place(visitor):
    alts = [image.get_attribute("alt") for image in visitor.page.locator("img").all()]
    assert len(alts) > 15
    assert all(alts)


# --- the address --------------------------------------------------------------------------------------


def test_a_view_is_the_same_after_a_reload(visitor):
    visitor.take_sample("rocket")
    visitor.take_head(0, 1)
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
    for choose in (
        lambda: visitor.take_sample("rocket"),
        lambda: visitor.take_head(0, 1),
        lambda: visitor.press("Paper"),
    ):
        choose()
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


@pytest.mark.parametrize("questions", [("look", "path"), ("look", "compare"), ("why", "compare")])
def test_back_goes_to_the_question_before(visitors, questions):
    visitor, (first, second) = visitors(), questions
    page = visitor.page
    page.goto(f"{visitor.url}/?question={first}&sample=cat")
    page.get_by_role("radiogroup", name="Question").wait_for()
    visitor.rest()
    visitor.after(lambda: page.get_by_role("radiogroup", name="Question").get_by_role("radio").nth(
        ["look", "path", "why", "compare"].index(second)).click())  # fmt: skip
    page.wait_for_url(f"**question={second}**")
    for step, expected in [(page.go_back, first), (page.go_forward, second)]:
        visitor.after(step)
        visitor.rest()
        assert f"question={expected}" in visitor.calm(lambda: page.url)


@pytest.mark.parametrize("pause", [0, 10, 30, 100])
def test_back_faster_than_the_page_goes_back_as_often(visitor, pause):
    page = visitor.page
    for choose in (
        lambda: visitor.take_sample("rocket"),
        lambda: visitor.take_head(0, 1),
        lambda: visitor.press("Paper"),
        lambda: visitor.press("Patches"),
    ):
        choose()
    steps, address = page.evaluate("history.length"), page.url
    page.evaluate(
        "async pause => { for (const _ of [1, 2])"
        " { history.back(); await new Promise(resolve => setTimeout(resolve, pause)); } }",
        pause,
    )
    page.wait_for_url("**block=1&head=mean&style=overlay**")
    expected = "Where bundled looked in rocket.jpg: class-attention block 2, mean of the heads."
    page.get_by_alt_text(expected).first.wait_for()
    visitor.rest()
    assert visitor.maps[0] == expected
    assert "style=overlay" in page.url
    assert page.evaluate("history.length") == steps
    page.evaluate("history.go(2)")
    page.wait_for_url(address)


def test_a_choice_of_what_is_chosen_and_a_drag_of_the_slider_add_no_step_to_the_history(visitor):
    page = visitor.page
    visitor.take_head(0, 1)
    steps, address = page.evaluate("history.length"), page.url
    page.locator("input[value='0_1'] + img").click()
    visitor.rest()
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
    assert visitor.maps[0].endswith("class-attention block 1, mean of the heads.")
    whole = "images => images.every(image => image.complete && image.naturalWidth)"
    assert page.locator(MAPS).evaluate_all(whole)
    # A map of a run that the next choice ended may be gone before the browser asks for it.
    visitor.complaints[:] = [text for text in visitor.complaints if not SUPERSEDED.search(text)]


# --- the pictures -------------------------------------------------------------------------------------


def test_the_colors_that_the_page_names_are_those_of_the_style_that_was_chosen_last(visitor):
    colors = visitor.page.get_by_role("combobox", name="Colors", exact=True)
    assert colors.input_value() == "inferno"
    for style, own in [("Paper", "cividis"), ("Map alone", "viridis"), ("Overlay", "inferno")]:
        visitor.press(style)
        assert visitor.calm(colors.input_value) == own
    visitor.after(visitor.page.go_back)
    assert visitor.calm(colors.input_value) == "viridis"


def test_a_click_on_the_photograph_or_on_the_map_chooses_the_patch_under_it(visitor):
    for image, row, column in [(visitor.page.get_by_alt_text("The image pagoda.jpg"), 3, 9),
                               (visitor.page.locator(MAPS).first, 14, 14)]:  # fmt: skip
        place = visitor.calm(image.bounding_box)  # a page that still moves would take the click elsewhere
        width, height = place["width"], place["height"]
        left = (width - height) / 2  # the network saw the square in the middle
        place = {"x": left + height * (column - 0.5) / 14, "y": height * (row - 0.5) / 14}
        visitor.after(lambda image=image, place=place: image.click(position=place, force=True))
        visitor.page.get_by_text(f"The patch in row {row}, column {column} gets").wait_for()
        marks = visitor.page.locator(".mark.chosen")
        assert marks.count() == 2
        assert all(mark.is_visible() for mark in marks.all())
    visitor.after(lambda: image.click(position=place, force=True))
    assert visitor.page.get_by_text("The patch in row").count() == 0


@pytest.mark.parametrize("sample", ["cat", "admiral", "rocket"])
def test_photograph_and_map_fit_in_the_window_whatever_their_shape(visitors, sample):
    visitor = visitors()
    for width, height in [(1440, 900), (1280, 800), (390, 844)]:
        visitor.page.set_viewport_size({"width": width, "height": height})
        visitor.open(f"?sample={sample}")
        frames = visitor.page.locator(".frame").all()
        boxes = visitor.calm(lambda: [one.bounding_box() for one in frames])  # noqa: B023
        assert len(boxes) == 2
        assert max(box["y"] + box["height"] for box in boxes) <= height
        assert boxes[0]["width"] == pytest.approx(boxes[1]["width"], abs=1)


# --- images of one's own ------------------------------------------------------------------------------

# An event of the browser with a file, at an element: what a drop or a paste is to the page.
SEND = """(element, [event, field, name, bytes]) => {
  const carried = new DataTransfer();
  carried.items.add(new File([new Uint8Array(bytes)], name, {type: 'image/png'}));
  element.dispatchEvent(new (event === 'paste' ? ClipboardEvent : DragEvent)(
    event, {[field]: carried, bubbles: true, cancelable: true, composed: true}));
}"""


@pytest.mark.parametrize("place", [".st-key-strip", ".st-key-strip input[type=radio]", "h1"])
def test_an_image_that_is_dropped_on_the_strip_or_beside_it_is_shown(visitor, place):
    content = list(photograph("dahlia.jpg", (90, 60)))
    target = visitor.page.locator(place).first
    target.evaluate(SEND, ["dragover", "dataTransfer", "dropped.png", content])
    assert visitor.page.locator(".st-key-strip[data-dropping]").count() == 1
    visitor.after(lambda: target.evaluate(SEND, ["drop", "dataTransfer", "dropped.png", content]))
    assert all("dropped.png" in alt for alt in visitor.maps)
    assert visitor.page.locator(".st-key-strip[data-dropping]").count() == 0


def test_images_that_are_pasted_are_shown_one_after_another(visitor):
    for name, size in [("first.png", (90, 60)), ("second.png", (60, 90))]:
        content = list(photograph("pagoda.jpg", size))
        body = visitor.page.locator("body")
        visitor.after(
            lambda body=body, name=name, content=content: body.evaluate(
                SEND, ["paste", "clipboardData", name, content]
            )
        )
        assert all(name in alt for alt in visitor.maps)


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
        assert visitor.maps[0].startswith("Where petals looked in pagoda.jpg")
        visitor.choose("Model", "bundled · 7 M")
        visitor.settle()
        assert visitor.maps[0].startswith("Where bundled looked in pagoda.jpg")
        page.goto(f"{process.url}/?model=petals&block=1&head=3")
        visitor.settle()
        assert visitor.maps[0] == "Where petals looked in pagoda.jpg: class-attention block 2, head 4."
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
        assert visitor.maps[0].startswith("Where cait_xxs24_224 looked in pagoda.jpg")
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
def test_the_name_of_an_image_is_shown_as_it_is(visitor, name):
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


def test_a_file_that_is_no_image_is_refused_beside_what_was_there(visitor):
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


def test_two_people_at_once_see_each_their_own_image(visitors):
    ours, theirs = visitors().open(), visitors().open()
    ours.upload("ours.png", photograph("dahlia.jpg", (90, 60)))
    theirs.upload("theirs.png", photograph("pagoda.jpg", (60, 90)))
    ours.press("Map alone")
    theirs.press("Paper")
    assert all("ours.png" in alt for alt in ours.maps)
    assert all("theirs.png" in alt for alt in theirs.maps)
    assert ours.page.get_by_text("saw 60 × 60 of its 90 × 60").is_visible()
    assert theirs.page.get_by_text("saw 60 × 60 of its 60 × 90").is_visible()


# --- at the end ---------------------------------------------------------------------------------------


def test_the_server_has_met_no_error_of_its_own(app):
    log = app.log.read_text()
    assert app.poll() is None
    assert "Traceback" not in log
    assert "Uncaught" not in log
