"""Which engine runs a checkpoint."""

import importlib.util
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import get_args

from cait_viz._checks import check_choice
from cait_viz.engine import memory
from cait_viz.engine.base import Engine, EngineName
from cait_viz.engine.openvino import OpenVINOEngine
from cait_viz.errors import EngineError, ProcessDiedError, SelectionError
from cait_viz.model.config import Precision
from cait_viz.weights.architecture import Checkpoint
from cait_viz.weights.labels import Labels

# Names the engine where nothing else does.
ENGINE_SETTING = "CAIT_VIZ_ENGINE"

LoadKeras = Callable[[Checkpoint, Labels | None, Precision], Engine]

# There where the system has a driver of NVIDIA's: Linux, and Linux in Windows.
_NVIDIA = (Path("/proc/driver/nvidia/gpus"), Path("/dev/dxg"))


def chosen_engine(name: EngineName | None = None) -> EngineName | None:
    """The engine that was asked for: by name, else by the environment; None for automatic.

    Raises:
        SelectionError: there is no such engine, by the name given or by the environment's.
    """
    if name is not None:
        return check_choice("engine", name, get_args(EngineName))
    setting = os.environ.get(ENGINE_SETTING) or None
    for known in get_args(EngineName):
        if setting == known:
            return known
    if setting is not None:
        raise SelectionError(
            f"{ENGINE_SETTING} must be one of {', '.join(get_args(EngineName))}, not {setting!r}"
        )
    return None


def load_keras(checkpoint: Checkpoint, labels: Labels | None, precision: Precision) -> Engine:
    """A checkpoint's network in Keras, in this process. Errors as for `load_engine`."""
    from cait_viz.engine.keras import KerasEngine, load_network

    dtype = {"float32": "float32", "bfloat16": "mixed_bfloat16"}[precision]
    engine = KerasEngine(load_network(checkpoint, labels, dtype))
    engine.precision = precision
    return engine


def _may_have_gpu() -> bool:
    """Whether a backend may compute on a GPU: there are a driver and NVIDIA's libraries from Python's index.

    TensorFlow, JAX and torch bring these where they compute on a GPU. Loading a backend takes seconds.
    """
    return any(place.exists() for place in _NVIDIA) and importlib.util.find_spec("nvidia") is not None


def load_engine(
    checkpoint: Checkpoint,
    labels: Labels | None = None,
    *,
    engine: EngineName | None = None,
    precision: Precision = "float32",
    load_keras: LoadKeras = load_keras,
    tell: Callable[[str], object] = lambda _: None,
) -> Engine:
    """A checkpoint's network, ready to run.

    By default OpenVINO runs it, without Keras in this process. Keras does where it sees a GPU, and where
    OpenVINO is missing or refuses the network.

    Args:
        checkpoint: the weights and their architecture.
        labels: the names of the classes, or a file with them.
        engine: which engine, and no other.
        precision: type of the arithmetic; the weights and the outputs are float32.
        load_keras: loads the network in Keras, with the arguments of the function of that name.
        tell: gets a sentence where Keras runs the network although nobody asked for it.

    Raises:
        CheckpointError: the weights or the labels cannot be used.
        EngineError: the engine that was asked for is missing, or refuses the network; or the memory has no
            room for an input of another size than the network was trained for.
        SelectionError: there is no such engine, given or in CAIT_VIZ_ENGINE, or no such precision.
    """
    check_choice("precision", precision, get_args(Precision))
    if checkpoint.config.image_size != checkpoint.trained_size:
        memory.require(checkpoint.name, checkpoint.config)
    name = chosen_engine(engine)
    if name is None and _may_have_gpu():
        with suppress(ImportError):  # no backend of Keras'
            found = load_keras(checkpoint, labels, precision)
            if found.on_gpu:
                tell("Keras sees a GPU and runs the network on it; --engine openvino uses the processor")
                return found
    if name != "keras":
        try:
            return OpenVINOEngine(checkpoint, labels, precision)
        except (EngineError, ProcessDiedError) as error:
            if name is not None:
                raise
            tell(f"{error}; Keras runs the network")
    return load_keras(checkpoint, labels, precision)
