"""Training from folders of pictures to files, by the API and by the command line."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

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
from cait_viz.training import api as training
from cait_viz.training import logs
from cait_viz.training.api import distil, finetune
from cait_viz.training.config import FINETUNING, Augmentation, RunOptions, Stage
from cait_viz.training.datasets import Example
from cait_viz.training.trainer import Training
from cait_viz.weights.architecture import read_config, read_tensors
from cait_viz.weights.registry import BUNDLED

QUICK = replace(
    FINETUNING, stages=(Stage(32, 1), Stage(None, 1)), batch_size=4, augmentation=Augmentation(mixup=0.1)
)
COLOURS = {"red": (220, 30, 30), "green": (30, 220, 30)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes of five pictures smaller than the input, a file that is none, an empty class."""
    place = tmp_path_factory.mktemp("pictures")
    for name, colour in COLOURS.items():
        (place / name).mkdir()
        for number in range(5):
            Image.new("RGB", (30 + number, 40), colour).save(place / name / f"{number}.png")
    (place / "red" / "broken.jpg").write_bytes(b"no picture")
    (place / "blue").mkdir()
    return place


@pytest.fixture(scope="module")
def small_weights(make_small_weights):
    return make_small_weights(10)


def finetune_briefly(folder, out, weights, epochs, options):
    """At one low resolution and without validation, for tests of what happens around the steps."""
    recipe = replace(QUICK, stages=(Stage(32, epochs),))
    return finetune(folder, out, weights=weights, validation=0.0, config=recipe, options=options)


@pytest.fixture(scope="module")
def finetuned(folder, small_weights, tmp_path_factory):
    """What a fine-tuning has left, and what it told."""
    out, told = tmp_path_factory.mktemp("finetuned"), []
    options = RunOptions(tell=told.append, command="cait-viz finetune …", half=True)
    outcome = finetune(folder, out, weights=small_weights, validation=0.4, config=QUICK, options=options)
    return outcome, told


def test_what_comes_out_opens_like_every_checkpoint(finetuned, folder):
    outcome, _ = finetuned
    model = load_model(weights=outcome.weights, labels=outcome.labels)
    analysis = analyze(folder / "red" / "0.png", model)
    assert {label for label, _ in analysis.predictions} == {"red", "green"}
    assert model.config.image_size == 64
    assert np.isfinite(analysis.class_attention["ca_ffn_block_0_att"]).all()


def test_its_tensors_have_timms_names_and_the_type_that_was_asked_for(finetuned):
    outcome, _ = finetuned
    config = read_config(outcome.weights)
    with safe_open(outcome.weights, "np") as file:
        shapes = {name: tuple(file.get_tensor(name).shape) for name in file.keys()}  # noqa: SIM118
        assert {str(file.get_tensor(name).dtype) for name in shapes} == {"float16"}
        assert file.metadata() == {"format": "pt"}
    assert shapes == timm_shapes(config)


def test_everything_but_the_new_head_starts_from_the_weights_given(finetuned, small_weights):
    outcome, _ = finetuned
    before = read_tensors(small_weights, read_config(small_weights))
    after = read_tensors(outcome.weights, read_config(outcome.weights))
    new = {"head.weight", "head.bias", "pos_embed"}  # the last is interpolated
    moved = [np.abs(after[name] - before[name]).max() for name in after if name not in new]
    assert max(moved) < 0.1
    assert after["head.weight"].shape == (2, 48)


def test_what_was_odd_is_told_and_what_was_done_stands_in_the_card(finetuned, folder):
    outcome, told = finetuned
    text = "\n".join(told)
    assert "blue" in text
    assert "broken.jpg" in text
    card = json.loads(outcome.card.read_text())
    assert card["data"]["training_pictures"] == 6
    assert card["data"]["validation_pictures"] == 4
    assert card["data"]["skipped"][0].startswith("red/broken.jpg: is no picture")
    assert card["command"] == "cait-viz finetune …"
    assert card["seed"] == 0
    assert card["epochs"] == 2.667  # two stages of an epoch of six pictures, each two steps of four
    assert card["pictures_shown"] == 16
    assert card["hardware"]["backend"] == "tensorflow"
    assert {"keras", "tensorflow", "numpy"} <= set(card["versions"])
    assert card["weights"]["sha256"] == sha256(outcome.weights)
    assert card["accuracy"]["top1"] == outcome.accuracy["top1"]
    assert set(outcome.accuracy) == {"top1"}  # among two classes the first five say nothing


def test_the_accuracy_is_what_the_written_weights_reach(finetuned, folder):
    outcome, _ = finetuned
    from cait_viz.training.datasets import labelled, split

    _, held_back = split(labelled(folder, print)[0], 0.4, 0)
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


def test_tensorboard_is_told_what_the_log_holds(folder, small_weights, tmp_path, monkeypatch):
    """By a callback in its callback's place: its package is not among what the tests need."""

    class Board(keras.callbacks.Callback):
        told, models = [], []

        def set_model(self, model):
            self.models.append(model)

        def on_epoch_end(self, epoch, logs=None):
            self.told.append((epoch, logs["loss"]))

        def on_train_end(self, logs=None):
            self.told.append("closed")

    monkeypatch.setattr("cait_viz.training.run.tensorboard", lambda _: Board())
    options = RunOptions(tensorboard=True, tell=lambda _: None)
    finetune_briefly(folder, tmp_path, small_weights, 2, options)
    rows = csv.DictReader((tmp_path / "log.csv").open())
    assert Board.told == [*((int(row["epochs"]), float(row["loss"])) for row in rows), "closed"]
    assert len(Board.models) == 1  # each one is a file of TensorBoard's


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


def test_the_classifier_is_kept_where_its_classes_are_the_pictures(finetuned, folder, tmp_path):
    """And what lies in the output's folder that is not the training's stays there."""
    before, _ = finetuned
    (tmp_path / "training-cache").mkdir()
    (tmp_path / "training-cache" / "mine.txt").write_text("mine")
    told = []
    after = finetune(
        folder,
        tmp_path,
        weights=before.weights,
        labels=before.labels,
        validation=0.0,
        config=replace(QUICK, stages=(Stage(None, 0.5),), learning_rate=1e-9),
        options=RunOptions(tell=told.append),
    )
    assert not [sentence for sentence in told if "new classifier" in sentence]
    np.testing.assert_allclose(
        tensors(after.weights)["head.weight"], tensors(before.weights)["head.weight"], atol=1e-4
    )
    assert json.loads(after.card.read_text())["accuracy"] is None
    assert [path.name for path in (tmp_path / "training-cache").iterdir()] == ["mine.txt"]


def test_an_output_among_the_pictures_is_refused_before_it_is_made(folder, teacher_file, tmp_path):
    out = folder / "red" / "mine"
    for inside, cache in ((out, None), (tmp_path, out)):
        options = RunOptions(cache=cache)
        with pytest.raises(OutputError, match=r"mine: lies among the pictures of .*; choose"):
            finetune(folder, inside, config=QUICK, options=options)
        with pytest.raises(OutputError, match="lies among the pictures"):
            distil([tmp_path / "x", folder], inside, teacher=teacher_file, config=QUICK, options=options)
    assert not out.exists()


def test_a_validation_folder_among_the_pictures_is_no_class_and_not_trained_on(folder, tmp_path, monkeypatch):
    shutil.copytree(folder, tmp_path / "pictures")
    shutil.copytree(folder / "red", tmp_path / "pictures" / "held back" / "red")
    plans = []
    monkeypatch.setattr(training, "train", lambda plan, _: plans.append(plan))
    pictures = tmp_path / "pictures"
    validation = pictures / "held back"
    options = RunOptions(tell=lambda _: None)
    finetune(pictures, tmp_path / "out", validation=validation, config=QUICK, options=options)
    assert plans[0].names == ("green", "red")
    assert len(plans[0].training) == 10
    assert {example.label for example in plans[0].validation} == {1}


def test_nothing_that_lies_in_a_validation_folder_is_learned_from(
    folder, make_teacher, tmp_path, monkeypatch
):
    shutil.copytree(folder, tmp_path / "pictures")
    for name in ("red", "unknown"):
        shutil.copytree(folder / "red", tmp_path / "pictures" / "val" / name)
    (tmp_path / "names.txt").write_text("red\ngreen\nblue\n")
    plans = []
    monkeypatch.setattr(training, "train", lambda plan, _: plans.append(plan))
    how = {"teacher": make_teacher(), "teacher_size": 32, "config": QUICK, "labels": tmp_path / "names.txt"}
    how |= {"options": RunOptions(tell=lambda _: None)}
    pictures = tmp_path / "pictures"
    distil([pictures], tmp_path / "out", validation=[pictures / "val"], **how)
    assert not [example for example in plans[0].training if "val" in example.path.parts]
    assert {example.path.parent.name for example in plans[0].validation} == {"red"}
    with pytest.raises(DatasetError, match="unknown: none of its folders is named as a class"):
        distil([pictures], tmp_path / "out", validation=[pictures / "val" / "unknown"], **how)


def test_pictures_to_validate_with_are_not_trained_on(folder):
    training_pictures = [Example(folder / "red" / f"{number}.png", 0) for number in range(5)]
    other_way = Example(folder / "green" / ".." / "red" / "1.png", 0)
    told = []
    apart = training._apart(training_pictures, [other_way], told.append)
    assert [example.path.name for example in apart] == ["0.png", "2.png", "3.png", "4.png"]
    assert told == ["1 pictures belong to the validation and are not trained on"]


def test_a_resume_with_other_options_is_refused_before_anything_is_made(folder, teacher_file, tmp_path):
    recipe = replace(QUICK, kept_views=1)
    state = {"identity": {"recipe": recipe.settled(224).to_dict()}}
    np.savez(tmp_path / "checkpoint.npz", state=np.array(json.dumps(state)))
    with pytest.raises(TrainingError, match="saved with other recipe, architecture"):
        distil(
            [folder],
            tmp_path,
            teacher=teacher_file,
            teacher_size=32,
            config=replace(recipe, seed=5),
            options=RunOptions(resume=True),
        )
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.npz"]


def test_a_resolution_that_is_no_whole_number_of_patches_is_refused(folder, small_weights, tmp_path):
    with pytest.raises(SelectionError, match="40 pixels is no multiple of the patches of 16; choose 32"):
        finetune(folder, tmp_path, weights=small_weights, config=replace(QUICK, stages=(Stage(40, 1),)))


def test_a_validation_folder_of_other_classes_is_refused(folder, small_weights, tmp_path):
    other = tmp_path / "other" / "yellow"
    other.mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(other / "0.png")
    with pytest.raises(DatasetError, match="none of its folders is named as a class"):
        finetune(folder, tmp_path / "out", weights=small_weights, validation=other.parent, config=QUICK)


def test_there_is_nothing_to_resume_in_an_empty_folder(folder, small_weights, tmp_path):
    options = RunOptions(resume=True, tell=lambda _: None)
    with pytest.raises(TrainingError, match="nothing to take up again"):
        finetune(folder, tmp_path, weights=small_weights, config=QUICK, options=options)


def test_logs_for_tensorboard_need_its_package(folder, small_weights, tmp_path, monkeypatch):
    monkeypatch.setattr("cait_viz.logs.find_spec", lambda _: None)
    with pytest.raises(TrainingError, match="need tensorflow and tensorboard"):
        finetune(folder, tmp_path, weights=small_weights, config=QUICK, options=RunOptions(tensorboard=True))


@pytest.fixture(scope="module")
def distilled(folder, teacher_file, tmp_path_factory):
    """A student of a teacher who tells red, green and blue apart, from scratch."""
    place = tmp_path_factory.mktemp("distilled")
    (place / "names.txt").write_text("red\ngreen\nblue\n")
    shutil.copytree(folder / "green", place / "validation" / "green")
    recipe = replace(QUICK, stages=(Stage(32, 2),), kept_views=1, label_weight=0.3, label_smoothing=0.0)
    told = []
    small = replace(
        BUNDLED, config=replace(BUNDLED.config, sa_ffn_layers=1, ca_ffn_layers=1, projection_dim=48)
    )
    with pytest.MonkeyPatch.context() as patch:  # twelve blocks take half a minute to compile
        patch.setattr(training, "BUNDLED", small)
        outcome = distil(
            [folder, folder],
            place / "out",
            teacher=teacher_file,
            teacher_size=32,
            labels=place / "names.txt",
            validation=[place / "validation"],
            config=recipe,
            options=RunOptions(tell=told.append, cache=place / "cache"),
        )
    return outcome, place


def test_a_student_has_the_teachers_classes_and_the_resolution_it_was_trained_at(distilled):
    outcome, _ = distilled
    config = read_config(outcome.weights)
    assert (config.num_classes, config.image_size, config.sa_ffn_layers) == (3, 32, 1)
    assert outcome.labels.read_text() == "red\ngreen\nblue\n"
    card = json.loads(outcome.card.read_text())
    assert card["teacher"]["size"] == 32
    assert card["start"] is None
    assert card["data"]["labelled"] == 11  # the file that is no picture lies in a class' folder too
    assert card["data"]["training_pictures"] == 10
    assert card["epochs"] == 2


def test_a_cache_that_was_named_stays(distilled):
    names = {path.name for path in (distilled[1] / "cache").rglob("*")}
    assert {"pictures.bin", "lessons-logits.bin", "lessons-features.bin"} <= names


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


def test_a_run_that_was_killed_and_interrupted_ends_where_no_interruption_would_have(
    folder, small_weights, tmp_path, environment
):
    recipe = replace(FINETUNING, stages=(Stage(32, 3), Stage(64, 1)), batch_size=4)
    options = RunOptions(tell=lambda _: None, checkpoint_minutes=0)
    how = {"weights": small_weights, "validation": 0.0, "config": recipe}
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

    told = []

    def press_control_c(sentence):
        told.append(sentence)
        if sentence.startswith("step "):  # it is in the middle of the steps
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        finetune(folder, out, options=replace(options, tell=press_control_c, resume=True), **how)
    assert "saved; the same command with --resume goes on" in told[-1]

    assert cli.main([str(word) for word in (*command, "--resume")]) == 0
    first, second = tensors(whole.weights), tensors(out / "model.safetensors")
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert logged_steps(out) == logged_steps(whole.weights.parent)


def test_control_c_in_a_validation_does_not_wait_for_its_end(folder, small_weights, tmp_path, monkeypatch):
    def logits(made, images):
        asked.append(made.step)
        if len(asked) == 1:
            signal.raise_signal(signal.SIGINT)
        return np.zeros((len(images), 2))

    asked = []
    monkeypatch.setattr(Training, "logits", logits)
    monkeypatch.setattr("cait_viz.validation._BATCH", 1)
    how = {"weights": small_weights, "validation": 0.4, "config": replace(QUICK, stages=(Stage(32, 1),))}
    options = RunOptions(tell=lambda _: None)
    with pytest.raises(KeyboardInterrupt):
        finetune(folder, tmp_path, options=options, **how)
    assert asked == [2]
    assert logged_steps(tmp_path) == [2]
    finetune(folder, tmp_path, options=replace(options, resume=True), **how)
    assert asked == [2]  # there was nothing left to train
    assert logged_steps(tmp_path) == [2]


def test_the_state_is_saved_every_so_many_minutes_of_steps(folder, small_weights, tmp_path, monkeypatch):
    class Clock:
        now = 0.0
        monotonic = staticmethod(lambda: Clock.now)

    def learn_for_twenty_seconds(made, images, targets):
        Clock.now += 20
        return learn(made, images, targets)

    learn, save, saved = Training._learn, Training.save, []
    monkeypatch.setattr("cait_viz.training.run.time", Clock)
    monkeypatch.setattr(Training, "_learn", learn_for_twenty_seconds)
    monkeypatch.setattr(Training, "save", lambda made, path: saved.append(made.step) or save(made, path))
    told = []
    options = RunOptions(tell=told.append, checkpoint_minutes=1)
    finetune_briefly(folder, tmp_path, small_weights, 4, options)
    assert saved == [4, 8, 10]
    progress = next(sentence for sentence in told if sentence.startswith("step 4 of 10: loss"))
    assert "0.2 pictures/s at 32 px, 02:00 left" in progress
    assert json.loads((tmp_path / "card.json").read_text())["seconds"] == 200


def test_a_log_that_cannot_be_written_is_written_with_the_next_line(
    folder, small_weights, tmp_path, monkeypatch
):
    """As long as a spreadsheet holds it open, on Windows."""

    def refuse_the_first(path, rows):
        lengths.append(len(rows))
        if len(lengths) == 1:
            raise OutputError("held open")
        write(path, rows)

    write, lengths, told = logs._write_rows, [], []
    monkeypatch.setattr(logs, "_write_rows", refuse_the_first)
    finetune_briefly(folder, tmp_path, small_weights, 2, RunOptions(tell=told.append))
    assert lengths == [1, 2]
    assert logged_steps(tmp_path) == [3, 5]
    assert [sentence for sentence in told if "log.csv: cannot be written now" in sentence]


def test_a_training_that_failed_before_its_state_was_saved_can_be_begun_anew(folder, small_weights, tmp_path):
    (tmp_path / "log.csv").write_text("epochs,step,image_size,learning_rate,loss,seconds\n1,3,32,0.1,9,9\n")
    (tmp_path / ".cait-viz-0123456789abcdef.part").write_bytes(b"half a state")
    (tmp_path / "training-cache" / "pictures-0123456789abcdef").mkdir(parents=True)
    options = RunOptions(tell=lambda _: None, half=True)
    finetune_briefly(folder, tmp_path, small_weights, 1, options)
    assert logged_steps(tmp_path) == [2]
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"model.safetensors", "labels.txt", "card.json", "log.csv"}


def test_somebody_elses_log_is_not_written_over(folder, small_weights, tmp_path):
    (tmp_path / "log.csv").write_text("time,temperature\n")
    with pytest.raises(OutputError, match=r"holds log\.csv already"):
        finetune(folder, tmp_path, weights=small_weights, config=QUICK)


def test_the_line_of_an_epoch_is_written_before_the_state_that_lies_behind_it(
    folder, small_weights, tmp_path, monkeypatch
):
    """A training that is killed as soon as it has saved the state does not write that line any more."""

    def save_and_die(made, path):
        save(made, path)
        if made.step == 3:  # ten pictures make an epoch of two and a half batches
            raise SystemError("killed")

    save = Training.save
    monkeypatch.setattr(Training, "save", save_and_die)
    options = RunOptions(tell=lambda _: None, checkpoint_minutes=0)
    with pytest.raises(SystemError):
        finetune_briefly(folder, tmp_path, small_weights, 2, options)
    assert logged_steps(tmp_path) == [3]


def logged_steps(out):
    return [int(row["step"]) for row in csv.DictReader((out / "log.csv").open())]


def test_pictures_that_are_not_there_are_one_line_and_1(capsys, tmp_path):
    assert cli.main(["finetune", str(tmp_path / "gone"), "-o", str(tmp_path / "out")]) == 1
    assert "there is no such folder" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_told(folder, small_weights, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match=r"may not be written|cannot be made"):
        finetune(folder, tmp_path / "out", weights=small_weights, config=QUICK)
