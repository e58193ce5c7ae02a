"""The builder's phases as one figure from 0 to 100.

TensorRT tells of phases within phases, from threads of its own. An exception that left a callback there
would end the process, so none does: it is kept, the build is told to stop, and `reraise` raises it.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

from edgeexit.console import Advance

__all__ = ["PARTS", "Phases", "make_monitor"]

PARTS = 100
"""How much one engine is, in calls of `advance`."""


@dataclass
class _Phase:
    parent: str | None
    steps: int
    done: int = 0


class Phases:
    """What is going on, and how far it is.

    Args:
        advance: Told how many of the `PARTS` more are done; never by more than all of them together.
    """

    def __init__(self, advance: Advance) -> None:
        self._advance = advance
        self._lock = threading.Lock()
        self._phases: dict[str, _Phase] = {}
        self._shown = 0
        self._failure: BaseException | None = None

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase begins, within another unless `parent` is None."""
        with self._lock:
            self._phases[name] = _Phase(parent, max(steps, 1))

    def step(self, name: str, step: int) -> bool:
        """A step of a phase is done, counted from 0; whether to go on."""
        with self._lock:
            phase = self._phases.get(name)
            if phase is not None:
                phase.done = min(step + 1, phase.steps)
            return self._show(int(PARTS * self._fraction(None)))

    def finish(self, name: str) -> None:
        """A phase is over, also when not all its steps were told."""
        with self._lock:
            self._phases.pop(name, None)

    def complete(self) -> None:
        """All is done: show what is left. Raises what a callback raised, such as an interrupt."""
        with self._lock:
            self._show(PARTS)
        self.reraise()

    def reraise(self) -> None:
        """Raise what a callback raised."""
        if self._failure is not None:
            raise self._failure

    def _fraction(self, parent: str | None) -> float:
        """How far the furthest phase within `parent` is."""
        return max(
            (
                (phase.done + (self._fraction(name) if phase.done < phase.steps else 0)) / phase.steps
                for name, phase in self._phases.items()
                if phase.parent == parent and name != parent
            ),
            default=0.0,
        )

    def _show(self, part: int) -> bool:
        try:
            if self._failure is None and part > self._shown:
                more, self._shown = part - self._shown, part
                self._advance(more)
        except BaseException as error:
            self._failure = error
        return self._failure is None


def make_monitor(trt: Any, phases: Phases) -> Any:
    """What TensorRT is given to tell of its phases."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            phases.start(phase_name, parent_phase or None, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return phases.step(phase_name, step)

        def phase_finish(self, phase_name: str) -> None:
            phases.finish(phase_name)

    return Monitor()
