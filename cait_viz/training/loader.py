"""Batches for the training steps: views of images, and their targets. NumPy alone.

A batch follows from the step's number, so that a training can be resumed anywhere.
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
    """Images to train on or to validate with, P of them."""

    images: DecodedImages
    labels: Integers  # (P,), the class of each, negative where it is unknown
    weights: NDArray[np.float64]  # (P,), how often an epoch shows each on average


class Loader:
    """The batches of a training on a dataset of so many classes, with a teacher's outputs if there is one.

    Attributes:
        batch_size: the config's, or all of an epoch if that is less.
        steps_per_epoch: batches in an epoch, not always a whole number.
        feature_scale: (2, channels), mean and deviation of each channel of the teacher's features, by which
            they are standardized; None without a teacher.
    """

    def __init__(
        self, dataset: Dataset, classes: int, config: TrainingConfig, teacher: TeacherCache | None = None
    ) -> None:
        self.dataset, self._classes, self._config, self._teacher = dataset, classes, config, teacher
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
        places = zip(epochs.tolist(), positions.tolist(), strict=True)
        images, numbers = np.array([self._epoch(epoch)[:, position] for epoch, position in places]).T
        if self._config.kept_views:
            numbers = numbers % self._config.kept_views
        views = self._views(images, numbers)
        return normalize(self._render(views, image_size)), self._targets(images, numbers, views)

    def stream(
        self, start: int, stop: int, image_size: int, ahead: int = 0
    ) -> Generator[tuple[Floats, Targets]]:
        """The batches of the steps from `start` to before `stop`.

        `ahead` is the number of batches that are made while the one before is in use: none where all of it
        runs on the same cores, and the teacher and the student would only wait for each other.
        """
        waiting: deque[Future[tuple[Floats, Targets]]] = deque()
        maker = ThreadPoolExecutor(1)
        try:
            for step in range(start, stop):
                waiting.append(maker.submit(self.batch, step, image_size))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            maker.shutdown(cancel_futures=True)

    def epochs_done(self, step: int) -> int:
        """Number of whole epochs in the steps before `step`."""
        return step * self.batch_size // self._epoch_size

    def _draw_epoch(self, epoch: int) -> Integers:
        """The images of an epoch in their order, and the number of the view of each: (2, samples).

        Systematic sampling: evenly spaced points on the line of all weights, so that each image is drawn
        as often as its weight says, to the whole number below or above it.
        """
        weights = self.dataset.weights
        generator = np.random.default_rng((self._config.seed, epoch))
        order = generator.permutation(len(weights))
        ends = np.cumsum(weights[order])
        points = (np.arange(self._epoch_size) + generator.random()) * (ends[-1] / self._epoch_size)
        places = np.minimum(np.searchsorted(ends, points, side="right"), len(order) - 1)
        drawn = order[places]
        before = np.arange(len(places)) - np.searchsorted(places, places)  # draws of the same image
        most = np.ceil(weights).astype(np.int64)  # views that an epoch may need of each image
        numbers = epoch * most[drawn] + before
        return np.stack([drawn, numbers])[:, generator.permutation(self._epoch_size)]

    def _views(self, images: Integers, numbers: Integers) -> list[AugmentedView]:
        augmentation, sizes, seed = self._config.augmentation, self.dataset.images.sizes, self._config.seed
        pairs = zip(images.tolist(), numbers.tolist(), strict=True)
        return [draw_view(augmentation, sizes, seed, *pair) for pair in pairs]

    def _render(self, views: list[AugmentedView], image_size: int) -> NDArray[np.uint8]:
        images = self._threads.map(lambda view: render(view, self.dataset.images, image_size), views)
        return np.stack([np.asarray(image) for image in images])

    def _targets(self, images: Integers, numbers: Integers, views: list[AugmentedView]) -> Targets:
        labels = np.stack([mixed_labels(view, self.dataset.labels, self._classes) for view in views])
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
