"""Folders of pictures: what is found in them, how they are split, and their pixels."""

from concurrent.futures import ThreadPoolExecutor
from queue import Queue

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cait_viz.errors import DatasetError
from cait_viz.training.datasets import (
    UNKNOWN,
    Example,
    decode,
    labelled,
    matched,
    one_at_a_time,
    split,
)


def save(path, size=(20, 16), colour=(200, 10, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    for name in ("cat", "dog"):
        for number in range(3):
            save(tmp_path / name / f"{number}.png")
    return tmp_path


def test_every_folder_is_a_class_and_both_are_in_order(folder):
    examples, names = labelled(folder, print)
    assert names == ("cat", "dog")
    assert [example.label for example in examples] == [0, 0, 0, 1, 1, 1]
    assert [example.path.name for example in examples[:3]] == ["0.png", "1.png", "2.png"]


def test_a_class_without_pictures_is_named_and_left_out(folder):
    (folder / "bird").mkdir()
    told = []
    examples, names = labelled(folder, told.append)
    assert names == ("cat", "dog")
    assert {example.label for example in examples} == {0, 1}
    assert len(told) == 1
    assert "bird" in told[0]


def test_a_folder_of_other_files_makes_no_class_and_each_file_is_named_with_it(folder):
    (folder / "bird").mkdir()
    (folder / "bird" / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    (folder / "cat" / "notes.txt").write_text("a cat")
    told = []
    examples, names = labelled(folder, told.append)
    assert names == ("cat", "dog")
    assert len(examples) == 6
    assert [sentence.partition(":")[0] for sentence in told[:2]] == ["bird/Thumbs.db", "cat/notes.txt"]
    assert "no pictures in bird" in told[2]


def test_a_folder_that_is_another_thing_makes_no_class(folder):
    save(folder / "val" / "cat" / "0.png")
    assert labelled(folder, print)[1] == ("cat", "dog", "val")
    assert labelled(folder, print, [folder / "val"])[1] == ("cat", "dog")


def test_links_to_folders_are_followed_and_none_in_a_circle(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    save(elsewhere / "owls" / "0.png")
    (folder / "owl").symlink_to(elsewhere / "owls")
    (folder / "cat" / "more").symlink_to(elsewhere)
    (elsewhere / "owls" / "back").symlink_to(elsewhere)
    examples, names = labelled(folder, print)
    assert names == ("cat", "dog", "owl")
    assert [example.label for example in examples] == [0, 0, 0, 0, 1, 1, 1, 2]
    labels = sorted(example.label for example in matched(folder, {"cat": 0, "owl": 2}))
    assert labels == [UNKNOWN, UNKNOWN, UNKNOWN, 0, 0, 0, 0, 2]


def test_hidden_files_and_folders_are_passed_over_at_any_depth(folder):
    save(folder / ".thumbnails" / "x.png")
    save(folder / "cat" / ".ipynb_checkpoints" / "0.png")
    (folder / "cat" / ".DS_Store").write_bytes(b"no picture")
    examples, names = labelled(folder, print)
    assert names == ("cat", "dog")
    assert len(examples) == 6


@pytest.mark.parametrize("make", ["none", "one", "missing"])
def test_fewer_than_two_classes_are_refused(tmp_path, make):
    if make == "one":
        save(tmp_path / "cat" / "0.png")
    with pytest.raises(DatasetError):
        labelled(tmp_path / "x" if make == "missing" else tmp_path, print)


def test_a_picture_has_the_class_of_the_innermost_folder_that_names_one(tmp_path):
    save(tmp_path / "animals" / "cat" / "deep" / "0.png")
    save(tmp_path / "animals" / "1.png")
    examples = matched(tmp_path, {"cat": 7, "animals": 3})
    assert {example.path.name: example.label for example in examples} == {"0.png": 7, "1.png": 3}
    assert [example.label for example in matched(tmp_path, {})] == [UNKNOWN, UNKNOWN]


def test_a_folder_above_the_one_that_was_named_gives_no_class(tmp_path):
    save(tmp_path / "drake" / "pictures" / "0.png")
    assert [example.label for example in matched(tmp_path / "drake" / "pictures", {"drake": 5})] == [UNKNOWN]
    assert [example.label for example in matched(tmp_path / "drake", {"drake": 5})] == [5]


@pytest.mark.parametrize("name", ["two\nlines", " cat", "tab\t", "\udcff"])
def test_a_folder_that_cannot_name_a_class_is_refused_before_anything_is_done(folder, name):
    save(folder / name / "0.png")
    with pytest.raises(DatasetError, match="cannot name a class; rename it"):
        labelled(folder, print)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.floats(0, 0.99), st.integers(0, 9))
def test_a_split_takes_from_every_class_and_leaves_every_class_something(counts, share, seed):
    examples = [Example(f"{label}/{n}", label) for label, count in enumerate(counts) for n in range(count)]
    training, held_back = split(examples, share, seed)
    assert sorted((*training, *held_back), key=str) == sorted(examples, key=str)
    assert {example.label for example in training} == set(range(len(counts)))
    for label, count in enumerate(counts):
        taken = sum(example.label == label for example in held_back)
        assert (taken > 0) == (share > 0 and count > 1)
        assert taken <= max(1, share * count + 0.5)
    assert split(examples, share, seed) == (training, held_back)


def test_another_seed_splits_otherwise():
    examples = [Example(str(number), 0) for number in range(50)]
    assert split(examples, 0.5, 0) != split(examples, 0.5, 1)


@pytest.mark.parametrize("share", [-0.1, 1.0, 2.0])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(DatasetError, match=str(share)):
        split([Example("x", 0)], share, 0)


def test_pictures_are_kept_as_they_are_or_no_larger_than_asked_for(tmp_path):
    small = save(tmp_path / "small.png", (20, 16), (1, 2, 3))
    large = save(tmp_path / "large.png", (200, 100), (9, 8, 7))
    pixels = decode([small, large], 32, tmp_path / "cache", print)
    assert len(pixels) == 2
    assert pixels[0].size == (20, 16)
    assert pixels[0].getpixel((3, 3)) == (1, 2, 3)
    assert pixels[1].size == (64, 32)
    assert pixels.sizes.tolist() == [[16, 20], [32, 64]]


def test_a_file_that_is_no_picture_is_named_and_passed_over(tmp_path):
    good = save(tmp_path / "good.png")
    bad = tmp_path / "bad.jpg"
    bad.write_text("no picture")
    told = []
    pixels = decode([bad, good, tmp_path / "gone.png"], 32, tmp_path / "cache", told.append)
    assert len(pixels) == 1
    assert pixels.kept.tolist() == [1]
    assert [sentence.partition(":")[0] for sentence in told] == [
        f"{tmp_path.name}/bad.jpg",
        f"{tmp_path.name}/gone.png",
    ]
    assert len(pixels.skipped) == 2


def test_a_folder_of_no_pictures_at_all_is_refused(tmp_path):
    (tmp_path / "bad.jpg").write_text("no picture")
    with pytest.raises(DatasetError, match="none of the 1 files"):
        decode([tmp_path / "bad.jpg"], 32, tmp_path / "cache", print)


def test_pictures_are_decoded_once_and_anew_when_one_has_changed(tmp_path, monkeypatch):
    from cait_viz.training import datasets

    path = save(tmp_path / "a.png")
    decode([path], 32, tmp_path / "cache", print)
    reads = []
    monkeypatch.setattr(datasets, "read_image", lambda path: reads.append(path) or Image.new("RGB", (9, 9)))
    assert decode([path], 32, tmp_path / "cache", print)[0].size == (20, 16)
    assert not reads
    save(path, (30, 30), (0, 0, 0))
    assert decode([path], 32, tmp_path / "cache", print)[0].size == (9, 9)
    assert reads == [path]


def test_decoding_that_was_cut_off_goes_on_where_it_was(tmp_path, monkeypatch):
    from cait_viz.training import datasets

    files = [save(tmp_path / f"{number}.png", (10 + number, 20), (number, 0, 0)) for number in range(9)]
    monkeypatch.setattr(datasets, "_INDEXED", 4)
    monkeypatch.setattr(datasets, "_READ_AHEAD", 2)
    whole = decode(files, 32, tmp_path / "whole", print)

    def cut_off(steps, _):
        for number, step in enumerate(steps):
            if number == 6:
                raise KeyboardInterrupt
            yield step

    with pytest.raises(KeyboardInterrupt):
        decode(files, 32, tmp_path / "cache", print, cut_off)
    reads = []
    monkeypatch.setattr(datasets, "read_image", lambda path: reads.append(path) or Image.open(path))
    pixels = decode(files, 32, tmp_path / "cache", print)
    assert sorted(reads) == files[4:]
    assert pixels.sizes.tolist() == whole.sizes.tolist()
    assert all(pixels[number].tobytes() == whole[number].tobytes() for number in range(9))


def test_two_trainings_do_not_decode_into_one_folder_at_once(tmp_path):
    path = save(tmp_path / "a.png")
    told = Queue()
    with ThreadPoolExecutor(1) as pool:
        (tmp_path / "cache").mkdir()
        with one_at_a_time(tmp_path / "cache", print):
            second = pool.submit(decode, [path], 32, tmp_path / "cache", told.put)
            assert "another training is at work" in told.get(timeout=30)
            assert not second.done()
            assert not (tmp_path / "cache" / "pictures.bin").exists()
        assert len(second.result(timeout=30)) == 1


def test_what_is_kept_of_a_large_picture_is_what_the_network_is_evaluated_on(tmp_path):
    from cait_viz.images.preprocess import prepare

    random = np.random.default_rng(0).integers(0, 256, (90, 133, 3), dtype=np.uint8)
    Image.fromarray(random).save(tmp_path / "a.png")
    pixels = decode([tmp_path / "a.png"], 64, tmp_path / "cache", print)
    np.testing.assert_array_equal(prepare(pixels[0], 64), prepare(tmp_path / "a.png", 64))


def test_a_cache_that_cannot_be_written_is_told_in_one_sentence(tmp_path):
    path = save(tmp_path / "a.png")
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(DatasetError, match="cache: the decoded pictures cannot be kept"):
        decode([path], 32, tmp_path / "cache", print)


def test_pixels_survive_whole(tmp_path):
    random = np.random.default_rng(0).integers(0, 256, (17, 23, 3), dtype=np.uint8)
    Image.fromarray(random).save(tmp_path / "a.png")
    pixels = decode([tmp_path / "a.png"], 32, tmp_path / "cache", print)
    np.testing.assert_array_equal(np.asarray(pixels[0]), random)
