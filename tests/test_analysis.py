import io
import json
import math
import pickle
import warnings
import zipfile
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from PIL import Image

import cait_viz
from cait_viz.analysis import Analysis, ModelInfo
from cait_viz.attention import maps
from cait_viz.drawing.figures import FIGURE_FORMATS, FIGURES
from cait_viz.drawing.overlay import STYLES, color_table
from cait_viz.errors import CheckpointError, SelectionError
from cait_viz.images.preprocess import Box

LABELS = ("tench", "goldfish", "tabby, tabby cat", "Egyptian cat", "lynx")
MODEL = ModelInfo("cait_xxs24_224", "model.safetensors", "cd" * 32, 0, 224, 16)


def attention_of(heads, patches, blocks=2, seed=0):
    random = np.random.default_rng(seed)
    rows = random.dirichlet(np.full(patches + 1, 0.5), size=(blocks, heads)).astype(np.float32)
    return {f"ca_ffn_block_{block}_att": rows[block] for block in range(blocks)}


def analysis_of(
    width=60, height=40, heads=4, probabilities=(0.05, 0.15, 0.6, 0.15, 0.05), **changes
) -> Analysis:
    picture = np.random.default_rng(7).integers(0, 256, (height, width, 3), dtype=np.uint8)
    probabilities = np.array(probabilities, np.float32)
    side, half = min(width, height), abs(width - height) / 2
    left, top = (half, 0.0) if width > height else (0.0, half)
    given = {
        "image": picture,
        "image_name": "my cat.jpg",
        "image_sha256": "ab" * 32,
        "model": MODEL,
        "view": "crop",
        "box": Box(left, top, left + side, top + side),
        "labels": LABELS[: len(probabilities)],
        "probabilities": probabilities,
        "logits": np.log(probabilities),
        "class_attention": attention_of(heads, 196),
    }
    return Analysis(**(given | changes))


def small_model_analysis(rows, **changes):
    """Two blocks of one head each over a grid of two rows and two columns."""
    attention = {f"ca_ffn_block_{block}_att": np.array([row], np.float32) for block, row in enumerate(rows)}
    return analysis_of(model=replace(MODEL, image_size=32), class_attention=attention, **changes)


@pytest.fixture(scope="module")
def analysis():
    return analysis_of()


# What the network said


def test_predictions_come_best_first_and_equals_in_order(analysis):
    assert analysis.predictions == [
        ("tabby, tabby cat", pytest.approx(0.6)),
        ("goldfish", pytest.approx(0.15)),
        ("Egyptian cat", pytest.approx(0.15)),
        ("tench", pytest.approx(0.05)),
        ("lynx", pytest.approx(0.05)),
    ]
    assert analysis.ranking.tolist() == [2, 1, 3, 0, 4]
    assert analysis.top(2) == analysis.predictions[:2]
    assert analysis.top(99) == analysis.predictions


def test_confident_classes_have_more_than_ten_percent():
    probabilities = (0.1, 0.1000001, 0.2, 0.5999999)
    found = analysis_of(probabilities=probabilities).confident()
    assert [label for label, _ in found] == ["Egyptian cat", "tabby, tabby cat", "goldfish"]


def test_nothing_is_confident_where_all_is_guessed():
    labels = tuple(f"class {index}" for index in range(20))
    assert analysis_of(probabilities=[0.05] * 20, labels=labels).confident() == []


# Where it looked


def test_saliency_is_the_mean_of_the_heads_of_the_block_that_serves_best(analysis):
    expected = maps.saliency(analysis.class_attention["ca_ffn_block_0_att"], (14, 14))
    assert (analysis.saliency() == expected).all()
    assert (analysis.saliency(0) == expected).all()
    second = analysis_of(model=replace(MODEL, saliency_block=1))
    assert (second.saliency() == analysis.saliency(1)).all()
    assert not (second.saliency() == expected).all()


def test_the_grid_of_the_mean_is_the_saliency(analysis):
    assert (analysis.grid(1) == analysis.saliency(1)).all()
    assert analysis.grid_shape == (14, 14)


def test_each_head_has_its_own_range_or_one_shared_by_all_blocks():
    found = small_model_analysis([[0.2, 0, 0.1, 0.2, 0.5], [0.0, 0.25, 0.25, 0.5, 0]])
    assert found.grid(0, 0) == pytest.approx(np.array([[0, 0.2], [0.4, 1]]))
    assert found.grid(1, 0) == pytest.approx(np.array([[0.5, 0.5], [1, 0]]))
    shifted = small_model_analysis([[0.2, 0.1, 0.1, 0.2, 0.4], [0.0, 0.2, 0.2, 0.6, 0]])
    assert shifted.shared_range == pytest.approx((0, 0.6))
    assert shifted.grid(0, 0, "shared") == pytest.approx(np.array([[1, 1], [2, 4]]) / 6)
    assert shifted.grid(1, 0, "shared") == pytest.approx(np.array([[1, 1], [3, 0]]) / 3)


def test_a_head_tells_what_the_map_hides():
    found = small_model_analysis([[0.5, 0.25, 0.25, 0, 0], [0.2, 0.2, 0.2, 0.2, 0.2]])
    assert found.class_token_attention(0) == pytest.approx([0.5])
    assert found.entropy(0) == pytest.approx([math.log(2)])
    assert found.effective_patches(0) == pytest.approx([2])
    assert found.class_token_attention(1) == pytest.approx([0.2])
    assert found.effective_patches(1) == pytest.approx([4])


def test_flat_attention_renders_without_nan():
    found = small_model_analysis([[0.2, 0.2, 0.2, 0.2, 0.2], [1, 0, 0, 0, 0]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for block in (0, 1):
            drawn = np.asarray(found.overlay(block, style="map"))
            assert (drawn[:, 10:50] == color_table("viridis")[0]).all()


# Drawn


@pytest.mark.parametrize("style", STYLES)
def test_a_drawing_has_the_pictures_own_size(analysis, style):
    drawn = analysis.overlay(block=0, head=None, style=style)
    assert (drawn.size, drawn.mode) == ((60, 40), "RGB")
    unseen = np.r_[0:10, 50:60]
    assert (np.asarray(drawn)[:, unseen] == analysis.image[:, unseen]).all()
    assert (np.asarray(drawn)[:, 10:50] != analysis.image[:, 10:50]).any()


def test_every_head_and_block_is_drawn_differently(analysis):
    drawn = {analysis.overlay(block, head).tobytes() for block in (0, 1) for head in (None, 0, 1, 2, 3)}
    assert len(drawn) == 10


def test_a_drawing_for_a_screen_is_that_of_the_smaller_picture(analysis):
    small = analysis.reduced(30)
    assert (small.size, small.box) == ((30, 20), Box(5, 0, 25, 20))
    assert analysis.overlay(max_side=30).tobytes() == small.overlay().tobytes()
    assert analysis.reduced(60) is analysis


def test_what_was_seen_is_the_part_in_the_box(analysis):
    seen = analysis.seen()
    assert (seen.image == analysis.image[:, 10:50]).all()
    assert seen.overlay().tobytes() == analysis.overlay().crop((10, 0, 50, 40)).tobytes()


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (15, 17)])
def test_pictures_of_any_shape_are_drawn(size):
    found = analysis_of(*size)
    for style in STYLES:
        assert found.overlay(style=style).size == size
    assert found.overlay(max_side=8).size == tuple(
        max(1, min(side, round(side * 8 / max(size)))) for side in size
    )
    assert Image.open(io.BytesIO(found.figure("heads"))).format == "PNG"
    assert Image.open(io.BytesIO(found.figure("saliency"))).format == "PNG"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"block": 2}, "there is no CA block 2; this model has 2, numbered from 0 to 1"),
        ({"block": -1}, "there is no CA block -1; this model has 2, numbered from 0 to 1"),
        ({"block": True}, "there is no CA block True; this model has 2, numbered from 0 to 1"),
        ({"head": 4}, "there is no head 4; this model has 4, numbered from 0 to 3"),
        ({"head": False}, "there is no head False; this model has 4, numbered from 0 to 3"),
        ({"head": "mean"}, "there is no head 'mean'; this model has 4, numbered from 0 to 3"),
        ({"style": "x"}, "there is no style 'x'; choose one of overlay, paper, map"),
        ({"interpolation": "x"}, "there is no interpolation 'x'; choose one of bicubic, nearest"),
        ({"scale": "x"}, "there is no scale 'x'; choose one of head, shared"),
        ({"alpha": 2}, "alpha must be a number from 0 to 1, not 2"),
        ({"max_side": 0}, "max_side must be a whole number of at least 1, not 0"),
    ],
)
def test_a_view_that_is_not_there_is_refused(analysis, options, sentence):
    for draw in (analysis.overlay, analysis.png):
        with pytest.raises(SelectionError) as refused:
            draw(**options)
        assert str(refused.value) == sentence


@pytest.mark.parametrize(
    "question", ["saliency", "class_token_attention", "entropy", "effective_patches", "concentration"]
)
def test_a_block_that_is_not_there_has_no_numbers(analysis, question):
    with pytest.raises(SelectionError, match=r"^there is no CA block 7; "):
        getattr(analysis, question)(7)


def test_an_option_that_does_not_exist_is_no_silent_mistake(analysis):
    with pytest.raises(TypeError, match="opacity"):
        analysis.overlay(opacity=0.5)


# Saved


def read_png(data):
    picture = Image.open(io.BytesIO(data))
    picture.load()
    return picture


def test_a_png_is_the_drawing_and_tells_what_made_it(analysis):
    kept = read_png(analysis.png(1, 2, style="paper", scale="shared"))
    assert kept.tobytes() == analysis.overlay(1, 2, style="paper", scale="shared").tobytes()
    expected = {
        "Title": "Where cait_xxs24_224 looked in my cat.jpg: class-attention block 2, head 3",
        "Software": f"cait-viz {cait_viz.__version__}",
        "model": "cait_xxs24_224",
        "weights": "model.safetensors",
        "weights_sha256": "cd" * 32,
        "image": "my cat.jpg",
        "image_size": "[60, 40]",
        "image_sha256": "ab" * 32,
        "view": "crop",
        "box": "[10.0, 0.0, 50.0, 40.0]",
        "block": "1",
        "head": "2",
        "style": "paper",
        "colormap": "cividis",
        "interpolation": "bicubic",
        "scale": "shared",
    }
    assert expected.items() <= kept.text.items()
    assert json.loads(kept.text["predictions"])[0] == {
        "index": 2,
        "label": "tabby, tabby cat",
        "probability": pytest.approx(0.6),
    }
    assert json.loads(kept.text["versions"])["cait_viz"] == cait_viz.__version__
    assert float(kept.text["class_token_attention"]) == pytest.approx(
        float(analysis.class_token_attention(1)[2])
    )
    assert float(kept.text["entropy"]) == pytest.approx(float(analysis.entropy(1)[2]))


def test_a_notebook_shows_the_overlay_no_larger_than_a_screen():
    shown = read_png(analysis_of(1500, 1000)._repr_png_())
    assert shown.size == (1024, 683)
    assert json.loads(shown.text["image_size"]) == [1500, 1000]


def test_the_archive_holds_every_block_and_head_and_the_means(analysis):
    with zipfile.ZipFile(io.BytesIO(analysis.archive(style="map", colormap="grey"))) as archive:
        names = archive.namelist()
        assert archive.testzip() is None
        manifest = json.loads(archive.read("manifest.json"))
        for entry in manifest["files"]:
            head = None if entry["head"] == "mean" else entry["head"]
            drawn = analysis.overlay(entry["block"], head, style="map", colormap="grey")
            assert read_png(archive.read(entry["file"])).tobytes() == drawn.tobytes()
    views = [
        f"ca{block}_{which}" for block in (0, 1) for which in ("mean", "head0", "head1", "head2", "head3")
    ]
    assert names == [f"my-cat_cait_xxs24_224_{view}.png" for view in views] + ["manifest.json"]


def test_the_manifest_tells_what_made_the_pictures(analysis):
    with zipfile.ZipFile(io.BytesIO(analysis.archive())) as archive:
        manifest = json.loads(archive.read("manifest.json"))
    assert manifest["model"] == "cait_xxs24_224"
    assert manifest["weights"] == "model.safetensors"
    assert manifest["weights_sha256"] == "cd" * 32
    assert manifest["image"] == "my cat.jpg"
    assert manifest["image_size"] == [60, 40]
    assert manifest["image_sha256"] == "ab" * 32
    assert (manifest["view"], manifest["box"]) == ("crop", [10, 0, 50, 40])
    assert (manifest["style"], manifest["colormap"], manifest["scale"]) == ("overlay", "inferno", "head")
    assert manifest["interpolation"] == "bicubic"
    assert 0 < manifest["alpha"] < 1
    assert [entry["index"] for entry in manifest["predictions"]] == [2, 1, 3, 0, 4]
    assert manifest["versions"].keys() >= {"cait_viz", "numpy", "pillow", "matplotlib", "keras", "tensorflow"}
    entry = manifest["files"][1]
    assert (entry["block"], entry["head"]) == (0, 0)
    assert entry["class_token_attention"] == pytest.approx(float(analysis.class_token_attention(0)[0]))
    assert entry["entropy"] == pytest.approx(float(analysis.entropy(0)[0]))
    assert entry["effective_patches"] == pytest.approx(float(analysis.effective_patches(0)[0]))
    patches = analysis.class_attention["ca_ffn_block_0_att"][0, 1:]
    assert (entry["smallest"], entry["largest"]) == pytest.approx((patches.min(), patches.max()))


def test_the_same_result_gives_the_same_files(analysis):
    again = analysis_of()
    assert analysis.archive() == again.archive()
    assert analysis.npz() == again.npz()


def test_the_numbers_come_back_as_they_were(analysis):
    with np.load(io.BytesIO(analysis.npz()), allow_pickle=False) as kept:
        for key, array in analysis.class_attention.items():
            assert kept[key].dtype == np.float32
            assert (kept[key] == array).all()
        assert (kept["logits"] == analysis.logits).all()
        assert (kept["probabilities"] == analysis.probabilities).all()
        assert kept["labels"].tolist() == list(LABELS)
        assert kept["box"].tolist() == [10, 0, 50, 40]
        assert kept["grid_shape"].tolist() == [14, 14]
        assert json.loads(str(kept["manifest"]))["model"] == "cait_xxs24_224"


@pytest.mark.parametrize(
    ("name", "beginning"),
    [
        ("my cat.jpg", "my-cat"),
        ("IMG_0001.HEIC", "IMG_0001"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\me\\cat.png", "cat"),
        ("Füße 猫.jpg", "Füße-猫"),
        ("Fu\u0308sse.jpg", "Füsse"),
        ('a<b>:"|?*.png', "a-b"),
        ("photo.tar.gz", "photo.tar"),
        ("-rf.png", "rf"),
        (".hidden", "hidden"),
        ("line\nbreak\0.png", "line-break"),
        ("caf\udce9.jpg", "caf"),
        ("😀.png", "image"),
        ("", "image"),
        ("x" * 300 + ".png", "x" * 80),
        ("猫" * 300 + ".png", "猫" * 26),
    ],
)
def test_files_are_named_safely_after_the_picture(name, beginning):
    found = analysis_of(image_name=name)
    assert found.file_stem() == f"{beginning}_cait_xxs24_224_ca0_mean"
    assert found.file_stem(1, 3) == f"{beginning}_cait_xxs24_224_ca1_head3"
    assert len(found.file_stem(1, 3).encode()) < 240


def test_a_name_that_cannot_be_encoded_spoils_no_file():
    found = analysis_of(image_name="caf\udce9\0.jpg", labels=("caf\udce9", "$\\frac$", "猫", "a\nb", "é"))
    assert read_png(found.png()).text["image"] == "caf? .jpg"
    assert found.archive()
    assert found.npz()
    for kind in FIGURES:
        for file_format in FIGURE_FORMATS:
            assert found.figure(kind, file_format)


@pytest.mark.parametrize(
    ("ending", "beginning"), [(".png", b"\x89PNG"), (".PNG", b"\x89PNG"), (".zip", b"PK"), (".npz", b"PK")]
)
def test_a_result_saves_itself_by_the_ending(analysis, tmp_path, ending, beginning):
    path = analysis.save(tmp_path / f"kept{ending}")
    assert path.read_bytes().startswith(beginning)


def test_saving_takes_the_options_of_what_is_saved(analysis, tmp_path):
    path = analysis.save(tmp_path / "kept.png", block=1, head=0, style="map")
    assert path.read_bytes() == analysis.png(1, 0, style="map")


@pytest.mark.parametrize("name", ["kept.jpg", "kept", "kept.svg", "png"])
def test_another_ending_is_refused_and_nothing_written(analysis, tmp_path, name):
    with pytest.raises(SelectionError) as refused:
        analysis.save(tmp_path / name)
    assert str(refused.value) == (
        f"{name}: a result is saved as .png (one map), .zip (every map) or .npz (the numbers); "
        "choose one of these endings"
    )
    assert not list(tmp_path.iterdir())


# The thing itself


def test_an_analysis_survives_the_way_between_processes(analysis):
    copy = pickle.loads(pickle.dumps(analysis))
    assert copy.model == analysis.model
    assert copy.box == analysis.box
    assert copy.predictions == analysis.predictions
    assert copy.png(1, 2) == analysis.png(1, 2)
    assert not copy.image.flags.writeable


def test_an_analysis_cannot_be_changed(analysis):
    with pytest.raises(FrozenInstanceError):
        analysis.view = "whole"
    for array in (analysis.image, analysis.probabilities, analysis.class_attention["ca_ffn_block_0_att"]):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_the_arrays_given_stay_their_owners():
    picture = np.zeros((4, 4, 3), np.uint8)
    analysis_of(image=picture, box=Box(0, 0, 4, 4))
    picture[0] = 1


def test_an_analysis_says_what_it_is_in_one_line(analysis):
    assert repr(analysis) == "<Analysis of 'my cat.jpg' by cait_xxs24_224: 'tabby, tabby cat', 60.0%>"


def test_an_analysis_knows_its_size_in_memory(analysis):
    assert analysis.nbytes == 60 * 40 * 3 + 2 * 5 * 4 + 2 * 4 * 197 * 4


def test_damaged_weights_are_named_as_the_cause():
    attention = attention_of(4, 196)
    attention["ca_ffn_block_1_att"][0, 0] = np.nan
    with pytest.raises(CheckpointError) as refused:
        analysis_of(class_attention=attention)
    assert str(refused.value) == (
        "model.safetensors: the network answers with numbers that are not finite; "
        "the weights are damaged, use another file"
    )
    with pytest.raises(CheckpointError):
        analysis_of(logits=np.full(5, np.nan))
