"""One row an image: what was said of it, and each head's numbers, block by block, as Arrow's columns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from cait_viz.attention import maps
from cait_viz.attention.maps import Floats
from cait_viz.attention.probabilities import probabilities
from cait_viz.engine.base import Engine
from cait_viz.engine.names import ca_keys
from cait_viz.weights.labels import class_kinds, class_names

# The numbers of each head, and what they are; the columns are called ca0_entropy and so on.
MEASURES = {
    "class_token": "share of its attention that the class token pays to itself",
    "entropy": "entropy of the rest over the patches, in nats",
    "center_x": "center of the attention to the patches, in widths of what the network saw, from the left",
    "center_y": "the same in heights, from the top",
    "spread": "root mean square distance from the center, in the same parts",
}


@dataclass(frozen=True)
class Seen:
    """What is known of an image before the network is asked.

    Attributes:
        image: its path or web address, as it was given.
        size: width and height in pixels; None of a file that cannot be read.
        remark: what it lacks or what was assumed of its pixels; else "".
        error: why it cannot be read; else "".
    """

    image: str
    size: tuple[int, int] | None = None
    remark: str = ""
    error: str = ""


def as_text(image: str) -> str:
    """A path in letters; a file's name may be of bytes that are no text."""
    return image.encode("utf-8", "backslashreplace").decode("utf-8")


class Rows:
    """Makes the rows of one network.

    Args:
        engine: the network.
        top: how many classes and kinds a row lists.

    Attributes:
        schema: the columns. Of an image that cannot be read only `image` and `error` are filled in.
    """

    def __init__(self, engine: Engine, top: int) -> None:
        config = engine.config
        self._grid_shape, self._keys = config.grid_shape, ca_keys(config)
        self._labels = engine.labels or class_names(config.num_classes)
        self._top = min(top, len(self._labels))
        kinds = class_kinds(self._labels)
        self._kinds: Sequence[str] = sorted(set(kinds))
        self._kind_of = [self._kinds.index(kind) for kind in kinds]
        texts, floats = pa.list_(pa.string()), pa.list_(pa.float32())
        per_head = [
            pa.field(f"ca{block}_{measure}", floats, metadata={"description": description})
            for block in range(len(self._keys))
            for measure, description in MEASURES.items()
        ]
        self.schema = pa.schema(
            [
                pa.field("image", pa.string(), nullable=False),
                ("error", pa.string()),
                ("remark", pa.string()),
                ("width", pa.int32()),
                ("height", pa.int32()),
                ("classes", pa.list_(pa.int32())),
                ("labels", texts),
                ("probabilities", floats),
                ("kinds", texts),
                ("kind_probabilities", floats),
                *per_head,
            ]
        )

    def row(
        self, seen: Seen, logits: Floats | None = None, attention: Mapping[str, Floats] | None = None
    ) -> dict[str, Any]:
        """The row of an image.

        Args:
            seen: the image.
            logits: (C,); None where it could not be read.
            attention: each block's class attention, (H, 1, 1 + N), by its key.
        """
        row: dict[str, Any] = {
            "image": as_text(seen.image),
            "error": seen.error or None,
            "remark": seen.remark or None,
        }
        if seen.size is None or logits is None or attention is None:
            return row
        shares = probabilities(logits)
        best = np.argsort(-shares, kind="stable")[: self._top]
        row |= {
            "width": seen.size[0],
            "height": seen.size[1],
            "classes": best,
            "labels": [self._labels[index] for index in best],
            "probabilities": shares[best],
        }
        if self._kinds:
            sums = np.bincount(self._kind_of, weights=shares)
            first = np.argsort(-sums, kind="stable")[: self._top]
            row |= {"kinds": [self._kinds[index] for index in first], "kind_probabilities": sums[first]}
        for block, key in enumerate(self._keys):
            heads = attention[key][:, 0]
            center = maps.center(heads, self._grid_shape)
            numbers = (
                maps.class_token_attention(heads),
                maps.patch_entropy(heads),
                center[:, 0],
                center[:, 1],
                maps.spread(heads, self._grid_shape),
            )
            row |= {f"ca{block}_{name}": values for name, values in zip(MEASURES, numbers, strict=True)}
        return row
