"""The engine that runs the network in Keras: for training frameworks, GPUs and as the reference.

A call of the model itself returns all self-attention, 1.9 GB for one image and cait_m48_448. Here each
attention is freed as soon as its block is done.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from cait_viz._keras import keras
from cait_viz.engine.base import Answer, Engine
from cait_viz.engine.randomized import Randomized, RandomizedNetwork
from cait_viz.engine.tape import ClassGradients, GradientTape
from cait_viz.errors import EngineError
from cait_viz.model.cait import CaiT
from cait_viz.model.config import WeightsSource
from cait_viz.model.initial import zero_weights
from cait_viz.model.timm_names import assign
from cait_viz.weights.architecture import Checkpoint, read_tensors
from cait_viz.weights.labels import Labels, class_names

# XLA runs one image of 196 patches through 24 blocks in two thirds of the graph's time and costs a
# second more at the first call. It is slower at batches of 8 and no faster where large matrix products
# dominate, and a shallower network would not earn that second back (benchmarks/forward.py).
_XLA_UP_TO_PATCHES = 256
_XLA_FROM_BLOCKS = 24


def load_network(checkpoint: Checkpoint, labels: Labels | None = None, dtype: Any = "float32") -> CaiT:
    """The Keras network that a checkpoint describes, with its weights.

    Args:
        checkpoint: what `cait_viz.weights.resolve.resolve` found.
        labels: the names of the classes, or a file with them.
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

    Every new batch size is compiled once by TensorFlow, in one to three seconds.

    Args:
        model: the network.
    """

    name = "keras"

    def __init__(self, model: CaiT) -> None:
        self.model = model
        self.config, self.labels = model.config, model.labels
        self.source = model.source or WeightsSource(
            name=model.name, file="", sha256="", saliency_block=0, trained_size=max(model.config.image_shape)
        )
        self.on_gpu = _sees_gpu()
        self._compiled: dict[tuple[Any, ...], Callable[..., Any]] = {}
        self._tape: GradientTape | None = None

    def _classify(self, images: np.ndarray) -> Answer:
        return self._forward(images, ())[0]

    def _trace(self, image: np.ndarray, depths: tuple[int, ...]) -> tuple[Answer, list[np.ndarray]]:
        answer, patches = self._forward(image, depths)
        return answer, [at[0] for at in patches]

    def _forward(self, images: np.ndarray, depths: tuple[int, ...]) -> tuple[Answer, list[np.ndarray]]:
        def run(images: Any) -> Any:
            kept: list[Any] = []
            patches = self.model.encode(images, depths=kept, training=False)
            return self._said(self.model.classify(patches)), [kept[depth] for depth in depths]

        # Patches are asked for once in a while; compiling that with XLA is not worth it.
        use_xla = not depths and len(images) == 1 and self._pays_for_xla
        return self._run(("forward", depths, use_xla), run, images, use_xla=use_xla)

    def _attend(self, patches: np.ndarray, block: int, mixed: bool) -> np.ndarray:
        def run(patches: Any) -> Any:
            return self.model.blocks[block].attention(patches)[mixed]

        scores: np.ndarray = self._run(("attend", block, mixed), run, patches[np.newaxis])
        return scores[0]

    def _read(self, patches: np.ndarray, head_mask: np.ndarray) -> Answer:
        answer: Answer = self._run(
            ("read",), lambda *inputs: self._said(self.model.classify(*inputs)), patches, head_mask
        )
        return answer

    def _randomized(self, image: np.ndarray, target: int, step: int, seed: int) -> Randomized:
        self._require_tensorflow()
        # A copy, whose weights are the trained ones of now.
        return RandomizedNetwork(self.model).answer(image, target, step, seed)

    def _gradients(self, image: np.ndarray, target: int) -> ClassGradients:
        self._require_tensorflow()
        if self._tape is None:
            self._tape = GradientTape(self.model)
        return self._tape.gradients(image, target)

    @staticmethod
    def _require_tensorflow() -> None:
        backend = keras.backend.backend()
        if backend != "tensorflow":
            raise EngineError(
                f"gradients are computed by TensorFlow, but Keras was started with {backend}; load the "
                "network with cait_viz.load_engine, or set KERAS_BACKEND=tensorflow before Keras is imported"
            )

    @staticmethod
    def _said(answer: tuple[Any, dict[str, Any]]) -> dict[str, Any]:
        logits, ca_attention = answer
        return {"logits": logits, **ca_attention}

    @property
    def _pays_for_xla(self) -> bool:
        few_patches = self.config.num_patches <= _XLA_UP_TO_PATCHES
        return few_patches and self.config.sa_ffn_layers >= _XLA_FROM_BLOCKS

    def _run(
        self, name: tuple[Any, ...], function: Callable[..., Any], *inputs: np.ndarray, use_xla: bool = False
    ) -> Any:
        """The answer of a function of tensors as NumPy arrays; compiled once under its name by TensorFlow."""
        if keras.backend.backend() != "tensorflow":
            tensors = (keras.ops.convert_to_tensor(array, "float32") for array in inputs)
            return keras.tree.map_structure(_float32, _without_gradients(function, *tensors))
        import tensorflow as tf

        if name not in self._compiled:
            self._compiled[name] = tf.function(function, jit_compile=use_xla, autograph=False)
        answer = self._compiled[name](*(tf.convert_to_tensor(array, tf.float32) for array in inputs))
        return keras.tree.map_structure(_float32, answer)


def _float32(tensor: Any) -> np.ndarray:
    array: np.ndarray = keras.ops.convert_to_numpy(tensor)
    return array.astype(np.float32, copy=False)


def _without_gradients(function: Callable[..., Any], *inputs: Any) -> Any:
    if keras.backend.backend() == "torch":
        import torch

        with torch.no_grad():
            return function(*inputs)
    return function(*inputs)


def _sees_gpu() -> bool:
    """Whether Keras' backend has a GPU."""
    if keras.backend.backend() == "torch":  # whose devices Keras does not list
        import torch

        return torch.cuda.is_available()
    try:
        return bool(keras.distribution.list_devices("gpu"))
    except RuntimeError:  # JAX without one
        return False
