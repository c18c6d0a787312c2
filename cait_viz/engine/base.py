"""What every engine is: something that runs one network on images, and answers with NumPy arrays."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from operator import index
from typing import Literal, SupportsIndex

import numpy as np

from cait_viz.errors import SelectionError
from cait_viz.model.config import CaiTConfig, WeightsSource

EngineName = Literal["openvino", "keras"]
Precision = Literal["float32", "bfloat16"]

Attention = dict[str, np.ndarray]


class Engine(ABC):
    """A network that is ready to run; safe for several threads.

    Attributes:
        config: its architecture.
        source: where its weights came from, and what results call it.
        labels: the name of each class; empty where they are not known.
        on_gpu: whether a GPU computes.
    """

    config: CaiTConfig
    source: WeightsSource
    labels: tuple[str, ...]
    on_gpu = False

    def forward(
        self, images: np.ndarray, sa_blocks: Sequence[SupportsIndex] = ()
    ) -> tuple[np.ndarray, Attention, Attention]:
        """Run the network on preprocessed images. Only what is asked for is kept.

        Args:
            images: (B, S, S, 3) float32, as `cait_viz.preprocess` makes them.
            sa_blocks: indices of the self-attention blocks whose attention to return.

        Returns:
            Logits (B, classes) float32; the self-attention asked for, "sa_ffn_block_{k}_att" ->
            (B, H, N, N); the class attention of every block, "ca_ffn_block_{i}_att" -> (B, H, 1, 1 + N).

        Raises:
            SelectionError: there is no such self-attention block.
            ValueError: `images` has the wrong shape.
        """
        blocks = tuple(sorted({_checked(block, self.config.sa_ffn_layers) for block in sa_blocks}))
        self.config.check_images(images.shape)
        answer = self._run(np.ascontiguousarray(images, np.float32), blocks)
        sa_names, ca_names = sa_keys(blocks), ca_keys(self.config)
        return (
            answer["logits"],
            {name: answer[name] for name in sa_names},
            {name: answer[name] for name in ca_names},
        )

    @abstractmethod
    def _run(self, images: np.ndarray, sa_blocks: tuple[int, ...]) -> dict[str, np.ndarray]:
        """The logits, the attention of those self-attention blocks and all class attention, by name."""


def sa_keys(blocks: Sequence[int]) -> list[str]:
    """What the attention of self-attention blocks is called."""
    return [f"sa_ffn_block_{block}_att" for block in blocks]


def ca_keys(config: CaiTConfig) -> list[str]:
    """What the attention of the class-attention blocks is called."""
    return [f"ca_ffn_block_{block}_att" for block in range(config.ca_ffn_layers)]


def _checked(block: SupportsIndex, count: int) -> int:
    if isinstance(block, SupportsIndex) and not isinstance(block, bool) and 0 <= index(block) < count:
        return index(block)
    raise SelectionError(
        f"there is no self-attention block {block}; this model has blocks 0 to {count - 1}, counted from 0"
    )
