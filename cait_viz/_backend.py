"""Import Keras and a backend in a process of this program, without their log lines and the user's settings.

TensorFlow's C++ code writes to file descriptor 2 before any setting of its own takes effect, so that
descriptor itself is redirected while the import lasts.
"""

import contextlib
import ctypes
import importlib
import importlib.util
import json
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

BACKENDS = ("tensorflow", "jax", "torch")

# glibc's mallopt: M_TRIM_THRESHOLD, M_TOP_PAD and M_MMAP_MAX.
_ALLOCATOR = {-1: 2**31 - 1, -2: 2**26, -4: 0}


INTERRUPTED = 128 + signal.SIGINT  # what shells report of a program that Ctrl-C ended


@contextlib.contextmanager
def stderr_held() -> Iterator[None]:
    """Hold back what is written to descriptor 2; show it only if the block fails."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held:
        kept = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(kept, held.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


_TELEMETRY = "openvino_telemetry"
# Of OpenVINO's import and its core: two threads may ask first at once.
_lock = threading.RLock()


def import_openvino() -> Any:
    """OpenVINO, imported without its telemetry, which reports every import to its makers.

    Raises:
        ImportError: it is not installed.
    """
    with _lock:
        if "openvino" in sys.modules:
            return importlib.import_module("openvino")
        usual = sys.modules.get(_TELEMETRY)
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # as if it were not installed
        try:
            return importlib.import_module("openvino")
        finally:
            del sys.modules[_TELEMETRY]
            if usual is not None:
                sys.modules[_TELEMETRY] = usual


def openvino_core() -> Any:
    """OpenVINO's core, the only one of this process; it stays until the process ends.

    A core gives its thread a stack for signals, and when it goes, the thread gets back the one before, which
    may be gone by then. The next Ctrl-C would end the process by a segmentation fault.

    Raises:
        ImportError: OpenVINO is not installed.
    """
    with _lock:
        return _core(import_openvino())


@cache
def _core(openvino: ModuleType) -> Any:
    return openvino.Core()


def installed_backend(backends: Sequence[str] = BACKENDS) -> str:
    """The one of these backends that KERAS_BACKEND names, else the first that is installed."""
    chosen = os.environ.get("KERAS_BACKEND", "")
    if chosen in backends:
        return chosen
    return next((name for name in backends if importlib.util.find_spec(name)), backends[0])


def import_keras(backend: str, threads: int | None = None) -> None:
    """Import Keras on one of its backends. Sets environment variables: not for a user's own process.

    Args:
        backend: one of `BACKENDS`, or "openvino", which only exports; an ImportError if it is not installed.
        threads: how many CPU threads it may use, by default all; JAX always uses all.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["KERAS_BACKEND"] = backend
    os.environ.pop("KERAS_NNX_ENABLED", None)
    with _exit_on_interrupt(), stderr_held(), keras_settings({}):
        import_openvino() if backend == "openvino" else importlib.import_module(backend)
        importlib.import_module("keras")
        # Keras asks of every input whether it is a tensor of TensorFlow's, and imports that for it. An export
        # to OpenVINO has no input.
        if backend != "openvino" and importlib.util.find_spec("tensorflow"):
            importlib.import_module("tensorflow")
    if backend == "torch":
        import torch

        # Trained weights give denormal numbers, with which a CPU is several times slower.
        torch.set_flush_denormal(True)
        if threads:
            torch.set_num_threads(threads)
    elif backend == "tensorflow" and threads:
        import tensorflow

        tensorflow.config.threading.set_intra_op_parallelism_threads(threads)


@contextlib.contextmanager
def _exit_on_interrupt() -> Iterator[None]:
    """End the process on Ctrl-C at once: an import of compiled modules would turn it into another error."""
    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # not ignored, as in the background
    if not usual or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextlib.contextmanager
def keras_settings(settings: Mapping[str, Any]) -> Iterator[None]:
    """Let Keras, as it is imported, find these settings in place of ~/.keras/keras.json."""
    usual = os.environ.get("KERAS_HOME")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "keras.json").write_text(json.dumps(dict(settings)), encoding="utf-8")
        os.environ["KERAS_HOME"] = folder
        try:
            yield
        finally:
            del os.environ["KERAS_HOME"]
            if usual is not None:
                os.environ["KERAS_HOME"] = usual


def users_keras_settings() -> dict[str, Any]:
    """What the file holds from which Keras takes its settings."""
    home = Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser()
    settings: dict[str, Any] = json.loads((home / "keras.json").read_text(encoding="utf-8"))
    return settings


def keep_freed_memory() -> None:
    """Let the process keep the memory of arrays that it frees, where the C library is glibc.

    A training frees and allocates the same ones at every step (benchmarks/training.py measures the gain).
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        for setting, value in _ALLOCATOR.items():
            libc.mallopt(setting, value)
