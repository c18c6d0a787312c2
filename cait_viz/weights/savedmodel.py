"""The weights of a TensorFlow SavedModel: the port by the Keras tutorial's author, or an export of ours."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cait_viz._text import file_text, one_line
from cait_viz.errors import CheckpointError
from cait_viz.model.config import CaiTConfig
from cait_viz.model.timm_names import timm_tensors


def read(path: Path) -> dict[str, np.ndarray]:
    """The weights by timm's names and in timm's shapes, float32; no graph of the SavedModel is run.

    A CheckpointError says that its variables cannot be read, or are not those of a CaiT.
    """
    variables = _read_variables(path)
    try:
        by_place = _by_name(variables) or _by_order([value for _, value in variables])
        blocks = {name.rpartition(".norm1.")[0] for name in by_place if ".norm1." in name}
        config = _config(
            sa_layers=sum(name.startswith("blocks.") for name in blocks),
            blocks=len(blocks),
            layer_scale="blocks.0.layer_scale1.gamma" in by_place,
            head="head.kernel" in by_place,
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
    try:
        import tensorflow as tf
        from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph
    except ImportError:
        raise CheckpointError(
            f"{file_text(path)}: reading a SavedModel needs TensorFlow; install it with "
            "`pip install tensorflow`"
        ) from None
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
    # The state of a random generator is of integers.
    return [
        (attribute.full_name, value.astype(np.float32))
        for attribute, value in zip(attributes, values, strict=True)
        if value.dtype.kind == "f"
    ]


def _by_name(variables: Sequence[tuple[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The variables of our own export, whose names say what they are; empty for any other."""
    places = {
        name.partition("/")[2]
        .replace("sa_ffn_block_", "blocks/")
        .replace("ca_ffn_block_", "blocks_token_only/")
        .replace("/", "."): value
        for name, value in variables
    }
    return places if "patch_embed.kernel" in places else {}


def _by_order(values: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """The variables of the tutorial's network, whose names ("dense_6") say only in which order it was built.

    The class token and the positions have a place of their own by their three axes. The rest is the patch
    projection, the blocks, the last norm and the classifier, in timm's order but for LayerScale's factors,
    which stand behind their branches and may be missing. A block of the patch stage begins, after its norm,
    with the (C, 3C) kernel of queries, keys and values.
    """
    tokens = [value for value in values if value.ndim == 3]
    rest = [value for value in values if value.ndim != 3]
    dim = len(rest[1])
    layer_scale = rest[14].ndim == 1  # a factor of the first block's second norm; else the kernel of fc1
    length = 18 if layer_scale else 16
    blocks, head = divmod(len(rest) - 4, length)
    starts = range(2, 2 + blocks * length, length)
    sa_layers = sum(rest[start + 2].shape == (dim, 3 * dim) for start in starts)
    config = _config(sa_layers, blocks, layer_scale, head > 0)
    names = [tensor.variable for tensor in timm_tensors(config).values()][len(tokens) :]
    if layer_scale:
        for start in starts:
            first, second, *others = names[start : start + length]
            names[start : start + length] = [*others[:10], first, *others[10:], second]
    return dict(zip(("cls_token", "pos_embed", *names), (*tokens, *rest), strict=True))


def _config(sa_layers: int, blocks: int, layer_scale: bool, head: bool) -> CaiTConfig:
    """An architecture with these blocks and parts; its widths are any."""
    return CaiTConfig(
        sa_ffn_layers=sa_layers,
        ca_ffn_layers=blocks - sa_layers,
        init_values=CaiTConfig.init_values if layer_scale else None,
        pre_logits=not head,
    )
