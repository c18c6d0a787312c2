"""`cait-viz render`."""

from dataclasses import asdict
from typing import Literal

from cait_viz._checks import check_index
from cait_viz._files import check_output
from cait_viz.cli.options import Block, Drawing, Image, ModelOptions, Output, write
from cait_viz.drawing.overlay import Look


def render(
    image: Image,
    /,
    *,
    output: Output,
    block: Block = None,
    head: int | Literal["mean"] = "mean",
    look: Drawing = Look(),
    given: ModelOptions = ModelOptions(),
) -> None:
    """Draw where one head looked, over the image.

    Blocks and heads count from 0 here, as the keys of the Keras tutorial do (ca_ffn_block_0_att); the app and
    the figures count them from 1, as the paper does.

    Args:
        output: the image to write, as large as the one given; .png.
        head: attention head, from 0, or the mean of the heads.
    """
    number = None if head == "mean" else check_index("head", head, given.config.num_heads)
    if block is not None:
        check_index("CA block", block, given.config.ca_ffn_layers)
    check_output(output, [".png"], given.inputs(image))
    [analysis] = given.analyze(image)
    write(output, analysis.png(block, number, **asdict(look)), analysis.title(block, number))
