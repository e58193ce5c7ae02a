"""The machine that is examined: its files, from any root, and what only a process on it knows."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, distributions, requires
from pathlib import Path

__all__ = ["Host", "Process", "run_command"]

LARGEST_BYTES = 8 << 20
COMMAND_S = 3.0

OURS = ("edgeexit", "edgeexit-runtime")
_NUMBER = re.compile(r"-?[0-9]{1,18}")
_LEAST = re.compile(r"^([A-Za-z0-9._-]+)\s*(?:\[[^]]*\])?\s*>=\s*([0-9][0-9.]*)\s*(?:$|[;,])")

Run = Callable[[Sequence[str]], "str | None"]
"""Runs a command; its output, or None where it is missing, fails or takes too long."""


def run_command(words: Sequence[str]) -> str | None:
    """See `Run`."""
    try:
        finished = subprocess.run(words, capture_output=True, text=True, timeout=COMMAND_S, check=True)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return finished.stdout


@dataclass(frozen=True)
class Process:
    """What this process knows of itself.

    Attributes:
        architecture: As the kernel calls it.
        bits: Of a pointer.
        cores: That it may use.
        python: Its version.
        versions: Of the installed packages, by name in lower case.
        least: The oldest version of each package that EdgeExit takes.
    """

    architecture: str
    bits: int
    cores: int
    python: str
    versions: Mapping[str, str]
    least: Mapping[str, str]

    @classmethod
    def here(cls) -> Process:
        """The process that runs this."""
        return cls(
            architecture=platform.machine(),
            bits=64 if sys.maxsize > 1 << 32 else 32,
            cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
            python=platform.python_version(),
            versions={
                str(found.metadata["Name"]).lower(): found.version
                for found in distributions()
                if found.metadata is not None and found.metadata["Name"]
            },
            least=_least(),
        )


@dataclass(frozen=True)
class Host:
    """Reads the machine's files. What cannot be read counts as not there.

    Args:
        root: Where its file system begins.
        process: A process on it.
        run: Runs its commands.
    """

    root: Path = Path("/")
    process: Process = field(default_factory=Process.here)
    run: Run = run_command

    def text(self, path: str) -> str | None:
        """A file's text, without spaces and NULs at its ends."""
        try:
            with (self.root / path).open("rb") as file:
                data = file.read(LARGEST_BYTES)
        except (OSError, ValueError):
            return None
        return data.decode("utf-8", "replace").strip("\0 \t\r\n")

    def number(self, path: str) -> int | None:
        """A file's number."""
        text = self.text(path)
        return int(text) if text is not None and _NUMBER.fullmatch(text) else None

    def paths(self, pattern: str) -> list[str]:
        """The files and folders that match, from the root on, sorted."""
        try:
            return sorted(str(path.relative_to(self.root)) for path in self.root.glob(pattern))
        except (OSError, ValueError):
            return []

    def fields(self, path: str) -> dict[str, str]:
        """The lines `key: value` of a file; of several with one key, the first."""
        found: dict[str, str] = {}
        for line in (self.text(path) or "").splitlines():
            key, colon, value = line.partition(":")
            if colon:
                found.setdefault(key.strip(), value.strip())
        return found


def _least() -> dict[str, str]:
    """What the packages of EdgeExit ask for."""
    least = {}
    for ours in OURS:
        try:
            wanted = requires(ours) or []
        except PackageNotFoundError:
            continue
        for line in wanted:
            match = _LEAST.match(line)
            if match and "extra ==" not in line:
                least[match[1].lower()] = match[2]
    return least
