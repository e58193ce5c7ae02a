"""What a machine made of a bundle."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aarch64.emulation import Machine
from aarch64.material import Material

PROBE = Path(__file__).with_name("probe.py")


@dataclass(frozen=True)
class Findings:
    """Facts about the process, and arrays by name; see `probe.py`."""

    facts: dict[str, Any]
    arrays: dict[str, NDArray[Any]]


def run_on(machine: Machine | None, arguments: Sequence[object], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run an interpreter in a folder: the machine's, or this one when None."""
    if machine is not None:
        return machine.run(*arguments, folder=folder)
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def probe(machine: Machine | None, material: Material, folder: Path) -> Findings:
    """Let a machine answer all samples, one by one, in batches and as a stream."""
    out = folder / f"{machine.name if machine else 'here'}-{material.bundle.stem}.npz"
    done = run_on(machine, [PROBE, material.bundle, material.samples, out], folder)
    assert done.returncode == 0, done.stderr
    with np.load(out) as archive:
        return Findings(json.loads(done.stdout), dict(archive))
