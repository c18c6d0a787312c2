"""Gradients of a class's logit with respect to every attention of a Keras network, by TensorFlow."""

from typing import Any, NamedTuple

import numpy as np

from cait_viz.attention.relevance import class_relevance, patch_relevance, weighted


class ClassGradients(NamedTuple):
    """What speaks for one class, for one image.

    Attributes:
        attention: the class attention of every block, (blocks, H, 1 + N) float32.
        gradient: of the class's logit with respect to it, in the same shape.
        relevance: of each patch, through both stages, (N,) float32: `cait_viz.attention.relevance`.
    """

    attention: np.ndarray
    gradient: np.ndarray
    relevance: np.ndarray


class GradientTape:
    """The gradients of a Keras network on TensorFlow. The last image's tape is kept for its next class.

    The forward and the backward pass are compiled once. Every attention is summed with zeros as it leaves its
    softmax; the gradients are those of the zeros.

    Args:
        model: a `cait_viz.model.cait.CaiT`.
    """

    def __init__(self, model: Any) -> None:
        import tensorflow as tf

        self._model = model
        self._image: np.ndarray | None = None
        self._tape: Any = None
        self._kept: tuple[Any, ...] = ()
        self._forward = tf.function(self._run, autograph=False)

    def gradients(self, image: np.ndarray, target: int) -> ClassGradients:
        """What speaks for the class of index `target`, for an image (1, S, S, 3)."""
        import tensorflow as tf

        if self._image is None or not np.array_equal(image, self._image):
            self._tape, self._kept = None, ()  # frees the last image's before the next is made
            zeros, images = self._zeros(), tf.convert_to_tensor(image, self._model.compute_dtype)
            with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
                tape.watch(zeros)
                logits, attention = self._forward(images, zeros)
            self._image, self._tape, self._kept = image, tape, (logits, attention, zeros)
        logits, attention, zeros = self._kept
        of_class = tf.one_hot([target], logits.shape[-1], dtype=logits.dtype)
        gradients = self._tape.gradient(
            logits, zeros, output_gradients=of_class, unconnected_gradients="zero"
        )
        pairs = [(one[0].numpy(), other[0].numpy()) for one, other in zip(attention, gradients, strict=True)]
        depth = self._model.config.sa_ffn_layers
        patches = patch_relevance(weighted(*pair) for pair in pairs[:depth])
        rows = [(one[:, 0], other[:, 0]) for one, other in pairs[depth:]]
        return ClassGradients(
            attention=np.stack([one for one, _ in rows]).astype(np.float32),
            gradient=np.stack([other for _, other in rows]).astype(np.float32),
            relevance=class_relevance([weighted(*row) for row in rows], patches),
        )

    def _run(self, images: Any, zeros: list[Any]) -> tuple[Any, list[Any]]:
        from cait_viz.model.layers import changed_attention

        attention: list[Any] = []

        def change(softmax: Any) -> Any:
            attention.append(softmax)
            return softmax + zeros[len(attention) - 1]

        with changed_attention(change):
            logits, _ = self._model.classify(self._model.encode(images, training=False))
        return logits, attention

    def _zeros(self) -> list[Any]:
        import tensorflow as tf

        config, dtype = self._model.config, self._model.compute_dtype
        heads, patches = config.num_heads, config.num_patches
        shapes = [(1, heads, patches, patches)] * config.sa_ffn_layers
        shapes += [(1, heads, 1, 1 + patches)] * config.ca_ffn_layers
        return [tf.zeros(shape, dtype) for shape in shapes]
