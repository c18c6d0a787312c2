"""What a network's weights are before they are trained or loaded."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from cait_viz._keras import keras

_zero_weights = ContextVar("zero_weights", default=False)


@contextmanager
def zero_weights() -> Iterator[None]:
    """Make the weights of layers built inside zeros: random ones take cait_m36_384 five seconds."""
    token = _zero_weights.set(True)
    try:
        yield
    finally:
        _zero_weights.reset(token)


def weight_initializer() -> keras.initializers.Initializer:
    """The authors' and timm's `trunc_normal_(std=.02)`, for every kernel, token and embedding."""
    zeros = _zero_weights.get()
    return keras.initializers.Zeros() if zeros else keras.initializers.TruncatedNormal(stddev=0.02)


def dense(units: int, name: str, dtype: Any) -> keras.layers.Dense:
    """A dense layer whose kernel starts as the authors' does."""
    return keras.layers.Dense(units, kernel_initializer=weight_initializer(), name=name, dtype=dtype)
