"""The oldest version of every package that we say we work with, torch aside, read from the pyproject files."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
from packaging.requirements import Requirement

from wheels import DEVICE_SIDE, EXPORTERS

EXTRAS = frozenset({"bench", "report"})
"""What a device may have beside what it must have."""

TESTED = (*DEVICE_SIDE, EXPORTERS)
"""The device side, and the exporters as far as they go without torch: their bundles are what `update` is tested on."""


def declared_bounds() -> list[str]:
    """One line per requirement, as in a constraints file: `numpy==1.24`."""
    return sorted(set(pins(requirements(TESTED, EXTRAS))))


def requirements(folders: Iterable[Path], wanted: Collection[str] = ()) -> Iterator[str]:
    """What distributions with these extras require, as it is written, our own distributions left out."""
    for folder in folders:
        project: dict[str, Any] = msgspec.toml.decode((folder / "pyproject.toml").read_bytes())["project"]
        extras = project.get("optional-dependencies", {})
        beside = [line for name, lines in extras.items() if name in wanted for line in lines]
        for written in (*project["dependencies"], *beside):
            if not Requirement(written).name.startswith("edgeexit"):
                yield written


def pins(written: Iterable[str]) -> Iterator[str]:
    """Each requirement at its lower bound, its marker kept.

    Raises:
        ValueError: A requirement has no lower bound, or several.
    """
    for line in written:
        requirement = Requirement(line)
        lowest = [part.version for part in requirement.specifier if part.operator in (">=", "==", "~=")]
        if len(lowest) != 1:
            raise ValueError(f"{line!r} does not have one lower bound")
        marker = f"; {requirement.marker}" if requirement.marker else ""
        yield f"{requirement.name}=={lowest[0]}{marker}"
