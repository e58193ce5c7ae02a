"""The lower bounds come from the pyproject files, so they cannot drift apart."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from packaging.requirements import Requirement

from lower_bounds.bounds import EXTRAS, TESTED, declared_bounds, pins, requirements
from lower_bounds.environment import OLDEST
from wheels import REPOSITORY


def test_a_requirement_is_pinned_at_its_lower_bound_and_keeps_its_marker() -> None:
    assert list(pins(["numpy>=1.24", "tomli>=2,<3; python_version < '3.11'", "onnx~=1.16"])) == [
        "numpy==1.24",
        'tomli==2; python_version < "3.11"',
        "onnx==1.16",
    ]


@pytest.mark.parametrize("written", ["numpy", "numpy<2", "numpy>=1.24,>=1.25"])
def test_a_requirement_without_one_lower_bound_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match="lower bound"):
        list(pins([written]))


def test_every_requirement_has_a_lower_bound() -> None:
    names = {Requirement(written).name for written in requirements(TESTED, EXTRAS)}
    assert {Requirement(pin).name for pin in declared_bounds()} == names
    assert names >= {"click", "jinja2", "msgspec", "numpy", "onnx", "onnxruntime", "pillow", "rich"}


def test_no_package_has_two_lower_bounds() -> None:
    pinned = [Requirement(pin).name for pin in declared_bounds()]
    assert sorted(set(pinned)) == pinned


@pytest.mark.parametrize("folder", TESTED, ids=lambda folder: folder.name)
def test_the_oldest_python_is_3_10_in_every_place_that_says_so(folder: Path) -> None:
    project = msgspec.toml.decode((folder / "pyproject.toml").read_bytes())["project"]
    named = [line.rpartition(" ")[2] for line in project["classifiers"] if "Python :: 3." in line]
    assert project["requires-python"] == f">={OLDEST}"
    assert named[0] == OLDEST


def test_linter_and_type_checker_look_for_the_oldest_python() -> None:
    tools = msgspec.toml.decode((REPOSITORY / "pyproject.toml").read_bytes())["tool"]
    assert tools["ruff"]["target-version"] == "py" + OLDEST.replace(".", "")
    assert tools["mypy"]["python_version"] == OLDEST
