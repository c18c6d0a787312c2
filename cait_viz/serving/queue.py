"""A queue in which sessions take turns, so that the many tasks of one keep nobody's single one waiting."""

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from statistics import fmean
from typing import Generic, NamedTuple, TypeVar

from cachetools import LRUCache

Task = TypeVar("Task", bound=Hashable)

# How much the last duration counts in the moving average of its kind.
_LAST = 0.3
# The durations of so many kinds are remembered.
_KINDS = 64


class Place(NamedTuple):
    """Where a task stands in the queue."""

    ahead: int  # tasks before it, with the one that is being done
    seconds: float | None  # about how long they will take; None where no duration is known yet


class _Current(NamedTuple, Generic[Task]):
    """The task that is being done."""

    task: Task
    session: Hashable  # whose turn it is
    kind: Hashable
    since: float


class FairQueue(Generic[Task]):
    """Tasks for one worker, by the sessions that wait for them; safe for several threads.

    Sessions take turns; the tasks of one come in the order in which it asked. A session that has asked for
    nothing so far takes its place behind all who wait, as does the one that was served, once its task is
    done. So nobody waits for more than one task of each other session. A task that several sessions wait for
    is done at the first turn of any of them, and stays while one of them waits.

    Args:
        clock: tells the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # By session, in the order of their turns: what each waits for, in the order in which it asked.
        self._lines: dict[Hashable, dict[Task, None]] = {}
        self._kinds: dict[Task, Hashable] = {}
        self._current: _Current[Task] | None = None
        # Of the session that is being served, which stands behind all others when that is done.
        self._line_of_current: dict[Task, None] = {}
        self._durations: LRUCache[Hashable, float] = LRUCache(_KINDS)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """How many tasks wait."""
        return len(self._kinds)

    @property
    def busy(self) -> bool:
        """Whether a task is being done."""
        return self._current is not None

    def put(self, task: Task, sessions: Iterable[Hashable], kind: Hashable = None) -> None:
        """Let a task wait for its turn.

        Args:
            task: in no queue so far.
            sessions: that wait for it; without any it is not put in.
            kind: tells tasks that take about as long from others.
        """
        with self._lock:
            for session in sessions:
                self._kinds[task] = kind
                self._line(session)[task] = None

    def join(self, task: Task, session: Hashable) -> None:
        """Let another session wait for a task too; nothing happens where it does not wait any longer."""
        with self._lock:
            if task in self._kinds:
                self._line(session)[task] = None

    def leave(self, task: Task, session: Hashable) -> None:
        """Let a session wait for a task no longer; a task that nobody waits for is dropped."""
        with self._lock:
            self._remove(task, session)
            if not any(task in line for line in (*self._lines.values(), self._line_of_current)):
                self._kinds.pop(task, None)

    def take(self) -> Task | None:
        """The task whose turn it is, which is being done from now on; None where none waits."""
        with self._lock:
            if not self._lines:
                return None
            session = next(iter(self._lines))
            self._line_of_current = self._lines.pop(session)
            task = next(iter(self._line_of_current))
            self._current = _Current(task, session, self._kinds.pop(task), self._clock())
            for each in (session, *self._lines):
                self._remove(task, each)
            return task

    def done(self, *, typical: bool = True) -> None:
        """The task that was taken is done; `typical` says whether others of its kind will take as long."""
        with self._lock:
            if self._current is None:
                return
            _, session, kind, since = self._current
            if typical:
                took = self._clock() - since
                before = self._durations.get(kind, took)
                self._durations[kind] = before + _LAST * (took - before)
            self._current = None
            if self._line_of_current:
                self._lines[session] = self._line_of_current
            self._line_of_current = {}

    def place(self, task: Task) -> Place | None:
        """Where a task stands; None where it does not wait."""
        with self._lock:
            if task not in self._kinds:
                return None
            usual = fmean(self._durations.values()) if self._durations else None
            known = [self._durations.get(self._kinds[other], usual) for other in self._before(task)]
            if self._current is not None:
                took = self._durations.get(self._current.kind, usual)
                known.append(took and max(0.0, took - (self._clock() - self._current.since)))
            return Place(len(known), None if usual is None else sum(each or 0.0 for each in known))

    def _line(self, session: Hashable) -> dict[Task, None]:
        """What a session waits for, to be added to."""
        if self._current is not None and session == self._current.session:
            return self._line_of_current
        return self._lines.setdefault(session, {})

    def _remove(self, task: Task, session: Hashable) -> None:
        line = self._line(session)
        line.pop(task, None)
        if not line:
            self._lines.pop(session, None)

    def _before(self, task: Task) -> list[Task]:
        """The waiting tasks that are done before one, as long as nobody comes or leaves."""
        order = [*self._lines.values(), *([self._line_of_current] if self._line_of_current else [])]
        turns = deque(deque(line) for line in order)
        before: dict[Task, None] = {}
        while True:
            line = turns.popleft()
            while line and line[0] in before:
                line.popleft()
            if not line:
                continue
            if line[0] == task:
                return list(before)
            before[line.popleft()] = None
            turns.append(line)
