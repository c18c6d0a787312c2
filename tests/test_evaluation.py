"""What `cait-viz evaluate` tells of a model, on labeled folders."""

import re

import numpy as np
import pytest
from image_helpers import blobs
from PIL import Image

import cait_viz
from cait_viz.batch.evaluation import evaluate
from cait_viz.errors import DatasetError, TeacherError
from cait_viz.metrics.faithfulness import CENTER, RANDOM
from cait_viz.weights.labels import imagenet_names
from cait_viz.weights.resolve import resolve


@pytest.fixture
def evaluate_tiny(tiny_weights, kinds_file):
    """Evaluate the tiny model on a folder, line by line."""
    return lambda folder, **options: evaluate([folder], resolve(weights=tiny_weights), kinds_file, **options)


@pytest.fixture
def measure(evaluate_tiny):
    """All these lines."""
    return lambda folder, **options: list(evaluate_tiny(folder, **options))


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def rows(lines):
    """The cells of each row of the tables, by their first."""
    return {cells(line)[0]: cells(line)[1:] for line in lines if line.startswith("| ")}


def test_the_table_holds_the_shares_that_the_model_gets_right(measure, kinds_folder, tiny_model):
    right = []
    for kind in (3, 7):
        for path in sorted((kinds_folder / f"kind {kind}").glob("[0-9].png")):
            logits = cait_viz.analyze(path, tiny_model).logits
            ranking = np.argsort(-logits).tolist()
            right.append(
                (ranking[0] == kind, kind in ranking[:5], kind == max((3, 7), key=logits.__getitem__))
            )
    shares = [f"{100 * share:.1f} %" for share in np.mean(right, axis=0)]
    table = rows(measure(kinds_folder))
    assert table["folder"] == ["images", "top-1", "top-5", "top-1 among its own classes"]
    assert table[str(kinds_folder)] == ["11", *shares]


def test_the_model_that_was_measured_is_described(measure, kinds_folder, tiny_model):
    first = measure(kinds_folder)[0]
    assert tiny_model.source.sha256 in first
    assert f"{tiny_model.count_params():,} parameters" in first
    assert (
        "3 self-attention and 2 class-attention blocks, dim 48, 4 heads, patch 16, 64 px, 10 classes" in first
    )


def test_weights_of_ones_own_have_no_published_accuracy(measure, kinds_folder):
    assert not any("published" in line for line in measure(kinds_folder))


def test_a_folder_may_be_named_after_a_wordnet_id(make_small_weights, tmp_path):
    """As in ImageNet's validation set; the names of the model's own classes are ImageNet's here."""
    names = imagenet_names()
    (tmp_path / "names.txt").write_text(f"{names[1]}\nother\n{names[0]}\n")
    for folder in ("n01440764", "n01443537", "other"):
        (tmp_path / "val" / folder).mkdir(parents=True)
        (tmp_path / "val" / folder / "0.png").write_bytes(blobs(0))
    lines = list(
        evaluate(
            [tmp_path / "val"],
            resolve(weights=make_small_weights(3)),
            tmp_path / "names.txt",
        )
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
            path.write_bytes(blobs(number))
            right.append((cait_viz.analyze(path, model).logits[0] > 0) == (name == "cat"))
    lines = list(
        evaluate(
            [tmp_path / "val"],
            resolve(weights=weights),
            tmp_path / "names.txt",
            faithfulness=1,
        )
    )
    table = rows(lines)
    assert table[str(tmp_path / "val")] == ["8", *[f"{100 * np.mean(right):.1f} %"] * 2]
    # The probability of a softmax over one class is always 1, and so would be the area.
    assert not table["CA block 1, mean of the heads"][0].startswith("1.000")
    (tmp_path / "val" / "cat").rename(tmp_path / "cat")
    with pytest.raises(DatasetError, match="no class named no cat"):
        list(evaluate([tmp_path / "val"], resolve(weights=weights), tmp_path / "names.txt"))


def test_each_file_that_is_skipped_is_named_once_and_no_bar_is_drawn_without_a_terminal(
    measure, kinds_folder, tmp_path, capsys
):
    (tmp_path / "loose.png").write_bytes(blobs(0))
    (tmp_path / "kind 3").symlink_to(kinds_folder / "kind 7")
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
    lines = list(
        evaluate(
            [tmp_path / "val"],
            resolve(weights=make_small_weights(3)),
            tmp_path / "names.txt",
            teacher=make_teacher(),
            teacher_size=48,
        )
    )
    student, teacher = [line for line in lines if str(tmp_path / "val") in line]
    assert cells(student)[0] == str(tmp_path / "val")
    assert cells(teacher)[:3] == [f"{tmp_path / 'val'}, the teacher at 48 px", "7", "85.7 %"]


def test_each_image_is_read_once_for_the_model_the_teacher_and_the_faithfulness(
    make_teacher, make_small_weights, tmp_path, run_python
):
    (tmp_path / "names.txt").write_text("red\ngreen\nblue\n")
    for name in ("red", "green"):
        (tmp_path / "val" / name).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (40, 50), name).save(tmp_path / "val" / name / f"{number}.png")
    script = """
import sys
from collections import Counter
from pathlib import Path
opened = Counter()
sys.addaudithook(lambda event, arguments: event == "open" and opened.update([str(arguments[0])]))
from cait_viz.batch.evaluation import evaluate
from cait_viz.weights.resolve import resolve
folder, labels, weights, teacher = map(Path, sys.argv[1:])
measured = {"teacher": teacher, "teacher_size": 48, "faithfulness": 2}
lines = list(evaluate([folder], resolve(weights=weights), labels, **measured))
assert any("Faithfulness on 2 images" in line for line in lines)
print(sorted(opened[str(path)] for path in folder.rglob("*.png")))
"""
    arguments = tmp_path / "val", tmp_path / "names.txt", make_small_weights(3), make_teacher()
    assert run_python(script, *arguments)[0].splitlines()[-1] == "[1, 1, 1, 1, 1, 1]"


def test_a_teacher_of_other_classes_is_refused_first(evaluate_tiny, kinds_folder, teacher_file):
    with pytest.raises(TeacherError, match="has 3 classes and tiny has 10"):
        next(evaluate_tiny(kinds_folder, teacher=teacher_file))


def test_faithfulness_is_reported_for_every_block_beside_both_references(measure, kinds_folder):
    lines = measure(kinds_folder, faithfulness=3)
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


def test_the_same_seed_measures_the_same(measure, kinds_folder):
    once, again, other = (measure(kinds_folder, faithfulness=2, seed=seed)[5:] for seed in (4, 4, 5))
    assert once == again
    assert [line.replace("seed 5", "seed 4") for line in other] != once


def test_the_areas_are_those_of_each_image_and_map_by_itself(kinds_folder, tiny_model):
    from cait_viz.attention.maps import upsample
    from cait_viz.attention.probabilities import probabilities
    from cait_viz.engine.keras import engine_of
    from cait_viz.images.preprocess import resize_and_crop
    from cait_viz.metrics import faithfulness

    def network(images):
        logits, _, attention = engine_of(tiny_model).forward(images)
        return logits, [attention[f"ca_ffn_block_{block}_att"][:, :, 0] for block in (0, 1)]

    # More images than go through the network together.
    paths = [kinds_folder / "kind 3" / f"{number % 5}.png" for number in range(10)]
    images = [np.asarray(resize_and_crop(cait_viz.read_image(path), 64)) for path in paths]
    areas = faithfulness.measure(images, network, (4, 4), seed=0)
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


def test_maps_of_a_wide_input_are_wide(kinds_folder, tiny_weights, kinds_file, run):
    arguments = ["evaluate", kinds_folder, "--weights", tiny_weights, "--labels", kinds_file]
    status, out, _ = run(*arguments, "--faithfulness", 1, "--image-size", "64x96")
    assert status == 0
    assert ", 96 × 64 px, " in out
    assert "Faithfulness on 1 image" in out
    assert "One image says nothing of others" in out


def test_more_images_than_there_are_measures_all(measure, kinds_folder):
    assert any("Faithfulness on 11 images" in line for line in measure(kinds_folder, faithfulness=50))


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
def test_a_folder_that_cannot_be_used_is_refused_in_one_line(evaluate_tiny, tmp_path, make, message):
    make(tmp_path / "images")
    with pytest.raises(DatasetError, match=message) as refusal:
        next(evaluate_tiny(tmp_path / "images"))
    assert str(refusal.value).startswith(str(tmp_path / "images"))
    assert len(str(refusal.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("folders", "parts"),
    [
        (["training/kind 1", "dev/kind 1"], ["dev", "training"]),
        (["train/train/kind 1", "train/train/kind 2", "test/test/kind 1"], ["test/test", "train/train"]),
        (["train/kind 1", "train/kind 2", "test"], ["train"]),
        (["kind 1", "kind 2", "test/kind 1"], ["test"]),
    ],
)
def test_of_a_folder_with_a_split_the_parts_are_named(evaluate_tiny, tmp_path, folders, parts):
    for part in folders:
        (tmp_path / part).mkdir(parents=True)
    with pytest.raises(DatasetError) as refusal:
        next(evaluate_tiny(tmp_path))
    named = " or ".join(str(tmp_path / part) for part in parts)
    assert str(refusal.value) == f"{tmp_path}: holds a split; give the part to measure on, {named}"


def test_a_folder_without_a_single_image_is_refused(measure, tmp_path):
    (tmp_path / "kind 1").mkdir()
    (tmp_path / "kind 1" / "notes.txt").write_text("no image")
    with pytest.raises(DatasetError, match="none of the 1 files here"):
        measure(tmp_path)


def test_what_can_be_refused_is_refused_before_tensorflow_starts(run_python):
    script = """
import sys
from pathlib import Path
from cait_viz.batch.evaluation import evaluate
from cait_viz.errors import CaitVizError
from cait_viz.weights.resolve import resolve
try:
    next(evaluate([Path("nowhere")], resolve()))
except CaitVizError as error:
    print(error)
print("keras" in sys.modules, "tensorflow" in sys.modules)
"""
    refusal, modules = run_python(script)[0].splitlines()
    assert refusal.startswith("nowhere: ")
    assert modules == "False False"
