"""A network whose last parts are re-initialized, for the test of Adebayo et al. (2018)."""

from typing import Any, NamedTuple

import numpy as np

from cait_viz.attention.patch_stage import rollout
from cait_viz.engine.tape import ClassGradients, GradientTape, observed_attention
from cait_viz.model.config import CaiTConfig

# As of the initializer of every kernel (`cait_viz.model.initial`), which is cut off at two of these.
_DEVIATION = 0.02


class Randomized(NamedTuple):
    """What such a network says of one image.

    Attributes:
        gradients: what speaks for the class.
        rolled: (N, N) float32, the rollout of its self-attention.
    """

    gradients: ClassGradients
    rolled: np.ndarray


def randomization_steps(config: CaiTConfig) -> tuple[str, ...]:
    """What is re-initialized, from the end of the network on; each step adds to the one before.

    The first is nothing, the network as it was trained.
    """
    class_stage = [f"CA block {index + 1}" for index in reversed(range(config.ca_ffn_layers))]
    names = {1: "the last SA block", config.sa_ffn_layers: "all SA blocks"}
    patch_stage = [names.get(count, f"the last {count} SA blocks") for count in _patch_stage_steps(config)]
    return ("nothing", "the classifier and the last norm", *class_stage, *patch_stage)


def _patch_stage_steps(config: CaiTConfig) -> list[int]:
    depth = config.sa_ffn_layers
    return sorted({1, max(1, depth // 2), depth})


class RandomizedNetwork:
    """A copy of a Keras network, on TensorFlow, of which part is re-initialized for each question.

    Args:
        model: a `cait_viz.model.cait.CaiT`, which stays as it is.
    """

    def __init__(self, model: Any) -> None:
        from cait_viz.model.cait import CaiT
        from cait_viz.model.initial import zero_weights

        with zero_weights():
            self._copy = CaiT(model.config, dtype=model.dtype_policy)
        self._config, self._tape = model.config, GradientTape(self._copy)
        self._trained = model.weights
        # Of all but kernels, which are drawn: biases, and the scales of LayerNorm and LayerScale.
        self._initial = [weight.numpy() if len(weight.shape) < 2 else None for weight in self._copy.weights]

    def answer(self, image: np.ndarray, target: int, step: int, seed: int) -> Randomized:
        """What the network of a step says of an image (1, height, width, 3) and a class."""
        self._randomize(step, seed)
        depths = self._tape.forward(image)
        means = []
        for block, patches in zip(self._copy.blocks, depths[:-1], strict=True):
            with observed_attention() as observed:
                block(patches, training=False)
            means.append(np.asarray(observed[0][0], np.float32).mean(axis=0))
        return Randomized(self._tape.backward(depths, target), rollout(means).astype(np.float32))

    def _randomize(self, step: int, seed: int) -> None:
        fresh = {id(weight) for layer in self._layers(step) for weight in layer.weights}
        for number, weight in enumerate(self._copy.weights):
            if id(weight) not in fresh:
                weight.assign(self._trained[number])
            elif (initial := self._initial[number]) is not None:
                weight.assign(initial)
            else:
                weight.assign(_truncated_normal(weight.shape, [seed, number]))

    def _layers(self, step: int) -> list[Any]:
        """What is re-initialized at a step."""
        copy, config = self._copy, self._config
        class_stage = list(reversed(copy.blocks_token_only))
        # The last norm lies before the classifier and knows no class without it.
        layers = [copy.head, copy.norm, *class_stage][: step and step + 1]
        deeper = step - len(class_stage) - 1
        if deeper > 0:
            layers += copy.blocks[config.sa_ffn_layers - _patch_stage_steps(config)[deeper - 1] :]
        return layers


def _truncated_normal(shape: tuple[int, ...], seed: list[int]) -> np.ndarray:
    """Normal numbers, those beyond two deviations drawn again: SciPy's truncnorm takes 14 times as long."""
    generator = np.random.default_rng(seed)
    drawn = generator.standard_normal(shape, np.float32)
    while (beyond := np.abs(drawn) > 2).any():
        drawn[beyond] = generator.standard_normal(np.count_nonzero(beyond), np.float32)
    return drawn * np.float32(_DEVIATION)
