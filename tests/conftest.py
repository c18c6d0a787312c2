"""Models, pictures and processes that more than one file of tests needs; made when first asked for."""

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from reference import lively_weights, timm_shapes
from safetensors.numpy import save_file

from cait_viz.model.config import CaiTConfig

# A shell starts what it puts in the background with Ctrl-C ignored, and every process below inherits that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Before anything imports them: TensorFlow silent, Keras on TensorFlow.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

ROOT = Path(__file__).parent.parent


def pytest_configure(config):
    # Keras' variables do not know NumPy 2's keyword yet.
    config.addinivalue_line("filterwarnings", "ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="session")
def bundled():
    """The bundled model."""
    from cait_viz.api import load_model

    return load_model()


@pytest.fixture(scope="session")
def tiny_config():
    """A small architecture whose image size, patch, width, depth, heads and classes all differ."""
    return CaiTConfig(
        image_size=64, projection_dim=48, sa_ffn_layers=3, ca_ffn_layers=2, num_heads=4, num_classes=10
    )


@pytest.fixture(scope="session")
def tiny_weights(tiny_config, tmp_path_factory):
    """The path of a checkpoint of `tiny_config` whose every branch matters."""
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_file(lively_weights(timm_shapes(tiny_config)), path)
    return path


@pytest.fixture(scope="session")
def weights(tiny_config):
    """The tensors of `tiny_weights`, by timm's names."""
    return lively_weights(timm_shapes(tiny_config))


@pytest.fixture
def write_weights(tmp_path):
    """Save tensors as a safetensors file and give its path."""

    def write(tensors, name="my model.safetensors"):
        save_file(dict(tensors), tmp_path / name)
        return tmp_path / name

    return write


@pytest.fixture(scope="session")
def make_small_weights(tmp_path_factory):
    """Make a checkpoint of few blocks: each takes a second or more to compile, at every resolution anew."""

    def make(num_classes):
        config = CaiTConfig(
            image_size=64,
            projection_dim=48,
            sa_ffn_layers=1,
            ca_ffn_layers=1,
            num_heads=4,
            num_classes=num_classes,
        )
        path = tmp_path_factory.mktemp("weights") / "small.safetensors"
        save_file(lively_weights(timm_shapes(config)), path)
        return path

    return make


@pytest.fixture(scope="session")
def tiny_model(tiny_weights):
    """The network of `tiny_weights`; tests may call it but not change it."""
    from cait_viz.api import load_model

    return load_model(weights=tiny_weights)


@pytest.fixture(scope="session")
def make_teacher(tmp_path_factory):
    """Make an ONNX teacher of three classes: its logits are ten times the means of red, green and blue.

    Its features are the means of each patch of 16 x 16 pixels.
    """

    def make(outputs=("logits", "features"), scale=10.0, size=None, batch=None):
        from onnx import TensorProto, helper, numpy_helper, save

        logits, features = outputs
        nodes = [
            helper.make_node(
                "AveragePool", ["pictures"], [features], kernel_shape=[16, 16], strides=[16, 16]
            ),
            helper.make_node("GlobalAveragePool", [features], ["means"]),
            helper.make_node("Flatten", ["means"], ["flat"]),
            helper.make_node("Mul", ["flat", "scale"], [logits]),
        ]
        shapes = {
            "pictures": [batch or "n", 3, size or "h", size or "w"],
            logits: ["n", 3],
            features: ["n", 3, "rows", "cols"],
        }
        told = {
            name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in shapes.items()
        }
        constant = numpy_helper.from_array(np.array(scale, np.float32), "scale")
        graph = helper.make_graph(
            nodes, "teacher", [told["pictures"]], [told[logits], told[features]], [constant]
        )
        path = tmp_path_factory.mktemp("teacher") / "teacher.onnx"
        save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
        return path

    return make


@pytest.fixture(scope="session")
def teacher_file(make_teacher):
    """The path of such a teacher."""
    return make_teacher()


@pytest.fixture(scope="session")
def gray_images(tmp_path_factory):
    """Twelve decoded images, each of one gray: ten times its number."""
    from cait_viz.training.cache import decode

    folder = tmp_path_factory.mktemp("coloured")
    files = [folder / f"{number:02}.png" for number in range(12)]
    for number, path in enumerate(files):
        Image.new("RGB", (40, 40 + number), (10 * number,) * 3).save(path)
    return decode(files, 64, folder / "cache", print)


@pytest.fixture(scope="session")
def photo():
    """The bytes of a small PNG, wider than high."""
    pixels = np.random.default_rng(0).integers(0, 256, (9, 13, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels).resize((130, 90), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="session")
def environment():
    """The environment of a fresh interpreter that knows the package and nothing of these tests."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("TF_", "KERAS_"))}
    return kept | {"PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="session")
def run_python(environment):
    """Run a script in a fresh interpreter and give its (standard output, standard error)."""

    def run(script, *arguments):
        command = [sys.executable, "-c", script, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout, done.stderr

    return run
