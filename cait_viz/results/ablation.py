"""`Ablation`: what a class loses when one class-attention head is silenced."""

import json
from dataclasses import dataclass
from typing import Any

from cait_viz._checks import check_choice, check_index
from cait_viz._text import number_text, one_line
from cait_viz.attention.maps import Floats
from cait_viz.drawing.figures import FIGURE_FORMATS, Caption, FigureFormat, draw_heads
from cait_viz.drawing.overlay import Appearance
from cait_viz.results.analysis import Analysis, heads_panel


@dataclass(frozen=True, eq=False)
class Ablation:
    """The logits of one image with each class-attention head silenced in turn.

    A silenced head's output is zero: what its attention gathers does not reach the class token (Michel et al.
    2019, arXiv:1905.10650, section 3.1). All else, later blocks included, is computed anew. Heads may stand
    in for each other: a small change does not say that a head did nothing.

    Attributes:
        analysis: what the network said with every head.
        logits: (blocks, heads, classes) float32, those without that head.
    """

    analysis: Analysis
    logits: Floats

    @property
    def nbytes(self) -> int:
        """The memory that the arrays take, in bytes, with those of the analysis."""
        return self.logits.nbytes + self.analysis.nbytes

    def changes(self, target: int | None = None) -> Floats:
        """How a class's logit changes without each head, (blocks, heads) float32.

        Below zero the head spoke for the class, above zero against it.

        Args:
            target: index of the class; None is the most probable one.

        Raises:
            SelectionError: there is no such class.
        """
        index = self._class(target)
        changes: Floats = self.logits[:, :, index] - self.analysis.logits[index]
        return changes

    def label(self, target: int | None = None) -> str:
        """The name of a class; `target` is as for `changes`."""
        return self.analysis.labels[self._class(target)]

    def figure(self, target: int | None = None, format: FigureFormat = "png", **appearance: Any) -> bytes:
        """The paper's Figure 6 as a file, with the changes of a class's logit as its numbers.

        Args:
            target: as for `changes`.
            format: "png" (200 dots an inch), "svg" or "pdf".
            **appearance: colormap, interpolation and scale, as in `cait_viz.drawing.overlay.Appearance`.
        """
        check_choice("figure format", format, FIGURE_FORMATS)
        analysis, changes = self.analysis, self.changes(target)
        label = one_line(self.label(target))
        panel = heads_panel(
            analysis,
            Appearance(**{"style": "map", **appearance}),
            lambda block, head: f"{signed(changes[block, head])}\n",
        )
        footer = (
            "Maps: where the class token looks, in each head of each class-attention (CA) block. Below each "
            f"map: how the logit of “{label}” changes when that head alone is silenced (Michel et al. 2019); "
            "below zero, the head spoke for this class. Heads may stand in for each other."
            f"{analysis.model.size_note}"
        )
        title = f"What {label} loses without each head of {analysis.model.name}"
        description = json.dumps([analysis.facts()], ensure_ascii=False)
        return draw_heads([panel], Caption(title, footer, description), format)

    def _class(self, target: int | None) -> int:
        if target is None:
            return int(self.analysis.ranking[0])
        return check_index("class", target, len(self.analysis.labels))


def signed(change: float) -> str:
    """A change as a person reads it: "+0.25", "−1.30", "0.00"."""
    rounded = number_text(change, "+z.2f")
    return "0.00" if rounded == "+0.00" else rounded
