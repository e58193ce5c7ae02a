"""Commands of the device's side in processes of their own: no torch, errors with a type, and nobody left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgeexit.errors import BackendError, MissingPartError
from edgeexit_exporters.device_side import run_command, serving
from runtime.cascades import write_tiny

PATIENCE_S = 20
PROC = Path("/proc")
SERVE_AND_WAIT = """
import sys, time
from edgeexit_exporters.device_side import serving

with serving(sys.argv[1]) as address:
    print(address(), flush=True)
    time.sleep(600)
"""

pytestmark = pytest.mark.skipif(not PROC.joinpath("self/cmdline").exists(), reason="processes are listed by /proc")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_tiny(tmp_path / "tiny")


@pytest.fixture
def grpc_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that processes started from now on import as grpc."""
    (tmp_path / "site" / "grpc").mkdir(parents=True)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    return tmp_path / "site" / "grpc" / "__init__.py"


def processes_of(bundle: Path) -> list[int]:
    """Processes that have the bundle in their command line, those that ended but were not waited for left out."""
    found = []
    for line in PROC.glob("[0-9]*/cmdline"):
        try:
            if str(bundle).encode() in line.read_bytes():
                found.append(int(line.parent.name))
        except OSError:  # it has just ended
            continue
    return found


def wait_for_the_end_of(bundle: Path) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while processes_of(bundle) and time.monotonic() < until_s:
        time.sleep(0.02)
    assert processes_of(bundle) == []


def test_a_command_can_import_neither_torch_nor_onnx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import atexit, sys; atexit.register(lambda: print({sys.modules.get(name, 0) for name in ('torch', 'onnx')}))"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert run_command("--version").splitlines()[-1] == "{None}"


def test_a_command_that_fails_is_an_error_with_what_it_said(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"edgeexit verify ended with exit code 3\n  got: error: .*nowhere"):
        run_command("verify", tmp_path / "nowhere")


def test_a_command_that_takes_too_long_is_ended(bundle: Path) -> None:
    with pytest.raises(BackendError, match="did not end"):
        run_command("verify", bundle, limit_s=0.01)
    assert processes_of(bundle) == []


def test_a_server_that_cannot_start_is_an_error_with_what_it_said(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="nowhere"), serving(tmp_path / "nowhere") as address:
        address()
    assert processes_of(tmp_path) == []


def test_a_server_that_needs_packages_says_which(bundle: Path, grpc_that: Path) -> None:
    grpc_that.write_text("raise ModuleNotFoundError('not here', name='grpc')")
    with pytest.raises(MissingPartError, match=r"pip install 'edgeexit-runtime\[tiers\]'"), serving(bundle) as address:
        address()
    assert processes_of(bundle) == []


def test_a_server_that_never_listens_and_cannot_be_told_to_stop_is_killed(bundle: Path, grpc_that: Path) -> None:
    grpc_that.write_text("import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)")
    with pytest.raises(BackendError, match="did not come to listen"), serving(bundle, ready_s=1) as address:
        address()
    assert processes_of(bundle) == []


def test_a_block_that_is_interrupted_leaves_no_server_behind(bundle: Path) -> None:
    pytest.importorskip("tritonclient.grpc")

    def interrupted() -> None:
        with serving(bundle) as address:
            address()
            assert len(processes_of(bundle)) == 1
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert processes_of(bundle) == []


def test_a_server_that_ended_badly_is_an_error(bundle: Path) -> None:
    pytest.importorskip("tritonclient.grpc")

    def killed() -> None:
        with serving(bundle) as address:
            address()
            (server,) = processes_of(bundle)
            os.kill(server, signal.SIGKILL)
            wait_for_the_end_of(bundle)

    with pytest.raises(BackendError, match="edgeexit serve ended with exit code -9"):
        killed()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_server_does_not_outlive_the_process_that_started_it(bundle: Path, number: signal.Signals) -> None:
    pytest.importorskip("tritonclient.grpc")
    line = [sys.executable, "-c", SERVE_AND_WAIT, str(bundle)]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as starter:
        assert starter.stdout is not None
        assert starter.stdout.readline()
        assert len(processes_of(bundle)) == 2
        starter.send_signal(number)
    wait_for_the_end_of(bundle)
