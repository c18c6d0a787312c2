"""How many images a session may give in a minute."""

import time
from collections import deque
from collections.abc import Callable
from math import ceil

_MINUTE = 60.0


class Allowance:
    """So many images in any minute.

    Args:
        images: that may be given in a minute; None for any number.
        clock: tells the time in seconds.
    """

    def __init__(self, images: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._images = images
        self._clock = clock
        self._given: deque[float] = deque()

    @property
    def wait(self) -> float:
        """Seconds until another image may be given; 0 where it may be now."""
        now = self._clock()
        while self._given and now - self._given[0] >= _MINUTE:
            self._given.popleft()
        if self._images is None or len(self._given) < self._images:
            return 0.0
        return _MINUTE - (now - self._given[0])

    def take(self) -> bool:
        """Count another image, if it may be given now; gives whether it may."""
        if self.wait:
            return False
        self._given.append(self._clock())
        return True

    @property
    def refusal(self) -> str:
        """What is said to who gave more, without a full stop."""
        number = "one image" if self._images == 1 else f"{self._images} images"
        return f"this server takes {number} a minute from a visitor; try again in {ceil(self.wait)} s"
