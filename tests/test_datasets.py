"""Image folders: what is found in them, which classes, and how they are split."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cait_viz.errors import DatasetError, SelectionError
from cait_viz.images.folders import UNKNOWN, Example
from cait_viz.training.datasets import (
    example_weights,
    exclude,
    find_classes,
    find_images,
    find_split,
    report_classes,
    split,
)


def save(path, size=(20, 16), color=(200, 10, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    for name in ("cat", "dog"):
        for number in range(3):
            save(tmp_path / name / f"{number}.png")
    return tmp_path


def test_every_folder_is_a_class_and_both_are_in_order(folder):
    examples, names = find_classes(folder, print)
    assert names == ("cat", "dog")
    assert [example.label for example in examples] == [0, 0, 0, 1, 1, 1]
    assert [example.path.name for example in examples[:3]] == ["0.png", "1.png", "2.png"]


def test_a_class_without_images_is_named_and_skipped(folder):
    (folder / "bird").mkdir()
    lines = []
    examples, names = find_classes(folder, lines.append)
    assert names == ("cat", "dog")
    assert {example.label for example in examples} == {0, 1}
    assert len(lines) == 1
    assert "bird" in lines[0]


def test_a_folder_of_other_files_is_not_a_class_and_each_file_is_named_with_its_folder(folder):
    (folder / "bird").mkdir()
    (folder / "bird" / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    (folder / "cat" / "notes.txt").write_text("a cat")
    lines = []
    examples, names = find_classes(folder, lines.append)
    assert names == ("cat", "dog")
    assert len(examples) == 6
    assert [sentence.partition(":")[0] for sentence in lines[:2]] == ["bird/Thumbs.db", "cat/notes.txt"]
    assert "no images in bird" in lines[2]


@pytest.mark.parametrize("others", [["fold1/cat", "fold1/dog", "fold2/dog", "fold2/cat"],
                                    ["cat/train", "cat/test", "dog/train", "dog/test"]])  # fmt: skip
def test_classes_that_hold_folders_of_the_same_names_are_remarked_on(tmp_path, others):
    said = []
    _, names = find_classes(make_folders(tmp_path, *others), said.append)
    assert len(names) == 2
    [sentence] = said
    assert f"with all that is in {', '.join(sorted({path.split('/')[1] for path in others}))}" in sentence
    said.clear()
    find_classes(make_folders(tmp_path / "other", "cat/a", "cat/b", "dog/a"), said.append)
    assert said == []


def test_a_folder_that_was_excluded_is_not_a_class(folder):
    save(folder / "val" / "cat" / "0.png")
    assert find_classes(folder, print)[1] == ("cat", "dog", "val")
    assert find_classes(folder, print, [folder / "val"])[1] == ("cat", "dog")


def test_links_to_folders_are_followed_and_none_in_a_circle(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    save(elsewhere / "owls" / "0.png")
    (folder / "owl").symlink_to(elsewhere / "owls")
    (folder / "cat" / "more").symlink_to(elsewhere)
    (elsewhere / "owls" / "back").symlink_to(elsewhere)
    examples, names = find_classes(folder, print)
    assert names == ("cat", "dog", "owl")
    assert [example.label for example in examples] == [0, 0, 0, 0, 1, 1, 1, 2]
    labels = sorted(example.label for example in find_images(folder, {"cat": 0, "owl": 2}))
    assert labels == [UNKNOWN, UNKNOWN, UNKNOWN, 0, 0, 0, 0, 2]


def test_hidden_files_and_folders_are_skipped_at_any_depth(folder):
    save(folder / ".thumbnails" / "x.png")
    save(folder / "cat" / ".ipynb_checkpoints" / "0.png")
    (folder / "cat" / ".DS_Store").write_bytes(b"no image")
    examples, names = find_classes(folder, print)
    assert names == ("cat", "dog")
    assert len(examples) == 6


@pytest.mark.parametrize("make", ["none", "one", "missing"])
def test_fewer_than_two_classes_are_refused(tmp_path, make):
    if make == "one":
        save(tmp_path / "cat" / "0.png")
    with pytest.raises(DatasetError):
        find_classes(tmp_path / "x" if make == "missing" else tmp_path, print)


def test_an_image_has_the_class_of_the_innermost_folder_that_is_named_after_one(tmp_path):
    save(tmp_path / "animals" / "cat" / "deep" / "0.png")
    save(tmp_path / "animals" / "1.png")
    examples = find_images(tmp_path, {"cat": 7, "animals": 3})
    assert {example.path.name: example.label for example in examples} == {"0.png": 7, "1.png": 3}
    assert [example.label for example in find_images(tmp_path, {})] == [UNKNOWN, UNKNOWN]


def test_the_folders_above_the_given_one_do_not_count(tmp_path):
    save(tmp_path / "drake" / "pictures" / "0.png")
    assert [example.label for example in find_images(tmp_path / "drake" / "pictures", {"drake": 5})] == [
        UNKNOWN
    ]
    assert [example.label for example in find_images(tmp_path / "drake", {"drake": 5})] == [5]


@pytest.mark.parametrize("name", ["two\nlines", " cat", "tab\t", "\udcff"])
def test_a_folder_that_cannot_be_the_name_of_a_class_is_refused(folder, name):
    save(folder / name / "0.png")
    with pytest.raises(DatasetError, match="cannot be the name of a class; rename it"):
        find_classes(folder, print)


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


def test_images_beside_the_class_folders_are_named_as_skipped(folder):
    save(folder / "loose.png")
    (folder / "notes.txt").write_text("not an image")
    lines = []
    assert len(find_classes(folder, lines.append)[0]) == 6
    assert lines == [f"{folder}: loose.png in no class folder; skipped"]


def make_folders(place, *paths):
    for path in paths:
        save(place / path / "0.png")
    return place


def parts(place):
    """The names of the training's folder, of the validation's, and of the others, below the place."""
    split = find_split(place)
    if split is None:
        return None
    training, validation, others = split
    within = [path and path.relative_to(place).as_posix() for path in (training, validation, *others)]
    return within[0], within[1], set(within[2:])


@pytest.mark.parametrize(
    "training", ["train", "training", "Train", "training_set", "seg_train", "MyTrainSet"]
)
@pytest.mark.parametrize(
    "name", ["val", "valid", "validation", "validate", "dev", "eval", "test", "Val", "seg_test", "test-set"]
)
@pytest.mark.parametrize("classes", [["cat"], ["cat", "dog"]])
def test_a_split_is_found_by_the_usual_names_of_folders_with_the_same_classes(
    tmp_path, training, name, classes
):
    make_folders(tmp_path, *(f"{part}/{kind}" for part in (training, name, "unused") for kind in classes))
    assert parts(tmp_path) == (training, name, {"unused"})


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        # The part to validate with lacks a class and has others.
        (["train/a", "train/b", "train/c", "val/a", "val/b", "val/other"], ("train", "val", set())),
        (["train/a", "train/b", "val/a", "val/other"], ("train", "val", set())),
        (["train/Cat", "train/dog", "val/cat", "val/DOG"], ("train", "val", set())),
        # Of several the first in order is used.
        (["train/a", "train/b", "test/a", "test/b", "valid/a"], ("train", "valid", {"test"})),
        (["train_extra/a", "train/a", "val/a", "holdout/a"], ("train", "val", {"train_extra", "holdout"})),
        (["train/a", "train/b", "val", "test/a", "test/b"], ("train", "test", {"val"})),
        # A folder of the same name within.
        (
            ["seg_train/seg_train/a", "seg_train/seg_train/b", "seg_test/seg_test/a", "seg_pred/seg_pred"],
            ("seg_train/seg_train", "seg_test/seg_test", {"seg_pred"}),
        ),
        (["traindata/a", "traindata/b", "testdata/a"], ("traindata", "testdata", set())),
        (["tr/a", "tr/b", "te/b", "more/a"], ("tr", "te", {"more"})),
        # Images without labels to test with, or of other classes.
        (["train/a", "train/b", "test"], ("train", None, {"test"})),
        (["train/a", "train/b", "test/unknown", "val/images"], ("train", None, {"test", "val"})),
        (["train/a", "train/b"], ("train", None, set())),
        # The classes to train on lie beside the part to validate with.
        (["cat", "dog", "test/cat", "test/dog"], (".", "test", set())),
        (["cat", "dog", "val/Cat", "test/cat", "test/dog"], (".", "val", {"test"})),
        (["train", "bus", "test/train", "test/bus"], (".", "test", set())),
    ],
)
def test_the_parts_of_a_split_are_told_apart(tmp_path, paths, expected):
    assert parts(make_folders(tmp_path, *paths)) == expected


@pytest.mark.parametrize(
    "paths",
    [
        ("train", "bus"),
        ("train/a", "train/b", "bus/a", "bus/b"),
        ("train", "test", "bus"),  # three classes, one of them a vehicle
        ("train", "test"),
        ("train/steam", "train/diesel", "test/written", "test/oral", "bus"),
        ("a", "b", "val/c"),
        ("trainers/a", "trainers/b", "valley/a", "valley/b"),
    ],
)
def test_classes_that_happen_to_be_called_train_and_test_are_classes(tmp_path, paths):
    assert find_split(make_folders(tmp_path, *paths)) is None


def test_images_are_labeled_whatever_the_case_of_the_folders_unless_classes_differ_in_it_alone(tmp_path):
    make_folders(tmp_path, "Cat", "cat", "CAT", "DOG")
    index = {"Cat": 0, "cat": 1, "dog": 2}
    labels = {example.path.parent.name: example.label for example in find_images(tmp_path, index)}
    assert (labels["Cat"], labels["cat"], labels["DOG"]) == (0, 1, 2)


def test_files_are_excluded_by_whatever_path_or_link_leads_to_them(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "linked").symlink_to(folder / "cat")
    (elsewhere / "1.png").symlink_to(folder / "cat" / "1.png")
    examples = [Example(folder / "cat" / f"{number}.png", 0) for number in range(3)]
    others = [folder / "dog" / ".." / "cat" / "0.png", elsewhere / "1.png", elsewhere / "linked" / "2.png"]
    for number, path in enumerate(others):
        left = exclude(examples, [Example(path, 0)])
        assert [example.path.name for example in left] == [f"{n}.png" for n in range(3) if n != number]


def test_before_a_training_the_classes_and_their_numbers_of_images_are_printed():
    lines = []
    training = [Example("x", 0)] * 3 + [Example("x", 2)]
    report_classes(("cat", "dog", "owl"), training, [Example("x", 2)] * 2, lines.append)
    assert lines == [
        "  cat: 3 images to train on, 0 to validate with",
        "  owl: 1 image to train on, 2 to validate with",
        "3 classes: 4 images to train on, 2 to validate with",
    ]
    lines.clear()
    report_classes(["cat"] * 21, [Example("x", label) for label in range(-1, 21)], [], lines.append)
    assert lines[-2:] == [
        "  … and 1 more class",
        "21 classes: 22 images to train on, 0 to validate with; 1 has no label",
    ]


def test_of_more_than_twenty_classes_the_first_twenty_are_printed():
    lines = []
    examples = [Example("x", label) for label in range(30)] + [Example("x", UNKNOWN)] * 5
    report_classes([f"class {label}" for label in range(30)], examples, [], lines.append)
    assert len(lines) == 22
    assert lines[-2:] == [
        "  … and 10 more classes",
        "30 classes: 35 images to train on, 0 to validate with; 5 have no label",
    ]


def test_an_image_has_the_weight_of_the_innermost_folder_with_one(tmp_path):
    make_folders(tmp_path, "mini/n01/deep", "mini/n02", "other")
    examples = find_images(tmp_path, {})
    names = [example.path.relative_to(tmp_path).as_posix() for example in examples]
    weights = example_weights(examples, {tmp_path / "mini": 2.0, tmp_path / "mini" / "n02": 0.4})
    assert dict(zip(names, weights.tolist(), strict=True)) == {
        "mini/n01/deep/0.png": 2.0,
        "mini/n02/0.png": 0.4,
        "other/0.png": 1.0,
    }
    assert example_weights(examples, {}).tolist() == [1.0, 1.0, 1.0]


def test_a_weight_counts_by_whatever_path_the_folder_is_named(folder, monkeypatch):
    from pathlib import Path

    monkeypatch.chdir(folder)
    weights = example_weights(find_images(folder, {}), {Path("dog/../cat"): 0.0})
    assert weights.tolist() == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("weight", [-0.5, math.nan, math.inf])
def test_a_weight_that_is_negative_or_no_number_is_refused(folder, weight):
    with pytest.raises(SelectionError, match=f"cat: a weight must be at least 0, not {weight}"):
        example_weights(find_images(folder, {}), {folder / "cat": weight})


def test_a_weight_of_a_folder_that_holds_none_of_the_images_is_refused(folder):
    with pytest.raises(DatasetError, match=r"bird: has a weight, but none of the images lies in it"):
        example_weights(find_images(folder, {}), {folder / "cat": 2, folder / "bird": 2})
