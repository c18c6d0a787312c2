"""How fast a training is, and when it will be done."""

from collections.abc import Sequence

import numpy as np
from tqdm import tqdm


class Pace:
    """How long the rest of a training takes, told from the steps since the last change of resolution.

    Args:
        ends: of each stage, the number of the first step that is no longer its.
        sizes: of each stage, the side of its pictures; a step's time is taken to grow with their area.
    """

    def __init__(self, ends: Sequence[int], sizes: Sequence[int]) -> None:
        self._ends = np.array(ends)
        self._areas = np.square(sizes, dtype=np.float64)
        self._stage = -1
        self._step = self._seconds = self._first_step = self._first_seconds = 0.0

    def count(self, step: int, seconds: float) -> None:
        """So many steps are done, and took so many seconds in all."""
        stage = int(np.searchsorted(self._ends, step))  # of the step that was the last
        if stage != self._stage:
            # Not from the stage's own first step, in which its graph is compiled.
            self._stage, self._first_step, self._first_seconds = stage, step, seconds
        self._step, self._seconds = step, seconds

    @property
    def steps_per_second(self) -> float:
        """At the present resolution; 0 before two steps are done there."""
        seconds = self._seconds - self._first_seconds
        return (self._step - self._first_step) / seconds if seconds > 0 else 0.0

    @property
    def left(self) -> str:
        """The time left, such as "1:02:03"; "?" before two steps are done at the present resolution."""
        if not self.steps_per_second:
            return "?"
        steps = np.diff(np.clip(self._ends, self._step, None), prepend=self._step)
        areas = self._areas / self._areas[self._stage]
        return str(tqdm.format_interval(float(steps @ areas) / self.steps_per_second))
