"""Decoded images: decoded once, into one file, and the same as their files."""

import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from queue import Queue

import numpy as np
import pytest
from PIL import Image

from cait_viz.errors import DatasetError
from cait_viz.training.cache import decode, one_at_a_time


def save(path, size=(20, 16), color=(200, 10, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)
    return path


@pytest.fixture(scope="session")
def opened():
    """Collect the images that are opened inside a block."""
    lists = []
    sys.addaudithook(  # which cannot be removed
        lambda event, arguments: (
            [paths.append(str(arguments[0])) for paths in lists if str(arguments[0]).endswith(".png")]
            if event == "open"
            else None
        )
    )

    @contextmanager
    def collect():
        lists.append([])
        try:
            yield lists[-1]
        finally:
            lists.pop()

    return collect


def test_images_are_kept_as_they_are_or_no_larger_than_asked_for(tmp_path):
    small = save(tmp_path / "small.png", (20, 16), (1, 2, 3))
    large = save(tmp_path / "large.png", (200, 100), (9, 8, 7))
    images = decode([small, large], 32, tmp_path / "cache", print)
    assert len(images) == 2
    assert images[0].size == (20, 16)
    assert images[0].getpixel((3, 3)) == (1, 2, 3)
    assert images[1].size == (64, 32)
    assert images.sizes.tolist() == [[16, 20], [32, 64]]


def test_a_file_that_is_not_an_image_is_named_and_skipped(tmp_path):
    good = save(tmp_path / "good.png")
    bad = tmp_path / "bad.jpg"
    bad.write_text("no image")
    lines = []
    images = decode([bad, good, tmp_path / "gone.png"], 32, tmp_path / "cache", lines.append)
    assert len(images) == 1
    assert images.kept.tolist() == [1]
    assert [sentence.partition(":")[0] for sentence in lines] == [
        f"{tmp_path.name}/bad.jpg",
        f"{tmp_path.name}/gone.png",
    ]
    assert len(images.skipped) == 2


def test_files_of_which_none_is_an_image_are_refused(tmp_path):
    (tmp_path / "bad.jpg").write_text("no image")
    with pytest.raises(DatasetError, match="none of the 1 files"):
        decode([tmp_path / "bad.jpg"], 32, tmp_path / "cache", print)


def test_images_are_decoded_once_and_anew_when_one_has_changed(tmp_path, opened):
    path = save(tmp_path / "a.png")
    with opened() as reads:
        decode([path], 32, tmp_path / "cache", print)
        assert decode([path], 32, tmp_path / "cache", print)[0].size == (20, 16)
    assert reads == [str(path)]
    save(path, (30, 30), (0, 0, 0))
    with opened() as reads:
        assert decode([path], 32, tmp_path / "cache", print)[0].size == (30, 30)
    assert reads == [str(path)]


def test_images_that_were_decoded_before_an_interruption_are_not_decoded_again(tmp_path, opened):
    files = [save(tmp_path / f"{number:03}.png", (10 + number, 20), (number, 0, 0)) for number in range(150)]
    files[100].write_bytes(b"not an image")
    whole = decode(files, 32, tmp_path / "whole", lambda _: None)

    def interrupt(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        decode(files, 32, tmp_path / "cache", interrupt)
    with opened() as reads:
        images = decode(files, 32, tmp_path / "cache", lambda _: None)
    assert sorted(reads) == [str(path) for path in files[100:]]
    assert images.sizes.tolist() == whole.sizes.tolist()
    assert images.kept.tolist() == whole.kept.tolist()
    assert all(images[number].tobytes() == whole[number].tobytes() for number in range(149))


def test_two_trainings_do_not_decode_into_one_folder_at_once(tmp_path):
    path = save(tmp_path / "a.png")
    lines = Queue()
    with ThreadPoolExecutor(1) as pool:
        folder = tmp_path / decode([path], 32, tmp_path / "cache", print).digest
        (tmp_path / folder.name).mkdir()
        with one_at_a_time(folder, print):
            second = pool.submit(decode, [path], 32, tmp_path, lines.put)
            assert "another training is using it" in lines.get(timeout=30)
            assert not second.done()
            assert not (folder / "images.bin").exists()
        assert len(second.result(timeout=30)) == 1


def test_a_large_image_is_kept_as_the_network_is_evaluated_on_it(tmp_path):
    from cait_viz.images.preprocess import prepare

    random = np.random.default_rng(0).integers(0, 256, (90, 133, 3), dtype=np.uint8)
    Image.fromarray(random).save(tmp_path / "a.png")
    images = decode([tmp_path / "a.png"], 64, tmp_path / "cache", print)
    np.testing.assert_array_equal(prepare(images[0], 64), prepare(tmp_path / "a.png", 64))


def test_a_cache_that_cannot_be_written_is_lines_in_one_sentence(tmp_path):
    path = save(tmp_path / "a.png")
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(DatasetError, match="the decoded images cannot be kept"):
        decode([path], 32, tmp_path / "cache", print)


def test_pixels_survive_whole(tmp_path):
    random = np.random.default_rng(0).integers(0, 256, (17, 23, 3), dtype=np.uint8)
    Image.fromarray(random).save(tmp_path / "a.png")
    images = decode([tmp_path / "a.png"], 32, tmp_path / "cache", print)
    np.testing.assert_array_equal(np.asarray(images[0]), random)
