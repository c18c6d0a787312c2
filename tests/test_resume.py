"""Trainings that are interrupted or killed, their log, and going on with them."""

import contextlib
import json
import os
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
from training_runs import QUICK, finetune_briefly, logged_steps, tensors

from cait_viz.api import analyze, load_model
from cait_viz.cli import main as cli
from cait_viz.errors import OutputError, TrainingError
from cait_viz.training import distil, finetune
from cait_viz.training.config import FINETUNING, RunOptions, Stage
from cait_viz.training.state import SavedState


def test_resuming_with_other_options_is_refused_before_anything_is_done(image_folder, teacher_file, tmp_path):
    config = replace(QUICK, kept_views=1)
    state = {"identity": {"config": asdict(config.resolved(224))}}
    np.savez(tmp_path / "state.npz", state=np.array(json.dumps(state)))
    with pytest.raises(TrainingError, match="saved with other config, architecture"):
        distil(
            [image_folder],
            tmp_path,
            teacher=teacher_file,
            teacher_size=32,
            config=replace(config, seed=5),
            options=RunOptions(resume=True),
        )
    assert [path.name for path in tmp_path.iterdir()] == ["state.npz"]


def test_there_is_nothing_to_resume_in_an_empty_folder(image_folder, small_weights, tmp_path):
    options = RunOptions(resume=True, tell=lambda _: None)
    with pytest.raises(TrainingError, match="nothing to resume"):
        finetune(image_folder, tmp_path, weights=small_weights, config=QUICK, options=options)


def started(environment, *arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "cait_viz", *map(str, arguments)],
        env=environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_training_that_was_killed_and_interrupted_ends_as_without_interruption(
    image_folder, small_weights, tmp_path, environment
):
    config = replace(FINETUNING, stages=(Stage(32, 3), Stage(64, 1)), batch_size=4)
    options = RunOptions(tell=lambda _: None, state_minutes=0)
    how = {"weights": small_weights, "validation": 0.0, "config": config}
    whole = finetune(image_folder, tmp_path / "whole", options=options, **how)
    out = tmp_path / "broken"
    command = [
        "finetune",
        image_folder,
        "--weights",
        small_weights,
        "--stages",
        "32:3,64:1",
        "--batch-size",
        4,
    ]
    command += ["--validation-share", 0, "--state-minutes", 0, "-o", out]
    process = started(environment, *command)
    deadline = time.monotonic() + 120
    while not (out / "state.npz").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.communicate()
    assert (out / "state.npz").exists()

    lines = []

    def press_control_c(sentence):
        lines.append(sentence)
        if sentence.startswith("step "):  # it is in the middle of the steps
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        finetune(image_folder, out, options=replace(options, tell=press_control_c, resume=True), **how)
    assert "saved; the same command with --resume goes on" in lines[-2]

    assert cli.main([str(word) for word in (*command, "--resume")]) == 0
    first, second = tensors(whole.weights), tensors(out / "model.safetensors")
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert logged_steps(out) == logged_steps(whole.weights.parent)


@pytest.mark.usefixtures("eagerly")
def test_the_averaged_weights_of_an_interrupted_training_can_be_looked_at(
    image_folder, small_weights, tmp_path
):
    lines = []

    def interrupt(line):
        lines.append(line)
        if ", step 3 of " in line:  # behind the first epoch
            signal.raise_signal(signal.SIGINT)

    def content(array):
        return np.sort(array, axis=None).tobytes()  # whatever the order of its axes

    config = replace(QUICK, stages=(Stage(32, 2),), ema=0.5)
    how = {"weights": small_weights, "validation": 0.0, "config": config}
    with pytest.raises(KeyboardInterrupt):
        finetune(image_folder, tmp_path, options=RunOptions(tell=interrupt), **how)
    file, labels = tmp_path / "average-so-far.safetensors", tmp_path / "labels.txt"
    command = f"cait-viz app --weights {file} --labels {labels}"
    assert lines[-1] == f"look at the averaged weights so far with: {command}"
    average = tensors(file)
    state = [content(array) for array in SavedState(tmp_path / "state.npz").arrays()]
    assert {content(tensor) for tensor in average.values()} <= set(state)
    last_weights = state[: len(average)]
    assert content(average["blocks.0.attn.qkv.weight"]) not in last_weights
    analysis = analyze(image_folder / "red" / "0.png", load_model(weights=file, labels=labels))
    assert {label for label, _ in analysis.predictions} == {"red", "green"}
    finetune(image_folder, tmp_path, options=RunOptions(tell=lines.append, resume=True), **how)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"model.safetensors", "labels.txt", "card.json", "log.csv"}


@pytest.mark.usefixtures("eagerly")
def test_control_c_in_a_validation_does_not_wait_for_its_end(tmp_path, small_weights, monkeypatch):
    for name in ("red", "green"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(50):
            Image.new("RGB", (32, 32), name).save(tmp_path / "images" / name / f"{number}.png")
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


def test_the_state_is_saved_every_so_many_minutes_of_steps(
    image_folder, small_weights, tmp_path, monkeypatch
):
    clock, usual = Clock(monkeypatch), keras.Model.train_on_batch

    def take_twenty_minutes(model, *arguments, **options):
        clock.added += 20 * 60
        return usual(model, *arguments, **options)

    monkeypatch.setattr(keras.Model, "train_on_batch", take_twenty_minutes)
    lines = []
    options = RunOptions(tell=lines.append, state_minutes=59)
    finetune_briefly(image_folder, tmp_path, small_weights, 4, options)
    saved = [line for line in lines if line.startswith("step ")]
    assert [line.partition(":")[0] for line in saved] == ["step 3 of 10", "step 6 of 10", "step 9 of 10"]
    assert "0.0 images/s at 32 px, 2:2" in saved[0]  # seven steps of twenty minutes
    assert json.loads((tmp_path / "card.json").read_text())["seconds"] >= 200 * 60


@pytest.mark.usefixtures("eagerly")
def test_a_log_that_cannot_be_written_is_written_with_the_next_row(
    image_folder, small_weights, tmp_path, monkeypatch
):
    """As long as a spreadsheet holds it open, on Windows; so may the app the averaged weights."""

    def refuse_the_first(part, target):
        attempts.append(Path(target).name)
        if attempts[-1] in ("log.csv", "average-so-far.safetensors") and attempts.count(attempts[-1]) == 1:
            raise PermissionError(13, "Permission denied")
        return usual(part, target)

    usual, attempts, lines = Path.replace, [], []
    monkeypatch.setattr(Path, "replace", refuse_the_first)
    finetune_briefly(image_folder, tmp_path, small_weights, 2, RunOptions(tell=lines.append))
    assert attempts.count("log.csv") == 2
    assert logged_steps(tmp_path) == [3, 5]
    for name in ("log.csv", "average-so-far.safetensors"):
        assert [line for line in lines if f"{name}: cannot be written now" in line]


@pytest.mark.usefixtures("eagerly")
def test_a_training_that_failed_before_its_state_was_saved_can_be_started_again(
    image_folder, small_weights, tmp_path
):
    (tmp_path / "log.csv").write_text("epochs,step,image_size,learning_rate,loss,seconds\n1,3,32,0.1,9,9\n")
    half = tmp_path / ".cait-viz-0123456789abcdef.part"
    half.mkdir()
    (half / "part.npz").write_bytes(b"half a state")
    (tmp_path / "training-cache" / "images-0123456789abcdef").mkdir(parents=True)
    options = RunOptions(tell=lambda _: None, half=True)
    finetune_briefly(image_folder, tmp_path, small_weights, 1, options)
    assert logged_steps(tmp_path) == [2]
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"model.safetensors", "labels.txt", "card.json", "log.csv"}


def test_somebody_elses_log_is_not_written_over(image_folder, small_weights, tmp_path):
    (tmp_path / "log.csv").write_text("time,temperature\n")
    with pytest.raises(OutputError, match=r"holds log\.csv already"):
        finetune(image_folder, tmp_path, weights=small_weights, config=QUICK)


@pytest.mark.usefixtures("eagerly")
def test_the_row_of_an_epoch_is_written_before_the_state_that_includes_it(
    image_folder, small_weights, tmp_path, monkeypatch
):
    """A training that is killed as soon as it has saved the state does not write that row any more."""

    def die(file, *, state, **arrays):
        if json.loads(str(state))["step"] == 3:  # ten images make an epoch of two and a half batches
            raise SystemExit
        usual(file, state=state, **arrays)

    usual = np.savez
    monkeypatch.setattr(np, "savez", die)
    options = RunOptions(tell=lambda _: None, state_minutes=0)
    with pytest.raises(SystemExit):
        finetune_briefly(image_folder, tmp_path, small_weights, 2, options)
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


@pytest.mark.usefixtures("eagerly")
def test_a_training_reads_each_image_and_its_state_once(
    image_folder, small_weights, tmp_path, monkeypatch, count_opened
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
    images = list(image_folder.rglob("*.png"))
    out = tmp_path / "out"
    options = RunOptions(tell=interrupt, state_minutes=0)
    statuses.clear()
    with count_opened(image_folder) as opened, pytest.raises(KeyboardInterrupt):
        finetune_briefly(image_folder, out, small_weights, 2, options)
    assert {opened[path] for path in images} == {2}
    assert {statuses[path] for path in images} == {2}  # the second by `load_image`
    statuses.clear()
    with count_opened(tmp_path) as opened, count_opened(image_folder) as opened_images:
        finetune_briefly(
            image_folder, out, small_weights, 2, replace(options, tell=lambda _: None, resume=True)
        )
    assert opened[out / "state.npz"] == 1
    assert {opened_images[path] for path in images} == {1}
    assert {statuses[path] for path in images} == {1}
