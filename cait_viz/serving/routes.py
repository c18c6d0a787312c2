"""What the app's server answers beside the page: /health, and /metrics in Prometheus' text format."""

from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cait_viz._version import __version__
from cait_viz.errors import CaitVizError
from cait_viz.serving.state import Server, server

# The version of the text format that Prometheus asks for by default.
_TEXT = "text/plain; version=0.0.4; charset=utf-8"


def routes(base_path: str) -> list[Route]:
    """The addresses, under a base path such as "cait"; "" for none."""
    base = base_path.strip("/")
    prefix = f"/{base}" if base else ""
    return [Route(f"{prefix}/health", _health), Route(f"{prefix}/metrics", _metrics)]


def _health(_: Request) -> Response:
    return _answer(lambda: JSONResponse(health(server())))


def _metrics(_: Request) -> Response:
    return _answer(lambda: Response(metrics(server()), media_type=_TEXT))


def _answer(make: Callable[[], Response]) -> Response:
    """The answer, or 503 and the reason where a setting keeps the server from starting."""
    try:
        return make()
    except CaitVizError as error:
        return JSONResponse({"status": "failing", "reason": str(error)}, status_code=503)


def health(server: Server) -> dict[str, Any]:
    """How the server does: its sessions, queues, workers and models."""
    analyzer = server.analyzer
    return {
        "status": "ok",
        "version": __version__,
        "sessions": server.sessions,
        "queue": {name: len(worker.queue) for name, worker in analyzer.workers.items()},
        "workers": {
            name: "busy" if worker.queue.busy else "idle" for name, worker in analyzer.workers.items()
        },
        "models": [model.name for model in analyzer.engines.kept()],
    }


def metrics(server: Server) -> bytes:
    """What was counted and what is there now, in Prometheus' text format."""
    now = CollectorRegistry()
    now.register(_Now(server))
    return generate_latest(server.analyzer.measures.registry) + generate_latest(now)


class _Now(Collector):
    """What a server holds at the moment."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def collect(self) -> Iterator[Metric]:
        analyzer = self._server.analyzer
        waiting = GaugeMetricFamily("cait_viz_queue_length", "Questions that wait.", labels=["worker"])
        busy = GaugeMetricFamily("cait_viz_worker_busy", "1 while a worker works.", labels=["worker"])
        for name, worker in analyzer.workers.items():
            waiting.add_metric([name], len(worker.queue))
            busy.add_metric([name], worker.queue.busy)
        yield waiting
        yield busy
        kept = analyzer.engines.kept()
        yield GaugeMetricFamily("cait_viz_models", "Models that are kept ready.", value=len(kept))
        yield GaugeMetricFamily(
            "cait_viz_models_bytes", "Bytes of their weights.", value=sum(model.size for model in kept)
        )
        yield GaugeMetricFamily("cait_viz_sessions", "Pages that are open.", value=self._server.sessions)
