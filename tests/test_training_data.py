"""Which images a training uses, and which it validates with."""

import contextlib
import json
import shutil
from dataclasses import replace

import pytest
from PIL import Image
from training_runs import QUICK

from cait_viz.errors import DatasetError, OutputError
from cait_viz.training import distil, finetune
from cait_viz.training.config import RunOptions, Stage


class StoppedError(Exception):
    """Raised by `lines_before`."""


def lines_before(train):
    """What is printed before a training, which is then stopped: train(options)."""
    lines = []

    def stop(line):
        lines.append(line)
        if " classes: " in line:
            raise StoppedError

    with contextlib.suppress(StoppedError):
        train(RunOptions(tell=stop))
    return lines


def test_an_output_among_the_images_is_refused_before_it_is_created(image_folder, teacher_file, tmp_path):
    out = image_folder / "red" / "mine"
    for inside, cache in ((out, None), (tmp_path, out)):
        options = RunOptions(cache=cache)
        with pytest.raises(OutputError, match=r"mine: lies among the images of .*; choose"):
            finetune(image_folder, inside, config=QUICK, options=options)
        with pytest.raises(OutputError, match="lies among the images"):
            distil(
                [tmp_path / "x", image_folder], inside, teacher=teacher_file, config=QUICK, options=options
            )
    assert not out.exists()


def test_a_validation_folder_among_the_images_is_not_a_class_and_not_trained_on(image_folder, tmp_path):
    images = tmp_path / "images"
    shutil.copytree(image_folder, images)
    shutil.copytree(image_folder / "red", images / "held back" / "red")
    validation = images / "held back"
    how = {"validation": validation, "config": QUICK}
    lines = lines_before(lambda options: finetune(images, tmp_path / "out", options=options, **how))
    assert lines[-3:] == [
        "  green: 5 images to train on, 0 to validate with",
        "  red: 5 images to train on, 6 to validate with",
        "2 classes: 10 images to train on, 6 to validate with",
    ]


def test_nothing_in_a_validation_folder_is_trained_on(image_folder, make_teacher, tmp_path):
    images = tmp_path / "images"
    shutil.copytree(image_folder, images)
    for name in ("red", "unknown"):
        shutil.copytree(image_folder / "red", images / "val" / name)
    (tmp_path / "names.txt").write_text("red\ngreen\nblue\n")
    how = {"teacher": make_teacher(), "teacher_size": 32, "config": QUICK, "labels": tmp_path / "names.txt"}
    validation = [images / "val"]
    lines = lines_before(
        lambda options: distil([images], tmp_path / "out", validation=validation, options=options, **how)
    )
    assert f"{validation[0]}: 6 images of no known class; skipped" in lines
    assert "12 images belong to the validation and are not trained on" in lines
    assert lines[-1] == "3 classes: 11 images to train on, 6 to validate with"
    with pytest.raises(DatasetError, match="unknown: none of its folders is named after a class"):
        distil([images], tmp_path / "out", validation=[images / "val" / "unknown"], **how)


@pytest.fixture
def split_folder(image_folder, tmp_path):
    """A folder with a split, and an image beside the classes of each part."""
    place = tmp_path / "split"
    shutil.copytree(image_folder, place / "train")
    shutil.copytree(image_folder, place / "val", ignore=shutil.ignore_patterns("[1-9].png", "*.jpg"))
    for part in (place, place / "train", place / "val"):
        shutil.copy(image_folder / "red" / "0.png", part / "loose.png")
    return place


def test_a_split_is_used_and_what_lies_beside_the_classes_is_skipped(split_folder, tmp_path, small_weights):
    lines = []
    config = replace(QUICK, stages=(Stage(32, 0.5),))
    options = RunOptions(tell=lines.append)
    outcome = finetune(split_folder, tmp_path / "out", weights=small_weights, config=config, options=options)
    assert outcome.labels.read_text() == "green\nred\n"
    assert f"{split_folder}: holds a split; trains on train/ and validates with val/" in lines
    assert f"{split_folder / 'train'}: loose.png in no class folder; skipped" in lines
    assert "  red: 5 images to train on, 1 to validate with" in lines
    data = json.loads(outcome.card.read_text())["data"]
    assert data["folders"] == [str(split_folder / "train")]
    assert data["validation"] == str(split_folder / "val")
    assert f"{split_folder}: loose.png in no class folder; skipped" in data["skipped"]


def test_distil_sees_a_split_as_finetune_does(split_folder, make_teacher, tmp_path):
    how = {"teacher": make_teacher(), "teacher_size": 32, "config": QUICK, "labels": tmp_path / "names.txt"}
    for names, used, held_back in (
        ("red\ngreen\nblue\n", "trains on train/ and validates with val/", 2),
        ("cyan\nmagenta\nyellow\n", "trains on train/", 0),  # no image has a label
    ):
        how["labels"].write_text(names)
        lines = lines_before(lambda o: distil([split_folder], tmp_path / "out", options=o, **how))
        assert f"{split_folder}: holds a split; {used}" in lines
        assert f" {held_back} to validate with" in lines[-1]


def test_another_folder_or_none_to_validate_with_is_taken_before_the_splits(
    split_folder, image_folder, tmp_path
):
    for validation, count in ((image_folder, 11), (split_folder / "val", 2), (0.0, 0)):
        how = {"validation": validation, "config": QUICK}
        lines = lines_before(lambda o, how=how: finetune(split_folder, tmp_path / "out", options=o, **how))
        assert lines[-1] == f"2 classes: 10 images to train on, {count} to validate with"


def test_a_validation_folder_of_other_classes_is_refused(image_folder, small_weights, tmp_path):
    other = tmp_path / "other" / "yellow"
    other.mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(other / "0.png")
    with pytest.raises(DatasetError, match="none of its folders is named after a class"):
        finetune(image_folder, tmp_path / "out", weights=small_weights, validation=other.parent, config=QUICK)


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({"red": -1}, "red: a weight must be at least 0 and finite, not -1"),
        ({"red": float("nan")}, "not nan"),
        ({"gone": 2}, "gone: has a weight, but none of the images lies in it"),
        ({"": 0}, "no images are left to train on"),
    ],
)
def test_a_folder_weight_that_cannot_be_used_is_refused(image_folder, teacher_file, tmp_path, weights, words):
    weights = {image_folder / name: weight for name, weight in weights.items()}
    how = {"teacher": teacher_file, "teacher_size": 32, "config": QUICK}
    options = RunOptions(tell=lambda _: None)
    with pytest.raises(DatasetError, match=words):
        distil([image_folder], tmp_path / "out", folder_weights=weights, options=options, **how)


def test_a_folder_that_is_named_twice_is_refused(image_folder, teacher_file, tmp_path):
    with pytest.raises(DatasetError, match="named twice; give it a weight of 2"):
        distil([image_folder, image_folder], tmp_path, teacher=teacher_file)
