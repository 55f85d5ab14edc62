"""How fast a run goes, from the steps that it tells of."""

import time
from dataclasses import replace

from suites.store import Progress


class Pace:
    """Adds the speed to a run's progress.

    Counted anew in every phase, for a step of the small model is quicker than one under masks. The first step of a
    phase is left out: it waits for what is made only once, such as the teacher's outputs.
    """

    def __init__(self) -> None:
        self._phase, self._step, self._time = "", 0, 0.0

    def __call__(self, progress: Progress) -> Progress:
        """The progress with its speed, once there are two reports of its phase."""
        now = time.monotonic()
        if progress.phase != self._phase or progress.step < self._step:
            self._phase, self._step, self._time = progress.phase, progress.step, now
        if progress.step == self._step or now == self._time:
            return progress
        return replace(progress, speed=(progress.step - self._step) / (now - self._time))
