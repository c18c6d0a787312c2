"""A process of its own for what must not enter this one."""

import threading
from collections.abc import Callable
from typing import Any

from loky import ProcessPoolExecutor
from loky.process_executor import BrokenProcessPool

from cait_viz.errors import ProcessDiedError

# Where loky finds psutil, it ends a process that grew by 300 MB, as leaking; a larger model is no leak.
_ENVIRONMENT = {"LOKY_MAX_MEMORY_LEAK_SIZE": "1e15"}


class Worker:
    """A process that starts with the first question; several threads may ask, and one is answered at a time.

    Args:
        task: what it does, for a sentence.
        idle_seconds: it ends after so many without a question; None: with this object.
    """

    def __init__(self, task: str, idle_seconds: float | None = None) -> None:
        self._task, self._idle_seconds = task, idle_seconds
        self._pool: ProcessPoolExecutor | None = None
        self._lock = threading.Lock()

    def ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What the function, one of a module, gives in that process.

        Raises:
            ProcessDiedError: the process ended meanwhile. One that ended before is replaced.
        """
        pool = self._started()
        try:
            pending = pool.submit(function, *arguments)
        except BrokenProcessPool:
            self._forget(pool)
            pool = self._started()
            pending = pool.submit(function, *arguments)
        try:
            return pending.result()
        except BrokenProcessPool:
            self._forget(pool)
            raise ProcessDiedError(
                f"the process that {self._task} ended before it could answer (out of memory, perhaps); try "
                "again, or choose a smaller model"
            ) from None

    def _started(self) -> ProcessPoolExecutor:
        """The pool; the first of several questions at once starts it."""
        with self._lock:
            if self._pool is None:
                self._pool = ProcessPoolExecutor(1, timeout=self._idle_seconds, env=_ENVIRONMENT)
            return self._pool

    def _forget(self, pool: ProcessPoolExecutor) -> None:
        with self._lock:
            if self._pool is pool:  # another thread may have started the next one
                self._pool = None

    def __del__(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=False, kill_workers=True)
