"""Gradients of a class's logit with respect to every attention of a Keras network, by TensorFlow."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from cait_viz.attention.maps import Floats
from cait_viz.attention.relevance import class_relevance, patch_relevance, weighted


class ClassGradients(NamedTuple):
    """What speaks for one class, for one image.

    Attributes:
        attention: the class attention of every block, (blocks, H, 1 + N) float32.
        gradient: the gradient of the class's logit with respect to it, in the same shape.
        relevance: each patch's relevance, through both stages, (N,) float32: `cait_viz.attention.relevance`.
    """

    attention: np.ndarray
    gradient: np.ndarray
    relevance: np.ndarray


class GradientTape:
    """The gradients of a Keras network on TensorFlow.

    A forward pass keeps the patches between the blocks and nothing else. The backward pass goes from the last
    block to the first; it runs each block again, from the patches that enter it, and differentiates it alone.
    So the attention of one block at a time is held. To keep what all blocks need at once would take 5 GB for
    cait_s24_384, and is no faster.

    All self-attention blocks share what is compiled: it gets a block's weights as arguments.

    Args:
        model: a `cait_viz.model.cait.CaiT`.
    """

    def __init__(self, model: Any) -> None:
        import tensorflow as tf

        self._model = model
        self._run = tf.function(self._block, autograph=False)
        self._differentiate = tf.function(self._block_gradients, autograph=False)
        self._differentiate_class_stage = tf.function(self._class_stage_gradients, autograph=False)

    def forward(self, image: np.ndarray) -> list[Any]:
        """The patches of an image (1, height, width, 3) at all depths, tensors (1, N, C)."""
        import tensorflow as tf

        depths = [self._model.embed(tf.convert_to_tensor(image, self._model.compute_dtype), training=False)]
        for block in self._model.blocks:
            depths.append(self._run(_values(block), depths[-1]))
        return depths

    def backward(self, depths: list[Any], target: int) -> ClassGradients:
        """What speaks for the class of index `target`, from what `forward` gave for an image."""
        import tensorflow as tf

        # As a tensor, else each class would be compiled anew.
        behind, stage = self._differentiate_class_stage(depths[-1], tf.constant(target))
        attention, gradient = (np.stack([_array(one)[:, 0] for one in rows]) for rows in stage)
        if self._model.config.global_pool == "avg":  # the classifier reads the mean of the patches
            row = np.full(attention.shape[-1] - 1, 1 / (attention.shape[-1] - 1))
        else:
            row = class_relevance([weighted(*block) for block in zip(attention, gradient, strict=True)])
        relevance = patch_relevance(row, self._weights(depths, behind))
        return ClassGradients(*(array.astype(np.float32) for array in (attention, gradient, relevance)))

    def gradients(self, image: np.ndarray, target: int) -> ClassGradients:
        """What speaks for the class of index `target`, for an image (1, height, width, 3): both passes."""
        return self.backward(self.forward(image), target)

    def _weights(self, depths: list[Any], behind: Any) -> Iterator[Floats]:
        """Ā of each self-attention block, (N, N), from the last to the first.

        `behind` is the gradient of the logit with respect to the patches after the last one.
        """
        for block, patches in zip(reversed(self._model.blocks), reversed(depths[:-1]), strict=True):
            behind, attention, gradient = self._differentiate(_values(block), patches, behind)
            yield weighted(_array(attention), _array(gradient))

    def _block(self, weights: list[Any], patches: Any) -> Any:
        """The patches after the block of these weights."""
        import keras
        import tensorflow as tf

        block = self._model.blocks[0]
        # Else TensorFlow would compute the gradients of the weights as well.
        constants = [tf.stop_gradient(weight) for weight in weights]
        with keras.StatelessScope(state_mapping=list(zip(block.weights, constants, strict=True))):
            return block(patches, training=False)[0]

    def _block_gradients(self, weights: list[Any], patches: Any, behind: Any) -> tuple[Any, Any, Any]:
        """The gradient with respect to the patches before a block; its attention, and the gradient for it."""
        import tensorflow as tf

        with tf.GradientTape(watch_accessed_variables=False) as tape, observed_attention() as observed:
            tape.watch(patches)
            after = self._block(weights, patches)
        [attention] = observed
        before, gradient = tape.gradient(after, [patches, attention], output_gradients=behind)
        return before, attention, gradient

    def _class_stage_gradients(self, patches: Any, target: Any) -> tuple[Any, tuple[list[Any], list[Any]]]:
        """The gradient with respect to the patches; all class attention, and the gradients for it."""
        import tensorflow as tf

        with tf.GradientTape(watch_accessed_variables=False) as tape, observed_attention() as observed:
            tape.watch(patches)
            logit = self._model.classify(patches)[0][:, target]
        # Pooling the patches asks no class token.
        before, *gradients = tape.gradient(logit, [patches, *observed], unconnected_gradients="zero")
        return before, (observed, gradients)


class FixedGradientTape(GradientTape):
    """Of a network whose weights do not change: another class of the same image costs one backward pass."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self._lock = threading.Lock()
        self._last: tuple[np.ndarray, list[Any]] | None = None

    def gradients(self, image: np.ndarray, target: int) -> ClassGradients:
        """As of `GradientTape`; the patches of the last image are kept."""
        with self._lock:
            if self._last is None or not np.array_equal(image, self._last[0]):
                self._last = image.copy(), self.forward(image)
            return self.backward(self._last[1], target)


@contextmanager
def observed_attention() -> Iterator[list[Any]]:
    """Every attention that is computed inside, as it leaves its softmax."""
    from cait_viz.model.layers import changed_attention

    observed: list[Any] = []

    def observe(attention: Any) -> Any:
        observed.append(attention)
        return attention

    with changed_attention(observe):
        yield observed


def _values(block: Any) -> list[Any]:
    return [weight.value for weight in block.weights]


def _array(tensor: Any) -> np.ndarray:
    """The tensor of one image as an array without the batch, in float32 or finer."""
    array: np.ndarray = tensor.numpy()[0]
    return array if array.dtype == np.float64 else array.astype(np.float32, copy=False)
