"""Keras in a process of its own, for a server that must not import it.

Streamlit clears Keras after every rerun of every visitor, which costs the next forward pass its compiled
kernels.
"""

from functools import lru_cache
from typing import Any

import numpy as np

from cait_viz._backend import import_keras, installed_backend
from cait_viz.engine.base import Answer, Engine
from cait_viz.engine.gradients import GradientProcess
from cait_viz.engine.load import load_keras
from cait_viz.engine.randomized import Randomized
from cait_viz.engine.tape import ClassGradients
from cait_viz.engine.worker import Worker
from cait_viz.model.config import Precision
from cait_viz.weights.architecture import Checkpoint
from cait_viz.weights.labels import Labels, class_names


class KerasProcess(Engine):
    """Runs a checkpoint's network in Keras, in another process, which ends with this object.

    Args:
        checkpoint: the weights and their architecture.
        labels: the names of the classes, or a file with them.
        precision: type of the arithmetic.

    Raises:
        CheckpointError: the weights or the labels cannot be used.
        ProcessDiedError: the process ended, now or at a later question.
    """

    name = "keras"

    def __init__(
        self, checkpoint: Checkpoint, labels: Labels | None = None, precision: Precision = "float32"
    ) -> None:
        self.config, self.source = checkpoint.config, checkpoint.source
        self.labels, self.precision = class_names(checkpoint.config.num_classes, labels), precision
        self._gradient_process = GradientProcess(checkpoint)
        self._checkpoint = checkpoint
        self._worker = Worker("runs the network")
        self.on_gpu = self._ask("on_gpu")

    def _classify(self, images: np.ndarray) -> Answer:
        answer: Answer = self._ask("_classify", images)
        return answer

    def _trace(self, image: np.ndarray, depths: tuple[int, ...]) -> tuple[Answer, list[np.ndarray]]:
        answer: tuple[Answer, list[np.ndarray]] = self._ask("_trace", image, depths)
        return answer

    def _attend(self, patches: np.ndarray, block: int, mixed: bool) -> np.ndarray:
        scores: np.ndarray = self._ask("_attend", patches, block, mixed)
        return scores

    def _read(self, patches: np.ndarray, head_mask: np.ndarray) -> Answer:
        answer: Answer = self._ask("_read", patches, head_mask)
        return answer

    def _gradients(self, image: np.ndarray, target: int) -> ClassGradients:
        return self._gradient_process.gradients(image, target)

    def _randomized(self, image: np.ndarray, target: int, step: int, seed: int) -> Randomized:
        return self._gradient_process.randomized(image, target, step, seed)

    def _ask(self, name: str, *arguments: Any) -> Any:
        return self._worker.ask(_answer, self._checkpoint, self.precision, name, *arguments)


@lru_cache(1)
def _loaded(checkpoint: Checkpoint, precision: Precision) -> Engine:
    """In that process: the network."""
    import_keras(installed_backend())
    return load_keras(checkpoint, None, precision)


def _answer(checkpoint: Checkpoint, precision: Precision, name: str, *arguments: Any) -> Any:
    """In that process: what a method of the engine gives; without arguments, an attribute of it."""
    found = getattr(_loaded(checkpoint, precision), name)
    return found(*arguments) if arguments else found
