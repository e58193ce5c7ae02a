"""The three distributions move in lockstep, and offer the commands that the core knows of."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgeexit import __version__
from edgeexit.cli import KNOWN

REPOSITORY = Path(__file__).parents[2]
PROJECTS = {
    name: msgspec.toml.decode((REPOSITORY / folder / "pyproject.toml").read_bytes())["project"]
    for name, folder in {"edgeexit": ".", "edgeexit-exporters": "exporters", "edgeexit-runtime": "runtime"}.items()
}


def requirements(project: dict[str, Any]) -> list[str]:
    """All requirements of a project, those of its extras included."""
    extras = project.get("optional-dependencies", {}).values()
    return [*project["dependencies"], *(requirement for extra in extras for requirement in extra)]


@pytest.mark.parametrize("name", PROJECTS)
def test_every_distribution_has_the_version_of_the_core(name: str) -> None:
    assert (PROJECTS[name]["name"], PROJECTS[name]["version"]) == (name, __version__)


@pytest.mark.parametrize("package", ["exporters/edgeexit_exporters", "runtime/edgeexit_runtime"])
def test_every_package_has_the_version_of_the_core(package: str) -> None:
    source = (REPOSITORY / package / "__init__.py").read_text()
    assert re.findall(r'^__version__ = "(.*)"$', source, re.MULTILINE) == [__version__]


@pytest.mark.parametrize("name", ["edgeexit-exporters", "edgeexit-runtime"])
def test_exporters_and_runtime_pin_the_core(name: str) -> None:
    assert f"edgeexit=={__version__}" in PROJECTS[name]["dependencies"]


@pytest.mark.parametrize("name", PROJECTS)
def test_a_part_of_edgeexit_is_only_ever_required_at_its_own_version(name: str) -> None:
    ours = [requirement for requirement in requirements(PROJECTS[name]) if requirement.startswith("edgeexit")]
    assert all(requirement.endswith(f"=={__version__}") for requirement in ours)


def test_the_device_side_requires_neither_torch_nor_onnx() -> None:
    device = [*PROJECTS["edgeexit"]["dependencies"], *PROJECTS["edgeexit-runtime"]["dependencies"]]
    names = {re.match(r"[\w.-]+", requirement)[0] for requirement in device}  # type: ignore[index]
    assert names.isdisjoint({"onnx", "onnxscript", "torch"})


@pytest.mark.parametrize("name", PROJECTS)
def test_every_requirement_is_pinned_once_for_each_python(name: str) -> None:
    pins = [line.partition("==")[0] for line in (REPOSITORY / "constraints.txt").read_text().splitlines()]
    wanted = {re.match(r"[\w.-]+", requirement)[0] for requirement in requirements(PROJECTS[name])}  # type: ignore[index]
    assert {want for want in wanted if not want.startswith("edgeexit")} <= set(pins)


def test_the_commands_are_those_that_the_core_knows_of() -> None:
    offered = {
        command: name for name, project in PROJECTS.items() for command in project["entry-points"]["edgeexit.commands"]
    }
    assert offered == {command: known.package.partition("[")[0] for command, known in KNOWN.items()}


def test_the_changelog_tells_of_this_version() -> None:
    assert f"## [{__version__}]" in (REPOSITORY / "CHANGELOG.md").read_text()
