"""A network that sees nothing, for the tests of what is around networks."""

import numpy as np

from cait_viz.engine.base import Engine
from cait_viz.engine.tape import ClassGradients
from cait_viz.model.config import CaiTConfig, WeightsSource


class Blind(Engine):
    """A network that sees nothing."""

    def __init__(self):
        self.config, self.labels = CaiTConfig(num_classes=2, num_heads=1), ("a", "b")
        self.source = WeightsSource(name="blind", file="", sha256="", saliency_block=0, trained_size=32)

    def _classify(self, images):
        row = np.full((1, 1, 1, 197), 1 / 197, np.float32)
        return {"logits": np.zeros((1, 2), np.float32), "ca_ffn_block_0_att": row, "ca_ffn_block_1_att": row}

    def _trace(self, image, depths):
        return self._classify(image), [np.zeros((196, 192), np.float32) for _ in depths]

    def _attend(self, patches, block, mixed):
        return np.full((1, 196, 196), 1 / 196, np.float32)

    def _randomized(self, image, target, step, seed):
        raise NotImplementedError

    def _gradients(self, image, target):
        rows = np.zeros((2, 1, 197), np.float32)
        return ClassGradients(rows, rows, np.zeros(196, np.float32))

    def _read(self, patches, head_mask):
        answer = self._classify(patches)
        return {name: np.repeat(array, len(patches), axis=0) for name, array in answer.items()}
