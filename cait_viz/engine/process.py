"""Keras in a process of its own, for a server that must not import it.

Streamlit clears Keras after every rerun of every visitor, which costs the next forward pass its compiled
kernels.
"""

from pathlib import Path
from typing import Any

import numpy as np
from loky import ProcessPoolExecutor
from loky.process_executor import BrokenProcessPool

from cait_viz._backend import import_keras, installed_backend
from cait_viz.engine.base import Answer, Engine, Precision, SelfAttention
from cait_viz.engine.gradients import GradientProcess
from cait_viz.engine.load import load_keras
from cait_viz.engine.randomized import Randomized
from cait_viz.engine.tape import ClassGradients
from cait_viz.errors import ProcessDiedError
from cait_viz.weights.architecture import Checkpoint
from cait_viz.weights.labels import class_names

# Where loky finds psutil, it ends a process that grew by 300 MB, as leaking; a larger model is no leak.
_ENVIRONMENT = {"LOKY_MAX_MEMORY_LEAK_SIZE": "1e15"}


class KerasProcess(Engine):
    """Runs a checkpoint's network in Keras, in another process, which ends with this object.

    Args:
        checkpoint: the weights and their architecture.
        labels: a file with the names of the classes.
        precision: of the arithmetic.

    Raises:
        CheckpointError: the weights or the labels cannot be used.
        ProcessDiedError: the process ended, now or at a later question.
    """

    def __init__(
        self, checkpoint: Checkpoint, labels: str | Path | None = None, precision: Precision = "float32"
    ) -> None:
        self.config, self.source = checkpoint.config, checkpoint.source
        self.labels, self.precision = class_names(checkpoint.config.num_classes, labels), precision
        self._gradient_process = GradientProcess(checkpoint)
        self._pool = ProcessPoolExecutor(1, timeout=None, env=_ENVIRONMENT)
        self.on_gpu = self._ask(_load, checkpoint, precision)

    def _classify(self, images: np.ndarray) -> Answer:
        answer: Answer = self._ask(_call, "_classify", images)
        return answer

    def _trace(self, image: np.ndarray, depths: tuple[int, ...]) -> tuple[Answer, list[np.ndarray]]:
        answer: tuple[Answer, list[np.ndarray]] = self._ask(_call, "_trace", image, depths)
        return answer

    def _attend(self, patches: np.ndarray, block: int) -> SelfAttention:
        answer: SelfAttention = self._ask(_call, "_attend", patches, block)
        return answer

    def _read(self, patches: np.ndarray, head_mask: np.ndarray) -> Answer:
        answer: Answer = self._ask(_call, "_read", patches, head_mask)
        return answer

    def _gradients(self, image: np.ndarray, target: int) -> ClassGradients:
        return self._gradient_process.gradients(image, target)

    def _randomized(self, image: np.ndarray, target: int, step: int, seed: int) -> Randomized:
        return self._gradient_process.randomized(image, target, step, seed)

    def _ask(self, function: Any, *arguments: Any) -> Any:
        try:
            return self._pool.submit(function, *arguments).result()
        except BrokenProcessPool:
            raise ProcessDiedError(
                "the process that runs the network ended before it could answer (out of memory, perhaps); "
                "try again, or choose a smaller model"
            ) from None

    def __del__(self) -> None:
        if hasattr(self, "_pool"):
            self._pool.shutdown(wait=False, kill_workers=True)


_engine: Engine


def _load(checkpoint: Checkpoint, precision: Precision) -> bool:
    """In that process: load the network, and say whether a GPU runs it."""
    import_keras(installed_backend())
    global _engine
    _engine = load_keras(checkpoint, None, precision)
    return _engine.on_gpu


def _call(method: str, *arguments: Any) -> Any:
    """In that process: ask the engine."""
    return getattr(_engine, method)(*arguments)
