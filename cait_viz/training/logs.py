"""What a training writes down of each epoch."""

import csv
import io
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import keras
import numpy as np

from cait_viz._files import replacing
from cait_viz._text import path_text
from cait_viz.errors import OutputError, TrainingError
from cait_viz.training.datasets import Tell
from cait_viz.training.trainer import Training


class Log:
    """A line for each epoch: in a CSV file, for a person, and for TensorBoard if asked.

    Args:
        path: the CSV file; rows of later steps than the training's go with the next line.
        boards: callbacks of Keras that log as well.
        training: what is logged.
        tell: called with a sentence for a person.
    """

    def __init__(
        self, path: Path, boards: Sequence[keras.callbacks.Callback], training: Training, tell: Tell
    ) -> None:
        self._path = path
        # What a training that was killed wrote after its last saved state is forgotten.
        self._rows = [row for row in _read_rows(path) if int(row["step"]) <= training.step]
        self._saved = True
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
        self._rows.append({"epochs": epochs, **row})
        self._save()
        validated = "".join(f", validation {name} {100 * share:.1f} %" for name, share in accuracy.items())
        done = f"{epochs} epoch{'' if epochs == 1 else 's'}"
        self._tell(
            f"{done}, step {training.step} of {training.schedule.steps}: loss {means['loss']:.3f}{validated}"
        )

    @staticmethod
    def is_log(path: Path) -> bool:
        """Whether a file is one that this class wrote."""
        with path.open("rb") as file:
            return file.readline().startswith(b"epochs,step,image_size,")

    def _save(self) -> None:
        try:
            _write_rows(self._path, self._rows)
            self._saved = True
        except OutputError:  # a spreadsheet may hold it open, which is no reason to end the training
            self._saved = False
            self._tell(
                f"{path_text(self._path)}: cannot be written now; this line is written with the next one"
            )

    def close(self) -> None:
        """Say that the training is over."""
        if not self._saved:
            self._save()
        self._boards.on_train_end()


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
