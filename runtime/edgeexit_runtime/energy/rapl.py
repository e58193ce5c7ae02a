"""RAPL: the joules that processors of Intel and AMD count."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from edgeexit_runtime.energy.sensors import listed, number_of, text_of

__all__ = ["RaplMeter", "find_rapl"]

POWERCAP = "sys/class/powercap"


class RaplMeter(AbstractContextManager["RaplMeter"]):
    """Counters of processor packages, and of memory where they tell it.

    A counter starts anew after some minutes at full load. That is noticed once between two readings.

    Args:
        zones: Folders of `/sys/class/powercap`.
    """

    def __init__(self, zones: Sequence[Path]) -> None:
        self._zones = tuple(zones)
        self._ranges_uj = [number_of(zone / "max_energy_range_uj") for zone in zones]
        names = ", ".join(text_of(zone / "name") for zone in zones)
        self.note = f"RAPL: {names}; the whole processor, other programs included"
        self._last_uj = self._read_uj()
        self._total_uj = 0

    def __enter__(self) -> RaplMeter:
        """Begin to count."""
        self._last_uj, self._total_uj = self._read_uj(), 0
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to stop."""

    def joules(self) -> float:
        """See `Meter.joules`."""
        now_uj = self._read_uj()
        for now, last, range_uj in zip(now_uj, self._last_uj, self._ranges_uj, strict=True):
            self._total_uj += now - last if now >= last else now - last + range_uj
        self._last_uj = now_uj
        return self._total_uj / 1e6

    def _read_uj(self) -> list[int]:
        return [number_of(zone / "energy_uj") for zone in self._zones]


def find_rapl(root: Path) -> RaplMeter | None:
    """The counters of a machine; None where it has none.

    Raises:
        BackendError: There are some, and they cannot be read.
    """
    zones = [zone for zone in listed(root / POWERCAP, "intel-rapl:*") if _counts(zone)]
    return RaplMeter(zones) if zones else None


def _counts(zone: Path) -> bool:
    """Whether the zone adds to the others: packages hold their cores, and a platform holds its packages."""
    name = text_of(zone / "name")
    return name.startswith("package") or name == "dram"
