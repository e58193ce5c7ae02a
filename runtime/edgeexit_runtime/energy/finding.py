"""Which meter a device has."""

from __future__ import annotations

from pathlib import Path

from edgeexit.errors import BackendError
from edgeexit_runtime.energy.ina import find_ina
from edgeexit_runtime.energy.meter import Meter
from edgeexit_runtime.energy.rapl import find_rapl

__all__ = ["find_meter"]


def find_meter(root: Path = Path("/")) -> tuple[Meter | None, str]:
    """The meter of this device.

    Args:
        root: Where the file system of the device begins.

    Returns:
        The meter and what it measures; or None, and why there is none.
    """
    reasons = []
    for find in (find_ina, find_rapl):
        try:
            meter = find(root)
        except BackendError as error:
            reasons.append(f"{error.problem}: {error.got}" + (f"; try: {error.remedy}" if error.remedy else ""))
            continue
        if meter is not None:
            return meter, meter.note
    return None, "; ".join(reasons) or "this device has no sensor for energy that the system shows (RAPL, INA3221)"
