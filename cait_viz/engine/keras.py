"""The engine that runs the network in Keras: for training frameworks, GPUs and as the reference.

A call of the model itself returns all self-attention, 1.9 GB for one image and cait_m48_448.
Inside a compiled function an attention that nobody asked for is freed as soon as its block is done.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from cait_viz.engine.base import Engine, sa_keys
from cait_viz.model.cait import CaiT
from cait_viz.model.config import WeightsSource
from cait_viz.model.layers import zero_weights
from cait_viz.model.timm_names import assign
from cait_viz.weights.architecture import Checkpoint, read_tensors
from cait_viz.weights.labels import class_names

# XLA runs one image of 196 patches through 24 blocks in two thirds of the graph's time and costs a
# second more at the first call. It is slower at batches of 8 and no faster where large matrix products
# dominate, and a shallower network would not earn that second back (benchmarks/forward.py).
_XLA_UP_TO_PATCHES = 256
_XLA_FROM_BLOCKS = 24

_Answer = dict[str, Any]


def load_network(checkpoint: Checkpoint, labels: str | Path | None = None, dtype: Any = "float32") -> CaiT:
    """The Keras network that a checkpoint describes, with its weights.

    Args:
        checkpoint: what `cait_viz.weights.resolve.resolve` found.
        labels: a file with the names of the classes.
        dtype: Keras' dtype policy; float32 whatever the user's Keras settings say.

    Raises:
        CheckpointError: the weights or the labels cannot be used; the message lists every mismatch.
    """
    tensors = read_tensors(checkpoint)
    names = class_names(checkpoint.config.num_classes, labels)
    with zero_weights():
        model = CaiT(checkpoint.config, dtype=dtype)
    assign(model, tensors)
    model.source = checkpoint.source
    model.labels = names
    return model


def engine_of(model: CaiT) -> "KerasEngine":
    """The engine of a network, made once, so that nothing is compiled twice."""
    if model.engine is None:
        model.engine = KerasEngine(model)
    engine: KerasEngine = model.engine
    return engine


class KerasEngine(Engine):
    """Runs a network of Keras' on the backend that Keras has.

    Every new batch size is compiled once by TensorFlow, in one to three seconds. On other backends all
    self-attention is computed at once and needs the memory.

    Args:
        model: the network.
    """

    def __init__(self, model: CaiT) -> None:
        self.model = model
        self.config, self.labels = model.config, model.labels
        self.source = model.source or WeightsSource(name=model.name, file="", sha256="", saliency_block=0)
        self.on_gpu = _sees_gpu()
        self._compiled: dict[tuple[tuple[int, ...], bool], Callable[[Any], _Answer]] = {}

    def _run(self, images: np.ndarray, sa_blocks: tuple[int, ...]) -> dict[str, np.ndarray]:
        if keras.backend.backend() != "tensorflow":
            logits, sa_attention, ca_attention = self.model.predict_on_batch(images)
            return {"logits": logits, **sa_attention, **ca_attention}
        # Self-attention is asked for once in a while; compiling that with XLA is not worth it either.
        use_xla = not sa_blocks and len(images) == 1 and self._pays_for_xla
        key = (sa_blocks, use_xla)
        if key not in self._compiled:
            self._compiled[key] = self._compile(sa_blocks, use_xla)
        return {name: tensor.numpy() for name, tensor in self._compiled[key](images).items()}

    @property
    def _pays_for_xla(self) -> bool:
        few_patches = self.config.num_patches <= _XLA_UP_TO_PATCHES
        return few_patches and self.config.sa_ffn_layers >= _XLA_FROM_BLOCKS

    def _compile(self, sa_blocks: tuple[int, ...], use_xla: bool) -> Callable[[Any], _Answer]:
        import tensorflow as tf

        def run(images: Any) -> _Answer:
            logits, sa_attention, ca_attention = self.model(images, training=False)
            asked = {name: sa_attention[name] for name in sa_keys(sa_blocks)}
            outputs = {"logits": logits, **asked, **ca_attention}
            return {name: tf.cast(tensor, tf.float32) for name, tensor in outputs.items()}

        compiled = tf.function(run, jit_compile=use_xla, autograph=False)
        return lambda images: compiled(tf.convert_to_tensor(images, tf.float32))


def _sees_gpu() -> bool:
    """Whether Keras' backend has a GPU."""
    if keras.backend.backend() == "torch":  # whose devices Keras does not list
        import torch

        return torch.cuda.is_available()
    try:
        return bool(keras.distribution.list_devices("gpu"))
    except RuntimeError:  # JAX without one
        return False
