"""Every command reads an image, a checkpoint and labels once, and tells how they were understood."""

import json
import os
import sys
from pathlib import Path

import pytest

import cait_viz
from cait_viz.training.cache import decode

SAMPLES = Path(__file__).parent.parent / "assets" / "samples"
CAT, CUP = SAMPLES / "cat.jpg", SAMPLES / "coffee.jpg"

_opened: list[str] = []
sys.addaudithook(
    lambda event, details: _opened.append(os.fspath(details[0])) if _counts(event, details) else None
)


def _counts(event, details):
    return event == "open" and isinstance(details[0], str | os.PathLike)


@pytest.mark.parametrize(
    "words",
    [
        ("predict", CAT),
        ("predict", CAT, "--image-size", 128),
        ("figure", CAT, CUP, CAT, "--kind", "saliency", "-o", "out.png"),
        ("compare", CAT, "-o", "out.png"),
        ("compare", CAT, CUP, "--method", "attention", "-o", "out.png"),
        ("compare", CAT, "--other-model", "bundled", "--method", "attention", "-o", "out.png"),
        ("compare", CAT, "--image-size", 128, "--view", "fit", "-o", "out.png"),
        ("render", CAT, "--method", "rollout", "-o", "out.png"),
        ("patch", CAT, "--sa-block", 0, "--row", 0, "--column", 0, "-o", "out.png"),
        ("ablate", CAT, "--class", "kind 3", "-o", "out.png"),
        ("trust", CAT, "--json", "out.jsonl"),
        ("batch", CAT, "-o", "out", "--sheet"),
    ],
    ids=lambda words: " ".join(str(word).rpartition("/")[2] for word in words),
)
def test_what_a_command_is_given_is_read_once(run, small, kinds_file, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _opened.clear()
    status, _, err = run(*words, *small, "--labels", kinds_file)
    assert status == 0, err
    for file in {CAT, CUP} & set(words) | {kinds_file}:
        assert _opened.count(str(file)) == 1, file


def test_evaluate_reads_the_labels_once(run, small, kinds_file, tmp_path):
    folder = tmp_path / "images" / "kind 3"
    folder.mkdir(parents=True)
    (folder / "cat.jpg").write_bytes(CAT.read_bytes())
    _opened.clear()
    status, _, err = run("evaluate", folder.parent, *small, "--labels", kinds_file)
    assert status == 0, err
    assert _opened.count(str(kinds_file)) == 1


def test_a_checkpoint_that_is_named_for_both_maps_is_read_once(run, tiny_weights, tmp_path):
    options = ["--weights", tiny_weights, "-o", tmp_path / "out.png", "--method", "attention"]
    run("compare", CAT, *options)
    counts = []
    for more in ([], ["--other-weights", tiny_weights]):
        _opened.clear()
        status, _, err = run("compare", CAT, *options, *more)
        assert status == 0, err
        counts.append(_opened.count(str(tiny_weights)))
    assert counts[0] == counts[1]


def test_of_an_image_that_is_given_twice_a_remark_is_told_once(run, small, tmp_path):
    path = tmp_path / "cut.jpg"
    path.write_bytes(CAT.read_bytes()[:-30])
    _, _, err = run("compare", path, path, *small, "--other-model", "bundled", "-o", tmp_path / "out.png")
    assert err.count("ends too early") == 1


@pytest.fixture
def ema(weights, write_weights):
    """A file of weights and their EMA."""
    return write_weights(
        {f"{part}.{name}": tensor for part in ("model", "ema") for name, tensor in weights.items()}
    )


@pytest.fixture
def cut_folder(tmp_path):
    """A folder of a class, with an image that lacks its end."""
    folder = tmp_path / "images" / "kind 3"
    folder.mkdir(parents=True)
    (folder / "cut.jpg").write_bytes(CAT.read_bytes()[:-30])
    return folder.parent


@pytest.mark.parametrize(
    "words",
    [
        ("predict", CAT),
        ("compare", CAT, "-o", "out.png"),
        ("batch", CAT, "-o", "out"),
        ("trust", CAT, "--json", "out.jsonl"),
        ("evaluate", "images"),
        ("export", "--format", "timm", "-o", "out.safetensors"),
    ],
    ids=lambda words: words[0],
)
def test_that_the_ema_of_a_file_is_taken_is_told_once_by_every_command(
    run, ema, words, kinds_file, cut_folder, monkeypatch
):
    monkeypatch.chdir(cut_folder.parent)
    status, _, err = run(*words, "--weights", ema, "--labels", kinds_file)
    assert status == 0, err
    assert err.count("the EMA is used") == 1


def test_python_tells_it_who_asks(ema):
    told = []
    cait_viz.load_engine(weights=ema, tell=told.append)
    assert told == ["The file holds a model and its EMA; the EMA is used."]


def test_what_an_image_lacks_is_told_where_many_are_read(run, small, kinds_file, cut_folder, tmp_path):
    _, _, err = run("evaluate", cut_folder, *small, "--labels", kinds_file)
    assert err.count("kind 3/cut.jpg") == err.count("ends too early") == 1
    run("trust", cut_folder / "kind 3" / "cut.jpg", *small, "--json", tmp_path / "out.jsonl")
    _, row = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    assert "ends too early" in row["remark"]
    lines = []
    decode([cut_folder / "kind 3" / "cut.jpg"], 64, tmp_path / "cache", lines.append)
    [line] = lines
    assert line.startswith("kind 3/cut.jpg")
    assert "ends too early" in line
