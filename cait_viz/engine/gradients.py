"""Gradients of a class's logit with respect to every attention, in a process of their own.

Nobody who only looks pays for it: the process starts with the first question and ends when it is idle.
"""

import numpy as np
from loky import ProcessPoolExecutor
from loky.process_executor import BrokenProcessPool

from cait_viz._backend import import_keras
from cait_viz.engine import memory
from cait_viz.engine.tape import ClassGradients, GradientTape
from cait_viz.errors import EngineError, ProcessDiedError
from cait_viz.model.config import CaiTConfig
from cait_viz.weights.architecture import Checkpoint

# The process ends after so many seconds without a question.
IDLE_SECONDS = 300

# Where loky finds psutil, it ends a process that grew by 300 MB, as leaking; a tape is no leak.
_ENVIRONMENT = {"LOKY_MAX_MEMORY_LEAK_SIZE": "1e15"}

# How often the self-attention of all blocks is held: before and after mixing, the zeros, the gradients.
_COPIES = 5


class GradientProcess:
    """A `GradientTape` of a checkpoint's network, in another process.

    Args:
        checkpoint: the weights and their architecture.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._pool: ProcessPoolExecutor | None = None

    def gradients(self, image: np.ndarray, target: int) -> ClassGradients:
        """As of `GradientTape`.

        Raises:
            EngineError: the memory has no room for it.
            ProcessDiedError: the process ended.
        """
        if self._pool is None:
            require_memory(self._checkpoint.name, self._checkpoint.config)
            self._pool = ProcessPoolExecutor(1, timeout=IDLE_SECONDS, env=_ENVIRONMENT)
        try:
            answer: ClassGradients = self._pool.submit(_gradients, self._checkpoint, image, target).result()
            return answer
        except BrokenProcessPool:
            self._pool = None
            raise ProcessDiedError(
                "the process that computes gradients ended before it could answer (out of memory, perhaps); "
                "try again, or choose a smaller model"
            ) from None

    def __del__(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=False, kill_workers=True)


def require_memory(name: str, config: CaiTConfig) -> None:
    """Refuse gradients that the memory has no room for, by an EngineError that tells both."""
    maps = config.sa_ffn_layers * config.num_heads * config.num_patches**2 * 4
    needed, free = memory.estimate(config) + _COPIES * maps + 500 * 10**6, memory.available()
    if needed > free:
        raise EngineError(
            f"the gradients of {name} need about {needed / 1e9:.1f} GB of memory and {free / 1e9:.1f} GB are "
            "free; choose a smaller model, or close other programs"
        )


_tapes: dict[str, GradientTape] = {}


def _gradients(checkpoint: Checkpoint, image: np.ndarray, target: int) -> ClassGradients:
    """In that process: load the network with the first question."""
    if checkpoint.sha256 not in _tapes:
        import_keras("tensorflow")
        from cait_viz.engine.keras import load_network

        _tapes[checkpoint.sha256] = GradientTape(load_network(checkpoint))
    return _tapes[checkpoint.sha256].gradients(image, target)
