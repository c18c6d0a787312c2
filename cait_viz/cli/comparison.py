"""`cait-viz compare`."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, TypeVar

from cyclopts import Parameter

from cait_viz._files import check_output
from cait_viz.cli.images import FORMATS, OneMapDrawing
from cait_viz.cli.options import Head, ModelOptions, Output, write
from cait_viz.drawing.overlay import Appearance
from cait_viz.engine.base import Engine
from cait_viz.errors import UsageError
from cait_viz.images.read import LoadedImage
from cait_viz.questions import find_map
from cait_viz.results.comparison import MapName, draw_comparison

Value = TypeVar("Value")

# Once for both maps, or for the first and the second.
_Several = Parameter(show_default=False, negative=())


def compare(
    images: Annotated[list[str], Parameter(name="IMAGE", help="one image, or two; paths or web addresses.")],
    /,
    *,
    output: Output,
    map: tuple[MapName, ...] = ("attention", "rollout"),
    block: Annotated[tuple[int, ...], _Several] = (),
    head: Annotated[tuple[Head, ...], _Several] = (),
    target: Annotated[str | None, Parameter(name="--class")] = None,
    other_model: str | None = None,
    other_weights: Path | None = None,
    one_scale: bool = False,
    appearance: OneMapDrawing = Appearance(),
    model_options: ModelOptions = ModelOptions(),
) -> None:
    """Draw two maps side by side: of one image or two, by one model or two.

    What can be given twice is for the first map and the second; given once, it is for both. Blocks and heads
    count from 0 here and from 1 in the figure.

    Args:
        output: the figure to write; .png, .svg or .pdf.
        map: attention, the class attention of a block; its rollout; gradient, times that attention; or
            relevance, of all blocks; once or twice.
        block: class-attention block, from 0; once or twice (default: the one that serves best as saliency).
        head: attention head, from 0, or mean; once or twice (default: mean).
        target: of gradient and relevance the class, by its name or its index (default: the most probable).
        other_model: the model of the second map (default: that of the first).
        other_weights: the checkpoint of the second map (default: that of the first).
        one_scale: give one value one color in both maps.
    """
    check_output(output, list(FORMATS), model_options.inputs(*images))
    other = model_options
    if other_model is not None or other_weights is not None:
        other = replace(model_options, model=other_model, weights=other_weights, labels=None)
    methods, sides = _both("--map", map), (model_options, other)
    if one_scale and methods[0] != methods[1]:
        raise UsageError("--one-scale is for two maps of one method: two methods measure in two units")
    needed = {
        "--block": (block, ("attention", "rollout", "gradient")),
        "--head": (head, ("attention", "rollout")),
        "--class": (target, ("gradient", "relevance")),
    }
    for option, (value, of) in needed.items():
        if value not in ((), None) and not set(methods) & set(of):
            raise UsageError(f"{option} is for --map {' or '.join(of)}; leave it out")
    blocks, heads = _both("--block", block or (None,)), _both("--head", head or ("mean",))
    for side, one_block in zip(sides, blocks, strict=True):
        side.check_block(one_block)
    numbers = [side.head_index(one_head) for side, one_head in zip(sides, heads, strict=True)]
    classes = [side.class_index(target) for side in sides]
    sources = _loaded(model_options, other, _both("IMAGE", images))
    maps = [
        find_map(*source, method, block=one_block, head=number, target=index, view=model_options.seen)
        for source, method, one_block, number, index in zip(
            sources, methods, blocks, numbers, classes, strict=True
        )
    ]
    content = draw_comparison(maps, FORMATS[output.suffix.lower()], one_scale=one_scale, **asdict(appearance))
    write(output, content, " beside ".join(f"{one.name} of {one.analysis.image_name}" for one in maps))


def _loaded(
    model_options: ModelOptions, other: ModelOptions, images: tuple[str, str]
) -> list[tuple[LoadedImage, Engine]]:
    """Each image with the network that looks at it; what both maps share is loaded once."""
    different = dict.fromkeys(images)
    if other is model_options and (len(different) == 1 or not model_options.fit):
        loaded, engine = model_options.load(*different)
        return [(loaded[0], engine), (loaded[-1], engine)]
    found = [side.load(image) for side, image in zip((model_options, other), images, strict=True)]
    return [(image, engine) for [image], engine in found]


def _both(option: str, values: Sequence[Value]) -> tuple[Value, Value]:
    """What the first and the second map get."""
    if len(values) > 2:
        raise UsageError(f"{option} can be given twice at most, for two maps")
    return values[0], values[-1]
