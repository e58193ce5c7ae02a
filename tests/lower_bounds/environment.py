"""Run the tests of the core and the runtime where every package is as old as the pyproject files allow.

    python -m lower_bounds.environment [--python PYTHON] [PYTEST_ARGUMENT ...]

The environment lies in build/lower-bounds and is made anew only when a bound or the interpreter changed. The device
side is installed from wheels built from this tree, and so are the exporters, since `update` and `drift` are tested on
bundles that they fit; torch is not there.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from lower_bounds.bounds import TESTED, declared_bounds
from wheels import REPOSITORY, PipError, build_wheels, pip

FOLDER = REPOSITORY / "build" / "lower-bounds"
CONSTRAINTS = FOLDER / "constraints-lower.txt"
STAMP = FOLDER / "installed.txt"
WHEELS = FOLDER / "wheels"
TOOLS = ("pytest>=8", "hypothesis>=6.100", "safetensors>=0.4")
EXTRAS = ("onnx", "jinja2", "markupsafe")  # of the runtime: bench, report
OLDEST = "3.10"
TESTS = ("tests/core", "tests/runtime")
NO_PYTHON = f"""error: there is no Python {OLDEST} here, which is the oldest that EdgeExit says it runs on
  try: pyenv install {OLDEST}, or uv python install {OLDEST}
  or:  make test-lower-bounds LOWER_PYTHON=/path/to/python3, which tests the oldest packages on another Python"""


def main() -> int:
    """Make the environment where needed, test in it, and return pytest's exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--python", help=f"the interpreter; Python {OLDEST} when left out")
    given, rest = parser.parse_known_args()
    interpreter = given.python or next(oldest_pythons(), None)
    if interpreter is None:
        print(NO_PYTHON, file=sys.stderr)
        return 1
    try:
        programs = environment(interpreter)
    except PipError as error:
        print(f"error: the environment cannot be made\n{error}", file=sys.stderr)
        return 1
    subprocess.run([programs / "python", "-m", "pip", "--disable-pip-version-check", "list"], check=True)
    arguments = ["-p", "lower_bounds.plugin", "-p", "no:cacheprovider", *(rest or TESTS)]
    variables = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    # the program, not `python -m pytest`, which would import the tree instead of what is installed
    return subprocess.run([programs / "pytest", *arguments], cwd=REPOSITORY, env=variables, check=False).returncode


def oldest_pythons() -> Iterator[str]:
    """Interpreters of the oldest version that start: on the path, of pyenv, of uv."""
    candidates = [shutil.which(f"python{OLDEST}")]
    for pattern in (f".pyenv/versions/{OLDEST}.*", f".local/share/uv/python/cpython-{OLDEST}.*"):
        candidates += [str(found / "bin" / f"python{OLDEST}") for found in sorted(Path.home().glob(pattern))]
    for candidate in filter(None, candidates):
        if version_of(candidate) == OLDEST:
            yield candidate


def version_of(interpreter: str) -> str | None:
    """Major and minor version of an interpreter; None where it does not start, as a shim without a version."""
    command = [interpreter, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def environment(interpreter: str) -> Path:
    """The `bin` folder of an environment with the oldest packages and the device side as it is in the tree.

    Raises:
        PipError: A package cannot be had.
    """
    wheels = build_wheels(WHEELS, TESTED)
    pinned = "\n".join(declared_bounds()) + "\n"
    python = FOLDER / "venv" / "bin" / "python"
    wanted = f"{interpreter} {version_of(interpreter)}\n{' '.join(TOOLS)}\n{pinned}"
    if not STAMP.exists() or STAMP.read_text() != wanted:
        print(f"making {FOLDER.relative_to(REPOSITORY)}: half a minute", file=sys.stderr)
        STAMP.unlink(missing_ok=True)
        CONSTRAINTS.write_text(pinned)
        subprocess.run([interpreter, "-m", "venv", "--clear", FOLDER / "venv"], check=True)
        pip("install", "--quiet", "--constraint", CONSTRAINTS, *wheels, *EXTRAS, *TOOLS, python=python)
        STAMP.write_text(wanted)
    else:
        pip("install", "--quiet", "--no-index", "--no-deps", "--force-reinstall", *wheels, python=python)
    pip("check", python=python)
    return python.parent


if __name__ == "__main__":
    sys.exit(main())
