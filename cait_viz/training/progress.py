"""How fast a training is, and how long it will still take."""

from collections.abc import Sequence

import numpy as np
from tqdm import tqdm


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
