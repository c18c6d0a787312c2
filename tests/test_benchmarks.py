"""Evaluation, on labeled folders; and the program that draws maps to judge by eye."""

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
from cait_viz.errors import DatasetError, TeacherError
from cait_viz.evaluation import evaluate
from cait_viz.images.folders import spread
from cait_viz.metrics.accuracy import accuracy, top, top1_among, usual_measures
from cait_viz.metrics.faithfulness import CENTER, RANDOM
from cait_viz.metrics.report import published_remark, verdict
from cait_viz.weights.labels import imagenet_names

BENCHMARKS = Path(cait_viz.__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import contact_sheet  # noqa: E402

KINDS = [f"kind {number}" for number in range(10)]


def picture(seed):
    """A PNG of colored blobs."""
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
    """Three folders of classes, one of them empty; in them a file that is no image, and a hidden one."""
    folder = tmp_path_factory.mktemp("classes")
    for number, count in ((3, 5), (4, 0), (7, 6)):
        (folder / KINDS[number]).mkdir()
        for place in range(count):
            (folder / KINDS[number] / f"{place}.png").write_bytes(picture(10 * number + place))
    (folder / KINDS[7] / "broken.png").write_bytes(b"no image")
    (folder / KINDS[7] / ".DS_Store").write_bytes(b"no image")
    return folder


@pytest.fixture
def measure(tiny_weights, labels):
    """Evaluate the tiny model on a folder and give the printed lines."""

    def run(folder, **options):
        lines = []
        options = {"print_line": lines.append, **options}
        evaluate([folder], weights=tiny_weights, labels=labels, **options)
        return lines

    return run


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def rows(lines):
    """The cells of each row of the tables, by their first."""
    return {cells(line)[0]: cells(line)[1:] for line in lines if line.startswith("| ")}


def test_the_table_holds_the_shares_that_the_model_gets_right(measure, classes, tiny_model):
    right = []
    for kind in (3, 7):
        for path in sorted((classes / KINDS[kind]).glob("[0-9].png")):
            logits = cait_viz.analyze(path, tiny_model).logits
            ranking = np.argsort(-logits).tolist()
            right.append(
                (ranking[0] == kind, kind in ranking[:5], kind == max((3, 7), key=logits.__getitem__))
            )
    shares = [f"{100 * share:.1f} %" for share in np.mean(right, axis=0)]
    table = rows(measure(classes))
    assert table["folder"] == ["images", "top-1", "top-5", "top-1 among its own classes"]
    assert table[str(classes)] == ["11", *shares]


def test_the_model_that_was_measured_is_described(measure, classes, tiny_model):
    first = measure(classes)[0]
    assert tiny_model.source.sha256 in first
    assert f"{tiny_model.count_params():,} parameters" in first
    assert (
        "3 self-attention and 2 class-attention blocks, dim 48, 4 heads, patch 16, 64 px, 10 classes" in first
    )


def test_weights_of_ones_own_have_no_published_accuracy(measure, classes):
    assert not any("published" in line for line in measure(classes))


def test_a_folder_may_be_named_after_a_wordnet_id(make_small_weights, tmp_path):
    """As in ImageNet's validation set; the names of the model's own classes are ImageNet's here."""
    names = imagenet_names()
    (tmp_path / "names.txt").write_text(f"{names[1]}\nother\n{names[0]}\n")
    for folder in ("n01440764", "n01443537", "other"):
        (tmp_path / "val" / folder).mkdir(parents=True)
        (tmp_path / "val" / folder / "0.png").write_bytes(picture(0))
    lines = []
    evaluate(
        [tmp_path / "val"],
        weights=make_small_weights(3),
        labels=tmp_path / "names.txt",
        print_line=lines.append,
    )
    # The same image thrice, of which the model can name one right; of three classes top-5 says nothing.
    assert rows(lines)[str(tmp_path / "val")] == ["3", "33.3 %", "33.3 %"]


def test_a_head_of_one_class_is_a_sigmoid_and_other_folders_are_not_the_class(make_small_weights, tmp_path):
    weights = make_small_weights(1)
    (tmp_path / "names.txt").write_text("cat\n")
    model = cait_viz.load_model(weights=weights, labels=tmp_path / "names.txt")
    right = []
    for name in ("cat", "no cat"):
        (tmp_path / "val" / name).mkdir(parents=True)
        for number in range(4):
            path = tmp_path / "val" / name / f"{number}.png"
            path.write_bytes(picture(number))
            right.append((cait_viz.analyze(path, model).logits[0] > 0) == (name == "cat"))
    lines = []
    evaluate(
        [tmp_path / "val"],
        weights=weights,
        labels=tmp_path / "names.txt",
        faithfulness=1,
        print_line=lines.append,
    )
    table = rows(lines)
    assert table[str(tmp_path / "val")] == ["8", *[f"{100 * np.mean(right):.1f} %"] * 2]
    # The probability of a softmax over one class is always 1, and so would be the area.
    assert not table["CA block 1, mean of the heads"][0].startswith("1.000")
    (tmp_path / "val" / "cat").rename(tmp_path / "cat")
    with pytest.raises(DatasetError, match="no class named no cat"):
        evaluate([tmp_path / "val"], weights=weights, labels=tmp_path / "names.txt")


def test_each_file_that_is_skipped_is_named_once_and_no_bar_is_drawn_without_a_terminal(
    measure, classes, tmp_path, capsys
):
    (tmp_path / "loose.png").write_bytes(picture(0))
    (tmp_path / "kind 3").symlink_to(classes / "kind 7")
    measure(tmp_path, faithfulness=2)
    loose, broken = capsys.readouterr().err.splitlines()
    assert "loose.png" in loose
    assert "kind 3/broken.png" in broken
    assert "skipped" in loose
    assert "skipped" in broken


def test_the_teacher_is_measured_on_the_same_images(make_teacher, make_small_weights, tmp_path):
    """Of a student of three classes; the teacher knows them, by their color."""
    (tmp_path / "names.txt").write_text("red\ngreen\nblue\n")
    for name in ("red", "green"):
        (tmp_path / "val" / name).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (40, 50), name).save(tmp_path / "val" / name / f"{number}.png")
    Image.new("RGB", (40, 50), "blue").save(tmp_path / "val" / "red" / "3.png")
    lines = []
    evaluate(
        [tmp_path / "val"],
        weights=make_small_weights(3),
        labels=tmp_path / "names.txt",
        teacher=make_teacher(),
        teacher_size=48,
        print_line=lines.append,
    )
    student, teacher = [line for line in lines if str(tmp_path / "val") in line]
    assert cells(student)[0] == str(tmp_path / "val")
    assert cells(teacher)[:3] == [f"{tmp_path / 'val'}, the teacher at 48 px", "7", "85.7 %"]


def test_a_teacher_of_other_classes_is_refused_before_anything_is_printed(measure, classes, teacher_file):
    with pytest.raises(TeacherError, match="has 3 classes and tiny has 10"):
        measure(classes, teacher=teacher_file, print_line=pytest.fail)


def test_faithfulness_is_reported_for_every_block_beside_both_references(measure, classes):
    lines = measure(classes, faithfulness=3)
    assert any("Faithfulness on 3 images" in line for line in lines)
    table = rows(lines)
    number = r"[+-]?\d\.\d{3}"
    for name in (
        "CA block 1, mean of the heads",
        "CA block 2, mean of the heads",
        "random map, mean of 5",
        "centered Gaussian",
        *(f"CA block {n} − {other}" for n in (1, 2) for other in ("random map", "centered Gaussian")),
    ):
        assert len(table[name]) == 2
        for cell in table[name]:
            mean, low, high = map(
                float, re.fullmatch(rf"({number}) \[({number}), ({number})\]", cell).groups()
            )
            assert low <= mean <= high
    assert lines[-1].startswith("CA block 1, the model's saliency, ")


def test_the_same_seed_measures_the_same(measure, classes):
    once, again, other = (measure(classes, faithfulness=2, seed=seed)[5:] for seed in (4, 4, 5))
    assert once == again
    assert [line.replace("seed 5", "seed 4") for line in other] != once


def test_the_areas_are_those_of_each_image_and_map_by_itself(classes, tiny_model):
    from cait_viz.attention.maps import upsample
    from cait_viz.attention.probabilities import probabilities
    from cait_viz.engine.keras import forward
    from cait_viz.images.preprocess import resize_and_crop
    from cait_viz.metrics import faithfulness

    def network(images):
        logits, _, attention = forward(tiny_model, images)
        return logits, [attention[f"ca_ffn_block_{block}_att"][:, :, 0] for block in (0, 1)]

    # More images than go through the network together.
    paths = [classes / KINDS[3] / f"{number % 5}.png" for number in range(10)]
    images = [np.asarray(resize_and_crop(cait_viz.read_image(path), 64)) for path in paths]
    areas = faithfulness.measure(images, network, seed=0)
    assert {name: column.shape for name, column in areas.items()} == dict.fromkeys(
        ("CA block 1", "CA block 2", CENTER, RANDOM), (10, 2)
    )
    for number in (0, 9):
        analysis = cait_viz.analyze(paths[number], tiny_model)
        saliencies = [upsample(analysis.saliency(block), (64, 64)) for block in (0, 1)]
        for block, both in enumerate(
            faithfulness.curves(images[number], saliencies, lambda images: probabilities(network(images)[0]))
        ):
            expected = both.deletion.area, both.insertion.area
            np.testing.assert_allclose(areas[f"CA block {block + 1}"][number], expected, atol=1e-5)


def test_more_images_than_there_are_measures_all(measure, classes):
    assert any("Faithfulness on 11 images" in line for line in measure(classes, faithfulness=50))


def made_up(block, random, center):
    """Areas of eight images that differ little from (deletion, insertion) of each map."""
    wobble = np.linspace(-0.01, 0.01, 8)[:, None]
    return {
        "CA block 1": np.array(block) + wobble,
        CENTER: np.array(center) - wobble,
        RANDOM: np.tile(random, (8, 1)).astype(float),
    }


def test_a_block_beats_the_references_when_all_intervals_lie_on_the_right_side():
    areas = made_up(block=(0.1, 0.5), random=(0.2, 0.4), center=(0.2, 0.4))
    assert "beats both the random map and the centered Gaussian" in verdict(areas, "CA block 1", seed=0)


@pytest.mark.parametrize("center", [(0.2, 0.5), (0.2, 0.6)])
def test_a_block_does_not_beat_what_scores_as_well_or_better(center):
    areas = made_up(block=(0.1, 0.5), random=(0.2, 0.4), center=center)
    sentence = verdict(areas, "CA block 1", seed=0)
    assert "does not beat the centered Gaussian on insertion:" in sentence


def test_on_all_of_imagenets_classes_the_published_top1_stands_beside_the_measured():
    sentence = published_remark("cait_xxs24_224", 78.4, Path("val"), 78.13, classes=1000)
    assert sentence == "val: top-1 78.1 %, published 78.4 %, a difference of -0.3 points."


def test_on_fewer_classes_the_published_top1_is_said_to_be_for_all():
    sentence = published_remark("cait_xxs24_224", 78.4, Path("val"), 90.0, classes=10)
    assert "78.4 %, is for all of ImageNet's validation set; val holds 10 of its 1000 classes" in sentence


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 100))
def test_accuracy_is_the_share_of_images_whose_class_is_ranked_high_enough(count, classes, seed):
    generator = np.random.default_rng(seed)
    # Few different scores, so that there are ties: of these the lower index is ranked higher.
    scores = generator.integers(0, 4, (count, classes)).astype(np.float32)
    labels = generator.integers(0, max(classes, 2), count)
    own = {*labels.tolist()}
    batches = []

    def classify(images):
        batches.append(len(images))
        return scores[images[:, 0, 0, 0]]

    examples = [(np.full((2, 2, 3), number), label) for number, label in enumerate(labels)]
    measured = accuracy(classify, examples, {"1": top(1), "3": top(3), "own": top1_among(own)}, batch=7)
    if classes == 1:
        scores = np.concatenate([scores, np.zeros_like(scores)], axis=1)
    ranked = [sorted(range(scores.shape[1]), key=lambda kind: (-row[kind], kind)) for row in scores]
    expected = {
        "1": np.mean([label in order[:1] for label, order in zip(labels, ranked, strict=True)]),
        "3": np.mean([label in order[:3] for label, order in zip(labels, ranked, strict=True)]),
        "own": np.mean(
            [
                label == next(kind for kind in order if kind in own)
                for label, order in zip(labels, ranked, strict=True)
            ]
        ),
    }
    assert measured.images == count
    assert measured.shares == pytest.approx(expected)
    assert set(batches) == {7}


@pytest.mark.parametrize(("classes", "names"), [(1, ["top1"]), (5, ["top1"]), (6, ["top1", "top5"])])
def test_the_first_five_count_only_among_more_than_five_classes(classes, names):
    assert list(usual_measures(classes)) == names


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "there is no such folder"),
        (lambda folder: folder.mkdir(), "holds no folders"),
        (lambda folder: (folder / "kind 1").mkdir(parents=True), "its class folders are all empty"),
        (
            lambda folder: (folder / "n02123045").mkdir(parents=True),
            "the model has no class named n02123045",
        ),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused_in_one_line(measure, tmp_path, make, message):
    make(tmp_path / "images")
    with pytest.raises(DatasetError, match=message) as refusal:
        measure(tmp_path / "images", print_line=pytest.fail)
    assert str(refusal.value).startswith(str(tmp_path / "images"))
    assert len(str(refusal.value).splitlines()) == 1


def test_a_folder_without_a_single_image_is_refused(measure, tmp_path):
    (tmp_path / "kind 1").mkdir()
    (tmp_path / "kind 1" / "notes.txt").write_text("no image")
    with pytest.raises(DatasetError, match="none of the 1 files here"):
        measure(tmp_path)


def test_what_can_be_refused_is_refused_before_tensorflow_starts(run_python):
    script = """
import sys
from pathlib import Path
from cait_viz.evaluation import evaluate
from cait_viz.errors import CaitVizError
try:
    evaluate([Path("nowhere")])
except CaitVizError as error:
    print(error)
print("keras" in sys.modules, "tensorflow" in sys.modules)
"""
    refusal, modules = run_python(script)[0].splitlines()
    assert refusal.startswith("nowhere: ")
    assert modules == "False False"


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


# The contact sheet


def test_it_runs_from_any_folder_and_refuses_before_tensorflow_starts(environment, tmp_path):
    command = [sys.executable, str(BENCHMARKS / "contact_sheet.py"), "nowhere", "-o", "sheet.png"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert "nowhere" in done.stderr
    assert len(done.stderr.splitlines()) == 1


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
        assert 1550 <= sheet.width <= 1650
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
