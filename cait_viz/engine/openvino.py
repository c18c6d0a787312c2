"""The engine that looks: OpenVINO, on a processor; neither Keras nor TensorFlow is imported.

The network is the same one, exported by Keras (`graphs`); each question is that graph for one image, without
the outputs that nobody asked for.
"""

import threading
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cait_viz._backend import import_openvino
from cait_viz._text import one_line
from cait_viz.engine import graphs
from cait_viz.engine.base import Engine, Precision, ca_keys, sa_keys
from cait_viz.errors import EngineError
from cait_viz.weights.architecture import Checkpoint
from cait_viz.weights.labels import class_names

# Without this hint, processors with bfloat16 instructions compute in bfloat16.
_PRECISIONS: dict[Precision, str] = {"float32": "f32", "bfloat16": "bf16"}


class OpenVINOEngine(Engine):
    """Runs a checkpoint's network in OpenVINO.

    A graph takes one image, because OpenVINO is faster where it knows every shape. One image is computed by
    all cores; of several, each core computes its own, in a second graph that is compiled when first needed.

    Args:
        checkpoint: the weights and their architecture.
        labels: a file with the names of the classes.
        precision: of the arithmetic; the weights and the answers are float32.

    Raises:
        CheckpointError: the weights or the labels cannot be used.
        EngineError: OpenVINO is missing, or refuses the network.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        labels: str | Path | None = None,
        precision: Precision = "float32",
    ) -> None:
        self.config, self.source = checkpoint.config, checkpoint.source
        self.labels = class_names(checkpoint.config.num_classes, labels)
        self._checkpoint, self._precision = checkpoint, precision
        self._lock = threading.Lock()  # all cores work on one question; two at once would only wait longer
        self._plain = self._compile(_PLAIN)
        # The other question that was asked last; a graph holds the weights once more.
        self._other: tuple[_Question, list[Any]] = (_PLAIN, self._plain)

    def _run(self, images: np.ndarray, sa_blocks: tuple[int, ...]) -> dict[str, np.ndarray]:
        with self._lock:
            requests = self._requests(_Question(sa_blocks, several=len(images) > 1))
            tensors = requests[0].output_tensors
            answer = [np.empty((len(images), *tensor.shape[1:]), np.float32) for tensor in tensors]
            ahead = len(requests)
            for place in range(len(images) + ahead):
                request = requests[place % ahead]
                if place >= ahead:
                    request.wait()
                    for whole, tensor in zip(answer, request.output_tensors, strict=True):
                        whole[place - ahead] = tensor.data[0]
                if place < len(images):
                    request.start_async([images[place : place + 1]])
        return dict(zip(self._names(sa_blocks), answer, strict=True))

    def _requests(self, question: "_Question") -> list[Any]:
        """What answers a question, compiled if it is neither the plain one nor the last."""
        if question == _PLAIN:
            return self._plain
        if self._other[0] != question:
            self._other = (_PLAIN, self._plain)  # frees the graph before the next is made
            self._other = (question, self._compile(question))
        return self._other[1]

    def _names(self, sa_blocks: tuple[int, ...]) -> list[str]:
        return ["logits", *ca_keys(self.config), *sa_keys(sa_blocks)]

    def _compile(self, question: "_Question") -> list[Any]:
        try:
            openvino = import_openvino()
        except ImportError as error:
            raise EngineError(f"OpenVINO cannot be imported ({error})") from None
        options = {
            "INFERENCE_PRECISION_HINT": _PRECISIONS[self._precision],
            "PERFORMANCE_HINT": "THROUGHPUT" if question.several else "LATENCY",
        }
        with graphs.exported(self._checkpoint) as path:
            try:
                core = openvino.Core()
                graph = core.read_model(path)
                everything = self._names(tuple(range(self.config.sa_ffn_layers)))
                wanted = set(self._names(question.sa_blocks))
                for name, result in zip(everything, graph.get_results(), strict=True):
                    if name not in wanted:
                        graph.remove_result(result)
                graph.reshape([1, *graph.input().get_partial_shape()[1:]])
                compiled = core.compile_model(graph, "CPU", options)
                count = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
                return [compiled.create_infer_request() for _ in range(count)]
            except (RuntimeError, ValueError) as error:
                reason = one_line(str(error).strip().rpartition("\n")[2])
                raise EngineError(f"OpenVINO refuses {self._checkpoint.name} ({reason})") from None


class _Question(NamedTuple):
    """What a graph is compiled for."""

    sa_blocks: tuple[int, ...]  # whose attention leaves it
    several: bool  # images at a time


_PLAIN = _Question((), several=False)
