"""A bundle opens and runs in a process where the workstation's packages cannot be imported."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeexit.policies import POLICIES

BLOCKED = ("torch", "onnx", "onnxscript")

PROGRAM = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"the device has no {{name}}", name=name)

sys.meta_path.insert(0, Refuse())
from edgeexit.cli import main

code = main(sys.argv[1:])
assert not {{name.partition(".")[0] for name in sys.modules}} & {blocked!r}
sys.exit(code)
"""

Device = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def device(tmp_path: Path) -> Device:
    """`edgeexit` where torch and onnx are blocked."""

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", PROGRAM.format(blocked=set(BLOCKED)), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)

    return run


@pytest.mark.parametrize("suffix", ["", ".eexit"])
def test_verify_passes(device: Device, exported: Callable[..., Path], suffix: str) -> None:
    done = device("verify", exported("plain.onnx", "--exits", "2", suffix=suffix), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["exits"] == 3


def test_run_answers(device: Device, exported: Callable[..., Path], world: Path) -> None:
    done = device("run", exported("plain.onnx", "--exits", "2"), world / "test" / "oak")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 60


def test_eval_measures_and_says_what_the_whole_models_time_is(
    device: Device, exported: Callable[..., Path], world: Path
) -> None:
    done = device("eval", exported("plain.onnx", "--exits", "2"), "--data", world / "test", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["full_ms_from"] == "segments with heads"


def test_bench_has_no_whole_model(device: Device, exported: Callable[..., Path]) -> None:
    done = device("bench", exported("plain.onnx", "--exits", "2"), "--batch", "1,2", "--seconds", "0", "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert [row["full_ms"] for row in rows] == [None, None]
    assert all(row["chain_ms"] > 0 and row["cascade_ms"] > 0 for row in rows)


def test_tune_writes_a_bundle_that_verifies(
    device: Device, exported: Callable[..., Path], world: Path, tmp_path: Path
) -> None:
    bundle = exported("plain.onnx", "--exits", "2")
    done = device("tune", bundle, "--data", world / "calibration", "--budget", "0.8", "-o", "tuned", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["mean_cost"] <= 0.8
    assert device("verify", tmp_path / "tuned").returncode == 0


def test_compare_has_a_row_for_every_policy(device: Device, exported: Callable[..., Path], world: Path) -> None:
    arguments = ("--data", world / "test", "--calibration", world / "calibration", "--budgets", "0.8", "--seeds", "1")
    done = device("compare", exported("plain.onnx", "--exits", "2"), *arguments, "--json")
    assert done.returncode == 0, done.stderr
    assert {row["policy"] for row in json.loads(done.stdout)["rows"]} >= set(POLICIES)


def test_inspect_shows_it(device: Device, exported: Callable[..., Path]) -> None:
    done = device("inspect", exported("plain.onnx", "--exits", "2"), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)


def test_export_ends_with_exit_code_6_and_names_what_is_missing(device: Device, world: Path) -> None:
    done = device("export", world / "plain.onnx", "--data", world / "train.npz", "-o", "out")
    assert done.returncode == 6
    assert "needs the package onnx" in done.stderr
    assert "Traceback" not in done.stderr
