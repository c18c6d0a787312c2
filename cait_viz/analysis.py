"""`Analysis`: what came out of one image, able to draw and save itself; and the figures of several.

Drawing it again with another block, head, style or color runs no network. The numbers are in `result`.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict, Unpack

import numpy as np
from PIL import Image

from cait_viz._checks import check_choice
from cait_viz._files import replacing
from cait_viz.attention import maps
from cait_viz.attention.maps import Interpolation, Scale, upsample
from cait_viz.drawing.export import (
    SOFTWARE,
    archive_side,
    npz_bytes,
    png_bytes,
    safe_name,
    versions,
    zip_bytes,
)
from cait_viz.drawing.figures import (
    FIGURE_FORMATS,
    FIGURES,
    IMAGE_PIXELS,
    MAP_PIXELS,
    Caption,
    FigureFormat,
    HeadsPanel,
    Kind,
    SaliencyPanel,
    draw_heads,
    draw_saliency,
    percent,
)
from cait_viz.drawing.overlay import Look, LookOptions, Style, colored, reduced, render, seen_part
from cait_viz.errors import SelectionError
from cait_viz.images.preprocess import Box
from cait_viz.result import CONFIDENT, ModelInfo, Result

__all__ = ["CONFIDENT", "Analysis", "ModelInfo", "draw_figure"]

# The longer side, in pixels, of the image that a notebook shows.
_NOTEBOOK_SIDE = 1024

# How many classes a manifest and a text chunk list.
_LISTED_CLASSES = 5


class FigureOptions(TypedDict, total=False):
    """The keyword arguments of `draw_figure`."""

    block: int | None
    colormap: str | None
    interpolation: Interpolation
    scale: Scale


class Analysis(Result):
    """The result of one image, drawn and saved. Its numbers are those of `Result`."""

    def _repr_png_(self) -> bytes:
        return self.png(max_side=_NOTEBOOK_SIDE)

    # Drawn

    def overlay(
        self,
        block: int | None = None,
        head: int | None = None,
        *,
        max_side: int | None = None,
        **look: Unpack[LookOptions],
    ) -> Image.Image:
        """One map drawn with the image, RGB, in the image's own size.

        Args:
            block: the class-attention block, from 0; None is the one that serves best as saliency.
            head: the head, from 0; None is the mean of the heads.
            max_side: for a screen, the longer side in pixels of a smaller copy to draw on.
            **look: the fields of `Look`: style, colormap, alpha, interpolation, scale, dim_unseen.

        Raises:
            SelectionError: a choice that is not there.
        """
        chosen = Look(**look)
        grid = self.grid(block, head, chosen.scale)
        on = self if max_side is None else self.reduced(max_side)
        return render(Image.fromarray(on.image), on.box, grid, chosen)

    def reduced(self, max_side: int) -> "Analysis":
        """The same result with a smaller copy of its image, for drawing many views on a screen.

        What is to be kept is better saved from the full one: this one's `image` and `box` are the copy's.

        Args:
            max_side: the longer side of the copy in pixels; a smaller image stays as it is.

        Raises:
            SelectionError: `max_side` is not a whole number of at least 1.
        """
        image, box = reduced(Image.fromarray(self.image), self.box, max_side)
        return self if image.size == self.size else replace(self, image=np.asarray(image), box=box)

    def seen(self) -> "Analysis":
        """The same result with only what the network saw of the image."""
        part = np.asarray(seen_part(Image.fromarray(self.image), self.box))
        return replace(self, image=part, box=Box(0.0, 0.0, float(part.shape[1]), float(part.shape[0])))

    def title(self, block: int | None = None, head: int | None = None) -> str:
        """What a map shows, in words: a title, or the text in place of the image."""
        chosen = self._head(head)
        which = "mean of the heads" if chosen is None else f"head {chosen + 1}"
        return (
            f"Where {self.model.name} looked in {self.image_name}: "
            f"class-attention block {self.block_index(block) + 1}, {which}"
        )

    # Saved

    def png(
        self,
        block: int | None = None,
        head: int | None = None,
        *,
        max_side: int | None = None,
        **look: Unpack[LookOptions],
    ) -> bytes:
        """`overlay` as a PNG file, with what made it in text chunks. Arguments as there."""
        facts = {**self.facts(), **self._map_facts(block, head), **Look(**look).facts()}
        # Keywords that the PNG specification knows begin with a capital letter.
        text = {"Title": self.title(block, head), "Software": facts.pop("software"), **facts}
        return png_bytes(self.overlay(block, head, max_side=max_side, **look), text)

    def figure(
        self, kind: Kind = "heads", format: FigureFormat = "png", **options: Unpack[FigureOptions]
    ) -> bytes:
        """A figure of the paper as a file: `draw_figure` of this one result. Arguments as there."""
        return draw_figure([self], kind, format, **options)

    def archive(self, **look: Unpack[LookOptions]) -> bytes:
        """Every block and head and the means of the heads as PNG files in a ZIP, with a manifest.

        The maps have the image's own resolution as long as they have 150 megapixels together, else less.
        `manifest.json` says which, what made them, and the numbers of each.

        Args:
            **look: the fields of `Look`, the same for all of them.

        Raises:
            SelectionError: a choice that is not there.
        """
        views = [(block, head) for block in range(self.blocks) for head in (None, *range(self.heads))]
        side = archive_side(self.size, len(views))
        files = (
            (
                f"{self.file_stem(block, head)}.png",
                self.png(block, head, max_side=side, **look),
                self._map_facts(block, head),
            )
            for block, head in views
        )
        return zip_bytes(files, {**self.facts(), **Look(**look).facts(), "longer_side": side})

    def npz(self) -> bytes:
        """The numbers as a compressed NumPy archive, readable without pickle.

        Arrays: each block's class attention under its key, `logits`, `probabilities`, `labels`, `box`
        (left, top, right, bottom), `grid_shape` (rows, columns), and `manifest`, what made them (JSON).
        """
        arrays = {
            **self.class_attention,
            "logits": self.logits,
            "probabilities": self.probabilities,
            "labels": np.array(self.labels, dtype=np.str_),
            "box": np.array(self.box),
            "grid_shape": np.array(self.grid_shape),
        }
        return npz_bytes(arrays, self.facts())

    def save(self, path: str | Path, **options: Any) -> Path:
        """Write the result to a file, in the form that its ending names.

        Args:
            path: `.png` writes `png`, `.zip` writes `archive`, `.npz` writes `npz`.
            **options: the arguments of that method.

        Returns:
            The path.

        Raises:
            SelectionError: another ending, or a choice that is not there.
            OutputError: the file cannot be written.
        """
        target = Path(path)
        writer = {".png": self.png, ".zip": self.archive, ".npz": self.npz}.get(target.suffix.lower())
        if writer is None:
            raise SelectionError(
                f"{target.name}: a result is saved as .png (one map), .zip (every map) or .npz (the "
                "numbers); choose one of these endings"
            )
        with replacing(target) as file:
            file.write(writer(**options))
        return target

    def file_stem(self, block: int | None = None, head: int | None = None) -> str:
        """A file name without ending, after the image, the model, the block and the head.

        For "my cat.jpg": `my-cat_bundled_ca1_mean`, `my-cat_bundled_ca0_head3`. Safe on every system.
        """
        chosen = self._head(head)
        which = "mean" if chosen is None else f"head{chosen}"
        return f"{self.file_prefix}_ca{self.block_index(block)}_{which}"

    @property
    def file_prefix(self) -> str:
        """The beginning of a file name, after the image and the model: `my-cat_bundled`."""
        name = self.image_name.replace("\\", "/").rpartition("/")[2]
        return f"{safe_name(Path(name).stem, 'image')}_{safe_name(self.model.name, 'model')}"

    def facts(self) -> dict[str, Any]:
        """What made this result, ready for JSON: the manifest of an archive without its files."""
        ranked = zip(self.ranking, self.top(_LISTED_CLASSES), strict=False)
        return {
            "software": SOFTWARE,
            "model": self.model.name,
            "weights": self.model.weights,
            "weights_sha256": self.model.weights_sha256,
            "image": self.image_name,
            "image_size": list(self.size),
            "image_sha256": self.image_sha256,
            "view": self.view,
            "box": list(self.box),
            "predictions": [
                {"index": int(index), "label": label, "probability": probability}
                for index, (label, probability) in ranked
            ],
            "versions": versions(),
        }

    def _map_facts(self, block: int | None, head: int | None) -> dict[str, Any]:
        numbers = self.concentration(block, head)
        low, high = maps.value_range(self.attention(block, head)[1:])
        chosen = self._head(head)
        return {
            "block": self.block_index(block),
            "head": "mean" if chosen is None else chosen,
            "class_token_attention": numbers.class_token,
            "entropy": numbers.entropy,
            "effective_patches": numbers.patches,
            "smallest": low,
            "largest": high,
        }


def draw_figure(
    analyses: Sequence[Analysis],
    kind: Kind = "heads",
    format: FigureFormat = "png",
    *,
    block: int | None = None,
    colormap: str | None = None,
    interpolation: Interpolation = "bicubic",
    scale: Scale = "head",
) -> bytes:
    """A figure of the paper, of one or several results, as a file.

    Both show what the network saw of each image, and no more of it.

    Args:
        analyses: at least one result.
        kind: "heads", every head of every class-attention block (Figure 6); "saliency", the image
            beside its saliency and under them every class above 10 % (Figure 7).
        format: "png" (200 dots an inch), "svg" or "pdf".
        block: the block whose saliency is drawn, from 0; None is the one that serves best. The
            heads are those of all blocks.
        colormap: one of `COLORMAPS`; None is viridis for the heads and the paper's cividis for the
            saliency.
        interpolation: "bicubic" or "nearest".
        scale: "head" or "shared", as in `Look`.

    Returns:
        The file. The same arguments give the same bytes.

    Raises:
        SelectionError: a choice that is not there, or more images than fit on a page.
    """
    check_choice("figure", kind, FIGURES)
    check_choice("figure format", format, FIGURE_FORMATS)
    if not analyses:
        raise SelectionError("a figure needs at least one image, and none was given")
    description = json.dumps([analysis.facts() for analysis in analyses], ensure_ascii=False)
    names = ", ".join(dict.fromkeys(analysis.model.name for analysis in analyses))
    style: Style = "map" if kind == "heads" else "paper"
    look = Look(style=style, colormap=colormap, interpolation=interpolation, scale=scale)
    if kind == "heads":
        caption = Caption(
            f"Class attention of {names}, head by head", _heads_footer(analyses, scale), description
        )
        return draw_heads([_heads_panel(analysis, look) for analysis in analyses], caption, format)
    used = {f"{one.model.name} (CA block {one.block_index(block) + 1})": None for one in analyses}
    footer = (
        f"Right: the gray-level image multiplied by the class attention of {', '.join(used)}, mean of the "
        "heads. Below: every class with more than 10 % probability."
    )
    panels = [_saliency_panel(analysis, block, look) for analysis in analyses]
    return draw_saliency(panels, Caption(f"Saliency of {names}", footer, description), format)


def _heads_panel(analysis: Analysis, look: Look) -> HeadsPanel:
    seen = analysis.seen()
    width, height = (max(1, round(side * MAP_PIXELS / max(seen.size))) for side in seen.size)

    def drawn(block: int, head: int) -> Image.Image:
        grid = analysis.grid(block, head, look.scale)
        return colored(upsample(grid, (height, width), look.interpolation), look.colors)

    def note(block: int, head: int) -> str:
        numbers = analysis.concentration(block, head)
        return f"itself {percent(numbers.class_token)}\n{numbers.patches:.0f} patches"

    blocks, heads = range(analysis.blocks), range(analysis.heads)
    return HeadsPanel(
        title=f"{analysis.image_name}  ·  {analysis.model.name}",
        image=Image.fromarray(seen.reduced(IMAGE_PIXELS).image),
        maps=[[drawn(block, head) for head in heads] for block in blocks],
        notes=[[note(block, head) for head in heads] for block in blocks],
    )


def _heads_footer(analyses: Sequence[Analysis], scale: Scale) -> str:
    patches = sorted({analysis.attention().size - 1 for analysis in analyses})
    ranges = {
        "head": "Each map has a color range of its own.",
        "shared": "All maps of an image share one color range.",
    }
    return (
        "Where the class token looks, in each head of each class-attention (CA) block. Below each map: "
        "the share of its attention that the token pays to itself, and over how many patches, of "
        f"{' or '.join(map(str, patches))}, it spreads the rest (the exponential of the entropy). "
        f"{ranges[scale]}"
    )


def _saliency_panel(analysis: Analysis, block: int | None, look: Look) -> SaliencyPanel:
    seen = analysis.seen().reduced(IMAGE_PIXELS)
    grid = analysis.grid(block, scale=look.scale)
    saliency = render(Image.fromarray(seen.image), seen.box, grid, look)
    lines = [(label, percent(probability)) for label, probability in analysis.confident()]
    if not lines:
        label, probability = analysis.predictions[0]
        lines = [("no class above 10 %; the first is", ""), (label, percent(probability))]
    return SaliencyPanel([Image.fromarray(seen.image), saliency], lines)
