"""INA3221: the volts and amperes that a Jetson tells of, integrated over time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

from edgeexit.errors import BackendError
from edgeexit_runtime.energy.sensors import listed, number_of, text_of

__all__ = ["InaMeter", "Rail", "find_ina"]

INA_DRIVERS = "sys/bus/i2c/drivers/ina3221"
INA_CHANNELS = (1, 2, 3)
INTERVAL_S = 0.02

WHOLE_MODULE = "VDD_IN"
"""The rail that feeds a Jetson module as a whole, where there is one."""

SUPPLIES = ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0")
"""The rails that together feed a Jetson AGX Orin module; its others branch off these."""


class Rail(NamedTuple):
    """A supply that a sensor watches: files in millivolts and in milliamperes."""

    name: str
    voltage: Path
    current: Path

    def watts(self) -> float:
        """Power at this moment."""
        return number_of(self.voltage) * number_of(self.current) / 1e6


class InaMeter(AbstractContextManager["InaMeter"]):
    """Rails of a Jetson, their power integrated by the trapezoidal rule.

    Args:
        rails: What to add up.
        clock: Seconds.
        interval_s: Between two samples.
    """

    def __init__(
        self, rails: Sequence[Rail], *, clock: Callable[[], float] = time.perf_counter, interval_s: float = INTERVAL_S
    ) -> None:
        self._rails, self._clock, self._interval_s = tuple(rails), clock, interval_s
        self.note = f"INA3221: {', '.join(rail.name for rail in rails)}; the whole module, other programs included"
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None
        self._failure: BackendError | None = None
        self._joules = 0.0
        self._last = (clock(), self._watts())

    def __enter__(self) -> InaMeter:
        """Begin to count, in a thread."""
        self._stop.clear()
        self._failure, self._joules, self._last = None, 0.0, (self._clock(), self._watts())
        self._thread = threading.Thread(target=self._keep_sampling, name="edgeexit-energy", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the thread."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def joules(self) -> float:
        """See `Meter.joules`."""
        self.sample()
        if self._failure is not None:
            raise self._failure
        return self._joules

    def sample(self) -> None:
        """Add what was spent since the last sample."""
        with self._lock:
            now_s, watts = self._clock(), self._watts()
            then_s, before = self._last
            self._joules += (now_s - then_s) * (before + watts) / 2
            self._last = (now_s, watts)

    def _watts(self) -> float:
        return sum(rail.watts() for rail in self._rails)

    def _keep_sampling(self) -> None:
        while not self._stop.wait(self._interval_s):
            try:
                self.sample()
            except BackendError as error:
                self._failure = error
                return


def find_ina(root: Path) -> InaMeter | None:
    """The rails that feed the module; None where there are no such sensors.

    Raises:
        BackendError: There are some, and they cannot be read, or watch other rails.
    """
    rails = {rail.name: rail for folder in listed(root / INA_DRIVERS, "*/hwmon/hwmon*") for rail in _rails(folder)}
    if WHOLE_MODULE in rails:
        return InaMeter([rails[WHOLE_MODULE]])
    if all(name in rails for name in SUPPLIES):
        return InaMeter([rails[name] for name in SUPPLIES])
    if rails:
        raise BackendError("the INA3221 sensors watch rails that are not known", got=", ".join(sorted(rails)))
    return None


def _rails(folder: Path) -> list[Rail]:
    return [
        Rail(text_of(folder / f"in{i}_label"), folder / f"in{i}_input", folder / f"curr{i}_input")
        for i in INA_CHANNELS
        if (folder / f"in{i}_label").exists()
    ]
