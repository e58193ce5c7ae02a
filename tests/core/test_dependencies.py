"""Who may import whom: exporters → core ← runtime, and no torch or onnx on the device."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

REPOSITORY = Path(__file__).parents[2]
SOURCES = {
    "edgeexit": REPOSITORY / "edgeexit",
    "edgeexit_exporters": REPOSITORY / "exporters" / "edgeexit_exporters",
    "edgeexit_runtime": REPOSITORY / "runtime" / "edgeexit_runtime",
}

IMPORT_NAMES = {
    "grpcio": "grpc",
    "pillow": "PIL",
    "protobuf": "google",
    "scikit-learn": "sklearn",
    "tensorboardx": "tensorboardX",
}

WORKSTATION = "edgeexit.training."
"""What begins with this is for workstations: the only part of the core that needs torch."""

IMPORT_WITHOUT = """
import importlib, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "onnx", "onnxscript", "edgeexit_exporters"}:
            raise ModuleNotFoundError(f"the device has no {name}", name=name)

sys.meta_path.insert(0, Refuse())
for name in sys.argv[1:]:
    importlib.import_module(name)
"""


def modules(package: str) -> list[str]:
    """Every module of a package, by its dotted name; `__main__` would run, so it is left out."""
    root = SOURCES[package]
    paths = (path.relative_to(root.parent).with_suffix("") for path in sorted(root.rglob("*.py")))
    return [".".join(path.parts).removesuffix(".__init__") for path in paths if path.name != "__main__"]


def imported(package: str) -> Iterator[tuple[str, str]]:
    """Every (file, top-level package) that an import statement of a package names, at any depth."""
    for path in SOURCES[package].rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            yield from ((str(path.relative_to(REPOSITORY)), name.partition(".")[0]) for name in names)


@pytest.mark.parametrize("package", ["edgeexit", "edgeexit_runtime"])
def test_every_module_of_the_device_side_imports_without_torch_and_onnx(package: str) -> None:
    names = [name for name in modules(package) if not name.startswith(WORKSTATION)]
    command = [sys.executable, "-c", IMPORT_WITHOUT, *names]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (finished.returncode, finished.stderr) == (0, "")


@pytest.mark.parametrize(
    ("package", "stranger"),
    [
        ("edgeexit", "edgeexit_exporters"),
        ("edgeexit", "edgeexit_runtime"),
        ("edgeexit_exporters", "edgeexit_runtime"),
        ("edgeexit_runtime", "edgeexit_exporters"),
    ],
)
def test_a_part_never_imports_a_part_that_it_must_not_know(package: str, stranger: str) -> None:
    assert [file for file, name in imported(package) if name == stranger] == []


@pytest.mark.parametrize("package", SOURCES)
def test_a_package_imports_only_what_it_declares(package: str) -> None:
    project = msgspec.toml.decode((SOURCES[package].parent / "pyproject.toml").read_bytes())["project"]
    extras = {name: extra for name, extra in project.get("optional-dependencies", {}).items() if name != "dev"}
    requirements = [*project["dependencies"], *(requirement for extra in extras.values() for requirement in extra)]
    declared = {re.split(r"[^\w-]", requirement)[0] for requirement in requirements}
    known = {IMPORT_NAMES.get(name, name.replace("-", "_")) for name in declared} | {package}
    assert {name for _, name in imported(package)} - known - set(sys.stdlib_module_names) == set()
