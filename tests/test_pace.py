"""How long a training still takes, at several resolutions."""

import pytest

from cait_viz.training.progress import Pace


def counted(pace, first, last, seconds_per_step, seconds=0.0):
    for step in range(first, last + 1):
        seconds += seconds_per_step
        pace.count(step, seconds)
    return seconds


def test_time_left_grows_with_the_area_of_the_pictures_to_come():
    pace = Pace((100, 200), (112, 224))
    assert pace.left == "?"
    counted(pace, 1, 60, 1.0)
    assert pace.steps_per_second == pytest.approx(1.0)
    assert pace.left == "07:20"  # 40 steps of a second, 100 of four


def test_the_pace_is_that_of_the_present_resolution_and_not_of_its_first_step():
    pace = Pace((100, 200), (112, 224))
    seconds = counted(pace, 1, 100, 1.0)
    assert pace.left == "06:40"
    pace.count(101, seconds + 50)  # TensorFlow compiles it
    assert pace.left == "?"
    counted(pace, 102, 150, 3.0, seconds + 50)
    assert pace.left == "02:30"


def test_a_training_taken_up_again_is_timed_from_there_on():
    pace = Pace((1000,), (224,))
    counted(pace, 901, 911, 2.0, seconds=1e6)
    assert pace.left == "02:58"


def test_at_the_end_nothing_is_left():
    pace = Pace((5,), (224,))
    counted(pace, 1, 5, 1.0)
    assert pace.left == "00:00"
