"""The state of a training in a file, from which it can be resumed."""

import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from cait_viz._files import atomic_write
from cait_viz._text import one_line, path_text
from cait_viz.errors import TrainingError


def save_state(path: Path, facts: Mapping[str, Any], arrays: Sequence[np.ndarray]) -> None:
    """Write a state, whole or not at all; an OutputError if that fails."""
    named = {f"{number:04}": array for number, array in enumerate(arrays)}
    with atomic_write(path) as file:
        np.savez(file, state=np.array(json.dumps(facts)), **named)  # type: ignore[arg-type]


class SavedState:
    """What `save_state` wrote: its `facts`, and the arrays, which are read when they are asked for.

    Everything here raises a TrainingError if there is no such file, or it is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._name = path_text(path)
        with self._readable():
            self._archive = np.load(path)
            self.facts: dict[str, Any] = json.loads(str(self._archive["state"]))

    def require(self, identity: Mapping[str, Any]) -> None:
        """Refuse the state of another training, with a TrainingError that says in what it differs.

        `identity` is what is known of this training so far; the state may know more of its own.
        """
        wanted, saved = json.loads(json.dumps(identity)), self.facts["identity"]
        different = [key for key in wanted if wanted[key] != saved.get(key)]
        if different:
            raise TrainingError(
                f"{self._name}: was saved with other {', '.join(different)}; give the same, or start a new "
                "training in another folder"
            )

    def arrays(self) -> list[np.ndarray]:
        """The arrays in the order in which they were saved; the file is then closed."""
        with self._readable(), self._archive as archive:
            return [archive[key] for key in sorted(set(archive.files) - {"state"})]

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise TrainingError(f"{self._name}: nothing to resume; start without --resume") from None
        except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            raise TrainingError(f"{self._name}: cannot be resumed from ({one_line(str(error))})") from None
