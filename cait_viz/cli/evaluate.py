"""`cait-viz evaluate`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from cait_viz.cli.options import Count, Index, ModelAlone, ModelOptions


def evaluate(
    folders: Annotated[list[Path], Parameter(name="FOLDER")],
    /,
    *,
    teacher: Path | None = None,
    teacher_size: Count | None = None,
    faithfulness: Index = 0,
    seed: Index = 0,
    given: ModelAlone = ModelOptions(),
) -> None:
    """Measure a model's accuracy on folders of labeled images, and how faithful its maps are, in Markdown.

    Args:
        folders: each holds a folder of images for each class, named as it or after its WordNet id.
        teacher: an ONNX file, see `cait-viz distil`, to be measured on the same images (default: none).
        teacher_size: side of its input in pixels (default: its own, or 224).
        faithfulness: number of images, spread over the classes of all folders, on which deletion and
            insertion are measured as well; about 310 forward passes an image.
        seed: decides which images these are, and on all that is random.
    """
    from cait_viz import evaluation

    evaluation.evaluate(
        folders,
        model=given.model,
        weights=given.weights,
        labels=given.labels,
        teacher=teacher,
        teacher_size=teacher_size,
        faithfulness=faithfulness,
        seed=seed,
    )
