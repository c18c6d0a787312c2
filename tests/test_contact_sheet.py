"""The program that draws images and their maps on sheets, to judge by eye."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from image_helpers import blobs
from PIL import Image

import cait_viz
from cait_viz.images.folders import spread

BENCHMARKS = Path(cait_viz.__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import contact_sheet  # noqa: E402


@given(st.lists(st.integers(0, 6), max_size=8), st.integers(0, 5))
def test_every_beginning_of_a_spread_is_even(sizes, seed):
    groups = [[(group, place) for place in range(size)] for group, size in enumerate(sizes)]
    order = spread(groups, seed)
    assert order == spread(groups, seed)
    assert sorted(order) == sorted(member for group in groups for member in group)
    for length in range(len(order) + 1):
        taken = [sum(member[0] == group for member in order[:length]) for group in range(len(groups))]
        most = max(taken, default=0)
        assert all(count >= min(most - 1, size) for count, size in zip(taken, sizes, strict=True))


def test_it_runs_from_any_folder_and_refuses_before_tensorflow_starts(environment, tmp_path):
    command = [sys.executable, str(BENCHMARKS / "contact_sheet.py"), "nowhere", "-o", "sheet.png"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert "nowhere" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.fixture
def sheets(tiny_weights, kinds_file, capsys):
    """Draw with the tiny model and give (exit status, the paths printed, standard error)."""

    def run(*arguments):
        model = ["--weights", str(tiny_weights), "--labels", str(kinds_file)]
        status = contact_sheet.main([*map(str, arguments), *model])
        out, err = capsys.readouterr()
        return status, [Path(line) for line in out.splitlines()], err

    return run


def test_a_sheet_holds_images_evenly_from_the_classes_and_tells_which(sheets, kinds_folder, tmp_path):
    status, paths, _ = sheets(kinds_folder, "-o", tmp_path / "sheet.png", "--images", 4)
    assert (status, paths) == (0, [tmp_path / "sheet.png"])
    with Image.open(paths[0]) as sheet:
        assert 1550 <= sheet.width <= 1650
        told = json.loads(sheet.text["Description"])
    assert len(told) == 4
    assert {part["model"] for part in told} == {"tiny"}


def test_further_sheets_are_numbered_and_the_same_each_time(sheets, kinds_folder, tmp_path):
    arguments = (kinds_folder, "-o", tmp_path / "sheet.png", "--images", 5, "--per-sheet", 2)
    status, paths, _ = sheets(*arguments)
    assert (status, [path.name for path in paths]) == (0, [f"sheet-{number}.png" for number in (1, 2, 3)])
    first = [path.read_bytes() for path in paths]
    assert [path.read_bytes() for path in sheets(*arguments)[1]] == first


def test_images_may_be_given_by_themselves_and_what_is_none_is_passed_over(sheets, tmp_path):
    (tmp_path / "one.png").write_bytes(blobs(1))
    (tmp_path / "none.png").write_bytes(b"no image")
    status, paths, err = sheets(tmp_path / "one.png", tmp_path / "none.png", "-o", tmp_path / "sheet.png")
    assert status == 0
    assert "none.png" in err
    with Image.open(paths[0]) as sheet:
        assert [part["image"] for part in json.loads(sheet.text["Description"])] == ["one.png"]
        exact = np.asarray(sheet.convert("RGB"), int)
    status, paths, _ = sheets(tmp_path / "one.png", "-o", tmp_path / "sheet.jpg")
    assert status == 0
    with Image.open(paths[0]) as sheet:
        assert sheet.format == "JPEG"
        assert np.abs(np.asarray(sheet, int) - exact).mean() < 3


def test_the_samples_can_be_drawn(sheets, tmp_path):
    status, [path], _ = sheets("--samples", "-o", tmp_path / "samples.png")
    assert status == 0
    with Image.open(path) as sheet:
        assert len(json.loads(sheet.text["Description"])) == 8


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["-o", "sheet.png"], "there is no image to draw"),
        (["--samples", "-o", "sheet.gif"], "sheet.gif"),
        (["--samples", "-o", "nowhere/sheet.png"], "there is no folder"),
    ],
)
def test_a_sheet_that_cannot_be_drawn_is_refused_in_one_line(sheets, tmp_path, monkeypatch, arguments, told):
    monkeypatch.chdir(tmp_path)
    status, paths, err = sheets(*arguments)
    assert (status, paths) == (1, [])
    assert told in err
    assert len(err.splitlines()) == 1
