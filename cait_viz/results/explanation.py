"""`Explanation`: which patches speak for one class, by the gradients of its logit."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal, get_args

import numpy as np

from cait_viz._checks import check_choice, check_index
from cait_viz.attention.maps import Floats
from cait_viz.attention.relevance import weighted
from cait_viz.errors import SelectionError
from cait_viz.results.analysis import Analysis

Method = Literal["gradient", "relevance"]
METHODS: tuple[Method, ...] = get_args(Method)


@dataclass(frozen=True, eq=False)
class Explanation:
    """What speaks for one class in one image.

    Two methods, each after Chefer et al. 2021 (arXiv:2103.15679):

    - "gradient": in one class-attention block, the attention to each patch times the gradient of the class's
      logit with respect to it; the positive part, the mean of the heads (equation 5).
    - "relevance": the same of every block of both stages, propagated from the image to the class token
      (equation 6; `cait_viz.attention.relevance`).

    Attributes:
        analysis: what the network said.
        target: index of the class.
        attention: (blocks, H, 1 + N) float32, the class attention.
        gradient: of the class's logit with respect to it, in the same shape.
        relevance: of each patch, (N,) float32.
    """

    analysis: Analysis
    target: int
    attention: Floats
    gradient: Floats
    relevance: Floats

    @property
    def label(self) -> str:
        """The name of the class."""
        return self.analysis.labels[self.target]

    @property
    def nbytes(self) -> int:
        """The memory that the arrays take, in bytes, with those of the analysis."""
        own = self.attention.nbytes + self.gradient.nbytes + self.relevance.nbytes
        return own + self.analysis.nbytes

    def grid(self, method: Method = "relevance", block: int | None = None) -> Floats:
        """A map, (rows, cols) float32, not negative.

        Args:
            method: "gradient" or "relevance".
            block: for "gradient" the class-attention block; None is the one that serves best as saliency.

        Raises:
            SelectionError: there is no such method or block.
        """
        check_choice("method", method, METHODS)
        values = self.relevance
        if method == "gradient":
            index = self.analysis.block_index(block)
            values = weighted(self.attention[index, :, 1:], self.gradient[index, :, 1:])
        return np.ascontiguousarray(values.reshape(self.analysis.grid_shape))

    def title(self, method: Method = "relevance", block: int | None = None) -> str:
        """What a map shows, in words. Arguments as for `grid`."""
        analysis = self.analysis
        where = (
            "all blocks"
            if method == "relevance"
            else f"class-attention block {analysis.block_index(block) + 1}"
        )
        name = {"gradient": "gradient times attention", "relevance": "relevance"}[method]
        return (
            f"What speaks for {self.label} in {analysis.image_name}: {name}, {where}, {analysis.model.name}"
        )

    def facts(self, method: Method = "relevance", block: int | None = None) -> dict[str, Any]:
        """What made a map, ready for JSON. Arguments as for `grid`."""
        facts: dict[str, Any] = {"method": method, "target": self.target, "target_label": self.label}
        return facts if method == "relevance" else facts | {"block": self.analysis.block_index(block)}


def class_of(labels: Sequence[str], target: str | int) -> int:
    """The index of a class, given by its index or by its name, in whatever case.

    Where labels list several names, such as "tabby, tabby cat", each of them will do; one that is the whole
    label of a class means that class. Digits are an index, unless they are a name.

    Raises:
        SelectionError: there is no such class, or several of that name.
    """
    if not isinstance(target, str):
        return check_index("class", target, len(labels))
    wanted = target.strip().casefold()
    whole: dict[str, list[int]] = {}
    names: dict[str, list[int]] = {}
    for index, label in enumerate(labels):
        whole.setdefault(label.strip().casefold(), []).append(index)
        for name in {name.strip().casefold() for name in (label, *label.split(","))}:
            names.setdefault(name, []).append(index)
    found = whole.get(wanted) or names.get(wanted, [])
    if not found and re.fullmatch("[0-9]{1,9}", wanted):
        return check_index("class", int(wanted), len(labels))
    if len(found) == 1:
        return found[0]
    if found:
        numbers = ", ".join(map(str, found))
        raise SelectionError(f"several classes are called {target!r}; give the index of one: {numbers}")
    near = ", ".join(get_close_matches(wanted, names, n=3))
    raise SelectionError(f"there is no class {target!r}{f'; do you mean one of {near}?' if near else ''}")
