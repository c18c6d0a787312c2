"""The figures of the paper as files: the heads of every block (Figure 6), the saliency (Figure 7).

Touvron et al., "Going deeper with Image Transformers" (2021), section 5.5.
"""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from PIL import Image

from cait_viz.attention.maps import FIGURE_FORMATS, FIGURES, check_choice, upsample
from cait_viz.drawing.export import SOFTWARE
from cait_viz.drawing.layouts import (
    MAP_PIXELS,
    PICTURE_PIXELS,
    HeadsPanel,
    SaliencyPanel,
    lay_out_heads,
    lay_out_saliency,
)
from cait_viz.drawing.overlay import Look, colored
from cait_viz.drawing.pages import Caption
from cait_viz.errors import SelectionError

if TYPE_CHECKING:
    from cait_viz.analysis import Analysis


def draw_figure(
    analyses: Sequence["Analysis"],
    kind: str = "heads",
    format: str = "png",
    *,
    block: int | None = None,
    colormap: str | None = None,
    interpolation: str = "bicubic",
    scale: str = "head",
) -> bytes:
    """A figure of the paper, of one or several results, as a file.

    Both show what the network saw of each picture, and no more of it.

    Args:
        analyses: at least one result.
        kind: "heads", every head of every class-attention block (Figure 6); "saliency", the picture
            beside its saliency and under them every class above 10 % (Figure 7).
        format: "png" (200 dots an inch), "svg" or "pdf".
        block: the block whose saliency is drawn, from 0; None is the one that serves best. The
            heads are those of all blocks.
        colormap: one of `maps.COLORMAPS`; None is viridis for the heads and the paper's cividis for
            the saliency.
        interpolation: "bicubic" or "nearest".
        scale: "head" or "shared", as in `Look`.

    Returns:
        The file. The same arguments give the same bytes.

    Raises:
        SelectionError: a choice that is not there, or more pictures than fit on a page.
    """
    check_choice("figure", kind, FIGURES)
    check_choice("figure format", format, FIGURE_FORMATS)
    if not analyses:
        raise SelectionError("a figure needs at least one picture, and none was given")
    draw, style = _DRAWN[kind]
    look = Look(style=style, colormap=colormap, interpolation=interpolation, scale=scale)
    return draw(analyses, block, look, format)


def percent(share: float) -> str:
    """A share of one as a person reads it: "57 %", "<1 %"."""
    rounded = f"{100 * share:.0f} %"
    return "<1 %" if rounded == "0 %" and share > 0 else rounded


def _heads_figure(analyses: Sequence["Analysis"], block: int | None, look: Look, file_format: str) -> bytes:
    panels = [_heads_panel(analysis, look) for analysis in analyses]
    patches = sorted({len(analysis.attention()) - 1 for analysis in analyses})
    ranges = {
        "head": "Each map has a colour range of its own.",
        "shared": "All maps of a picture share one colour range.",
    }
    footer = (
        "Where the class token looks, in each head of each class-attention (CA) block. Below each map: "
        "the share of its attention that the token pays to itself, and over how many patches, of "
        f"{' or '.join(map(str, patches))}, it spreads the rest (the exponential of the entropy). "
        f"{ranges[look.scale]}"
    )
    title = f"Class attention of {_names(analyses)}, head by head"
    return lay_out_heads(panels, Caption(title, footer, _description(analyses), SOFTWARE), file_format)


def _heads_panel(analysis: "Analysis", look: Look) -> HeadsPanel:
    seen = analysis.seen()
    factor = MAP_PIXELS / max(seen.size)
    width, height = (max(1, round(side * factor)) for side in seen.size)

    def drawn(block: int, head: int) -> Image.Image:
        grid = analysis.grid(block, head, look.scale)
        return colored(upsample(grid, (height, width), look.interpolation), look.colors)

    blocks, heads = range(analysis.blocks), range(analysis.heads)
    return HeadsPanel(
        title=f"{analysis.image_name}  ·  {analysis.model.name}",
        image=Image.fromarray(seen.reduced(PICTURE_PIXELS).image),
        maps=[[drawn(block, head) for head in heads] for block in blocks],
        notes=[_notes(analysis, block) for block in blocks],
    )


def _notes(analysis: "Analysis", block: int) -> list[tuple[str, str]]:
    numbers = zip(analysis.class_token_attention(block), analysis.effective_patches(block), strict=True)
    return [(f"itself {percent(own)}", f"{spread:.0f} patches") for own, spread in numbers]


def _saliency_figure(
    analyses: Sequence["Analysis"], block: int | None, look: Look, file_format: str
) -> bytes:
    panels = [_saliency_panel(analysis, block, look) for analysis in analyses]
    spoke = {
        f"{analysis.model.name} (CA block {analysis.block_index(block) + 1})": None for analysis in analyses
    }
    footer = (
        f"Right: the grey-level picture multiplied by the class attention of {', '.join(spoke)}, mean of the "
        "heads. Below: every class with more than 10 % probability."
    )
    title = f"Saliency of {_names(analyses)}"
    return lay_out_saliency(panels, Caption(title, footer, _description(analyses), SOFTWARE), file_format)


def _saliency_panel(analysis: "Analysis", block: int | None, look: Look) -> SaliencyPanel:
    seen = analysis.seen().reduced(PICTURE_PIXELS)
    saliency = seen.overlay(
        block, style=look.style, colormap=look.colormap, interpolation=look.interpolation, scale=look.scale
    )
    named = [(label, percent(probability)) for label, probability in analysis.confident()]
    label, probability = analysis.predictions[0]
    return SaliencyPanel(
        image=Image.fromarray(seen.image),
        saliency=saliency,
        classes=named or [("no class above 10 %; the first is", ""), (label, percent(probability))],
    )


_DRAWN = {"heads": (_heads_figure, "map"), "saliency": (_saliency_figure, "paper")}


def _names(analyses: Sequence["Analysis"]) -> str:
    return ", ".join(dict.fromkeys(analysis.model.name for analysis in analyses))


def _description(analyses: Sequence["Analysis"]) -> str:
    return json.dumps([analysis.facts() for analysis in analyses], ensure_ascii=False)
