"""Batches follow from the step's number, in a seeded order, with the targets that belong to them."""

import itertools
import threading

import numpy as np
import pytest
from PIL import Image

from cait_viz.images.preprocess import IMAGENET_MEAN, IMAGENET_STD
from cait_viz.training.cache import decode
from cait_viz.training.config import Augmentation, Stage, TrainingConfig
from cait_viz.training.loader import Dataset, Loader
from cait_viz.training.teacher import Teacher, TeacherCache

PLAIN = Augmentation(crop_scale=1.0, flip=0.0, color_jitter=0.0, mixup=0.0)


def make_config(**changes):
    return TrainingConfig(**{"stages": (Stage(32, 1),), "batch_size": 4, "augmentation": PLAIN, **changes})


@pytest.fixture
def make_loader(gray_images):
    def make(weights=None, teacher=None, labels=None, **changes):
        labels = np.arange(len(gray_images)) % 3 if labels is None else labels
        weights = np.ones(len(gray_images)) if weights is None else np.array(weights, float)
        return Loader(Dataset(gray_images, labels, weights), 3, make_config(**changes), teacher)

    return make


def brightness(images):
    """The gray of each image, which is its number."""
    shown = images[:, 0, 0] * IMAGENET_STD + IMAGENET_MEAN
    return np.rint(255 * shown[:, 0] / 10).astype(int).tolist()


def test_an_epoch_shows_every_image_once_in_an_order_of_its_own(make_loader):
    loader = make_loader()
    assert loader.steps_per_epoch == 3
    epochs = [[brightness(loader.batch(3 * epoch + step, 32)[0]) for step in range(3)] for epoch in range(2)]
    for epoch in epochs:
        assert sorted(itertools.chain(*epoch)) == list(range(12))
    assert epochs[0] != epochs[1]


def test_a_batch_is_the_same_whenever_it_is_asked_for(make_loader):
    changes = {"augmentation": Augmentation()}
    stream = list(make_loader(**changes).stream(0, 6, 32, ahead=2))
    images, targets = make_loader(**changes).batch(4, 32)
    np.testing.assert_array_equal(stream[4][0], images)
    np.testing.assert_array_equal(stream[4][1]["classes"], targets["classes"])
    assert len(stream) == 6


def test_the_network_is_given_what_it_is_evaluated_with(make_loader):
    images, _ = make_loader().batch(0, 32)
    assert images.shape == (4, 32, 32, 3)
    assert images.dtype == np.float32
    assert np.abs(images).max() < 3


def test_labels_are_smoothed(make_loader):
    images, targets = make_loader(label_smoothing=0.3).batch(0, 32)
    for number, row in zip(brightness(images), targets["classes"], strict=True):
        wanted = np.full(3, 0.1)
        wanted[number % 3] += 0.7
        np.testing.assert_allclose(row, wanted, atol=1e-6)


def test_a_weight_says_how_often_an_epoch_shows_an_image(make_loader):
    loader = make_loader([1, 0, 0.25, 0.25, 0.25, 0.25, 2, 1, 1, 0, 0, 3], batch_size=9)
    assert loader.steps_per_epoch == 1
    epochs = [brightness(loader.batch(epoch, 32)[0]) for epoch in range(100)]
    for epoch in epochs:
        assert [epoch.count(number) for number in (0, 1, 6, 7, 8, 9, 10, 11)] == [1, 0, 2, 1, 1, 0, 0, 3]
    seldom = [sum(epoch.count(number) for epoch in epochs) for number in (2, 3, 4, 5)]
    assert sum(seldom) == 100
    assert min(seldom) > 10


def test_an_image_shown_three_times_is_shown_in_three_views(make_loader):
    weights = np.zeros(12)
    weights[[9, 11]] = 3, 1
    loader = make_loader(weights, augmentation=Augmentation(mixup=0.0), batch_size=4)
    images, _ = loader.batch(0, 32)
    assert loader.steps_per_epoch == 1
    firsts = {image.tobytes() for image in images}
    assert len(firsts) == 4
    later = {image.tobytes() for image in loader.batch(1, 32)[0]}
    assert firsts != later


def test_a_batch_reaches_into_the_next_epoch_and_none_is_shown_less_often(make_loader):
    loader = make_loader(batch_size=5)
    assert loader.steps_per_epoch == 12 / 5
    shown = [number for step in range(12) for number in brightness(loader.batch(step, 32)[0])]
    assert [sorted(shown[start : start + 12]) for start in range(0, 60, 12)] == [list(range(12))] * 5
    assert [loader.epochs_done(step) for step in (0, 2, 3, 5, 12)] == [0, 0, 1, 2, 5]


def test_with_fewer_images_than_a_batch_all_of_them_are_one(make_loader):
    loader = make_loader(batch_size=64)
    assert (loader.batch_size, loader.steps_per_epoch) == (12, 1)
    assert loader.batch(0, 32)[0].shape[0] == 12


@pytest.fixture
def make_teacher_cache(teacher_file, gray_images, tmp_path):
    def make(views=0):
        return TeacherCache(Teacher(teacher_file, 32), len(gray_images), views, tmp_path)

    return make


def test_a_student_learns_the_teachers_outputs_for_the_very_view_it_sees(make_loader, make_teacher_cache):
    changes = {"augmentation": Augmentation(mixup=1.0), "label_weight": 0.0}
    loader = make_loader(teacher=make_teacher_cache(), **changes)
    images, targets = loader.batch(0, 32)
    means = (images.mean(axis=(1, 2)) * IMAGENET_STD + IMAGENET_MEAN) * 10
    wanted = np.exp(means) / np.exp(means).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(targets["classes"], wanted, atol=2e-3)
    assert targets["features"].shape == (4, 2, 2, 3)


def test_labels_count_by_their_weight_and_only_where_there_are_any(make_loader, make_teacher_cache):
    labels = np.array([0, -1] * 6)
    changes = {"label_weight": 0.5, "label_smoothing": 0.0}
    images, targets = make_loader(teacher=make_teacher_cache(), labels=labels, **changes).batch(0, 32)
    taught = make_loader(teacher=make_teacher_cache(), label_weight=0.0).batch(0, 32)[1]["classes"]
    for number, row, said in zip(brightness(images), targets["classes"], taught, strict=True):
        wanted = said if labels[number] < 0 else 0.5 * said + 0.5 * np.eye(3)[0]
        np.testing.assert_allclose(row, wanted, atol=1e-6)
        assert row.sum() == pytest.approx(1)


def test_a_students_labels_are_smoothed_too(make_loader, make_teacher_cache):
    changes = {"labels": np.array([0, -1] * 6), "label_weight": 1.0, "label_smoothing": 0.3}
    images, targets = make_loader(teacher=make_teacher_cache(), **changes).batch(0, 32)
    labeled = [number % 2 == 0 for number in brightness(images)]
    np.testing.assert_allclose(targets["classes"][labeled], [[0.8, 0.1, 0.1]] * sum(labeled), atol=1e-6)


def test_targets_are_distributions_whatever_is_mixed(make_loader, make_teacher_cache):
    labels = np.array([0, -1, 2] * 4)
    changes = {"augmentation": Augmentation(mixup=1.0), "label_weight": 0.7}
    loader = make_loader(teacher=make_teacher_cache(), labels=labels, **changes)
    for step in range(3):
        np.testing.assert_allclose(loader.batch(step, 32)[1]["classes"].sum(axis=1), 1, atol=1e-5)


def test_features_are_standardized(make_loader, make_teacher_cache):
    loader = make_loader(teacher=make_teacher_cache(), batch_size=12)
    features = loader.batch(0, 32)[1]["features"]
    np.testing.assert_allclose(features.mean(axis=(0, 1, 2)), 0, atol=1e-2)
    np.testing.assert_allclose(features.std(axis=(0, 1, 2)), 1, atol=1e-2)


def test_kept_views_are_shown_again(make_loader, make_teacher_cache):
    changes = {"augmentation": Augmentation(), "kept_views": 2, "batch_size": 12}
    loader = make_loader(teacher=make_teacher_cache(2), **changes)
    shown = [{image.tobytes() for image in loader.batch(epoch, 32)[0]} for epoch in range(4)]
    assert shown[0] == shown[2]
    assert shown[1] == shown[3]
    assert shown[0] != shown[1]


def test_stopping_early_leaves_no_thread_waiting(make_loader):
    loader, makers = make_loader(), set()
    make = loader.batch

    def watched(*arguments):
        makers.add(threading.current_thread())
        return make(*arguments)

    loader.batch = watched
    stream = loader.stream(0, 100, 32, ahead=3)
    next(stream)
    stream.close()
    [maker] = makers
    assert maker is not threading.current_thread()
    maker.join(60)
    assert not maker.is_alive()


def test_mixed_labels_need_no_teacher(make_loader):
    loader = make_loader(augmentation=Augmentation(mixup=1.0), label_smoothing=0.0)
    np.testing.assert_allclose(loader.batch(0, 32)[1]["classes"].sum(axis=1), 1, atol=1e-5)


def test_the_teacher_sees_the_same_part_of_the_image(teacher_file, tmp_path):
    generator = np.random.default_rng(0)
    files = [tmp_path / f"{number}.png" for number in range(4)]
    for path in files:
        blobs = generator.integers(0, 256, (5, 6, 3), dtype=np.uint8)
        Image.fromarray(blobs).resize((60, 50), Image.Resampling.BICUBIC).save(path)
    images = decode(files, 64, tmp_path / "cache", print)
    teacher = TeacherCache(Teacher(teacher_file, 32), len(images), 0, tmp_path)
    config = make_config(augmentation=Augmentation(crop_scale=0.2, mixup=1.0))
    loader = Loader(Dataset(images, np.zeros(4, int), np.ones(4)), 3, config, teacher)
    batch, targets = loader.batch(0, 32)
    # The tiny teacher's features are the means of its patches of 16 pixels.
    seen = (batch * IMAGENET_STD + IMAGENET_MEAN).reshape(4, 2, 16, 2, 16, 3).mean(axis=(2, 4))
    mean, deviation = loader.feature_scale
    np.testing.assert_allclose(targets["features"] * deviation + mean, seen, atol=2e-3)
