"""Keras as the program starts it: without TensorFlow's log lines, and without the user's settings."""

import json
import os
import subprocess
import sys

import pytest

from cait_viz._backend import standard_error_held

LOGITS = """
import numpy as np
from cait_viz.api import load_model
from cait_viz.engine.keras import forward
import keras
before = keras.config.floatx(), keras.config.image_data_format(), keras.config.epsilon()
model = load_model()
pixels = np.random.default_rng(0).standard_normal((1, 224, 224, 3)).astype("float32")
print(forward(model, pixels)[0].tobytes().hex())
print({str(weight.dtype) for weight in model.weights})
assert (keras.config.floatx(), keras.config.image_data_format(), keras.config.epsilon()) == before
print(before)
"""
OWN_PROCESS = "from cait_viz._backend import import_tensorflow; import_tensorflow()\n" + LOGITS


@pytest.fixture
def run_at_home(environment, tmp_path):
    """Run a script for a person whose ~/.keras/keras.json holds these settings; its lines."""

    def run(script, settings=None, **variables):
        (tmp_path / ".keras").mkdir(exist_ok=True)
        (tmp_path / ".keras" / "keras.json").write_text(json.dumps(settings or {}))
        home = {"HOME": str(tmp_path), "USERPROFILE": str(tmp_path), "TF_CPP_MIN_LOG_LEVEL": "3"}
        command = [sys.executable, "-c", script]
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment | home | variables, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return run


def test_the_answer_does_not_depend_on_the_users_keras_settings(run_at_home):
    expected, dtypes, _ = run_at_home(LOGITS)
    assert dtypes == "{'float32'}"
    theirs = {"floatx": "float16", "epsilon": 0.01, "image_data_format": "channels_first"}
    answer, dtypes, kept = run_at_home(LOGITS, theirs)
    assert (answer, dtypes) == (expected, "{'float32'}")
    assert kept == "('float16', 'channels_first', 0.01)"
    # Keras refuses to start with this floatx, and a process of the program's own starts all the same.
    theirs = {"floatx": "bfloat16", "backend": "torch"}
    answer, dtypes, kept = run_at_home(OWN_PROCESS, theirs, KERAS_BACKEND="jax", KERAS_NNX_ENABLED="1")
    assert (answer, dtypes) == (expected, "{'float32'}")
    assert kept == "('float32', 'channels_last', 1e-07)"


def test_a_model_analyses_on_the_backend_that_the_user_has_chosen(run_at_home):
    pytest.importorskip("torch")
    script = """
import keras, numpy as np
from cait_viz.api import analyze, attention_tensors, load_model
assert keras.backend.backend() == "torch"
model, image = load_model(), np.full((300, 300, 3), 99, np.uint8)
print(analyze(image, model).predictions[0][0])
print(list(attention_tensors(image, model, sa_blocks=[1])))
"""
    best, names = run_at_home(script, {"backend": "torch"})
    assert best
    assert names == "['pixels', 'logits', 'ca_ffn_block_0_att', 'ca_ffn_block_1_att', 'sa_ffn_block_1_att']"


def test_importing_the_package_changes_no_setting_of_the_process(run_python):
    script = """
import importlib, json, logging, os, pkgutil, signal, sys, warnings
import huggingface_hub, matplotlib, matplotlib.figure, numpy, PIL.Image, pillow_heif, safetensors

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
heavy = ("cait_viz.model.cait", "cait_viz.model.layers", "cait_viz.engine.", "cait_viz.training.", "cait_viz.api")
light = [name for name in modules if not name.startswith(heavy) and not name.endswith("__main__")]
for name in light:
    if name not in ("cait_viz.tutorial", "cait_viz.model.export"):
        importlib.import_module(name)
assert settings() == before
print(len(light), {"keras", "tensorflow"} & set(sys.modules))
"""
    count, _, heavy = run_python(script)[0].partition(" ")
    assert int(count) > 30
    assert heavy.strip() == "set()"


def test_what_is_written_to_standard_error_meanwhile_is_not_shown(capfd):
    with standard_error_held():
        os.write(2, b"a log line\n")
    os.write(2, b"afterwards\n")
    assert capfd.readouterr().err == "afterwards\n"


def test_what_was_held_is_shown_if_it_explains_a_failure(capfd):
    @standard_error_held()
    def start():
        os.write(2, b"no such instruction\n")
        raise ImportError

    with pytest.raises(ImportError):
        start()
    os.write(2, b"afterwards\n")
    assert capfd.readouterr().err == "no such instruction\nafterwards\n"
