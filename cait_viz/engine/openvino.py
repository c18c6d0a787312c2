"""The engine that looks: OpenVINO, on a processor; neither Keras nor TensorFlow is imported.

The network is the same one, exported by Keras (`graphs`). Its parts are graphs of their own, so that a
question about one block needs no second copy of the network's weights.
"""

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cait_viz._backend import import_openvino, openvino_core
from cait_viz._text import one_line
from cait_viz.engine import memory, names
from cait_viz.engine.base import Answer, Engine
from cait_viz.engine.gradients import GradientProcess
from cait_viz.engine.graphs import Graphs
from cait_viz.engine.randomized import Randomized
from cait_viz.engine.tape import ClassGradients
from cait_viz.errors import EngineError
from cait_viz.model.config import Precision
from cait_viz.weights.architecture import Checkpoint
from cait_viz.weights.labels import Labels, class_names

# Without this hint, processors with bfloat16 instructions compute in bfloat16.
_PRECISIONS: dict[Precision, str] = {"float32": "f32", "bfloat16": "bf16"}

# Of the graphs beside that for one image, so many bytes are kept, and the one used last.
_KEPT_BYTES = 128 * 10**6


class OpenVINOEngine(Engine):
    """Runs a checkpoint's network in OpenVINO.

    A graph has fixed shapes, because OpenVINO is faster where it knows every one. One image is computed by
    all cores; of several, each core computes its own, in a second graph. All but the graph for one image are
    compiled when they are first needed; those used last are kept, up to a limit.

    Args:
        checkpoint: the weights and their architecture.
        labels: the names of the classes, or a file with them.
        precision: type of the arithmetic; the weights and the outputs are float32.

    Raises:
        CheckpointError: the weights or the labels cannot be used.
        EngineError: OpenVINO is missing, or refuses the network.
    """

    name = "openvino"

    def __init__(
        self,
        checkpoint: Checkpoint,
        labels: Labels | None = None,
        precision: Precision = "float32",
    ) -> None:
        self.config, self.source = checkpoint.config, checkpoint.source
        self.labels = class_names(checkpoint.config.num_classes, labels)
        self._name, self.precision = checkpoint.name, precision
        _core()
        self._graphs = Graphs(checkpoint)
        self._gradient_process = GradientProcess(checkpoint)
        self._lock = threading.Lock()  # all cores work on one question; two at once would only wait longer
        self._compiled: OrderedDict[_Graph, _Compiled] = OrderedDict()
        self._requests(_ONE_IMAGE)

    def _classify(self, images: np.ndarray) -> Answer:
        if len(images) == 1:
            return self._trace(images, ())[0]
        if _SEVERAL not in self._compiled and memory.available() < memory.several_bytes(self.config):
            answers = [self._trace(image, ())[0] for image in images[:, np.newaxis]]
            return {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}
        with self._lock:
            requests = self._requests(_SEVERAL)
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
        return self._named(answer)

    def _trace(self, image: np.ndarray, depths: tuple[int, ...]) -> tuple[Answer, list[np.ndarray]]:
        said = 1 + self.config.ca_ffn_layers  # outputs; behind them are the patches
        answer = self._ask(_ONE_IMAGE, {"images": image}, [*range(said), *(said + depth for depth in depths)])
        return self._named(answer[:said]), [patches[0] for patches in answer[said:]]

    def _attend(self, patches: np.ndarray, block: int, mixed: bool) -> np.ndarray:
        with self._lock:
            # The attention of cait_m48_448 takes as much as the memory that its forward pass works in.
            self._compiled[_ONE_IMAGE].network.release_memory()
        graph = _Graph(names.self_attention(block), 1, outputs=(int(mixed),))
        [scores] = self._ask(graph, {"patches": patches[np.newaxis]})
        return scores[0]

    def _read(self, patches: np.ndarray, head_mask: np.ndarray) -> Answer:
        graph = _Graph(names.CLASS_STAGE, len(patches))
        return self._named(self._ask(graph, {"patches": patches, "head_mask": head_mask}))

    def _gradients(self, image: np.ndarray, target: int) -> ClassGradients:
        return self._gradient_process.gradients(image, target)

    def _randomized(self, image: np.ndarray, target: int, step: int, seed: int) -> Randomized:
        return self._gradient_process.randomized(image, target, step, seed)

    def _named(self, answer: list[np.ndarray]) -> Answer:
        return dict(zip(["logits", *names.ca_keys(self.config)], answer, strict=True))

    def _ask(
        self, graph: "_Graph", inputs: Mapping[str, np.ndarray], outputs: Sequence[int] | None = None
    ) -> list[np.ndarray]:
        """Run a graph; gives the outputs at these places, by default all, in arrays of their own."""
        with self._lock:
            request = self._requests(graph)[0]
            tensors = request.output_tensors
            if outputs is None:  # written where they stay, because copies take as much memory again
                answer = [np.empty(tensor.shape, np.float32) for tensor in tensors]
                for place, array in enumerate(answer):
                    request.set_output_tensor(place, import_openvino().Tensor(array, shared_memory=True))
                request.infer(inputs)
                return answer
            request.infer(inputs)
            return [tensors[place].data.copy() for place in outputs]

    def _requests(self, graph: "_Graph") -> list[Any]:
        """What runs a graph, compiled if it is not kept; those used for longest make room."""
        if graph not in self._compiled:
            self._compiled[graph] = self._compile(graph)
            others = sum(one.size for kept, one in self._compiled.items() if kept != _ONE_IMAGE)
            for kept in list(self._compiled)[:-1]:
                if others > _KEPT_BYTES and kept != _ONE_IMAGE:
                    others -= self._compiled.pop(kept).size
        self._compiled.move_to_end(graph)
        return self._compiled[graph].requests

    def _compile(self, graph: "_Graph") -> "_Compiled":
        path = self._graphs.path(graph.name)
        try:
            model = _core().read_model(path)
            outputs = range(1 + self.config.ca_ffn_layers) if graph.several else graph.outputs
            for place, result in enumerate(model.get_results()):
                if outputs is not None and place not in outputs:
                    model.remove_result(result)
            model.reshape({port: [graph.batch, *port.get_partial_shape()[1:]] for port in model.inputs})
            try:
                compiled = self._compiled_for(model, "THROUGHPUT" if graph.several else "LATENCY")
            except RuntimeError:  # OpenVINO 2026.4 refuses one head on one patch in several streams
                compiled = self._compiled_for(model, "LATENCY")
            count = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
            requests = [compiled.create_infer_request() for _ in range(count)]
        except (RuntimeError, ValueError) as error:
            reason = one_line(str(error).strip().rpartition("\n")[2])
            raise EngineError(f"OpenVINO refuses {self._name} ({reason})") from None
        answers = sum(tensor.byte_size for tensor in requests[0].output_tensors)
        return _Compiled(compiled, requests, path.with_suffix(".bin").stat().st_size + answers)

    def _compiled_for(self, model: Any, hint: str) -> Any:
        options = {"INFERENCE_PRECISION_HINT": _PRECISIONS[self.precision], "PERFORMANCE_HINT": hint}
        return _core().compile_model(model, "CPU", options)


def limit_threads(count: int) -> None:
    """Use no more than so many cores, in all networks that this process compiles after.

    Raises:
        EngineError: OpenVINO is missing.
    """
    _core().set_property("CPU", {"INFERENCE_NUM_THREADS": count})


def _core() -> Any:
    try:
        return openvino_core()
    except ImportError as error:
        raise EngineError(f"OpenVINO cannot be imported ({error})") from None


class _Graph(NamedTuple):
    """What is compiled."""

    name: str
    batch: int
    several: bool = False  # images at a time, of which no patches are asked for
    outputs: tuple[int, ...] | None = None  # those that leave it; None for all


class _Compiled(NamedTuple):
    network: Any
    requests: list[Any]
    size: int  # of its weights and its answer, in bytes


_ONE_IMAGE, _SEVERAL = _Graph(names.NETWORK, 1), _Graph(names.NETWORK, 1, several=True)
