"""The engine that looks: OpenVINO, on a processor; neither Keras nor TensorFlow is imported.

The network is the same one, exported by Keras (`graphs`); each question is that graph without the outputs
that nobody asked for.
"""

import threading
from pathlib import Path
from typing import Any

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
        self._checkpoint = checkpoint
        self._options: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": _PRECISIONS[precision],
            "PERFORMANCE_HINT": "LATENCY",
        }
        self._lock = threading.Lock()  # all cores work on one image; two at once would only wait longer
        self._plain = self._compile(())
        # The self-attention that was asked for last; a graph holds the weights once more.
        self._other: tuple[tuple[int, ...], Any] = ((), self._plain)

    def _run(self, images: np.ndarray, sa_blocks: tuple[int, ...]) -> dict[str, np.ndarray]:
        with self._lock:
            if not sa_blocks:
                request = self._plain
            else:
                if self._other[0] != sa_blocks:
                    self._other = ((), self._plain)  # frees the graph before the next is made
                    self._other = (sa_blocks, self._compile(sa_blocks))
                request = self._other[1]
            request.infer([images])
            names = self._names(sa_blocks)
            return {name: np.array(request.get_output_tensor(i).data) for i, name in enumerate(names)}

    def _names(self, sa_blocks: tuple[int, ...]) -> list[str]:
        return ["logits", *ca_keys(self.config), *sa_keys(sa_blocks)]

    def _compile(self, sa_blocks: tuple[int, ...]) -> Any:
        try:
            openvino = import_openvino()
        except ImportError as error:
            raise EngineError(f"OpenVINO cannot be imported ({error})") from None
        with graphs.exported(self._checkpoint) as path:
            try:
                core = openvino.Core()
                graph = core.read_model(path)
                everything = self._names(tuple(range(self.config.sa_ffn_layers)))
                wanted = set(self._names(sa_blocks))
                for name, result in zip(everything, graph.get_results(), strict=True):
                    if name not in wanted:
                        graph.remove_result(result)
                return core.compile_model(graph, "CPU", self._options).create_infer_request()
            except (RuntimeError, ValueError) as error:
                reason = one_line(str(error).strip().rpartition("\n")[2])
                raise EngineError(f"OpenVINO refuses {self._checkpoint.name} ({reason})") from None
