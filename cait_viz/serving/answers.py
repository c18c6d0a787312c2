"""An answer that is on its way, and a thread before which those who wait for answers take turns."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from cait_viz._text import counted
from cait_viz.errors import CaitVizError
from cait_viz.serving.queue import FairQueue, Place


class GivenUpError(CaitVizError):
    """A question that nobody waits for any longer, which is no failure."""


class Answered(Protocol):
    """What a question is answered with."""

    @property
    def nbytes(self) -> int:
        """The memory that it takes, in bytes."""


Found = TypeVar("Found", bound=Answered)


class Answer(Future[Found]):
    """An answer that is on its way; safe for several threads.

    Args:
        session: who waits for it.

    Attributes:
        asked: when it was asked for, in seconds of `time.monotonic`.
        share: how much of a long question is done, from 0 to 1; None of others, and before it begins.
    """

    share: float | None = None

    def __init__(self, session: str = "") -> None:
        super().__init__()
        self.asked = time.monotonic()
        self._sessions = Counter([session])
        self._joining = threading.Lock()
        self._queue: FairQueue[Answer[Any]] | None = None
        self._stage = ""
        self._work: Callable[[], bool] | None = None

    @property
    def waiting(self) -> int:
        """How many wait for it."""
        return self._sessions.total()

    @property
    def stage(self) -> str:
        """What it waits for, a sentence for a person."""
        queue = self._queue
        place = queue and queue.place(self)
        return self._stage.format(place=_in_words(place)) if place else self._stage

    def enter(
        self, queue: "FairQueue[Answer[Any]]", stage: str, work: Callable[[], bool], kind: Hashable
    ) -> None:
        """Wait in a queue. Arguments as of `Worker.put`."""
        with self._joining:
            self._queue, self._stage, self._work = queue, stage, work
            queue.put(self, [session for session, count in self._sessions.items() if count], kind)

    def begin(self) -> bool:
        """Do what it waited for, as its turn has come; gives what `work` does."""
        with self._joining:
            work, self._queue, self._work = self._work, None, None
        return work is not None and work()

    def tell(self, stage: str) -> None:
        """Take note of what is being done."""
        self._stage = stage

    def join(self, session: str) -> None:
        """Let somebody wait for it too."""
        with self._joining:
            self._sessions[session] += 1
            if self._queue is not None:
                self._queue.join(self, session)

    def leave(self, session: str) -> None:
        """Let somebody wait for it no longer."""
        with self._joining:
            self._sessions[session] -= 1
            if self._queue is not None and not self._sessions[session]:
                self._queue.leave(self, session)

    def report(self, done: int, total: int) -> None:
        """Take note of how much is done; `GivenUpError` where nobody waits for it any longer."""
        if not self.waiting:
            raise GivenUpError("nobody waits for this any longer")
        self.share = done / total


class Worker:
    """A thread that works on one answer at a time, those who wait taking turns.

    Args:
        name: the thread's name.
    """

    def __init__(self, name: str) -> None:
        self.queue: FairQueue[Answer[Any]] = FairQueue()
        self._thread = ThreadPoolExecutor(1, name)

    def put(self, answer: Answer[Any], stage: str, work: Callable[[], bool], kind: Hashable = None) -> None:
        """Work on an answer when its turn comes.

        Args:
            answer: that is in no queue.
            stage: what it waits for, a sentence with {place} for how many are before it.
            work: gives whether others of its kind will take about as long.
            kind: tells answers that take about as long from others.
        """
        answer.enter(self.queue, stage, work, kind)
        self.call(self._next)

    def call(self, function: Callable[[], object]) -> None:
        """Call a function before what is put in later."""
        self._thread.submit(function)

    def stop(self) -> None:
        """Finish what has begun, and nothing else."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _next(self) -> None:
        answer = self.queue.take()
        if answer is None:  # whose turn it would have been waits no longer
            return
        typical = False
        try:
            typical = answer.begin()
        finally:
            self.queue.done(typical=typical)


def _in_words(place: Place) -> str:
    """How many are before it, and how long they take."""
    if not place.ahead:
        return "Yours is next"
    before = f"{counted(place.ahead, 'image')} before yours"
    if place.seconds is None:
        return before
    seconds = max(1, round(place.seconds))
    return f"{before}, about {f'{seconds} s' if seconds < 100 else f'{round(seconds / 60)} min'}"
