"""JAX and torch give TensorFlow's forward pass, and train; each in a process of its own."""

import importlib.util
import json
import os

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open

BACKENDS = ("jax", "torch")
REQUIRED = os.environ.get("CAIT_VIZ_REQUIRE_BACKENDS") == "1"

# For steps that a test takes once, to optimize them takes JAX longer than all else.
UNOPTIMIZED = """
import os
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
"""

FORWARD = """
import sys
from pathlib import Path
from cait_viz._backend import import_keras
import_keras(sys.argv[1])
import keras, numpy as np
assert keras.backend.backend() == sys.argv[1]
from cait_viz.weights.architecture import read_tensors
from cait_viz.weights.resolve import resolve
from cait_viz.model.cait import CaiT
from cait_viz.model.timm_names import assign, state_dict
checkpoint = resolve(weights=sys.argv[2])
model = CaiT(checkpoint.config)
tensors = read_tensors(checkpoint)
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
from cait_viz._backend import import_keras
import_keras(sys.argv[1])
from cait_viz.training.config import DISTILLATION, FINETUNING, Stage
from cait_viz.training import RunOptions, distil, finetune
images, weights, teacher, out = map(Path, sys.argv[2:])
how = {"weights": weights, "options": RunOptions(tell=lambda _: None)}
config = replace(FINETUNING, stages=(Stage(32, 2), Stage(64, 1)), batch_size=6, sd_prob=0.1)
outcome = finetune(images, out / "finetuned", validation=0.2, config=config, **how)
config = replace(DISTILLATION, stages=(Stage(32, 1),), batch_size=8, precision="bfloat16", kept_views=1)
distil([images], out / "distilled", teacher=teacher, teacher_size=32, config=config, **how)
print(json.dumps(json.loads(outcome.card.read_text())["hardware"]))
"""

# What torch decays is decided by Keras' own code for torch.
DECAY = """
import json, sys
from pathlib import Path
import numpy as np
from cait_viz._backend import import_keras
import_keras("torch")
from cait_viz.training.cache import decode
from cait_viz.training.config import TrainingConfig, Stage
from cait_viz.training.loader import Dataset, Loader
from cait_viz.training.trainer import Trainer
from cait_viz.weights.architecture import read_tensors
from cait_viz.weights.resolve import resolve
images = decode(sorted(Path(sys.argv[1]).rglob("*.png")), 32, Path(sys.argv[3]), print)
dataset = Dataset(images, np.arange(len(images)) % 3, np.ones(len(images)))
checkpoint = resolve(weights=sys.argv[2])
weights = read_tensors(checkpoint)
tensors = []
for decay in (0.0, 0.5):
    config = TrainingConfig(stages=(Stage(32, 1),), batch_size=4, weight_decay=decay, ema=0.0)
    trainer = Trainer(checkpoint.config, weights, Loader(dataset, 3, config), config, {})
    next(trainer.run())
    tensors.append(trainer.tensors())
print(json.dumps([name for name in tensors[0] if not np.array_equal(tensors[0][name], tensors[1][name])]))
"""


@pytest.fixture(params=BACKENDS)
def backend(request):
    if importlib.util.find_spec(request.param) is None:
        assert not REQUIRED, f"{request.param} is not installed"
        pytest.skip(f"{request.param} is not installed; see requirements-backends.txt")
    return request.param


def test_the_forward_pass_is_tensorflows(backend, run_python, tiny_weights, tiny_model, tmp_path):
    run_python(UNOPTIMIZED + FORWARD, backend, tiny_weights, tmp_path / "there.npz")
    images = np.random.default_rng(0).standard_normal((2, 64, 64, 3)).astype(np.float32)
    logits, sa_attention, ca_attention = tiny_model(images, training=False)
    with np.load(tmp_path / "there.npz") as there:
        for name, value in {"logits": logits, **sa_attention, **ca_attention}.items():
            np.testing.assert_allclose(there[name], value, atol=1e-5, err_msg=name)


@pytest.fixture(scope="module")
def small_weights(make_small_weights):
    return make_small_weights(3)


@pytest.fixture(scope="module")
def images_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for name, color in {"red": (220, 30, 30), "green": (30, 220, 30)}.items():
        (folder / name).mkdir()
        for number in range(8):
            Image.new("RGB", (40, 40 + number), color).save(folder / name / f"{number}.png")
    return folder


def test_a_cait_is_trained_there_too(
    backend, run_python, images_folder, small_weights, teacher_file, tmp_path
):
    said, _ = run_python(UNOPTIMIZED + TRAIN, backend, images_folder, small_weights, teacher_file, tmp_path)
    assert json.loads(said)["backend"] == backend
    for name, size, classes in (("finetuned", 64, 2), ("distilled", 32, 3)):
        with safe_open(tmp_path / name / "model.safetensors", "np") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        assert all(np.isfinite(tensor).all() for tensor in tensors.values())
        assert tensors["head.weight"].shape == (classes, 48)
        assert tensors["pos_embed"].shape == (1, (size // 16) ** 2, 48)
        with safe_open(small_weights, "np") as file:
            before = file.get_tensor("blocks.0.attn.qkv.weight")
        assert 0 < np.abs(tensors["blocks.0.attn.qkv.weight"] - before).max() < 0.1


@pytest.mark.parametrize("backend", ["torch"], indirect=True)
def test_only_kernels_decay_there_too(backend, run_python, images_folder, small_weights, tmp_path):
    said, _ = run_python(DECAY, images_folder, small_weights, tmp_path / "cache")
    with safe_open(small_weights, "np") as file:
        kernels = {
            name
            for name in file.keys()  # noqa: SIM118
            if name.endswith("weight") and file.get_tensor(name).ndim in (2, 4)
        }
    assert set(json.loads(said)) == kernels
