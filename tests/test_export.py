"""Each exported format, read back by the tool it is for, answers as the model does."""

import os

import keras
import numpy as np
import pytest
from safetensors.numpy import load_file

import cait_viz.model.cait
from cait_viz.api import load_model
from cait_viz.errors import CaitVizError, OutputError, SelectionError
from cait_viz.model.cait import CaiT
from cait_viz.model.export import FORMATS, export_model

SHAPES = {
    "output_1": (3, 10),
    **{f"output_2_sa_ffn_block_{block}_att": (3, 4, 16, 16) for block in range(3)},
    **{f"output_3_ca_ffn_block_{block}_att": (3, 4, 1, 17) for block in range(2)},
}


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).standard_normal((3, 64, 64, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def expected(tiny_model, images):
    """What the model gives, by the names of the tutorial's port."""
    logits, sa_attention, ca_attention = tiny_model(images)
    outputs = {"output_1": logits}
    outputs |= {f"output_2_{name}": attention for name, attention in sa_attention.items()}
    outputs |= {f"output_3_{name}": attention for name, attention in ca_attention.items()}
    return {name: np.asarray(output) for name, output in outputs.items()}


def assert_same(outputs, expected):
    assert {name: tuple(output.shape) for name, output in outputs.items()} == SHAPES
    for name, output in outputs.items():
        np.testing.assert_allclose(output, expected[name], atol=1e-5, err_msg=name)


@pytest.fixture(scope="module")
def savedmodel(tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "tiny"
    export_model(tiny_model, folder, "savedmodel")
    return folder


def test_a_savedmodel_answers_the_tutorials_cell(savedmodel, images, expected):
    pretrained_model = keras.Sequential(
        [keras.layers.TFSMLayer(str(savedmodel), call_endpoint="serving_default")]
    )
    assert_same(pretrained_model.predict(images, verbose=0), expected)


def test_a_savedmodel_loads_back_as_weights(savedmodel, tiny_weights, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    loaded = load_model(weights=savedmodel)
    export_model(loaded, tmp_path / "again.safetensors", "timm")
    again, original = load_file(tmp_path / "again.safetensors"), load_file(tiny_weights)
    assert again.keys() == original.keys()
    for name, tensor in original.items():
        np.testing.assert_array_equal(again[name], tensor, err_msg=name)


def test_a_keras_file_is_loaded_by_keras(tiny_model, images, expected, tmp_path):
    export_model(tiny_model, tmp_path / "tiny.keras", "keras")
    logits, sa_attention, ca_attention = keras.models.load_model(tmp_path / "tiny.keras")(images)
    outputs = {"output_1": logits}
    outputs |= {f"output_2_{name}": attention for name, attention in sa_attention.items()}
    outputs |= {f"output_3_{name}": attention for name, attention in ca_attention.items()}
    assert_same(outputs, expected)


def test_an_onnx_file_answers_in_openvino_at_any_batch_size(tiny_model, images, expected, tmp_path):
    pytest.importorskip("tf2onnx")
    openvino = pytest.importorskip("openvino")
    export_model(tiny_model, tmp_path / "tiny.onnx", "onnx")
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    network = openvino.Core().compile_model(tmp_path / "tiny.onnx", "CPU", settings)
    assert network.input().get_any_name() == "images"
    results = network(images)
    assert_same({output.get_any_name(): results[output] for output in network.outputs}, expected)
    first = network(images[:1])[network.output("output_1")]
    np.testing.assert_allclose(first, expected["output_1"][:1], atol=1e-5)


def test_onnx_without_its_package_says_what_to_install(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tf2onnx", None)
    with pytest.raises(CaitVizError, match="pip install tf2onnx"):
        export_model(tiny_model, tmp_path / "tiny.onnx", "onnx")
    assert not list(tmp_path.iterdir())


def test_timms_file_holds_timms_tensors(tiny_model, tiny_weights, tmp_path):
    export_model(tiny_model, tmp_path / "tiny.safetensors", "timm")
    written, original = load_file(tmp_path / "tiny.safetensors"), load_file(tiny_weights)
    assert written.keys() == original.keys()
    for name, tensor in original.items():
        np.testing.assert_array_equal(written[name], tensor, err_msg=name)


def test_an_unknown_format_is_refused(tiny_model, tmp_path):
    with pytest.raises(
        SelectionError, match="no format 'tflite'; choose one of savedmodel, keras, onnx, timm"
    ):
        export_model(tiny_model, tmp_path / "tiny", "tflite")


@pytest.mark.parametrize("format", sorted(FORMATS))
def test_a_place_that_is_taken_or_missing_is_refused(format, tiny_model, tmp_path):
    name = "tiny" + FORMATS[format]
    (tmp_path / name).mkdir()
    (tmp_path / name / "kept.txt").write_text("kept")
    with pytest.raises(OutputError, match=rf"{name}: is "):
        export_model(tiny_model, tmp_path / name, format)
    with pytest.raises(OutputError, match="there is no folder"):
        export_model(tiny_model, tmp_path / "nowhere" / name, format)
    assert [path.name for path in tmp_path.rglob("*")] == [name, "kept.txt"]


@pytest.mark.parametrize(("format", "name"), [("keras", "tiny.h5"), ("onnx", "tiny"), ("timm", "tiny.bin")])
def test_a_files_ending_is_its_formats(format, name, tiny_model, tmp_path):
    with pytest.raises(SelectionError, match=FORMATS[format]):
        export_model(tiny_model, tmp_path / name, format)


def test_a_file_that_is_read_is_not_replaced(tiny_model, tmp_path):
    weights = tmp_path / "mine.safetensors"
    weights.write_bytes(b"kept")
    with pytest.raises(OutputError, match=r"mine\.safetensors: is read as an input"):
        export_model(tiny_model, weights, "timm", inputs=[weights])
    assert weights.read_bytes() == b"kept"
    folder = tmp_path / "savedmodel"
    folder.mkdir()
    with pytest.raises(OutputError, match="lies within what is read"):
        export_model(tiny_model, folder / "new", "savedmodel", inputs=[folder])


def test_an_empty_folder_and_an_old_file_are_replaced(tiny_model, tmp_path):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny.safetensors").write_bytes(b"old")
    export_model(tiny_model, tmp_path / "tiny", "savedmodel")
    export_model(tiny_model, tmp_path / "tiny.safetensors", "timm")
    assert (tmp_path / "tiny" / "saved_model.pb").is_file()
    assert len(load_file(tmp_path / "tiny.safetensors")) > 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny", "tiny.safetensors"]


@pytest.mark.parametrize("format", ["keras", "timm"])
def test_a_writing_that_fails_leaves_nothing_behind(format, tiny_model, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(keras.Model, "save", full)
    monkeypatch.setattr("safetensors.numpy.serialize_file", full)
    path = tmp_path / ("tiny" + FORMATS[format])
    path.write_bytes(b"old")
    with pytest.raises(OutputError, match="No space left on device"):
        export_model(tiny_model, path, format)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
@pytest.mark.parametrize("format", ["keras", "timm"])
def test_a_new_file_has_the_permissions_that_the_umask_leaves(format, umask, tiny_model, tmp_path):
    path = tmp_path / ("tiny" + FORMATS[format])
    usual = os.umask(umask)
    try:
        export_model(tiny_model, path, format)
    finally:
        os.umask(usual)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_network_without_a_classifier_is_exported_too(tmp_path):
    config = cait_viz.CaiTConfig(image_size=32, projection_dim=8, sa_ffn_layers=1, pre_logits=True)
    model = CaiT(config)
    export_model(model, tmp_path / "features.keras", "keras")
    images = np.ones((1, 32, 32, 3), np.float32)
    loaded = keras.models.load_model(tmp_path / "features.keras")
    np.testing.assert_allclose(loaded(images)[0], model(images)[0], atol=1e-6)
