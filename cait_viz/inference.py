"""The compiled forward pass: only the attention that was asked for leaves the graph.

A call of the model itself returns all self-attention, 1.9 GB for one picture and cait_m48_448.
Inside a compiled function an attention that nobody asked for is freed as soon as its block is done.
"""

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from cait_viz.errors import SelectionError
from cait_viz.model import CaiT

Attention = dict[str, np.ndarray]

# XLA saves a third of the time of a forward pass at 196 patches and costs a second more at the first
# call; from 576 patches on, where the matrix products dominate, it saves nothing
# (benchmarks/forward.py).
_XLA_UP_TO_PATCHES = 256

_Compiled = Callable[[Any], tuple[Any, dict[str, Any], dict[str, Any]]]
_compiled: "weakref.WeakKeyDictionary[CaiT, dict[tuple[int, ...], _Compiled]]" = weakref.WeakKeyDictionary()


def forward(
    model: CaiT, images: np.ndarray, sa_blocks: Sequence[int] = ()
) -> tuple[np.ndarray, Attention, Attention]:
    """Run the network on prepared pictures.

    Every new batch size is compiled once (about two seconds for the bundled model).

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
    wanted = tuple(sorted(set(sa_blocks)))
    depth = model.config.sa_ffn_layers
    for block in wanted:
        if isinstance(block, bool) or not isinstance(block, int) or not 0 <= block < depth:
            raise SelectionError(
                f"there is no self-attention block {block}; this model has blocks 0 to {depth - 1}"
            )
    functions = _compiled.setdefault(model, {})
    if wanted not in functions:
        functions[wanted] = _compile(model, wanted)
    outputs = functions[wanted](tf.convert_to_tensor(images, tf.float32))
    logits, sa_attention, ca_attention = tf.nest.map_structure(lambda tensor: tensor.numpy(), outputs)
    return logits, sa_attention, ca_attention


def _compile(model: CaiT, sa_blocks: tuple[int, ...]) -> _Compiled:
    # A strong reference from the compiled function would keep the model alive in `_compiled` for ever.
    reference = weakref.ref(model)
    names = [f"sa_ffn_block_{block}_att" for block in sa_blocks]

    def run(images: Any) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        model = reference()
        assert model is not None
        logits, sa_attention, ca_attention = model(images, training=False)
        outputs = (logits, {name: sa_attention[name] for name in names}, ca_attention)
        return tf.nest.map_structure(lambda tensor: tf.cast(tensor, tf.float32), outputs)

    # Self-attention is asked for once in a while; compiling it with XLA would not pay.
    use_xla = not sa_blocks and model.config.num_patches <= _XLA_UP_TO_PATCHES
    return tf.function(run, jit_compile=use_xla, autograph=False)
