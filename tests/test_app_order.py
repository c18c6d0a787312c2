"""In which order the app's visitors get their answers, and what they read while they wait."""

import threading
import time

import pytest
from blind_engine import Blind

from cait_viz.api import analyze
from cait_viz.errors import CaitVizError
from cait_viz.serving.engines import Analyzer, Engines, ModelChoice, Request

PATIENCE = 120  # seconds after which a test is given up
LIMIT = 10**9


@pytest.fixture
def slow():
    """What analyzes images with models that load when their event is set; and the events by name."""
    events = {name: threading.Event() for name in ("slow", "fast")}

    def load(choice):
        assert events[choice.name].wait(PATIENCE)
        return Blind()

    analyzer = Analyzer(Engines(LIMIT, load))
    yield analyzer, events
    analyzer.stop()


def test_a_model_that_takes_long_to_load_keeps_no_image_of_another_waiting(slow, photo):
    analyzer, events = slow
    events["fast"].set()
    ask = lambda name, model: analyzer.ask(Request(photo, name, "crop", ModelChoice(model), analyze))  # noqa: E731
    assert ask("1", "fast").result(PATIENCE).image_name == "1"
    waiting = ask("2", "slow")
    assert ask("3", "fast").result(PATIENCE).image_name == "3"
    assert not waiting.done()
    events["slow"].set()
    assert waiting.result(PATIENCE).image_name == "2"


def test_who_waits_is_told_for_what(slow, photo):
    analyzer, events = slow
    answers = [analyzer.ask(Request(photo, name, "crop", ModelChoice(name), analyze)) for name in events]
    while "Loading" not in answers[0].stage:
        time.sleep(0.01)
    assert "before it" in answers[1].stage
    for event in events.values():
        event.set()
    assert [answer.result(PATIENCE).image_name for answer in answers] == list(events)


def test_an_error_of_the_program_comes_as_one_sentence(photo, capsys):
    class Broken(Blind):
        def _classify(self, images):
            raise RuntimeError("first line\nsecond line")

    analyzer = Analyzer(Engines(LIMIT, lambda _: Broken()))
    with pytest.raises(CaitVizError) as caught:
        analyzer.ask(Request(photo, "photo.png", "crop", ModelChoice(), analyze)).result(PATIENCE)
    analyzer.stop()
    assert type(caught.value) is CaitVizError
    assert str(caught.value).startswith("photo.png: the model failed (RuntimeError: first line second line)")
    assert "Traceback" in capsys.readouterr().err


def test_an_image_that_nobody_waits_for_is_not_computed(slow, photo):
    analyzer, events = slow
    answers = [analyzer.ask(Request(photo, name, "crop", ModelChoice("slow"), analyze)) for name in "ab"]
    assert answers[1].cancel()
    events["slow"].set()
    assert answers[0].result(PATIENCE).image_name == "a"
    assert answers[1].cancelled()


def test_who_leaves_while_a_model_loads_leaves_nothing_in_the_queue(slow, photo):
    analyzer, events = slow
    left = analyzer.ask(Request(photo, "left", "crop", ModelChoice("slow"), analyze, session="who leaves"))
    while "Loading" not in left.stage:
        time.sleep(0.01)
    left.leave("who leaves")
    left.cancel()
    events["slow"].set()
    ask = Request(photo, "stays", "crop", ModelChoice("slow"), analyze, session="who stays")
    assert analyzer.ask(ask).result(PATIENCE).image_name == "stays"
    assert [len(worker.queue) for worker in analyzer.workers.values()] == [0, 0, 0]


@pytest.fixture
def busy(photo):
    """An analyzer that waits for an event in the middle of one image, and a function that asks for others."""
    go_on, begun, order = threading.Event(), threading.Event(), []

    def hold(image, engine, *, view):
        begun.set()
        assert go_on.wait(PATIENCE)
        return analyze(image, engine, view)

    def note(image, engine, *, view):
        order.append(image.name)
        return analyze(image, engine, view)

    analyzer = Analyzer(Engines(LIMIT, lambda _: Blind()))

    def ask(name, session, question=note):
        return analyzer.ask(Request(photo, name, "crop", ModelChoice(), question, session=session))

    ask("first", "first").result(PATIENCE)
    held = ask("held", "held", hold)
    assert begun.wait(PATIENCE)
    yield ask, go_on, order, held
    go_on.set()
    analyzer.stop()


def test_the_hundred_images_of_one_person_keep_nobody_waiting_for_more_than_one(busy):
    ask, go_on, order, _ = busy
    answers = [ask(f"{number}", "many") for number in range(100)]
    answers += [ask("mine", "me"), ask("theirs", "them")]
    go_on.set()
    for answer in answers:
        answer.result(PATIENCE)
    assert order[1:5] == ["0", "mine", "theirs", "1"]


def test_who_waits_is_told_how_many_are_before_and_about_how_long_they_take(busy):
    ask, go_on, _, held = busy
    many = [ask(f"{number}", "many") for number in range(3)]
    mine = ask("mine", "me")
    assert many[0].stage == "1 image before yours, about 1 s."
    assert mine.stage == "2 images before yours, about 1 s."
    assert many[2].stage == "4 images before yours, about 1 s."
    assert held.stage == "Looking at the image."
    many[0].leave("many")
    assert mine.stage.startswith("2 images")
    for answer in many:
        answer.leave("many")
    assert mine.stage.startswith("1 image ")
    go_on.set()
    assert mine.result(PATIENCE).image_name == "mine"
    assert [answer.done() for answer in many] == [False] * 3


def test_what_thirty_wait_for_comes_at_the_first_turn_of_any_of_them_and_stays_while_one_waits(busy):
    ask, go_on, order, _ = busy
    before = [ask(f"{number}", "many") for number in range(5)]
    shared = ask("shared", "many")
    for session in ("b", "c"):
        shared.join(session)
    for session in ("many", "b"):
        shared.leave(session)
    go_on.set()
    assert shared.result(PATIENCE).image_name == "shared"
    before[-1].result(PATIENCE)
    assert order[1:4] == ["0", "shared", "1"]


def test_a_long_question_keeps_no_image_waiting_and_ends_when_nobody_waits_for_it(photo):
    started, go_on, told = threading.Event(), threading.Event(), []

    def count(source, model, *, view, progress):
        for done in range(3):
            progress(done, 3)
            told.append(done)
            started.set()
            assert go_on.wait(PATIENCE)

    analyzer = Analyzer(Engines(LIMIT, lambda _: Blind()))
    blind = ModelChoice("blind")
    analyzer.ask(Request(photo, "first.png", "crop", blind, analyze)).result(PATIENCE)
    answer = analyzer.ask(Request(photo, "long.png", "crop", blind, count, long=True))
    assert started.wait(PATIENCE)
    assert (
        analyzer.ask(Request(photo, "b.png", "crop", blind, analyze)).result(PATIENCE).image_name == "b.png"
    )
    assert (told, answer.done(), answer.share) == ([0], False, 0.0)
    answer.leave("")
    go_on.set()
    with pytest.raises(CaitVizError, match="nobody waits"):
        answer.result(PATIENCE)
    assert told == [0]
    analyzer.stop()
