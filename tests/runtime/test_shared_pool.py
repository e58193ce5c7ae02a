"""One pool of threads for all sessions: only where it is asked for, and with the same answers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.cascades import write_tiny

PROGRAM = """
import json, sys
import numpy as np
import onnxruntime
from edgeexit_runtime import Cascade

x = np.random.default_rng(0).standard_normal((20, 4)).astype(np.float32)
shared = sys.argv[2] == "shared"
answers = Cascade.open(sys.argv[1], threads=2, shared_pool=shared).run(x)
try:
    graph = sys.argv[1] + "/segments/02.onnx"
    onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"], enable_fallback=0)
    others = True
except RuntimeError:
    others = False
again = Cascade.open(sys.argv[1], threads=1).run(x)
print(json.dumps([answers.exit.tolist(), again.exit.tolist(), others]))
"""


def found(bundle: Path, word: str) -> list[object]:
    command = [sys.executable, "-c", PROGRAM, str(bundle), word]
    result: list[object] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return result


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("pool") / "tiny")


def test_a_shared_pool_changes_no_exit_and_later_cascades_use_it_too(bundle: Path) -> None:
    own, shared = found(bundle, "own"), found(bundle, "shared")
    assert own[0] == own[1] == shared[0] == shared[1]


def test_without_it_other_sessions_of_the_process_keep_their_own_threads(bundle: Path) -> None:
    assert found(bundle, "own")[2] is True
