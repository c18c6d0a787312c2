"""The page for every reader: contrast, narrow screens, the keyboard.

Needs Chromium. Without it these tests are skipped, or fail where CAIT_VIZ_REQUIRE_BROWSER=1 is set.
"""

import pytest
from browser_visitor import MAPS, PHONE

pytestmark = pytest.mark.browser

# WCAG 2.2, success criterion 1.4.3, for text of usual size.
ENOUGH_CONTRAST = 4.5


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
