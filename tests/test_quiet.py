"""TensorFlow's own log lines stay out of a person's terminal."""

import os

import pytest

from cait_viz._backend import standard_error_held


def test_what_is_written_to_standard_error_meanwhile_is_not_shown(capfd):
    with standard_error_held():
        os.write(2, b"a log line\n")
    os.write(2, b"afterwards\n")
    assert capfd.readouterr().err == "afterwards\n"


def test_what_was_held_is_shown_if_it_explains_a_failure(capfd):
    @standard_error_held()
    def start():
        os.write(2, b"no such instruction\n")
        raise ImportError

    with pytest.raises(ImportError):
        start()
    os.write(2, b"afterwards\n")
    assert capfd.readouterr().err == "no such instruction\nafterwards\n"
