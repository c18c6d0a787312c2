"""What every engine is: something that runs one network on images, and answers with NumPy arrays."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal, SupportsIndex

import numpy as np

from cait_viz._checks import check_index, check_number
from cait_viz.engine.names import ca_keys, sa_keys
from cait_viz.engine.randomized import Randomized, randomization_steps
from cait_viz.engine.tape import ClassGradients
from cait_viz.model.config import CaiTConfig, Precision, WeightsSource

EngineName = Literal["openvino", "keras"]

Attention = dict[str, np.ndarray]
Answer = dict[str, np.ndarray]


class Engine(ABC):
    """A network that is ready to run; safe for several threads.

    Attributes:
        name: which engine it is, "openvino" or "keras".
        config: its architecture.
        source: where its weights came from, and what results call it.
        labels: the name of each class; empty where they are not known.
        precision: type of the arithmetic.
        on_gpu: whether a GPU computes.
    """

    name: ClassVar[EngineName]
    config: CaiTConfig
    source: WeightsSource
    labels: tuple[str, ...]
    precision: Precision = "float32"
    on_gpu = False

    def forward(
        self, images: np.ndarray, sa_blocks: Sequence[SupportsIndex] = ()
    ) -> tuple[np.ndarray, Attention, Attention]:
        """Run the network on preprocessed images. Only what is asked for is kept.

        Args:
            images: (B, height, width, 3) float32, as `cait_viz.preprocess` makes them.
            sa_blocks: indices of the self-attention blocks whose attention to return.

        Returns:
            Logits (B, classes) float32; the self-attention asked for, "sa_ffn_block_{k}_att" ->
            (B, H, N, N), as in the tutorial that after `proj_w`; the class attention of every block,
            "ca_ffn_block_{i}_att" -> (B, H, 1, 1 + N).

        Raises:
            SelectionError: there is no such self-attention block.
            ValueError: `images` has the wrong shape.
        """
        blocks = tuple(sorted({self._block(block) for block in sa_blocks}))
        self.config.check_images(images.shape)
        images = np.ascontiguousarray(images, np.float32)
        if not blocks:
            answer = self._classify(images)
            return answer["logits"], {}, {name: answer[name] for name in ca_keys(self.config)}
        answers, attention = [], []
        for image in images[:, np.newaxis]:
            answer, patches = self._trace(image, blocks)
            answers.append(answer)
            attention.append([self._attend(at, k, True) for at, k in zip(patches, blocks, strict=True)])
        together = {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}
        stacked = [np.stack(maps) for maps in zip(*attention, strict=True)]
        return (
            together["logits"],
            dict(zip(sa_keys(blocks), stacked, strict=True)),
            {name: together[name] for name in ca_keys(self.config)},
        )

    def patches(self, image: np.ndarray, depths: Sequence[SupportsIndex] | None = None) -> np.ndarray:
        """The patches of an image on their way through the self-attention blocks.

        Args:
            image: (1, height, width, 3) float32, as `cait_viz.preprocess` makes it.
            depths: after how many self-attention blocks, from 0 to all of them; all of these by default.

        Returns:
            (depths, N, C) float32.

        Raises:
            SelectionError: there is no such depth.
            ValueError: `image` has the wrong shape.
        """
        count = self.config.sa_ffn_layers + 1
        asked = range(count) if depths is None else [check_index("depth", depth, count) for depth in depths]
        self.config.check_images(image.shape)
        if len(image) != 1:
            raise ValueError(f"the patches of one image at a time, not of {len(image)}")
        return np.stack(self._trace(np.ascontiguousarray(image, np.float32), tuple(asked))[1])

    def self_attention(self, patches: np.ndarray, block: SupportsIndex, *, mixed: bool = False) -> np.ndarray:
        """Where the patches of one image look in one self-attention block.

        Args:
            patches: (N, C) float32, as `patches` gives them for the depth `block`.
            block: the index of the block.
            mixed: the scores after `proj_w`, which mixes the heads and whose result the values are
                multiplied by, in place of the softmax's.

        Returns:
            (H, N, N) float32. Row i of the softmax is the distribution of what patch i looks at; column j
            tells who looks at patch j. Mixed scores are no distribution; half of them may be negative.

        Raises:
            SelectionError: there is no such block.
            ValueError: `patches` has the wrong shape.
        """
        _check_shape("patches", patches, (self.config.num_patches, self.config.projection_dim))
        return self._attend(np.ascontiguousarray(patches, np.float32), self._block(block), mixed)

    def class_stage(
        self, patches: np.ndarray, head_mask: np.ndarray | None = None
    ) -> tuple[np.ndarray, Attention]:
        """What the class-attention blocks and the classifier make of patches.

        Args:
            patches: (B, N, C) float32, as `patches` gives them.
            head_mask: what each class-attention head's output is multiplied by, (B, blocks, H) float32; 0
                silences it. By default ones.

        Returns:
            Logits (B, classes) and the class attention of every block, as `forward` gives them.

        Raises:
            ValueError: an array has the wrong shape.
        """
        config = self.config
        batch = max(1, len(patches))
        heads = (batch, config.ca_ffn_layers, config.num_heads)
        mask = np.ones(heads, np.float32) if head_mask is None else head_mask
        _check_shape("patches", patches, (batch, config.num_patches, config.projection_dim))
        _check_shape("head_mask", mask, heads)
        answer = self._read(np.ascontiguousarray(patches, np.float32), np.ascontiguousarray(mask, np.float32))
        return answer["logits"], {name: answer[name] for name in ca_keys(self.config)}

    def _block(self, block: SupportsIndex) -> int:
        return check_index("SA block", block, self.config.sa_ffn_layers)

    def class_gradients(self, image: np.ndarray, target: SupportsIndex) -> ClassGradients:
        """What speaks for a class: the gradients of its logit with respect to every attention.

        Args:
            image: (1, height, width, 3) float32, as `cait_viz.preprocess` makes it.
            target: the index of the class.

        Raises:
            SelectionError: there is no such class.
            CheckpointError: the checkpoint has changed since it was loaded.
            EngineError: the memory has no room for it, or TensorFlow does not run the network.
            ProcessDiedError: the process that computes them ended.
            ValueError: `image` has the wrong shape.
        """
        return self._gradients(*self._one_image(image, target))

    def randomized(self, image: np.ndarray, target: SupportsIndex, step: int, seed: int = 0) -> Randomized:
        """What the network says once its last parts are re-initialized.

        Args:
            image: (1, height, width, 3) float32, as `cait_viz.preprocess` makes it.
            target: the index of the class.
            step: how much is re-initialized, an index of `randomization_steps`.
            seed: decides the new weights; at least 0.

        Raises:
            SelectionError: there is no such class or step.

        Further errors as for `class_gradients`.
        """
        check_number("seed", seed, "at least 0", whole=True)
        step = check_index("step", step, len(randomization_steps(self.config)))
        return self._randomized(*self._one_image(image, target), step, seed)

    def _one_image(self, image: np.ndarray, target: SupportsIndex) -> tuple[np.ndarray, int]:
        """An image (1, height, width, 3) and the index of a class, checked."""
        self.config.check_images(image.shape)
        index = check_index("class", target, self.config.num_classes)
        if len(image) != 1:
            raise ValueError(f"one image at a time, not {len(image)}")
        return np.ascontiguousarray(image, np.float32), index

    @abstractmethod
    def _randomized(self, image: np.ndarray, target: int, step: int, seed: int) -> Randomized:
        """What the network of a step says, for an image (1, height, width, 3)."""

    @abstractmethod
    def _gradients(self, image: np.ndarray, target: int) -> ClassGradients:
        """What speaks for a class, for an image (1, height, width, 3)."""

    @abstractmethod
    def _classify(self, images: np.ndarray) -> Answer:
        """The logits and the class attention of images (B, height, width, 3), by name."""

    @abstractmethod
    def _trace(self, image: np.ndarray, depths: tuple[int, ...]) -> tuple[Answer, list[np.ndarray]]:
        """The same of one image (1, height, width, 3), and its patches (N, C) at these depths."""

    @abstractmethod
    def _attend(self, patches: np.ndarray, block: int, mixed: bool) -> np.ndarray:
        """Where patches (N, C) look in a self-attention block, (H, N, N)."""

    @abstractmethod
    def _read(self, patches: np.ndarray, head_mask: np.ndarray) -> Answer:
        """The logits and the class attention of patches (B, N, C), with a head mask, by name."""


def _check_shape(what: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise ValueError(f"{what} must have the shape {shape}, not {array.shape}")
