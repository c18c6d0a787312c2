"""Accuracy: how often a network names the class of an image."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cait_viz.attention.probabilities import probabilities

Scores = NDArray[np.floating]
# (B, classes) scores and (B,) labels to (B,) bool: which of the images count as right.
Measure = Callable[[Scores, NDArray[np.int64]], NDArray[np.bool_]]


class Accuracy(NamedTuple):
    """How many images were measured, and what share of them, 0 to 1, each measure counts as right."""

    images: int
    shares: dict[str, float]


def top(count: int) -> Measure:
    """Right if the class is among the `count` most probable; of equal scores the lower index comes first."""

    def right(scores: Scores, labels: NDArray[np.int64]) -> NDArray[np.bool_]:
        ranking = np.argsort(-scores, axis=1, kind="stable")[:, :count]
        return (ranking == labels[:, np.newaxis]).any(axis=1)

    return right


def top1_among(classes: Iterable[int]) -> Measure:
    """Right if the class is the most probable of these classes, whatever the others score."""
    chosen = np.unique(list(classes))
    return lambda scores, labels: chosen[scores[:, chosen].argmax(axis=1)] == labels


def kind_within(kinds: Sequence[str], count: int) -> Measure:
    """Right if the kind of the class is among the `count` most probable; a kind sums its classes.

    Args:
        kinds: the kind of each class.
        count: how many kinds are looked at.
    """
    names, kind_of = np.unique(kinds, return_inverse=True)
    member = np.eye(len(names))[kind_of]
    within = top(count)
    return lambda scores, labels: within(probabilities(scores) @ member, kind_of[labels])


def usual_measures(classes: int, kinds: Sequence[str] = ()) -> dict[str, Measure]:
    """The measures "top1"; of more than five classes "top5"; where kinds are known, "kind" and "kind3"."""
    measures = {"top1": top(1)} | ({"top5": top(5)} if classes > 5 else {})
    return measures | ({"kind": kind_within(kinds, 1), "kind3": kind_within(kinds, 3)} if kinds else {})


def accuracy(
    classify: Callable[[NDArray[Any]], Scores],
    examples: Iterable[tuple[NDArray[Any], int]],
    measures: Mapping[str, Measure],
    batch: int = 32,
) -> Accuracy:
    """Measure a network on labeled images.

    Args:
        classify: images (batch, height, width, 3) to scores (batch, classes), the higher the more probable;
            `batch` never changes, so that a compiled network meets a single shape.
        examples: each image, (height, width, 3) as `classify` takes it, and its label; at least one.
        measures: what counts as right, by name.
        batch: images per call.
    """
    tally = Tally(classify, measures, batch)
    for image, label in examples:
        tally.add(image, label)
    return tally.accuracy()


class Tally:
    """The accuracy of a network on images that come one by one; the arguments are those of `accuracy`."""

    def __init__(
        self, classify: Callable[[NDArray[Any]], Scores], measures: Mapping[str, Measure], batch: int = 32
    ) -> None:
        self._classify, self._measures, self._batch = classify, measures, batch
        self._waiting: list[tuple[NDArray[Any], int]] = []
        self._right: list[NDArray[np.bool_]] = []  # of each batch, (measures, images)

    def add(self, image: NDArray[Any], label: int) -> None:
        """Count one image."""
        self._waiting.append((image, label))
        if len(self._waiting) == self._batch:
            self._classify_waiting()

    def accuracy(self) -> Accuracy:
        """The accuracy on the images so far, at least one."""
        if self._waiting:
            self._classify_waiting()
        right = np.concatenate(self._right, axis=1)
        return Accuracy(right.shape[1], dict(zip(self._measures, right.mean(axis=1).tolist(), strict=True)))

    def _classify_waiting(self) -> None:
        images = np.stack([image for image, _ in self._waiting])
        labels = np.array([label for _, label in self._waiting], np.int64)
        filled = np.resize(images, (self._batch, *images.shape[1:]))
        scores = as_two_classes(self._classify(filled)[: len(labels)])
        self._right.append(np.stack([measure(scores, labels) for measure in self._measures.values()]))
        self._waiting.clear()


def as_two_classes(logits: Scores) -> Scores:
    """To a head of one class, a sigmoid, the logit 0 of all that is not this class; (B, 1) -> (B, 2).

    The softmax of (logit, 0) is (sigmoid(logit), 1 - sigmoid(logit)). Other shapes stay as they are.
    """
    return np.pad(logits, ((0, 0), (0, 1))) if logits.shape[1] == 1 else logits


def default_class(classes: int) -> int | None:
    """The class to follow where none is chosen: None, the most probable one, but a sigmoid's only class."""
    return 0 if classes == 1 else None
