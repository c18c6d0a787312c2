"""The model's own process, for the app.

Streamlit clears Keras after every rerun of every person, which costs the next forward pass its
compiled kernels; so Keras never enters the server. What crosses over is a picture's bytes and
options one way and an `Analysis` of plain NumPy the other. A process that dies is replaced.
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

# Where loky finds psutil, it ends a process that grew by 300 MB, as leaking; a larger model is no leak.
_KEEP_LARGE_PROCESSES = {"LOKY_MAX_MEMORY_LEAK_SIZE": "1e15"}


@dataclass(frozen=True)
class ModelChoice:
    """Which model to ask: a variant's name, or files of one's own; nothing is the bundled model.

    Attributes:
        name: the variant's name.
        weights: a safetensors file with timm's tensor names.
        labels: a text file with the name of one class a line.
        sha256: of the weights, in hexadecimal, where no others will do.
        called: what the results are to call the model; by default they name it after its checkpoint.
    """

    name: str | None = None
    weights: Path | None = None
    labels: Path | None = None
    sha256: str | None = None
    called: str | None = None


@dataclass(frozen=True)
class Request:
    """One picture to analyse: the bytes of its file, its name, how to look at it and the model to ask."""

    image: bytes
    image_name: str
    view: View
    model: ModelChoice


class Workers:
    """Processes that each hold a model; a picture goes to the one with the least to do.

    Among equals it goes to one that had the same model before, which need not load it.

    Args:
        count: how many processes; each takes the memory of TensorFlow and of its models.
        models_each: how many models a process keeps; the one longest unused is dropped.
        first: the model that every process loads and compiles as it starts.
    """

    def __init__(self, count: int = 1, models_each: int = 1, first: ModelChoice | None = None) -> None:
        threads = max(1, cpu_count() // count)
        self._workers = [_Worker((models_each, first, threads, os.getpid())) for _ in range(count)]
        self._lock = threading.Lock()

    def analyze(self, request: Request) -> "Future[Analysis]":
        """Ask for one picture.

        The future raises what `cait_viz.analyze` raises; `WorkerDiedError` if the process ended meanwhile.
        """
        answer: Future[Analysis] = Future()
        answer.set_running_or_notify_cancel()  # a network that has begun cannot be called back
        with self._lock:
            worker = min(self._workers, key=lambda worker: (worker.pending, worker.model != request.model))
            worker.model = request.model
            inner = worker.submit(_analyze, request)
        inner.add_done_callback(lambda done: _hand_over(done, answer))
        return answer

    def ready(self) -> "Future[int]":
        """The identity of a process that has loaded its first model and waits for pictures."""
        return self._workers[0].submit(os.getpid)

    def stop(self) -> None:
        """End the processes."""
        for worker in self._workers:
            worker.stop()


class _Worker:
    """One process, replaced when it has died.

    Attributes:
        pending: how many tasks it has not finished.
        model: the model it was last asked for.
    """

    def __init__(self, initargs: tuple[Any, ...]) -> None:
        self._initargs = initargs
        self._lock = threading.Lock()
        self._pool = self._start()
        self.pending = 0
        self.model: ModelChoice | None = initargs[1]

    def submit(self, function: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        with self._lock:
            # Killed since it was last asked: nobody's picture is lost, its successor is asked. The pool
            # itself notices a quarter of a second late, and then fails all it has been given.
            if wait([process.sentinel for process in list(self._pool._processes.values())], timeout=0):
                self._pool = self._start()
            try:
                future = self._pool.submit(function, *arguments)
            except BrokenProcessPool:
                self._pool = self._start()
                future = self._pool.submit(function, *arguments)
            self.pending += 1
        future.add_done_callback(self._count_down)
        return future

    def stop(self) -> None:
        self._pool.shutdown(wait=False, kill_workers=True)

    def _count_down(self, _: "Future[Any]") -> None:
        with self._lock:
            self.pending -= 1

    def _start(self) -> ProcessPoolExecutor:
        pool = ProcessPoolExecutor(
            1, initializer=_prepare, initargs=self._initargs, env=_KEEP_LARGE_PROCESSES
        )
        pool.submit(os.getpid)  # a pool starts its process with its first task
        return pool


def _hand_over(done: "Future[Analysis]", answer: "Future[Analysis]") -> None:
    try:
        answer.set_result(done.result())
    except (BrokenProcessPool, CancelledError) as cause:
        error = WorkerDiedError(
            "the model's process ended before it could answer (out of memory, perhaps); "
            "a new one is starting: try again, or choose a smaller model"
        )
        error.__cause__ = cause
        answer.set_exception(error)
    except BaseException as error:
        answer.set_exception(error)


# What follows runs in the worker's process.

_models: "OrderedDict[ModelChoice, CaiT]" = OrderedDict()
_models_kept = 1


def _prepare(models_each: int, first: ModelChoice | None, threads: int, server: int) -> None:
    """Start TensorFlow and load and compile the first model."""
    from cait_viz._backend import import_tensorflow

    threading.Thread(target=_end_with, args=(server,), daemon=True).start()
    import_tensorflow()
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    global _models_kept
    _models_kept = models_each
    if first is not None:
        # Whoever asks for a model that cannot be loaded is told; a pool that cannot start tells nobody.
        with suppress(CaitVizError):
            _warm_up(_model(first))


def _end_with(server: int) -> None:
    """End this process when the server has gone without a word, killed for instance."""
    while os.getppid() == server:
        time.sleep(_ORPHAN_CHECK)
    os._exit(0)


def _model(choice: ModelChoice) -> "CaiT":
    from cait_viz.api import load_model

    _require_unchanged(choice)
    if choice not in _models:
        while len(_models) >= _models_kept:
            _models.popitem(last=False)
        gc.collect()  # frees what was dropped before the next is loaded: two may not fit
        _models[choice] = load_model(
            choice.name, weights=choice.weights, labels=choice.labels, download=False, progress=False
        )
    _models.move_to_end(choice)
    return _models[choice]


def _require_unchanged(choice: ModelChoice) -> None:
    """Refuse weights that are not those that were chosen: their heads and classes may be others."""
    if choice.sha256 is None or choice.weights is None:
        return
    from cait_viz.weights.resolve import resolve

    if resolve(choice.name, choice.weights).sha256 != choice.sha256:
        raise CheckpointError(
            f"{one_line(choice.weights.name)}: has changed since the app was started; start the app again"
        )


def _warm_up(model: "CaiT") -> None:
    import numpy as np

    from cait_viz.engine.keras import forward

    size = model.config.image_size
    forward(model, np.zeros((1, size, size, 3), np.float32))


def _analyze(request: Request) -> Analysis:
    from cait_viz.api import analyze

    try:
        analysis = analyze(request.image, _model(request.model), request.view, request.image_name)
        called = request.model.called
        return replace(analysis, model=replace(analysis.model, name=called)) if called else analysis
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
