"""The app with many visitors: whom each waits for, and what a server lets them do."""

import threading

import pytest
import streamlit as st
from app_page import analysis_of, picture, upload, visit

from cait_viz.api import analyze
from cait_viz.serving.engines import ModelChoice, Request

pytestmark = pytest.mark.usefixtures("counted")

PATIENCE = 120  # seconds


# --- waiting --------------------------------------------------------------------------------------------


@pytest.fixture
def spoken(monkeypatch):
    """What the page says while it waits, and what is called with each sentence."""
    said, then = [], []
    spinner = st.spinner

    def tell(text, **options):
        said.append(text)
        for function in then:
            function(text)
        return spinner(text, **options)

    monkeypatch.setattr(st, "spinner", tell)
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
