"""Batches: a function of the step's number, in a seeded order, with the targets that belong to them."""

import itertools

import numpy as np
import pytest
from PIL import Image

from cait_viz.images.preprocess import IMAGENET_MEAN, IMAGENET_STD
from cait_viz.training.config import Augmentation, Stage, TrainingConfig
from cait_viz.training.datasets import decode
from cait_viz.training.loader import Batches
from cait_viz.training.teacher import Teacher, TeacherCache

PLAIN = Augmentation(crop_scale=1.0, flip=0.0, color_jitter=0.0, mixup=0.0)


def recipe(**changes):
    return TrainingConfig(**{"stages": (Stage(32, 1),), "batch_size": 4, "augmentation": PLAIN, **changes})


@pytest.fixture
def batches(coloured_pixels):
    def make(weights=None, lessons=None, labels=None, **changes):
        pixels = coloured_pixels
        labels = np.arange(len(pixels)) % 3 if labels is None else labels
        weights = np.ones(len(pixels)) if weights is None else np.array(weights, float)
        return Batches(pixels, labels, weights, 3, recipe(**changes), lessons)

    return make


def brightness(images):
    """The colour of each picture, which is its number."""
    shown = images[:, 0, 0] * IMAGENET_STD + IMAGENET_MEAN
    return np.rint(255 * shown[:, 0] / 10).astype(int).tolist()


def test_an_epoch_shows_every_picture_once_in_an_order_of_its_own(batches):
    made = batches()
    assert made.steps_per_epoch == 3
    epochs = [[brightness(made.batch(3 * epoch + step, 32)[0]) for step in range(3)] for epoch in range(2)]
    for epoch in epochs:
        assert sorted(itertools.chain(*epoch)) == list(range(12))
    assert epochs[0] != epochs[1]


def test_a_batch_is_the_same_whenever_it_is_asked_for(batches):
    how = {"augmentation": Augmentation()}
    stream = list(batches(**how).stream(0, 6, 32, ahead=2))
    images, targets = batches(**how).batch(4, 32)
    np.testing.assert_array_equal(stream[4][0], images)
    np.testing.assert_array_equal(stream[4][1]["classes"], targets["classes"])
    assert len(stream) == 6


def test_the_network_is_given_what_it_is_evaluated_with(batches):
    images, _ = batches().batch(0, 32)
    assert images.shape == (4, 32, 32, 3)
    assert images.dtype == np.float32
    assert np.abs(images).max() < 3


def test_labels_are_smoothed(batches):
    images, targets = batches(label_smoothing=0.3).batch(0, 32)
    for number, row in zip(brightness(images), targets["classes"], strict=True):
        wanted = np.full(3, 0.1)
        wanted[number % 3] += 0.7
        np.testing.assert_allclose(row, wanted, atol=1e-6)


def test_a_weight_says_how_often_an_epoch_shows_a_picture(batches):
    made = batches([1, 0, 0.25, 0.25, 0.25, 0.25, 2, 1, 1, 0, 0, 3], batch_size=9)
    assert made.steps_per_epoch == 1
    epochs = [brightness(made.batch(epoch, 32)[0]) for epoch in range(100)]
    for epoch in epochs:
        assert [epoch.count(number) for number in (0, 1, 6, 7, 8, 9, 10, 11)] == [1, 0, 2, 1, 1, 0, 0, 3]
    seldom = [sum(epoch.count(number) for epoch in epochs) for number in (2, 3, 4, 5)]
    assert sum(seldom) == 100
    assert min(seldom) > 10


def test_a_picture_shown_three_times_is_shown_each_time_in_another_view(batches):
    weights = np.zeros(12)
    weights[[9, 11]] = 3, 1
    made = batches(weights, augmentation=Augmentation(mixup=0.0), batch_size=4)
    images, _ = made.batch(0, 32)
    assert made.steps_per_epoch == 1
    firsts = {image.tobytes() for image in images}
    assert len(firsts) == 4
    later = {image.tobytes() for image in made.batch(1, 32)[0]}
    assert firsts != later


def test_a_batch_reaches_into_the_next_epoch_and_none_is_shown_less_often(batches):
    made = batches(batch_size=5)
    assert made.steps_per_epoch == 12 / 5
    shown = [number for step in range(12) for number in brightness(made.batch(step, 32)[0])]
    assert [sorted(shown[start : start + 12]) for start in range(0, 60, 12)] == [list(range(12))] * 5
    assert [made.epochs(step) for step in (0, 2, 3, 5, 12)] == [0, 0, 1, 2, 5]


def test_with_fewer_pictures_than_a_batch_all_of_them_are_one(batches):
    made = batches(batch_size=64)
    assert (made.size, made.steps_per_epoch) == (12, 1)
    assert made.batch(0, 32)[0].shape[0] == 12


@pytest.fixture
def lessons(teacher_file, coloured_pixels, tmp_path):
    def make(views=0):
        return TeacherCache(Teacher(teacher_file, 32), len(coloured_pixels), views, tmp_path, {})

    return make


def test_a_student_learns_what_the_teacher_says_of_the_very_view_it_sees(batches, lessons):
    how = {"augmentation": Augmentation(mixup=1.0), "label_weight": 0.0}
    made = batches(lessons=lessons(), **how)
    images, targets = made.batch(0, 32)
    means = (images.mean(axis=(1, 2)) * IMAGENET_STD + IMAGENET_MEAN) * 10
    wanted = np.exp(means) / np.exp(means).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(targets["classes"], wanted, atol=2e-3)
    assert targets["features"].shape == (4, 2, 2, 3)


def test_labels_count_by_their_weight_and_only_where_there_are_any(batches, lessons):
    labels = np.array([0, -1] * 6)
    how = {"label_weight": 0.5, "label_smoothing": 0.0}
    images, targets = batches(lessons=lessons(), labels=labels, **how).batch(0, 32)
    taught = batches(lessons=lessons(), label_weight=0.0).batch(0, 32)[1]["classes"]
    for number, row, said in zip(brightness(images), targets["classes"], taught, strict=True):
        wanted = said if labels[number] < 0 else 0.5 * said + 0.5 * np.eye(3)[0]
        np.testing.assert_allclose(row, wanted, atol=1e-6)
        assert row.sum() == pytest.approx(1)


def test_a_students_labels_are_smoothed_too(batches, lessons):
    how = {"labels": np.array([0, -1] * 6), "label_weight": 1.0, "label_smoothing": 0.3}
    images, targets = batches(lessons=lessons(), **how).batch(0, 32)
    labelled = [number % 2 == 0 for number in brightness(images)]
    np.testing.assert_allclose(targets["classes"][labelled], [[0.8, 0.1, 0.1]] * sum(labelled), atol=1e-6)


def test_targets_are_distributions_whatever_is_mixed(batches, lessons):
    labels = np.array([0, -1, 2] * 4)
    how = {"augmentation": Augmentation(mixup=1.0), "label_weight": 0.7}
    made = batches(lessons=lessons(), labels=labels, **how)
    for step in range(3):
        np.testing.assert_allclose(made.batch(step, 32)[1]["classes"].sum(axis=1), 1, atol=1e-5)


def test_features_are_standardised(batches, lessons):
    made = batches(lessons=lessons(), batch_size=12)
    features = made.batch(0, 32)[1]["features"]
    np.testing.assert_allclose(features.mean(axis=(0, 1, 2)), 0, atol=1e-2)
    np.testing.assert_allclose(features.std(axis=(0, 1, 2)), 1, atol=1e-2)


def test_kept_views_come_again(batches, lessons):
    how = {"augmentation": Augmentation(), "kept_views": 2, "batch_size": 12}
    made = batches(lessons=lessons(2), **how)
    shown = [{image.tobytes() for image in made.batch(epoch, 32)[0]} for epoch in range(4)]
    assert shown[0] == shown[2]
    assert shown[1] == shown[3]
    assert shown[0] != shown[1]


def test_stopping_early_leaves_no_thread_waiting(batches):
    stream = batches().stream(0, 100, 32, ahead=3)
    next(stream)
    stream.close()


def test_mixed_labels_need_no_teacher(batches):
    made = batches(augmentation=Augmentation(mixup=1.0), label_smoothing=0.0)
    np.testing.assert_allclose(made.batch(0, 32)[1]["classes"].sum(axis=1), 1, atol=1e-5)


def test_the_teacher_is_shown_the_same_part_of_the_picture(teacher_file, tmp_path):
    generator = np.random.default_rng(0)
    files = [tmp_path / f"{number}.png" for number in range(4)]
    for path in files:
        blobs = generator.integers(0, 256, (5, 6, 3), dtype=np.uint8)
        Image.fromarray(blobs).resize((60, 50), Image.Resampling.BICUBIC).save(path)
    pixels = decode(files, 64, tmp_path / "pixels", print)
    lessons = TeacherCache(Teacher(teacher_file, 32), len(pixels), 0, tmp_path, {})
    how = recipe(augmentation=Augmentation(crop_scale=0.2, mixup=1.0))
    made = Batches(pixels, np.zeros(4, int), np.ones(4), 3, how, lessons)
    images, targets = made.batch(0, 32)
    # The tiny teacher's features are the means of its patches of 16 pixels.
    shown = (images * IMAGENET_STD + IMAGENET_MEAN).reshape(4, 2, 16, 2, 16, 3).mean(axis=(2, 4))
    mean, deviation = made.feature_scale
    np.testing.assert_allclose(targets["features"] * deviation + mean, shown, atol=2e-3)
