"""`Map`: one map of one image, before it is drawn; and two of them side by side."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from PIL import Image

from cait_viz._checks import check_choice
from cait_viz.attention.maps import Floats, Range, value_range
from cait_viz.drawing import figures
from cait_viz.drawing.figures import Caption, ComparedPanel, FigureFormat, percent
from cait_viz.drawing.overlay import Appearance, color_ramp
from cait_viz.errors import SelectionError
from cait_viz.results.analysis import Analysis
from cait_viz.results.explanation import Explanation, Method
from cait_viz.results.tracing import Trace

MapName = Literal["attention", "rollout", "gradient", "relevance"]


@dataclass(frozen=True, eq=False)
class Map:
    """One map of one image.

    Attributes:
        analysis: what the network said of the image.
        grid: (rows, cols) float32, one value for each patch, not negative.
        name: what the map is, in a few words.
        title: what it shows, in words.
        facts: what made it, ready for JSON.
    """

    analysis: Analysis
    grid: Floats
    name: str
    title: str
    facts: Mapping[str, Any]

    def draw(self, limits: Range | None = None, **appearance: Any) -> Image.Image:
        """As `Analysis.draw`, from its own smallest to its own largest value, or from `limits`."""
        return self.analysis.draw(self.grid, limits=limits, **appearance)


def attention_map(analysis: Analysis, block: int | None = None, head: int | None = None) -> Map:
    """The class attention of a block, None being the one that serves best, and a head, None their mean."""
    return Map(
        analysis,
        analysis.attention(block, head)[1:].reshape(analysis.grid_shape),
        f"Attention, {_where(analysis, block, head)}",
        analysis.title(block, head),
        _facts("attention", analysis, block, head),
    )


def rollout_map(trace: Trace, block: int | None = None, head: int | None = None) -> Map:
    """The same attention traced back to the image by rollout."""
    analysis = trace.analysis
    return Map(
        analysis,
        trace.rollout(block, head),
        f"Rollout, {_where(analysis, block, head)}",
        trace.rollout_title(block, head),
        _facts("rollout", analysis, block, head),
    )


def explaining_map(explanation: Explanation, method: Method, block: int | None = None) -> Map:
    """What speaks for a class: the gradient of a block's attention times it, or the relevance of all."""
    block = None if method == "relevance" else block
    names = {"relevance": "Relevance", "gradient": "Gradient × attention"}
    where = "" if method == "relevance" else f", CA block {explanation.analysis.block_index(block) + 1}"
    return Map(
        explanation.analysis,
        explanation.grid(method, block),
        f"{names[method]} for {explanation.label}{where}",
        explanation.title(method, block),
        explanation.facts(method, block),
    )


def shared_limits(maps: Sequence[Map]) -> Range:
    """The smallest and largest value of several maps."""
    ranges = [value_range(one.grid) for one in maps]
    return Range(min(low for low, _ in ranges), max(high for _, high in ranges))


def draw_comparison(maps: Sequence[Map], format: FigureFormat = "png", **appearance: Any) -> bytes:
    """Maps beside each other as one figure file, each with its image, its network and its color scale.

    The same arguments give the same bytes.

    Args:
        maps: two of them, or more.
        format: "png" (200 dots an inch), "svg" or "pdf".
        **appearance: the fields of `Appearance`; with the scale "shared", one value has one color in all of
            them, which makes their values comparable.

    Raises:
        SelectionError: a choice that is not there, no map, or maps of several methods for one scale.
    """
    check_choice("figure format", format, figures.FIGURE_FORMATS)
    chosen = Appearance(**appearance)
    if not maps:
        raise SelectionError("a comparison needs at least one map, and none was given")
    if chosen.scale == "shared" and len({one.facts["method"] for one in maps}) > 1:
        raise SelectionError("the scale “shared” is for maps of one method: two methods measure in two units")
    limits = shared_limits(maps) if chosen.scale == "shared" else None
    panels = []
    for one in maps:
        small = one.analysis.reduced(figures.IMAGE_PIXELS)
        [(label, share)] = one.analysis.top(1)
        model = one.analysis.model
        size = "" if model.as_trained else f" at {model.input_size} pixels, not as it was trained"
        panels.append(
            ComparedPanel(
                title=f"{one.analysis.image_name}  ·  {one.analysis.model.name}",
                image=small.draw(one.grid, limits=limits, **appearance),
                note=f"{one.name}\nSaid to be{size}: {label}, {percent(share)}",
                colors=color_ramp(chosen.colors),
                limits=limits or value_range(one.grid),
            )
        )
    footer = (
        "Below each map: the colors from the least to the most, with the values of a patch. "
        f"{'All maps share one color scale.' if limits else 'Each map has a color scale of its own.'}"
    )
    facts = [one.analysis.facts() | dict(one.facts) for one in maps]
    caption = Caption("Maps side by side", footer, json.dumps(facts, ensure_ascii=False))
    return figures.draw_comparison(panels, caption, format)


def _facts(method: MapName, analysis: Analysis, block: int | None, head: int | None) -> dict[str, Any]:
    return {"method": method, "block": analysis.block_index(block), "head": "mean" if head is None else head}


def _where(analysis: Analysis, block: int | None, head: int | None) -> str:
    which = "mean of the heads" if head is None else f"head {head + 1}"
    return f"CA block {analysis.block_index(block) + 1}, {which}"
