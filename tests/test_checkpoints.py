"""Checkpoints: which is used, its architecture, its tensors, and files given by mistake."""

import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import lively_weights, timm_shapes
from safetensors.numpy import save, save_file

from cait_viz._files import sha256
from cait_viz._resources import BUNDLED_WEIGHTS
from cait_viz.errors import CheckpointError, UnknownModelError
from cait_viz.model.config import CaiTConfig
from cait_viz.model.timm_names import timm_tensors
from cait_viz.weights.architecture import read_tensors
from cait_viz.weights.registry import BUNDLED, VARIANTS, get_variant, match_variant
from cait_viz.weights.resolve import available, locate, resolve

TINY = CaiTConfig(
    image_size=64, projection_dim=48, sa_ffn_layers=3, ca_ffn_layers=2, num_heads=4, num_classes=10
)


@pytest.fixture(scope="module")
def weights():
    return lively_weights(timm_shapes(TINY))


@pytest.fixture
def write(tmp_path):
    """Save tensors as a safetensors file and give its path."""

    def write(tensors, name="my model.safetensors"):
        save_file(dict(tensors), tmp_path / name)
        return tmp_path / name

    return write


def raw_file(path, header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def refusal(action, *arguments, **options):
    with pytest.raises(CheckpointError) as caught:
        action(*arguments, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert message.isprintable()
    assert len(message) < 6000
    return message


@pytest.mark.parametrize("name", VARIANTS)
def test_names_and_shapes_are_those_of_timm_and_count_to_the_published_number(name):
    variant = VARIANTS[name]
    shapes = {name: tensor.shape for name, tensor in timm_tensors(variant.config).items()}
    assert shapes == timm_shapes(variant.config)
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == variant.parameters


def test_without_a_head_there_are_no_head_tensors():
    config = replace(TINY, pre_logits=True)
    assert {name: tensor.shape for name, tensor in timm_tensors(config).items()} == timm_shapes(config)
    assert not any(name.startswith("head") for name in timm_tensors(config))


@settings(max_examples=25, deadline=None)
@given(
    grid=st.integers(1, 5),
    patch=st.integers(1, 9),
    heads=st.integers(1, 4),
    head_dim=st.integers(1, 6),
    depth=st.integers(1, 3),
    ca_depth=st.integers(1, 3),
    hidden=st.integers(1, 40),
    classes=st.integers(1, 12),
    pre_logits=st.booleans(),
)
def test_architecture_is_read_off_the_shapes(
    grid, patch, heads, head_dim, depth, ca_depth, hidden, classes, pre_logits
):
    config = CaiTConfig(
        image_size=grid * patch,
        patch_size=patch,
        projection_dim=heads * head_dim,
        num_heads=heads,
        sa_ffn_layers=depth,
        ca_ffn_layers=ca_depth,
        mlp_ratio=hidden / (heads * head_dim),
        num_classes=1000 if pre_logits else classes,
        pre_logits=pre_logits,
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.safetensors")
        save_file({name: np.zeros(shape, np.float16) for name, shape in timm_shapes(config).items()}, path)
        assert resolve(weights=path).config == config


def test_tensors_come_back_as_they_were_saved(write, weights):
    tensors = read_tensors(resolve(weights=write(weights)))
    assert list(tensors) == list(timm_tensors(TINY))
    for name, tensor in tensors.items():
        assert tensor.dtype == np.float32
        np.testing.assert_array_equal(tensor, weights[name])


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_float_types_become_float32(write, weights, dtype):
    cast = {name: tensor.astype(dtype) for name, tensor in weights.items()}
    tensors = read_tensors(resolve(weights=write(cast)))
    for name, tensor in tensors.items():
        assert tensor.dtype == np.float32
        np.testing.assert_array_equal(tensor, cast[name].astype(np.float32))


def test_bfloat16_is_read_without_torch(tmp_path, weights):
    header, data = {}, b""
    for name, tensor in weights.items():
        upper_half = (tensor.view(np.uint32) >> 16).astype(np.uint16).tobytes()
        header[name] = {
            "dtype": "BF16",
            "shape": list(tensor.shape),
            "data_offsets": [len(data), len(data) + len(upper_half)],
        }
        data += upper_half
    path = raw_file(tmp_path / "bf16.safetensors", header, data)
    code = (
        "import sys, numpy\n"
        "from cait_viz.weights.architecture import read_tensors\n"
        "from cait_viz.weights.resolve import resolve\n"
        "tensors = read_tensors(resolve(weights=sys.argv[1]))\n"
        "assert not {'torch', 'tensorflow', 'keras'} & set(sys.modules)\n"
        "numpy.savez(sys.argv[2], **tensors)"
    )
    arguments = [sys.executable, "-c", code, path, tmp_path / "read.npz"]
    subprocess.run(arguments, check=True, cwd=Path(__file__).parent.parent)
    with np.load(tmp_path / "read.npz") as tensors:
        for name, tensor in weights.items():
            truncated = (tensor.view(np.uint32) & 0xFFFF0000).view(np.float32)
            np.testing.assert_array_equal(tensors[name], truncated)


def test_every_fault_is_listed_in_one_error(write, weights):
    faulty = dict(weights)
    del faulty["cls_token"], faulty["blocks.1.attn.qkv.bias"]
    faulty["blocks.2.gamma_1"] = np.zeros(47, np.float32)
    faulty["pos_embed"] = np.zeros((1, 16, 49), np.float32)
    faulty["norm.weight"] = np.zeros(48, np.int32)
    faulty["optimizer.step"] = np.zeros(1, np.float32)
    faulty["blocks.1.attn.relative_bias"] = np.zeros(1, np.float32)
    path = write(faulty)
    message = refusal(resolve, weights=path)
    assert message.startswith("my model.safetensors: ")
    assert "missing: cls_token, blocks.1.attn.qkv.bias;" in message
    left_over = message.partition("left over: ")[2].partition(";")[0]
    assert sorted(left_over.split(", ")) == ["blocks.1.attn.relative_bias", "optimizer.step"]
    assert "pos_embed (1, 16, 49) instead of (1, 16, 48)" in message
    assert "blocks.2.gamma_1 (47) instead of (48)" in message
    assert "of a wrong type: norm.weight I32" in message


@pytest.mark.parametrize("name", [name for name in timm_shapes(TINY) if not name.startswith("head.")])
def test_any_missing_tensor_is_named_whatever_it_says_of_the_architecture(write, weights, name):
    path = write({other: tensor for other, tensor in weights.items() if other != name})
    assert name in refusal(resolve, weights=path).partition("missing: ")[2]


def test_block_left_out_in_the_middle_is_missing_and_does_not_shorten_the_network(write, weights):
    path = write({name: tensor for name, tensor in weights.items() if not name.startswith("blocks.1.")})
    message = refusal(resolve, weights=path)
    assert "blocks.1.attn.qkv.weight" in message
    assert "left over" not in message


def test_many_faults_are_listed_by_ranges_of_blocks(write, weights):
    message = refusal(resolve, "cait_xxs24_224", write(weights))
    assert "blocks.3-23.attn.qkv.weight" in message
    assert len(message) < 3000


def test_position_embedding_of_another_resolution_is_refused(write):
    message = refusal(resolve, "cait_xxs24_384", write(published(7)))
    assert "pos_embed (1, 196, 192) instead of (1, 576, 192)" in message


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_by_name(write, weights, value):
    faulty = dict(weights)
    faulty["blocks.2.attn.proj_w.weight"] = np.full((4, 4), value, np.float32)
    message = refusal(lambda: read_tensors(resolve(weights=write(faulty))))
    assert "not finite in blocks.2.attn.proj_w.weight" in message


def test_float64_beyond_float32_is_not_finite_and_warns_nobody(write, weights, recwarn):
    faulty = dict(weights)
    faulty["norm.bias"] = np.full(48, 1e300)
    assert "not finite in norm.bias" in refusal(lambda: read_tensors(resolve(weights=write(faulty))))
    assert len(recwarn) == 0


def test_positions_that_make_no_square_are_refused_with_their_number(write, weights):
    faulty = dict(weights)
    faulty["pos_embed"] = np.zeros((1, 17, 48), np.float32)
    assert "holds 17 positions" in refusal(resolve, weights=write(faulty))


def test_heads_that_do_not_divide_the_width_are_refused(write, weights):
    faulty = dict(weights)
    for name in weights:
        if "proj_l" in name or "proj_w" in name:
            faulty[name] = np.zeros((5, 5) if name.endswith("weight") else (5,), np.float32)
    assert "5" in refusal(resolve, weights=write(faulty))


def test_block_numbers_out_of_all_proportion_cost_nothing(write, weights):
    faulty = dict(weights)
    faulty["blocks.999999999.gamma_1"] = np.zeros(48, np.float32)
    faulty["blocks." + "9" * 500 + ".gamma_1"] = np.zeros(48, np.float32)
    assert "blocks.999999999.gamma_1" in refusal(resolve, weights=write(faulty))


WRAPPERS = st.lists(st.sampled_from(["module.", "_orig_mod.", "model.", "backbone."]), max_size=4).map(
    "".join
)
AVERAGES = st.sampled_from(["ema.", "model_ema.", "ema_model.", "state_dict_ema."])


def saved_and_resolved(tensors):
    """The checkpoint of these tensors, and what is read of it."""
    with tempfile.TemporaryDirectory() as folder:
        save_file(tensors, Path(folder, "x.safetensors"))
        checkpoint = resolve(weights=Path(folder, "x.safetensors"))
        return checkpoint, read_tensors(checkpoint)


@settings(max_examples=20, deadline=None)
@given(prefix=WRAPPERS)
def test_names_that_share_a_wrappers_prefix_load_as_if_they_had_none(weights, prefix):
    checkpoint, tensors = saved_and_resolved({prefix + name: tensor for name, tensor in weights.items()})
    assert (checkpoint.config, checkpoint.remark) == (TINY, "")
    assert list(tensors) == list(timm_tensors(TINY))
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(tensor, weights[name])


@settings(max_examples=20, deadline=None)
@given(wrapper=WRAPPERS, average=AVERAGES, inside=WRAPPERS)
def test_of_a_model_and_its_ema_the_ema_is_read_and_the_remark_says_so(weights, wrapper, average, inside):
    last_step = {wrapper + name: tensor + 1 for name, tensor in weights.items()}
    ema = {average + inside + name: tensor for name, tensor in weights.items()}
    checkpoint, tensors = saved_and_resolved(last_step | ema)
    assert checkpoint.remark == "The file holds a model and its EMA; the EMA is used."
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(tensor, weights[name])


def test_an_ema_alone_loads_without_a_remark(weights):
    checkpoint, _ = saved_and_resolved({f"model_ema.{name}": tensor for name, tensor in weights.items()})
    assert (checkpoint.config, checkpoint.remark) == (TINY, "")


def test_two_models_that_are_no_ema_of_each_other_are_refused(write, weights):
    pair = {f"{part}.{name}": tensor for part in ("model", "backbone") for name, tensor in weights.items()}
    assert "is no CaiT with timm's tensor names" in refusal(resolve, weights=write(pair))
    half = {f"ema.{name}": tensor for name, tensor in weights.items() if "attn" in name}
    assert "left over: ema." in refusal(resolve, weights=write(dict(weights) | half))


def test_a_prefix_that_is_not_known_is_named_with_what_to_do(write, weights):
    wrapped = {f"student.{name}": tensor for name, tensor in weights.items()}
    assert "save it with names that lack 'student.'" in refusal(resolve, weights=write(wrapped))


def test_a_checkpoint_without_gammas_is_a_network_without_layer_scale(write, weights):
    plain = {name: tensor for name, tensor in weights.items() if "gamma" not in name}
    checkpoint = resolve(weights=write(plain))
    assert checkpoint.config == replace(TINY, init_values=None)
    assert set(read_tensors(checkpoint)) == set(plain)
    published_plain = {name: tensor for name, tensor in published(1000).items() if "gamma" not in name}
    assert resolve(weights=write(published_plain)).variant is None
    missing = refusal(resolve, "cait_xxs24_224", write(published_plain)).partition("missing: ")[2]
    assert "blocks.0-23.gamma_1" in missing


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel how often a file is opened")
def test_loading_opens_a_checkpoint_once_for_its_header_its_hash_and_its_tensors(tiny_weights, run_python):
    script = """
import ctypes, os, struct, sys, threading
libc = ctypes.CDLL(None, use_errno=True)
watch = libc.inotify_init1(os.O_NONBLOCK)
opened, closed = 0x20, 0x18
assert libc.inotify_add_watch(watch, os.fsencode(sys.argv[1]), opened | closed) >= 0
from cait_viz.api import load_model
model = load_model(weights=sys.argv[1])
assert model.source.sha256 == model.source.sha256
events = os.read(watch, 1_000_000)
print([mask & opened != 0 for _, mask, _, _ in struct.iter_unpack("iIII", events)].count(True))
"""
    assert run_python(script, tiny_weights)[0] == "3\n"


def test_a_checkpoint_of_another_network_is_refused_with_its_tensors(write):
    other = {f"layer{i}.conv.weight": np.zeros((3, 3), np.float32) for i in range(300)}
    message = refusal(resolve, weights=write(other))
    assert "is no CaiT with timm's tensor names" in message
    assert "240 more" in message


def test_names_that_would_break_a_terminal_are_shown_harmless(write, weights):
    faulty = dict(weights) | {"evil\n\x1b[31m" + "x" * 5000: np.zeros(1, np.float32)}
    message = refusal(resolve, weights=write(faulty, "bad\nname\x1b.safetensors"))
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
        "PyTorch pickle, which can run code",
    ),
    "renamed.safetensors": (
        lambda path: zip_file(path, ["archive/data.pkl"]),
        "save its state_dict with safetensors.torch",
    ),
    "old.pt": (
        lambda path: path.write_bytes(pickle.dumps({}, protocol=2)),
        "PyTorch pickle, which can run code",
    ),
    "odd.bin": (lambda path: path.write_bytes(b"ustar" * 200), "a PyTorch pickle"),
    "model.keras": (
        lambda path: zip_file(path, ["config.json", "model.weights.h5"]),
        "keras.models.load_model",
    ),
    "broken.keras": (lambda path: path.write_bytes(b"PK\x03\x04half"), "keras.models.load_model"),
    "weights.h5": (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + b"\0" * 99), "a Keras file"),
    "model.onnx": (lambda path: path.write_bytes(b"\x08\x08\x12\x07pytorch" * 9), "not a whole safetensors"),
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


def test_path_with_a_zero_byte_is_refused():
    refusal(resolve, weights=Path("a\0b.safetensors"))


def test_content_counts_and_not_the_name(write, weights):
    assert resolve(weights=write(weights, "model.pth")).config == TINY


def test_nothing_given_is_the_bundled_model():
    checkpoint = resolve()
    assert (checkpoint.name, checkpoint.variant, checkpoint.as_published) == ("bundled", BUNDLED, True)
    assert checkpoint.path == BUNDLED_WEIGHTS == locate(BUNDLED).path
    assert checkpoint.config == BUNDLED.config
    assert len(checkpoint.sha256) == 64
    assert checkpoint.saliency_block == BUNDLED.saliency_block
    assert set(read_tensors(checkpoint)) == set(timm_tensors(BUNDLED.config))


@pytest.mark.parametrize("size", [160, 224])
def test_what_was_trained_from_the_bundled_model_has_its_saliency_at_any_resolution(write, size):
    config = replace(BUNDLED.config, image_size=size, num_classes=3)
    tensors = {name: np.zeros(shape, np.float16) for name, shape in timm_shapes(config).items()}
    assert resolve(weights=write(tensors)).saliency_block == BUNDLED.saliency_block


def test_bundled_weights_given_as_a_file_are_still_bundled(tmp_path):
    copy = shutil.copy(BUNDLED_WEIGHTS, tmp_path / "copy.safetensors")
    checkpoint = resolve(weights=copy)
    assert (checkpoint.name, checkpoint.path, checkpoint.as_published) == ("bundled", copy, True)


def test_own_weights_of_the_bundled_architecture_do_not_claim_its_accuracy(write):
    tensors = {name: np.zeros(shape, np.float16) for name, shape in timm_shapes(BUNDLED.config).items()}
    checkpoint = resolve(weights=write(tensors, "mine.safetensors"))
    assert (checkpoint.name, checkpoint.variant, checkpoint.as_published) == ("mine", None, False)


def published(classes):
    config = replace(get_variant("cait_xxs24_224").config, num_classes=classes)
    return {name: np.zeros(shape, np.float16) for name, shape in timm_shapes(config).items()}


def test_weights_of_a_published_architecture_have_its_name(write):
    checkpoint = resolve(weights=write(published(1000)))
    assert (checkpoint.name, checkpoint.as_published) == ("cait_xxs24_224", False)
    assert checkpoint.config == get_variant("cait_xxs24_224").config


def test_weights_with_a_head_of_their_own_are_named_after_their_file(write):
    checkpoint = resolve(weights=str(write(published(7), "seven flowers.safetensors")))
    assert (checkpoint.name, checkpoint.config.num_classes) == ("seven flowers", 7)
    assert checkpoint.variant == get_variant("cait_xxs24_224")


def test_number_of_classes_follows_the_head_of_weights_given_for_a_model(write):
    checkpoint = resolve("cait_xxs24_224", write(published(7)))
    assert (checkpoint.name, checkpoint.config.num_classes) == ("cait_xxs24_224", 7)
    headless = {name: tensor for name, tensor in published(7).items() if not name.startswith("head")}
    assert resolve("cait_xxs24_224", write(headless)).config.pre_logits


def test_weights_that_do_not_fit_the_model_are_refused_with_both_names(write, weights):
    message = refusal(resolve, "cait_xxs24_224", write(weights))
    assert "my model.safetensors: does not fit cait_xxs24_224" in message
    assert "cls_token (1, 1, 48) instead of (1, 1, 192)" in message


def test_unknown_model_is_refused_before_anything_is_read():
    with pytest.raises(UnknownModelError, match="cait_xxl"):
        resolve("cait_xxl", "nowhere.safetensors")


def test_a_model_that_is_not_here_is_refused_with_the_command_that_fetches_it(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    message = refusal(resolve, "cait_xs24_384", download=False)
    assert message.endswith("download it with `cait-viz fetch cait_xs24_384`")


def test_missing_bundled_weights_are_an_error_that_names_them(monkeypatch):
    exists = Path.exists
    monkeypatch.setattr(Path, "exists", lambda path: path != BUNDLED_WEIGHTS and exists(path))
    assert locate(BUNDLED) is None
    assert "bundled" not in available()
    assert "its weights are missing" in refusal(resolve)
    assert "its weights are missing" in refusal(resolve, "bundled", download=False)


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "bundled"])
def test_variant_is_recognised_whatever_its_head(name):
    config = VARIANTS[name].config
    assert match_variant(replace(config, num_classes=3, init_values=0.5)) is VARIANTS[name]
    assert match_variant(replace(config, ca_ffn_layers=3)) is None


def test_sha256_follows_a_file_that_changes(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"one")
    first = sha256(path)
    path.write_bytes(b"three")
    assert sha256(path) != first
