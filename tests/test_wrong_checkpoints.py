"""Checkpoints that do not fit and files given by mistake are refused in a sentence."""

import importlib.util
import os
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from reference import timm_shapes
from safetensors.numpy import save
from weight_files import TINY, published, raw_file, refusal

from cait_viz.weights.architecture import read_tensors
from cait_viz.weights.resolve import resolve


def test_every_fault_is_listed_in_one_error(write_weights, weights):
    faulty = dict(weights)
    del faulty["cls_token"], faulty["blocks.1.attn.qkv.bias"]
    faulty["blocks.2.gamma_1"] = np.zeros(47, np.float32)
    faulty["pos_embed"] = np.zeros((1, 16, 49), np.float32)
    faulty["norm.weight"] = np.zeros(48, np.int32)
    faulty["optimizer.step"] = np.zeros(1, np.float32)
    faulty["blocks.1.attn.relative_bias"] = np.zeros(1, np.float32)
    path = write_weights(faulty)
    message = refusal(resolve, weights=path)
    assert message.startswith("my model.safetensors: ")
    assert "missing: cls_token, blocks.1.attn.qkv.bias;" in message
    left_over = message.partition("left over: ")[2].partition(";")[0]
    assert sorted(left_over.split(", ")) == ["blocks.1.attn.relative_bias", "optimizer.step"]
    assert "pos_embed (1, 16, 49) instead of (1, 16, 48)" in message
    assert "blocks.2.gamma_1 (47) instead of (48)" in message
    assert "of a wrong type: norm.weight I32" in message


@pytest.mark.parametrize("name", [name for name in timm_shapes(TINY) if not name.startswith("head.")])
def test_any_missing_tensor_is_named_whatever_it_says_of_the_architecture(write_weights, weights, name):
    path = write_weights({other: tensor for other, tensor in weights.items() if other != name})
    assert name in refusal(resolve, weights=path).partition("missing: ")[2]


def test_block_left_out_in_the_middle_is_missing_and_does_not_shorten_the_network(write_weights, weights):
    path = write_weights(
        {name: tensor for name, tensor in weights.items() if not name.startswith("blocks.1.")}
    )
    message = refusal(resolve, weights=path)
    assert "blocks.1.attn.qkv.weight" in message
    assert "left over" not in message


def test_many_faults_are_listed_by_ranges_of_blocks(write_weights, weights):
    message = refusal(resolve, "cait_xxs24_224", write_weights(weights))
    assert "blocks.3-23.attn.qkv.weight" in message
    assert len(message) < 3000


def test_position_embedding_of_another_resolution_is_refused(write_weights):
    message = refusal(resolve, "cait_xxs24_384", write_weights(published(7)))
    assert "pos_embed (1, 196, 192) instead of (1, 576, 192)" in message


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_by_name(write_weights, weights, value):
    faulty = dict(weights)
    faulty["blocks.2.attn.proj_w.weight"] = np.full((4, 4), value, np.float32)
    message = refusal(lambda: read_tensors(resolve(weights=write_weights(faulty))))
    assert "not finite in blocks.2.attn.proj_w.weight" in message


def test_float64_beyond_float32_is_not_finite_and_warns_nobody(write_weights, weights, recwarn):
    faulty = dict(weights)
    faulty["norm.bias"] = np.full(48, 1e300)
    assert "not finite in norm.bias" in refusal(lambda: read_tensors(resolve(weights=write_weights(faulty))))
    assert len(recwarn) == 0


def test_positions_that_make_no_square_are_refused_with_their_number(write_weights, weights):
    faulty = dict(weights)
    faulty["pos_embed"] = np.zeros((1, 17, 48), np.float32)
    assert "holds 17 positions" in refusal(resolve, weights=write_weights(faulty))


def test_heads_that_do_not_divide_the_width_are_refused(write_weights, weights):
    faulty = dict(weights)
    for name in weights:
        if "proj_l" in name or "proj_w" in name:
            faulty[name] = np.zeros((5, 5) if name.endswith("weight") else (5,), np.float32)
    assert "5" in refusal(resolve, weights=write_weights(faulty))


def test_block_numbers_out_of_all_proportion_cost_nothing(write_weights, weights):
    faulty = dict(weights)
    faulty["blocks.999999999.gamma_1"] = np.zeros(48, np.float32)
    faulty["blocks." + "9" * 500 + ".gamma_1"] = np.zeros(48, np.float32)
    assert "blocks.999999999.gamma_1" in refusal(resolve, weights=write_weights(faulty))


def test_a_checkpoint_of_another_network_is_refused_with_its_tensors(write_weights):
    other = {f"layer{i}.conv.weight": np.zeros((3, 3), np.float32) for i in range(300)}
    message = refusal(resolve, weights=write_weights(other))
    assert "is no CaiT with timm's tensor names" in message
    assert "240 more" in message


def test_names_that_would_break_a_terminal_are_shown_harmless(write_weights, weights):
    faulty = dict(weights) | {"evil\n\x1b[31m" + "x" * 5000: np.zeros(1, np.float32)}
    message = refusal(resolve, weights=write_weights(faulty, "bad\nname\x1b.safetensors"))
    assert "evil [31mxxx" in message


def zip_file(path, names):
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, "x")


def truncated(path):
    path.write_bytes(save({"cls_token": np.zeros((1, 1, 999), np.float32)})[:-10])


MISTAKES = {
    "model.pth": (
        lambda path: zip_file(path, ["model/data.pkl", "model/data/0"]),
        "PyTorch checkpoint is damaged",
    ),
    "renamed.safetensors": (
        lambda path: zip_file(path, ["archive/data.pkl"]),
        "save its state_dict with safetensors.torch",
    ),
    "old.pt": (
        lambda path: path.write_bytes(pickle.dumps({}, protocol=2)),
        "or of an unknown kind",
    ),
    "cut.ckpt": (
        lambda path: path.write_bytes(b"PK\x03\x04half"),
        "PyTorch checkpoint is damaged or cut short",
    ),
    "odd.bin": (lambda path: path.write_bytes(b"ustar" * 200), "neither a PyTorch checkpoint nor"),
    "model.keras": (
        lambda path: zip_file(path, ["config.json", "model.weights.h5"]),
        "keras.models.load_model",
    ),
    "broken.keras": (lambda path: path.write_bytes(b"PK\x03\x04half"), "keras.models.load_model"),
    "weights.h5": (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + b"\0" * 99), "a Keras file"),
    "model.onnx": (lambda path: path.write_bytes(b"\x08\x08\x12\x07pytorch" * 9), "an ONNX file; give"),
    "renamed onnx.safetensors": (
        lambda path: path.write_bytes(b"\x08\x08\x3a\xab\x02\x0a" * 9),
        "an ONNX file; give",
    ),
    "saved_model.pb": (lambda path: path.write_bytes(b"\x08\x01\x12\xf5\xdcw" * 9), "give the folder /"),
    "pictures.zip": (lambda path: zip_file(path, ["a.jpg"]), "not a whole safetensors file"),
    "model.safetensors.index.json": (lambda path: path.write_text('{"weight_map": {}}'), "a JSON text"),
    "page.safetensors": (lambda path: path.write_text("\n <!DOCTYPE html><html>"), "a web page"),
    "pointer.pth": (
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        "`git lfs pull`",
    ),
    "empty.safetensors": (lambda path: path.write_bytes(b""), "is empty"),
    "three.safetensors": (lambda path: path.write_bytes(b"abc"), "not a whole safetensors file"),
    "cut.safetensors": (truncated, "not a whole safetensors file"),
    "noise.safetensors": (
        lambda path: path.write_bytes(bytes(range(1, 256)) * 40),
        "not a whole safetensors file",
    ),
    "bomb.safetensors": (
        lambda path: path.write_bytes(struct.pack("<Q", 2**63 - 1) + b"{}"),
        "not a whole safetensors file",
    ),
    "large header.safetensors": (
        lambda path: path.write_bytes(struct.pack("<Q", 90_000_000) + b"{}"),
        "not a whole safetensors file",
    ),
    "bad json.safetensors": (lambda path: raw_file(path, b"{cls_token}"), "not a whole safetensors file"),
    "no tensors.safetensors": (lambda path: raw_file(path, {}), "no tensors"),
    "bad offsets.safetensors": (
        lambda path: raw_file(
            path, {"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}}, b"12345678"
        ),
        "not a whole safetensors file",
    ),
    "huge claim.safetensors": (
        lambda path: raw_file(
            path, {"a": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 8]}}, b"12345678"
        ),
        "not a whole safetensors file",
    ),
    "folder": (lambda path: path.mkdir(), "is a folder"),
    "pipe": (os.mkfifo, "is not a file"),
    "nowhere.safetensors": (lambda path: None, "there is no such file"),
    "link.safetensors": (lambda path: path.symlink_to("nowhere"), "there is no such file"),
    "loop.safetensors": (lambda path: path.symlink_to(path.name), ""),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_file_given_by_mistake_is_refused_by_its_kind(tmp_path, name):
    make, words = MISTAKES[name]
    path = tmp_path / name
    make(path)
    for message in (
        refusal(resolve, weights=path),
        refusal(resolve, "cait_xxs24_224", path),
    ):
        assert message.startswith(f"{name}: ")
        if "needs PyTorch" in message:  # which is not installed, so that nobody can tell more of the file
            assert importlib.util.find_spec("torch") is None
            continue
        assert words in message or name == "no tensors.safetensors"
        if words.startswith(("is ", "there is")):
            assert "not a whole safetensors file" not in message  # that is another file's advice


def test_pickle_is_never_opened(tmp_path):
    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "sprung"),))

    (tmp_path / "trap.safetensors").write_bytes(pickle.dumps(Trap()))
    assert "which can run code" in refusal(resolve, weights=tmp_path / "trap.safetensors")
    assert not (tmp_path / "sprung").exists()


def test_a_file_that_may_not_be_read_is_refused_so(tmp_path):
    path = tmp_path / "mine.pth"
    path.write_bytes(pickle.dumps({}, protocol=2))
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    assert "check its permissions" in refusal(resolve, weights=path)


def test_path_with_a_zero_byte_is_refused():
    refusal(resolve, weights=Path("a\0b.safetensors"))
