"""What the web app's server holds for all its visitors: its models, its worker processes, its latest results.

No Streamlit and no Keras in here; `launch` runs the app as `streamlit run` would, after the workers have
been started.
"""

import os
import runpy
import sys
import threading
from collections.abc import Hashable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Protocol

from cachetools import LRUCache

from cait_viz._resources import APP
from cait_viz.analysis import Analysis
from cait_viz.errors import SelectionError
from cait_viz.serving.models import AvailableModel, registry_model
from cait_viz.serving.worker import Request, Workers
from cait_viz.weights.hub import Progress
from cait_viz.weights.registry import BUNDLED, VARIANTS, Variant
from cait_viz.weights.resolve import available, resolve

# How many worker processes analyze images. Each holds TensorFlow and a model of its own.
WORKERS_SETTING = "CAIT_VIZ_WORKERS"
# How many models each worker keeps.
MODELS_SETTING = "CAIT_VIZ_MODELS_PER_WORKER"

# The published model that the app opens on where its weights are on the machine.
_PREFERRED = "cait_xxs24_224"

_KEPT_RESULTS = 16
_KEPT_BYTES = 128 * 2**20


class Analyzer(Protocol):
    """What `Workers` are to the rest of the server."""

    def analyze(self, request: Request) -> "Future[Analysis]":
        """Ask for the analysis of one image."""


class Analyses:
    """Analyzes every image once, however often and by whomever it is asked for; safe for several threads.

    Args:
        workers: the processes that do it.
        entries: how many results to keep at most; those unused the longest make room.
        size: how many bytes of arrays they hold together at most; a larger result is not kept.
    """

    def __init__(self, workers: Analyzer, entries: int = _KEPT_RESULTS, size: int = _KEPT_BYTES) -> None:
        self._workers = workers
        # A result counts for no less than its share of the entries.
        self._kept: LRUCache[Hashable, Analysis] = LRUCache(
            size, getsizeof=lambda result: max(result.nbytes, size // entries)
        )
        self._pending: dict[Hashable, Future[Analysis]] = {}
        self._lock = threading.Lock()

    def ask(self, key: Hashable, request: Request) -> "Future[Analysis]":
        """The analysis of an image: kept from before, on its way, or asked of a worker now.

        Args:
            key: what tells the image, its name, the view and the model from all others.
            request: what to ask for; not kept.
        """
        with self._lock:
            if key in self._pending:
                return self._pending[key]
            kept = self._kept.get(key)
            if kept is not None:
                answer: Future[Analysis] = Future()
                answer.set_result(kept)
                return answer
            answer = self._pending[key] = self._workers.analyze(request)
        answer.add_done_callback(lambda done: self._settle(key, done))
        return answer

    def _settle(self, key: Hashable, done: "Future[Analysis]") -> None:
        with self._lock:
            del self._pending[key]
            if done.exception() is None:
                with suppress(ValueError):  # too large to keep
                    self._kept[key] = done.result()


class Server:
    """What all visitors share.

    Args:
        user_model: the model of the person who started the app, listed first and opened on.
        workers: what analyzes images; by default processes as the environment's settings say.

    Attributes:
        models: the models that a visitor may choose, by name.
        first_model: the name of the one that the app opens on: the user's; else a published one if it is
            on the machine, else the bundled one.
        analyses: the latest results.

    Raises:
        SelectionError: a setting in the environment has no sensible value.
    """

    def __init__(self, user_model: AvailableModel | None = None, workers: Analyzer | None = None) -> None:
        models = [registry_model(variant) for variant in VARIANTS.values()]
        if user_model is not None:
            models.insert(0, user_model)
        self.models = {model.name: model for model in models}
        self._on_this_machine = available()
        published = _PREFERRED if _PREFERRED in self._on_this_machine else BUNDLED.name
        self.first_model = user_model.name if user_model else published
        self.analyses = Analyses(
            workers
            or Workers(
                count=_setting(WORKERS_SETTING),
                models_each=_setting(MODELS_SETTING),
                first=self.models[self.first_model].choice,
            )
        )
        self._downloading = threading.Lock()

    def missing(self, model: AvailableModel) -> Variant | None:
        """The variant whose weights are not on this machine; None where they are, and for the user's own."""
        return None if model.variant is None or model.name in self._on_this_machine else model.variant

    def download(self, variant: Variant, progress: Progress) -> None:
        """Fetch the weights of a variant; whoever asks for the same ones meanwhile waits for them.

        Raises:
            DownloadError: they could not be fetched; the message says what to do.
        """
        with self._downloading:  # two downloads of one file would each delete what the other has so far
            resolve(variant.name, progress=progress)
        self._on_this_machine = available()


_server: Server | None = None
_starting = threading.Lock()


def server() -> Server:
    """The server's state, made with the first call.

    Raises:
        SelectionError: a setting in the environment has no sensible value.
    """
    with _starting:  # two first visitors at once would make it twice
        return _server or start()


def start(user_model: AvailableModel | None = None, workers: Analyzer | None = None) -> Server:
    """Make the server's state anew. Arguments and errors as for `Server`."""
    global _server
    _server = Server(user_model, workers)
    return _server


def launch(arguments: Sequence[str] = (), user_model: AvailableModel | None = None) -> None:
    """Start the workers, then serve the app until it is stopped.

    Args:
        arguments: further options of `streamlit run`, such as "--server.port=8080".
        user_model: a model to list beside those of the registry, and to open on.

    Raises:
        SystemExit: Streamlit has ended.
        SelectionError: a setting in the environment has no sensible value.
    """
    start(user_model)
    sys.argv = ["streamlit", "run", str(APP), *arguments]
    runpy.run_module("streamlit", run_name="__main__", alter_sys=True)


def _setting(name: str) -> int:
    text = os.environ.get(name, "1")
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise SelectionError(f"{name} must be a whole number of at least 1, not {text!r}")
    return int(text)
