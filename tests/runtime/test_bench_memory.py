"""Memory is measured in a process of its own, and is unknown where the system doesn't tell."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeexit.errors import BackendError
from edgeexit_runtime.memory import Memory, measure_memory, memory_now
from runtime.cascades import F32, tiny_parts, write_tiny

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
MB = 1_000_000


def x(n: int) -> dict[str, Any]:
    return {"x": np.ones((n, 4), F32)}


def test_the_kernel_counts_in_kib(tmp_path: Path) -> None:
    (tmp_path / "status").write_text("Name:\tpython\nVmHWM:\t   300 kB\nVmRSS:\t   200 kB\n")
    assert memory_now(tmp_path / "status") == Memory(200 * 1024, 300 * 1024)


@pytest.mark.parametrize("text", [None, "", "VmRSS: 200 kB\n", "VmRSS:\nVmHWM:\n", "VmRSS: many\nVmHWM: 3 kB\n"])
def test_where_the_system_does_not_tell_memory_is_unknown(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "status").write_text(text)
    assert memory_now(tmp_path / "status") is None


@LINUX
def test_a_bundle_and_a_model_are_measured_in_processes_of_their_own(tmp_path: Path) -> None:
    _, contents = tiny_parts()
    found = [
        measure_memory("cascade", write_tiny(tmp_path / "tiny"), x(8), 1),
        measure_memory("whole", contents["segments/02.onnx"], {"h1": np.ones((8, 8), F32)}, 1),
    ]
    for memory in found:
        assert memory is not None
        assert 20 * MB < memory.resident_bytes <= memory.peak_bytes < 500 * MB


def answering(code: int, stdout: str = "", stderr: str = "") -> Any:
    return lambda command, **settings: subprocess.CompletedProcess(command, code, stdout, stderr)


def test_a_process_that_fails_is_an_error_with_its_last_words() -> None:
    with pytest.raises(BackendError, match="no such bundle"):
        measure_memory("cascade", "gone", x(1), 1, run=answering(1, stderr="Traceback\nno such bundle\n"))


def test_a_process_that_cannot_tell_gives_none() -> None:
    assert measure_memory("cascade", "bundle", x(1), 1, run=answering(0, "null\n")) is None
