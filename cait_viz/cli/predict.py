"""`cait-viz predict`."""

import json as json_format
from typing import TYPE_CHECKING, Any

from cait_viz._text import one_line
from cait_viz.cli.options import Count, ModelOptions

if TYPE_CHECKING:
    from cait_viz.weights.resolve import Checkpoint


def predict(
    image: str, /, *, top: Count = 5, json: bool = False, model: ModelOptions = ModelOptions()
) -> None:
    """Name what an image shows.

    Args:
        image: path or web address of an image.
        top: how many classes.
        json: print one JSON object, for programs.
    """
    [loaded], network = model.load(image)
    from cait_viz.api import analyze

    analysis = analyze(loaded, network, model.view)
    if json:
        ranked = zip(analysis.ranking, analysis.top(top), strict=False)
        predictions: list[dict[str, Any]] = [
            {"index": int(index), "label": label, "probability": probability}
            for index, (label, probability) in ranked
        ]
        found = {"model": analysis.model.name, "image": image, "predictions": predictions}
        print(json_format.dumps(found))
        return
    print(f"{analysis.image_name}, seen by {_introduced(model.checkpoint)}")
    for rank, (label, probability) in enumerate(analysis.top(top), start=1):
        print(f"{rank:>4}  {100 * probability:>5.1f} %  {label}")


def _introduced(checkpoint: "Checkpoint") -> str:
    """The model's name, and how good it is as far as that is known."""
    if checkpoint.as_published and checkpoint.variant:
        return f"{checkpoint.name} ({checkpoint.variant.accuracy})"
    weights = one_line(checkpoint.path.name)
    return f"{checkpoint.name} with the weights of {weights}, whose accuracy is not known here"
