"""How many pictures that were not trained on a network names."""

from collections.abc import Callable, Sequence

import numpy as np

from cait_viz.datasets import Example, Tell
from cait_viz.errors import ImageError
from cait_viz.preprocessing import prepare

# Pictures at a time.
_BATCH = 32
_FIVE = 5  # of top-5, which says nothing of so few classes


class Validation:
    """Pictures that are not trained on.

    Args:
        examples: all of them with a label.
        tell: called with a sentence for a person.
    """

    def __init__(self, examples: Sequence[Example], tell: Tell) -> None:
        self._examples = list(examples)
        self._tell = tell

    def __len__(self) -> int:
        return len(self._examples)

    def accuracy(self, predict: Callable[[np.ndarray], np.ndarray], image_size: int) -> dict[str, float]:
        """Share of the pictures whose class is the most probable, or among the five most probable.

        A file that is no picture is named and never tried again.
        """
        good, hits1, hits5, classes = [], 0, 0, 0
        for start in range(0, len(self._examples), _BATCH):
            chunk = self._examples[start : start + _BATCH]
            read = [
                (example, image)
                for example in chunk
                if (image := self._read(example, image_size)) is not None
            ]
            if not read:
                continue
            images = np.concatenate([image for _, image in read])
            # Filled up, so that one shape is compiled.
            scores = predict(np.resize(images, (_BATCH, *images.shape[1:])))[: len(read)]
            classes = scores.shape[1]
            ranking = np.argsort(-scores, axis=1, kind="stable")
            truth = np.array([example.label for example, _ in read])
            hits1 += int((ranking[:, 0] == truth).sum())
            hits5 += int((ranking[:, :_FIVE] == truth[:, None]).any(axis=1).sum())
            good += [example for example, _ in read]
        self._examples = good
        if not good:
            return {}
        shares = {"top1": hits1 / len(good), "top5": hits5 / len(good)}
        return shares if classes > _FIVE else {"top1": shares["top1"]}

    def _read(self, example: Example, image_size: int) -> np.ndarray | None:
        try:
            return prepare(example.path, image_size)
        except ImageError as error:
            self._tell(f"{error}; passed over")
            return None
