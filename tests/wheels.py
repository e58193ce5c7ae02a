"""Our distributions as wheels, built from this tree by the environment that runs this."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
DEVICE_SIDE = (REPOSITORY, REPOSITORY / "runtime")
"""The distributions of a device, each by the folder of its pyproject.toml."""

EXPORTERS = REPOSITORY / "exporters"


class PipError(Exception):
    """pip could not do it; the message is its own."""


def pip(*arguments: object, python: str | Path = sys.executable) -> None:
    """Run an environment's pip.

    Raises:
        PipError: It failed.
    """
    command = [str(python), "-m", "pip", "--disable-pip-version-check", *map(str, arguments)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PipError(f"{' '.join(command)}\n{done.stderr.strip()}")


def build_wheels(folder: Path, sources: Sequence[Path] = DEVICE_SIDE) -> list[Path]:
    """Build distributions anew, offline, into an emptied folder."""
    shutil.rmtree(folder, ignore_errors=True)
    pip("wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, *sources)
    return sorted(folder.glob("*.whl"))
