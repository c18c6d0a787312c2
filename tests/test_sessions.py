"""Several visitors at once, who speak Streamlit's protocol: each sees its own images, and nothing fails."""

import asyncio

import pytest
from browser_visitor import started

from benchmarks.sessions import trouble, visit


@pytest.fixture(scope="module")
def running(environment, tmp_path_factory):
    """A running `cait-viz app`."""
    with started(tmp_path_factory.mktemp("app"), environment) as process:
        yield process
        assert "Traceback" not in process.log.read_text()


def test_six_visitors_at_once_see_each_their_own_images_and_what_the_network_says_of_them(
    running, bundled_engine
):
    rounds = asyncio.run(visit(running.url, sessions=6, browsers=0, rounds=2))
    assert [len(answers) for answers in rounds] == [6, 6]
    answers = [answer for each in rounds for answer in each]
    assert [told for answer in answers if (told := trouble(answer, bundled_engine))] == []
    assert len({tuple(answer.classes) for answer in answers}) == 12


def test_an_answer_about_another_image_would_be_seen(running, bundled_engine):
    [answers] = asyncio.run(visit(running.url, sessions=2, browsers=0, rounds=1))
    answers[0].content, answers[1].content = answers[1].content, answers[0].content
    assert all("another image" in trouble(answer, bundled_engine) for answer in answers)
    answers[0].content, answers[1].content = answers[1].content, answers[0].content
    answers[0].classes = answers[1].classes
    assert "in place of" in trouble(answers[0], bundled_engine)
