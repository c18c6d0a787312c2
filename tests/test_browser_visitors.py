"""The app with several images, and behind a reverse proxy under a path of its own, in a browser."""

import json
import time
import urllib.error
import urllib.request
from base64 import b64encode
from urllib.parse import urlsplit

import pytest
from browser_visitor import PHONE, Visitor, photograph, started
from reverse_proxy import reverse_proxy

pytestmark = pytest.mark.browser


def give(visitor, *names):
    """Give several images at once, of these names."""
    files = [
        {
            "name": name,
            "mimeType": "image/png",
            "buffer": photograph("dahlia.jpg", (90 + 3 * number, 60)),
        }
        for number, name in enumerate(names)
    ]
    visitor.after(lambda: visitor.page.locator("input[type=file]").set_input_files(files))


def read(url):
    with urllib.request.urlopen(url, timeout=30) as answer:
        return answer.read().decode()


# --- several images ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"viewport": PHONE}], ids=["wide", "phone"])
def test_several_images_are_a_row_of_which_the_newest_is_chosen_and_in_sight(visitors, options):
    visitor = visitors(**options).open()
    give(visitor, *(f"{number}.png" for number in range(20)))
    row = visitor.page.get_by_role("radiogroup", name="Your image")
    newest = row.get_by_role("radio", name="19.png", exact=True)
    assert newest.is_checked()
    assert visitor.maps[0].startswith("Where bundled looked in 19.png")
    box = visitor.calm(row.locator("label", has=visitor.page.get_by_alt_text("Your image 20")).bounding_box)
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= visitor.page.viewport_size["width"]
    assert visitor.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    newest.focus()
    visitor.after(lambda: newest.press("ArrowLeft"))
    assert visitor.maps[0].startswith("Where bundled looked in 18.png")
    assert row.get_by_role("radio", name="18.png", exact=True).is_checked()


def test_several_images_are_dropped_and_the_server_keeps_no_second_copy(app, visitors):
    visitor = visitors().open()
    # As a browser tells the page of files that are dropped on it.
    drop = """files => {
        const carried = new DataTransfer();
        files.forEach((file, number) => {
            const bytes = Uint8Array.from(atob(file), one => one.charCodeAt(0));
            carried.items.add(new File([bytes], `${number}.png`, { type: "image/png" }));
        });
        document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: carried, bubbles: true }));
    }"""
    files = [b64encode(photograph("rocket.jpg", (60 + size, 60))).decode() for size in range(2)]
    visitor.after(lambda: visitor.page.evaluate(drop, files))
    row = visitor.page.get_by_role("radiogroup", name="Your image")
    row.get_by_role("radio", name="1.png", exact=True).wait_for(state="attached")
    assert row.get_by_role("radio").count() == 2
    assert "UploadedFileManager" not in read(f"{app.url}/_stcore/metrics")


# --- sessions -----------------------------------------------------------------------------------------------


def test_the_page_is_counted_as_a_session_until_it_is_closed(app, visitors):
    sessions(app, 0)  # those of other tests have ended
    visitor = visitors().open()
    sessions(app, 1)
    assert "cait_viz_sessions 1.0" in read(f"{app.url}/metrics")
    visitor.page.close()
    sessions(app, 0)


def sessions(app, number):
    """Wait until the server has so many."""
    while json.loads(read(f"{app.url}/health"))["sessions"] != number:
        time.sleep(0.05)


# --- behind a reverse proxy ---------------------------------------------------------------------------------


def test_under_a_path_behind_a_reverse_proxy_everything_works(browser, environment, tmp_path):
    with started(tmp_path, environment, "--read-only", base="/cait") as process:
        behind = process.url.removesuffix("/cait")
        with reverse_proxy(behind, "/cait") as url:
            visitor = Visitor(browser, url).open("?sample=coffee&head=2")
            assert visitor.maps[0].endswith("in coffee.jpg: class-attention block 2, head 3.")
            give(visitor, "a.png", "b.png")
            assert visitor.maps[0].startswith("Where bundled looked in b.png")
            name, content = visitor.download("This map (PNG)")
            assert name.startswith("b_")
            assert content.startswith(b"\x89PNG")
            visitor.take_head(0, 1)
            address = urlsplit(visitor.page.url)
            assert address.path == "/cait/"
            assert "head=1" in address.query
            visitor.take_sample("rocket")
            visitor.after(visitor.page.go_back)
            assert visitor.maps[0].startswith("Where bundled looked in b.png")
            assert json.loads(read(f"{url}/health"))["status"] == "ok"
            assert "cait_viz_images_total" in read(f"{url}/metrics")
            assert (visitor.notices, visitor.complaints, visitor.outside) == ([], [], [])
            visitor.context.close()
            with pytest.raises(urllib.error.HTTPError):
                read(f"{behind}/health")
        assert "Traceback" not in process.log.read_text()
