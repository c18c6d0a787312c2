"""`cait-viz export`."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from cait_viz._files import check_output
from cait_viz.cli.options import ModelOptions, report
from cait_viz.weights.registry import BUNDLED

# What each format's file is called; a SavedModel is a folder.
_ENDINGS = {"savedmodel": "", "keras": ".keras", "onnx": ".onnx", "timm": ".safetensors"}


def export(
    model: str | None = None,
    /,
    *,
    format: Literal["savedmodel", "keras", "onnx", "timm"],
    output: Annotated[Path | None, Parameter(name=("--output", "-o"))] = None,
    weights: Path | None = None,
    labels: Path | None = None,
) -> None:
    """Write a model in a format that other programs read.

    Args:
        model: a name that `cait-viz models` lists (default: bundled, or the architecture that --weights
            show).
        format: a folder with TensorFlow's SavedModel, whose outputs have the names of the Keras tutorial's
            port; a Keras file; an ONNX file; or a safetensors file with timm's tensor names.
        output: the file or folder to write (default: the model's name, with the format's ending).
        weights: a checkpoint, in place of the model's own: a safetensors file with timm's tensor names.
        labels: the names of the classes, one a line.
    """
    given = ModelOptions(model=model, weights=weights, labels=labels)
    ending = _ENDINGS[format]
    name = model or (given.checkpoint.name if weights else BUNDLED.name)
    path = output or Path(f"{name}{ending or '_savedmodel'}")
    check_output(path, [ending] if ending else [path.suffix.lower()], given.inputs())
    _, network = given.load()
    from cait_viz.model.export import export_model

    export_model(network, path, format)
    report(path, f"{name} as {format}")
