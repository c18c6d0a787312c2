"""The process that builds a network in Keras and exports it as OpenVINO graphs; see `graphs`.

Neither Keras nor what it imports enters the process that asks.
"""

import json
import sys
from pathlib import Path
from typing import Any

from cait_viz._backend import import_keras
from cait_viz._process import status_of
from cait_viz._text import file_text
from cait_viz.engine.names import CLASS_STAGE, NETWORK, self_attention
from cait_viz.errors import CheckpointError
from cait_viz.model.config import CaiTConfig
from cait_viz.model.folding import folded
from cait_viz.model.timm_names import assign
from cait_viz.weights.architecture import Checkpoint, read_tensors, unwrapped
from cait_viz.weights.safetensors import open_safetensors


def export(checkpoint: Checkpoint, folder: Path) -> None:
    """Write the graphs of a checkpoint: for each name a file NAME.xml and, beside it, its weights.

    Args:
        checkpoint: the weights and their architecture.
        folder: where to write them.

    Raises:
        CheckpointError: the weights cannot be used.
    """
    import keras

    from cait_viz.model.cait import CaiT
    from cait_viz.model.initial import zero_weights

    tensors, config = folded(read_tensors(checkpoint), checkpoint.config)
    with zero_weights():
        network = CaiT(config)
    assign(network, tensors)

    def write(name: str, inputs: dict[str, Any], outputs: list[Any]) -> None:
        graph = keras.Model(inputs, outputs)
        graph.export(str(folder / f"{name}.xml"), format="openvino", verbose=False)

    images = keras.Input((*config.image_shape, 3), dtype="float32")
    depths: list[Any] = []
    logits, ca_attention = network.classify(network.encode(images, depths=depths, training=False))
    write(NETWORK, {"images": images}, [logits, *ca_attention.values(), *depths])
    patches = keras.Input((config.num_patches, config.projection_dim), dtype="float32")
    for index, block in enumerate(network.blocks):
        write(self_attention(index), {"patches": patches}, list(block.attention(patches)))
    head_mask = keras.Input((config.ca_ffn_layers, config.num_heads), dtype="float32")
    logits, ca_attention = network.classify(patches, head_mask)
    write(CLASS_STAGE, {"patches": patches, "head_mask": head_mask}, [logits, *ca_attention.values()])


def answer(request: str, target: str) -> None:
    """Export what a request of `graphs` says."""
    # Keras imports both where they are installed, for what nobody needs here, in a second.
    sys.modules.update({"jax": None, "matplotlib": None})  # type: ignore[dict-item]
    import_keras("openvino")
    asked = json.loads(request)
    file = unwrapped(open_safetensors(Path(asked["weights"]), Path(asked["origin"])))
    config = CaiTConfig(**asked["config"])
    checkpoint = Checkpoint(name=asked["name"], config=config, variant=None, as_published=False, file=file)
    if checkpoint.sha256 != asked["sha256"]:
        raise CheckpointError(f"{file_text(checkpoint.origin)}: has changed meanwhile; try again")
    export(checkpoint, Path(target))


if __name__ == "__main__":
    sys.exit(status_of(answer, *sys.argv[1:]))
