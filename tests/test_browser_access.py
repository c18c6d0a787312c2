"""The page for every reader: contrast, narrow screens, the keyboard.

Needs Chromium. Without it these tests are skipped, or fail where CAIT_VIZ_REQUIRE_BROWSER=1 is set.
"""

import pytest
from browser_visitor import MAPS, PHONE, photograph

pytestmark = pytest.mark.browser

# WCAG 2.2, success criterion 1.4.3, for text of usual size.
ENOUGH_CONTRAST = 4.5


# The contrast of a text with what lies behind it, colors and opacities of all elements around it composed.
CONTRAST = """element => {
  const parse = text => {
    const numbers = text.match(/[\\d.]+/g).map(Number);
    return text.startsWith('color(srgb') ? [...numbers.slice(0, 3).map(v => 255 * v), numbers[3] ?? 1]
      : [...numbers.slice(0, 3), numbers[3] ?? 1];
  };
  const over = (top, bottom) => top.slice(0, 3).map((v, i) => v * top[3] + bottom[i] * (1 - top[3]));
  const line = [];
  for (let e = element; e; e = e.parentElement ?? e.getRootNode().host) line.unshift(getComputedStyle(e));
  let behind = [255, 255, 255], opacity = 1;
  for (const style of line) {
    opacity *= Number(style.opacity);
    const color = parse(style.backgroundColor);
    behind = over([...color.slice(0, 3), color[3] * opacity], behind);
  }
  const color = parse(getComputedStyle(element).color);
  const text = over([...color.slice(0, 3), color[3] * opacity], behind);
  const luminance = rgb => rgb.map(v => v / 255)
    .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const [dark, light] = [luminance(text), luminance(behind)].sort((a, b) => a - b);
  return (light + .05) / (dark + .05);
}"""

TEXTS = {
    "a button": "[data-testid=stBaseButton-secondary] p",
    "the name of an image": ".caption",
    "what is said of it": ".note",
    "a chosen option": "[role=radio][aria-checked=true] p",
    "another option": "[role=radio][aria-checked=false] p",
    "small print": "[data-testid=stCaptionContainer] p",
    "small print in the sidebar": "[data-testid=stSidebar] [data-testid=stCaptionContainer] p",
    "a label": "[data-testid=stWidgetLabel] p",
    "a heading": "h2",
    "a prediction": ".predictions span",
    "a link": "[data-testid=stMarkdownContainer] p a",
    "a notice": ".notice",
}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read_in_light_and_in_dark(visitors, scheme):
    visitor = visitors(color_scheme=scheme).open("?head=9")
    for selector in TEXTS.values():
        visitor.page.locator(selector).first.wait_for(state="attached")
    contrasts = {
        what: min(visitor.page.locator(selector).evaluate_all(f"texts => texts.map({CONTRAST})"))
        for what, selector in TEXTS.items()
    }
    assert {what: round(found, 2) for what, found in contrasts.items() if found < ENOUGH_CONTRAST} == {}


# What scrolls sideways or is cut at its right end; a field's own text may be longer than the field.
TOO_WIDE = """() => [...document.querySelectorAll('html, [data-testid^=stMain], .block-container *')]
  .filter(e => e.scrollWidth > e.clientWidth + 1 && e.clientWidth > 2 && !e.closest('svg, input')
    && getComputedStyle(e).display !== 'inline')
  .map(e => e.outerHTML.slice(0, 120))"""


@pytest.mark.parametrize("size", [(1440, 900), (1280, 800), (820, 1180), (390, 844)])
@pytest.mark.parametrize("zoom", [1, 2])
def test_nothing_scrolls_sideways_and_no_text_is_cut(visitors, size, zoom):
    width, height = (side // zoom for side in size)
    visitor = visitors(viewport={"width": width, "height": height}).open(f"?sample={'x' * 60}")
    assert visitor.calm(lambda: visitor.page.evaluate(TOO_WIDE)) == []


# What stands at the end of each of the views beyond the paper.
LAST = {
    "path": "The numbers (NPZ)",
    "why": "Re-initialize it part by part",
    "compare": "Both as a figure (PNG)",
}


@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize("question", LAST)
def test_the_views_past_the_paper_fit_and_axe_finds_nothing_against_them(visitors, question, width):
    scheme = {1440: "light", 390: "dark"}[width]
    visitor = visitors(color_scheme=scheme, viewport={"width": width, "height": 844})
    visitor.page.goto(f"{visitor.url}/?question={question}")
    visitor.page.get_by_role("button", name=LAST[question]).wait_for()
    visitor.rest()
    assert visitor.calm(lambda: visitor.page.evaluate(TOO_WIDE)) == []
    assert visitor.calm(lambda: complaints_of_axe(visitor.page)) == {}


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


def complaints_of_axe(page):
    """What axe-core finds against the page: each rule with the elements that break it."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return {one["id"]: [node["html"][:100] for node in one["nodes"]] for one in found}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [(1440, 900), (390, 844)])
def test_axe_finds_nothing_against_the_page(visitors, size, scheme):
    visitor = visitors(color_scheme=scheme, viewport=dict(zip(("width", "height"), size, strict=True)))
    visitor.open("?head=9")  # which is told in a notice
    visitor.after(lambda: visitor.page.get_by_alt_text("The image pagoda.jpg").click(force=True))
    visitor.page.get_by_text("The patch in row").wait_for()
    assert visitor.calm(lambda: complaints_of_axe(visitor.page)) == {}
    visitor.upload("mine.png", photograph("rocket.jpg", (90, 60)))
    visitor.page.get_by_role("button", name="Credits").click()
    visitor.page.get_by_text("Stéfan van der Walt").wait_for()
    assert visitor.calm(lambda: complaints_of_axe(visitor.page)) == {}
