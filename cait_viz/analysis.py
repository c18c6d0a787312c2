"""`Analysis`: what came out of one picture, able to tell, draw and save itself.

It is plain NumPy and text. It can be pickled, and drawing it again with another block, head, style or
colour runs no network. Blocks and heads count from 0 in every argument and file name, as the
tutorial's keys do, and from 1 in the titles a person reads, as the paper does.
"""

import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Unpack

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cait_viz._files import replacing
from cait_viz.attention import maps
from cait_viz.attention.maps import Floats, check_choice, check_index
from cait_viz.drawing.export import SOFTWARE, safe_name, versions, zip_bytes
from cait_viz.drawing.overlay import (
    Look,
    LookOptions,
    png_bytes,
    reduced,
    render,
    seen_part,
)
from cait_viz.errors import CheckpointError, SelectionError
from cait_viz.images.preprocess import Box, View

# A class above this probability is named under the saliency (paper, Figure 7).
CONFIDENT = 0.10

# How many classes a manifest and a text chunk tell.
_TOLD_CLASSES = 5

# How many pixels the maps of one archive have together; beyond, they are drawn smaller. Made in memory,
# they take about two bytes a pixel. Ten maps of a 12-megapixel photograph stay below.
_ARCHIVE_PIXELS = 150_000_000

# The longer side, in pixels, of the picture that a notebook shows.
_NOTEBOOK_SIDE = 1024


@dataclass(frozen=True)
class ModelInfo:
    """What is known of the model that spoke.

    Attributes:
        name: the variant's name, or the weights file's where it is none of the registry.
        weights: name of the weights file.
        weights_sha256: SHA-256 of that file, in hexadecimal.
        saliency_block: index of the class-attention block that serves best as saliency.
        image_size: side of the network input in pixels.
        patch_size: side of a patch in pixels.
    """

    name: str
    weights: str
    weights_sha256: str
    saliency_block: int
    image_size: int
    patch_size: int


class Concentration(NamedTuple):
    """How a map's attention is spread.

    Attributes:
        class_token: the share that the class token keeps for itself.
        entropy: of the rest over the patches, in nats.
        patches: over how many patches that is, the exponential of the entropy.
    """

    class_token: float
    entropy: float
    patches: float


@dataclass(frozen=True, eq=False, repr=False)
class Analysis:
    """The result of one picture.

    Attributes:
        image: `(height, width, 3)` uint8, upright sRGB.
        image_name: the picture's file name, or what it was called.
        image_sha256: SHA-256 of the bytes that were given, or of the pixels where none were.
        model: the model that spoke.
        view: "crop", the centre square, or "whole", the whole picture squashed to a square.
        box: the part of `picture` that the network saw, in its pixels; the edges need not be whole.
        labels: name of each class, C of them.
        probabilities: `(C,)` float32, the softmax of the logits.
        logits: `(C,)` float32.
        class_attention: for each class-attention block i, under the key "ca_ffn_block_i_att", how the
            class token spreads its attention, `(heads, N + 1)` float32; index 0 is the token itself.
        image_remark: a sentence on what the image lacks or what was assumed of its pixels; else "".

    The arrays are read-only.

    Raises:
        ValueError: parts that do not belong together.
        CheckpointError: numbers that are not finite, which is what damaged weights give.
    """

    image: NDArray[np.uint8]
    image_name: str
    image_sha256: str
    model: ModelInfo
    view: View
    box: Box
    labels: tuple[str, ...]
    probabilities: Floats
    logits: Floats
    class_attention: Mapping[str, Floats]
    image_remark: str = ""

    def __post_init__(self) -> None:
        attention = {key: _frozen(array, np.float32) for key, array in self.class_attention.items()}
        settle = object.__setattr__
        settle(self, "image", _frozen(self.image, None))
        settle(self, "labels", tuple(self.labels))
        settle(self, "probabilities", _frozen(self.probabilities, np.float32))
        settle(self, "logits", _frozen(self.logits, np.float32))
        settle(self, "class_attention", MappingProxyType(attention))
        _check_finite(self)
        _check_shapes(self)

    def __reduce__(self) -> tuple[Callable[[dict[str, Any]], "Analysis"], tuple[dict[str, Any]]]:
        # Through the constructor, so that the arrays are read-only on the other side too.
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        return _rebuilt, (parts | {"class_attention": dict(self.class_attention)},)

    def __repr__(self) -> str:
        label, probability = self.predictions[0]
        return f"<Analysis of {self.image_name!r} by {self.model.name}: {label!r}, {probability:.1%}>"

    def _repr_png_(self) -> bytes:
        return self.png(max_side=_NOTEBOOK_SIDE)

    @property
    def nbytes(self) -> int:
        """The memory that the arrays take, in bytes."""
        attention = sum(array.nbytes for array in self.class_attention.values())
        return self.image.nbytes + self.probabilities.nbytes + self.logits.nbytes + attention

    # What the network said

    @property
    def ranking(self) -> NDArray[np.intp]:
        """The index of every class, the most probable first, `(C,)`."""
        return np.argsort(-self.probabilities, kind="stable")

    @property
    def predictions(self) -> list[tuple[str, float]]:
        """Label and probability of every class, the most probable first."""
        return self.top(len(self.labels))

    def top(self, count: int) -> list[tuple[str, float]]:
        """Label and probability of the `count` most probable classes."""
        return [(self.labels[index], float(self.probabilities[index])) for index in self.ranking[:count]]

    def confident(self) -> list[tuple[str, float]]:
        """Label and probability of every class above 10 %, as under the paper's Figure 7."""
        return self.top(int((self.probabilities > CONFIDENT).sum()))

    # Where it looked

    @property
    def blocks(self) -> int:
        """The number of class-attention blocks."""
        return len(self.class_attention)

    @property
    def heads(self) -> int:
        """The number of attention heads of a block."""
        return len(self.class_attention[_key(0)])

    @property
    def grid_shape(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        side = self.model.image_size // self.model.patch_size
        return side, side

    def block_index(self, block: int | None = None) -> int:
        """The block itself, or for None the one that serves best as saliency.

        Raises:
            SelectionError: a block that is not there.
        """
        if block is None:
            return self.model.saliency_block
        return check_index("CA block", block, self.blocks)

    def attention(self, block: int | None = None, head: int | None = None) -> Floats:
        """Class attention of one block and head, `(N + 1,)` float32; the mean of the heads if None.

        Every method below takes the same two arguments. Without a block it is the one that serves best
        as saliency.

        Raises:
            SelectionError: a block or head that is not there.
        """
        rows = self.class_attention[_key(self.block_index(block))]
        chosen = self._head(head)
        return rows.mean(axis=0, dtype=np.float64).astype(np.float32) if chosen is None else rows[chosen]

    def saliency(self, block: int | None = None) -> Floats:
        """The mean of the heads, stretched to [0, 1]: `(rows, cols)` float32 (paper, Figure 7)."""
        return maps.saliency(self.class_attention[_key(self.block_index(block))], self.grid_shape)

    def grid(self, block: int | None = None, head: int | None = None, scale: str = "head") -> Floats:
        """One map stretched to [0, 1], `(rows, cols)` float32.

        Args:
            block: the class-attention block, from 0; None is the one that serves best as saliency.
            head: the head, from 0; None is the mean of the heads.
            scale: "head", the map's own range; "shared", the range of all heads of all blocks.

        Raises:
            SelectionError: a block, head or scale that is not there.
        """
        values = self.attention(block, head)[1:].reshape(self.grid_shape)
        check_choice("scale", scale, maps.SCALES)
        return maps.min_max(values, self.shared_range if scale == "shared" else None)

    @property
    def shared_range(self) -> maps.Range:
        """The smallest and largest attention to a patch, over all heads of all blocks."""
        return maps.value_range(np.stack([rows[:, 1:] for rows in self.class_attention.values()]))

    def class_token_attention(self, block: int | None = None) -> Floats:
        """For each head the share of attention that the class token pays to itself, `(heads,)`."""
        return maps.class_token_attention(self.class_attention[_key(self.block_index(block))])

    def entropy(self, block: int | None = None) -> Floats:
        """Entropy of each head over the patches in nats, `(heads,)`; lower is more concentrated.

        From 0 (one patch) to log N (all alike), as `maps.patch_entropy`.
        """
        return maps.patch_entropy(self.class_attention[_key(self.block_index(block))])

    def effective_patches(self, block: int | None = None) -> Floats:
        """Over how many patches each head spreads, `(heads,)`: the exponential of the entropy."""
        return maps.effective_patches(self.class_attention[_key(self.block_index(block))])

    def concentration(self, block: int | None = None, head: int | None = None) -> Concentration:
        """What stretching a map to its full range throws away; of the mean of the heads, for None."""
        attention = self.attention(block, head)[None]
        return Concentration(
            class_token=float(maps.class_token_attention(attention)[0]),
            entropy=float(maps.patch_entropy(attention)[0]),
            patches=float(maps.effective_patches(attention)[0]),
        )

    # Drawn

    def overlay(
        self,
        block: int | None = None,
        head: int | None = None,
        *,
        max_side: int | None = None,
        **look: Unpack[LookOptions],
    ) -> Image.Image:
        """One map drawn with the picture, in the picture's own size.

        Args:
            block: the class-attention block, from 0; None is the one that serves best as saliency.
            head: the head, from 0; None is the mean of the heads.
            max_side: for a screen, the longer side in pixels of a smaller copy to draw on.
            **look: the fields of `Look`: style, colormap, alpha, interpolation, scale, dim_unseen.

        Returns:
            A new RGB picture.

        Raises:
            SelectionError: a choice that is not there.
        """
        chosen = Look(**look)
        grid = self.grid(block, head, chosen.scale)
        on = self if max_side is None else self.reduced(max_side)
        return render(Image.fromarray(on.image), on.box, grid, chosen)

    def reduced(self, max_side: int) -> "Analysis":
        """The same result with a smaller copy of its picture, for drawing many views on a screen.

        What is to be kept is better saved from the full one: this one's `picture` and `box` are those
        of the copy.

        Args:
            max_side: the longer side of the copy in pixels; a smaller picture stays as it is.

        Raises:
            SelectionError: `max_side` is no whole number of at least 1.
        """
        picture, box = reduced(Image.fromarray(self.image), self.box, max_side)
        if picture.size == self.size:
            return self
        return replace(self, image=np.asarray(picture), box=box)

    def seen(self) -> "Analysis":
        """The same result with only what the network saw of the picture."""
        part = np.asarray(seen_part(Image.fromarray(self.image), self.box))
        return replace(self, image=part, box=Box(0.0, 0.0, float(part.shape[1]), float(part.shape[0])))

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the picture in pixels."""
        height, width, _ = self.image.shape
        return width, height

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
        picture = self.overlay(block, head, max_side=max_side, **look)
        return png_bytes(picture, self._text(block, head, Look(**look)))

    def figure(
        self,
        kind: str = "heads",
        format: str = "png",
        *,
        block: int | None = None,
        colormap: str | None = None,
        interpolation: str = "bicubic",
        scale: str = "head",
    ) -> bytes:
        """A figure of the paper as a file: `figures.draw_figure` of this one result. Arguments as there."""
        # The larger half of Matplotlib takes a quarter of a second to load, and the model's own
        # process, which makes results and draws none, never needs it.
        from cait_viz.drawing.figures import draw_figure

        return draw_figure(
            [self],
            kind,
            format,
            block=block,
            colormap=colormap,
            interpolation=interpolation,
            scale=scale,
        )

    def archive(self, **look: Unpack[LookOptions]) -> bytes:
        """Every block and head and the means of the heads as PNG files in a ZIP, with a manifest.

        The maps have the picture's own resolution as long as they have 150 megapixels together, else less.
        `manifest.json` tells which, what made them, and the numbers of each.

        Args:
            **look: the fields of `Look`, the same for all of them.

        Raises:
            SelectionError: a choice that is not there.
        """
        return zip_bytes(self._archived(look))

    def npz(self) -> bytes:
        """The numbers as a compressed NumPy archive, readable without pickle.

        Arrays: each block's class attention under its key, `logits`, `probabilities`, `labels`, `box`
        (left, top, right, bottom), `grid_shape` (rows, columns), and `manifest`, what made them (JSON).
        """
        arrays: dict[str, Any] = {
            **self.class_attention,
            "logits": self.logits,
            "probabilities": self.probabilities,
            "labels": np.array(self.labels, dtype=np.str_),
            "box": np.array(self.box),
            "grid_shape": np.array(self.grid_shape),
            "manifest": np.array(json.dumps(self.facts())),
        }
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        return buffer.getvalue()

    def save(self, path: str | Path, **options: Any) -> Path:
        """Write the result to a file, in the form that its ending names.

        Args:
            path: `.png` writes `png`, `.zip` writes `archive`, `.npz` writes `npz`.
            **options: the arguments of that method.

        Returns:
            The path.

        Raises:
            SelectionError: another ending, or a choice that is not there.
            OSError: the file cannot be written.
        """
        target = Path(path)
        writers = {".png": self.png, ".zip": self.archive, ".npz": self.npz}
        writer = writers.get(target.suffix.lower())
        if writer is None:
            raise SelectionError(
                f"{target.name}: a result is saved as .png (one map), .zip (every map) or .npz (the "
                "numbers); choose one of these endings"
            )
        with replacing(target) as file:
            file.write(writer(**options))
        return target

    def file_stem(self, block: int | None = None, head: int | None = None) -> str:
        """A file name without ending, after the picture, the model, the block and the head.

        For "my cat.jpg": `my-cat_bundled_ca1_mean`, `my-cat_bundled_ca0_head3`. Safe on every system.
        """
        chosen = self._head(head)
        which = "mean" if chosen is None else f"head{chosen}"
        return f"{self.file_prefix}_ca{self.block_index(block)}_{which}"

    @property
    def file_prefix(self) -> str:
        """The beginning of a file name, after the picture and the model: `my-cat_bundled`."""
        name = self.image_name.replace("\\", "/").rpartition("/")[2]
        return f"{safe_name(Path(name).stem, 'picture')}_{safe_name(self.model.name, 'model')}"

    def facts(self) -> dict[str, Any]:
        """What made this result, ready for JSON: the manifest of an archive without its files."""
        ranked = self.ranking[:_TOLD_CLASSES]
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
                for index, (label, probability) in zip(ranked, self.top(_TOLD_CLASSES), strict=True)
            ],
            "versions": versions(),
        }

    def _view_facts(self, block: int | None, head: int | None) -> dict[str, Any]:
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

    def _archived(self, look: LookOptions) -> Iterator[tuple[str, bytes]]:
        listed = []
        views = list(self._views())
        side = self._archive_side(len(views))
        for block, head in views:
            name = f"{self.file_stem(block, head)}.png"
            yield name, self.png(block, head, max_side=side, **look)
            listed.append({"file": name, **self._view_facts(block, head)})
        manifest = {**self.facts(), **_look_facts(Look(**look)), "longer_side": side, "files": listed}
        yield "manifest.json", json.dumps(manifest, indent=2).encode()

    def _archive_side(self, count: int) -> int:
        """The longer side, in pixels, at which so many maps stay within `_ARCHIVE_PIXELS`."""
        width, height = self.size
        shrink = min(1.0, (_ARCHIVE_PIXELS / (count * width * height)) ** 0.5)
        return max(1, int(max(width, height) * shrink))

    def _text(self, block: int | None, head: int | None, look: Look) -> dict[str, str]:
        facts = {**self.facts(), **self._view_facts(block, head), **_look_facts(look)}
        told = {key: _told(value) for key, value in facts.items()}
        # Keywords that the PNG specification knows begin with a capital letter.
        return {"Title": self.title(block, head), "Software": told.pop("software"), **told}

    def _views(self) -> Iterator[tuple[int, int | None]]:
        for block in range(self.blocks):
            yield block, None
            for head in range(self.heads):
                yield block, head

    def _head(self, head: int | None) -> int | None:
        return None if head is None else check_index("head", head, self.heads)


def _rebuilt(parts: dict[str, Any]) -> Analysis:
    return Analysis(**parts)


def _look_facts(look: Look) -> dict[str, Any]:
    return {**asdict(look), "colormap": look.colors}


def _told(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _key(block: int) -> str:
    return f"ca_ffn_block_{block}_att"


def _frozen(array: Any, dtype: type[np.generic] | None) -> NDArray[Any]:
    """A view that cannot be written through; the array that was given keeps its own freedom."""
    view = np.asarray(array, dtype).view()
    view.flags.writeable = False
    return view


def _check_finite(analysis: Analysis) -> None:
    numbers = [analysis.logits, analysis.probabilities, *analysis.class_attention.values()]
    if not all(np.isfinite(array).all() for array in numbers):
        weights = analysis.model.weights
        raise CheckpointError(
            f"{weights}: the network answers with numbers that are not finite; the weights are damaged, "
            "use another file"
        )


def _check_shapes(analysis: Analysis) -> None:
    picture = analysis.image
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.size == 0 or picture.dtype != np.uint8:
        raise ValueError(f"the picture must be uint8 (height, width, 3), not {picture.dtype} {picture.shape}")
    width, height = analysis.size
    left, top, right, bottom = analysis.box
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise ValueError(f"{analysis.box} does not lie within a picture of {width} x {height} pixels")
    classes = (len(analysis.labels),)
    if not classes[0] or analysis.probabilities.shape != classes or analysis.logits.shape != classes:
        raise ValueError(
            f"there must be one label, probability and logit for each class, not {classes[0]} labels, "
            f"probabilities {analysis.probabilities.shape} and logits {analysis.logits.shape}"
        )
    keys = list(analysis.class_attention)
    if not keys or keys != [_key(block) for block in range(len(keys))]:
        raise ValueError(f"class attention must be {_key(0)}, {_key(1)} and so on, not {keys}")
    rows, cols = analysis.grid_shape
    for key, array in analysis.class_attention.items():
        if array.shape != (analysis.heads, rows * cols + 1) or not analysis.heads:
            raise ValueError(f"{key} must have the shape (heads, {rows * cols + 1}), not {array.shape}")
        if array.min() < 0:
            raise ValueError(f"{key} must not be negative, but its smallest value is {array.min():g}")
    if not 0 <= analysis.model.saliency_block < len(keys):
        raise ValueError(
            f"the model's saliency block is {analysis.model.saliency_block}, but it has {len(keys)} CA blocks"
        )
