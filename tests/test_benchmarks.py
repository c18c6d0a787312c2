"""The programs that measure the maps and the answers: what they print, choose, pass over and refuse."""

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import cait_viz
from cait_viz.weights.registry import BUNDLED, VARIANTS
from cait_viz.weights.resolve import Checkpoint

BENCHMARKS = Path(cait_viz.__file__).parents[1] / "benchmarks"
# The programs import each other as they do when they are run: from their own folder.
sys.path.insert(0, str(BENCHMARKS))

import contact_sheet  # noqa: E402
import evaluate  # noqa: E402
import folders  # noqa: E402

KINDS = [f"kind {number}" for number in range(10)]


def picture(seed):
    """A PNG of coloured blobs."""
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize((90, 75), Image.Resampling.BICUBIC).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    """A file of names for the ten classes of `tiny_weights`."""
    path = tmp_path_factory.mktemp("labels") / "kinds.txt"
    path.write_text("\n".join(KINDS), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    """Three folders of classes, one of them empty; among the pictures one that is none, and a hidden file."""
    folder = tmp_path_factory.mktemp("classes")
    for number, count in ((3, 5), (4, 0), (7, 6)):
        (folder / KINDS[number]).mkdir()
        for place in range(count):
            (folder / KINDS[number] / f"{place}.png").write_bytes(picture(10 * number + place))
    (folder / KINDS[7] / "broken.png").write_bytes(b"no picture")
    (folder / KINDS[7] / ".DS_Store").write_bytes(b"no picture")
    return folder


@pytest.fixture
def measure(tiny_weights, labels, capsys):
    """Run evaluate with the tiny model and give (exit status, standard output, standard error)."""

    def run(*arguments):
        model = ["--weights", str(tiny_weights), "--labels", str(labels)]
        status = evaluate.main([*map(str, arguments), *model])
        return status, *capsys.readouterr()

    return run


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_table_holds_the_shares_that_the_model_gets_right(measure, classes, tiny_model):
    status, out, _ = measure(classes)
    assert status == 0
    right = []
    for kind in (3, 7):
        for path in sorted((classes / KINDS[kind]).glob("[0-9].png")):
            logits = cait_viz.analyze(path, tiny_model).logits
            ranking = np.argsort(-logits).tolist()
            right.append(
                (ranking[0] == kind, kind in ranking[:5], kind == max((3, 7), key=logits.__getitem__))
            )
    shares = [f"{100 * share:.1f} %" for share in np.mean(right, axis=0)]
    row = next(line for line in out.splitlines() if line.startswith(f"| {classes}"))
    assert cells(row) == [str(classes), "11", *shares]


def test_the_model_that_was_measured_is_described(measure, classes, tiny_model):
    _, out, _ = measure(classes)
    first = out.splitlines()[0]
    assert tiny_model.source.sha256 in first
    assert f"{tiny_model.count_params():,} parameters" in first
    assert (
        "3 self-attention and 2 class-attention blocks, dim 48, 4 heads, patch 16, 64 px, 10 classes" in first
    )


def test_what_is_no_picture_is_named_and_passed_over_and_no_bar_is_drawn_without_a_terminal(measure, classes):
    status, _, err = measure(classes)
    assert status == 0
    assert err.splitlines() == [line for line in err.splitlines() if "kind 7/broken.png" in line]
    assert len(err.splitlines()) == 1
    assert "passed over" in err


def test_the_teacher_is_measured_on_the_same_pictures(make_teacher, make_small_weights, tmp_path, capsys):
    """Of a student of three classes; the teacher knows them, by their colour."""
    (tmp_path / "names.txt").write_text("red\ngreen\nblue\n")
    for name in ("red", "green"):
        (tmp_path / "val" / name).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (40, 50), name).save(tmp_path / "val" / name / f"{number}.png")
    Image.new("RGB", (40, 50), "blue").save(tmp_path / "val" / "red" / "3.png")
    arguments = [tmp_path / "val", "--weights", make_small_weights(3)]
    arguments += ["--labels", tmp_path / "names.txt", "--teacher", make_teacher(), "--teacher-size", 48]
    assert evaluate.main([str(argument) for argument in arguments]) == 0
    rows = [cells(line) for line in capsys.readouterr().out.splitlines() if str(tmp_path / "val") in line]
    assert [row[0] for row in rows] == [f"{tmp_path / 'val'}", f"{tmp_path / 'val'}, the teacher at 48 px"]
    assert rows[1][1:3] == ["7", "85.7 %"]


def test_a_teacher_of_other_classes_is_refused(measure, classes, teacher_file):
    status, out, err = measure(classes, "--teacher", teacher_file)
    assert (status, out) == (1, "")
    assert "tells 3 classes apart and tiny 10" in err


def test_faithfulness_is_told_for_every_block_beside_both_references(measure, classes):
    status, out, _ = measure(classes, "--faithfulness", 3)
    assert status == 0
    assert "Faithfulness on 3 pictures" in out
    rows = {cells(line)[0]: cells(line)[1:] for line in out.splitlines() if line.startswith("| ")}
    number = r"[+-]?\d\.\d{3}"
    for name in (
        "CA block 1, mean of the heads",
        "CA block 2, mean of the heads",
        "random map, mean of 5",
        "centred Gaussian",
        *(f"CA block {n} − {other}" for n in (1, 2) for other in ("random map", "centred Gaussian")),
    ):
        assert len(rows[name]) == 2
        for cell in rows[name]:
            mean, low, high = map(
                float, re.fullmatch(rf"({number}) \[({number}), ({number})\]", cell).groups()
            )
            assert low <= mean <= high
    last = out.splitlines()[-1]
    assert last.startswith("CA block 1, the model's saliency, ")


def test_the_same_seed_measures_the_same(measure, classes):
    once, again, other = (
        measure(classes, "--faithfulness", 2, "--seed", seed)[1].split("Faithfulness")[1]
        for seed in (4, 4, 5)
    )
    assert once == again
    assert once != other


def test_the_areas_are_those_of_each_picture_and_map_by_itself(classes, tiny_model):
    from cait_viz.attention.maps import upsample
    from cait_viz.engine.keras import forward
    from cait_viz.images.preprocess import resize_and_crop
    from cait_viz.metrics.faithfulness import deletion, insertion

    # More pictures than go through the network together, from several classes.
    found = folders.examples(classes, {name: number for number, name in enumerate(KINDS)})
    areas = evaluate.faithfulness(tiny_model, found, 10, seed=0)
    assert {len(column) for column in areas.values()} == {10}
    readable = [example.path for example in found if example.path.name != "broken.png"]
    for number in (0, 9):
        analysis = cait_viz.analyze(readable[number], tiny_model)
        pixels = np.asarray(resize_and_crop(cait_viz.read_image(readable[number]), 64))
        for block in (0, 1):
            saliency = upsample(analysis.saliency(block), (64, 64))
            expected = [
                curve(pixels, saliency, lambda images: evaluate.softmax(forward(tiny_model, images)[0])).area
                for curve in (deletion, insertion)
            ]
            np.testing.assert_allclose(areas[f"CA block {block + 1}"][number], expected, atol=1e-5)


def test_more_pictures_than_there_are_measures_all(measure, classes):
    assert "Faithfulness on 11 pictures" in measure(classes, "--faithfulness", 50)[1]


def made_up(block, random, centre):
    """Areas of eight pictures that differ little from (deletion, insertion) of each map."""
    wobble = np.linspace(-0.01, 0.01, 8)[:, None]
    return {
        "CA block 1": np.array(block) + wobble,
        evaluate.CENTRE: np.array(centre) - wobble,
        evaluate.RANDOM: np.tile(random, (8, 1)).astype(float),
    }


def test_a_block_beats_the_references_when_all_intervals_lie_on_the_right_side():
    areas = made_up(block=(0.1, 0.5), random=(0.2, 0.4), centre=(0.2, 0.4))
    assert "beats both the random map and the centred Gaussian" in evaluate.verdict(
        areas, "CA block 1", seed=0
    )


@pytest.mark.parametrize("centre", [(0.2, 0.5), (0.2, 0.6)])
def test_a_block_beats_nothing_that_scores_as_well_or_better(centre):
    areas = made_up(block=(0.1, 0.5), random=(0.2, 0.4), centre=centre)
    said = evaluate.verdict(areas, "CA block 1", seed=0)
    assert "does not beat the centred Gaussian on insertion:" in said


def published(variant, as_published=True):
    return Checkpoint(
        name=variant.name,
        path=Path("model.safetensors"),
        config=variant.config,
        variant=variant,
        as_published=as_published,
    )


def test_on_all_of_imagenets_classes_the_published_top1_stands_beside_the_measured():
    measured = evaluate.Accuracy(pictures=50_000, classes=1000, top1=0.7813, top5=0.9, own=0.7813)
    said = evaluate.beside_published(published(VARIANTS["cait_xxs24_224"]), Path("val"), measured)
    assert said == "val: top-1 78.1 %, published 78.4 %, a difference of -0.3 points."


def test_on_fewer_classes_the_published_top1_is_said_to_be_for_all():
    measured = evaluate.Accuracy(pictures=500, classes=10, top1=0.9, top5=0.9, own=0.9)
    said = evaluate.beside_published(published(VARIANTS["cait_xxs24_224"]), Path("val"), measured)
    assert "78.4 %, is for all of ImageNet's validation set; val holds 10 of its 1000 classes" in said


@pytest.mark.parametrize(
    "checkpoint", [published(BUNDLED), published(VARIANTS["cait_xxs24_224"], as_published=False)]
)
def test_other_weights_have_no_published_top1(checkpoint):
    measured = evaluate.Accuracy(pictures=500, classes=1000, top1=0.9, top5=0.9, own=0.9)
    assert evaluate.beside_published(checkpoint, Path("val"), measured) == ""


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda folder: None, "there is no such folder"),
        (lambda folder: folder.mkdir(), "holds no folders"),
        (lambda folder: (folder / "kind 1").mkdir(parents=True), "its class folders are all empty"),
        (
            lambda folder: (folder / "n02123045").mkdir(parents=True),
            "no class of the model is called n02123045",
        ),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused_in_one_line(measure, tmp_path, make, told):
    make(tmp_path / "pictures")
    status, out, err = measure(tmp_path / "pictures")
    assert (status, out) == (1, "")
    assert told in err
    assert len(err.splitlines()) == 1


def test_a_folder_without_a_single_picture_is_refused(measure, tmp_path):
    (tmp_path / "kind 1").mkdir()
    (tmp_path / "kind 1" / "notes.txt").write_text("no picture")
    status, _, err = measure(tmp_path)
    assert status == 1
    assert "none of its 1 files is a picture" in err.splitlines()[-1]


@pytest.mark.parametrize("program", ["evaluate.py", "contact_sheet.py"])
def test_the_programs_run_from_any_folder_and_refuse_before_tensorflow_starts(program, environment, tmp_path):
    command = [sys.executable, str(BENCHMARKS / program), "nowhere"]
    command += ["-o", "sheet.png"] if program == "contact_sheet.py" else []
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert "nowhere" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@given(st.lists(st.integers(0, 6), max_size=8), st.integers(0, 5))
def test_every_beginning_of_a_spread_is_even(sizes, seed):
    groups = [[(group, place) for place in range(size)] for group, size in enumerate(sizes)]
    order = folders.spread(groups, seed)
    assert order == folders.spread(groups, seed)
    assert sorted(order) == sorted(member for group in groups for member in group)
    for length in range(len(order) + 1):
        taken = [sum(member[0] == group for member in order[:length]) for group in range(len(groups))]
        most = max(taken, default=0)
        assert all(count >= min(most - 1, size) for count, size in zip(taken, sizes, strict=True))


# The contact sheet


@pytest.fixture
def sheets(tiny_weights, labels, capsys):
    """Draw with the tiny model and give (exit status, the paths printed, standard error)."""

    def run(*arguments):
        model = ["--weights", str(tiny_weights), "--labels", str(labels)]
        status = contact_sheet.main([*map(str, arguments), *model])
        out, err = capsys.readouterr()
        return status, [Path(line) for line in out.splitlines()], err

    return run


def test_a_sheet_holds_pictures_evenly_from_the_classes_and_tells_which(sheets, classes, tmp_path):
    status, paths, _ = sheets(classes, "-o", tmp_path / "sheet.png", "--pictures", 4)
    assert (status, paths) == (0, [tmp_path / "sheet.png"])
    with Image.open(paths[0]) as sheet:
        assert sheet.width == 1600
        told = json.loads(sheet.text["Description"])
    assert len(told) == 4
    assert {part["model"] for part in told} == {"tiny"}


def test_further_sheets_are_numbered_and_the_same_each_time(sheets, classes, tmp_path):
    arguments = (classes, "-o", tmp_path / "sheet.png", "--pictures", 5, "--per-sheet", 2)
    status, paths, _ = sheets(*arguments)
    assert (status, [path.name for path in paths]) == (0, [f"sheet-{number}.png" for number in (1, 2, 3)])
    first = [path.read_bytes() for path in paths]
    assert [path.read_bytes() for path in sheets(*arguments)[1]] == first


def test_pictures_may_be_given_by_themselves_and_what_is_none_is_passed_over(sheets, tmp_path):
    (tmp_path / "one.png").write_bytes(picture(1))
    (tmp_path / "none.png").write_bytes(b"no picture")
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
        (["-o", "sheet.png"], "there is no picture to draw"),
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
