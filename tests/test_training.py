"""Training from folders of images to files."""

import csv
import json
import os
import shutil
from dataclasses import replace

import keras
import numpy as np
import pytest
from reference import timm_shapes
from safetensors import safe_open
from training_runs import QUICK, finetune_briefly, tensors

from cait_viz._files import sha256
from cait_viz.api import analyze, load_model
from cait_viz.cli import main as cli
from cait_viz.errors import CheckpointError, OutputError, SelectionError, TrainingError
from cait_viz.training import distil, finetune
from cait_viz.training.config import RunOptions, Stage
from cait_viz.weights.architecture import read_tensors
from cait_viz.weights.registry import BUNDLED
from cait_viz.weights.resolve import resolve


@pytest.fixture(scope="module")
def finetuned(image_folder, small_weights, tmp_path_factory):
    """What a fine-tuning has left, and what it printed."""
    out, lines = tmp_path_factory.mktemp("finetuned"), []
    options = RunOptions(tell=lines.append, command="cait-viz finetune …", half=True)
    outcome = finetune(
        image_folder, out, weights=small_weights, validation=0.4, config=QUICK, options=options
    )
    return outcome, lines


def test_what_comes_out_opens_like_every_checkpoint(finetuned, image_folder):
    outcome, _ = finetuned
    model = load_model(weights=outcome.weights, labels=outcome.labels)
    analysis = analyze(image_folder / "red" / "0.png", model)
    assert {label for label, _ in analysis.predictions} == {"red", "green"}
    assert model.config.image_size == 64
    assert np.isfinite(analysis.class_attention["ca_ffn_block_0_att"]).all()


def test_its_tensors_have_timms_names_and_the_type_that_was_asked_for(finetuned):
    outcome, _ = finetuned
    config = resolve(weights=outcome.weights).config
    with safe_open(outcome.weights, "np") as file:
        shapes = {name: tuple(file.get_tensor(name).shape) for name in file.keys()}  # noqa: SIM118
        assert {str(file.get_tensor(name).dtype) for name in shapes} == {"float16"}
        assert file.metadata() == {"format": "pt"}
    assert shapes == timm_shapes(config)


def test_everything_but_the_new_head_starts_from_the_weights_given(finetuned, small_weights):
    outcome, _ = finetuned
    before = read_tensors(resolve(weights=small_weights))
    after = read_tensors(resolve(weights=outcome.weights))
    new = {"head.weight", "head.bias", "pos_embed"}  # the last is interpolated
    moved = [np.abs(after[name] - before[name]).max() for name in after if name not in new]
    assert max(moved) < 0.1
    assert after["head.weight"].shape == (2, 48)


def test_what_was_skipped_is_printed_and_what_was_done_is_in_the_card(finetuned, image_folder):
    outcome, lines = finetuned
    text = "\n".join(lines)
    assert "blue" in text
    assert "broken.jpg" in text
    assert "  red: 3 images to train on, 2 to validate with" in lines
    assert "2 classes: 6 images to train on, 4 to validate with" in lines
    card = json.loads(outcome.card.read_text())
    assert card["data"]["training_images"] == 6
    assert card["data"]["validation_images"] == 4
    assert card["data"]["skipped"][0].startswith("red/broken.jpg: is not an image")
    assert card["command"] == "cait-viz finetune …"
    assert card["seed"] == 0
    assert card["epochs"] == 2.667  # two stages of an epoch of six images, each two steps of four
    assert card["images_seen"] == 16
    assert card["hardware"]["backend"] == "tensorflow"
    assert {"keras", "tensorflow", "numpy"} <= set(card["versions"])
    assert card["weights"]["sha256"] == sha256(outcome.weights)
    assert card["accuracy"]["top1"] == outcome.accuracy["top1"]
    assert set(outcome.accuracy) == {"top1"}  # among two classes the first five say nothing


def test_the_accuracy_is_what_the_written_weights_reach(finetuned, image_folder):
    outcome, _ = finetuned
    from cait_viz.training.datasets import find_classes, split

    _, held_back = split(find_classes(image_folder, print)[0], 0.4, 0)
    model = load_model(weights=outcome.weights, labels=outcome.labels)
    right = []
    for example in held_back:
        if example.path.suffix == ".png":
            right.append(analyze(example.path, model).top(1)[0][0] == ("green", "red")[example.label])
    assert np.mean(right) == outcome.accuracy["top1"]


def test_the_log_has_a_row_for_each_epoch(finetuned):
    rows = list(csv.DictReader((finetuned[0].weights.parent / "log.csv").open()))
    assert [(row["step"], row["image_size"]) for row in rows] == [("2", "32"), ("3", "64"), ("4", "64")]
    assert [row["epochs"] for row in rows] == ["1", "2", "2"]
    assert all(float(row["loss"]) > 0 for row in rows)
    assert all(0 <= float(row["validation_top1"]) <= 1 for row in rows)


@pytest.mark.usefixtures("eagerly")
def test_the_users_keras_settings_change_nothing(image_folder, small_weights, tmp_path):
    options = RunOptions(tell=lambda _: None)
    usual = finetune_briefly(image_folder, tmp_path / "usual", small_weights, 1, options)
    before = keras.config.floatx()
    keras.config.set_floatx("float16")
    try:
        other = finetune_briefly(image_folder, tmp_path / "other", small_weights, 1, options)
        assert keras.config.floatx() == "float16"
    finally:
        keras.config.set_floatx(before)
    for name, tensor in tensors(usual.weights).items():
        np.testing.assert_array_equal(tensors(other.weights)[name], tensor)
    rows = [list(csv.DictReader((tmp_path / out / "log.csv").open())) for out in ("usual", "other")]
    assert rows[0][0]["loss"] == rows[1][0]["loss"]


@pytest.mark.usefixtures("eagerly")
def test_tensorboard_gets_what_the_log_holds(image_folder, small_weights, tmp_path, monkeypatch):
    """By a callback in its callback's place: its package is not among what the tests need."""

    class Board(keras.callbacks.Callback):
        logged, models = [], []

        def __init__(self, *_, **__):
            super().__init__()

        def set_model(self, model):
            self.models.append(model)

        def on_epoch_end(self, epoch, logs=None):
            self.logged.append((epoch, logs["loss"]))

        def on_train_end(self, logs=None):
            self.logged.append("closed")

    monkeypatch.setattr(keras.callbacks, "TensorBoard", Board)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: True)
    options = RunOptions(tensorboard=True, tell=lambda _: None)
    finetune_briefly(image_folder, tmp_path, small_weights, 2, options)
    rows = csv.DictReader((tmp_path / "log.csv").open())
    assert Board.logged == [*((int(row["epochs"]), float(row["loss"])) for row in rows), "closed"]
    assert len(Board.models) == 1  # each one is a file of TensorBoard's


def test_logs_for_tensorboard_need_its_package(image_folder, small_weights, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(TrainingError, match="need tensorflow and tensorboard"):
        finetune(
            image_folder, tmp_path, weights=small_weights, config=QUICK, options=RunOptions(tensorboard=True)
        )


def test_nothing_is_left_that_only_the_training_needed(finetuned):
    left = {path.name for path in finetuned[0].weights.parent.iterdir()}
    assert left == {"model.safetensors", "labels.txt", "card.json", "log.csv"}


def test_a_folder_that_holds_a_training_is_not_written_over(finetuned, image_folder, small_weights):
    out = finetuned[0].weights.parent
    with pytest.raises(OutputError, match=r"holds model\.safetensors, labels\.txt, .* already"):
        finetune(image_folder, out, weights=small_weights, config=QUICK)
    with pytest.raises(TrainingError, match="it is finished; start without --resume in another folder"):
        finetune(image_folder, out, weights=small_weights, config=QUICK, options=RunOptions(resume=True))


def test_a_folder_with_somebody_elses_labels_is_not_written_to(image_folder, small_weights, tmp_path):
    (tmp_path / "labels.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"holds labels\.txt already"):
        finetune(image_folder, tmp_path, weights=small_weights, config=QUICK)
    assert (tmp_path / "labels.txt").read_text() == "mine"


@pytest.mark.usefixtures("eagerly")
def test_the_classifier_is_kept_where_its_classes_are_those_of_the_images(finetuned, image_folder, tmp_path):
    """And what lies in the output's folder that is not the training's stays there."""
    before, _ = finetuned
    (tmp_path / "training-cache").mkdir()
    (tmp_path / "training-cache" / "mine.txt").write_text("mine")
    lines = []
    after = finetune(
        image_folder,
        tmp_path,
        weights=before.weights,
        labels=before.labels,
        validation=0.0,
        config=replace(QUICK, stages=(Stage(None, 0.5),), learning_rate=1e-9),
        options=RunOptions(tell=lines.append),
    )
    assert not [sentence for sentence in lines if "new classifier" in sentence]
    np.testing.assert_allclose(
        tensors(after.weights)["head.weight"], tensors(before.weights)["head.weight"], atol=1e-4
    )
    assert json.loads(after.card.read_text())["accuracy"] is None
    assert [path.name for path in (tmp_path / "training-cache").iterdir()] == ["mine.txt"]


def test_a_resolution_that_is_no_whole_number_of_patches_is_refused(image_folder, small_weights, tmp_path):
    with pytest.raises(
        SelectionError, match="40 pixels is not a multiple of the patch size of 16; choose 32"
    ):
        finetune(image_folder, tmp_path, weights=small_weights, config=replace(QUICK, stages=(Stage(40, 1),)))


@pytest.fixture(scope="module")
def distilled(image_folder, teacher_file, make_small_weights, tmp_path_factory):
    """A student of a teacher who tells red, green and blue apart."""
    place = tmp_path_factory.mktemp("distilled")
    (place / "names.txt").write_text("red\ngreen\nblue\n")
    shutil.copytree(image_folder / "green", place / "validation" / "green")
    config = replace(QUICK, stages=(Stage(32, 2),), kept_views=1, label_weight=0.3, label_smoothing=0.0)
    outcome = distil(
        [image_folder],
        place / "out",
        teacher=teacher_file,
        teacher_size=32,
        weights=make_small_weights(3),
        labels=place / "names.txt",
        validation=[place / "validation"],
        folder_weights={image_folder: 2, image_folder / "red": 1},
        config=config,
        options=RunOptions(tell=lambda _: None, cache=place / "cache"),
    )
    return outcome, place


@pytest.mark.usefixtures("eagerly")
def test_a_student_without_weights_starts_from_random_ones(image_folder, teacher_file, tmp_path):
    config = replace(QUICK, stages=(Stage(16, 0.1),))
    options = RunOptions(tell=lambda _: None)
    outcome = distil(
        [image_folder], tmp_path, teacher=teacher_file, teacher_size=32, config=config, options=options
    )
    assert json.loads(outcome.card.read_text())["start"] is None
    assert resolve(weights=outcome.weights).config == replace(BUNDLED.config, num_classes=3, image_size=16)


def test_a_student_has_the_teachers_classes_and_the_resolution_it_was_trained_at(distilled):
    outcome, _ = distilled
    config = resolve(weights=outcome.weights).config
    assert (config.num_classes, config.image_size, config.sa_ffn_layers) == (3, 32, 1)
    assert outcome.labels.read_text() == "red\ngreen\nblue\n"
    card = json.loads(outcome.card.read_text())
    assert card["teacher"]["size"] == 32
    assert card["data"]["labeled"] == 11  # the file that is not an image lies in a class folder too
    assert card["data"]["training_images"] == 10
    assert list(card["data"]["folder_weights"].values()) == [2, 1]
    assert card["images_seen"] == 32  # two epochs of 5 + 2 · 5 images and a share of those skipped, by four


def test_a_cache_that_was_named_stays(distilled):
    names = {path.name for path in (distilled[1] / "cache").rglob("*")}
    assert {"images.bin", "images.json", "outputs.bin"} <= names


def test_starting_weights_of_other_classes_are_refused(image_folder, teacher_file, small_weights, tmp_path):
    with pytest.raises(CheckpointError, match="has 10 classes and the teacher 3"):
        distil(
            [image_folder],
            tmp_path,
            teacher=teacher_file,
            teacher_size=32,
            weights=small_weights,
            config=QUICK,
        )


def test_images_that_are_not_there_are_one_line_and_1(capsys, tmp_path):
    assert cli.main(["finetune", str(tmp_path / "gone"), "-o", str(tmp_path / "out")]) == 1
    assert "there is no such folder" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_named(image_folder, small_weights, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match=r"may not be written|cannot be created"):
        finetune(image_folder, tmp_path / "out", weights=small_weights, config=QUICK)
