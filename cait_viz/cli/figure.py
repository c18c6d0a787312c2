"""`cait-viz figure`."""

from typing import Annotated, Literal

from cyclopts import Parameter

from cait_viz._checks import check_index
from cait_viz._files import check_output
from cait_viz.cli.options import Block, Drawing, Images, ModelOptions, Output, write
from cait_viz.drawing.figures import FIGURE_FORMATS
from cait_viz.drawing.overlay import Look
from cait_viz.errors import UsageError


def figure(
    images: Images,
    /,
    *,
    output: Output,
    kind: Literal["heads", "saliency"],
    block: Block = None,
    look: Annotated[Drawing, Parameter(parse="^(?!style|alpha|dim_unseen)")] = Look(),
    given: ModelOptions = ModelOptions(),
) -> None:
    """Draw Figure 6 or Figure 7 of the paper for images of your own.

    Blocks and heads count from 0 here, as the keys of the Keras tutorial do (ca_ffn_block_0_att); the app and
    the figures count them from 1, as the paper does.

    Args:
        output: the figure to write; .png, .svg or .pdf.
        kind: every head of every class-attention block (heads, Figure 6), or the saliency of one block and
            the classes above 10 % (saliency, Figure 7).
    """
    if block is not None:
        if kind == "heads":
            raise UsageError("--block is for --kind saliency: --kind heads shows every block; leave it out")
        check_index("CA block", block, given.config.ca_ffn_layers)
    check_output(output, [f".{ending}" for ending in FIGURE_FORMATS], given.inputs(*images))
    analyses = given.analyze(*images)
    from cait_viz.analysis import draw_figure

    content = draw_figure(
        analyses,
        kind,
        next(ending for ending in FIGURE_FORMATS if output.suffix.lower() == f".{ending}"),
        block=block,
        colormap=look.colormap,
        interpolation=look.interpolation,
        scale=look.scale,
    )
    write(output, content, f"{kind} of {', '.join(analysis.image_name for analysis in analyses)}")
