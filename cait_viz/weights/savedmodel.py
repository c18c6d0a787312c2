"""The weights of a TensorFlow SavedModel: the port by the Keras tutorial's author, or an export of ours."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from cait_viz._text import file_text, one_line
from cait_viz.errors import CheckpointError
from cait_viz.model.config import CaiTConfig
from cait_viz.model.timm_names import timm_tensors

# The variables of one block of the tutorial's network in Keras' order, by the names they have here.
_TALKING_HEADS = ("attn.qkv", "attn.proj", "attn.proj_l", "attn.proj_w")
_CLASS_ATTENTION = ("attn.q", "attn.k", "attn.v", "attn.proj")

Variables = Mapping[str, np.ndarray]


def is_savedmodel(path: Path) -> bool:
    """Whether a path is the folder of a SavedModel."""
    return (path / "saved_model.pb").is_file()


def read(path: Path) -> dict[str, np.ndarray]:
    """The weights by timm's names and in timm's shapes, float32; no graph of the SavedModel is run.

    Raises:
        CheckpointError: its variables cannot be read, or are not those of a CaiT.
    """
    variables = _read_variables(path)
    try:
        by_place = _by_name(variables) or _by_order([value for _, value in variables])
        blocks = {name.rpartition(".norm1.")[0] for name in by_place if ".norm1." in name}
        sa_layers = sum(name.startswith("blocks.") for name in blocks)
        config = CaiTConfig(
            sa_ffn_layers=sa_layers,
            ca_ffn_layers=len(blocks) - sa_layers,
            init_values=CaiTConfig.init_values if "blocks.0.layer_scale1.gamma" in by_place else None,
            pre_logits="head.kernel" not in by_place,
        )
        return {
            name: tensor.from_keras(by_place[tensor.variable])
            for name, tensor in timm_tensors(config).items()
        }
    except (IndexError, KeyError, ValueError):
        raise CheckpointError(
            f"{file_text(path)}: its {len(variables)} variables are not those of a CaiT as the Keras "
            "tutorial or `cait-viz export` saves it; give a safetensors file with timm's tensor names"
        ) from None


def _read_variables(path: Path) -> list[tuple[str, np.ndarray]]:
    """The floating-point variables in the order of Keras' `model.variables`, with their names."""
    import tensorflow as tf
    from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph

    try:
        reader = tf.train.load_checkpoint(str(path / "variables" / "variables"))
        graph = TrackableObjectGraph.FromString(reader.get_tensor("_CHECKPOINTABLE_OBJECT_GRAPH"))
        children = {child.local_name: child.node_id for child in graph.nodes[0].children}
        in_order = sorted(
            graph.nodes[children["variables"]].children, key=lambda child: int(child.local_name)
        )
        attributes = [graph.nodes[child.node_id].attributes[0] for child in in_order]
        values = [reader.get_tensor(attribute.checkpoint_key) for attribute in attributes]
    except Exception as error:  # TensorFlow's errors have no common base but this
        reason = one_line(str(error), 120)
        raise CheckpointError(
            f"{file_text(path)}: its variables cannot be read ({reason}); download or export it again"
        ) from None
    names = [attribute.full_name for attribute in attributes]
    # The state of a random generator is of integers.
    return [
        (name, value.astype(np.float32))
        for name, value in zip(names, values, strict=True)
        if value.dtype.kind == "f"
    ]


def _by_name(variables: Sequence[tuple[str, np.ndarray]]) -> Variables:
    """The variables of our own export, whose names say what they are; empty for any other."""
    places = {
        name.partition("/")[2]
        .replace("sa_ffn_block_", "blocks/")
        .replace("ca_ffn_block_", "blocks_token_only/")
        .replace("/", "."): value
        for name, value in variables
    }
    return places if "patch_embed.kernel" in places else {}


def _by_order(values: Sequence[np.ndarray]) -> Variables:
    """The variables of the tutorial's network, whose names ("dense_6") say only in which order it was built.

    The class token and the positions have a place of their own by their three axes. The rest is the patch
    projection, the blocks, the last norm and the classifier; a block of the patch stage begins, after its
    norm, with the (C, 3C) kernel of queries, keys and values, and LayerScale's factors may be missing.
    """
    places = dict(
        zip(("cls_token", "pos_embed"), (value for value in values if value.ndim == 3), strict=False)
    )
    rest = [value for value in values if value.ndim != 3]
    dim = len(rest[1])
    scales = rest[14].ndim == 1  # with LayerScale still a factor of norm2, without it the kernel of fc1
    names = _weights("patch_embed")
    length = len(_block("", _CLASS_ATTENTION, scales))
    sa_layers = ca_layers = 0
    for start in range(2, len(rest) - length, length):
        if rest[start + 2].shape == (dim, 3 * dim):
            names += _block(f"blocks.{sa_layers}", _TALKING_HEADS, scales)
            sa_layers += 1
        else:
            names += _block(f"blocks_token_only.{ca_layers}", _CLASS_ATTENTION, scales)
            ca_layers += 1
    names += ["norm.gamma", "norm.beta"]
    if len(names) < len(rest):
        names += _weights("head")
    return places | dict(zip(names, rest, strict=True))


def _block(name: str, attention: Sequence[str], scales: bool) -> list[str]:
    names = ["norm1.gamma", "norm1.beta"]
    names += [weight for layer in attention for weight in _weights(layer)]
    names += ["layer_scale1.gamma"] if scales else []
    names += ["norm2.gamma", "norm2.beta", *_weights("mlp.fc1"), *_weights("mlp.fc2")]
    names += ["layer_scale2.gamma"] if scales else []
    return [f"{name}.{weight}" for weight in names]


def _weights(layer: str) -> list[str]:
    return [f"{layer}.kernel", f"{layer}.bias"]
