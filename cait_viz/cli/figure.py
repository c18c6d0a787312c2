"""`cait-viz figure`."""

from typing import Annotated, Literal

from cyclopts import Parameter

from cait_viz._files import check_output, replacing
from cait_viz.attention.maps import FIGURE_FORMATS, check_index
from cait_viz.cli.options import Block, ModelOptions, Output, report
from cait_viz.drawing.overlay import Look
from cait_viz.errors import UsageError


def figure(
    images: Annotated[list[str], Parameter(name="IMAGE")],
    /,
    *,
    output: Output,
    kind: Literal["heads", "saliency"],
    block: Block = None,
    look: Annotated[Look, Parameter(name="*", group="Drawing", parse="^(?!style|alpha|dim_unseen)")] = Look(),
    model: ModelOptions = ModelOptions(),
) -> None:
    """Draw Figure 6 or Figure 7 of the paper for images of your own.

    Blocks and heads count from 0 here, as the keys of the Keras tutorial do (ca_ffn_block_0_att); the app and
    the figures count them from 1, as the paper does.

    Args:
        images: paths or web addresses of images.
        output: the figure to write; .png, .svg or .pdf.
        kind: every head of every class-attention block (heads, Figure 6), or the saliency of one block and
            the classes above 10 % (saliency, Figure 7).
    """
    if block is not None and kind == "heads":
        raise UsageError(
            "--block is for --kind saliency: the figure of the heads shows every block; leave it out"
        )
    if block is not None:
        check_index("CA block", block, model.config.ca_ffn_layers)
    check_output(output, [f".{ending}" for ending in FIGURE_FORMATS], model.inputs(*images))
    loaded, network = model.load(*images)
    from cait_viz.api import analyze
    from cait_viz.drawing.figures import draw_figure

    analyses = [analyze(image, network, model.view) for image in loaded]
    content = draw_figure(
        analyses,
        kind,
        output.suffix.lower().removeprefix("."),
        block=block,
        colormap=look.colormap,
        interpolation=look.interpolation,
        scale=look.scale,
    )
    with replacing(output) as file:
        file.write(content)
    report(output, f"{kind} of {', '.join(result.image_name for result in analyses)}")
