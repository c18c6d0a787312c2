"""How long a training still takes, at several resolutions."""

import pytest

from cait_viz.training.logs import Progress


def counted(progress, first, last, seconds_per_step, seconds=0.0):
    for step in range(first, last + 1):
        seconds += seconds_per_step
        progress.update(step, seconds)
    return seconds


def test_time_left_grows_with_the_area_of_the_images_to_come():
    progress = Progress((100, 200), (112, 224))
    assert progress.time_left == "?"
    counted(progress, 1, 60, 1.0)
    assert progress.steps_per_second == pytest.approx(1.0)
    assert progress.time_left == "07:20"  # 40 steps of a second, 100 of four


def test_the_speed_is_that_of_the_current_resolution_without_its_first_step():
    progress = Progress((100, 200), (112, 224))
    seconds = counted(progress, 1, 100, 1.0)
    assert progress.time_left == "06:40"
    progress.update(101, seconds + 50)  # TensorFlow compiles it
    assert progress.time_left == "?"
    counted(progress, 102, 150, 3.0, seconds + 50)
    assert progress.time_left == "02:30"


def test_a_resumed_training_is_timed_from_there_on():
    progress = Progress((1000,), (224,))
    counted(progress, 901, 911, 2.0, seconds=1e6)
    assert progress.time_left == "02:58"


def test_at_the_end_nothing_is_left():
    progress = Progress((5,), (224,))
    counted(progress, 1, 5, 1.0)
    assert progress.time_left == "00:00"
