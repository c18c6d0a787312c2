"""What a training step is given: views of pictures, and what they should be taken for.

NumPy alone; every batch is a function of the step's number, so that a training can be taken up anywhere.
"""

import os
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from cait_viz.attention.probabilities import softmax
from cait_viz.images.preprocess import normalize
from cait_viz.training.augmentation import Floats, View, draw_view, mixed_labels, render
from cait_viz.training.config import TrainingConfig
from cait_viz.training.datasets import Pixels
from cait_viz.training.teacher import TeacherCache

Integers = NDArray[np.int64]
Targets = dict[str, Floats]

# Threads that render the views of a batch; Pillow lets go of Python's lock while it resizes.
_THREADS = min(8, os.cpu_count() or 1)


class Batches:
    """The batches of a training.

    Args:
        pixels: all pictures.
        labels: (P,) int64, the class of each, negative where it is unknown.
        weights: (P,) float64, how often an epoch shows each, on average; parts of a time count.
        classes: how many there are.
        recipe: the training's.
        lessons: the teacher's, if there is one.

    Attributes:
        size: pictures in a batch: the recipe's, or all of an epoch if they are fewer.
        steps_per_epoch: batches in an epoch, not always whole.
        feature_scale: mean and deviation of each channel of the teacher's features, (2, channels), by which
            they are standardised.
    """

    def __init__(
        self,
        pixels: Pixels,
        labels: Integers,
        weights: NDArray[np.float64],
        classes: int,
        recipe: TrainingConfig,
        lessons: TeacherCache | None = None,
    ) -> None:
        self._pixels = pixels
        self._labels = labels
        self._weights = weights
        self._classes = classes
        self._recipe = recipe
        self._lessons = lessons
        self._epoch_size = max(1, round(float(weights.sum())))
        self.size = min(recipe.batch_size, self._epoch_size)
        self.steps_per_epoch = self._epoch_size / self.size
        self._renderers = ThreadPoolExecutor(_THREADS)
        self._epoch = lru_cache(maxsize=4)(self._draw_epoch)
        self.feature_scale: Floats | None = None if lessons is None else self._measure_features(lessons)

    def batch(self, step: int, image_size: int) -> tuple[Floats, Targets]:
        """The pictures (B, S, S, 3), normalised, and the targets of a step.

        The targets are "classes" (B, classes), each row a distribution, and with a teacher "features"
        (B, rows, cols, channels), standardised.
        """
        shown = np.arange(step * self.size, (step + 1) * self.size)
        epochs, positions = np.divmod(shown, self._epoch_size)  # a batch may reach into the next epoch
        pictures, numbers = np.array(
            [self._epoch(int(epoch))[:, position] for epoch, position in zip(epochs, positions, strict=True)]
        ).T
        if self._recipe.kept_views:
            numbers = numbers % self._recipe.kept_views
        views = self._views(pictures, numbers)
        return normalize(self._show(views, image_size)), self._targets(pictures, numbers, views)

    def stream(
        self, start: int, stop: int, image_size: int, ahead: int = 0
    ) -> Generator[tuple[Floats, Targets]]:
        """The batches of the steps from `start` to before `stop`.

        Args:
            start: the first step.
            stop: the step before which to stop.
            image_size: side of the pictures.
            ahead: how many are made while the one before is in use. None where all of it runs on the same
                cores: there the teacher and the student would only wait for each other.
        """
        with ThreadPoolExecutor(1) as maker:
            waiting: deque[Future[tuple[Floats, Targets]]] = deque()
            try:
                for step in range(start, stop):
                    waiting.append(maker.submit(self.batch, step, image_size))
                    if len(waiting) > ahead:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    def epochs(self, step: int) -> int:
        """How many whole epochs the steps before `step` have shown."""
        return step * self.size // self._epoch_size

    def _draw_epoch(self, epoch: int) -> Integers:
        """The pictures of an epoch in their order, and which of its views each shows: (2, D).

        Systematic sampling: evenly spaced points on the line of all weights, so that each picture is drawn
        as often as its weight says, to the whole number below or above it.
        """
        generator = np.random.default_rng((self._recipe.seed, epoch))
        order = generator.permutation(len(self._weights))
        ends = np.cumsum(self._weights[order])
        points = (np.arange(self._epoch_size) + generator.random()) * (ends[-1] / self._epoch_size)
        drawn = order[np.minimum(np.searchsorted(ends, points, side="right"), len(order) - 1)]
        times = np.ceil(self._weights).astype(np.int64)
        numbers = epoch * times[drawn] + _occurrences(drawn)
        return np.stack([drawn, numbers])[:, generator.permutation(self._epoch_size)]

    def _views(self, pictures: Integers, numbers: Integers) -> list[View]:
        how, sizes, seed = self._recipe.augmentation, self._pixels.sizes, self._recipe.seed
        return [
            draw_view(how, sizes, seed, int(picture), int(number))
            for picture, number in zip(pictures, numbers, strict=True)
        ]

    def _show(self, views: list[View], image_size: int) -> NDArray[np.uint8]:
        shown = self._renderers.map(lambda view: np.asarray(render(view, self._pixels, image_size)), views)
        return np.stack(list(shown))

    def _targets(self, pictures: Integers, numbers: Integers, views: list[View]) -> Targets:
        labels = np.stack([mixed_labels(view, self._labels, self._classes) for view in views])
        known = labels.sum(axis=1, keepdims=True)
        smoothing = np.float32(self._recipe.label_smoothing)
        labels = (1 - smoothing) * labels + smoothing * known / np.float32(self._classes)
        if self._lessons is None or self.feature_scale is None:
            return {"classes": labels}
        lesson = self._lessons.get(pictures, numbers, self._show_teacher)
        # A view of two pictures of which one has no label learns that part from the teacher.
        weight = np.float32(self._recipe.label_weight)
        mean, deviation = self.feature_scale
        return {
            "classes": weight * labels + (1 - weight * known) * softmax(lesson.logits),
            "features": (lesson.features - mean) / deviation,
        }

    def _show_teacher(self, pictures: Integers, numbers: Integers) -> NDArray[np.uint8]:
        assert self._lessons is not None
        return self._show(self._views(pictures, numbers), self._lessons.teacher.size)

    def _measure_features(self, lessons: TeacherCache) -> Floats:
        """Mean and deviation of each channel over the first views of some pictures."""
        chosen = self._epoch(0)[0, :_MEASURED]
        features = lessons.get(chosen, np.zeros_like(chosen), self._show_teacher).features
        flat = features.reshape(-1, features.shape[-1]).astype(np.float64)
        deviation = np.maximum(flat.std(axis=0), _LEAST_DEVIATION)
        return np.stack([flat.mean(axis=0), deviation]).astype(np.float32)


# Views from which the scale of the teacher's features is measured; their number decides on the scale's
# precision and not on the training.
_MEASURED = 256
_LEAST_DEVIATION = 1e-3


def _occurrences(draws: Integers) -> Integers:
    """For each draw, how often its picture stands before it: [5, 7, 5] -> [0, 0, 1]."""
    order = np.argsort(draws, kind="stable")
    starts = np.searchsorted(draws[order], draws[order])
    result = np.empty(len(draws), np.int64)
    result[order] = np.arange(len(draws)) - starts
    return result
