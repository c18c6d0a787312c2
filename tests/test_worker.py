"""The model's own process: what it answers, and what happens when it is killed."""

import os
import signal
import subprocess
import sys
import time
import weakref
from concurrent.futures import CancelledError
from pathlib import Path

import numpy as np
import pytest
from cait_viz.serving.worker import ModelCache, ModelChoice, Request, Workers

from cait_viz._files import sha256
from cait_viz.errors import CaitVizError, CheckpointError, ImageError, UnknownModelError, WorkerDiedError

PATIENCE = 120  # seconds after which a test is given up


@pytest.fixture(scope="module")
def tiny(tiny_weights):
    return ModelChoice(weights=tiny_weights)


@pytest.fixture(scope="module")
def workers(tiny):
    pool = Workers(first=tiny)
    yield pool
    pool.stop()


@pytest.fixture(scope="module")
def ask(workers, tiny):
    """Send a picture to the model's process and wait for the answer."""

    def ask(picture, choice=tiny, name="photo.png", view="crop"):
        return workers.analyze(Request(picture, name, view, choice)).result(PATIENCE)

    return ask


def is_there(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def is_zombie(pid):
    """Whether of an orphan only the exit status is left, which nobody may ever ask for."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] == "Z"


def wait_until(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("view", ["crop", "whole"])
def test_the_answer_is_the_one_of_this_process(ask, photo, tiny_model, view):
    from cait_viz.api import analyze

    found, expected = ask(photo, view=view), analyze(photo, tiny_model, view, "photo.png")
    for name in ("image", "image_name", "image_sha256", "model", "view", "box", "labels"):
        assert np.array_equal(getattr(found, name), getattr(expected, name)), name
    np.testing.assert_allclose(found.logits, expected.logits, atol=1e-5)
    assert found.class_attention.keys() == expected.class_attention.keys()
    for key, attention in expected.class_attention.items():
        np.testing.assert_allclose(found.class_attention[key], attention, atol=1e-6)
    assert found.overlay().size == (130, 90)


def test_the_process_is_another_one_and_stays_the_same(workers, ask, photo):
    first = workers.ready().result(PATIENCE)
    ask(photo)
    assert workers.ready().result(PATIENCE) == first != os.getpid()


def test_a_refusal_crosses_over_as_it_was_worded(ask):
    from cait_viz.images.read import read_image

    with pytest.raises(ImageError) as here:
        read_image(b"not a picture")
    with pytest.raises(ImageError) as there:
        ask(b"not a picture", name="letter.txt")
    assert str(there.value).partition(": ")[2] == str(here.value).partition(": ")[2] != ""
    assert "letter.txt" in str(there.value)


def test_a_model_that_cannot_be_loaded_is_told_and_the_next_image_is_answered(ask, photo):
    with pytest.raises(UnknownModelError, match="'cait_xl'"):
        ask(photo, ModelChoice("cait_xl"))
    with pytest.raises(CaitVizError, match=r"nowhere\.safetensors"):
        ask(photo, ModelChoice(weights=Path("nowhere.safetensors")))
    assert len(ask(photo).labels) == 10


def test_results_name_the_model_as_it_was_called(ask, photo, tiny_weights):
    found = ask(photo, ModelChoice(weights=tiny_weights, display_name="petals"))
    assert (found.model.name, found.model.weights) == ("petals", "tiny.safetensors")
    assert ask(photo).model.name == "tiny"


def test_weights_that_have_changed_are_refused_even_while_the_old_ones_are_in_memory(
    ask, photo, tiny_weights, tmp_path
):
    path = tmp_path / "mine.safetensors"
    path.write_bytes(tiny_weights.read_bytes())
    choice = ModelChoice(weights=path, sha256=sha256(path))
    assert len(ask(photo, choice).labels) == 10
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\0")
    with pytest.raises(CheckpointError, match=r"^mine\.safetensors: has changed since the app was started"):
        ask(photo, choice)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"^mine\.safetensors: .*there is no such file"):
        ask(photo, choice)


def test_people_who_ask_at_once_get_each_their_own_image(workers, tiny, photo):
    futures = {
        name: workers.analyze(Request(photo, name, "crop", tiny)) for name in (f"{i}.png" for i in range(8))
    }
    for name, future in futures.items():
        assert future.result(PATIENCE).image_name == name


def test_a_process_killed_between_two_images_is_replaced_without_a_word(workers, ask, photo):
    killed = workers.ready().result(PATIENCE)
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: not is_there(killed))
    assert len(ask(photo).labels) == 10
    assert workers.ready().result(PATIENCE) != killed


def test_a_process_killed_over_an_image_is_told_and_the_next_image_is_answered(workers, ask, tiny, photo):
    killed = workers.ready().result(PATIENCE)
    os.kill(killed, signal.SIGSTOP)  # so that the picture is in its hands for certain
    lost = workers.analyze(Request(photo, "lost.png", "crop", tiny))
    os.kill(killed, signal.SIGKILL)
    with pytest.raises(WorkerDiedError, match="try again"):
        lost.result(PATIENCE)
    assert ask(photo, name="next.png").image_name == "next.png"


def test_an_answer_under_way_cannot_be_called_back(workers, tiny, photo):
    future = workers.analyze(Request(photo, "photo.png", "crop", tiny))
    assert not future.cancel()
    assert future.result(PATIENCE).image_name == "photo.png"


class Model:
    """Stands for a network; like one, it is part of a cycle."""

    def __init__(self):
        self.itself = self


def test_a_process_keeps_the_models_last_used_and_frees_the_others_before_it_loads():
    made = []

    def load(choice):
        assert sum(model() is not None for _, model in made) < 2
        model = Model()
        made.append((choice.name, weakref.ref(model)))
        return model

    models = ModelCache(2, load)
    for name in "abacb":  # c sends b away, which was longest unused; then b sends a away
        models.get(ModelChoice(name))
    assert [name for name, _ in made] == ["a", "b", "c", "b"]
    assert [model() is not None for _, model in made] == [False, False, True, True]


def test_a_checkpoint_is_loaded_once_for_all_images_and_again_when_it_was_written_anew(tmp_path):
    loaded, path = [], tmp_path / "mine.safetensors"
    models, choice = ModelCache(1, lambda choice: loaded.append(path.read_text())), ModelChoice(weights=path)
    for content in ("first", "other", "other"):
        if not path.exists() or path.read_text() != content:
            path.write_text(content)
            os.utime(path, ns=(0, len(loaded)))
        models.get(choice)
        models.get(choice)
    assert loaded == ["first", "other"]


SERVER = """
import sys, time
from pathlib import Path

from cait_viz.serving.worker import ModelChoice, Request, Workers

if __name__ == "__main__":
    workers = Workers(first=ModelChoice("no such model"))
    picture, weights = Path(sys.argv[1]).read_bytes(), Path(sys.argv[2])
    analysis = workers.analyze(Request(picture, "photo.png", "crop", ModelChoice(weights=weights))).result()
    analysis.png()
    heavy = sorted({"keras", "tensorflow"} & set(sys.modules))
    print(analysis.image_name, heavy, workers.ready().result(), flush=True)
    time.sleep(600)
"""


def test_a_server_never_imports_keras_and_takes_its_process_along_when_it_is_killed(
    environment, photo, tiny_weights, tmp_path
):
    (tmp_path / "photo.png").write_bytes(photo)
    (tmp_path / "server.py").write_text(SERVER)
    command = [sys.executable, tmp_path / "server.py", tmp_path / "photo.png", tiny_weights]
    with (
        (tmp_path / "errors").open("w") as errors,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
        ) as server,
    ):
        try:
            # A first model that is not there did not keep the pool from starting.
            name, heavy, pid = server.stdout.readline().split()
        finally:
            server.kill()
    assert (name, heavy) == ("photo.png", "[]")
    wait_until(lambda: not is_there(int(pid)) or is_zombie(int(pid)))


def test_a_stopped_pool_leaves_no_process_and_answers_nobody(tiny, photo):
    pool = Workers(first=tiny)
    future = pool.analyze(Request(photo, "photo.png", "crop", tiny))
    pool.stop()
    with pytest.raises((RuntimeError, CancelledError, WorkerDiedError)):
        future.result(PATIENCE)


def test_an_error_of_the_program_crosses_over_as_one_sentence(ask, photo):
    with pytest.raises(CaitVizError, match=r"^photo\.png: the model failed \(\w+: .*\); try again") as caught:
        ask(photo, ModelChoice(weights=3))
    assert type(caught.value) is CaitVizError
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs a signal that stops a process")
def test_a_second_image_goes_to_the_process_that_is_free(tiny, photo):
    workers = Workers(count=2, first=tiny)
    try:
        busy = workers.ready().result(PATIENCE)
        os.kill(busy, signal.SIGSTOP)
        answers = [workers.analyze(Request(photo, name, "crop", tiny)) for name in ("one.png", "two.png")]
        wait_until(lambda: any(answer.done() for answer in answers))
        assert sum(answer.done() for answer in answers) == 1
        os.kill(busy, signal.SIGCONT)
        assert [answer.result(PATIENCE).image_name for answer in answers] == ["one.png", "two.png"]
    finally:
        workers.stop()
