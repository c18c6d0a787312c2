"""The forward pass on Keras: what it returns, refuses and keeps."""

import gc
import json
import weakref
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from cait_viz.engine.keras import engine_of
from cait_viz.errors import SelectionError
from cait_viz.model.cait import CaiT
from cait_viz.model.config import CaiTConfig

CLASS_KEYS = ["ca_ffn_block_0_att", "ca_ffn_block_1_att"]


def forward(model, images, sa_blocks=()):
    return engine_of(model).forward(images, sa_blocks)


def noise(batch):
    return np.random.default_rng(0).standard_normal((batch, 64, 64, 3)).astype(np.float32)


class Counted(CaiT):
    """A network that notes the batch size of each pass through its layers in Python: a compilation."""

    def encode(self, images, *arguments, **named):
        self.__dict__.setdefault("batches", []).append(images.shape[0])
        return super().encode(images, *arguments, **named)


@pytest.mark.parametrize("wanted", [(), (1,), (2, 0), (1, 1)])
def test_only_the_attention_that_was_asked_for_is_returned(tiny_model, wanted):
    images = noise(2)
    logits, sa_attention, ca_attention = forward(tiny_model, images, wanted)
    expected_logits, expected_sa, expected_ca = tiny_model(images)
    np.testing.assert_allclose(logits, expected_logits, atol=1e-5)
    assert list(sa_attention) == [f"sa_ffn_block_{block}_att" for block in sorted(set(wanted))]
    assert list(ca_attention) == CLASS_KEYS
    for found, expected in ((sa_attention, expected_sa), (ca_attention, expected_ca)):
        for key, attention in found.items():
            np.testing.assert_allclose(attention, expected[key], atol=1e-5)


def test_results_are_plain_float32_arrays(tiny_model):
    results = tf.nest.flatten(forward(tiny_model, noise(1).astype(np.float64), (0,)))
    assert {type(array) for array in results} == {np.ndarray}
    assert {array.dtype for array in results} == {np.dtype(np.float32)}


def test_a_batch_gives_what_its_images_give_alone(tiny_model):
    images = noise(3)
    whole = forward(tiny_model, images, (1,))
    for index in range(3):
        single = forward(tiny_model, images[index : index + 1], (1,))
        for many, one in zip(tf.nest.flatten(whole), tf.nest.flatten(single), strict=True):
            np.testing.assert_allclose(many[index], one[0], atol=1e-5)


@pytest.mark.parametrize("block", [3, -1, 1.0, True, "0", None])
def test_a_self_attention_block_that_is_not_there_is_refused_with_those_that_are(tiny_model, block):
    with pytest.raises(SelectionError) as caught:
        forward(tiny_model, noise(1), [block])
    assert f"no SA block {block!r}; this model has 3, numbered from 0 to 2" in str(caught.value)


@pytest.mark.parametrize("shape", [(64, 64, 3), (1, 32, 32, 3), (1, 64, 64, 1), (1, 3, 64, 64), ()])
def test_images_of_another_shape_are_refused_with_both_shapes(tiny_model, shape):
    with pytest.raises(ValueError, match="64, 64, 3") as caught:
        forward(tiny_model, np.zeros(shape, np.float32))
    assert str(shape) in str(caught.value)


def test_a_batch_size_is_compiled_once(tiny_config):
    model = Counted(tiny_config)
    for _ in range(3):
        forward(model, noise(2))
    forward(model, noise(1))
    forward(model, noise(1))
    assert model.batches == [2, 1]


def test_weights_that_change_are_seen_by_the_compiled_pass(tiny_config):
    model = CaiT(tiny_config)
    before, _, _ = forward(model, noise(1))
    model.head.bias.assign_add(np.full(10, 2, np.float32))
    after, _, _ = forward(model, noise(1))
    np.testing.assert_allclose(after, before + 2, atol=1e-5)


def test_nothing_is_dropped_in_inference():
    model = CaiT(CaiTConfig(image_size=64, sa_ffn_layers=1, dropout_rate=0.5, sd_prob=0.5, init_values=0.1))
    np.testing.assert_array_equal(forward(model, noise(1))[0], forward(model, noise(1))[0])


def test_a_model_that_is_no_longer_used_is_freed(tiny_config):
    model = CaiT(tiny_config)
    forward(model, noise(1), (0,))
    forward(model, noise(1))
    gone = weakref.ref(model)
    kept = weakref.ref(model.blocks[0].attn.qkv)
    del model
    gc.collect()
    assert gone() is None
    assert kept() is None


def test_a_deep_network_on_one_small_image_which_xla_compiles_gives_the_same_numbers():
    config = CaiTConfig(
        image_size=16, patch_size=8, projection_dim=8, num_heads=2, num_classes=3, init_values=0.1
    )
    model, images = CaiT(config), noise(1)[:, :16, :16]
    by_xla, one_by_one = forward(model, images), model(images)
    np.testing.assert_allclose(by_xla[0], one_by_one[0], atol=1e-5)
    for key, attention in by_xla[2].items():
        np.testing.assert_allclose(attention, one_by_one[2][key], atol=1e-5)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak memory as Linux tells it")
def test_self_attention_that_nobody_asked_for_is_not_held(run_python):
    # 784 patches, 16 heads, 26 blocks: 1,023 MB of self-attention for one picture, 39 MB a block.
    # The peak is not taken from getrusage, which begins with that of the process that started this one.
    script = """
import json, re
from pathlib import Path
import numpy as np
from cait_viz.engine.keras import engine_of
from cait_viz.model.cait import CaiT
from cait_viz.model.config import CaiTConfig

def peak():
    return int(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024 / 1e6

model = CaiT(CaiTConfig(image_size=56, patch_size=2, projection_dim=16, num_heads=16, sa_ffn_layers=26))
images = np.zeros((1, 56, 56, 3), np.float32)
peaks = [peak()]
engine_of(model).forward(images)
peaks.append(peak())
print(json.dumps(peaks))
"""
    before, after = json.loads(run_python(script)[0])
    assert after - before < 500
