"""Batches for the training steps: views of images, and their targets.

NumPy alone. A batch follows from the step's number, so that a training can be resumed anywhere.
"""

import os
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from cait_viz.attention.probabilities import probabilities
from cait_viz.images.preprocess import normalize
from cait_viz.training.augmentation import AugmentedView, Floats, draw_view, mixed_labels, render
from cait_viz.training.cache import DecodedImages
from cait_viz.training.config import TrainingConfig
from cait_viz.training.teacher import TeacherCache, TeacherOutput

Integers = NDArray[np.int64]
Targets = dict[str, Floats]

# Threads that render the views of a batch; Pillow releases Python's lock while it resizes.
_THREADS = min(8, os.cpu_count() or 1)
# Views from which the scale of the teacher's features is measured: enough for its precision.
_MEASURED = 256
_SMALLEST_DEVIATION = 1e-3


@dataclass(frozen=True)
class Dataset:
    """Images to train on or to validate with.

    Attributes:
        images: P of them.
        labels: (P,) int64, the class of each, negative where it is unknown.
        weights: (P,) float64, how often an epoch shows each on average.
    """

    images: DecodedImages
    labels: Integers
    weights: NDArray[np.float64]


class Loader:
    """The batches of a training.

    Args:
        dataset: the images to train on.
        classes: number of classes.
        config: the training's.
        teacher: the teacher's outputs, if there is a teacher.

    Attributes:
        batch_size: the config's, or all of an epoch if that is less.
        steps_per_epoch: batches in an epoch, not always a whole number.
        feature_scale: (2, channels), mean and deviation of each channel of the teacher's features, by which
            they are standardized; None without a teacher.
    """

    def __init__(
        self, dataset: Dataset, classes: int, config: TrainingConfig, teacher: TeacherCache | None = None
    ) -> None:
        self._data = dataset
        self._classes = classes
        self._config = config
        self._teacher = teacher
        self._epoch_size = max(1, round(float(dataset.weights.sum())))
        self.batch_size = min(config.batch_size, self._epoch_size)
        self.steps_per_epoch = self._epoch_size / self.batch_size
        self._threads = ThreadPoolExecutor(_THREADS)
        self._epoch = lru_cache(maxsize=4)(self._draw_epoch)
        self.feature_scale = None if teacher is None else self._measure_features(teacher)

    def batch(self, step: int, image_size: int) -> tuple[Floats, Targets]:
        """The images (B, S, S, 3), normalized, and the targets of a step.

        The targets are "classes" (B, classes), each row a distribution, and with a teacher "features"
        (B, rows, cols, channels), standardized.
        """
        samples = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        epochs, positions = np.divmod(samples, self._epoch_size)  # a batch may reach into the next epoch
        images, numbers = np.array(
            [self._epoch(int(epoch))[:, position] for epoch, position in zip(epochs, positions, strict=True)]
        ).T
        if self._config.kept_views:
            numbers = numbers % self._config.kept_views
        views = self._views(images, numbers)
        return normalize(self._render(views, image_size)), self._targets(images, numbers, views)

    def stream(
        self, start: int, stop: int, image_size: int, ahead: int = 0
    ) -> Generator[tuple[Floats, Targets]]:
        """The batches of the steps from `start` to before `stop`.

        Args:
            start: the first step.
            stop: the step before which to stop.
            image_size: side of the images, in pixels.
            ahead: number of batches that are made while the one before is in use. None where all of it runs
                on the same cores: there the teacher and the student would only wait for each other.
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

    def epochs_done(self, step: int) -> int:
        """Number of whole epochs in the steps before `step`."""
        return step * self.batch_size // self._epoch_size

    def _draw_epoch(self, epoch: int) -> Integers:
        """The images of an epoch in their order, and the number of the view of each: (2, samples).

        Systematic sampling: evenly spaced points on the line of all weights, so that each image is drawn
        as often as its weight says, to the whole number below or above it.
        """
        weights = self._data.weights
        generator = np.random.default_rng((self._config.seed, epoch))
        order = generator.permutation(len(weights))
        ends = np.cumsum(weights[order])
        points = (np.arange(self._epoch_size) + generator.random()) * (ends[-1] / self._epoch_size)
        drawn = order[np.minimum(np.searchsorted(ends, points, side="right"), len(order) - 1)]
        most = np.ceil(weights).astype(np.int64)  # views that an epoch may need of each image
        numbers = epoch * most[drawn] + _occurrences(drawn)
        return np.stack([drawn, numbers])[:, generator.permutation(self._epoch_size)]

    def _views(self, images: Integers, numbers: Integers) -> list[AugmentedView]:
        augmentation, sizes, seed = self._config.augmentation, self._data.images.sizes, self._config.seed
        return [
            draw_view(augmentation, sizes, seed, int(image), int(number))
            for image, number in zip(images, numbers, strict=True)
        ]

    def _render(self, views: list[AugmentedView], image_size: int) -> NDArray[np.uint8]:
        images = self._threads.map(
            lambda view: np.asarray(render(view, self._data.images, image_size)), views
        )
        return np.stack(list(images))

    def _targets(self, images: Integers, numbers: Integers, views: list[AugmentedView]) -> Targets:
        labels = np.stack([mixed_labels(view, self._data.labels, self._classes) for view in views])
        known = labels.sum(axis=1, keepdims=True)
        smoothing = np.float32(self._config.label_smoothing)
        labels = (1 - smoothing) * labels + smoothing * known / np.float32(self._classes)
        if self._teacher is None or self.feature_scale is None:
            return {"classes": labels}
        output = self._teacher_output(self._teacher, images, numbers)
        # In a view of two images of which one has no label, the teacher stands in for that part.
        weight = np.float32(self._config.label_weight)
        mean, deviation = self.feature_scale
        return {
            "classes": weight * labels + (1 - weight * known) * probabilities(output.logits),
            "features": (output.features - mean) / deviation,
        }

    def _teacher_output(self, teacher: TeacherCache, images: Integers, numbers: Integers) -> TeacherOutput:
        size = teacher.teacher.size
        return teacher.get(images, numbers, lambda *missing: self._render(self._views(*missing), size))

    def _measure_features(self, teacher: TeacherCache) -> Floats:
        """Mean and deviation of each channel over the first views of some images."""
        chosen = self._epoch(0)[0, :_MEASURED]
        features = self._teacher_output(teacher, chosen, np.zeros_like(chosen)).features
        flat = features.reshape(-1, features.shape[-1]).astype(np.float64)
        deviation = np.maximum(flat.std(axis=0), _SMALLEST_DEVIATION)
        return np.stack([flat.mean(axis=0), deviation]).astype(np.float32)


def _occurrences(draws: Integers) -> Integers:
    """For each draw, how often its image was drawn before: [5, 7, 5] -> [0, 0, 1]."""
    order = np.argsort(draws, kind="stable")
    starts = np.searchsorted(draws[order], draws[order])
    result = np.empty(len(draws), np.int64)
    result[order] = np.arange(len(draws)) - starts
    return result
