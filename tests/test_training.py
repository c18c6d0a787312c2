"""Training from folders of images to files, by the API and by the command line."""

import contextlib
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image
from reference import timm_shapes
from safetensors import safe_open

from cait_viz._files import sha256
from cait_viz.api import analyze, load_model
from cait_viz.cli import main as cli
from cait_viz.errors import CheckpointError, DatasetError, OutputError, SelectionError, TrainingError
from cait_viz.training import distil, finetune
from cait_viz.training.config import FINETUNING, Augmentation, RunOptions, Stage
from cait_viz.weights.architecture import read_tensors
from cait_viz.weights.registry import BUNDLED
from cait_viz.weights.resolve import resolve

QUICK = replace(
    FINETUNING, stages=(Stage(32, 1), Stage(None, 1)), batch_size=4, augmentation=Augmentation(mixup=0.1)
)
COLORS = {"red": (220, 30, 30), "green": (30, 220, 30)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes of five images smaller than the input, a file that is not an image, an empty class."""
    place = tmp_path_factory.mktemp("images")
    for name, color in COLORS.items():
        (place / name).mkdir()
        for number in range(5):
            Image.new("RGB", (30 + number, 40), color).save(place / name / f"{number}.png")
    (place / "red" / "broken.jpg").write_bytes(b"not an image")
    (place / "blue").mkdir()
    return place


@pytest.fixture(scope="module")
def small_weights(make_small_weights):
    return make_small_weights(10)


def finetune_briefly(folder, out, weights, epochs, options):
    """At one low resolution and without validation, for tests of what happens around the steps."""
    config = replace(QUICK, stages=(Stage(32, epochs),))
    return finetune(folder, out, weights=weights, validation=0.0, config=config, options=options)


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


@pytest.fixture(scope="module")
def finetuned(folder, small_weights, tmp_path_factory):
    """What a fine-tuning has left, and what it printed."""
    out, lines = tmp_path_factory.mktemp("finetuned"), []
    options = RunOptions(tell=lines.append, command="cait-viz finetune …", half=True)
    outcome = finetune(folder, out, weights=small_weights, validation=0.4, config=QUICK, options=options)
    return outcome, lines


def test_what_comes_out_opens_like_every_checkpoint(finetuned, folder):
    outcome, _ = finetuned
    model = load_model(weights=outcome.weights, labels=outcome.labels)
    analysis = analyze(folder / "red" / "0.png", model)
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


def test_what_was_skipped_is_printed_and_what_was_done_is_in_the_card(finetuned, folder):
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


def test_the_accuracy_is_what_the_written_weights_reach(finetuned, folder):
    outcome, _ = finetuned
    from cait_viz.training.datasets import find_classes, split

    _, held_back = split(find_classes(folder, print)[0], 0.4, 0)
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


def test_tensorboard_gets_what_the_log_holds(folder, small_weights, tmp_path, monkeypatch):
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
    finetune_briefly(folder, tmp_path, small_weights, 2, options)
    rows = csv.DictReader((tmp_path / "log.csv").open())
    assert Board.logged == [*((int(row["epochs"]), float(row["loss"])) for row in rows), "closed"]
    assert len(Board.models) == 1  # each one is a file of TensorBoard's


def test_logs_for_tensorboard_need_its_package(folder, small_weights, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(TrainingError, match="need tensorflow and tensorboard"):
        finetune(folder, tmp_path, weights=small_weights, config=QUICK, options=RunOptions(tensorboard=True))


def test_nothing_is_left_that_only_the_training_needed(finetuned):
    left = {path.name for path in finetuned[0].weights.parent.iterdir()}
    assert left == {"model.safetensors", "labels.txt", "card.json", "log.csv"}


def test_a_folder_that_holds_a_training_is_not_written_over(finetuned, folder, small_weights):
    out = finetuned[0].weights.parent
    with pytest.raises(OutputError, match=r"holds model\.safetensors, labels\.txt, .* already"):
        finetune(folder, out, weights=small_weights, config=QUICK)
    with pytest.raises(TrainingError, match="it is finished; start without --resume in another folder"):
        finetune(folder, out, weights=small_weights, config=QUICK, options=RunOptions(resume=True))


def test_a_folder_with_somebody_elses_labels_is_not_written_to(folder, small_weights, tmp_path):
    (tmp_path / "labels.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"holds labels\.txt already"):
        finetune(folder, tmp_path, weights=small_weights, config=QUICK)
    assert (tmp_path / "labels.txt").read_text() == "mine"


def test_the_classifier_is_kept_where_its_classes_are_those_of_the_images(finetuned, folder, tmp_path):
    """And what lies in the output's folder that is not the training's stays there."""
    before, _ = finetuned
    (tmp_path / "training-cache").mkdir()
    (tmp_path / "training-cache" / "mine.txt").write_text("mine")
    lines = []
    after = finetune(
        folder,
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


def test_an_output_among_the_images_is_refused_before_it_is_created(folder, teacher_file, tmp_path):
    out = folder / "red" / "mine"
    for inside, cache in ((out, None), (tmp_path, out)):
        options = RunOptions(cache=cache)
        with pytest.raises(OutputError, match=r"mine: lies among the images of .*; choose"):
            finetune(folder, inside, config=QUICK, options=options)
        with pytest.raises(OutputError, match="lies among the images"):
            distil([tmp_path / "x", folder], inside, teacher=teacher_file, config=QUICK, options=options)
    assert not out.exists()


def test_a_validation_folder_among_the_images_is_not_a_class_and_not_trained_on(folder, tmp_path):
    images = tmp_path / "images"
    shutil.copytree(folder, images)
    shutil.copytree(folder / "red", images / "held back" / "red")
    validation = images / "held back"
    how = {"validation": validation, "config": QUICK}
    lines = lines_before(lambda options: finetune(images, tmp_path / "out", options=options, **how))
    assert lines[-3:] == [
        "  green: 5 images to train on, 0 to validate with",
        "  red: 5 images to train on, 6 to validate with",
        "2 classes: 10 images to train on, 6 to validate with",
    ]


def test_nothing_in_a_validation_folder_is_trained_on(folder, make_teacher, tmp_path):
    images = tmp_path / "images"
    shutil.copytree(folder, images)
    for name in ("red", "unknown"):
        shutil.copytree(folder / "red", images / "val" / name)
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
def split_folder(folder, tmp_path):
    """A folder with a split, and an image beside the classes of each part."""
    place = tmp_path / "split"
    shutil.copytree(folder, place / "train")
    shutil.copytree(folder, place / "val", ignore=shutil.ignore_patterns("[1-9].png", "*.jpg"))
    for part in (place, place / "train", place / "val"):
        shutil.copy(folder / "red" / "0.png", part / "loose.png")
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


def test_another_folder_or_none_to_validate_with_is_taken_before_the_splits(split_folder, folder, tmp_path):
    for validation, count in ((folder, 11), (split_folder / "val", 2), (0.0, 0)):
        how = {"validation": validation, "config": QUICK}
        lines = lines_before(lambda o, how=how: finetune(split_folder, tmp_path / "out", options=o, **how))
        assert lines[-1] == f"2 classes: 10 images to train on, {count} to validate with"


def test_resuming_with_other_options_is_refused_before_anything_is_done(folder, teacher_file, tmp_path):
    config = replace(QUICK, kept_views=1)
    state = {"identity": {"config": asdict(config.settled(224))}}
    np.savez(tmp_path / "checkpoint.npz", state=np.array(json.dumps(state)))
    with pytest.raises(TrainingError, match="saved with other config, architecture"):
        distil(
            [folder],
            tmp_path,
            teacher=teacher_file,
            teacher_size=32,
            config=replace(config, seed=5),
            options=RunOptions(resume=True),
        )
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.npz"]


def test_a_resolution_that_is_no_whole_number_of_patches_is_refused(folder, small_weights, tmp_path):
    with pytest.raises(
        SelectionError, match="40 pixels is not a multiple of the patch size of 16; choose 32"
    ):
        finetune(folder, tmp_path, weights=small_weights, config=replace(QUICK, stages=(Stage(40, 1),)))


def test_a_validation_folder_of_other_classes_is_refused(folder, small_weights, tmp_path):
    other = tmp_path / "other" / "yellow"
    other.mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(other / "0.png")
    with pytest.raises(DatasetError, match="none of its folders is named after a class"):
        finetune(folder, tmp_path / "out", weights=small_weights, validation=other.parent, config=QUICK)


def test_there_is_nothing_to_resume_in_an_empty_folder(folder, small_weights, tmp_path):
    options = RunOptions(resume=True, tell=lambda _: None)
    with pytest.raises(TrainingError, match="nothing to resume"):
        finetune(folder, tmp_path, weights=small_weights, config=QUICK, options=options)


@pytest.fixture(scope="module")
def distilled(folder, teacher_file, make_small_weights, tmp_path_factory):
    """A student of a teacher who tells red, green and blue apart."""
    place = tmp_path_factory.mktemp("distilled")
    (place / "names.txt").write_text("red\ngreen\nblue\n")
    shutil.copytree(folder / "green", place / "validation" / "green")
    config = replace(QUICK, stages=(Stage(32, 2),), kept_views=1, label_weight=0.3, label_smoothing=0.0)
    outcome = distil(
        [folder],
        place / "out",
        teacher=teacher_file,
        teacher_size=32,
        weights=make_small_weights(3),
        labels=place / "names.txt",
        validation=[place / "validation"],
        folder_weights={folder: 2, folder / "red": 1},
        config=config,
        options=RunOptions(tell=lambda _: None, cache=place / "cache"),
    )
    return outcome, place


def test_a_student_without_weights_starts_from_random_ones(folder, teacher_file, tmp_path):
    import tensorflow as tf

    config = replace(QUICK, stages=(Stage(16, 0.1),))
    tf.config.run_functions_eagerly(True)  # one step: its graph takes half a minute to compile
    try:
        options = RunOptions(tell=lambda _: None)
        outcome = distil(
            [folder], tmp_path, teacher=teacher_file, teacher_size=32, config=config, options=options
        )
    finally:
        tf.config.run_functions_eagerly(False)
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


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({"red": -1}, "red: a weight must be at least 0 and finite, not -1"),
        ({"red": float("nan")}, "not nan"),
        ({"gone": 2}, "gone: has a weight, but none of the images lies in it"),
        ({"": 0}, "no images are left to train on"),
    ],
)
def test_a_folder_weight_that_cannot_be_used_is_refused(folder, teacher_file, tmp_path, weights, words):
    weights = {folder / name: weight for name, weight in weights.items()}
    how = {"teacher": teacher_file, "teacher_size": 32, "config": QUICK}
    options = RunOptions(tell=lambda _: None)
    with pytest.raises(DatasetError, match=words):
        distil([folder], tmp_path / "out", folder_weights=weights, options=options, **how)


def test_a_folder_that_is_named_twice_is_refused(folder, teacher_file, tmp_path):
    with pytest.raises(DatasetError, match="named twice; give it a weight of 2"):
        distil([folder, folder], tmp_path, teacher=teacher_file)


def test_starting_weights_of_other_classes_are_refused(folder, teacher_file, small_weights, tmp_path):
    with pytest.raises(CheckpointError, match="has 10 classes and the teacher 3"):
        distil([folder], tmp_path, teacher=teacher_file, teacher_size=32, weights=small_weights, config=QUICK)


# --- the command line -------------------------------------------------------------------------------------


def started(environment, *arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "cait_viz", *map(str, arguments)],
        env=environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def tensors(path):
    with safe_open(path, "np") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def test_a_training_that_was_killed_and_interrupted_ends_as_without_interruption(
    folder, small_weights, tmp_path, environment
):
    config = replace(FINETUNING, stages=(Stage(32, 3), Stage(64, 1)), batch_size=4)
    options = RunOptions(tell=lambda _: None, checkpoint_minutes=0)
    how = {"weights": small_weights, "validation": 0.0, "config": config}
    whole = finetune(folder, tmp_path / "whole", options=options, **how)
    out = tmp_path / "broken"
    command = ["finetune", folder, "--weights", small_weights, "--stages", "32:3,64:1", "--batch-size", 4]
    command += ["--validation-share", 0, "--checkpoint-minutes", 0, "-o", out]
    process = started(environment, *command)
    deadline = time.monotonic() + 120
    while not (out / "checkpoint.npz").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.communicate()
    assert (out / "checkpoint.npz").exists()

    lines = []

    def press_control_c(sentence):
        lines.append(sentence)
        if sentence.startswith("step "):  # it is in the middle of the steps
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        finetune(folder, out, options=replace(options, tell=press_control_c, resume=True), **how)
    assert "saved; the same command with --resume goes on" in lines[-2]

    assert cli.main([str(word) for word in (*command, "--resume")]) == 0
    first, second = tensors(whole.weights), tensors(out / "model.safetensors")
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert logged_steps(out) == logged_steps(whole.weights.parent)


def test_control_c_in_a_validation_does_not_wait_for_its_end(tmp_path, small_weights, monkeypatch):
    for name, color in COLORS.items():
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(50):
            Image.new("RGB", (32, 32), color).save(tmp_path / "images" / name / f"{number}.png")
    batches = []

    def predict(model, images):
        batches.append(len(images))
        if len(batches) == 1:
            signal.raise_signal(signal.SIGINT)
        return usual(model, images)

    usual = keras.Model.predict_on_batch
    monkeypatch.setattr(keras.Model, "predict_on_batch", predict)
    config = replace(QUICK, stages=(Stage(32, 0.1),))
    how = {"weights": small_weights, "validation": 0.9, "config": config}
    options = RunOptions(tell=lambda _: None)
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        finetune(tmp_path / "images", out, options=options, **how)
    assert batches == [32]
    assert logged_steps(out) == [1]
    outcome = finetune(tmp_path / "images", out, options=replace(options, resume=True), **how)
    assert logged_steps(out) == [1]  # there was nothing left to train
    assert outcome.accuracy


class Clock:
    """Monotonic time, with seconds that are added."""

    def __init__(self, monkeypatch):
        self.added = 0.0
        real = time.monotonic
        monkeypatch.setattr(time, "monotonic", lambda: real() + self.added)


def test_the_state_is_saved_every_so_many_minutes_of_steps(folder, small_weights, tmp_path, monkeypatch):
    clock, usual = Clock(monkeypatch), keras.Model.train_on_batch

    def take_twenty_minutes(model, *arguments, **options):
        clock.added += 20 * 60
        return usual(model, *arguments, **options)

    monkeypatch.setattr(keras.Model, "train_on_batch", take_twenty_minutes)
    lines = []
    options = RunOptions(tell=lines.append, checkpoint_minutes=59)
    finetune_briefly(folder, tmp_path, small_weights, 4, options)
    saved = [line for line in lines if line.startswith("step ")]
    assert [line.partition(":")[0] for line in saved] == ["step 3 of 10", "step 6 of 10", "step 9 of 10"]
    assert "0.0 images/s at 32 px, 2:2" in saved[0]  # seven steps of twenty minutes
    assert json.loads((tmp_path / "card.json").read_text())["seconds"] >= 200 * 60


def test_a_log_that_cannot_be_written_is_written_with_the_next_row(
    folder, small_weights, tmp_path, monkeypatch
):
    """As long as a spreadsheet holds it open, on Windows."""

    def refuse_the_first(part, target):
        if Path(target).name == "log.csv":
            attempts.append(target)
            if len(attempts) == 1:
                raise PermissionError(13, "Permission denied")
        return usual(part, target)

    usual, attempts, lines = Path.replace, [], []
    monkeypatch.setattr(Path, "replace", refuse_the_first)
    finetune_briefly(folder, tmp_path, small_weights, 2, RunOptions(tell=lines.append))
    assert len(attempts) == 2
    assert logged_steps(tmp_path) == [3, 5]
    assert [line for line in lines if "log.csv: cannot be written now" in line]


def test_a_training_that_failed_before_its_state_was_saved_can_be_started_again(
    folder, small_weights, tmp_path
):
    (tmp_path / "log.csv").write_text("epochs,step,image_size,learning_rate,loss,seconds\n1,3,32,0.1,9,9\n")
    (tmp_path / ".cait-viz-0123456789abcdef.part").write_bytes(b"half a state")
    (tmp_path / "training-cache" / "images-0123456789abcdef").mkdir(parents=True)
    options = RunOptions(tell=lambda _: None, half=True)
    finetune_briefly(folder, tmp_path, small_weights, 1, options)
    assert logged_steps(tmp_path) == [2]
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"model.safetensors", "labels.txt", "card.json", "log.csv"}


def test_somebody_elses_log_is_not_written_over(folder, small_weights, tmp_path):
    (tmp_path / "log.csv").write_text("time,temperature\n")
    with pytest.raises(OutputError, match=r"holds log\.csv already"):
        finetune(folder, tmp_path, weights=small_weights, config=QUICK)


def test_the_row_of_an_epoch_is_written_before_the_state_that_includes_it(
    folder, small_weights, tmp_path, monkeypatch
):
    """A training that is killed as soon as it has saved the state does not write that row any more."""

    def die(file, *, state, **arrays):
        if json.loads(str(state))["step"] == 3:  # ten images make an epoch of two and a half batches
            raise SystemExit
        usual(file, state=state, **arrays)

    usual = np.savez
    monkeypatch.setattr(np, "savez", die)
    options = RunOptions(tell=lambda _: None, checkpoint_minutes=0)
    with pytest.raises(SystemExit):
        finetune_briefly(folder, tmp_path, small_weights, 2, options)
    assert logged_steps(tmp_path) == [3]


@pytest.fixture(scope="session")
def count_opened():
    """Count how often the files below a folder are opened inside a block: count_opened(folder)."""
    running = []

    def note(event, arguments):
        if event == "open" and isinstance(arguments[0], str | os.PathLike):
            for folder, counts in running:
                path = Path(arguments[0])
                if path.is_relative_to(folder):
                    counts[path] += 1

    sys.addaudithook(note)  # which cannot be removed

    @contextlib.contextmanager
    def count(folder):
        running.append((folder, Counter()))
        try:
            yield running[-1][1]
        finally:
            running.pop()

    return count


def test_a_training_reads_each_image_and_its_state_once(
    folder, small_weights, tmp_path, monkeypatch, count_opened
):
    """An image's first bytes tell before all else whether it is one; a status is needed to know it again."""
    statuses = Counter()

    def status(path, *arguments, **options):
        if isinstance(path, str | os.PathLike):
            statuses[Path(path)] += 1
        return usual(path, *arguments, **options)

    def interrupt(line):
        if line.startswith("step 2 "):
            signal.raise_signal(signal.SIGINT)

    usual = os.stat
    monkeypatch.setattr(os, "stat", status)
    images = list(folder.rglob("*.png"))
    out = tmp_path / "out"
    options = RunOptions(tell=interrupt, checkpoint_minutes=0)
    statuses.clear()
    with count_opened(folder) as opened, pytest.raises(KeyboardInterrupt):
        finetune_briefly(folder, out, small_weights, 2, options)
    assert {opened[path] for path in images} == {2}
    assert {statuses[path] for path in images} == {2}  # the second by `load_image`
    statuses.clear()
    with count_opened(tmp_path) as opened, count_opened(folder) as opened_images:
        finetune_briefly(folder, out, small_weights, 2, replace(options, tell=lambda _: None, resume=True))
    assert opened[out / "checkpoint.npz"] == 1
    assert {opened_images[path] for path in images} == {1}
    assert {statuses[path] for path in images} == {1}


def logged_steps(out):
    return [int(row["step"]) for row in csv.DictReader((out / "log.csv").open())]


def test_images_that_are_not_there_are_one_line_and_1(capsys, tmp_path):
    assert cli.main(["finetune", str(tmp_path / "gone"), "-o", str(tmp_path / "out")]) == 1
    assert "there is no such folder" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_named(folder, small_weights, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match=r"may not be written|cannot be created"):
        finetune(folder, tmp_path / "out", weights=small_weights, config=QUICK)
