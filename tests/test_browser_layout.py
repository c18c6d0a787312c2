"""The page's layout where a result is of an unusual size.

Needs Chromium. Without it these tests are skipped, or fail where CAIT_VIZ_REQUIRE_BROWSER=1 is set.
"""

import pytest
from browser_visitor import photograph

pytestmark = pytest.mark.browser


def test_side_by_side_a_small_image_is_drawn_as_tall_as_a_large_one(visitors):
    visitor = visitors(viewport={"width": 1440, "height": 900})
    page = visitor.page
    visitor.open_until("?question=compare", "Both as a figure")
    visitor.upload("small.png", photograph("cat.jpg", (60, 90)))
    visitor.choose("Image", "A pagoda by a lake")
    maps = page.locator(".st-key-compared img")
    small, large = (visitor.calm(maps.nth(number).bounding_box) for number in range(2))
    assert small["height"] == pytest.approx(large["height"], abs=2)
    assert small["width"] == pytest.approx(small["height"] * 60 / 90, abs=2)
    assert large["height"] > 250


def test_on_a_phone_at_twice_the_size_a_table_is_scrolled_and_not_the_page(visitors):
    visitor = visitors(viewport={"width": 195, "height": 422})
    page = visitor.page
    visitor.open_until("?question=why", "Test this map")
    visitor.after(page.get_by_role("button", name="Test this map").click)
    page.locator("table").wait_for()
    assert visitor.calm(lambda: page.locator("table").evaluate("e => e.scrollWidth > e.clientWidth"))
    assert page.locator(".stMain").evaluate("e => e.scrollWidth - e.clientWidth") <= 1
