"""`cait-viz predict`."""

from json import dumps

from cait_viz._text import one_line
from cait_viz.cli.options import Count, Image, ModelOptions
from cait_viz.weights.resolve import Checkpoint


def predict(
    image: Image, /, *, top: Count = 5, json: bool = False, given: ModelOptions = ModelOptions()
) -> None:
    """Name what an image shows.

    Args:
        top: how many classes.
        json: print one JSON object, for programs.
    """
    [analysis] = given.analyze(image)
    best = analysis.top(top)
    if json:
        predictions = [
            {"index": int(index), "label": label, "probability": probability}
            for index, (label, probability) in zip(analysis.ranking, best, strict=False)
        ]
        print(dumps({"model": analysis.model.name, "image": image, "predictions": predictions}))
        return
    print(f"{analysis.image_name}, seen by {_introduced(given.checkpoint)}")
    for rank, (label, probability) in enumerate(best, start=1):
        print(f"{rank:>4}  {100 * probability:>5.1f} %  {label}")


def _introduced(checkpoint: Checkpoint) -> str:
    """The model's name, and how good it is as far as that is known."""
    if checkpoint.as_published and checkpoint.variant:
        return f"{checkpoint.name} ({checkpoint.variant.accuracy})"
    weights = one_line(checkpoint.path.name)
    return f"{checkpoint.name} with the weights of {weights}, whose accuracy is not known here"
