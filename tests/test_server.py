"""What the app's server holds: the results it keeps, its settings, and how it starts."""

import sys
import threading
import tomllib
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cait_viz._resources import APP
from cait_viz.errors import SelectionError
from cait_viz.serving import models as offers
from cait_viz.serving import state as server
from cait_viz.serving.state import Analyses, AnalysisCache
from cait_viz.weights import resolve as checkpoints
from cait_viz.weights.registry import VARIANTS

CONFIG = tomllib.loads((APP.parent / ".streamlit" / "config.toml").read_text(encoding="utf-8"))


@dataclass(eq=False)
class Result:
    """As much of an `Analysis` as the cache looks at."""

    nbytes: int


# --- the results that are kept ------------------------------------------------------------------------


def test_a_result_is_found_under_its_key_and_under_no_other():
    cache, result = AnalysisCache(), Result(10)
    cache.put(("picture", "crop"), result)
    assert cache.get(("picture", "crop")) is result
    assert cache.get(("picture", "whole")) is None


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 60)), max_size=60))
def test_the_cache_never_holds_more_entries_or_bytes_than_it_may(puts):
    cache = AnalysisCache(entries=4, size=100)
    for key, size in puts:
        cache.put(key, Result(size))
        kept = [result for key in range(10) if (result := cache.get(key))]
        assert len(kept) <= 4
        assert sum(result.nbytes for result in kept) <= 100


def test_what_was_not_asked_for_the_longest_makes_room_first():
    cache = AnalysisCache(entries=2, size=100)
    cache.put("old", Result(1))
    cache.put("older", Result(1))
    cache.get("old")
    cache.put("new", Result(1))
    assert cache.get("old")
    assert cache.get("older") is None


def test_a_result_larger_than_the_cache_is_not_kept_and_drives_nothing_out():
    cache = AnalysisCache(entries=2, size=100)
    cache.put("small", Result(50))
    cache.put("large", Result(101))
    assert cache.get("large") is None
    assert cache.get("small")


def test_a_key_put_twice_holds_the_latter_and_counts_once():
    cache, latter = AnalysisCache(entries=2, size=100), Result(70)
    cache.put("other", Result(20))
    cache.put("key", Result(60))
    cache.put("key", latter)
    assert cache.get("key") is latter
    assert cache.get("other")


def test_threads_that_put_and_get_at_once_do_each_other_no_harm():
    cache, failures = AnalysisCache(entries=3, size=50), []

    def work(number):
        try:
            for step in range(500):
                cache.put((number * step) % 7, Result(step % 40 + 1))
                cache.get(step % 7)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


# --- settings -----------------------------------------------------------------------------------------


def made_workers(monkeypatch):
    """What `server.workers` makes of the environment, without a process."""
    made = []
    monkeypatch.setattr(server, "Workers", lambda **options: made.append(options) or options)
    server._workers.__wrapped__()
    return made[0]


def test_one_worker_with_one_model_is_the_default(monkeypatch):
    monkeypatch.delenv(server.WORKERS_SETTING, raising=False)
    monkeypatch.delenv(server.MODELS_SETTING, raising=False)
    options = made_workers(monkeypatch)
    assert (options["count"], options["models_each"]) == (1, 1)


def test_more_workers_and_models_are_one_setting_each(monkeypatch):
    monkeypatch.setenv(server.WORKERS_SETTING, "3")
    monkeypatch.setenv(server.MODELS_SETTING, "2")
    options = made_workers(monkeypatch)
    assert (options["count"], options["models_each"]) == (3, 2)


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", "", " 2", "٣", "²"])
@pytest.mark.parametrize("setting", [server.WORKERS_SETTING, server.MODELS_SETTING])
def test_a_setting_without_a_sensible_value_is_refused_by_name_with_the_value(monkeypatch, setting, value):
    monkeypatch.setenv(setting, value)
    with pytest.raises(SelectionError, match=setting) as caught:
        made_workers(monkeypatch)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize(("here", "speaks"), [(True, "cait_xxs24_224"), (False, "bundled")])
def test_the_published_model_speaks_first_where_it_is_on_the_machine(monkeypatch, here, speaks):
    monkeypatch.setattr(server, "locate", lambda variant: Path("weights") if here else None)
    assert server.first_model.__wrapped__() == speaks


# --- a model of one's own -----------------------------------------------------------------------------


@pytest.fixture
def mine(tiny_weights):
    return offers.own(checkpoints.resolve(weights=tiny_weights))


def test_the_registry_is_offered_and_nothing_else_where_nobody_gave_a_model_of_their_own():
    assert list(server.models()) == list(VARIANTS)
    assert all(name == offer.name for name, offer in server.models().items())


def test_a_model_of_ones_own_is_offered_first_speaks_first_and_is_warmed_up(monkeypatch, mine):
    monkeypatch.setattr(server, "_own", None)
    monkeypatch.setattr(server, "workers", lambda: None)
    monkeypatch.setattr(server.runpy, "run_module", lambda *_, **__: None)
    monkeypatch.setattr(sys, "argv", ["cait-viz", "app"])
    server.launch([], mine)
    assert list(server.models()) == ["tiny", *VARIANTS]
    assert server.models()["tiny"] is mine
    assert server.first_model.__wrapped__() == "tiny"
    monkeypatch.setattr(server, "first_model", server.first_model.__wrapped__)
    assert made_workers(monkeypatch)["first"] == mine.choice


# --- the start ----------------------------------------------------------------------------------------


def test_the_workers_start_before_the_pages_are_served_and_the_options_are_handed_on(monkeypatch):
    happened = []
    monkeypatch.setattr(sys, "argv", ["cait-viz", "app"])
    monkeypatch.setattr(server, "workers", lambda: happened.append("workers"))
    monkeypatch.setattr(
        server.runpy, "run_module", lambda name, **_: happened.append((name, list(sys.argv[1:])))
    )
    server.launch(["--server.port=1234"])
    assert happened[0] == "workers"
    module, arguments = happened[1]
    assert module == "streamlit"
    assert arguments[:2] == ["run", str(APP)]
    assert arguments[-1] == "--server.port=1234"


def test_uploads_are_limited_and_guarded_and_nothing_is_reported_anywhere():
    assert CONFIG["server"]["maxUploadSize"] == 20
    assert CONFIG["server"]["enableXsrfProtection"] is True
    assert CONFIG["browser"]["gatherUsageStats"] is False


def test_the_page_has_a_theme_of_its_own_for_light_and_for_dark():
    for scheme in ("light", "dark"):
        assert {"primaryColor", "backgroundColor", "textColor"} <= CONFIG["theme"][scheme].keys()


def test_an_error_of_the_program_shows_no_traceback_in_the_page():
    assert CONFIG["client"]["showErrorDetails"] == "none"


def test_the_samples_are_read_once(tmp_path):
    path = tmp_path / "sample.jpg"
    path.write_bytes(b"first")
    assert server.sample_bytes(path) == b"first"
    path.write_bytes(b"second")
    assert server.sample_bytes(path) == b"first"


# --- one analysis for all who ask ----------------------------------------------------------------------


class Slow:
    """Workers that answer when they are told to."""

    def __init__(self):
        self.answers = []

    def analyze(self, request):
        self.answers.append(Future())
        return self.answers[-1]


def test_a_picture_that_is_on_its_way_is_not_asked_for_again():
    workers = Slow()
    analyses = Analyses(lambda: workers)
    first, second = analyses.ask("key", None), analyses.ask("key", None)
    assert len(workers.answers) == 1
    workers.answers[0].set_result(Result(1))
    assert first.result() is second.result() is analyses.ask("key", None).result()
    assert len(workers.answers) == 1


def test_a_picture_that_failed_is_asked_for_again():
    workers = Slow()
    analyses = Analyses(lambda: workers)
    answer = analyses.ask("key", None)
    workers.answers[0].set_exception(SelectionError("no"))
    with pytest.raises(SelectionError):
        answer.result()
    analyses.ask("key", None)
    assert len(workers.answers) == 2
