import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cait_viz.errors import CaitVizError, ImageError, SelectionError
from cait_viz.images.preprocess import (
    VIEWS,
    Box,
    normalize,
    prepare,
    resize_and_crop,
    seen_box,
)
from cait_viz.images.read import load_image

SIDES = st.integers(min_value=1, max_value=400)
IMAGE_SIZES = st.sampled_from((32, 48, 224, 384))


def noise(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(width * 1000 + height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def torchvision_restated(image: Image.Image, side: int) -> np.ndarray:
    """Resize(side, bicubic), CenterCrop(side), ToTensor and Normalize, in other words than the library's."""
    width, height = image.size
    short, long = sorted((width, height))
    new_long = int(side * long / short)
    new_size = (side, new_long) if width <= height else (new_long, side)
    array = np.asarray(image.resize(new_size, resample=Image.BICUBIC))
    top = int(round((array.shape[0] - side) / 2.0))  # noqa: RUF046
    left = int(round((array.shape[1] - side) / 2.0))  # noqa: RUF046
    tensor = array[top : top + side, left : left + side].astype(np.float32).transpose(2, 0, 1)
    tensor /= np.float32(255)
    tensor -= np.array([0.485, 0.456, 0.406], np.float32)[:, None, None]
    tensor /= np.array([0.229, 0.224, 0.225], np.float32)[:, None, None]
    return tensor.transpose(1, 2, 0)[None]


@settings(max_examples=60)
@given(width=SIDES, height=SIDES, side=IMAGE_SIZES)
def test_the_crop_is_torchvisions_to_the_last_bit(width, height, side):
    if max(width, height) > 100 * min(width, height):
        width = height
    image = noise(width, height)
    np.testing.assert_array_equal(prepare(image, side), torchvision_restated(image, side))


@settings(max_examples=200)
@given(
    width=st.integers(1, 12_000), height=st.integers(1, 12_000), side=IMAGE_SIZES, view=st.sampled_from(VIEWS)
)
def test_the_seen_box_lies_in_the_image_and_has_pixels(width, height, side, view):
    box = seen_box((width, height), side, view)
    assert 0 <= box.left < box.right <= width
    assert 0 <= box.top < box.bottom <= height
    left, top, right, bottom = box.pixels()
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    assert all(isinstance(edge, int) for edge in box.pixels())


@settings(max_examples=100)
@given(width=st.integers(1, 12_000), height=st.integers(1, 12_000), side=IMAGE_SIZES)
def test_the_crop_keeps_the_whole_short_side_and_the_middle_of_the_long_one(width, height, side):
    box = seen_box((width, height), side, "crop")
    if width <= height:
        assert (box.left, box.right) == (0, width)
    if height <= width:
        assert (box.top, box.bottom) == (0, height)
    # The start is rounded to a pixel of the resized image, whose long side lost up to one to whole pixels.
    resized_pixel = min(width, height) / (side - 1)
    assert abs(box.left + box.right - width) <= resized_pixel
    assert abs(box.top + box.bottom - height) <= resized_pixel


def test_a_photograph_of_500_by_333_is_cut_as_worked_out_by_hand():
    # 224 · 500 / 333 = 336.3…, cut off to 336; (336 − 224) / 2 = 56; 56 of 336 are 1/6 of 500.
    box = seen_box((500, 333), 224, "crop")
    assert box == pytest.approx((500 / 6, 0, 500 - 500 / 6, 333))
    assert box.pixels() == (83, 0, 417, 333)


def test_a_crop_that_starts_on_a_half_goes_to_the_even_pixel():
    # 224 · 227 / 224 = 227 wide: (227 − 224) / 2 = 1.5 → 2; and 225 wide: 0.5 → 0.
    assert seen_box((227, 224), 224, "crop") == (2, 0, 226, 224)
    assert seen_box((225, 224), 224, "crop") == (0, 0, 224, 224)
    assert seen_box((224, 229), 224, "crop") == (0, 2, 224, 226)


def test_the_seen_box_is_the_part_that_the_network_gets():
    image = Image.new("RGB", (448, 224), "black")
    box = seen_box(image.size, 224, "crop")
    image.paste("white", box.pixels())
    assert np.asarray(resize_and_crop(image, 224)).min() == 255
    image.paste("white", (0, 0, 448, 224))
    image.paste("black", box.pixels())
    assert np.asarray(resize_and_crop(image, 224)).max() == 0


def test_the_whole_view_shows_every_corner_of_the_image():
    image = Image.new("RGB", (600, 100), "black")
    image.paste("white", (0, 0, 60, 100))
    image.paste("red", (540, 0, 600, 100))
    seen = np.asarray(resize_and_crop(image, 224, "squash"))
    assert seen.shape == (224, 224, 3)
    assert (seen[:, :20] == 255).all()
    assert (seen[:, -20:] == (255, 0, 0)).all()
    assert seen_box(image.size, 224, "squash") == (0, 0, 600, 100)
    assert seen_box(image.size, 224, "squash").pixels() == (0, 0, 600, 100)


def test_the_whole_view_is_antialiased():
    # A chessboard of single pixels is an even gray from afar; a resize without antialiasing picks squares.
    board = (np.indices((896, 448)).sum(axis=0) % 2 * 255).astype(np.uint8)
    seen = np.asarray(resize_and_crop(Image.fromarray(board).convert("RGB"), 224, "squash"))
    assert seen[8:-8, 8:-8].min() >= 126
    assert seen[8:-8, 8:-8].max() <= 129


def test_an_image_of_the_networks_size_passes_unchanged_in_either_view():
    image = noise(224, 224)
    for view in VIEWS:
        assert resize_and_crop(image, 224, view).tobytes() == image.tobytes()


@pytest.mark.parametrize("size", [(1, 1), (1, 100), (100, 1), (3, 2), (2000, 20)])
@pytest.mark.parametrize("view", VIEWS)
def test_tiny_and_narrow_images_fill_the_network(size, view):
    pixels = prepare(Image.new("RGB", size, (124, 116, 104)), 224, view)
    assert pixels.shape == (1, 224, 224, 3)
    assert pixels.dtype == np.float32
    # That color is ImageNet's mean, up to rounding.
    assert np.abs(pixels).max() < 0.01


def test_normalizing_black_and_white_gives_the_known_numbers():
    pixels = np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8)
    normal = normalize(pixels)
    assert normal.dtype == np.float32
    np.testing.assert_allclose(normal[0, 0], [-2.117904, -2.035714, -1.804444], rtol=1e-6)
    np.testing.assert_allclose(normal[0, 1], [2.248908, 2.428571, 2.64], rtol=1e-6)


def test_channels_stay_red_green_blue():
    red = prepare(Image.new("RGB", (300, 224), "red"), 224)
    assert (red[..., 0] > 2).all()
    assert (red[..., 1:] < -1.8).all()


def test_an_unknown_view_is_refused_by_name():
    for attempt in (
        lambda: seen_box((10, 10), 224, "center"),
        lambda: resize_and_crop(noise(10, 10), 224, "center"),
        lambda: prepare(noise(10, 10), 224, "center"),
    ):
        with pytest.raises(SelectionError, match=r"'center'.*crop, squash") as caught:
            attempt()
        assert isinstance(caught.value, CaitVizError)


def test_an_image_is_prepared_from_any_source_and_a_loaded_one_without_its_file(tmp_path):
    path = tmp_path / "photo.png"
    noise(60, 40).save(path)
    loaded = load_image(path)
    from_path = prepare(path, 32)
    for source in (path.read_bytes(), noise(60, 40), np.asarray(noise(60, 40)), loaded):
        path.unlink(missing_ok=True)
        np.testing.assert_array_equal(prepare(source, 32), from_path)


def test_what_is_no_image_is_refused_before_preparing():
    with pytest.raises(ImageError):
        prepare(b"", 224)


@given(
    low=st.floats(0, 100, exclude_max=True),
    length=st.floats(1e-6, 50),
)
def test_whole_pixels_never_leave_the_box_empty(low, length):
    left, top, right, bottom = Box(low, low, low + length, low + length).pixels()
    assert right > left
    assert bottom > top
    assert left >= 0
    assert right < low + length + 1
