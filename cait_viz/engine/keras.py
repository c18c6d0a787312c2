"""The forward pass on Keras: only the attention that was asked for leaves the graph.

A call of the model itself returns all self-attention, 1.9 GB for one image and cait_m48_448.
Inside a compiled function an attention that nobody asked for is freed as soon as its block is done.
"""

import weakref
from collections.abc import Callable, Sequence
from operator import index
from typing import Any, SupportsIndex

import keras
import numpy as np

from cait_viz.errors import SelectionError
from cait_viz.model.cait import CaiT

Attention = dict[str, np.ndarray]

# XLA runs one image of 196 patches through 24 blocks in two thirds of the graph's time and costs a
# second more at the first call. It is slower at batches of 8 and no faster where large matrix products
# dominate, and a shallower network would not earn that second back (benchmarks/forward.py).
_XLA_UP_TO_PATCHES = 256
_XLA_FROM_BLOCKS = 24

_Compiled = Callable[[Any], tuple[Any, dict[str, Any], dict[str, Any]]]
_compiled: "weakref.WeakKeyDictionary[CaiT, dict[tuple[tuple[int, ...], bool], _Compiled]]"
_compiled = weakref.WeakKeyDictionary()


def forward(
    model: CaiT, images: np.ndarray, sa_blocks: Sequence[SupportsIndex] = ()
) -> tuple[np.ndarray, Attention, Attention]:
    """Run the network on preprocessed images.

    Every new batch size is compiled once, in one to three seconds. On other backends than TensorFlow all
    self-attention is computed at once and needs the memory.

    Args:
        model: the network.
        images: (B, S, S, 3) float32, as `cait_viz.preprocess` makes them.
        sa_blocks: indices of the self-attention blocks whose attention to return.

    Returns:
        Logits (B, classes) float32; the self-attention asked for, "sa_ffn_block_{k}_att" ->
        (B, H, N, N); the class attention of every block, "ca_ffn_block_{i}_att" -> (B, H, 1, 1 + N).

    Raises:
        SelectionError: there is no such self-attention block.
        ValueError: `images` has the wrong shape.
    """
    wanted = tuple(sorted({_checked(block, model.config.sa_ffn_layers) for block in sa_blocks}))
    model.check(images)
    images = np.asarray(images, np.float32)
    if keras.backend.backend() != "tensorflow":
        logits, sa_attention, ca_attention = model.predict_on_batch(images)
        return logits, {name: sa_attention[name] for name in _keys(wanted)}, ca_attention
    # Self-attention is asked for once in a while; compiling that with XLA would not pay either.
    use_xla = not wanted and len(images) == 1 and _pays_for_xla(model)
    functions = _compiled.setdefault(model, {})
    if (wanted, use_xla) not in functions:
        functions[wanted, use_xla] = _compile(model, wanted, use_xla)
    outputs = functions[wanted, use_xla](images)
    logits, sa_attention, ca_attention = keras.tree.map_structure(lambda tensor: tensor.numpy(), outputs)
    return logits, sa_attention, ca_attention


def _keys(sa_blocks: tuple[int, ...]) -> list[str]:
    return [f"sa_ffn_block_{block}_att" for block in sa_blocks]


def _checked(block: SupportsIndex, count: int) -> int:
    if isinstance(block, SupportsIndex) and not isinstance(block, bool) and 0 <= index(block) < count:
        return index(block)
    raise SelectionError(
        f"there is no self-attention block {block}; this model has blocks 0 to {count - 1}, counted from 0"
    )


def _pays_for_xla(model: CaiT) -> bool:
    config = model.config
    return config.num_patches <= _XLA_UP_TO_PATCHES and config.sa_ffn_layers >= _XLA_FROM_BLOCKS


def _compile(model: CaiT, sa_blocks: tuple[int, ...], use_xla: bool) -> _Compiled:
    import tensorflow as tf

    # A strong reference from the compiled function would keep the model alive in `_compiled` for ever.
    reference = weakref.ref(model)

    def run(images: Any) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        model = reference()
        assert model is not None
        logits, sa_attention, ca_attention = model(images, training=False)
        outputs = (logits, {name: sa_attention[name] for name in _keys(sa_blocks)}, ca_attention)
        return keras.tree.map_structure(lambda tensor: tf.cast(tensor, tf.float32), outputs)

    compiled = tf.function(run, jit_compile=use_xla, autograph=False)
    return lambda images: compiled(tf.convert_to_tensor(images, tf.float32))
