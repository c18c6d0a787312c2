"""Every command reads an image once, and a file of labels once."""

import os
import sys
from pathlib import Path

import pytest

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


def test_of_an_image_that_is_given_twice_a_remark_is_told_once(run, small, tmp_path):
    path = tmp_path / "cut.jpg"
    path.write_bytes(CAT.read_bytes()[:-30])
    _, _, err = run("compare", path, path, *small, "--other-model", "bundled", "-o", tmp_path / "out.png")
    assert err.count("ends too early") == 1
