"""The threads that analyze images for the app's visitors, and the networks that they keep."""

import hashlib
import os
import shutil
import signal
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from blind_engine import Blind

from cait_viz.api import analyze
from cait_viz.engine import memory
from cait_viz.errors import (
    CheckpointError,
    EngineError,
    ImageError,
    MemoryShortageError,
    ProcessDiedError,
    SelectionError,
    UnknownModelError,
)
from cait_viz.questions import block_attention, trace
from cait_viz.serving.engines import Analyzer, Engines, ModelChoice, Request, load_choice
from cait_viz.serving.models import user_model
from cait_viz.weights.resolve import resolve

PATIENCE = 120  # seconds after which a test is given up
LIMIT = 10**9


@pytest.fixture(scope="module")
def tiny(tiny_weights):
    return own(tiny_weights)


def own(weights, **options):
    """The choice of a checkpoint of one's own."""
    return ModelChoice(checkpoint=resolve(weights=weights), **options)


@pytest.fixture(scope="module")
def analyzer():
    analyzer = Analyzer(Engines(LIMIT, load_choice), first=ModelChoice("no such model"))
    yield analyzer
    analyzer.stop()


@pytest.fixture(scope="module")
def ask(analyzer, tiny):
    """Ask for an image and wait for the answer."""

    def ask(image, choice=tiny, name="photo.png", view="crop"):
        return analyzer.ask(Request(image, name, view, choice, analyze)).result(PATIENCE)

    return ask


@pytest.mark.parametrize("view", ["crop", "squash"])
def test_the_answer_is_the_one_of_the_package(ask, photo, tiny_model, view):
    from cait_viz.api import analyze

    found, expected = ask(photo, view=view), analyze(photo, tiny_model, view, "photo.png")
    for name in ("image", "image_name", "image_sha256", "model", "view", "box", "labels"):
        assert np.array_equal(getattr(found, name), getattr(expected, name)), name
    np.testing.assert_allclose(found.logits, expected.logits, atol=1e-5)
    assert found.class_attention.keys() == expected.class_attention.keys()
    for key, attention in expected.class_attention.items():
        np.testing.assert_allclose(found.class_attention[key], attention, atol=1e-6)


def test_a_refusal_comes_as_it_was_worded(ask):
    from cait_viz.images.read import read_image

    with pytest.raises(ImageError) as here:
        read_image(b"not an image")
    with pytest.raises(ImageError) as there:
        ask(b"not an image", name="letter.txt")
    assert str(there.value).partition(": ")[2] == str(here.value).partition(": ")[2] != ""
    assert "letter.txt" in str(there.value)


def test_a_model_that_cannot_be_loaded_is_told_and_the_next_image_is_answered(ask, photo):
    with pytest.raises(UnknownModelError, match="'cait_xl'"):
        ask(photo, ModelChoice("cait_xl"))
    assert len(ask(photo).labels) == 10


def test_results_name_the_model_as_it_was_called(ask, photo, tiny_weights):
    found = ask(photo, own(tiny_weights, display_name="petals"))
    assert (found.model.name, found.model.weights) == ("petals", "tiny.safetensors")
    assert ask(photo).model.name == "tiny"


def test_weights_that_have_changed_are_refused_even_while_the_old_ones_are_in_memory(
    ask, photo, tiny_weights, tmp_path
):
    path = tmp_path / "mine.safetensors"
    path.write_bytes(tiny_weights.read_bytes())
    choice = own(path)
    assert len(ask(photo, choice).labels) == 10
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\0")
    with pytest.raises(CheckpointError, match=r"^mine\.safetensors: has changed since the app was started"):
        ask(photo, choice)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"^mine\.safetensors: .*or is gone"):
        ask(photo, choice)


def test_people_who_ask_at_once_get_each_their_own_image(analyzer, tiny, photo):
    answers = {
        name: analyzer.ask(Request(photo, name, "crop", tiny, analyze))
        for name in (f"{i}.png" for i in range(8))
    }
    for name, answer in answers.items():
        assert answer.result(PATIENCE).image_name == name


def test_a_model_that_the_memory_has_no_room_for_is_refused_before_with_its_estimate(
    ask, photo, tiny_weights, monkeypatch, tmp_path
):
    path = tmp_path / "other.safetensors"
    path.write_bytes(tiny_weights.read_bytes())
    monkeypatch.setattr(memory, "available", lambda: 100_000_000)
    with pytest.raises(
        EngineError,
        match=r"needs about 0\.3 GB .* 64 × 64 pixels and 0\.1 GB are free",
    ):
        ask(photo, own(path))


def test_a_model_that_nobody_looks_with_makes_room_for_one_that_has_none():
    def load(choice):
        if choice.name == "second" and engines.find(ModelChoice("first")):
            raise MemoryShortageError("there is no room", missing=1000)
        return Blind()

    engines = Engines(LIMIT, load)
    engines.load(ModelChoice("first"))
    assert engines.load(ModelChoice("second"))
    assert engines.find(ModelChoice("first")) is None


@pytest.mark.parametrize("error", [MemoryShortageError("too large", missing=10**12), EngineError("refused")])
def test_a_model_for_which_no_room_can_be_made_takes_no_others_away(error):
    def load(choice):
        if choice.name == "second":
            raise error
        return Blind()

    engines = Engines(LIMIT, load)
    engines.load(ModelChoice("first"))
    with pytest.raises(type(error)):
        engines.load(ModelChoice("second"))
    assert engines.find(ModelChoice("first"))


def test_an_image_is_read_once_for_all_questions_about_it(analyzer, tiny, photo):
    first, second = (
        analyzer.ask(Request(photo, "photo.png", "crop", tiny, question)).result(PATIENCE)
        for question in (analyze, trace)
    )
    assert np.shares_memory(first.image, second.analysis.image)


def test_gradients_that_fail_take_no_other_answer_away(analyzer, tiny, photo):
    def fail(image, engine, *, view):
        raise ProcessDiedError("the process ended")

    analyzer.ask(Request(photo, "photo.png", "crop", tiny, analyze)).result(PATIENCE)
    with pytest.raises(ProcessDiedError):
        analyzer.ask(Request(photo, "photo.png", "crop", tiny, fail)).result(PATIENCE)
    assert "oading" not in analyzer.ask(Request(photo, "photo.png", "crop", tiny, analyze)).stage


def test_every_question_of_the_api_is_answered(analyzer, photo, tiny_weights):
    mine = own(tiny_weights, display_name="petals")
    ask = lambda question: analyzer.ask(Request(photo, "a.png", "squash", mine, question)).result(PATIENCE)  # noqa: E731
    traced = ask(trace)
    assert (traced.analysis.image_name, traced.analysis.view) == ("a.png", "squash")
    assert traced.analysis.model.name == "petals"
    assert traced.nbytes > traced.analysis.nbytes > 0
    block = ask(partial(block_attention, block=1))
    np.testing.assert_allclose(block.grid(3), traced.looks_at(1, 3), atol=1e-6)
    assert block.nbytes == block.scores.nbytes
    with pytest.raises(SelectionError, match="no SA block 3"):
        ask(partial(block_attention, block=3))


# --- the networks that are kept -----------------------------------------------------------------------------


def kept_after(names, limit):
    """The models that were loaded when these were asked for in turn, each of 100 bytes of weights."""
    loaded = []
    engines = Engines(limit, lambda choice: loaded.append(choice.name) or Blind())
    for name in names:
        engines.load(ModelChoice(name))
    return "".join(loaded)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(memory, "weight_bytes", lambda _: 100)


def test_the_models_used_last_are_kept_within_the_limit(small):
    assert kept_after("abacb", 250) == "abcb"
    assert kept_after("ababab", 250) == "ab"


def test_a_model_larger_than_the_limit_is_kept_while_it_is_the_last_one(small):
    assert kept_after("aaba", 50) == "aba"


def test_a_checkpoint_is_loaded_once_for_all_images_and_again_when_it_was_written_anew(
    tmp_path, tiny_weights, small
):
    loaded, path = [], tmp_path / "mine.safetensors"
    shutil.copyfile(tiny_weights, path)
    choice = own(path)
    engines = Engines(LIMIT, lambda choice: loaded.append(path.stat().st_mtime_ns) or Blind())
    for written in (1, 2, 2):
        os.utime(path, ns=(0, written))
        for _ in range(2):
            engines.load(choice)
    assert loaded == [1, 2]


def test_a_checkpoint_is_hashed_once_at_whatever_resolution(tmp_path, tiny_weights, monkeypatch):
    hashed, digest = [], hashlib.file_digest
    path = tmp_path / "mine.safetensors"
    shutil.copyfile(tiny_weights, path)

    def count(file, *arguments):
        hashed.append(str(file.name))
        return digest(file, *arguments)

    monkeypatch.setattr(hashlib, "file_digest", count)
    monkeypatch.chdir(tmp_path)
    model = user_model(resolve(weights="mine.safetensors"))
    for size in (None, 96):
        load_choice(replace(model.choice, image_size=size))
    assert [name for name in hashed if Path(name).name == path.name] == [str(path)]


# --- Keras, where it is needed ------------------------------------------------------------------------------


def test_keras_runs_in_a_process_of_its_own_and_one_that_is_killed_is_told(photo, tiny, ask):
    analyzer = Analyzer(Engines(LIMIT, partial(load_choice, engine="keras")))
    request = Request(photo, "photo.png", "crop", tiny, analyze)
    answer = analyzer.ask(request).result(PATIENCE)
    np.testing.assert_allclose(answer.logits, ask(photo).logits, atol=1e-5)
    for pid in children(os.getpid()):
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(ProcessDiedError, match="try again"):
        analyzer.ask(request).result(PATIENCE)
    assert analyzer.ask(request).result(PATIENCE).image_name == "photo.png"
    analyzer.stop()


def children(pid):
    import psutil

    return [
        child.pid for child in psutil.Process(pid).children() if "popen_loky" in " ".join(child.cmdline())
    ]


def test_the_app_falls_back_to_keras_and_says_so_once(photo, tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    said = []
    analyzer = Analyzer(Engines(LIMIT, partial(load_choice, tell=said.append)))
    for name in ("1.png", "2.png"):
        assert analyzer.ask(Request(photo, name, "crop", tiny, analyze)).result(PATIENCE).image_name == name
    assert len(said) == 1
    analyzer.stop()
