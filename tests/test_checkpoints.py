"""Checkpoints: which is used, its architecture and its tensors."""

import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import timm_shapes
from safetensors.numpy import save_file
from weight_files import TINY, published, raw_file, refusal

from cait_viz._files import sha256
from cait_viz._resources import BUNDLED_WEIGHTS
from cait_viz.errors import UnknownModelError
from cait_viz.model.config import CaiTConfig
from cait_viz.model.timm_names import timm_tensors
from cait_viz.weights.architecture import read_tensors
from cait_viz.weights.registry import BUNDLED, VARIANTS, get_variant, match_variant
from cait_viz.weights.resolve import available, locate, resolve


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


@settings(max_examples=25)
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


def test_tensors_come_back_as_they_were_saved(write_weights, weights):
    tensors = read_tensors(resolve(weights=write_weights(weights)))
    assert list(tensors) == list(timm_tensors(TINY))
    for name, tensor in tensors.items():
        assert tensor.dtype == np.float32
        np.testing.assert_array_equal(tensor, weights[name])


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_float_types_become_float32(write_weights, weights, dtype):
    cast = {name: tensor.astype(dtype) for name, tensor in weights.items()}
    tensors = read_tensors(resolve(weights=write_weights(cast)))
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


WRAPPERS = st.lists(
    st.sampled_from(["module.", "_orig_mod.", "model.", "backbone.", "online_model.", "my net."]), max_size=4
).map("".join)
AVERAGES = st.sampled_from(
    [
        "ema.",
        "model_ema.",
        "model_EMA.",
        "ema_model.",
        "state_dict_ema.",
        "averaged_model.",
        "moving average.",
    ]
)
COUNTERS = st.sets(st.sampled_from(["n_averaged", "step", "ema.num_updates", "ema.decay", "epoch.last"]))


def saved_and_resolved(tensors):
    """The checkpoint of these tensors, and what is read of it."""
    with tempfile.TemporaryDirectory() as folder:
        save_file(tensors, Path(folder, "x.safetensors"))
        checkpoint = resolve(weights=Path(folder, "x.safetensors"))
        return checkpoint, read_tensors(checkpoint)


@settings(max_examples=20)
@given(prefix=WRAPPERS, counters=COUNTERS)
def test_names_that_share_a_wrappers_prefix_load_as_if_they_had_none(weights, prefix, counters):
    saved = {prefix + name: tensor for name, tensor in weights.items()}
    if prefix:
        saved |= dict.fromkeys(counters, np.array(7))
    checkpoint, tensors = saved_and_resolved(saved)
    assert (checkpoint.config, checkpoint.remark) == (TINY, "")
    assert list(tensors) == list(timm_tensors(TINY))
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(tensor, weights[name])


@settings(max_examples=20)
@given(
    wrapper=WRAPPERS,
    average=AVERAGES,
    inside=WRAPPERS,
    counters=COUNTERS,
    optimizer=st.integers(0, 2),
)
def test_of_a_model_and_its_ema_the_ema_is_read_and_the_remark_says_so(
    weights, wrapper, average, inside, counters, optimizer
):
    last_step = {wrapper + name: tensor + 1 for name, tensor in weights.items()}
    ema = {average + inside + name: tensor for name, tensor in weights.items()}
    state = dict.fromkeys(counters, np.array(7))
    state |= {f"optimizer.state.{number}.exp_avg": np.zeros((3, 3)) for number in range(optimizer)}
    if optimizer > 1:
        state |= {f"optimizer.exp_avg.{name}": tensor for name, tensor in weights.items()}
    checkpoint, tensors = saved_and_resolved(last_step | ema | state)
    assert checkpoint.remark == "The file holds a model and its EMA; the EMA is used."
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(tensor, weights[name])


def test_an_ema_alone_loads_without_a_remark(weights):
    checkpoint, _ = saved_and_resolved({f"model_ema.{name}": tensor for name, tensor in weights.items()})
    assert (checkpoint.config, checkpoint.remark) == (TINY, "")


def test_two_models_that_are_no_ema_of_each_other_are_refused(write_weights, weights):
    pair = {f"{part}.{name}": tensor for part in ("model", "backbone") for name, tensor in weights.items()}
    assert "is no CaiT with timm's tensor names" in refusal(resolve, weights=write_weights(pair))
    half = {f"ema.{name}": tensor for name, tensor in weights.items() if "attn" in name}
    assert "left over: ema." in refusal(resolve, weights=write_weights(dict(weights) | half))


@pytest.mark.parametrize("more", ["head_dist.weight", "aux.norm.weight", "blocks.0.attn.relative_bias"])
def test_an_ema_that_is_more_than_a_cait_is_refused(write_weights, weights, more):
    network = weights | {more: np.zeros((3, 3), np.float32)}
    pair = {f"{part}.{name}": tensor for part in ("model", "ema") for name, tensor in network.items()}
    assert more in refusal(resolve, weights=write_weights(pair))


def test_a_cait_within_another_network_is_named_with_what_to_do(write_weights, weights):
    wrapped = {f"student.{name}": tensor for name, tensor in weights.items()}
    wrapped["decoder.weight"] = np.zeros((3, 3), np.float32)
    assert "save it with names that lack 'student.'" in refusal(resolve, weights=write_weights(wrapped))


def test_a_checkpoint_without_gammas_is_a_network_without_layer_scale(write_weights, weights):
    plain = {name: tensor for name, tensor in weights.items() if "gamma" not in name}
    checkpoint = resolve(weights=write_weights(plain))
    assert checkpoint.config == replace(TINY, init_values=None)
    assert set(read_tensors(checkpoint)) == set(plain)
    published_plain = {name: tensor for name, tensor in published(1000).items() if "gamma" not in name}
    assert resolve(weights=write_weights(published_plain)).variant is None
    missing = refusal(resolve, "cait_xxs24_224", write_weights(published_plain)).partition("missing: ")[2]
    assert "blocks.0-23.gamma_1" in missing


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel how often a file is opened")
def test_loading_opens_a_checkpoint_once_for_its_kind_its_header_its_hash_and_its_tensors(
    tiny_weights, run_python
):
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
    assert run_python(script, tiny_weights)[0] == "4\n"


def test_content_counts_and_not_the_name(write_weights, weights):
    assert resolve(weights=write_weights(weights, "model.pth")).config == TINY


def test_nothing_given_is_the_bundled_model():
    checkpoint = resolve()
    assert (checkpoint.name, checkpoint.variant, checkpoint.as_published) == ("bundled", BUNDLED, True)
    assert checkpoint.path == BUNDLED_WEIGHTS == locate(BUNDLED).path
    assert checkpoint.config == BUNDLED.config
    assert len(checkpoint.sha256) == 64
    assert checkpoint.saliency_block == BUNDLED.saliency_block
    assert set(read_tensors(checkpoint)) == set(timm_tensors(BUNDLED.config))


@pytest.mark.parametrize("size", [160, 224])
def test_what_was_trained_from_the_bundled_model_has_its_saliency_at_any_resolution(write_weights, size):
    config = replace(BUNDLED.config, image_size=size, num_classes=3)
    tensors = {name: np.zeros(shape, np.float16) for name, shape in timm_shapes(config).items()}
    assert resolve(weights=write_weights(tensors)).saliency_block == BUNDLED.saliency_block


def test_bundled_weights_given_as_a_file_are_still_bundled(tmp_path):
    copy = shutil.copy(BUNDLED_WEIGHTS, tmp_path / "copy.safetensors")
    checkpoint = resolve(weights=copy)
    assert (checkpoint.name, checkpoint.path, checkpoint.as_published) == ("bundled", copy, True)


def test_own_weights_of_the_bundled_architecture_do_not_claim_its_accuracy(write_weights):
    tensors = {name: np.zeros(shape, np.float16) for name, shape in timm_shapes(BUNDLED.config).items()}
    checkpoint = resolve(weights=write_weights(tensors, "mine.safetensors"))
    assert (checkpoint.name, checkpoint.variant, checkpoint.as_published) == ("mine", None, False)


def test_weights_of_a_published_architecture_have_its_name(write_weights):
    checkpoint = resolve(weights=write_weights(published(1000)))
    assert (checkpoint.name, checkpoint.as_published) == ("cait_xxs24_224", False)
    assert checkpoint.config == get_variant("cait_xxs24_224").config


def test_weights_with_a_head_of_their_own_are_named_after_their_file(write_weights):
    checkpoint = resolve(weights=str(write_weights(published(7), "seven flowers.safetensors")))
    assert (checkpoint.name, checkpoint.config.num_classes) == ("seven flowers", 7)
    assert checkpoint.variant == get_variant("cait_xxs24_224")


def test_number_of_classes_follows_the_head_of_weights_given_for_a_model(write_weights):
    checkpoint = resolve("cait_xxs24_224", write_weights(published(7)))
    assert (checkpoint.name, checkpoint.config.num_classes) == ("cait_xxs24_224", 7)
    headless = {name: tensor for name, tensor in published(7).items() if not name.startswith("head")}
    assert resolve("cait_xxs24_224", write_weights(headless)).config.pre_logits


def test_weights_that_do_not_fit_the_model_are_refused_with_both_names(write_weights, weights):
    message = refusal(resolve, "cait_xxs24_224", write_weights(weights))
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
