"""`Result`: the numbers that came out of one image, plain NumPy and text that can be pickled.

Blocks and heads count from 0 in every argument and file name, as the tutorial's keys do, and from 1 in the
titles a person reads, as the paper does.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cait_viz._checks import check_choice, check_finite, check_index
from cait_viz._sizes import ImageSize, image_shape
from cait_viz.attention import maps
from cait_viz.attention.maps import SCALES, Floats, Scale
from cait_viz.images.preprocess import Box, View

# A class above this probability is named under the saliency (paper, Figure 7).
CONFIDENT = 0.10


@dataclass(frozen=True)
class ModelInfo:
    """What is known of the model that gave a result."""

    name: str  # of the variant, or of the weights file if it is no variant of the registry
    weights: str  # the file's name
    weights_sha256: str  # of that file, in hexadecimal
    saliency_block: int  # index of the class-attention block that serves best as saliency
    image_size: ImageSize  # of the network's input, in pixels: the side of a square, or height and width
    patch_size: int  # side of a patch, in pixels
    trained_size: int  # side of the input that the weights were trained for, in pixels

    @property
    def input_size(self) -> str:
        """Width and height of the network's input for a person, such as "224 × 224"."""
        height, width = self.input_shape
        return f"{width} × {height}"

    @property
    def input_shape(self) -> tuple[int, int]:
        """Height and width of the network's input, in pixels."""
        return image_shape(self.image_size)

    @property
    def size_note(self) -> str:
        """A sentence where the input has another size than the weights were trained for, else ""."""
        if self.as_trained:
            return ""
        side = self.trained_size
        return f" The input has {self.input_size} pixels; the network was trained at {side} × {side}."

    @property
    def as_trained(self) -> bool:
        """Whether the input has the size that the weights were trained for."""
        return self.image_size == self.trained_size


class Concentration(NamedTuple):
    """How a map's attention is spread."""

    class_token: float  # the share that the class token keeps for itself
    entropy: float  # of the rest over the patches, in nats
    patches: float  # over how many patches that is, the exponential of the entropy


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """The numbers of one image, in read-only arrays; `Analysis` adds the drawing and the saving.

    Attributes:
        image: `(height, width, 3)` uint8, upright sRGB.
        image_name: the image's file name, or what it was called.
        file_sha256: SHA-256 of the bytes that were given, in hexadecimal; None where none were.
        model: the model that was asked.
        view: "crop", the center, or "squash", all of the image squashed to the input's shape.
        box: the part of `image` that the network saw, in its pixels; the edges need not be whole.
        labels: name of each class, C of them.
        probabilities: `(C,)` float32, the softmax of the logits; of a single class, the sigmoid.
        logits: `(C,)` float32.
        class_attention: for each class-attention block i, under the key "ca_ffn_block_i_att", how the
            class token spreads its attention, `(heads, N + 1)` float32; index 0 is the token itself.
        class_kinds: the kind of each class in plain words, such as "dog", where these are known; else empty.
        image_remark: a sentence on what the image lacks or what was assumed of its pixels; else "".
        original: the pixels that were given, where `image` is a part or a copy of them and no file was given.

    Raises:
        CheckpointError: numbers that are not finite, which is what damaged weights give.
    """

    image: NDArray[np.uint8]
    image_name: str
    file_sha256: str | None
    model: ModelInfo
    view: View
    box: Box
    labels: tuple[str, ...]
    probabilities: Floats
    logits: Floats
    class_attention: Mapping[str, Floats]
    class_kinds: tuple[str, ...] = ()
    image_remark: str = ""
    original: NDArray[np.uint8] | None = None

    def __post_init__(self) -> None:
        attention = {key: _frozen(array, np.float32) for key, array in self.class_attention.items()}
        set_field = object.__setattr__
        set_field(self, "image", _frozen(self.image))
        set_field(self, "labels", tuple(self.labels))
        set_field(self, "probabilities", _frozen(self.probabilities, np.float32))
        set_field(self, "logits", _frozen(self.logits, np.float32))
        set_field(self, "class_attention", MappingProxyType(attention))
        check_finite(self.model.weights, self.logits, self.probabilities, *attention.values())

    def __reduce__(self) -> tuple[Callable[..., "Result"], tuple[Any, ...]]:
        # Through the constructor, so that the arrays are read-only on the other side too.
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values["class_attention"] = dict(self.class_attention)
        if self.original is not None:  # its digest is smaller
            values |= {"file_sha256": self.image_sha256, "original": None}
        return type(self), tuple(values.values())

    def __repr__(self) -> str:
        label, probability = self.predictions[0]
        said = f"{label!r}, {probability:.1%}"
        return f"<{type(self).__name__} of {self.image_name!r} by {self.model.name}: {said}>"

    @cached_property
    def image_sha256(self) -> str:
        """SHA-256 of the bytes that were given, or of the pixels where none were, in hexadecimal."""
        pixels = self.image if self.original is None else self.original
        return self.file_sha256 or hashlib.sha256(pixels.tobytes()).hexdigest()

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the image in pixels."""
        return self.image.shape[1], self.image.shape[0]

    @property
    def nbytes(self) -> int:
        """The memory that the arrays take, in bytes."""
        attention = sum(array.nbytes for array in self.class_attention.values())
        images = self.image.nbytes + (0 if self.original is None else self.original.nbytes)
        return images + self.probabilities.nbytes + self.logits.nbytes + attention

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

    def kinds(self) -> list[tuple[str, float]]:
        """Kind and probability of every kind of thing, the most probable first.

        A kind's probability is the sum of its classes'. Empty where the kinds of the classes are not known:
        for all but ImageNet-1k's.
        """
        if not self.class_kinds:
            return []
        names, kind_of = np.unique(self.class_kinds, return_inverse=True)
        sums = np.bincount(kind_of, weights=self.probabilities)
        return [(str(names[index]), float(sums[index])) for index in np.argsort(-sums, kind="stable")]

    # Where it looked: `block` None is the one that serves best as saliency, `head` None the mean of the
    # heads. A block or head that is not there raises SelectionError.

    @property
    def blocks(self) -> int:
        """The number of class-attention blocks."""
        return len(self.class_attention)

    @property
    def heads(self) -> int:
        """The number of attention heads of a block."""
        return len(self._rows(0))

    @property
    def grid_shape(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        height, width = self.model.input_shape
        return height // self.model.patch_size, width // self.model.patch_size

    def block_index(self, block: int | None = None) -> int:
        """The block itself, or for None the one that serves best as saliency."""
        return self.model.saliency_block if block is None else check_index("CA block", block, self.blocks)

    def attention(self, block: int | None = None, head: int | None = None) -> Floats:
        """Class attention of one block and head, `(N + 1,)` float32."""
        rows = self._rows(block)
        if head is None:
            return rows.mean(axis=0, dtype=np.float64).astype(np.float32)
        return rows[self._head(head)]

    def grid(self, block: int | None = None, head: int | None = None, scale: Scale = "head") -> Floats:
        """One map stretched to [0, 1], `(rows, cols)` float32.

        From its own range, or on the scale "shared" from that of all heads of all blocks.
        """
        shared = check_choice("scale", scale, SCALES) == "shared"
        values = self.attention(block, head)[1:].reshape(self.grid_shape)
        return maps.min_max(values, self.shared_range if shared else None)

    def saliency(self, block: int | None = None) -> Floats:
        """The mean of the heads stretched to [0, 1], `(rows, cols)` float32 (paper, Figure 7)."""
        return self.grid(block)

    @property
    def shared_range(self) -> maps.Range:
        """The smallest and largest attention to a patch, over all heads of all blocks."""
        return maps.value_range(np.stack([rows[:, 1:] for rows in self.class_attention.values()]))

    def class_token_attention(self, block: int | None = None) -> Floats:
        """For each head the share of attention that the class token pays to itself, `(heads,)`."""
        return maps.class_token_attention(self._rows(block))

    def entropy(self, block: int | None = None) -> Floats:
        """Entropy of each head over the patches in nats, `(heads,)`: 0 for one patch to log N, all alike."""
        return maps.patch_entropy(self._rows(block))

    def effective_patches(self, block: int | None = None) -> Floats:
        """Over how many patches each head spreads, `(heads,)`: the exponential of the entropy."""
        return maps.effective_patches(self._rows(block))

    def center(self, block: int | None = None) -> Floats:
        """The center of each head's attention to the patches, x and y, `(heads, 2)`; see `maps.center`."""
        return maps.center(self._rows(block), self.grid_shape)

    def spread(self, block: int | None = None) -> Floats:
        """How far each head's attention lies from its center, `(heads,)`; see `maps.spread`."""
        return maps.spread(self._rows(block), self.grid_shape)

    def concentration(self, block: int | None = None, head: int | None = None) -> Concentration:
        """What stretching a map to its full range throws away."""
        attention = self.attention(block, head)[np.newaxis]
        measures = (maps.class_token_attention, maps.patch_entropy, maps.effective_patches)
        return Concentration(*(float(measure(attention)[0]) for measure in measures))

    def _rows(self, block: int | None) -> Floats:
        return self.class_attention[f"ca_ffn_block_{self.block_index(block)}_att"]

    def _head(self, head: int) -> int:
        return check_index("head", head, self.heads)


def _frozen(array: Any, dtype: type[np.generic] | None = None) -> NDArray[Any]:
    """A view that cannot be written through; the array that was given stays as writable as it was."""
    view = np.asarray(array, dtype).view()
    view.flags.writeable = False
    return view
