"""`Randomization`: whether maps change when the network forgets what it learned."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cait_viz._text import number_text
from cait_viz.attention.maps import Floats
from cait_viz.metrics.report import row, table_head
from cait_viz.results.analysis import Analysis


@dataclass(frozen=True, eq=False)
class Randomization:
    """Maps of one image by the trained network, and by it with more and more of it re-initialized.

    The test of Adebayo et al. 2018 (arXiv:1810.03292, section 3, cascading randomization): a map that stays
    as it was does not depend on what the network learned, and explains nothing of it.

    Attributes:
        analysis: what the trained network said.
        target: index of the class, of the maps that are of a class.
        steps: what was re-initialized; each adds to the ones before, and the first is nothing.
        grids: by the name of a map, (steps, rows, cols) float32.
    """

    analysis: Analysis
    target: int
    steps: tuple[str, ...]
    grids: Mapping[str, Floats]

    @property
    def nbytes(self) -> int:
        """The memory that the arrays take, in bytes, with those of the analysis."""
        return sum(grids.nbytes for grids in self.grids.values()) + self.analysis.nbytes

    def correlations(self, name: str) -> NDArray[np.float64]:
        """Spearman's rank correlation of a map with that of the trained network, (steps,) float64.

        1 where both rank the patches alike, about 0 where they have nothing to do with one another, NaN
        where either is flat.
        """
        trained, *changed = self.grids[name]
        return np.array([_same(trained), *(rank_correlation(trained, grid) for grid in changed)])

    def table(self) -> list[str]:
        """The correlations in Markdown, a row for each step and a column for each map."""
        columns = [self.correlations(name) for name in self.grids]
        lines = [*table_head("re-initialized", *self.grids)]
        for step, name in enumerate(self.steps):
            numbers = [column[step] for column in columns]
            cells = ["–" if np.isnan(number) else number_text(number, "z.2f") for number in numbers]
            lines.append(row([name if step < 2 else f"and {name}", *cells]))
        return lines


def rank_correlation(one: Floats, other: Floats) -> float:
    """Spearman's rank correlation of two maps (rows, cols) of one shape; NaN where either is flat."""
    from scipy.stats import rankdata  # type: ignore[import-untyped]

    ranks = np.stack([rankdata(one, axis=None), rankdata(other, axis=None)])
    flat = (ranks == ranks[:, :1]).all(axis=1).any()
    return float("nan") if flat else float(np.corrcoef(ranks)[0, 1])


def _same(grid: Floats) -> float:
    return float("nan") if np.ptp(grid) == 0 else 1.0
