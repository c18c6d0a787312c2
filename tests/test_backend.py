"""Keras as the program starts it: without TensorFlow's log lines, and without the user's settings."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from safetensors.numpy import load_file

from cait_viz._backend import stderr_held
from cait_viz.engine.keras import engine_of
from cait_viz.errors import CheckpointError
from cait_viz.weights.resolve import resolve

LOGITS = """
import sys
import numpy as np
from cait_viz.api import load_model
from cait_viz.engine.keras import engine_of
import keras
before = keras.config.floatx(), keras.config.image_data_format(), keras.config.epsilon()
model = load_model(weights=sys.argv[1])
pixels = np.random.default_rng(0).standard_normal((1, 64, 64, 3)).astype("float32")
print(engine_of(model).forward(pixels)[0].tobytes().hex())
assert (keras.config.floatx(), keras.config.image_data_format(), keras.config.epsilon()) == before
print(before)
"""
OWN_PROCESS = "from cait_viz._backend import import_keras; import_keras('tensorflow')\n" + LOGITS


@pytest.fixture
def run_at_home(environment, tiny_weights, tmp_path):
    """Run a script for a person whose ~/.keras/keras.json holds these settings; its lines."""

    def run(script, settings, **variables):
        (tmp_path / ".keras").mkdir()
        (tmp_path / ".keras" / "keras.json").write_text(json.dumps(settings))
        home = {"HOME": str(tmp_path), "USERPROFILE": str(tmp_path), "TF_CPP_MIN_LOG_LEVEL": "3"}
        done = subprocess.run(
            [sys.executable, "-c", script, tiny_weights],
            capture_output=True,
            text=True,
            env=environment | home | variables,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return run


@pytest.fixture
def expected(tiny_model):
    """The logits of a process without such settings, bit for bit."""
    pixels = np.random.default_rng(0).standard_normal((1, 64, 64, 3)).astype("float32")
    return engine_of(tiny_model).forward(pixels)[0].tobytes().hex()


def test_in_a_users_process_their_keras_settings_stay_and_do_not_change_the_answer(run_at_home, expected):
    theirs = {"floatx": "float16", "epsilon": 0.01, "image_data_format": "channels_first"}
    answer, kept = run_at_home(LOGITS, theirs)
    assert answer == expected
    assert kept == "('float16', 'channels_first', 0.01)"


def test_a_floatx_that_keras_refuses_does_not_keep_a_user_from_a_model(run_at_home, expected):
    script = LOGITS.replace("import keras", "from cait_viz import tutorial\nimport keras")
    answer, kept = run_at_home(script, {"floatx": "bfloat16", "epsilon": 0.01, "backend": "tensorflow"})
    assert answer == expected
    assert kept == "('float32', 'channels_last', 0.01)"


def test_a_process_of_the_program_itself_does_not_read_the_users_keras_settings(run_at_home, expected):
    # Keras refuses to start with this floatx.
    theirs = {"floatx": "bfloat16", "epsilon": 0.01, "backend": "torch"}
    answer, used = run_at_home(OWN_PROCESS, theirs, KERAS_BACKEND="jax", KERAS_NNX_ENABLED="1")
    assert answer == expected
    assert used == "('float32', 'channels_last', 1e-07)"


def test_a_model_analyses_on_the_backend_that_the_user_has_chosen(run_at_home, expected):
    pytest.importorskip("torch")
    script = """
import sys
import keras, numpy as np
from cait_viz.api import load_model
from cait_viz.engine.keras import engine_of
assert keras.backend.backend() == "torch"
pixels = np.random.default_rng(0).standard_normal((1, 64, 64, 3)).astype("float32")
logits, sa_attention, ca_attention = engine_of(load_model(weights=sys.argv[1])).forward(pixels, sa_blocks=[1])
print(logits.tobytes().hex())
print([*sa_attention, *ca_attention])
"""
    answer, names = run_at_home(script, {"backend": "torch"})
    logits, reference = (np.frombuffer(bytes.fromhex(text), np.float32) for text in (answer, expected))
    np.testing.assert_allclose(logits, reference, atol=1e-4)
    assert names == "['sa_ffn_block_1_att', 'ca_ffn_block_0_att', 'ca_ffn_block_1_att']"


# Finds no package of the names in the first argument, and runs the command line with the others.
WITHOUT = """
import importlib.machinery, sys
found = importlib.machinery.PathFinder.find_spec
hidden = sys.argv[1].split()
def find_spec(name, path=None, target=None):
    return None if name.partition(".")[0] in hidden else found(name, path, target)
importlib.machinery.PathFinder.find_spec = find_spec
from cait_viz.cli.main import main
status = main(sys.argv[2:])
assert not set(hidden) & set(sys.modules)
sys.exit(status)
"""


@pytest.fixture
def run_without(environment):
    """Run the command line where packages are missing; its status and standard error."""

    def run(missing, *arguments):
        command = [sys.executable, "-c", WITHOUT, missing, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        return done.returncode, done.stderr

    return run


@pytest.mark.parametrize("missing", ["tensorflow", "tensorflow jax torch"])
@pytest.mark.parametrize("name", ["tiny.safetensors", "tiny.keras"])
def test_timms_and_keras_files_are_written_without_tensorflow(
    name, missing, run_without, tiny_weights, tiny_model, tmp_path
):
    kind = "timm" if name.endswith(".safetensors") else "keras"
    given = ["--weights", tiny_weights, "--format", kind, "-o", tmp_path / name]
    assert run_without(missing, "export", *given) == (0, "")
    if kind == "timm":
        assert load_file(tmp_path / name).keys() == load_file(tiny_weights).keys()
    else:
        weights = keras.models.load_model(tmp_path / name).weights
        for one, other in zip(weights, tiny_model.weights, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", ["savedmodel", "onnx"])
def test_what_tensorflow_writes_is_refused_without_it_in_a_sentence(
    kind, run_without, tiny_weights, tmp_path
):
    output = tmp_path / {"savedmodel": "tiny", "onnx": "tiny.onnx"}[kind]
    given = ["--weights", tiny_weights, "--format", kind, "-o", output]
    status, told = run_without("tensorflow", "export", *given)
    assert (status, told.count("\n")) == (1, 1)
    assert f"the format {kind} is written with TensorFlow" in told
    assert "`pip install tensorflow`" in told
    assert not output.exists()


def test_a_savedmodel_is_not_read_without_tensorflow_and_that_is_said(tmp_path, monkeypatch):
    (tmp_path / "port" / "variables").mkdir(parents=True)
    (tmp_path / "port" / "saved_model.pb").write_bytes(b"")
    (tmp_path / "tensorflow.py").write_text("raise ImportError('tensorflow')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(CheckpointError, match="port: reading a SavedModel needs TensorFlow"):
        resolve(weights=tmp_path / "port")


def test_importing_the_package_changes_no_setting_of_the_process(run_python):
    script = """
import importlib, json, logging, os, pkgutil, signal, sys, warnings
import huggingface_hub.constants, matplotlib, matplotlib.figure, numpy, PIL.Image, pillow_heif, safetensors

def settings():
    loggers = [logging.root, *map(logging.getLogger, sorted(before_names))]
    return repr((
        dict(os.environ), warnings.filters, logging.root.manager.disable,
        [(log.level, log.disabled, log.propagate, log.handlers, log.filters) for log in loggers],
        sys.excepthook, sys.path, signal.getsignal(signal.SIGINT), os.umask(os.umask(0o22)), os.fstat(2),
        {name: getattr(huggingface_hub.constants, name) for name in dir(huggingface_hub.constants)},
    ))

before_names = list(logging.root.manager.loggerDict)
before = settings()
import cait_viz
modules = [found.name for found in pkgutil.walk_packages(cait_viz.__path__, "cait_viz.")]
network = {"_keras", "model", "engine", "training", "api", "tutorial", "__main__"}
page = "cait_viz.serving.page."  # imports Streamlit, which sets MPLBACKEND
light = [name for name in modules if name.split(".")[1] not in network and not name.startswith(page)]
for name in light:
    importlib.import_module(name)
assert settings() == before
print(len(light), {"keras", "tensorflow"} & set(sys.modules))
"""
    count, _, heavy = run_python(script)[0].partition(" ")
    assert int(count) > 30
    assert heavy.strip() == "set()"


def test_what_is_written_to_standard_error_meanwhile_is_not_shown(capfd):
    with stderr_held():
        os.write(2, b"a log line\n")
    os.write(2, b"afterwards\n")
    assert capfd.readouterr().err == "afterwards\n"


def test_what_was_held_is_shown_if_it_explains_a_failure(capfd):
    @stderr_held()
    def start():
        os.write(2, b"no such instruction\n")
        raise ImportError

    with pytest.raises(ImportError):
        start()
    os.write(2, b"afterwards\n")
    assert capfd.readouterr().err == "no such instruction\nafterwards\n"
