"""The app with many visitors: whom each waits for, and what a server lets them do."""

import re
import threading

import pytest
import streamlit as st
from app_page import (
    PUBLISHED,
    analysis_of,
    choose,
    choose_sample,
    component,
    is_usable,
    maps,
    markdown_of,
    notices,
    own_images,
    picture,
    samples,
    upload,
    upload_all,
    visit,
)

from cait_viz.api import analyze
from cait_viz.serving import state
from cait_viz.serving.engines import ModelChoice, Request

pytestmark = pytest.mark.usefixtures("counted")

PATIENCE = 120  # seconds


# --- waiting --------------------------------------------------------------------------------------------


@pytest.fixture
def spoken(monkeypatch):
    """What the page says while it waits, and what is called with each sentence."""
    said, then = [], []
    draw = st.delta_generator.DeltaGenerator.html

    def tell(self, body, **options):
        if found := re.fullmatch(r'<p class="waiting" role="status">(.*)</p>', str(body)):
            said.append(found[1])
            for function in then:
                function(found[1])
        return draw(self, body, **options)

    monkeypatch.setattr(st.delta_generator.DeltaGenerator, "html", tell)
    return said, then


def test_who_waits_is_told_how_many_are_before_while_the_others_are_served(spoken, analyzer):
    page = visit()
    said, then = spoken
    said.clear()  # what the first image waited for
    go_on, begun = threading.Event(), threading.Event()

    def hold(image, engine, *, view):
        begun.set()
        assert go_on.wait(PATIENCE)
        return analyze(image, engine, view)

    analyzer.ask(Request(picture(9), "a.png", "crop", ModelChoice("bundled"), hold, session="other"))
    assert begun.wait(PATIENCE)
    then.append(lambda text: go_on.set())
    upload(page, "mine.png", picture(1))
    assert said[0].startswith("1 image before yours, about ")
    assert analysis_of(page).image_name == "mine.png"


def test_one_visitor_is_one_session_and_another_is_another(asked):
    ours, theirs = visit(), visit()
    for number, page in enumerate((ours, theirs, ours)):
        upload(page, "mine.png", picture(number))
    sessions = [request.session for request in asked[-3:]]
    assert sessions[0] == sessions[2] != sessions[1]


def test_the_same_image_of_many_visitors_is_computed_once(asked):
    pages = [upload(visit(), "handout.png", picture(5)) for _ in range(3)]
    assert [request.image_name for request in asked] == ["pagoda.jpg", "handout.png"]
    assert all("handout.png" in maps(page)[0][0] for page in pages)


# --- several images ---------------------------------------------------------------------------------------


def names(page):
    """What the strip of the visitor's own images calls them."""
    return [option["label"] for option in own_images(page).values()]


def chosen(page):
    """What the strip calls the chosen one, or None."""
    _, data = component(page, "own")
    return (own_images(page).get(data["chosen"]) or {"label": None})["label"]


def test_of_several_images_given_at_once_the_last_is_shown_and_the_others_can_be_chosen(asked):
    page = visit()
    assert own_images(page) == {}
    upload_all(page, *((f"{number}.png", picture(number)) for number in range(3)))
    assert (names(page), chosen(page)) == (["0.png", "1.png", "2.png"], "2.png")
    assert "2.png" in maps(page)[0][0]
    choose(page, "own", next(iter(own_images(page))))
    assert "0.png" in maps(page)[0][0]
    assert chosen(page) == "0.png"
    choose_sample(page, "rocket")
    assert "rocket.jpg" in maps(page)[0][0]
    assert (len(names(page)), chosen(page)) == (3, None)
    choose(page, "own", list(own_images(page))[2])
    assert [request.image_name for request in asked] == ["pagoda.jpg", "2.png", "0.png", "rocket.jpg"]
    assert "2.png" in maps(page)[0][0]
    assert "sample" not in page.query_params


def test_an_image_that_is_given_later_is_added_and_shown_and_one_that_is_removed_is_gone():
    page = upload_all(visit(), ("a.png", picture(1)), ("b.png", picture(2)))
    upload(page, "c.png", picture(3))
    assert (names(page), chosen(page)) == (["a.png", "b.png", "c.png"], "c.png")
    page.button(key="remove").click().run()
    assert (names(page), chosen(page)) == (["a.png", "b.png"], None)
    assert "pagoda.jpg" in maps(page)[0][0]


def test_an_image_that_is_given_again_stands_once_where_it_was_given_last():
    page = upload_all(visit(), *((f"{name}.png", picture(1)) for name in "aab"))
    assert (names(page), chosen(page)) == (["a.png", "b.png"], "b.png")
    upload(page, "a.png", picture(1))
    assert (names(page), chosen(page)) == (["b.png", "a.png"], "a.png")


def test_every_image_has_a_small_picture_of_its_own_and_one_that_cannot_be_read_is_gray():
    page = upload_all(visit(), ("a.png", picture(1)), ("letter.png", b"Dear reader"), ("b.png", picture(2)))
    images = [option["image"] for option in own_images(page).values()]
    assert len(set(images)) == 3
    choose(page, "own", list(own_images(page))[1])
    assert is_usable(page)
    [sentence] = notices(page)
    assert sentence.startswith("letter.png: ")


def test_under_a_small_picture_stands_the_end_of_its_name_and_the_whole_name_is_told():
    page = upload_all(visit(), ("cup.png", picture(1)), ("IMG_20261128_0417.png", picture(2)))
    assert [option["caption"] for option in own_images(page).values()] == ["cup", "…28_0417"]
    assert [option["help"] for option in own_images(page).values()] == names(page)


def test_the_last_images_are_kept_and_of_more_it_is_said():
    page = upload_all(visit(), *((f"{number}.png", picture(number)) for number in range(30)))
    assert names(page) == [f"{number}.png" for number in range(6, 30)]
    [sentence] = notices(page)
    assert sentence.startswith("0.png and 5 more: not kept; the last 24 images are kept, of 32 MB together.")
    upload(page, "another.png", picture(99))
    assert names(page) == [*(f"{number}.png" for number in range(7, 30)), "another.png"]
    assert notices(page) == []


def test_images_of_many_megabytes_make_room_for_later_ones():
    page = visit()
    for name in "abc":
        upload(page, f"{name}.png", picture() + bytes(12 * 2**20))
    assert names(page) == ["b.png", "c.png"]
    upload(page, "d.png", picture() + bytes(40 * 2**20))
    assert names(page) == ["d.png"]


# --- what a server lets its visitors do ---------------------------------------------------------------------


def test_a_server_that_is_read_only_offers_no_download(counted):
    state.start(analyzer=counted, read_only=True)
    page = visit(model=PUBLISHED)
    assert len(samples(page)) >= 6
    assert notices(page) == [f"{PUBLISHED} is not on this server; choose another model."]
    assert not [button for button in page.button if "ownload" in button.label]
    assert not [text for text in markdown_of(page) if "on this machine" in text]
    assert page.selectbox(key="model").options[1].endswith(" · not here")
    page.selectbox(key="model").set_value("bundled").run()
    assert notices(page) == []


def test_who_gives_more_images_than_a_minute_allows_is_told_when_to_try_again(counted, asked):
    state.start(analyzer=counted, images_per_minute=2)
    page = upload_all(visit(), *((f"{number}.png", picture(number)) for number in range(4)))
    assert names(page) == ["0.png", "1.png"]
    assert "1.png" in maps(page)[0][0]
    [sentence] = notices(page)
    before, _, seconds = sentence.partition("; try again in ")
    assert before == "2.png and 1 more: this server takes 2 images a minute from a visitor"
    assert 50 < int(seconds.removesuffix(" s.")) <= 60
    upload(page, "5.png", picture(5))
    assert names(page) == ["0.png", "1.png"]
    assert "1.png" in maps(page)[0][0]
    page.text_input[0].set_value("http://images.example/cup.png").run()
    [sentence] = notices(page)
    assert sentence.startswith("cup.png: this server takes 2 images a minute")
    choose_sample(page, "rocket")
    assert "rocket.jpg" in maps(page)[0][0]
    mistyped = visit()
    for number in range(3):  # an address that fails costs as much as one that does not
        mistyped.text_input[0].set_value(f"http://127.0.0.1/{number}.png").run()
    assert notices(mistyped)[0].startswith("2.png: this server takes 2 images a minute")
    other = upload(visit(), "theirs.png", picture(7))
    assert "theirs.png" in maps(other)[0][0]
