"""The process that builds a network in Keras and exports it as an OpenVINO graph; see `graphs`.

Neither Keras nor what it imports enters the process that asks.
"""

import json
import sys
from pathlib import Path

from cait_viz._backend import import_keras
from cait_viz._process import status_of
from cait_viz._text import file_text
from cait_viz.engine.base import ca_keys, sa_keys
from cait_viz.errors import CheckpointError
from cait_viz.model.config import CaiTConfig
from cait_viz.model.folding import folded
from cait_viz.model.timm_names import assign
from cait_viz.weights.architecture import Checkpoint, read_tensors, unwrapped
from cait_viz.weights.safetensors import open_safetensors


def outputs(config: CaiTConfig) -> list[str]:
    """The names of a graph's outputs, in their order."""
    return ["logits", *ca_keys(config), *sa_keys(range(config.sa_ffn_layers))]


def export(checkpoint: Checkpoint, path: Path) -> None:
    """Write the graph of a checkpoint: PATH and, beside it, its weights.

    Args:
        checkpoint: the weights and their architecture.
        path: the file to write, with the ending ".xml".

    Raises:
        CheckpointError: the weights cannot be used.
    """
    import keras

    from cait_viz.model.cait import CaiT
    from cait_viz.model.layers import zero_weights

    tensors, config = folded(read_tensors(checkpoint), checkpoint.config)
    with zero_weights():
        network = CaiT(config)
    assign(network, tensors)
    size = checkpoint.config.image_size
    images = keras.Input((size, size, 3), dtype="float32")
    logits, sa_attention, ca_attention = network(images, training=False)
    answer = {"logits": logits, **ca_attention, **sa_attention}
    graph = keras.Model(images, [answer[name] for name in outputs(checkpoint.config)])
    graph.export(str(path), format="openvino", verbose=False)


def answer(request: str, target: str) -> None:
    """Export what a request of `graphs` says."""
    # Keras imports both where they are installed, for what nobody needs here, in a second.
    sys.modules.update({"jax": None, "matplotlib": None})  # type: ignore[dict-item]
    import_keras("openvino")
    asked = json.loads(request)
    file = unwrapped(open_safetensors(Path(asked["weights"]), Path(asked["given"])))
    config = CaiTConfig(**asked["config"])
    checkpoint = Checkpoint(name=asked["name"], config=config, variant=None, as_published=False, file=file)
    if checkpoint.sha256 != asked["sha256"]:
        raise CheckpointError(f"{file_text(checkpoint.given)}: has changed meanwhile; try again")
    export(checkpoint, Path(target))


if __name__ == "__main__":
    sys.exit(status_of(answer, *sys.argv[1:]))
