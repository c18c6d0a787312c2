"""Turns at drawing the page."""

import threading
import time

import pytest

from cait_viz.serving.turns import Turns

PATIENCE = 60  # seconds


def work(turns, count, body):
    """Let so many threads work, each by a function of its number."""

    def one(number):
        with turns.turn():
            body(number)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert not any(thread.is_alive() for thread in threads)


def test_no_more_work_at_a_time_than_there_are_places():
    now, most, lock = [0], [0], threading.Lock()

    def body(_):
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.01)
        with lock:
            now[0] -= 1

    work(Turns(2), 8, body)
    assert most == [2]


def test_who_waits_for_something_else_leaves_the_turn_to_others():
    turns, answered, done = Turns(1), threading.Event(), []

    def body(number):
        if number == 0:
            with turns.away():
                assert answered.wait(PATIENCE)
        else:
            answered.set()
        done.append(number)

    work(turns, 2, body)
    assert sorted(done) == [0, 1]


def test_a_turn_that_ends_with_an_error_is_free_again_even_while_away():
    turns = Turns(1)
    for _ in range(3):
        with pytest.raises(KeyError), turns.turn():
            raise KeyError
        with pytest.raises(KeyError), turns.turn(), turns.away():
            raise KeyError
    with turns.away():  # without one
        pass
    work(turns, 2, lambda _: None)
