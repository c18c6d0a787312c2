"""What the server tells those who run it: how it does, what it counted, and what it allows a visitor."""

import threading

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.testclient import TestClient

import cait_viz
from cait_viz.api import analyze
from cait_viz.cli.main import main
from cait_viz.errors import ImageError, SelectionError
from cait_viz.serving import state
from cait_viz.serving.engines import Analyzer, Engines, ModelChoice, Request, load_choice
from cait_viz.serving.limits import Allowance
from cait_viz.serving.routes import routes
from cait_viz.weights.resolve import resolve

PATIENCE = 120  # seconds


@pytest.fixture
def tiny(tiny_weights):
    return ModelChoice(checkpoint=resolve(weights=tiny_weights))


@pytest.fixture
def server():
    """A server with nothing counted so far."""
    analyzer = Analyzer(Engines(10**9, load_choice))
    yield state.start(analyzer=analyzer)
    analyzer.stop()


def ask(path, base=""):
    """What a client gets at a path."""
    return TestClient(Starlette(routes=routes(base))).get(path)


def metrics():
    """The samples by name and labels."""
    answer = ask("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = text_string_to_metric_families(answer.text)
    return {
        " ".join((sample.name, *sample.labels.values())): sample.value
        for family in families
        for sample in family.samples
    }


def test_health_tells_queue_workers_models_and_sessions(server, tiny, photo):
    assert ask("/health").json() == {
        "status": "ok",
        "version": cait_viz.__version__,
        "sessions": 0,
        "queue": {"loading": 0, "looking": 0, "measuring": 0},
        "workers": {"loading": "idle", "looking": "idle", "measuring": "idle"},
        "models": [],
    }
    begun, go_on = threading.Event(), threading.Event()

    def hold(image, engine, *, view):
        begun.set()
        assert go_on.wait(PATIENCE)
        return analyze(image, engine, view)

    held = server.analyzer.ask(Request(photo, "a.png", "crop", tiny, hold))
    assert begun.wait(PATIENCE)
    waiting = [server.analyzer.ask(Request(photo, "b.png", "crop", tiny, analyze)) for _ in range(3)]
    server.count_session(1)
    now = ask("/health").json()
    assert now["queue"] == {"loading": 0, "looking": 3, "measuring": 0}
    assert now["workers"] == {"loading": "idle", "looking": "busy", "measuring": "idle"}
    assert (now["models"], now["sessions"]) == (["tiny"], 1)
    counted = metrics()
    assert counted["cait_viz_queue_length looking"] == 3
    assert counted["cait_viz_worker_busy looking"] == 1
    assert counted["cait_viz_sessions"] == 1
    go_on.set()
    for answer in (held, *waiting):
        answer.result(PATIENCE)


def test_the_metrics_count_images_answers_errors_and_how_long_they_waited(server, tiny, photo):
    def another(image, engine, *, view):
        return analyze(image, engine, view)

    for question in (analyze, analyze, another):
        server.analyzer.ask(Request(photo, "a.png", "crop", tiny, question)).result(PATIENCE)
    with pytest.raises(ImageError):
        server.analyzer.ask(Request(b"no image", "b.png", "crop", tiny, analyze)).result(PATIENCE)
    with pytest.raises(cait_viz.errors.UnknownModelError):
        server.analyzer.ask(Request(photo, "a.png", "crop", ModelChoice("no model"), analyze)).result(
            PATIENCE
        )
    counted = metrics()
    assert counted["cait_viz_images_total"] == 2
    assert counted["cait_viz_answers_total looking"] == 3
    assert counted["cait_viz_errors_total ImageError"] == 1
    assert counted["cait_viz_errors_total UnknownModelError"] == 1
    assert counted["cait_viz_waiting_seconds_count looking"] == 4
    assert counted["cait_viz_waiting_seconds_bucket +Inf looking"] == 4
    assert counted["cait_viz_models"] == 1
    assert 10**5 < counted["cait_viz_models_bytes"] < 10**7


def test_a_question_that_was_given_up_is_no_error(server, tiny, photo):
    begun, go_on = threading.Event(), threading.Event()

    def count(image, engine, *, view, progress):
        begun.set()
        assert go_on.wait(PATIENCE)
        progress(1, 2)

    answer = server.analyzer.ask(Request(photo, "a.png", "crop", tiny, count, long=True))
    assert begun.wait(PATIENCE)
    answer.leave("")
    go_on.set()
    with pytest.raises(cait_viz.errors.CaitVizError):
        answer.result(PATIENCE)
    assert not [name for name, value in metrics().items() if name.startswith("cait_viz_errors") and value]


def test_the_routes_stand_under_the_base_path_alone(server):
    for base in ("cait", "/cait/"):
        assert ask("/cait/health", base).status_code == ask("/cait/metrics", base).status_code == 200
        assert ask("/health", base).status_code == 404


def test_a_server_with_a_setting_that_cannot_be_used_says_so(monkeypatch):
    monkeypatch.setenv(state.MEMORY_SETTING, "much")
    with pytest.raises(SelectionError):
        state.start()
    for address in ("/health", "/metrics"):
        answer = ask(address)
        assert answer.status_code == 503
        assert state.MEMORY_SETTING in answer.json()["reason"]


def test_the_app_command_hands_on_what_visitors_may_do(monkeypatch):
    started = []
    monkeypatch.setattr("runpy.run_module", lambda *_, **__: started.append(state.server()))
    assert main(["app", "--read-only", "--images-per-minute", "5"]) == 0
    assert main(["app"]) == 0
    assert [(server.read_only, server.images_per_minute) for server in started] == [(True, 5), (False, None)]
    assert main(["app", "--images-per-minute", "0"]) == 2
    for server in started:
        server.analyzer.stop()


def test_so_many_images_are_allowed_in_any_minute():
    now = [0.0]
    allowance = Allowance(2, lambda: now[0])
    given = []
    for second in range(200):
        now[0] = float(second)
        given += [second] * allowance.take()
    assert given == [0, 1, 60, 61, 120, 121, 180, 181]
    assert allowance.wait == 240 - 199
    assert allowance.refusal.endswith("takes 2 images a minute from a visitor; try again in 41 s")
    assert all(Allowance(None).take() for _ in range(1000))
