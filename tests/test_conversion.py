"""Weights in other tools' files: the tutorial author's SavedModel and the authors' PyTorch checkpoints."""

import argparse
import functools
import hashlib
import importlib
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tutorial_port import CLASSES, HEADS, export_weights, tutorials_cait

import cait_viz
from cait_viz.api import load_model
from cait_viz.errors import CheckpointError
from cait_viz.weights import conversion
from cait_viz.weights.architecture import read_tensors
from cait_viz.weights.resolve import resolve


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """A cache of this file's own."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).standard_normal((2, 64, 64, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def save_port(tmp_path_factory, images):
    """Save the tutorial's network with random weights; gives the folder and what the network answers."""

    @functools.cache
    def save(name="keras", **options):
        model = tutorials_cait(importlib.import_module(name), **options)
        model(images)
        random = np.random.default_rng(1)
        model.set_weights([0.3 * random.standard_normal(weight.shape) for weight in model.weights])
        folder = tmp_path_factory.mktemp("port") / "mine"
        if name == "tf_keras":
            model.save(folder)
        else:
            export_weights(model, folder)
        return folder, model(images)

    return save


@pytest.fixture(scope="module")
def port(save_port):
    return save_port("keras")[0]


@pytest.mark.parametrize("keras_name", ["keras", "tf_keras"])
def test_the_tutorials_savedmodel_answers_as_the_tutorials_network_does(keras_name, save_port, images):
    pytest.importorskip(keras_name)
    folder, expected = save_port(keras_name)
    model = load_model(weights=folder)
    assert (model.config.sa_ffn_layers, model.config.ca_ffn_layers, model.config.num_heads) == (3, 2, HEADS)
    logits, sa_attention, ca_attention = model(images)
    np.testing.assert_allclose(logits, expected[0], atol=1e-5)
    for name, attention in (expected[1] | expected[2]).items():
        np.testing.assert_allclose((sa_attention | ca_attention)[name], attention, atol=1e-6, err_msg=name)


def test_a_savedmodel_without_layer_scale_and_head_is_read_as_such(save_port, images):
    folder, expected = save_port(layer_scale=False, head=False)
    model = load_model(weights=folder)
    assert model.config.pre_logits
    assert not model.config.init_values
    np.testing.assert_allclose(model(images)[0], expected[0], atol=1e-5)


def test_a_savedmodel_is_converted_once(port, monkeypatch):
    first = resolve(weights=port)
    assert first.name == "mine"
    monkeypatch.setattr(sys, "executable", "/no/interpreter")
    assert resolve(weights=port).path == first.path


def test_what_was_converted_is_listed_and_removed(pth, cache, succeed, weights):
    first = resolve(weights=pth).path
    assert re.search(rf"^{re.escape(pth.name)} +1 MB  last used 20", succeed("cache"), re.MULTILINE)
    assert f"of at most 4295 MB in {cache / 'cait-viz' / 'converted'}" in succeed("cache")
    assert "removed from" in succeed("cache", "--clear")
    assert not first.exists()
    assert_same_weights(pth, weights)


def test_another_version_of_the_program_converts_anew(pth, cache, tmp_path, run_python):
    package = Path(cait_viz.__file__).parent
    shutil.copytree(package, tmp_path / "cait_viz", ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "cait_viz" / "weights" / "pytorch.py").open("a") as reader:
        reader.write("# another version\n")
    script = """
import os, sys
os.environ |= {"XDG_CACHE_HOME": sys.argv[2], "PYTHONPATH": sys.argv[3]}
sys.path.insert(0, sys.argv[3])
from cait_viz.weights.resolve import resolve
print(resolve(weights=sys.argv[1]).path)
"""
    here = resolve(weights=pth).path
    there = Path(run_python(script, pth, cache, tmp_path)[0].strip())
    assert there != here
    assert there.parents[1] == here.parents[1]
    assert there.is_file()


def test_conversion_brings_neither_tensorflow_nor_torch_into_the_process(port, pth, run_python):
    script = """
import sys
from cait_viz.weights.resolve import resolve

for weights in sys.argv[1:]:
    resolve(weights=weights)
assert not {"tensorflow", "torch", "keras"} & set(sys.modules)
"""
    assert run_python(script, port, pth) == ("", "")


def one_line_about(path, *words):
    with pytest.raises(CheckpointError) as caught:
        resolve(weights=path)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in (path.name, *words)), message


def test_a_damaged_savedmodel_is_refused_and_leaves_nothing_behind(port, tmp_path, cache):
    folder = tmp_path / "damaged"
    (folder / "variables").mkdir(parents=True)
    for file in ("saved_model.pb", "variables/variables.index"):
        (folder / file).write_bytes((port / file).read_bytes())
    data = (port / "variables" / "variables.data-00000-of-00001").read_bytes()
    (folder / "variables" / "variables.data-00000-of-00001").write_bytes(data[: len(data) // 2])
    before = {path for path in cache.rglob("*") if path.is_file()}
    one_line_about(folder, "cannot be read", "export it again")
    assert {path for path in cache.rglob("*") if path.is_file()} == before


def test_the_savedmodel_of_another_network_is_refused(tmp_path):
    import keras

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(2)])
    model.export(tmp_path / "other", verbose=False)
    one_line_about(tmp_path / "other", "4 variables are not those of a CaiT")


@pytest.fixture(scope="module")
def state(tiny_weights):
    """The tensors of a small CaiT as PyTorch holds them."""
    torch = pytest.importorskip("torch")
    return {name: torch.from_numpy(tensor) for name, tensor in load_file(tiny_weights).items()}


@pytest.fixture(scope="module")
def pth(state, tmp_path_factory):
    """A checkpoint as the authors publish theirs."""
    import torch

    path = tmp_path_factory.mktemp("pth") / "XXS24_224.pth"
    torch.save({"model": {f"module.{name}": tensor for name, tensor in state.items()}}, path)
    return path


@pytest.fixture
def here(monkeypatch):
    """Weights are read in this process: each that is started imports PyTorch anew."""
    monkeypatch.setattr(conversion, "run_module", lambda _, *arguments: conversion.convert(*arguments))


def assert_same_weights(path, weights):
    loaded = read_tensors(resolve(weights=path))
    assert set(loaded) == set(weights)
    for name, expected in weights.items():
        np.testing.assert_array_equal(loaded[name], expected, err_msg=name)


def test_the_authors_checkpoint_loads(pth, weights, tiny_model):
    assert_same_weights(pth, weights)
    for loaded, expected in zip(load_model(weights=pth).weights, tiny_model.weights, strict=True):
        np.testing.assert_array_equal(loaded, expected, err_msg=expected.path)


@pytest.mark.usefixtures("here")
def test_what_a_training_saved_beside_the_weights_is_left_out(state, tmp_path, weights):
    import torch

    training = {
        "model": state,
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3, 3)}}, "param_groups": [{"lr": 1e-3}]},
        "by_name": {"state": {"cls_token": {"exp_avg": torch.zeros(3, 3)}}},
        "criterion": {"weight": torch.ones(10)},
        "random": torch.get_rng_state(),
        "epoch": 3,
        "args": argparse.Namespace(model="cait_xxs24_224", lr=1e-3),
    }
    torch.save(training, tmp_path / "training.pt")
    assert_same_weights(tmp_path / "training.pt", weights)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("plain", "average"),
    [
        (["model"], ["model_ema"]),
        (["state_dict"], ["state_dict_ema"]),
        (["model"], ["ema"]),
        (["state_dict"], ["ema_state_dict"]),
        (["model_state_dict"], ["model_ema_state_dict"]),
        (["net"], ["ema", "shadow"]),
        (["trainer", "model"], ["trainer", "averaged_model"]),
    ],
)
def test_of_weights_and_their_average_the_average_is_taken_as_of_a_safetensors_file(
    plain, average, state, tmp_path, weights
):
    import torch

    zeros = {f"module.{name}": torch.zeros_like(tensor) for name, tensor in state.items()}
    both = nested(plain, zeros)
    both |= {average[0]: both.get(average[0], {}) | nested(average, state)[average[0]]}
    torch.save(both | {"epoch": 3}, tmp_path / "both.pth")
    flat = {".".join([*plain, name]): tensor for name, tensor in zeros.items()}
    flat |= {".".join([*average, name]): tensor for name, tensor in state.items()}
    save_file({name: tensor.numpy() for name, tensor in flat.items()}, tmp_path / "both.safetensors")
    for file in ("both.pth", "both.safetensors"):
        assert_same_weights(tmp_path / file, weights)
        assert (
            resolve(weights=tmp_path / file).remark == "The file holds a model and its EMA; the EMA is used."
        )


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("package", ["ema_pytorch", "torch_ema"])
def test_the_average_that_a_package_saved_beside_the_weights_is_taken(package, state, tmp_path, weights):
    import torch

    zeros = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    online = {f"online_model.{name}": tensor for name, tensor in zeros.items()}
    named = {f"ema_model.{name}": tensor for name, tensor in state.items()}
    average = {
        "ema_pytorch": {**online, **named, "initted": torch.tensor(True), "step": torch.tensor(9)},
        "torch_ema": {"decay": 0.9, "num_updates": 9, "shadow_params": [*state.values()]},
    }
    torch.save({"model": zeros, "ema": average[package]}, tmp_path / "both.pth")
    assert_same_weights(tmp_path / "both.pth", weights)
    remark = resolve(weights=tmp_path / "both.pth").remark
    assert remark == "The file holds a model and its EMA; the EMA is used."


def nested(keys, content):
    """The content within dictionaries of these keys."""
    return {keys[0]: nested(keys[1:], content)} if keys else content


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("keys", [["model_state_dict"], ["net"], ["ema"], ["state", "student", "weights"]])
def test_weights_are_found_under_any_name(keys, state, tmp_path, weights):
    import torch

    torch.save(nested(keys, state) | {"epoch": 3}, tmp_path / "mine.pth")
    assert_same_weights(tmp_path / "mine.pth", weights)
    assert resolve(weights=tmp_path / "mine.pth").remark == ""


def test_of_two_models_none_is_taken_silently(state, tmp_path):
    import torch

    torch.save({"model": state, "best_model": state}, tmp_path / "both.pth")
    one_line_about(tmp_path / "both.pth", "of the networks in it (best_model., model.), save one in a file")


@pytest.mark.usefixtures("here")
def test_half_precision_is_widened(state, tmp_path):
    import torch

    torch.save({name: tensor.bfloat16() for name, tensor in state.items()}, tmp_path / "half.pth")
    converted = load_file(resolve(weights=tmp_path / "half.pth").path)
    np.testing.assert_allclose(converted["head.weight"], state["head.weight"], rtol=0.01)


class Attack:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_code_in_a_pickle_is_not_run(state, tmp_path):
    import torch

    torch.save({"model": state, "attack": Attack(tmp_path / "ran")}, tmp_path / "attack.pth")
    one_line_about(
        tmp_path / "attack.pth", "PyTorch pickle, which can run code", "safetensors.torch.save_file"
    )
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_without_tensors_is_refused(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    one_line_about(tmp_path / "empty.pth", "holds no tensors")


def test_without_pytorch_the_way_out_is_said(pth, tmp_path, monkeypatch):
    (tmp_path / "torch.py").write_text("raise ImportError('torch')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    one_line_about(pth, "needs PyTorch", "pip install torch", "safetensors.torch.save_file")


def test_where_the_cache_cannot_be_written_weights_are_converted_all_the_same(
    pth, port, images, tmp_path, monkeypatch, weights
):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert_same_weights(pth, weights)
    assert load_model(weights=port)(images)[0].shape == (2, CLASSES)


def test_what_was_converted_for_lack_of_a_cache_is_gone_with_its_process(pth, tmp_path, run_python):
    script = """
import os, sys
os.environ |= {"XDG_CACHE_HOME": sys.argv[2], "TMPDIR": sys.argv[3]}
from cait_viz.weights.resolve import resolve
assert resolve(weights=sys.argv[1]).path.is_file()
"""
    (tmp_path / "file").write_text("")
    (tmp_path / "tmp").mkdir()
    run_python(script, pth, tmp_path / "file", tmp_path / "tmp")
    assert not list((tmp_path / "tmp").iterdir())


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old format"])
@pytest.mark.parametrize("name", ["mine.bin", "mine.ckpt", "mine.pth", "mine", "mine.safetensors"])
def test_a_pytorch_checkpoint_is_known_by_its_content(name, zipped, state, tmp_path, weights):
    import torch

    torch.save(state, tmp_path / name, _use_new_zipfile_serialization=zipped)
    assert_same_weights(tmp_path / name, weights)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old format"])
@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_a_pytorch_checkpoint_cut_short_is_told_as_damaged(share, zipped, state, tmp_path):
    import torch

    path = tmp_path / "mine.bin"
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(CheckpointError, match="PyTorch checkpoint is damaged") as caught:
        resolve(weights=path)
    assert "can run code" not in str(caught.value)


def test_results_and_errors_name_the_file_that_was_given(state, pth, port, tmp_path):
    import torch

    for weights in (pth, port):
        checkpoint = resolve(weights=weights)
        assert (checkpoint.name, checkpoint.source.file) == (weights.stem, weights.name)
    assert resolve(weights=pth).sha256 == hashlib.sha256(pth.read_bytes()).hexdigest()
    torn = {name: tensor for name, tensor in state.items() if "norm1" not in name}
    endless = state | {"head.bias": state["head.bias"] / 0}
    for name, tensors in {
        "torn.pth": torn,
        "other.pth": {"a": state["head.bias"]},
        "endless.pth": endless,
    }.items():
        torch.save(tensors, tmp_path / name)
        with pytest.raises(CheckpointError, match=rf"^{name}: (does not fit|is no CaiT|holds values)"):
            read_tensors(resolve(weights=tmp_path / name))


def test_a_link_and_the_folder_one_is_in_keep_the_name_that_is_known(pth, port, tmp_path, monkeypatch):
    (tmp_path / "linked.pth").symlink_to(pth)
    assert resolve(weights=tmp_path / "linked.pth").source.file == "linked.pth"
    monkeypatch.chdir(port)
    assert resolve(weights=".").source.file == port.name
