"""Turns at a work that the processor's cores share: whoever began first is done first."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """So many threads work at a time; the others wait, about in the order in which they came.

    Were all to work at once, each would be done as late as the last.

    Args:
        places: how many work at a time.
    """

    def __init__(self, places: int) -> None:
        self._free = threading.Semaphore(places)
        self._mine = threading.local()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Work, once it is this thread's turn."""
        self._enter()
        try:
            yield
        finally:
            if self._has_turn:
                self._leave()

    @contextmanager
    def away(self) -> Iterator[None]:
        """Give up the turn, if this thread has one, while it waits for something else."""
        had_turn = self._has_turn
        if had_turn:
            self._leave()
        yield
        if had_turn:
            self._enter()

    @property
    def _has_turn(self) -> bool:
        return getattr(self._mine, "has_turn", False)

    def _enter(self) -> None:
        self._free.acquire()
        self._mine.has_turn = True

    def _leave(self) -> None:
        self._mine.has_turn = False
        self._free.release()
