"""`Trace`: what happened to one image before the class token, block by block; and one block in full."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cait_viz._checks import check_choice, check_index
from cait_viz.attention.maps import Floats, effective_patches, min_max
from cait_viz.attention.patch_stage import read_out, rollout
from cait_viz.drawing.export import npz_bytes
from cait_viz.drawing.figures import (
    FIGURE_FORMATS,
    IMAGE_PIXELS,
    Caption,
    FigureFormat,
    TracePanel,
    draw_trace,
    percent,
)
from cait_viz.drawing.overlay import Appearance, render
from cait_viz.errors import SelectionError
from cait_viz.results.analysis import Analysis

# How many classes are followed through the depths.
_LENS_CLASSES = 5


@dataclass(frozen=True, eq=False)
class Trace:
    """The numbers of the patch stage of one image. L self-attention (SA) blocks, H heads, N patches.

    *Depth* k is after k self-attention blocks: 0 is the patches as they are embedded, L those that the class
    token reads. What the network would have said at a depth is the logit lens (nostalgebraist 2020), for
    CaiT: the class-attention blocks and the classifier, as they are, read the patches of that depth. They
    were trained on those of depth L alone. A block, head, patch or depth that is not there is a
    SelectionError.

    Attributes:
        analysis: what the network said, and the image to draw on.
        attention: for each block the mean over its heads of the attention after the softmax,
            (L, N, N) float32; row i says where patch i looks.
        distances: how far each head looks on average, in pixels of the network's input, (L, H) float32.
        lens_probabilities: what the network would have said at each depth, (L + 1, classes) float32.
        lens_attention: where it would have looked at each depth, "ca_ffn_block_{i}_att" ->
            (L + 1, H, N + 1) float32.
    """

    analysis: Analysis
    attention: Floats
    distances: Floats
    lens_probabilities: Floats
    lens_attention: Mapping[str, Floats]

    @property
    def blocks(self) -> int:
        """The number of self-attention blocks, L."""
        return len(self.attention)

    @property
    def nbytes(self) -> int:
        """The memory that the arrays take, in bytes, with those of the analysis."""
        lens = sum(attention.nbytes for attention in self.lens_attention.values())
        own = self.attention.nbytes + self.distances.nbytes + self.lens_probabilities.nbytes + lens
        return own + self.analysis.nbytes

    def looks_at(self, block: int, patch: int) -> Floats:
        """Where a patch looks in an SA block, (rows, cols) float32 that sum to one: its row of the attention.

        Args:
            block: the block, from 0.
            patch: row by row, from 0.
        """
        return self._grid(self.attention[self._block(block)][self._patch(patch)])

    def looked_at_by(self, block: int, patch: int) -> Floats:
        """Who looks at a patch in an SA block, and how much: its column, (rows, cols) float32.

        Arguments as for `looks_at`. A column is no distribution: it may sum to far more than one.
        """
        return self._grid(self.attention[self._block(block)][:, self._patch(patch)])

    @cached_property
    def rolled(self) -> NDArray[np.float64]:
        """The attention rollout of all SA blocks, (N, N): `cait_viz.attention.patch_stage.rollout`."""
        return rollout(self.attention)

    def rollout(self, block: int | None = None, head: int | None = None) -> Floats:
        """What a class-attention block reads, traced back to the image, (rows, cols) float32 that sum to one.

        Args:
            block: the class-attention block; None is the one that serves best as saliency.
            head: its head; None is the mean of the heads.
        """
        attention = self.analysis.attention(block, head)
        return self._grid(read_out(attention[np.newaxis], self.rolled)[0])

    def lens(self, depth: int, block: int | None = None, head: int | None = None) -> Floats:
        """Where the class token would have looked at a depth, (rows, cols) float32.

        Block and head as for `rollout`.
        """
        return self._grid(self._at(depth).attention(block, head)[1:])

    def lens_top(self, depth: int, count: int = 1) -> list[tuple[str, float]]:
        """Label and probability of the `count` most probable classes at a depth."""
        return self._at(depth).top(count)

    def lens_of(self, index: int) -> Floats:
        """The probability of a class at each depth, (L + 1,) float32."""
        return self.lens_probabilities[:, check_index("class", index, len(self.analysis.labels))]

    def lens_leading(self) -> list[tuple[str, Floats]]:
        """Of the five classes that the whole network finds most probable, label and `lens_of`."""
        leading = self.analysis.ranking[:_LENS_CLASSES]
        return [(self.analysis.labels[index], self.lens_of(index)) for index in leading]

    def rollout_title(self, block: int | None = None, head: int | None = None) -> str:
        """What a rollout shows, in words."""
        where = self.analysis.title(block, head).removeprefix("Where ")
        return f"Attention rollout: what {where.replace(' looked in ', ' read of ', 1)}, traced back"

    def rollout_png(self, block: int | None = None, head: int | None = None, **appearance: Any) -> bytes:
        """`rollout` as a PNG file, with what made it in text chunks; `appearance` as for `Analysis.draw`."""
        analysis = self.analysis
        facts = {
            "method": "rollout",
            "block": analysis.block_index(block),
            "head": "mean" if head is None else head,
        }
        title = self.rollout_title(block, head)
        return analysis.map_png(self.rollout(block, head), title, facts, **appearance)

    def npz(self) -> bytes:
        """The numbers as a compressed NumPy archive, readable without pickle.

        Arrays: `attention`, `distances` and `lens_probabilities` as the attributes of those names,
        "lens_ca_ffn_block_{i}_att" (L + 1, H, N + 1), `rollout` (N, N), `labels`, and `manifest`, what made
        them (JSON).
        """
        arrays: dict[str, NDArray[Any]] = {
            "attention": self.attention,
            "distances": self.distances,
            "lens_probabilities": self.lens_probabilities,
            **{f"lens_{key}": rows for key, rows in self.lens_attention.items()},
            "rollout": self.rolled,
            "labels": np.array(self.analysis.labels, dtype=np.str_),
        }
        return npz_bytes(arrays, self.analysis.facts())

    def figure(self, format: FigureFormat = "png", *, block: int | None = None, **appearance: Any) -> bytes:
        """A figure of all depths as a file: the maps and the classes of the logit lens, and the distances.

        Args:
            format: "png" (200 dots an inch), "svg" or "pdf".
            block: the class-attention block whose maps are drawn, from 0; None is the one that serves best.
            appearance: colormap and interpolation, as in `cait_viz.drawing.overlay.Appearance`.

        Raises:
            SelectionError: a choice that is not there.
        """
        check_choice("figure format", format, FIGURE_FORMATS)
        analysis, chosen = self.analysis, Appearance(**appearance)
        seen = analysis.seen().reduced(IMAGE_PIXELS)
        image = Image.fromarray(seen.image)
        tiles = []
        for depth in range(self.blocks + 1):
            [(label, share)] = self.lens_top(depth)
            drawn = render(image, seen.box, min_max(self.lens(depth, block)), chosen)
            tiles.append((drawn, f"{percent(share)} {label}"))
        index = analysis.block_index(block)
        footer = (
            f"Maps: where class-attention block {index + 1} would have looked (mean of its heads) had the "
            "patch stage stopped there, each with a color scale of its own; below, the class that would have "
            "been named. Left: the probability of the classes that the whole network finds most probable. "
            "The class stage was trained on the last depth alone. Right: how far a patch looks on average; "
            "a dot is a head, the line their mean."
            f"{analysis.model.size_note or f' The input has {analysis.model.input_size} pixels.'}"
        )
        name = f"{analysis.image_name}  ·  {analysis.model.name}"
        panel = TracePanel(name, image, tiles, self.lens_leading(), self.distances)
        description = json.dumps([analysis.facts()], ensure_ascii=False)
        title = f"How {analysis.model.name} got from patches to an answer"
        return draw_trace(panel, Caption(title, footer, description), format)

    def _at(self, depth: int) -> Analysis:
        """What the network would have said at a depth, and where it would have looked; not its logits."""
        index = check_index("depth", depth, self.blocks + 1)
        attention = {key: rows[index] for key, rows in self.lens_attention.items()}
        said = self.lens_probabilities[index]
        return replace(self.analysis, probabilities=said, class_attention=attention)

    def _block(self, block: int) -> int:
        return check_index("SA block", block, self.blocks)

    def _patch(self, patch: int) -> int:
        return check_index("patch", patch, self.attention.shape[1])

    def _grid(self, values: NDArray[np.floating]) -> Floats:
        return np.ascontiguousarray(values.reshape(self.analysis.grid_shape), np.float32)


@dataclass(frozen=True, eq=False)
class BlockAttention:
    """The attention of one self-attention block, for one image.

    Attributes:
        block: the block, from 0.
        grid_shape: rows and columns of patches.
        scores: (H, N, N) float32, after the softmax: row i is the distribution of what patch i looks at.
            Where they are mixed: after `proj_w`, which mixes the heads. Those are no distribution; half of
            them may be negative.
        mixed: whether they are mixed.
    """

    block: int
    grid_shape: tuple[int, int]
    scores: Floats
    mixed: bool = False

    @property
    def nbytes(self) -> int:
        """The memory that the scores take, in bytes."""
        return self.scores.nbytes

    def grid(self, patch: int, head: int | None = None, *, incoming: bool = False) -> Floats:
        """What a patch looks at, or who looks at it, (rows, cols) float32.

        Args:
            patch: row by row, from 0.
            head: None is the mean of the heads.
            incoming: who looks at the patch (its column), in place of what it looks at (its row).

        Raises:
            SelectionError: there is no such patch or head.
        """
        heads, patches, _ = self.scores.shape
        chosen = self.scores if head is None else self.scores[[check_index("head", head, heads)]]
        index = check_index("patch", patch, patches)
        values = chosen[:, :, index] if incoming else chosen[:, index]
        return np.ascontiguousarray(values.mean(axis=0).reshape(self.grid_shape), np.float32)

    def effective_patches(self, patch: int, head: int | None = None) -> float:
        """Over how many patches a patch spreads its attention, from 1 to N: the exponential of the entropy.

        Arguments and errors as for `grid`; a SelectionError for mixed scores, which have no entropy.
        """
        if self.mixed:
            raise SelectionError("mixed scores are no distribution and spread over no number of patches")
        row = self.grid(patch, head).ravel()
        return float(effective_patches(np.insert(row, 0, 0)[np.newaxis])[0])

    def title(self, patch: int, head: int | None = None, *, incoming: bool = False) -> str:
        """What a grid shows, in words. Arguments as for `grid`."""
        row, column = divmod(patch, self.grid_shape[1])
        place = f"the patch in row {row + 1}, column {column + 1}"
        what = f"Who looks at {place}" if incoming else f"Where {place} looks"
        scores = ", scores after the mixing of the heads" if self.mixed else ""
        which = "mean of the heads" if head is None else f"head {head + 1}"
        return f"{what}: self-attention block {self.block + 1}, {which}{scores}"

    def facts(self, patch: int, head: int | None = None, *, incoming: bool = False) -> dict[str, Any]:
        """What made a grid, ready for JSON. Arguments as for `grid`."""
        row, column = divmod(patch, self.grid_shape[1])
        return {
            "sa_block": self.block,
            "head": "mean" if head is None else head,
            "patch_row": row,
            "patch_column": column,
            "shows": "who looks at it" if incoming else "where it looks",
            "scores": "after proj_w" if self.mixed else "softmax",
        }


def patch_at(grid_shape: tuple[int, int], row: int, column: int) -> int:
    """The index of the patch in a row and a column, both from 0; a SelectionError if there is none."""
    rows, columns = grid_shape
    return check_index("row", row, rows) * columns + check_index("column", column, columns)
