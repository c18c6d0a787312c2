"""`cait-viz trust`: a row an image, a table of means, and a study that goes on where it stopped."""

import hashlib
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cait_viz
from cait_viz.metrics.faithfulness import CENTER, RANDOM

SAMPLES = Path(__file__).parent.parent / "assets" / "samples"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three small images, and a file that is none."""
    folder = tmp_path_factory.mktemp("images")
    for name in ("cat", "coffee", "rocket"):
        with Image.open(SAMPLES / f"{name}.jpg") as image:
            image.resize((80, 64)).save(folder / f"{name}.png")
    (folder / "notes.png").write_text("no image")
    return folder


@pytest.fixture(scope="module")
def finished():
    """What the studies of the whole folder gave, by their options: each is run once."""
    return {}


@pytest.fixture
def trust(run):
    """Run the command; gives the table. It fails where one of the files is no image, and says so."""

    def trust(*arguments):
        status, table, err = run("trust", *arguments)
        assert status == ("1 file cannot be read as an image; " in err), err
        return table

    return trust


@pytest.fixture
def study(trust, small, folder, tmp_path, finished):
    """Run the command on that folder; gives the table and the lines of the file, which is out.jsonl."""

    def study(*options, images=folder):
        output, key = tmp_path / "out.jsonl", (options, images)
        if key in finished:
            output.write_bytes(finished[key][1])
        else:
            table = trust(images, *small, "--json", output, *options)
            finished[key] = table, output.read_bytes()
        return finished[key][0], output.read_text().splitlines()

    return study


def test_each_image_is_a_row_of_the_numbers_that_the_library_gives(study, folder, tiny_weights):
    table, lines = study("--method", "attention", "--method", "relevance", "--seed", 3)
    header, *rows = map(json.loads, lines)
    assert (header["model"], header["maps"], header["seed"]) == ("tiny", ["attention", "relevance"], 3)
    assert [Path(row["image"]).name for row in rows] == ["cat.png", "coffee.png", "notes.png", "rocket.png"]
    assert "notes.png" in rows[2]["error"]
    engine = cait_viz.load_engine(weights=tiny_weights)
    image = folder / "rocket.png"
    grids = {
        "attention": cait_viz.analyze(image, engine).saliency(),
        "relevance": cait_viz.explain(image, engine).grid(),
    }
    expected = cait_viz.trust(
        image, engine, grids, seed=[3, int(hashlib.sha256(image.read_bytes()).hexdigest()[:8], 16)]
    )
    for name in ("attention", "relevance", CENTER, RANDOM):
        assert rows[3]["deletion"][name] == pytest.approx(expected.curves[name].deletion.area, abs=1e-5)
        assert rows[3]["insertion"][name] == pytest.approx(expected.curves[name].insertion.area, abs=1e-5)
    assert rows[3]["drop"]["attention"] == pytest.approx(expected.confidence["attention"].drop, abs=1e-5)
    mean = np.mean([row["deletion"]["attention"] for row in rows if "error" not in row])
    assert table.startswith("| map, on 3 images |")
    assert f"| attention | {mean:.3f} [" in table
    assert f"| {RANDOM} |" in table


@pytest.mark.parametrize("kept", [1, 2, 3, 2.5])
def test_a_study_that_was_interrupted_and_resumed_is_as_one_that_was_not(
    study, trust, small, folder, tmp_path, kept
):
    table, lines = study()
    part = "".join(f"{line}\n" for line in lines[: int(kept)])
    if kept != int(kept):
        part += lines[int(kept)][:40]
    (tmp_path / "part.jsonl").write_text(part)
    again = trust(folder, *small, "--json", tmp_path / "part.jsonl", "--resume")
    assert (tmp_path / "part.jsonl").read_text().splitlines() == lines
    assert again == table


def test_what_is_there_is_not_measured_again(study, trust, small, folder, tmp_path, monkeypatch):
    table, _ = study()
    monkeypatch.setattr(cait_viz.questions, "trust", None)
    assert trust(folder, *small, "--json", tmp_path / "out.jsonl", "--resume") == table


def test_the_output_of_a_study_may_lie_among_its_images(trust, small, folder, tmp_path):
    images = shutil.copytree(folder, tmp_path / "images")
    output = images / "out.jsonl"
    first = trust(images, *small, "--json", output)
    before = output.read_bytes()
    assert trust(images, *small, "--json", output, "--resume") == first
    assert output.read_bytes() == before


def test_another_study_is_not_gone_on_with(study, run, small, folder, tmp_path):
    _, lines = study()
    output = tmp_path / "out.jsonl"
    for options in (("--seed", 1), ("--method", "rollout"), ("--view", "squash")):
        status, _, err = run("trust", folder, *small, "--json", output, "--resume", *options)
        assert status == 1
        assert "is of another study" in err
    assert output.read_text().splitlines() == lines


@pytest.mark.parametrize("name", ["bad.png", "missing.png"])
def test_a_study_of_no_image_that_can_be_read_fails(run, small, folder, tmp_path, name):
    shutil.copy(folder / "notes.png", tmp_path / "bad.png")
    output = tmp_path / "out.jsonl"
    status, out, err = run("trust", tmp_path / name, *small, "--json", output)
    assert (status, out) == (1, "")
    assert "none of the files can be read as an image; out.jsonl says why" in err
    assert name in json.loads(output.read_text().splitlines()[1])["error"]


def test_a_file_that_is_no_image_is_told_after_the_table_of_the_others(run, small, folder, study, tmp_path):
    table, _ = study()
    output = tmp_path / "out.jsonl"
    status, out, err = run("trust", folder, *small, "--json", output, "--resume")
    assert (status, out) == (1, table)
    assert err.endswith("1 file cannot be read as an image; out.jsonl says why\n")


def test_what_could_not_be_read_is_tried_again_and_stays_in_its_place(trust, small, folder, tmp_path):
    images = shutil.copytree(folder, tmp_path / "images")
    (images / "coffee.png").rename(tmp_path / "away.png")
    (images / "coffee.png").write_text("not yet")
    (images / "notes.png").unlink()
    output, whole = tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    trust(images, *small, "--json", output)
    (tmp_path / "away.png").replace(images / "coffee.png")
    table = trust(images, *small, "--json", output, "--resume")
    assert "on 3 images" in table
    assert trust(images, *small, "--json", whole) == table
    assert output.read_bytes() == whole.read_bytes()


def test_of_one_image_a_mean_has_no_interval(trust, small, folder, tmp_path):
    table = trust(folder / "cat.png", *small, "--json", tmp_path / "one.jsonl")
    assert "[" not in table
    assert "| attention |" in table


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes on Linux alone")
def test_file_names_of_any_bytes_are_kept_and_resumed(study, trust, small, folder, tmp_path, monkeypatch):
    names = [b"\xff\xfe.png", "a\u2028b\x85c\n.png".encode()]
    (tmp_path / "odd").mkdir()
    for name in names:
        shutil.copy(folder / "cat.png", tmp_path / "odd" / os.fsdecode(name))
    table, lines = study(images=tmp_path / "odd")
    found = {os.fsencode(Path(json.loads(line)["image"]).name) for line in lines[1:]}
    assert found == set(names)
    monkeypatch.setattr(cait_viz.questions, "trust", None)
    again = trust(tmp_path / "odd", *small, "--json", tmp_path / "out.jsonl", "--resume")
    assert again == table


def test_an_image_named_twice_is_measured_once(study, trust, small, folder, tmp_path):
    image = folder / "cat.png"
    output = tmp_path / "twice.jsonl"
    table = trust(image, image, *small, "--json", output)
    assert len(output.read_text().splitlines()) == 2
    assert table.startswith("| map, on 1 image |")


def test_a_resumed_study_stopped_at_once_loses_no_row(study, run, small, folder, tmp_path, monkeypatch):
    _, lines = study(images=folder / "cat.png")
    output = tmp_path / "out.jsonl"

    def killed(part, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", killed)
    assert run("trust", folder / "cat.png", *small, "--json", output, "--resume")[0] == 130
    assert output.read_text().splitlines() == lines
    assert list(tmp_path.iterdir()) == [output]


def test_a_study_killed_before_its_first_line_is_begun_anew(study, folder, tmp_path):
    (tmp_path / "out.jsonl").touch()
    _, lines = study("--resume", images=folder / "cat.png")
    assert len(lines) == 2


@pytest.mark.parametrize(
    ("words", "status", "problem"),
    [
        (("--json", "out.txt"), 2, "out.txt"),
        (("--json", "out.json", "--method", "magic"), 2, "magic"),
        (("--json", "missing/out.json"), 1, "missing"),
    ],
)
def test_what_cannot_be_done_is_refused(run, small, folder, tmp_path, monkeypatch, words, status, problem):
    monkeypatch.chdir(tmp_path)
    found, _, err = run("trust", folder, *small, *words)
    assert found == status
    assert problem in err


def test_an_empty_folder_is_wrong_usage(run, small, tmp_path):
    (tmp_path / "empty").mkdir()
    status, _, err = run("trust", tmp_path / "empty", *small, "--json", tmp_path / "out.json")
    assert (status, "no images" in err) == (2, True)
