"""`cait-viz compare`."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, TypeVar

from cyclopts import Parameter

from cait_viz._files import check_output
from cait_viz.cli.images import FORMATS, Drawing
from cait_viz.cli.options import METHODS, Blocks, Heads, Methods, ModelOptions, Output, Target, write
from cait_viz.drawing.overlay import Appearance
from cait_viz.engine.base import Engine
from cait_viz.errors import UsageError
from cait_viz.images.read import LoadedImage
from cait_viz.questions import find_map
from cait_viz.results.comparison import draw_comparison

Value = TypeVar("Value")


def compare(
    images: Annotated[
        list[str], Parameter(name="IMAGE...", help="one image, or two; paths or web addresses.")
    ],
    /,
    *,
    output: Output,
    method: Methods = METHODS,
    block: Blocks = (),
    head: Heads = ("mean",),
    target: Target = None,
    other_model: str | None = None,
    other_weights: Path | None = None,
    appearance: Drawing = Appearance(),
    model_options: ModelOptions = ModelOptions(),
) -> None:
    """Draw two maps side by side: of one image or two, by one model or two.

    --method, --block and --head can be given twice, for the first map and the second; given once, they are
    for both. --block applies to attention, rollout and gradient; --head to attention and rollout; --class to
    gradient and relevance. Blocks and heads count from 0 here and from 1 in the figure.

    Args:
        output: the figure to write; .png, .svg or .pdf.
        other_model: the model of the second map (default: that of the first).
        other_weights: the checkpoint of the second map (default: that of the first). Where it has as many
            classes as the first, --labels is for both.
    """
    check_output(output, list(FORMATS), model_options.inputs(*images))
    other = model_options
    same = ((None, None), (model_options.model, model_options.weights))
    if (other_model, other_weights) not in same:
        other = replace(model_options, model=other_model, weights=other_weights, labels=None)
        if model_options.config.num_classes == other.config.num_classes:  # two trainings on the same classes
            other = replace(other, labels=model_options.labels)
    methods, sides = _both("--method", method), (model_options, other)
    if appearance.scale == "shared" and methods[0] != methods[1]:
        raise UsageError("--scale shared is for two maps of one method: two methods measure in two units")
    needed = {
        "--block": (block != (), ("attention", "rollout", "gradient")),
        "--head": (head != ("mean",), ("attention", "rollout")),
        "--class": (target is not None, ("gradient", "relevance")),
    }
    for option, (given, of) in needed.items():
        if given and not set(methods) & set(of):
            raise UsageError(f"{option} is for --method {' or '.join(of)}; leave it out")
    blocks, heads = _both("--block", block or (None,)), _both("--head", head)
    for side, one_block in zip(sides, blocks, strict=True):
        side.check_block(one_block)
    numbers = [side.head_index(one_head) for side, one_head in zip(sides, heads, strict=True)]
    classes = [side.class_index(target) for side in sides]
    loaded = model_options.read(*_both("IMAGE", images))
    maps = [
        find_map(image, engine, name, block=one_block, head=number, target=index, view=model_options.seen)
        for image, engine, name, one_block, number, index in zip(
            loaded, _engines(sides, loaded), methods, blocks, numbers, classes, strict=True
        )
    ]
    content = draw_comparison(maps, FORMATS[output.suffix.lower()], **asdict(appearance))
    write(output, content, " beside ".join(f"{one.name} of {one.analysis.image_name}" for one in maps))


def _engines(sides: tuple[ModelOptions, ModelOptions], images: list[LoadedImage]) -> list[Engine]:
    """The network that looks at each image; one that can look at both is loaded once."""
    if sides[0] is sides[1] and (images[0] is images[1] or sides[0].view != "fit"):
        return 2 * [sides[0].engine_for(*images)]
    return [side.engine_for(image) for side, image in zip(sides, images, strict=True)]


def _both(option: str, values: Sequence[Value]) -> tuple[Value, Value]:
    """What the first and the second map get."""
    if len(values) > 2:
        raise UsageError(f"{option} can be given twice at most, for two maps")
    return values[0], values[-1]
