"""Emulated machines, bundles made here, and what both kinds of machine make of them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import pytest

from aarch64.emulation import MACHINES, Machine, NoEmulationError, make_machines
from aarch64.findings import Findings, probe, run_on
from aarch64.material import GIVEN, Material, given, of_pictures, quickstart

ASKED_FOR = "EDGEEXIT_AARCH64"
COMMANDED = [machine for machine in MACHINES if machine.core == MACHINES[0].core]


@pytest.fixture(scope="session")
def _machines() -> None:
    if not os.environ.get(ASKED_FOR):
        pytest.skip(f"emulation takes minutes: make test-aarch64, or set {ASKED_FOR}=1")
    try:
        make_machines()
    except NoEmulationError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session", params=MACHINES, ids=lambda machine: machine.name)
def machine(request: pytest.FixtureRequest, _machines: None) -> Machine:
    """An emulated machine with the device side installed."""
    return request.param


@pytest.fixture(scope="session")
def bundles(_machines: None, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Material]:
    """Bundles by name, made on this machine."""
    made = {"quickstart": quickstart(tmp_path_factory.mktemp("quickstart"))}
    made |= of_pictures(tmp_path_factory.mktemp("pictures"))
    if GIVEN is not None:
        made["given"] = given(GIVEN, tmp_path_factory.mktemp("given"))
    return made


@pytest.fixture(scope="session")
def probed(
    bundles: Mapping[str, Material], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Machine | None, str], Findings]:
    """`probed(machine, "gaussian")`: what a machine, or this one when None, makes of a bundle; once each."""
    folder = tmp_path_factory.mktemp("probed")
    return cache(lambda machine, name: probe(machine, bundles[name], folder))


@pytest.fixture(params=COMMANDED, ids=lambda machine: machine.name)
def edgeexit(
    request: pytest.FixtureRequest, _machines: None, tmp_path: Path
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The command line on an emulated machine; it has to end with this exit code."""

    def run(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = run_on(request.param, ["-m", "edgeexit", *arguments], tmp_path)
        assert done.returncode == code, done.stderr
        return done

    return run


@pytest.fixture
def edgeexit_here(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The command line on this machine."""

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        done = run_on(None, ["-m", "edgeexit", *arguments], tmp_path)
        assert done.returncode == 0, done.stderr
        return done

    return run
