"""JAX and torch give TensorFlow's forward pass, and train; each in a process of its own."""

import importlib.util
import json
import os

import numpy as np
import pytest
from safetensors import safe_open

BACKENDS = ("jax", "torch")
REQUIRED = os.environ.get("CAIT_VIZ_REQUIRE_BACKENDS") == "1"

FORWARD = """
import sys
from pathlib import Path
from cait_viz.quiet import import_keras
import_keras(sys.argv[1])
import keras, numpy as np
assert keras.backend.backend() == sys.argv[1]
from cait_viz.checkpoints import read_config, read_tensors
from cait_viz.model import CaiT
from cait_viz.weights import assign, state_dict
path = Path(sys.argv[2])
config = read_config(path)
model = CaiT(config)
tensors = read_tensors(path, config)
assign(model, tensors)
kept = state_dict(model)
assert all(np.array_equal(kept[name], tensors[name]) for name in tensors)
images = np.random.default_rng(0).standard_normal((2, 64, 64, 3)).astype("float32")
logits, sa, ca = model(images, training=False)
outputs = {"logits": logits, **sa, **ca}
np.savez(sys.argv[3], **{name: keras.ops.convert_to_numpy(value) for name, value in outputs.items()})
"""

TRAIN = """
import json, sys
from dataclasses import replace
from pathlib import Path
from cait_viz.quiet import import_keras
import_keras(sys.argv[1])
from cait_viz.augmentation import Augmentation
from cait_viz.recipe import FINETUNING, Stage
from cait_viz.training import Options, finetune
recipe = replace(FINETUNING, stages=(Stage(32, 2), Stage(64, 1)), batch_size=6, sd_prob=0.1,
                 augmentation=Augmentation(), precision=sys.argv[5])
outcome = finetune(Path(sys.argv[2]), Path(sys.argv[4]), weights=Path(sys.argv[3]), validation=0.2,
                   recipe=recipe, options=Options(tell=lambda _: None))
print(json.dumps(json.loads(outcome.card.read_text())["hardware"]))
"""


@pytest.fixture(params=BACKENDS)
def backend(request):
    if importlib.util.find_spec(request.param) is None:
        assert not REQUIRED, f"{request.param} is not installed"
        pytest.skip(f"{request.param} is not installed; see requirements-backends.txt")
    return request.param


def test_the_forward_pass_is_tensorflows(backend, run_python, tiny_weights, tiny_model, tmp_path):
    run_python(FORWARD, backend, tiny_weights, tmp_path / "there.npz")
    images = np.random.default_rng(0).standard_normal((2, 64, 64, 3)).astype(np.float32)
    logits, sa_attention, ca_attention = tiny_model(images, training=False)
    with np.load(tmp_path / "there.npz") as there:
        for name, value in {"logits": logits, **sa_attention, **ca_attention}.items():
            np.testing.assert_allclose(there[name], value, atol=1e-5, err_msg=name)


def test_a_cait_is_trained_there_too(backend, run_python, tiny_weights, tmp_path):
    from PIL import Image

    for name, colour in {"red": (220, 30, 30), "green": (30, 220, 30)}.items():
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(8):
            Image.new("RGB", (40, 40 + number), colour).save(tmp_path / "pictures" / name / f"{number}.png")
    precision = {"jax": "float32", "torch": "bfloat16"}[backend]
    out = tmp_path / "out"
    said, _ = run_python(TRAIN, backend, tmp_path / "pictures", tiny_weights, out, precision)
    assert json.loads(said)["backend"] == backend
    with safe_open(out / "model.safetensors", "np") as file:
        assert np.isfinite(file.get_tensor("head.weight")).all()
        assert file.get_tensor("pos_embed").shape == (1, 16, 48)
