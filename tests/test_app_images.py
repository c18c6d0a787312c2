"""Images in the app: from the web, damaged, with hostile names, of several people; a process that dies."""

import html
import socket
from dataclasses import replace

import httpx2
import pytest
from app_page import (
    PUBLISHED,
    analysis_of,
    choose_sample,
    choose_tile,
    html_of,
    is_usable,
    maps,
    markdown_of,
    notices,
    picture,
    predictions,
    upload,
    visit,
)

from cait_viz.errors import ProcessDiedError
from cait_viz.serving.answers import Answer

pytestmark = pytest.mark.usefixtures("counted")


# --- an image from the web -----------------------------------------------------------------------------


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
        "question": "look", "model": "bundled", "block": "1", "head": "1", "style": "overlay", "view": "crop",
            "detail": "1",
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


def test_what_failed_at_a_web_address_is_not_told_beside_the_image_that_came_after_it(web):
    page = ask_web(visit(), "http://images.example/late.png")
    upload(page, "mine.png", picture())
    assert notices(page) == []
    assert "mine.png" in maps(page)[0][0]
    page.selectbox(key="head").set_value(1).run()
    assert notices(page) == []


def test_of_an_upload_a_web_address_and_a_sample_the_last_is_shown(web):
    web["http://images.example/web.png"] = picture(1)
    page = upload(visit(), "mine.png", picture(2))
    for change, name in [
        (lambda: ask_web(page, "http://images.example/web.png"), "web.png"),
        (lambda: upload(page, "other.png", picture(3)), "other.png"),
        (lambda: choose_sample(page, "rocket"), "rocket.jpg"),
    ]:
        change()
        assert f" {name}: " in maps(page)[0][0]
    assert page.text_input[0].value == ""


HOSTILE_NAMES = [
    "<b>bold</b><img src=x onerror=alert(1)>.png",
    "![picture](http://evil.example/x.png) **b** _i_ `c` ~~d~~.png",
    "$x^2$ :smile: :material/home: :red[red] -> www.evil.example.png",
    "# [link](http://evil.example).png",
    "&lt;b&gt; & \"quoted\" 'name'.png",
    "снимок 日本語 \u202egnp.jpg.png",
    f"{'long ' * 40}.png",
]


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
def test_a_bad_image_is_refused_in_one_sentence_and_nothing_is_lost(name, content):
    page = visit(sample="coffee")
    before = maps(page)
    upload(page, name, content)
    assert is_usable(page)
    [sentence] = notices(page)
    assert sentence.startswith(f"{name}: ")
    assert sentence.count(". ") == 1  # and one that says what is shown
    assert maps(page) == before
    choose_tile(page, 0, 1)
    assert "coffee.jpg: class-attention block 1, head 2" in maps(page)[0][0]
    choose_sample(page, "rocket")
    assert notices(page) == []
    assert "rocket.jpg" in maps(page)[0][0]


def test_a_bad_image_before_any_good_one_leaves_the_gallery(monkeypatch):
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
def test_the_name_of_an_image_is_never_read_as_markdown_or_html(name):
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
    counted.answer = Answer()
    counted.answer.set_result(replace(analysis_of(page), labels=labels))
    choose_sample(page, "coffee")
    assert all("<img" not in text for text in html_of(page))
    assert {label for label, _, _ in predictions(page)} <= set(labels)


# --- several people, and a process that dies -----------------------------------------------------------


def test_two_people_at_once_never_see_each_others_image():
    ours, theirs = visit(), visit()
    upload(ours, "same.png", picture(1, (90, 60)))
    upload(theirs, "same.png", picture(2, (60, 90)))
    choose_tile(ours, 0, 1)
    third = visit()
    assert analysis_of(ours).size == (90, 60)
    assert analysis_of(theirs).size == (60, 90)
    assert not {url for _, url in maps(ours)} & {url for _, url in maps(theirs)}
    assert all("pagoda.jpg" in alt for alt, _ in maps(third))


def test_an_image_of_another_name_is_shown_under_its_own(asked):
    upload(visit(), "mine.png", picture(1))
    page = upload(visit(), "theirs.png", picture(1))
    assert all("theirs.png" in alt for alt, _ in maps(page))


def test_when_the_model_dies_in_the_middle_the_page_says_so_and_the_next_click_works(asked, counted):
    page = visit()
    counted.answer = Answer()
    counted.answer.set_exception(ProcessDiedError("the process ended: try again"))
    choose_sample(page, "rocket")
    counted.answer = None
    assert is_usable(page)
    sentence = "the process ended: try again. Below is still the image before it."
    assert notices(page) == [sentence]
    page.slider(key="opacity").set_value(30).run()
    assert notices(page) == [sentence]
    assert len(asked) == 2, "an image that ended the process is asked for again only by its button"
    page.button(key="retry_analysis").click().run()
    assert notices(page) == []
    assert "rocket.jpg" in maps(page)[0][0]
