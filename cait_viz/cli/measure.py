"""`cait-viz evaluate`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from cait_viz.cli.options import Count, ModelOptions


def evaluate(
    folders: Annotated[list[Path], Parameter(name="FOLDER")],
    /,
    *,
    teacher: Path | None = None,
    teacher_size: Count | None = None,
    faithfulness: Count | None = None,
    seed: int = 0,
    model: Annotated[ModelOptions, Parameter(parse="^(?!view$)")] = ModelOptions(),
) -> None:
    """Measure a model's accuracy on folders of labelled images, and how faithful its maps are.

    Each FOLDER holds one folder of images a class, named as the class or, of ImageNet, after its WordNet id.
    The results are printed as Markdown.

    Args:
        folders: folders with one folder of images a class.
        teacher: an ONNX file, see `cait-viz distil`, to be measured on the same images.
        teacher_size: side of its input in pixels (default: its own, or 224).
        faithfulness: number of images, from all folders, on which deletion and insertion are measured as well
            (default: none); about 310 forward passes an image.
        seed: decides which images, and on all that is random.
    """
    from cait_viz.cli import evaluate as measuring

    measuring.evaluate(
        folders,
        model=model.model,
        weights=model.weights,
        labels=model.labels,
        teacher=teacher,
        teacher_size=teacher_size,
        faithfulness=faithfulness,
        seed=seed,
        print_line=print,
    )
