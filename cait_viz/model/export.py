"""A CaiT in the formats of other tools; Keras and what a format needs are imported when it is written."""

import importlib.util
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import save_file

from cait_viz._files import atomic_path, check_folder, check_output
from cait_viz.errors import CaitVizError, SelectionError
from cait_viz.model.timm_names import state_dict

if TYPE_CHECKING:
    from cait_viz.model.cait import CaiT

# Each format with the ending of its file; a SavedModel is a folder.
FORMATS = {"savedmodel": "", "keras": ".keras", "onnx": ".onnx", "timm": ".safetensors"}

# The packages of those that TensorFlow writes.
WITH_TENSORFLOW = {"savedmodel": ("tensorflow",), "onnx": ("tensorflow", "tf2onnx")}

# The first operator set with LayerNormalization, which runtimes of 2023 and later know.
_OPSET = 17


def export_model(model: "CaiT", path: str | Path, format: str, inputs: Iterable[Path] = ()) -> None:
    """Write a CaiT in another tool's format, whole or not at all.

    "savedmodel" and "onnx" take images (B, height, width, 3) float32, as `cait_viz.preprocess` makes them,
    and give the names of the Keras tutorial's port: "output_1" (B, classes), "output_2_sa_ffn_block_{k}_att"
    (B, H, N, N) and "output_3_ca_ffn_block_{i}_att" (B, H, 1, 1 + N). "keras" is loaded with
    `keras.models.load_model` after `import cait_viz.model.cait`. "timm" is a safetensors file with timm's
    tensor names.

    Args:
        model: the network.
        path: the file to write, with its format's ending; for "savedmodel" a new or empty folder.
        format: one of `FORMATS`.
        inputs: files and folders that must not be replaced, such as the model's own weights.

    Raises:
        SelectionError: there is no such format, or the file has another ending.
        OutputError: the path cannot be written, or holds something already.
        CaitVizError: the format needs another backend of Keras, or a package that is not installed.
    """
    path = Path(path).expanduser()
    if format not in FORMATS:
        raise SelectionError(f"there is no format {format!r}; choose one of {', '.join(FORMATS)}")
    if format == "savedmodel":
        check_folder(path, inputs)
    else:
        check_output(path, (FORMATS[format],), inputs)
    source = model.source
    if format == "timm" and source is not None and model.config.image_size != source.trained_size:
        raise SelectionError(
            "timm's format keeps the size that the weights were trained for; leave out the other image size"
        )
    with atomic_path(path) as part:
        _WRITERS[format](model, part)


def _write_savedmodel(model: "CaiT", path: Path) -> None:
    _require_tensorflow("savedmodel")
    import keras

    images = keras.InputSpec(shape=(None, *model.config.image_shape, 3), dtype="float32", name="input_1")
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint("serving_default", _named_outputs(model), input_signature=[images])
    archive.write_out(str(path), verbose=False)


def _write_onnx(model: "CaiT", path: Path) -> None:
    _require_tensorflow("onnx")
    import tensorflow as tf
    import tf2onnx

    proto, _ = tf2onnx.convert.from_function(
        tf.function(_named_outputs(model), autograph=False),
        [tf.TensorSpec((None, *model.config.image_shape, 3), tf.float32, name="images")],
        opset=_OPSET,
        custom_op_handlers={"Erfc": (_erfc, [])},
    )
    path.write_bytes(proto.SerializeToString())


_WRITERS: dict[str, Callable[["CaiT", Path], object]] = {
    "savedmodel": _write_savedmodel,
    "keras": lambda model, path: model.save(path),
    "onnx": _write_onnx,
    "timm": lambda model, path: save_file(state_dict(model), path, metadata={"format": "pt"}),
}


def _named_outputs(model: "CaiT") -> Callable[[Any], dict[str, Any]]:
    """The network as a function of images whose outputs have the names of the tutorial's port."""

    def run(images: Any) -> dict[str, Any]:
        logits, sa_attention, ca_attention = model(images, training=False)
        outputs = {f"output_2_{name}": attention for name, attention in sa_attention.items()}
        outputs |= {f"output_3_{name}": attention for name, attention in ca_attention.items()}
        return {"output_1": logits} | outputs

    return run


def require_packages(format: str) -> None:
    """Refuse, by a CaitVizError, a format that needs a package which is not installed."""
    missing = [name for name in WITH_TENSORFLOW.get(format, ()) if importlib.util.find_spec(name) is None]
    if missing:
        way_out = f"install what is missing with `pip install {' '.join(missing)}`"
        raise CaitVizError(f"the format {format} is written with TensorFlow; {way_out}")


def _require_tensorflow(name: str) -> None:
    require_packages(name)
    import keras

    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise CaitVizError(
            f"the format {name} is written with TensorFlow, but Keras was started with {backend}; "
            "set KERAS_BACKEND=tensorflow before Keras is imported"
        )


def _erfc(graph: Any, node: Any, name: str, _arguments: Any) -> None:
    """Write TensorFlow's Erfc, its exact GELU, as 1 - Erf: tf2onnx has no rule for it."""
    node.type = "Erf"
    consumers = graph.find_output_consumers(node.output[0])
    one = graph.make_const(f"{name}_one", np.ones((), np.float32))
    complement = graph.make_node("Sub", [one.output[0], node.output[0]], name=f"{name}_complement")
    graph.replace_all_inputs(node.output[0], complement.output[0], ops=consumers)
