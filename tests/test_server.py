"""What the app's server holds: the results it keeps, its models and settings, and how it starts."""

import gc
import tomllib
import weakref
from dataclasses import dataclass

import pytest
from reference import lively_weights, timm_shapes
from safetensors.numpy import save_file

from cait_viz._resources import APP
from cait_viz.api import analyze
from cait_viz.errors import SelectionError
from cait_viz.serving import state
from cait_viz.serving.answers import Answer
from cait_viz.serving.engines import ModelChoice, Request
from cait_viz.serving.models import user_model
from cait_viz.serving.state import Answers, Server
from cait_viz.weights import resolve as checkpoints
from cait_viz.weights.registry import BUNDLED, VARIANTS, get_variant

CONFIG = tomllib.loads((APP.parent / ".streamlit" / "config.toml").read_text(encoding="utf-8"))


@dataclass(eq=False)
class Result:
    """As much of an `Analysis` as the server looks at."""

    nbytes: int


ASKED = Request(b"", "photo.png", "crop", ModelChoice(), analyze)


class Answering:
    """An analyzer whose answer to a request is that request, at once."""

    def __init__(self):
        self.asked = []

    def ask(self, request):
        self.asked.append(request)
        answer = Answer()
        answer.set_result(request)
        return answer


class Slow:
    """An analyzer that answers when it is told to."""

    def __init__(self):
        self.answers = []

    def ask(self, request):
        self.answers.append(Answer())
        return self.answers[-1]


# --- the results that are kept ------------------------------------------------------------------------


def ask_in_turn(keys_and_sizes, **limits):
    """Ask for results of these sizes; gives the keys of those that were made."""
    analyzer, made = Answering(), []
    answers = Answers(analyzer, **limits)
    for key, size in keys_and_sizes:
        before = len(analyzer.asked)
        answers.ask(key, Result(size)).result()
        made += [key] * (len(analyzer.asked) - before)
    return made


def test_a_result_is_made_once_for_its_key_and_is_no_other_keys():
    answers, first, second = Answers(Answering()), Result(10), Result(10)
    assert answers.ask(("image", "crop"), first).result() is first
    assert answers.ask(("image", "whole"), second).result() is second
    assert answers.ask(("image", "crop"), second).result() is first


@pytest.mark.parametrize(
    ("sizes", "limits"),
    [((1, 1, 1), {"entries": 2, "size": 100}), ((40, 40, 40), {"entries": 9, "size": 100})],
    ids=["entries", "bytes"],
)
def test_what_was_not_asked_for_the_longest_makes_room(sizes, limits):
    a, b, c = (("a", sizes[0]), ("b", sizes[1]), ("c", sizes[2]))
    assert ask_in_turn([a, b, a, c, a, b], **limits) == ["a", "b", "c", "b"]


def test_a_result_larger_than_all_the_room_is_not_kept_and_drives_nothing_out():
    asked = [("small", 50), ("large", 101), ("small", 50), ("large", 101)]
    assert ask_in_turn(asked, entries=2, size=100) == ["small", "large", "large"]


def test_an_image_that_is_on_its_way_is_not_asked_for_again():
    analyzer = Slow()
    answers = Answers(analyzer)
    first, second = answers.ask("key", ASKED), answers.ask("key", ASKED)
    assert len(analyzer.answers) == 1
    analyzer.answers[0].set_result(Result(1))
    assert first.result() is second.result() is answers.ask("key", ASKED).result()
    assert len(analyzer.answers) == 1


def test_an_image_that_failed_is_asked_for_again():
    analyzer = Slow()
    answers = Answers(analyzer)
    answer = answers.ask("key", ASKED)
    analyzer.answers[0].set_exception(SelectionError("no"))
    with pytest.raises(SelectionError):
        answer.result()
    answers.ask("key", ASKED)
    assert len(analyzer.answers) == 2


def test_an_image_that_nobody_waits_for_any_longer_is_cancelled_and_may_be_asked_for_again():
    analyzer = Slow()
    answers = Answers(analyzer)
    first, second = answers.ask("key", ASKED), answers.ask("key", ASKED)
    answers.leave(first)
    assert not analyzer.answers[0].cancelled()
    answers.leave(second)
    assert analyzer.answers[0].cancelled()
    again = answers.ask("key", ASKED)
    analyzer.answers[1].set_result(Result(1))
    answers.leave(again)
    assert again.result() is answers.ask("key", ASKED).result()


def test_an_image_that_was_answered_is_held_no_longer_than_its_result_is_kept():
    answers, given = Answers(Answering(), entries=1, size=100), []
    for key in "abc":
        answer = answers.ask(key, Result(10))
        answer.result()
        answers.leave(answer)
        given.append(weakref.ref(answer))
        del answer
    gc.collect()
    assert [answer() for answer in given] == [None, None, None]


# --- settings -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["-1", "two", "1.5", "", " 2", "٣", "²"])
def test_a_setting_without_a_sensible_value_is_refused_by_name_with_the_value(monkeypatch, value):
    monkeypatch.setenv(state.MEMORY_SETTING, value)
    with pytest.raises(SelectionError, match=state.MEMORY_SETTING) as caught:
        Server()
    assert repr(value) in str(caught.value)


# --- the models ---------------------------------------------------------------------------------------


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """An empty cache of the hub."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def put_into(cache, variant):
    """Weights of a published model, as the hub's library leaves them in its cache."""
    folder = cache / f"models--{variant.repo_id.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    (folder / "snapshots" / ("0" * 40)).mkdir(parents=True)
    weights = lively_weights(timm_shapes(variant.config))
    save_file(weights, folder / "snapshots" / ("0" * 40) / "model.safetensors")


def test_the_registry_is_listed_and_the_bundled_model_comes_first_where_no_other_is_here(hub_cache):
    server = Server(analyzer=Answering())
    assert list(server.models) == list(VARIANTS)
    assert server.first_model == BUNDLED.name
    missing = [name for name, model in server.models.items() if server.missing(model)]
    assert missing == [name for name in VARIANTS if name != BUNDLED.name]


def test_the_app_opens_on_the_published_model_where_it_is_on_the_machine(hub_cache):
    put_into(hub_cache, get_variant("cait_xxs24_224"))
    server = Server(analyzer=Answering())
    assert server.first_model == "cait_xxs24_224"
    assert server.missing(server.models["cait_xxs24_224"]) is None


def test_a_users_own_model_is_listed_first_and_opened_on_and_never_missing(tiny_weights):
    mine = user_model(checkpoints.resolve(weights=tiny_weights))
    server = Server(mine, analyzer=Answering())
    assert list(server.models) == ["tiny", *VARIANTS]
    assert server.models["tiny"] is mine
    assert server.first_model == "tiny"
    assert server.missing(mine) is None


# --- the start ----------------------------------------------------------------------------------------


def test_a_setting_that_is_refused_is_refused_before_any_page_is_served(monkeypatch):
    monkeypatch.setenv(state.MEMORY_SETTING, "none")
    monkeypatch.setattr("runpy.run_module", lambda *_, **__: pytest.fail("Streamlit was started"))
    with pytest.raises(SelectionError, match=state.MEMORY_SETTING):
        state.launch()


def test_uploads_are_limited_and_guarded_and_nothing_is_reported_anywhere():
    assert CONFIG["server"]["maxUploadSize"] == 20
    assert CONFIG["server"]["enableXsrfProtection"] is True
    assert CONFIG["browser"]["gatherUsageStats"] is False


def test_a_run_of_one_visitor_collects_no_garbage_of_all_others():
    assert CONFIG["runner"]["postScriptGC"] is False


def test_the_page_has_a_theme_of_its_own_for_light_and_for_dark():
    for scheme in ("light", "dark"):
        assert {"primaryColor", "backgroundColor", "textColor"} <= CONFIG["theme"][scheme].keys()


def test_an_error_of_the_program_shows_no_traceback_in_the_page():
    assert CONFIG["client"]["showErrorDetails"] == "none"
