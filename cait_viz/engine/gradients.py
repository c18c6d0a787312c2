"""Gradients of a class's logit with respect to every attention, in a process of their own.

Nobody who only looks pays for it: the process starts with the first question and ends when it is idle. All
networks of a program share it.
"""

import importlib.util
import logging
import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from cait_viz._backend import import_keras
from cait_viz._text import file_text
from cait_viz.engine import memory
from cait_viz.engine.randomized import Randomized, RandomizedNetwork
from cait_viz.engine.tape import ClassGradients, FixedGradientTape
from cait_viz.engine.worker import Worker
from cait_viz.errors import CheckpointError, EngineError
from cait_viz.model.config import CaiTConfig
from cait_viz.weights.architecture import Checkpoint

# The process ends after so many seconds without a question.
IDLE_SECONDS = 300
WORKER = Worker("computes gradients", IDLE_SECONDS)

# Measured with cait_s24_224, cait_s24_384 and cait_m36_384: what a backward pass takes, in units of the
# attention of one block; and TensorFlow's own part.
_BLOCKS, _TENSORFLOW = 20, 500 * 10**6

# Networks that the process keeps.
_KEPT = 2


class GradientProcess:
    """A `FixedGradientTape` of a checkpoint's network, in another process; several threads may ask it.

    Args:
        checkpoint: the weights and their architecture.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._has_room = False

    def gradients(self, image: np.ndarray, target: int) -> ClassGradients:
        """As of `FixedGradientTape`.

        Raises:
            CheckpointError: the checkpoint has changed since it was found.
            EngineError: TensorFlow is not installed, or the memory has no room for it.
            ProcessDiedError: the process ended.
        """
        answer: ClassGradients = self._ask(_gradients, image, target)
        return answer

    def randomized(self, image: np.ndarray, target: int, step: int, seed: int) -> Randomized:
        """As of `RandomizedNetwork`. Errors as for `gradients`."""
        answer: Randomized = self._ask(_randomized, image, target, step, seed)
        return answer

    def _ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        if not self._has_room:
            if importlib.util.find_spec("tensorflow") is None:
                raise EngineError(
                    "gradients are computed by TensorFlow, which is not installed; install it with `pip "
                    "install tensorflow`"
                )
            require_memory(self._checkpoint.name, self._checkpoint.config)
            self._has_room = True
        return WORKER.ask(function, (self._checkpoint, self._checkpoint.sha256), *arguments)


def require_memory(name: str, config: CaiTConfig) -> None:
    """Refuse gradients that the memory has no room for, by an EngineError that tells both."""
    patches = 4 * (config.sa_ffn_layers + 1) * config.num_patches * config.projection_dim
    needed = memory.estimate(config) + _TENSORFLOW + _BLOCKS * memory.attention_bytes(config) + patches
    free = memory.available()
    if needed > free:
        raise EngineError(
            f"the gradients of {name} need about {needed / 1e9:.1f} GB of memory and {free / 1e9:.1f} GB are "
            "free; choose a smaller model, or close other programs"
        )


# In that process; each is made with the first question to it. The hash tells a file from what replaces it.
_Key = tuple[Checkpoint, str]


@lru_cache(_KEPT)
def _network(key: _Key) -> Any:
    checkpoint, _ = key
    warnings.simplefilter("ignore")  # Keras warns of a softmax over a single patch
    import_keras("tensorflow")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # it warns of inputs of five sizes
    from cait_viz.engine.keras import load_network

    network = load_network(checkpoint)
    if not checkpoint.unchanged:
        raise CheckpointError(
            f"{file_text(checkpoint.origin)}: has changed since it was loaded; load it again"
        )
    return network


@lru_cache(_KEPT)
def _tape(key: _Key) -> FixedGradientTape:
    return FixedGradientTape(_network(key))


@lru_cache(_KEPT)
def _randomized_network(key: _Key) -> RandomizedNetwork:
    return RandomizedNetwork(_network(key))


def _gradients(key: _Key, image: np.ndarray, target: int) -> ClassGradients:
    return _tape(key).gradients(image, target)


def _randomized(key: _Key, *question: Any) -> Randomized:
    return _randomized_network(key).answer(*question)
