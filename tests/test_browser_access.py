"""The page for every reader: narrow screens, the keyboard, what axe-core finds (contrast among it).

Needs Chromium. Without it these tests are skipped, or fail where CAIT_VIZ_REQUIRE_BROWSER=1 is set.
"""

import pytest
from browser_visitor import MAPS, PHONE, photograph

pytestmark = pytest.mark.browser

# What scrolls sideways or is cut at its right end; a field's own text may be longer than the field.
TOO_WIDE = """() => [...document.querySelectorAll('html, [data-testid^=stMain], .block-container *')]
  .filter(e => e.scrollWidth > e.clientWidth + 1 && e.clientWidth > 2 && !e.closest('svg, input')
    && getComputedStyle(e).display !== 'inline')
  .map(e => e.outerHTML.slice(0, 120))"""


SIZES = [(1440, 900), (1280, 800), (820, 1180), (390, 844)]
# What stands at the end of the answer to each question.
LAST = {
    "look": "Every map (ZIP)",
    "path": "The numbers (NPZ)",
    "why": "Re-initialize it part by part",
    "compare": "Both as a figure (PNG)",
}


# What the page says, how long it is, and all of its colors.
LOOKS = """() => [document.body.innerText, document.documentElement.scrollHeight,
  ...[...document.querySelectorAll('body *')].map(getComputedStyle).map(e => e.color + e.backgroundColor)
].join()"""
# What of axe-core a dark page can break that a light one kept.
OF_COLORS = ["color-contrast", "link-in-text-block"]


@pytest.mark.parametrize("question", LAST)
def test_every_answer_fits_every_screen_and_axe_finds_nothing_against_it(visitors, question):
    visitor = visitors()
    for width, height in SIZES:
        visitor.page.set_viewport_size({"width": width, "height": height})
        visitor.page.emulate_media(color_scheme="light")
        # A link's mistake is told in a notice, which has to fit too.
        visitor.open_until(f"?question={question}&sample={'x' * 60}", LAST[question])
        assert complaints_of_axe(visitor) == {}, (width, height)
        light = visitor.page.evaluate(LOOKS)
        visitor.page.emulate_media(color_scheme="dark")
        visitor.page.wait_for_function(f"light => ({LOOKS})() !== light", arg=light)
        assert complaints_of_axe(visitor, runOnly=OF_COLORS) == {}, (width, height, "dark")
        for zoom in (1, 2):
            visitor.page.set_viewport_size({"width": width // zoom, "height": height // zoom})
            assert visitor.calm(lambda: visitor.page.evaluate(TOO_WIDE)) == [], (width, height, zoom)


def test_on_a_phone_both_images_fit_the_screen_and_a_tap_chooses_a_patch(visitors):
    visitor = visitors(viewport=PHONE, is_mobile=True, has_touch=True).open()
    assert visitor.calm(visitor.page.locator(MAPS).first.bounding_box)["width"] > 250
    visitor.after(lambda: visitor.page.get_by_alt_text("The image pagoda.jpg").tap(force=True))
    visitor.page.get_by_text("The patch in row").wait_for()


def tab_to(page, name):
    """Press Tab until what has the focus is called so."""
    focused = """() => {
      let element = document.activeElement;
      while (element.shadowRoot?.activeElement) element = element.shadowRoot.activeElement;
      return [element.ariaLabel, element.matches(':focus-visible')];
    }"""
    for _ in range(120):
        page.keyboard.press("Tab")
        found, visible = page.evaluate(focused)
        if found and found.startswith(name):
            assert visible
            return
    pytest.fail(f"Tab never came to {name}")


def test_the_keyboard_reaches_the_heads_and_its_arrows_choose_one(visitor):
    tab_to(visitor.page, "Mean, CA block 2")
    for _ in range(2):  # the focus stays while the page runs
        visitor.after(lambda: visitor.page.keyboard.press("ArrowLeft"))
    assert visitor.maps[0].endswith("class-attention block 1, head 3.")


def test_the_keyboard_chooses_a_sample(visitor):
    tab_to(visitor.page, "A pagoda by a lake")
    visitor.after(lambda: visitor.page.keyboard.press("ArrowRight"))
    assert "cat.jpg" in visitor.maps[0]


def test_the_keyboard_chooses_a_patch_and_takes_it_back(visitor):
    page = visitor.page
    tab_to(page, "Patches of the image")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Home")
    active = page.locator("[role=grid]").get_attribute("aria-activedescendant")
    assert page.locator(f"#{active}").get_attribute("aria-label") == "Row 7, column 1"
    visitor.after(lambda: page.keyboard.press("Enter"))
    page.get_by_text("The patch in row 7, column 1 gets").wait_for()
    assert page.locator(f"#{active}").get_attribute("aria-selected") == "true"
    visitor.after(lambda: page.keyboard.press("Escape"))
    assert page.get_by_text("The patch in row").count() == 0


def complaints_of_axe(visitor, **options):
    """What axe-core finds against the page once it is calm: each rule with the elements that break it."""
    from axe_playwright_python.sync_playwright import Axe

    def read():
        found = Axe().run(visitor.page, options={"resultTypes": ["violations"]} | options).response
        return {one["id"]: [node["html"][:100] for node in one["nodes"]] for one in found["violations"]}

    visitor.calm(lambda: visitor.page.evaluate(LOOKS))
    return read() and visitor.calm(read)


def test_axe_finds_nothing_against_what_is_opened_and_uploaded(visitor):
    visitor.after(lambda: visitor.page.get_by_alt_text("The image pagoda.jpg").click(force=True))
    visitor.page.get_by_text("The patch in row").wait_for()
    visitor.upload("mine.png", photograph("rocket.jpg", (90, 60)))
    visitor.page.get_by_role("button", name="Credits").click()
    visitor.page.get_by_text("Stéfan van der Walt").wait_for()
    assert complaints_of_axe(visitor) == {}
