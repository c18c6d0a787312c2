"""`Analysis`: what came out of one image, able to draw and save itself; and the figures of several.

Drawing it again with another block, head, style or color runs no network. The numbers are in `result`.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cait_viz._checks import check_choice
from cait_viz._files import atomic_write
from cait_viz.attention import maps
from cait_viz.attention.maps import Floats, Interpolation, Scale
from cait_viz.drawing import export, figures
from cait_viz.drawing.figures import Caption, FigureFormat, HeadsPanel, Kind, SaliencyPanel, percent
from cait_viz.drawing.overlay import (
    SIGNED_COLORMAP,
    Appearance,
    Style,
    colored,
    reduced,
    render,
    render_signed,
)
from cait_viz.errors import SelectionError
from cait_viz.images.preprocess import Box
from cait_viz.results.result import CONFIDENT, ModelInfo, Result

__all__ = ["CONFIDENT", "Analysis", "ModelInfo", "draw_figure"]

# The longer side, in pixels, of the image that a notebook shows.
_NOTEBOOK_SIDE = 1024

# How many classes a manifest and a text chunk list.
_LISTED_CLASSES = 5


class Analysis(Result):
    """The result of one image, drawn and saved. Its numbers are those of `Result`.

    `block` counts from 0, and None is the one that serves best as saliency; `head` counts from 0, and None is
    the mean of the heads; `appearance` are the fields of `Appearance`: style, colormap, alpha, interpolation,
    scale, dim_unseen. A choice that is not there raises SelectionError.
    """

    def _repr_png_(self) -> bytes:
        return self.png(max_side=_NOTEBOOK_SIDE)

    # Drawn

    def overlay(
        self,
        block: int | None = None,
        head: int | None = None,
        *,
        max_side: int | None = None,
        **appearance: Any,
    ) -> Image.Image:
        """One map drawn with the image, RGB, in the image's own size, or of at most `max_side` pixels."""
        chosen = Appearance(**appearance)
        on = self if max_side is None else self.reduced(max_side)
        return render(Image.fromarray(on.image), on.box, self.grid(block, head, chosen.scale), chosen)

    def draw(
        self, grid: Floats, *, signed: bool = False, limits: maps.Range | None = None, **appearance: Any
    ) -> Image.Image:
        """Any map of this image, drawn as `overlay` draws its own, stretched to its full range.

        Args:
            grid: (rows, cols), one value for each patch.
            signed: whether the values may be negative, and are drawn in two colors with nothing at zero.
            limits: what is drawn as the least and the most, in place of the map's own; not of signed values.
            **appearance: the fields of `Appearance`; signed values have colors of their own.
        """
        image, chosen = Image.fromarray(self.image), Appearance(**appearance)
        if signed:
            return render_signed(image, self.box, maps.symmetric(grid), chosen)
        return render(image, self.box, maps.min_max(grid, limits), chosen)

    def reduced(self, max_side: int) -> "Analysis":
        """The same result with a copy of its image of at most `max_side` pixels, for many views on a screen.

        What is to be kept is better saved from the full one: this one's `image` and `box` are the copy's.
        """
        image, box = reduced(Image.fromarray(self.image), self.box, max_side)
        return self if image.size == self.size else self._with_image(np.asarray(image), box)

    def seen(self) -> "Analysis":
        """The same result with only what the network saw of the image."""
        part = Image.fromarray(self.image).crop(self.box.pixels())
        return self._with_image(np.asarray(part), Box(0.0, 0.0, float(part.width), float(part.height)))

    def _with_image(self, image: np.ndarray, box: Box) -> "Analysis":
        # Its digest is that of what was given, and takes long: it is computed when it is asked for.
        original = None if self.file_sha256 else self.image if self.original is None else self.original
        return replace(self, image=image, box=box, original=original)

    def title(self, block: int | None = None, head: int | None = None) -> str:
        """What a map shows, in words: a title, or the text in place of the image."""
        where = f"class-attention block {self.block_index(block) + 1}"
        which = "mean of the heads" if head is None else f"head {self._head(head) + 1}"
        return f"Where {self.model.name} looked in {self.image_name}: {where}, {which}"

    # Saved

    def png(
        self,
        block: int | None = None,
        head: int | None = None,
        *,
        max_side: int | None = None,
        **appearance: Any,
    ) -> bytes:
        """`overlay` as a PNG file, with what made it in text chunks."""
        drawn = self.overlay(block, head, max_side=max_side, **appearance)
        facts = self.map_facts(block, head) | Appearance(**appearance).facts()
        return self._png(drawn, self.title(block, head), facts)

    def map_png(
        self, grid: Floats, title: str, facts: Mapping[str, Any], *, signed: bool = False, **appearance: Any
    ) -> bytes:
        """`draw` as a PNG file, with what made it in text chunks.

        Args:
            grid: (rows, cols), one value for each patch.
            title: what the map shows, in words.
            facts: what is to be known of the map beside what is known of the result, ready for JSON.
            signed: as for `draw`.
            **appearance: as for `draw`.
        """
        low, high = maps.value_range(grid)
        drawn = {
            "scale": "head",
            **({"colormap": SIGNED_COLORMAP} if signed else {}),
        }  # and not what was asked
        numbers = {**Appearance(**appearance).facts(), **drawn, **facts, "smallest": low, "largest": high}
        return self._png(self.draw(grid, signed=signed, **appearance), title, numbers)

    def _png(self, drawn: Image.Image, title: str, facts: Mapping[str, Any]) -> bytes:
        text = {**self.facts(), **facts}
        # Keywords that the PNG specification knows begin with a capital letter.
        return export.png_bytes(drawn, {"Title": title, "Software": text.pop("software"), **text})

    def figure(self, kind: Kind = "heads", format: FigureFormat = "png", **options: Any) -> bytes:
        """A figure of the paper as a file: `draw_figure` of this one result. Arguments as there."""
        return draw_figure([self], kind, format, **options)

    def archive(self, **appearance: Any) -> bytes:
        """Every block and head and the means of the heads as PNG files in a ZIP, with a manifest.

        The maps have the image's own resolution as long as they have 150 megapixels together, else less.
        `manifest.json` says which, what made them, and the numbers of each.
        """
        pairs = [(block, head) for block in range(self.blocks) for head in (None, *range(self.heads))]
        side = export.archive_side(self.size, len(pairs))
        files = (
            (
                f"{self.file_stem(*pair)}.png",
                self.png(*pair, max_side=side, **appearance),
                self.map_facts(*pair),
            )
            for pair in pairs
        )
        return export.zip_bytes(
            files, {**self.facts(), **Appearance(**appearance).facts(), "longer_side": side}
        )

    def npz(self) -> bytes:
        """The numbers as a compressed NumPy archive, readable without pickle.

        Arrays: each block's class attention under its key, `logits`, `probabilities`, `labels`, `box`
        (left, top, right, bottom), `grid_shape` (rows, columns), and `manifest`, what made them (JSON). Of
        ImageNet-1k's classes also `kinds` and `kind_probabilities`, the most probable first.
        """
        arrays = {
            **self.class_attention,
            "logits": self.logits,
            "probabilities": self.probabilities,
            "labels": np.array(self.labels, dtype=np.str_),
            "box": np.array(self.box),
            "grid_shape": np.array(self.grid_shape),
        }
        if kinds := self.kinds():
            arrays["kinds"] = np.array([kind for kind, _ in kinds], dtype=np.str_)
            arrays["kind_probabilities"] = np.array([share for _, share in kinds], np.float32)
        return export.npz_bytes(arrays, self.facts())

    def save(self, path: str | Path, **options: Any) -> Path:
        """Write `png`, `archive` or `npz` with its options, as the path's ending says; gives the path.

        Raises:
            SelectionError: an ending other than .png, .zip or .npz, or a choice that is not there.
            OutputError: the file cannot be written.
        """
        target = Path(path)
        writer = {".png": self.png, ".zip": self.archive, ".npz": self.npz}.get(target.suffix.lower())
        if writer is None:
            raise SelectionError(
                f"{target.name}: a result is saved as .png (one map), .zip (every map) or .npz (the "
                "numbers); choose one of these endings"
            )
        with atomic_write(target) as file:
            file.write(writer(**options))
        return target

    def file_stem(self, block: int | None = None, head: int | None = None) -> str:
        """A file name without ending, safe on every system: `my-cat_bundled_ca1_mean`, `…_ca0_head3`."""
        which = "mean" if head is None else f"head{self._head(head)}"
        return f"{self.file_prefix}_ca{self.block_index(block)}_{which}"

    @property
    def file_prefix(self) -> str:
        """The beginning of a file name, after the image and the model: `my-cat_bundled`."""
        stem = Path(self.image_name.replace("\\", "/").rpartition("/")[2]).stem
        return f"{export.safe_name(stem, 'image')}_{export.safe_name(self.model.name, 'model')}"

    def facts(self) -> dict[str, Any]:
        """What made this result, ready for JSON: the manifest of an archive without its files."""
        ranked = zip(self.ranking, self.top(_LISTED_CLASSES), strict=False)
        return {
            "software": export.SOFTWARE,
            "model": self.model.name,
            "weights": self.model.weights,
            "weights_sha256": self.model.weights_sha256,
            "input_size": list(self.model.input_shape[::-1]),
            "trained_size": self.model.trained_size,
            "image": self.image_name,
            "image_size": list(self.size),
            "image_sha256": self.image_sha256,
            "view": self.view,
            "box": list(self.box),
            "predictions": [{"index": int(i), "label": label, "probability": p} for i, (label, p) in ranked],
            "kinds": [{"kind": kind, "probability": p} for kind, p in self.kinds()[:_LISTED_CLASSES]],
            "versions": export.versions(),
        }

    def map_facts(self, block: int | None = None, head: int | None = None) -> dict[str, Any]:
        """What is known of a map beside what is known of the result, ready for JSON."""
        numbers = self.concentration(block, head)
        low, high = maps.value_range(self.attention(block, head)[1:])
        return {
            "block": self.block_index(block),
            "head": "mean" if head is None else self._head(head),
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
    """A figure of the paper as a file: what the network saw of each image, and no more of it.

    The same arguments give the same bytes.

    Args:
        analyses: at least one result.
        kind: "heads", every head of every class-attention block (Figure 6); "saliency", the image
            beside its saliency and under them every class above 10 % (Figure 7).
        format: "png" (200 dots an inch), "svg" or "pdf".
        block: the block whose saliency is drawn, from 0; None is the one that serves best.
        colormap: one of `COLORMAPS`; None is viridis for the heads, the paper's cividis for the saliency.
        interpolation: "bicubic" or "nearest".
        scale: "head" or "shared", as in `Appearance`.

    Raises:
        SelectionError: a choice that is not there, or more images than fit on a page.
    """
    check_choice("figure", kind, figures.FIGURES)
    check_choice("figure format", format, figures.FIGURE_FORMATS)
    if not analyses:
        raise SelectionError("a figure needs at least one image, and none was given")
    description = json.dumps([analysis.facts() for analysis in analyses], ensure_ascii=False)
    names = ", ".join(dict.fromkeys(analysis.model.name for analysis in analyses))
    style: Style = "map" if kind == "heads" else "paper"
    appearance = Appearance(style=style, colormap=colormap, interpolation=interpolation, scale=scale)
    if kind == "heads":
        title, footer = f"Class attention of {names}, head by head", _heads_footer(analyses, scale)
        tables = [heads_panel(analysis, appearance) for analysis in analyses]
        return figures.draw_heads(tables, Caption(title, footer, description), format)
    used = dict.fromkeys(f"{one.model.name} (CA block {one.block_index(block) + 1})" for one in analyses)
    footer = (
        f"Right: the gray-level image multiplied by the class attention of {', '.join(used)}, mean of the "
        "heads. Below: every class with more than 10 % probability"
        f"{', and the kind that its classes add up to' if analyses[0].class_kinds else ''}."
        f"{_size_notes(analyses)}"
    )
    panels = [_saliency_panel(analysis, block, appearance) for analysis in analyses]
    return figures.draw_saliency(panels, Caption(f"Saliency of {names}", footer, description), format)


def heads_panel(
    analysis: Analysis, appearance: Appearance, note: Callable[[int, int], str] | None = None
) -> HeadsPanel:
    """One result's part of Figure 6, with two lines under each map.

    By default they say how the head's attention is spread; else `note` gives them for a block and a head.
    """
    seen = analysis.seen()
    width, height = (max(1, round(side * figures.MAP_PIXELS / max(seen.size))) for side in seen.size)

    def tile(block: int, head: int) -> tuple[Image.Image, str]:
        grid = analysis.grid(block, head, appearance.scale)
        if note is None:
            numbers = analysis.concentration(block, head)
            text = f"itself {percent(numbers.class_token)}\n{numbers.patches:.0f} patches"
        else:
            text = note(block, head)
        return colored(
            maps.upsample(grid, (height, width), appearance.interpolation), appearance.colors
        ), text

    return HeadsPanel(
        title="  ·  ".join([analysis.image_name, analysis.model.name, *_best_kind(analysis)]),
        image=Image.fromarray(seen.reduced(figures.IMAGE_PIXELS).image),
        rows=[[tile(block, head) for head in range(analysis.heads)] for block in range(analysis.blocks)],
    )


def _best_kind(analysis: Analysis) -> list[str]:
    return [f"{kind} {percent(share)}" for kind, share in analysis.kinds()[:1]]


def _heads_footer(analyses: Sequence[Analysis], scale: Scale) -> str:
    patches = sorted({analysis.attention().size - 1 for analysis in analyses})
    shared = "All maps of an image share one color scale."
    return (
        "Where the class token looks, in each head of each class-attention (CA) block. Below each map: "
        "the share of its attention that the token pays to itself, and over how many patches, of "
        f"{' or '.join(map(str, patches))}, it spreads the rest (the exponential of the entropy). "
        f"{shared if scale == 'shared' else 'Each map has a color scale of its own.'}{_size_notes(analyses)}"
    )


def _size_notes(analyses: Sequence[Analysis]) -> str:
    return "".join(dict.fromkeys(analysis.model.size_note for analysis in analyses))


def _saliency_panel(analysis: Analysis, block: int | None, appearance: Appearance) -> SaliencyPanel:
    seen = analysis.seen().reduced(figures.IMAGE_PIXELS)
    saliency = seen.overlay(block, **vars(appearance))
    lines = [(label, percent(probability)) for label, probability in analysis.confident()]
    if not lines:
        label, probability = analysis.predictions[0]
        lines = [("no class above 10 %; the first is", ""), (label, percent(probability))]
    kinds = [(f"kind: {kind}", percent(share)) for kind, share in analysis.kinds()[:1]]
    return SaliencyPanel([Image.fromarray(seen.image), saliency], kinds + lines)
