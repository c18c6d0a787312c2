"""`cait-viz render`."""

from dataclasses import asdict
from typing import Annotated, Literal

from cyclopts import Parameter

from cait_viz._files import check_output, replacing
from cait_viz.attention.maps import check_index
from cait_viz.cli.options import Block, ModelOptions, Output, report
from cait_viz.drawing.overlay import Look


def render(
    image: str,
    /,
    *,
    output: Output,
    block: Block = None,
    head: int | Literal["mean"] = "mean",
    look: Annotated[Look, Parameter(name="*", group="Drawing", parse="^(?!dim_unseen)")] = Look(),
    model: ModelOptions = ModelOptions(),
) -> None:
    """Draw where one head looked, over the image.

    Blocks and heads count from 0 here, as the keys of the Keras tutorial do (ca_ffn_block_0_att); the app and
    the figures count them from 1, as the paper does.

    Args:
        image: path or web address of an image.
        output: the image to write, as large as the one given; .png.
        head: attention head, from 0, or the mean of the heads.
    """
    if block is not None:
        check_index("CA block", block, model.config.ca_ffn_layers)
    number = None if head == "mean" else head
    if number is not None:
        check_index("head", number, model.config.num_heads)
    check_output(output, [".png"], model.inputs(image))
    [loaded], network = model.load(image)
    from cait_viz.api import analyze

    analysis = analyze(loaded, network, model.view)
    content = analysis.png(block, number, **asdict(look))
    with replacing(output) as file:
        file.write(content)
    report(output, analysis.title(block, number))
