"""The address of the app's page, which names what is shown."""

import pytest
from app_page import (
    choose_sample,
    choose_tile,
    is_usable,
    maps,
    markdown_of,
    notices,
    picture,
    upload,
    visit,
)

pytestmark = pytest.mark.usefixtures("counted")


def test_the_address_holds_the_view_of_a_sample():
    page = visit()
    choose_sample(page, "rocket")
    choose_tile(page, 0, 3)
    page.button_group(key="style").set_value("paper").run()
    assert page.query_params == {
        "question": "look", "model": "bundled", "sample": "rocket",
        "block": "0", "head": "3", "style": "paper", "view": "crop", "detail": "1",
    }  # fmt: skip


def test_a_shared_address_shows_the_same_view(asked):
    first = visit()
    choose_sample(first, "rocket")
    choose_tile(first, 0, 3)
    first.button_group(key="style").set_value("map").run()
    second = visit(**first.query_params)
    assert maps(second) == maps(first)
    assert len(asked) == 2


def test_the_address_opens_on_every_part_of_a_view():
    page = visit(model="bundled", sample="photographer", block="0", head="2", style="paper", view="squash")
    assert notices(page) == []
    assert page.button_group(key="block").value == 0
    assert page.selectbox(key="head").value == 2
    assert page.button_group(key="style").value == "paper"
    assert page.button_group(key="view").value == "squash"
    assert "photographer.jpg: class-attention block 1, head 3" in maps(page)[0][0]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("block", "2"), ("block", "-1"), ("block", "٠"), ("head", "4"), ("head", "1.0"), ("head", "MEAN"),
        ("style", "neon"), ("view", "half"), ("detail", "3"),
        ("sample", "../../etc/passwd"), ("model", "resnet50"),
        ("sample", "![x](http://evil.example/x.png)"), ("model", "<script>alert(1)</script>"),
        ("head", "9" * 5000), ("question", "who"), ("patch", "1000"), ("patch", "230"), ("patch", "-1"),
    ],
)  # fmt: skip
def test_what_an_address_asks_for_in_vain_is_told_once_and_shown_as_it_is(name, value):
    page = visit(**{name: value, "style": "paper"} if name != "style" else {name: value})
    assert is_usable(page)
    [sentence] = notices(page)
    assert f"{name} {value}" in sentence or len(value) > 100
    assert len(sentence) < 400
    assert all(value not in text for text in markdown_of(page) if len(value) > 6)
    assert maps(page)[0][0].endswith("pagoda.jpg: class-attention block 2, mean of the heads.")
    page.run()
    assert notices(page) == []


def test_a_class_that_no_model_has_is_told():
    page = visit(question="why", **{"class": "1000"})
    assert "class 1000" in notices(page)[0]
    assert page.selectbox(key="class").value == "top"


def test_a_class_that_is_the_most_probable_is_chosen_as_such():
    page = visit(question="why")
    label = page.selectbox(key="class").options[0]
    index = int(page.session_state["result"].small.ranking[0])
    again = visit(question="why", **{"class": str(index)})
    assert not again.exception
    assert again.selectbox(key="class").value == "top"
    assert again.selectbox(key="class").options[0] == label


def test_an_address_that_names_a_thing_twice_is_no_trouble():
    page = visit(head=["1", "3"])
    assert is_usable(page)
    assert page.selectbox(key="head").value == 3


def test_an_address_that_says_what_is_shown_is_left_as_it_is():
    assert visit().query_params == {}
    assert visit(head="2").query_params == {"head": "2"}


def test_the_view_follows_an_address_that_changes():
    page = visit()
    choose_sample(page, "rocket")
    choose_tile(page, 0, 3)
    for address, alt in [
        (
            {"sample": "coffee", "block": "1", "head": "0", "style": "map"},
            "coffee.jpg: class-attention block 2, head 1.",
        ),
        ({}, "pagoda.jpg: class-attention block 2, mean of the heads."),
    ]:
        page.query_params.clear()
        page.query_params.update(address)
        page.run()
        assert maps(page)[0][0].endswith(alt)
        assert page.button_group(key="style").value == address.get("style", "overlay")
        assert page.query_params == address


def test_the_model_follows_an_address_that_changes():
    page = visit()
    page.query_params.update({"model": "cait_m48_448", "block": "1", "head": "15"})
    page.run()
    assert page.selectbox(key="head").value == 15
    assert any("**cait_m48_448 is not on this machine yet.**" in text.value for text in page.markdown)


def test_an_address_from_before_the_last_choice_does_not_undo_the_next_one():
    page = visit()
    old = dict(page.query_params)
    choose_tile(page, 0, 3)
    page.query_params.clear()
    page.query_params.update(old)
    page.button_group(key="style").set_value("paper").run()
    assert maps(page)[0][0].endswith("class-attention block 1, head 4.")
    assert page.query_params == {
        "question": "look", "model": "bundled", "sample": "pagoda",
        "block": "0", "head": "3", "style": "paper", "view": "crop", "detail": "1",
    }  # fmt: skip


def test_an_address_that_names_a_sample_takes_the_place_of_an_upload():
    page = visit(sample="pagoda", head="2")
    before = dict(page.query_params)
    upload(page, "mine.png", picture())
    assert "sample" not in page.query_params
    page.query_params.clear()
    page.query_params.update(before)
    page.run()
    assert maps(page)[0][0].endswith("pagoda.jpg: class-attention block 2, head 3.")
    assert page.query_params == before


def test_back_and_forward_bring_an_upload_back_but_not_one_that_was_removed():
    page = visit()
    choose_sample(page, "rocket")
    at_rocket = dict(page.query_params)
    upload(page, "mine.png", picture())
    at_mine = dict(page.query_params)

    def go(address):
        page.query_params.clear()
        page.query_params.update(address)
        page.run()
        return maps(page)[0][0]

    assert " rocket.jpg: " in go(at_rocket)
    assert " mine.png: " in go(at_mine)
    page.button(key="remove").click().run()
    assert " rocket.jpg: " in go(at_mine)
    assert is_usable(page)


def test_an_address_from_before_an_upload_does_not_take_the_next_one_away():
    page = visit(sample="pagoda", head="2")
    before = dict(page.query_params)
    upload(page, "mine.png", picture(1))
    page.query_params.clear()
    page.query_params.update(before)
    upload(page, "other.png", picture(2))
    assert maps(page)[0][0].endswith("other.png: class-attention block 2, head 3.")
    assert "sample" not in page.query_params


def test_an_upload_is_never_in_the_address_and_its_view_is_kept_on_reload():
    page = upload(visit(), "secret holiday.png", picture())
    choose_tile(page, 0, 1)
    page.button_group(key="style").set_value("map").run()
    assert page.query_params == {
        "question": "look", "model": "bundled", "block": "0", "head": "1", "style": "map", "view": "crop",
        "detail": "1",
    }  # fmt: skip
    again = visit(**page.query_params)
    assert notices(again) == []
    assert "class-attention block 1, head 2" in maps(again)[0][0]
    assert again.button_group(key="style").value == "map"
