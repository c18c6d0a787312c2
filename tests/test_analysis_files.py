"""What is kept of an analysis: PNG, ZIP and NPZ files and their names."""

import io
import json
import zipfile

import numpy as np
import pytest
from analyses import LABELS, analysis_of, read_png

import cait_viz
from cait_viz.drawing.figures import FIGURE_FORMATS, FIGURES
from cait_viz.errors import SelectionError


@pytest.fixture(scope="module")
def analysis():
    return analysis_of()


def test_a_drawn_map_says_what_scale_it_has_and_not_what_was_asked_for(analysis):
    grid = analysis.saliency()
    kept = read_png(analysis.map_png(grid, "a map", {}, scale="shared"))
    assert kept.text["scale"] == "head"
    assert kept.tobytes() == analysis.draw(grid).tobytes()


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
    with zipfile.ZipFile(io.BytesIO(analysis.archive(style="map", colormap="gray"))) as archive:
        names = archive.namelist()
        assert archive.testzip() is None
        manifest = json.loads(archive.read("manifest.json"))
        for entry in manifest["files"]:
            head = None if entry["head"] == "mean" else entry["head"]
            drawn = analysis.overlay(entry["block"], head, style="map", colormap="gray")
            assert read_png(archive.read(entry["file"])).tobytes() == drawn.tobytes()
    views = [
        f"ca{block}_{which}" for block in (0, 1) for which in ("mean", "head0", "head1", "head2", "head3")
    ]
    assert names == [f"my-cat_cait_xxs24_224_{view}.png" for view in views] + ["manifest.json"]


def test_the_manifest_tells_what_made_the_images(analysis):
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
def test_files_are_named_safely_after_the_image(name, beginning):
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
