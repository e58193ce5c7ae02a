"""`edgeexit run --offload`: what the options ask for, and that they cost nothing where they are not used."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.cascades import COMMANDS, F32, write_tiny

Cli = Callable[..., Any]

NOBODY = ("--offload", "grpc://127.0.0.1:1")
N = 12

REFUSE_GRPC = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"grpc", "tritonclient"}:
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, Refuse())
from edgeexit.cli import main
code = main(sys.argv[1:])
strangers = {"asyncio", "grpc", "edgeexit_runtime.tier", "edgeexit_runtime.tier.relay", "edgeexit_runtime.offload"}
print(code, sorted(strangers & set(sys.modules)), file=sys.stderr)
"""


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_tiny(tmp_path / "tiny")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    np.savez(tmp_path / "some.npz", x=np.random.default_rng(4).standard_normal((N, 4)).astype(F32))
    return tmp_path / "some.npz"


def without_grpc(*arguments: object) -> tuple[str, list[str]]:
    """Standard output, and the lines on standard error, of a command where gRPC is not installed."""
    line = [sys.executable, "-c", REFUSE_GRPC, *map(str, arguments)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    return done.stdout, done.stderr.splitlines()


def test_without_offload_nothing_of_it_is_imported(bundle: Path, archive: Path) -> None:
    out, said = without_grpc("run", bundle, archive, "--upto", 1)
    assert said[-1] == "0 []"
    assert len(out.splitlines()) == N


def test_without_grpc_the_package_to_install_is_named(bundle: Path, archive: Path) -> None:
    _, said = without_grpc("run", bundle, archive, "--upto", 1, *NOBODY)
    assert said[-1].startswith("6 ")
    assert "edgeexit-runtime[tiers]" in "\n".join(said)


@pytest.mark.parametrize(
    "options",
    [
        ("--upto", 1, "--deadline-ms", 100),
        ("--upto", 1, "--on-failure", "finish"),
        ("--upto", 1, "--token-file", "token"),
        NOBODY,
        (*NOBODY, "--upto", 3),
        (*NOBODY, "--upto", 4),
        (*NOBODY, "--upto", 1, "--wait-ms", 5),
        (*NOBODY, "--upto", 1, "--profile", "p.json"),
        (*NOBODY, "--upto", 1, "--deadline-ms", 0),
        (*NOBODY, "--upto", 1, "--in-flight", 0),
        (*NOBODY, "--upto", 1, "--payload-precision", "int4"),
        (*NOBODY, "--upto", 1, "--ca", "missing.pem"),
        ("--upto", 1, "--offload", "http://127.0.0.1:1"),
    ],
)
def test_options_that_do_not_go_together_are_usage_errors(
    cli: Cli, bundle: Path, archive: Path, options: tuple[object, ...]
) -> None:
    pytest.importorskip("tritonclient.grpc")
    outcome = cli("run", bundle, archive, *options, commands=COMMANDS)
    assert (outcome.code, outcome.stdout) == (2, "")


@pytest.mark.parametrize(("failure", "degraded"), [("degrade", True), ("finish", False)])
def test_where_nobody_listens_everything_is_answered_here(
    cli: Cli, bundle: Path, archive: Path, tmp_path: Path, failure: str, degraded: bool
) -> None:
    pytest.importorskip("tritonclient.grpc")
    spool = tmp_path / "spool"
    options = ("--upto", 1, *NOBODY, "--on-failure", failure, "--deadline-ms", 5000, "--spool", spool)
    outcome = cli("run", bundle, archive, *options, commands=COMMANDS)
    assert outcome.code == 0, outcome.stderr
    lines = [json.loads(line) for line in outcome.stdout.splitlines()]
    assert sorted(line["input"] for line in lines) == sorted(f"{archive}[{i}]" for i in range(N))
    assert {line["tier"] for line in lines} == {"local"}
    assert any(line["degraded"] for line in lines) is degraded
    assert {line["reason"] for line in lines if line["degraded"]} <= {"unavailable", "circuit open"}
    assert len(list(spool.glob("*.sample"))) == sum(line["degraded"] for line in lines)
    assert f"answered {N}: " in outcome.stderr
