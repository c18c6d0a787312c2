"""What a training writes down of each epoch."""

import csv
import io
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import keras
import numpy as np

from cait_viz.datasets import Tell
from cait_viz.learner import Training, TrainingError
from cait_viz.outputs import replacing


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
        self,
        training: Training,
        epochs: int,
        losses: Sequence[Mapping[str, float]],
        accuracy: Mapping[str, float],
    ) -> None:
        """Log an epoch, or the part of one since the last line or the resumption.

        Args:
            training: as it is now.
            epochs: how many whole epochs are done.
            losses: of the steps.
            accuracy: of what was not trained on, as it is now.
        """
        means = {name: float(np.mean([entry[name] for entry in losses])) for name in losses[0]}
        row = {
            "step": training.step,
            "image_size": training.model.config.image_size,
            "learning_rate": training.learning_rate,
            **means,
            **{f"validation_{name}": share for name, share in accuracy.items()},
            "seconds": round(training.seconds, 1),
        }
        if training.learner is not self._boards.model:  # another one at every resolution
            self._boards.set_model(training.learner)
        self._boards.on_epoch_end(epochs, row)
        _write_rows(self._path, [*_read_rows(self._path), {"epochs": epochs, **row}])
        validated = "".join(f", validation {name} {100 * share:.1f} %" for name, share in accuracy.items())
        done = f"{epochs} epoch{'' if epochs == 1 else 's'}"
        self._tell(
            f"{done}, step {training.step} of {training.schedule.steps}: loss {means['loss']:.3f}{validated}"
        )

    def close(self) -> None:
        """Say that the training is over."""
        self._boards.on_train_end()


def _forget_rows_after(path: Path, step: int) -> None:
    """Take from the log what a training that was killed wrote after its last saved state."""
    rows = _read_rows(path)
    if rows:
        _write_rows(path, [row for row in rows if int(row["step"]) <= step])


def _read_rows(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    # Not Keras' CSVLogger: it adds a column "val_…" for each of these.
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="")
    writer.writeheader()
    writer.writerows(rows)
    with replacing(path) as file:
        file.write(text.getvalue().encode())


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
