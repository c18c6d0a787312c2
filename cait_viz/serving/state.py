"""What the app's server holds for all its visitors: its models, its engines, its latest results."""

import os
import runpy
import signal
import sys
import threading
from collections.abc import Hashable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any

from cachetools import LRUCache

from cait_viz._resources import APP
from cait_viz.engine import memory
from cait_viz.engine.base import EngineName
from cait_viz.errors import SelectionError
from cait_viz.model.config import Precision
from cait_viz.serving.answers import Answer, Found
from cait_viz.serving.engines import Analyzer, Engines, Request, load_choice
from cait_viz.serving.models import AvailableModel, registry_model
from cait_viz.serving.turns import Turns
from cait_viz.weights.hub import Progress
from cait_viz.weights.registry import BUNDLED, VARIANTS, Variant
from cait_viz.weights.resolve import available, resolve

# Setting in the environment: how many megabytes of weights are kept ready. By default half of what is free.
MEMORY_SETTING = "CAIT_VIZ_MODEL_MEGABYTES"

# The published model that the app opens on where its weights are on the machine.
_PREFERRED = "cait_xxs24_224"


# So many pages are drawn at a time: one is held up now and then by Python's lock or by the network.
_DRAWING = 2

# Bytes of arrays that answers may keep; more where the machine has it, for traces of fine grids are large.
_ANSWERS = 128 * 2**20


class Answers:
    """Answers every question once, however often and by whomever it is asked; safe for several threads.

    At most `entries` results are kept, those unused the longest making room, with at most `size` bytes of
    arrays together; a larger result is not kept.
    """

    def __init__(self, analyzer: Analyzer, entries: int = 16, size: int = _ANSWERS) -> None:
        self._analyzer = analyzer
        # A result counts for no less than its share of the entries.
        least = size // entries
        self._kept: LRUCache[Hashable, Any] = LRUCache(size, lambda result: max(result.nbytes, least))
        self._pending: dict[Hashable, Answer[Any]] = {}
        self._lock = threading.Lock()

    def ask(self, key: Hashable, request: Request[Found]) -> Answer[Found]:
        """The answer to a question: kept from before, on its way, or asked for now.

        `key` tells the question, the image, its name, the view and the model from all others, but not who
        asks; the request is not kept.
        """
        with self._lock:
            if key in self._pending:
                self._pending[key].join(request.session)
                return self._pending[key]
            if key in self._kept:
                answer: Answer[Found] = Answer()
                answer.set_result(self._kept[key])
                return answer
            answer = self._pending[key] = self._analyzer.ask(request)
        answer.add_done_callback(lambda done: self._settle(key, done))
        return answer

    def leave(self, answer: Answer[Any], session: str = "") -> None:
        """Wait for it no longer; it is not computed if nobody else waits and its turn has not come."""
        with self._lock:
            answer.leave(session)
            given_up = not answer.waiting
            if given_up:  # whoever asks from here on gets an answer of their own
                self._pending = {key: kept for key, kept in self._pending.items() if kept is not answer}
        if given_up:
            answer.cancel()

    def _settle(self, key: Hashable, done: "Future[Any]") -> None:
        with self._lock:
            if self._pending.get(key) is done:
                del self._pending[key]
            if not done.cancelled() and done.exception() is None:
                with suppress(ValueError):  # too large to keep
                    self._kept[key] = done.result()


class Server:
    """What all visitors share: the models by name, the one that the app opens on, the latest results.

    Args:
        user_model: the model of the person who started the app, listed first and opened on.
        engine: which engine runs the networks, and no other.
        precision: type of the arithmetic.
        analyzer: what analyzes images, in place of one of these options.
        read_only: whether visitors may download no models.
        images_per_minute: how many images a session may give in a minute; None for any number.

    Raises:
        SelectionError: a setting in the environment has no sensible value.
    """

    def __init__(
        self,
        user_model: AvailableModel | None = None,
        engine: EngineName | None = None,
        precision: Precision = "float32",
        analyzer: Analyzer | None = None,
        read_only: bool = False,
        images_per_minute: int | None = None,
    ) -> None:
        self.read_only = read_only
        self.images_per_minute = images_per_minute
        self.sessions = 0
        models = [registry_model(variant) for variant in VARIANTS.values()]
        if user_model is not None:
            models.insert(0, user_model)
        self.models = {model.name: model for model in models}
        self._on_this_machine = available()
        published = _PREFERRED if _PREFERRED in self._on_this_machine else BUNDLED.name
        self.first_model = user_model.name if user_model else published
        first = self.models[self.first_model].choice
        engines = Engines(_model_bytes(), partial(load_choice, engine=engine, precision=precision))
        self.analyzer = analyzer or Analyzer(engines, first)
        self.answers = Answers(self.analyzer, size=max(_ANSWERS, memory.available() // 16))
        # At drawing what is answered.
        self.turns = Turns(_DRAWING)
        self._downloading = threading.Lock()
        self._counting = threading.Lock()

    def count_session(self, change: int) -> None:
        """A page was opened (1), or closed (-1)."""
        with self._counting:
            self.sessions += change

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


def start(*arguments: Any, **named: Any) -> Server:
    """Make the server's state anew. Arguments and errors as for `Server`."""
    global _server
    _server = None  # also where the new one is refused: what is asked next says why
    _server = Server(*arguments, **named)
    return _server


def launch(arguments: Sequence[str] = (), **options: Any) -> None:
    """Make a `Server` of the options, then run the app as `streamlit run` with these arguments would.

    It ends with SystemExit, Streamlit's, when the app is stopped; errors as for `Server`.
    """
    start(**options)
    sys.argv = ["streamlit", "run", str(APP), *arguments]
    # The server hands a signal on once it has stopped; as an interrupt it would count as an error.
    before = {number: signal.signal(number, _end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        runpy.run_module("streamlit", run_name="__main__", alter_sys=True)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(*_: object) -> None:
    sys.exit(0)


def _model_bytes() -> int:
    text = os.environ.get(MEMORY_SETTING)
    if text is None:
        return memory.available() // 2
    if not text.isascii() or not text.isdigit():
        raise SelectionError(f"{MEMORY_SETTING} must be a whole number of megabytes, not {text!r}")
    return int(text) * 10**6
