"""What a training writes down of each epoch."""

import csv
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import keras
import numpy as np

from cait_viz.datasets import Tell
from cait_viz.learner import Training, TrainingError


class Log:
    """A line for each epoch: in a CSV file, for a person, and for TensorBoard if asked.

    Args:
        path: the CSV file; rows of later steps than the training's are taken from it.
        boards: callbacks of Keras that log as well.
        training: what is logged.
        tell: called with a sentence for a person.
    """

    def __init__(
        self, path: Path, boards: Sequence[keras.callbacks.Callback], training: Training, tell: Tell
    ) -> None:
        self._path = path
        _forget_rows_after(path, training.step)
        self._boards = keras.callbacks.CallbackList(list(boards), model=training.learner)
        self._boards.on_train_begin()
        self._tell = tell

    def write(
        self, training: Training, losses: Sequence[Mapping[str, float]], accuracy: Mapping[str, float]
    ) -> None:
        """Log an epoch, or the part of one since the last line: its mean losses and the accuracy after it."""
        means = {name: float(np.mean([entry[name] for entry in losses])) for name in losses[0]}
        row = {
            "step": training.step,
            "image_size": training.model.config.image_size,
            "learning_rate": training.learning_rate,
            **means,
            **{f"validation_{name}": share for name, share in accuracy.items()},
            "seconds": round(training.seconds, 1),
        }
        epoch = (training.step - 1) // training.schedule.steps_per_epoch
        self._boards.on_epoch_end(epoch, row)
        self._append({"epoch": epoch + 1, **row})
        validated = "".join(f", validation {name} {100 * share:.1f} %" for name, share in accuracy.items())
        self._tell(
            f"epoch {epoch + 1}, step {training.step} of {training.schedule.steps}: loss "
            f"{means['loss']:.3f}{validated}"
        )

    def close(self) -> None:
        """Say that the training is over."""
        self._boards.on_train_end()

    def _append(self, row: Mapping[str, float]) -> None:
        # Keras' CSVLogger would add a column "val_…" for each of these.
        new = not self._path.exists() or self._path.stat().st_size == 0
        with self._path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(row))
            if new:
                writer.writeheader()
            writer.writerow(row)


def _forget_rows_after(path: Path, step: int) -> None:
    """Take from the log what a training that was killed wrote after its last saved state."""
    if not path.is_file():
        return
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        columns, kept = reader.fieldnames or [], [row for row in reader if int(row["step"]) <= step]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(kept)


def tensorboard(folder: Path) -> Any:
    """A callback that logs for TensorBoard.

    Raises:
        TrainingError: what it needs is not installed.
    """
    try:
        callback = keras.callbacks.TensorBoard(folder, write_graph=False)
    except ImportError:
        callback = None
    if callback is None or find_spec("tensorboard") is None:
        raise TrainingError(
            "logs for TensorBoard need tensorflow and tensorboard; install them, or leave --tensorboard out"
        )
    return callback
