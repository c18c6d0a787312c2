"""What the app's server holds for all its visitors: its models, its worker processes, its latest results."""

import os
import runpy
import sys
import threading
from collections.abc import Hashable, Sequence
from concurrent.futures import Future
from contextlib import suppress

from cachetools import LRUCache

from cait_viz._resources import APP
from cait_viz.analysis import Analysis
from cait_viz.errors import SelectionError
from cait_viz.serving.models import AvailableModel, registry_model
from cait_viz.serving.worker import Request, Workers
from cait_viz.weights.hub import Progress
from cait_viz.weights.registry import BUNDLED, VARIANTS, Variant
from cait_viz.weights.resolve import available, resolve

# Settings in the environment: how many processes analyze images, and how many models each keeps.
WORKERS_SETTING = "CAIT_VIZ_WORKERS"
MODELS_SETTING = "CAIT_VIZ_MODELS_PER_WORKER"

# The published model that the app opens on where its weights are on the machine.
_PREFERRED = "cait_xxs24_224"


class Analyses:
    """Analyzes every image once, however often and by whomever it is asked for; safe for several threads.

    At most `entries` results are kept, those unused the longest making room, with at most `size` bytes of
    arrays together; a larger result is not kept.
    """

    def __init__(self, workers: Workers, entries: int = 16, size: int = 128 * 2**20) -> None:
        self._workers = workers
        # A result counts for no less than its share of the entries.
        least = size // entries
        self._kept: LRUCache[Hashable, Analysis] = LRUCache(size, lambda result: max(result.nbytes, least))
        self._pending: dict[Hashable, Future[Analysis]] = {}
        self._lock = threading.Lock()

    def ask(self, key: Hashable, request: Request) -> "Future[Analysis]":
        """The analysis of an image: kept from before, on its way, or asked of a worker now.

        `key` tells the image, its name, the view and the model from all others; the request is not kept.
        """
        with self._lock:
            if key in self._pending:
                return self._pending[key]
            if key in self._kept:
                answer: Future[Analysis] = Future()
                answer.set_result(self._kept[key])
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
    """What all visitors share: the models by name, the one that the app opens on, the latest results.

    Args:
        user_model: the model of the person who started the app, listed first and opened on.
        workers: what analyzes images; by default processes as the environment's settings say.

    Raises:
        SelectionError: a setting in the environment has no sensible value.
    """

    def __init__(self, user_model: AvailableModel | None = None, workers: Workers | None = None) -> None:
        models = [registry_model(variant) for variant in VARIANTS.values()]
        if user_model is not None:
            models.insert(0, user_model)
        self.models = {model.name: model for model in models}
        self._on_this_machine = available()
        published = _PREFERRED if _PREFERRED in self._on_this_machine else BUNDLED.name
        self.first_model = user_model.name if user_model else published
        first = self.models[self.first_model].choice
        self.analyses = Analyses(
            workers or Workers(first, _setting(WORKERS_SETTING), _setting(MODELS_SETTING))
        )
        self._downloading = threading.Lock()

    def missing(self, model: AvailableModel) -> Variant | None:
        """The variant whose weights are not on this machine; None where they are, and for the user's own."""
        return None if model.variant is None or model.name in self._on_this_machine else model.variant

    def download(self, variant: Variant, progress: Progress) -> None:
        """Fetch a variant's weights, or raise DownloadError; whoever asks for the same meanwhile waits."""
        with self._downloading:  # two downloads of one file would each delete what the other has so far
            resolve(variant.name, progress=progress)
        self._on_this_machine = available()


_server: Server | None = None
_starting = threading.Lock()


def server() -> Server:
    """The server's state, made with the first call. Errors as for `Server`."""
    with _starting:  # two first visitors at once would make it twice
        return _server or start()


def start(user_model: AvailableModel | None = None, workers: Workers | None = None) -> Server:
    """Make the server's state anew. Arguments and errors as for `Server`."""
    global _server
    _server = Server(user_model, workers)
    return _server


def launch(arguments: Sequence[str] = (), user_model: AvailableModel | None = None) -> None:
    """Start the workers, then run the app as `streamlit run` with these arguments would, until it is stopped.

    It ends with SystemExit, Streamlit's; errors as for `Server`.
    """
    start(user_model)
    sys.argv = ["streamlit", "run", str(APP), *arguments]
    runpy.run_module("streamlit", run_name="__main__", alter_sys=True)


def _setting(name: str) -> int:
    text = os.environ.get(name, "1")
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise SelectionError(f"{name} must be a whole number of at least 1, not {text!r}")
    return int(text)
