"""What a training tells while it runs: a row per epoch in its log, its speed, and the time left."""

import csv
import importlib.util
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from cait_viz._files import atomic_write
from cait_viz._keras import keras
from cait_viz._text import path_text
from cait_viz.errors import OutputError, TrainingError
from cait_viz.training.datasets import PrintLine
from cait_viz.training.trainer import Trainer


class Log:
    """A row for each epoch of a trainer: in a CSV file, printed, and for Keras callbacks that log as well."""

    def __init__(
        self, path: Path, trainer: Trainer, callbacks: list[keras.callbacks.Callback], print_line: PrintLine
    ) -> None:
        self._path, self._trainer, self._print_line = path, trainer, print_line
        self._rows: list[dict[str, Any]] = []
        if path.is_file():
            with path.open(newline="", encoding="utf-8") as file:
                # What a training wrote after its last saved state, before it was killed, is dropped.
                self._rows = [row for row in csv.DictReader(file) if int(row["step"]) <= trainer.step]
        self._saved = True
        self._callbacks = keras.callbacks.CallbackList(callbacks, model=trainer.model)
        self._callbacks.on_train_begin()

    def write(self, losses: Sequence[Mapping[str, float]], accuracy: Mapping[str, float]) -> None:
        """Log an epoch, or the part of one since the last row or since the training was resumed.

        The losses are of its steps, the accuracy that on the validation images.
        """
        trainer = self._trainer
        epochs = trainer.loader.epochs_done(trainer.step)
        means = {name: float(np.mean([entry[name] for entry in losses])) for name in losses[0]}
        row = {
            "step": trainer.step,
            "image_size": trainer.architecture.image_size,
            "learning_rate": trainer.learning_rate,
            **means,
            **{f"validation_{name}": share for name, share in accuracy.items()},
            "seconds": round(trainer.seconds, 1),
        }
        if trainer.model is not self._callbacks.model:  # there is another one at each resolution
            self._callbacks.set_model(trainer.model)
        self._callbacks.on_epoch_end(epochs, row)
        self._rows.append({"epochs": epochs, **row})
        self._save()
        validated = "".join(f", validation {name} {100 * share:.1f} %" for name, share in accuracy.items())
        passed = trainer.step / trainer.loader.steps_per_epoch
        done = f"{passed:.3g} epoch{'' if passed == 1 else 's'}, step {trainer.step} of {trainer.steps}"
        self._print_line(f"{done}: loss {means['loss']:.3f}{validated}")

    def close(self) -> None:
        """End the log of a finished training."""
        if not self._saved:
            self._save()
        self._callbacks.on_train_end()

    def _save(self) -> None:
        # Not with Keras' CSVLogger: it adds a column "val_…" for each of these.
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, dict.fromkeys(name for row in self._rows for name in row), restval="")
        writer.writeheader()
        writer.writerows(self._rows)
        try:
            with atomic_write(self._path) as file:
                file.write(text.getvalue().encode())
            self._saved = True
        except OutputError:  # it may be open in a spreadsheet, which is no reason to end the training
            self._saved = False
            self._print_line(
                f"{path_text(self._path)}: cannot be written now; its new row follows with the next one"
            )


def is_log(path: Path) -> bool:
    """Whether a file is a log of a training."""
    with path.open("rb") as file:
        return file.readline().startswith(b"epochs,step,image_size,")


def tensorboard(folder: Path) -> Any:
    """A callback that logs for TensorBoard; a TrainingError if a package for it is not installed."""
    try:
        callback = keras.callbacks.TensorBoard(folder, write_graph=False)
    except ImportError:
        callback = None
    if callback is None or importlib.util.find_spec("tensorboard") is None:
        raise TrainingError(
            "logs for TensorBoard need tensorflow and tensorboard; install them, or leave --tensorboard out"
        )
    return callback


class Progress:
    """Speed and time left of a training, measured since the last change of resolution.

    Args:
        ends: for each stage, the number of steps after which it ends.
        sizes: for each stage, the side of its images; a step's time is taken to grow with their area.
    """

    def __init__(self, ends: Sequence[int], sizes: Sequence[int]) -> None:
        self._ends = np.array(ends)
        self._areas = np.square(sizes, dtype=np.float64)
        self._stage = -1
        self._now = self._start = (0, 0.0)

    def update(self, step: int, seconds: float) -> None:
        """Note that so many steps have taken so many seconds in all."""
        self._now = (step, seconds)
        stage = int(np.searchsorted(self._ends, step))  # of the last of these steps
        if stage != self._stage:
            # Measured from here: in a stage's first step its graph is compiled.
            self._stage, self._start = stage, self._now

    @property
    def steps_per_second(self) -> float:
        """At the current resolution; 0 until two of its steps are done."""
        steps, seconds = np.subtract(self._now, self._start)
        return float(steps / seconds) if seconds > 0 else 0.0

    @property
    def time_left(self) -> str:
        """Such as "1:02:03"; "?" until two steps are done at the current resolution."""
        if not self.steps_per_second:
            return "?"
        steps = np.diff(np.clip(self._ends, self._now[0], None), prepend=self._now[0])
        areas = self._areas / self._areas[self._stage]
        return str(tqdm.format_interval(float(steps @ areas) / self.steps_per_second))
