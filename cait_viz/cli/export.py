"""`cait-viz export`."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from cait_viz._files import check_folder, check_output
from cait_viz.cli.options import ModelOptions, Output, WeightsAlone, report
from cait_viz.weights.registry import BUNDLED

# What each format's file is called; a SavedModel is a folder.
_ENDINGS = {"savedmodel": "", "keras": ".keras", "onnx": ".onnx", "timm": ".safetensors"}


def export(
    model: str | None = None,
    /,
    *,
    format: Literal["savedmodel", "keras", "onnx", "timm"],
    output: Annotated[Path | None, Output.__metadata__[0]] = None,
    given: WeightsAlone = ModelOptions(),
) -> None:
    """Write a model in a format that other programs read.

    Args:
        model: as --model of the other commands (default: bundled, or the architecture that --weights show).
        format: a folder with TensorFlow's SavedModel, whose outputs have the names of the Keras tutorial's
            port; a Keras file; an ONNX file; or a safetensors file with timm's tensor names.
        output: the file or folder to write (default: the model's name, with the format's ending).
    """
    given = replace(given, model=model)
    name = model or (given.checkpoint.name if given.weights else BUNDLED.name)
    ending = _ENDINGS[format]
    path = output or Path(f"{name}{ending or '_savedmodel'}")
    if ending:
        check_output(path, [ending], given.inputs())
    else:
        check_folder(path, given.inputs())
    _, network = given.load()
    from cait_viz.model.export import export_model

    export_model(network, path, format, given.inputs())
    report(path, f"{name} as {format}")
