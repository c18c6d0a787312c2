"""Views: the same for the same numbers, within the image, and mixed as their labels are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cait_viz.training.augmentation import (
    AugmentedView,
    Crop,
    draw_view,
    mixed_labels,
    render,
)
from cait_viz.training.config import Augmentation

PLAIN = Augmentation(crop_scale=1.0, flip=0.0, color_jitter=0.0, mixup=0.0)


class Images:
    """Stands in for `DecodedImages`."""

    def __init__(self, *images):
        self.images = images
        self.sizes = np.array([image.size[::-1] for image in images])

    def __getitem__(self, number):
        return self.images[number]


def noise(height, width, seed=0):
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def whole(image, number=0, **changes):
    width, height = image.size
    crop = Crop(number, (0.0, 0.0, float(width), float(height)), False, 1.0, 1.0, 1.0)
    return AugmentedView(crop._replace(**changes), None, 1.0)


@given(
    st.lists(st.tuples(st.integers(1, 400), st.integers(1, 400)), min_size=1, max_size=4),
    st.floats(0.01, 1),
    st.integers(0, 2**32),
    st.integers(0, 99),
)
def test_a_crop_lies_within_its_image_and_is_large_enough(sizes, smallest, seed, number):
    sizes = np.array(sizes)
    view = draw_view(Augmentation(crop_scale=smallest), sizes, seed, 0, number)
    assert view.first.image == 0
    assert 0.5 <= view.share <= 1
    assert (view.second is None) == (view.share == 1)
    for crop in filter(None, (view.first, view.second)):
        left, top, right, bottom = crop.box
        height, width = sizes[crop.image]
        assert 0 <= left < right <= width + 1e-9
        assert 0 <= top < bottom <= height + 1e-9
        assert all(0.7 <= factor <= 1.3 for factor in (crop.brightness, crop.contrast, crop.saturation))
        fits_whole = 3 / 4 <= width / height <= 4 / 3
        if fits_whole:
            assert (right - left) * (bottom - top) >= smallest * width * height * 0.999


def test_a_view_depends_on_seed_image_and_number_and_on_nothing_else():
    sizes = np.array([[40, 50], [60, 30], [33, 44]])
    how = Augmentation()
    view = draw_view(how, sizes, 3, 1, 5)
    np.random.default_rng(0).random(100)
    assert draw_view(how, sizes, 3, 1, 5) == view
    assert draw_view(how, sizes, 4, 1, 5) != view
    assert draw_view(how, sizes, 3, 2, 5) != view
    assert draw_view(how, sizes, 3, 1, 6) != view


def test_teacher_and_student_see_the_same_view_at_their_own_resolutions():
    images = Images(noise(20, 30).resize((300, 200), Image.Resampling.BICUBIC), noise(9, 9, 1))
    view = draw_view(Augmentation(), images.sizes, 0, 0, 0)
    small = np.asarray(render(view, images, 56), float)
    large = np.asarray(render(view, images, 224).resize((56, 56), Image.Resampling.BOX), float)
    assert np.abs(small - large).mean() < 3


def test_a_whole_plain_view_is_the_resized_image():
    image = noise(40, 60)
    images = Images(image)
    view = draw_view(PLAIN, images.sizes, 0, 0, 0)
    assert view.second is None
    shown = render(whole(image), images, 32)
    np.testing.assert_array_equal(
        np.asarray(shown), np.asarray(image.resize((32, 32), Image.Resampling.BICUBIC))
    )


def test_a_mirrored_view_exchanges_left_and_right():
    image = noise(32, 32)
    images = Images(image)
    plain, mirrored = (np.asarray(render(whole(image, mirrored=m), images, 32)) for m in (False, True))
    np.testing.assert_array_equal(mirrored, plain[:, ::-1])


def test_half_the_views_are_mirrored():
    sizes = np.array([[32, 32]])
    mirrored = [draw_view(Augmentation(), sizes, 0, 0, number).first.mirrored for number in range(400)]
    assert 150 < sum(mirrored) < 250


def test_brightness_contrast_and_saturation_do_what_their_names_say():
    image = Image.fromarray(np.asarray(noise(32, 32)) // 4 + 90)
    images = Images(image)
    plain = np.asarray(render(whole(image), images, 32), float)
    brighter = np.asarray(render(whole(image, brightness=1.2), images, 32), float)
    np.testing.assert_allclose(brighter, 1.2 * plain, atol=1)
    gray = np.asarray(render(whole(image, saturation=0.0), images, 32), float)
    np.testing.assert_allclose(gray, np.broadcast_to(plain @ [[0.299], [0.587], [0.114]], gray.shape), atol=1)
    flat = np.asarray(render(whole(image, contrast=0.0), images, 32), float)
    assert flat.std() < 1
    assert flat.mean() == pytest.approx((plain @ [0.299, 0.587, 0.114]).mean(), abs=1)


def test_mixup_mixes_images_and_labels_alike():
    red, blue = (Image.new("RGB", (20, 20), color) for color in ((255, 0, 0), (0, 0, 255)))
    images = Images(red, blue)
    view = AugmentedView(whole(red).first, whole(blue, 1).first, 0.75)
    shown = np.asarray(render(view, images, 8), float)
    np.testing.assert_allclose(shown[3, 3] / 255, [0.75, 0, 0.25], atol=0.01)
    np.testing.assert_allclose(mixed_labels(view, np.array([2, 0]), 3), [0.25, 0, 0.75])


def test_a_image_without_a_label_leaves_its_share_open():
    view = AugmentedView(whole(noise(9, 9)).first, whole(noise(9, 9), 1).first, 0.75)
    np.testing.assert_allclose(mixed_labels(view, np.array([1, -1]), 3), [0, 0.75, 0])
    np.testing.assert_allclose(mixed_labels(view, np.array([-1, -1]), 3), [0, 0, 0])


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 99))
def test_images_smaller_than_the_input_are_shown_all_the_same(height, width, number):
    images = Images(noise(height, width), noise(7, 5))
    shown = render(draw_view(Augmentation(mixup=1.0), images.sizes, 0, 0, number), images, 64)
    assert shown.size == (64, 64)
    assert shown.mode == "RGB"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("crop_scale", 0),
        ("crop_scale", 1.1),
        ("flip", 2),
        ("color_jitter", 1),
        ("color_jitter", -1),
        ("mixup", -0.1),
    ],
)
def test_a_value_out_of_its_range_is_named(name, value):
    with pytest.raises(ValueError, match=f"{name} must be .*{value}"):
        Augmentation(**{name: value})
