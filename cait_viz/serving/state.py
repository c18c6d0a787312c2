"""What the web app's server holds for all its visitors: the workers, results and the models offered.

Streamlit-free and Keras-free; `launch` runs the app as `streamlit run` would, after the workers have
been started.
"""

import os
import runpy
import sys
import threading
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from functools import lru_cache
from pathlib import Path

from cachetools import LRUCache

from cait_viz._resources import APP
from cait_viz.analysis import Analysis
from cait_viz.errors import SelectionError
from cait_viz.serving.models import AvailableModel, published
from cait_viz.serving.worker import Request, Workers
from cait_viz.weights.registry import BUNDLED, VARIANTS, get_variant
from cait_viz.weights.resolve import locate

# How many worker processes serve the pictures. Each holds TensorFlow and a model of its own.
WORKERS_SETTING = "CAIT_VIZ_WORKERS"
# How many models each worker keeps.
MODELS_SETTING = "CAIT_VIZ_MODELS_PER_WORKER"

# The published model that speaks first where its weights are already on the machine.
_PREFERRED = "cait_xxs24_224"

_CACHE_ENTRIES = 16
_CACHE_BYTES = 128 * 2**20


class AnalysisCache:
    """The latest results, bounded in entries and in bytes; safe for several threads.

    Args:
        entries: how many results at most.
        size: how many bytes of arrays they hold together at most; a larger result is not kept.
    """

    def __init__(self, entries: int = _CACHE_ENTRIES, size: int = _CACHE_BYTES) -> None:
        self._entries = entries
        self._results: LRUCache[Hashable, Analysis] = LRUCache(size, getsizeof=lambda result: result.nbytes)
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> Analysis | None:
        """The result kept under `key`, if it still is."""
        with self._lock:
            return self._results.get(key)

    def put(self, key: Hashable, result: Analysis) -> None:
        """Keep a result, and drop those longest unused where there is no room."""
        with self._lock:
            if result.nbytes > self._results.maxsize:
                return
            while len(self._results) >= self._entries and key not in self._results:
                self._results.popitem()
            self._results[key] = result


class Analyses:
    """Analyses every picture once, however often and by whomever it is asked for; safe for several threads.

    Args:
        workers: gives the processes that do it.
    """

    def __init__(self, workers: Callable[[], Workers]) -> None:
        self._workers = workers
        self._cache = AnalysisCache()
        self._pending: dict[Hashable, Future[Analysis]] = {}
        self._lock = threading.Lock()

    def ask(self, key: Hashable, request: Request) -> "Future[Analysis]":
        """The analysis of a picture: kept from before, on its way, or asked of a worker now.

        Args:
            key: what tells the picture, its name, the view and the model from all others.
            request: what to ask for; not kept.
        """
        with self._lock:
            if key in self._pending:
                return self._pending[key]
            kept = self._cache.get(key)
            if kept is not None:
                answer: Future[Analysis] = Future()
                answer.set_result(kept)
                return answer
            answer = self._pending[key] = self._workers().analyze(request)
        answer.add_done_callback(lambda done: self._settle(key, done))
        return answer

    def _settle(self, key: Hashable, done: "Future[Analysis]") -> None:
        with self._lock:
            del self._pending[key]
            if done.exception() is None:
                self._cache.put(key, done.result())


_starting = threading.Lock()
# Held over a download: two at once of the same file would take each other's for left-overs.
fetching = threading.Lock()


def workers() -> Workers:
    """The workers, started with the first call.

    Raises:
        SelectionError: a setting in the environment has no sensible value.
    """
    with _starting:  # two first visitors at once would start them twice
        return _workers()


@lru_cache(maxsize=1)
def _workers() -> Workers:
    return Workers(
        count=_setting(WORKERS_SETTING),
        models_each=_setting(MODELS_SETTING),
        first=models()[first_model()].choice,
    )


analyses = Analyses(workers)

# The model of the person who started the app, if they gave one.
_own: AvailableModel | None = None


def models() -> dict[str, AvailableModel]:
    """The models that a visitor may choose, by name: that of the person who started the app comes first."""
    offers = (published(variant) for variant in VARIANTS.values())
    return {offer.name: offer for offer in (_own, *offers) if offer is not None}


@lru_cache(maxsize=1)
def first_model() -> str:
    """The model that speaks before a visitor chooses.

    That of the person who started the app; else a published one if it is here, else the bundled one.
    """
    if _own is not None:
        return _own.name
    return _PREFERRED if locate(get_variant(_PREFERRED)) else BUNDLED.name


def launch(arguments: Sequence[str] = (), own: AvailableModel | None = None) -> None:
    """Start the workers, then serve the app until it is stopped.

    Args:
        arguments: further options of `streamlit run`, such as "--server.port=8080".
        own: a model to offer beside those of the registry, and to open on.

    Raises:
        SystemExit: Streamlit has ended.
        SelectionError: a setting in the environment has no sensible value.
    """
    global _own
    _own = own
    workers()
    sys.argv = ["streamlit", "run", str(APP), *arguments]
    runpy.run_module("streamlit", run_name="__main__", alter_sys=True)


def _setting(name: str) -> int:
    text = os.environ.get(name, "1")
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise SelectionError(f"{name} must be a whole number of at least 1, not {text!r}")
    return int(text)


@lru_cache(maxsize=64)
def sample_bytes(path: Path) -> bytes:
    """A sample photograph's file."""
    return path.read_bytes()
