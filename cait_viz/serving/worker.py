"""The model's own process, for the app.

Streamlit clears Keras after every rerun of every visitor, which costs the next forward pass its
compiled kernels; so Keras never enters the server. The bytes of an image file and the options go to the
process, and an `Analysis` of plain NumPy comes back. A process that dies is replaced.
"""

import gc
import os
import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loky import ProcessPoolExecutor, cpu_count
from loky.process_executor import BrokenProcessPool

from cait_viz._text import one_line
from cait_viz.analysis import Analysis
from cait_viz.errors import CaitVizError, CheckpointError, WorkerDiedError
from cait_viz.images.preprocess import View

if TYPE_CHECKING:
    from cait_viz.model.cait import CaiT

# How often a worker looks whether the server that started it is still there, in seconds.
_ORPHAN_CHECK = 2.0

_DIED = (
    "the model's process ended before it could answer (out of memory, perhaps); "
    "a new one is starting: try again, or choose a smaller model"
)

# Where loky finds psutil, it ends a process that grew by 300 MB, as leaking; a larger model is no leak.
_ENVIRONMENT = {"LOKY_MAX_MEMORY_LEAK_SIZE": "1e15"}


@dataclass(frozen=True)
class ModelChoice:
    """Which model to ask: a variant's name, or a user's own files; nothing is the bundled model."""

    name: str | None = None
    weights: Path | None = None
    labels: Path | None = None
    sha256: str | None = None  # that the weights must have, in hexadecimal; None for any
    display_name: str | None = None  # what the results call the model; by default after its checkpoint


@dataclass(frozen=True)
class Request:
    """One image to analyze: the bytes and name of its file, the part to look at and the model to ask."""

    image: bytes
    image_name: str
    view: View
    model: ModelChoice


class Workers:
    """`count` processes, each of which takes the memory of TensorFlow and of at most `models_each` models.

    As it starts, each loads and compiles the `first` model. An image goes to the process with the fewest
    waiting; among equals to one that was asked for the same model before and need not load it.
    """

    def __init__(self, first: ModelChoice, count: int = 1, models_each: int = 1) -> None:
        threads = max(1, cpu_count() // count)
        self._workers = [_Worker((models_each, first, threads, os.getpid())) for _ in range(count)]
        self._lock = threading.Lock()

    def analyze(self, request: Request) -> "Future[Analysis]":
        """Ask for the analysis of one image.

        The future raises what `cait_viz.analyze` raises; `WorkerDiedError` if the process ended meanwhile.
        """
        with self._lock:
            worker = min(self._workers, key=lambda worker: (worker.pending, worker.model != request.model))
            worker.model = request.model
            return worker.submit(_analyze, request)

    def ready(self) -> "Future[int]":
        """The identity of a process that has loaded its first model and waits for images."""
        return self._workers[0].submit(os.getpid)

    def stop(self) -> None:
        """End the processes."""
        for worker in self._workers:
            worker.stop()


class _Worker:
    """One process, replaced when it has died."""

    def __init__(self, initargs: tuple[Any, ...]) -> None:
        self._initargs = initargs
        self._lock = threading.Lock()
        self._pool = self._start()
        self.pending = 0  # tasks it has not finished
        self.model: ModelChoice = initargs[1]  # it was last asked for

    def submit(self, function: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        answer: Future[Any] = Future()
        answer.set_running_or_notify_cancel()  # a network that has begun cannot be called back
        with self._lock:
            # Killed while it had nothing to do: no image is lost, its successor is asked. The pool itself
            # notices a quarter of a second late, and then fails all it has been given.
            if wait([process.sentinel for process in list(self._pool._processes.values())], timeout=0):
                self._pool = self._start()
            try:
                future = self._pool.submit(function, *arguments)
            except BrokenProcessPool:
                self._pool = self._start()
                future = self._pool.submit(function, *arguments)
            self.pending += 1
        future.add_done_callback(lambda done: self._hand_over(done, answer))
        return answer

    def stop(self) -> None:
        self._pool.shutdown(wait=False, kill_workers=True)

    def _hand_over(self, done: "Future[Any]", answer: "Future[Any]") -> None:
        with self._lock:
            self.pending -= 1
        try:
            answer.set_result(done.result())
        except (BrokenProcessPool, CancelledError):
            answer.set_exception(WorkerDiedError(_DIED))
        except BaseException as error:
            answer.set_exception(error)

    def _start(self) -> ProcessPoolExecutor:
        pool = ProcessPoolExecutor(1, initializer=_prepare, initargs=self._initargs, env=_ENVIRONMENT)
        pool.submit(os.getpid)  # a pool starts its process with its first task
        return pool


# --- what follows runs in the worker's process ------------------------------------------------------


class ModelCache:
    """At most `limit` models, which `load` makes of their choices; the one unused the longest makes room."""

    def __init__(self, limit: int, load: "Callable[[ModelChoice], CaiT]") -> None:
        self._limit = limit
        self._load = load
        self._models: OrderedDict[tuple[Any, ...], CaiT] = OrderedDict()

    def get(self, choice: ModelChoice) -> "CaiT":
        """The model, loaded if it is not kept or its checkpoint has been written since."""
        key = (choice, choice.weights and _written(choice.weights))
        if key not in self._models:
            while len(self._models) >= self._limit:
                self._models.popitem(last=False)
            gc.collect()  # frees what was dropped before the next is loaded: two may not fit
            self._models[key] = self._load(choice)
        self._models.move_to_end(key)
        return self._models[key]


def _written(path: Path) -> tuple[int, ...]:
    """What changes when a file is written anew; empty where there is none."""
    try:
        status = path.stat()
    except OSError:
        return ()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _load(choice: ModelChoice) -> "CaiT":
    from cait_viz.api import from_checkpoint
    from cait_viz.weights.resolve import resolve

    checkpoint = resolve(choice.name, choice.weights, download=False, progress=False)
    # Another checkpoint may have other heads and classes than those on the page.
    if choice.sha256 not in (None, checkpoint.sha256):
        raise CheckpointError(
            f"{one_line(checkpoint.path.name)}: has changed since the app was started; start the app again"
        )
    return from_checkpoint(checkpoint, choice.labels)


_models: ModelCache


def _prepare(models_each: int, first: ModelChoice, threads: int, server: int) -> None:
    """Start TensorFlow and load and compile the first model."""
    import numpy as np

    from cait_viz._backend import import_keras

    threading.Thread(target=_end_with, args=(server,), daemon=True).start()
    import_keras("tensorflow", threads)
    from cait_viz.engine.keras import forward

    global _models
    _models = ModelCache(models_each, _load)
    # Whoever asks for a model that cannot be loaded gets the error; a pool that cannot start gives none.
    with suppress(CaitVizError):
        model = _models.get(first)
        size = model.config.image_size
        forward(model, np.zeros((1, size, size, 3), np.float32))


def _end_with(server: int) -> None:
    """End this process when the server has gone without ending it, killed for instance."""
    while os.getppid() == server:
        time.sleep(_ORPHAN_CHECK)
    os._exit(0)


def _analyze(request: Request) -> Analysis:
    from cait_viz.api import analyze

    try:
        analysis = analyze(request.image, _models.get(request.model), request.view, request.image_name)
        name = request.model.display_name or analysis.model.name
        return replace(analysis, model=replace(analysis.model, name=name))
    except CaitVizError:
        raise
    except Exception as error:
        # An error of TensorFlow's would bring TensorFlow into the server as it is unpickled there.
        traceback.print_exc()
        kind = type(error).__name__
        raise CaitVizError(
            f"{request.image_name}: the model failed ({kind}: {one_line(str(error))}); "
            "try again, or choose a smaller model"
        ) from None
