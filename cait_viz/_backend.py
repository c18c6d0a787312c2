"""Import Keras and a backend without their log lines.

TensorFlow's C++ side writes to file descriptor 2 before any setting of its own takes effect, so that
descriptor itself is turned away for as long as the import lasts.
"""

import contextlib
import ctypes
import importlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def standard_error_held() -> Iterator[None]:
    """Keep what is written to descriptor 2 from the terminal; show it after all if the block fails."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held:
        kept = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            os.dup2(kept, 2)
            held.seek(0)
            os.write(2, held.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def import_tensorflow() -> None:
    """Import TensorFlow and Keras silently, Keras on TensorFlow whatever else a person uses it with."""
    import_keras("tensorflow")


BACKENDS = ("tensorflow", "jax", "torch")


def installed_backend() -> str:
    """The backend that Keras is set to in the environment, else the first that is installed."""
    chosen = os.environ.get("KERAS_BACKEND")
    if chosen in BACKENDS:
        return chosen
    return next((name for name in BACKENDS if importlib.util.find_spec(name)), BACKENDS[0])


def import_keras(backend: str, threads: int | None = None) -> None:
    """Import Keras on one of its backends, silently.

    Args:
        backend: one of `BACKENDS`.
        threads: how many the backend may use on the CPU; by default as many as it likes. JAX has no such
            setting and takes them all.

    Raises:
        ImportError: the backend is not installed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["KERAS_BACKEND"] = backend
    with standard_error_held():
        importlib.import_module(backend)
        importlib.import_module("keras")
        # Keras asks of every input whether it is a tensor of TensorFlow's, and imports that for it.
        if importlib.util.find_spec("tensorflow"):
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


# glibc's mallopt: M_TRIM_THRESHOLD, M_TOP_PAD and M_MMAP_MAX.
_ALLOCATOR = {-1: 2**31 - 1, -2: 2**26, -4: 0}


def keep_freed_memory() -> None:
    """Let the process keep the memory of arrays that it frees, where the C library is glibc.

    A training frees and takes the same large arrays at every step; each time the system would have to fill
    them with zeros again. What that is worth differs (benchmarks/training.py).
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        for setting, value in _ALLOCATOR.items():
            libc.mallopt(setting, value)
