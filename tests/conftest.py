"""Fixtures for all tests."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click
import pytest
from hypothesis import settings

from edgeexit.cli import group, main

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    code: int
    stdout: str
    stderr: str

    def document(self) -> Any:
        """The one JSON document on standard output."""
        return json.loads(self.stdout)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Runs `edgeexit` in this process: `cli("inspect", path, "--json")`."""

    def run(*arguments: object, commands: click.Group = group) -> Outcome:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments], commands)
        return Outcome(code, *capsys.readouterr())

    return run
