"""The queue in which sessions take turns."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cait_viz.serving.queue import FairQueue, Place

# For each session, how many tasks it puts into the queue, and in which order all of them come.
arrivals = st.lists(st.integers(0, 4), max_size=30).map(
    lambda sessions: [(session, number) for number, session in enumerate(sessions)]
)


def put(queue, *tasks):
    """Let tasks wait, which are pairs of a session and a name."""
    for task in tasks:
        queue.put(task, [task[0]])


def served(queue):
    """All tasks in the order in which they are done."""
    order = []
    while (task := queue.take()) is not None:
        order.append(task)
        queue.done()
    return order


# --- the order --------------------------------------------------------------------------------------------


def test_one_session_with_a_hundred_tasks_keeps_nobody_waiting_for_more_than_one():
    queue = FairQueue()
    put(queue, *(("many", number) for number in range(100)))
    assert queue.take() == ("many", 0)
    put(queue, ("one", 0), ("other", 0))
    queue.done()
    assert served(queue)[:4] == [("one", 0), ("other", 0), ("many", 1), ("many", 2)]


def test_a_stream_of_new_sessions_keeps_nobody_waiting_who_came_before_them():
    queue = FairQueue()
    put(queue, ("old", 0), ("old", 1))
    order = []
    for number in range(5):
        put(queue, (f"new {number}", 0))
        order.append(queue.take())
        queue.done()
    assert ("old", 1) in order[:3]


@given(arrivals)
def test_everything_is_done_once_and_that_of_a_session_in_the_order_in_which_it_asked(tasks):
    queue = FairQueue()
    put(queue, *tasks)
    order = served(queue)
    assert sorted(order) == sorted(tasks)
    for session in {session for session, _ in tasks}:
        assert [task for task in order if task[0] == session] == [
            task for task in tasks if task[0] == session
        ]


@given(arrivals, st.integers(0, 30), st.booleans())
def test_a_session_with_one_task_waits_for_no_more_than_one_of_each_other(tasks, done_before, in_the_middle):
    queue = FairQueue()
    put(queue, *tasks)
    for _ in range(min(done_before, len(tasks))):
        queue.take()
        queue.done()
    begun = [queue.take()] if in_the_middle else []
    put(queue, ("mine", 0))
    queue.done()
    order = served(queue)
    before = Counter(session for session, _ in [*filter(None, begun), *order[: order.index(("mine", 0))]])
    assert all(count == 1 for count in before.values())


# --- a task that several wait for -------------------------------------------------------------------------


def test_what_thirty_ask_for_is_done_once_at_the_first_turn_of_any_of_them():
    queue = FairQueue()
    put(queue, ("a", 0), ("a", 1), ("b", 0))
    queue.put("shared", ["a"])
    queue.join("shared", "c")
    for number in range(30):
        queue.join("shared", number)
    assert served(queue) == [("a", 0), ("b", 0), "shared", ("a", 1)]


def test_a_shared_task_stays_until_the_last_who_waits_for_it_has_left():
    queue = FairQueue()
    queue.put("shared", ["a"])
    queue.join("shared", "b")
    queue.leave("shared", "a")
    assert len(queue) == 1
    queue.leave("shared", "b")
    assert (len(queue), queue.take()) == (0, None)


def test_who_joins_a_task_that_is_being_done_has_it_done_no_second_time():
    queue = FairQueue()
    queue.put("shared", ["a"])
    assert queue.take() == "shared"
    queue.join("shared", "b")
    queue.done()
    assert queue.take() is None


class Visitors(RuleBasedStateMachine):
    """Sessions that ask, join, leave, and one worker, beside the simplest account of who waits for what."""

    def __init__(self):
        super().__init__()
        self.queue, self.waiting, self.current, self.number = FairQueue(), {}, None, 0

    @rule(sessions=st.sets(st.integers(0, 3), min_size=1))
    def ask(self, sessions):
        self.queue.put(self.number, sorted(sessions))
        self.waiting[self.number] = set(sessions)
        self.number += 1

    @precondition(lambda self: self.number)
    @rule(data=st.data(), session=st.integers(0, 3))
    def join(self, data, session):
        task = data.draw(st.integers(0, self.number - 1))
        self.queue.join(task, session)
        if task in self.waiting:
            self.waiting[task].add(session)

    @precondition(lambda self: self.number)
    @rule(data=st.data(), session=st.integers(0, 3))
    def leave(self, data, session):
        task = data.draw(st.integers(0, self.number - 1))
        self.queue.leave(task, session)
        if task in self.waiting:
            self.waiting[task].discard(session)
            if not self.waiting[task]:
                del self.waiting[task]

    @precondition(lambda self: self.current is None)
    @rule()
    def take(self):
        places = {task: self.queue.place(task) for task in self.waiting}
        self.current = self.queue.take()
        assert (self.current is None) == (not self.waiting)
        if self.waiting:
            assert places[self.current].ahead == 0
            del self.waiting[self.current]

    @precondition(lambda self: self.current is not None)
    @rule()
    def end(self):
        self.queue.done()
        self.current = None

    @invariant()
    def nothing_is_lost(self):
        assert len(self.queue) == len(self.waiting)
        assert self.queue.busy == (self.current is not None)
        places = sorted(self.queue.place(task).ahead for task in self.waiting)
        begun = self.current is not None
        assert places == list(range(begun, begun + len(places)))


test_no_task_is_lost_or_done_twice_whatever_visitors_do = Visitors.TestCase


# --- the place, and how long it takes -----------------------------------------------------------------------


@given(arrivals, st.data())
def test_the_place_is_how_many_are_done_before(tasks, data):
    queue = FairQueue()
    put(queue, *tasks)
    for _ in range(data.draw(st.integers(0, len(tasks)))):
        queue.take()
        queue.done()
    begun = queue.take()
    places = {task: place.ahead for task in tasks if (place := queue.place(task))}
    queue.done()
    order = [*filter(None, [begun]), *served(queue)]
    assert places == {task: turn for turn, task in enumerate(order) if task != begun}


@pytest.fixture
def time():
    """A clock that is set by hand, in seconds."""
    return {"now": 0.0}


def do(queue, time, seconds, **done):
    queue.take()
    time["now"] += seconds
    queue.done(**done)


def test_the_time_is_that_of_the_tasks_before_and_of_the_rest_of_the_one_that_is_being_done(time):
    queue = FairQueue(lambda: time["now"])
    queue.put("a", [1], "short")
    queue.put("b", [2], "long")
    assert queue.place("b") == Place(1, None)
    do(queue, time, 2.0)
    do(queue, time, 10.0)
    for name, kind in (("c", "long"), ("d", "short"), ("e", "short"), ("f", "of another kind")):
        queue.put(name, [name], kind)
    assert queue.place("f") == Place(3, 14.0)
    queue.take()
    time["now"] += 4
    assert queue.place("f") == Place(3, 10.0)
    time["now"] += 100
    assert queue.place("f") == Place(3, 4.0)
    queue.put("g", ["g"])
    assert queue.place("g") == Place(4, 4.0 + 6.0)


def test_the_last_durations_count_most_and_what_is_not_typical_counts_nothing(time):
    queue = FairQueue(lambda: time["now"])
    for number, seconds in enumerate([1.0, *[3.0] * 30, 100.0]):
        queue.put(number, [0])
        do(queue, time, seconds, typical=seconds < 100)
    queue.put("first", [0])
    queue.put("second", [0])
    assert queue.place("second").seconds == pytest.approx(3, abs=0.01)
    assert queue.place("no such task") is None
