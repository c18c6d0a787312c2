"""Which images a training uses, and which it validates with."""

import contextlib
import json
import shutil
from dataclasses import replace

import pytest
from PIL import Image
from safetensors.numpy import save_file
from training_runs import QUICK, tensors

from cait_viz.errors import DatasetError, OutputError, SelectionError
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
        "  red: 5 images to train on, 5 to validate with",
        "2 classes: 10 images to train on, 5 to validate with",
    ]


def test_nothing_in_a_validation_folder_is_trained_on(image_folder, make_teacher, tmp_path):
    images = tmp_path / "images"
    shutil.copytree(image_folder, images)
    for name in ("red", "unknown"):
        shutil.copytree(image_folder / "red", images / "held back" / name)
    (tmp_path / "names.txt").write_text("red\ngreen\nblue\n")
    how = {"teacher": make_teacher(), "teacher_size": 32, "config": QUICK, "labels": tmp_path / "names.txt"}
    validation = [images / "held back"]
    lines = lines_before(
        lambda options: distil([images], tmp_path / "out", validation=validation, options=options, **how)
    )
    [unknown] = [line for line in lines if line.startswith(f"{validation[0]}: 5 images of no known class (")]
    assert "unknown/0.png" in unknown
    assert "red/broken.jpg: is not an image of a known format; skipped" in lines
    assert "12 images belong to the validation and are not trained on" in lines
    assert lines[-1] == "3 classes: 11 images to train on, 5 to validate with"
    with pytest.raises(DatasetError, match="unknown: none of its folders is named after a class"):
        distil([images], tmp_path / "out", validation=[images / "held back" / "unknown"], **how)


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
    for validation, count in ((image_folder, 10), (split_folder / "val", 2), (0.0, 0)):
        how = {"validation": validation, "config": QUICK}
        lines = lines_before(lambda o, how=how: finetune(split_folder, tmp_path / "out", options=o, **how))
        assert lines[-1] == f"2 classes: 10 images to train on, {count} to validate with"


def test_a_share_that_is_asked_for_is_held_back_of_the_training_s_part_of_a_split(split_folder, tmp_path):
    how = {"validation": 0.4, "config": QUICK}
    lines = lines_before(lambda options: finetune(split_folder, tmp_path / "out", options=options, **how))
    assert f"{split_folder}: holds a split; trains on train/" in lines
    assert f"{split_folder}: val/ neither trained on nor validated with; skipped" in lines
    assert lines[-1] == "2 classes: 6 images to train on, 4 to validate with"


def test_that_a_training_starts_from_the_ema_of_a_file_is_said(image_folder, small_weights, tmp_path):
    network = tensors(small_weights)
    pair = {f"{part}.{name}": tensor for part in ("model", "ema") for name, tensor in network.items()}
    save_file(pair, tmp_path / "both.safetensors")
    how = {"weights": tmp_path / "both.safetensors", "config": QUICK}
    lines = lines_before(lambda o: finetune(image_folder, tmp_path / "out", options=o, **how))
    assert "The file holds a model and its EMA; the EMA is used." in lines


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_a_share_out_of_its_range_is_refused(share, image_folder, tmp_path):
    with pytest.raises(SelectionError, match=f"share of images .* and below 1, not {share}"):
        finetune(image_folder, tmp_path / "out", validation=share, config=QUICK)


@pytest.fixture
def train_both(make_teacher, tmp_path):
    """What is printed before each of the two trainings on a folder, as texts."""
    how = {"teacher": make_teacher(), "teacher_size": 32, "config": QUICK, "labels": tmp_path / "names.txt"}
    how["labels"].write_text("red\ngreen\nblue\n")

    def train(folder):
        one = lines_before(lambda o: finetune(folder, tmp_path / "out", config=QUICK, options=o))
        other = lines_before(lambda o: distil([folder], tmp_path / "out", options=o, **how))
        return "\n".join(one), "\n".join(other)

    return train


def test_what_lies_beside_the_parts_of_a_split_is_named_as_skipped(split_folder, image_folder, train_both):
    for name in ("holdout", "train_extra", "test"):
        shutil.copytree(image_folder, split_folder / name)
    for text in train_both(split_folder):
        assert f"{split_folder}: holds a split; trains on train/ and validates with val/\n" in text
        skipped = "holdout/, test/, train_extra/ neither trained on nor validated with; skipped"
        assert f"{split_folder}: {skipped}\n" in text
        assert " 2 to validate with" in text.splitlines()[-1]


def test_parts_beside_the_classes_to_train_on_are_no_classes(image_folder, train_both, tmp_path):
    folder = tmp_path / "images"
    ignored = shutil.ignore_patterns("*.jpg", "blue")
    shutil.copytree(image_folder, folder, ignore=ignored)
    for name in ("val", "test"):
        shutil.copytree(image_folder, folder / name, ignore=ignored)
    for text in train_both(folder):
        assert f"{folder}: holds a split; trains on its class folders and validates with val/\n" in text
        assert f"{folder}: test/ neither trained on nor validated with; skipped\n" in text
        assert text.endswith(" classes: 10 images to train on, 10 to validate with")


def test_images_of_no_class_are_skipped_and_named_and_classes_are_found_whatever_their_case(
    image_folder, train_both, tmp_path
):
    folder = tmp_path / "images"
    ignored = shutil.ignore_patterns("*.jpg", "blue")
    shutil.copytree(image_folder, folder / "train", ignore=ignored)
    shutil.copytree(image_folder / "red", folder / "val" / "Red", ignore=ignored)
    shutil.copytree(image_folder / "green", folder / "val" / "GREEN", ignore=ignored)
    shutil.copy(image_folder / "red" / "0.png", folder / "val" / "loose.png")
    for place in (folder / "val", folder / "val" / "Red"):
        (place / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    for text in train_both(folder):
        assert f"{folder / 'val'}: 1 image of no known class (loose.png); skipped\n" in text
        assert text.count("Thumbs.db") == text.count("Red/Thumbs.db: is not an image") == 1
        assert text.endswith(" classes: 10 images to train on, 10 to validate with")


def test_one_image_of_the_validation_among_those_to_train_on_is_one(image_folder, tmp_path):
    shutil.copytree(image_folder, tmp_path / "images")
    (tmp_path / "held back" / "red").mkdir(parents=True)
    (tmp_path / "held back" / "red" / "0.png").symlink_to(tmp_path / "images" / "red" / "0.png")
    how = {"validation": tmp_path / "held back", "config": QUICK}
    lines = lines_before(lambda o: finetune(tmp_path / "images", tmp_path / "out", options=o, **how))
    assert "1 image belongs to the validation and is not trained on" in lines


def test_a_validation_folder_of_other_classes_is_refused(image_folder, small_weights, tmp_path):
    other = tmp_path / "other" / "yellow"
    other.mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(other / "0.png")
    with pytest.raises(DatasetError, match="none of its folders is named after a class"):
        finetune(image_folder, tmp_path / "out", weights=small_weights, validation=other.parent, config=QUICK)


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({"red": -1}, "red: a weight must be at least 0, not -1"),
        ({"red": float("nan")}, "not nan"),
        ({"gone": 2}, "gone: has a weight, but none of the images lies in it"),
        ({"": 0}, "no images are left to train on"),
    ],
)
def test_a_folder_weight_that_cannot_be_used_is_refused(image_folder, teacher_file, tmp_path, weights, words):
    weights = {image_folder / name: weight for name, weight in weights.items()}
    how = {"teacher": teacher_file, "teacher_size": 32, "config": QUICK}
    options = RunOptions(tell=lambda _: None)
    with pytest.raises((DatasetError, SelectionError), match=words):
        distil([image_folder], tmp_path / "out", folder_weights=weights, options=options, **how)


def test_a_folder_that_is_named_twice_is_refused(image_folder, teacher_file, tmp_path):
    with pytest.raises(DatasetError, match="named twice; give it a weight of 2"):
        distil([image_folder, image_folder], tmp_path, teacher=teacher_file)
