"""`edgeexit build` and `edgeexit run --backend tensorrt` as processes, on fake and on missing devices.

The driver is `fake_libcuda.c`, found by the name of the real one; TensorRT and pycuda are the modules in `machine`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from runtime.cascades import EXITS, F32, write_tiny
from runtime.tensorrt import bindings

MACHINE = Path(__file__).parent / "machine"

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc for a fake CUDA driver")

Done = subprocess.CompletedProcess[str]
Command = Callable[..., Done]


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bindings.fake_driver(tmp_path_factory.mktemp("driver"))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_tiny(tmp_path / "tiny")


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(2).standard_normal((6, 4)).astype(F32))
    return tmp_path / "x.npz"


@pytest.fixture
def edgeexit(tmp_path: Path, driver: Path) -> Command:
    """Run a command in a home of its own; keyword arguments are environment variables."""

    def command(*words: object, machine: bool = True, **more: str) -> Done:
        paths = [MACHINE] if machine else []
        env = bindings.environment(driver, *paths, HOME=str(tmp_path / "home"), **more)
        for variable in ("XDG_CACHE_HOME", "XDG_STATE_HOME", "EDGEEXIT_CACHE"):
            if variable not in more:
                env.pop(variable, None)
        line = [sys.executable, "-m", "edgeexit", *map(str, words)]
        return subprocess.run(line, env=env, capture_output=True, text=True, check=False, timeout=60)

    return command


def engines(home: Path) -> list[Path]:
    return sorted((home / ".cache/edgeexit/engines").glob("*.engine"))


def failed(done: Done, *words: str) -> None:
    """It ended with exit code 6, one error and nothing on standard output."""
    assert done.returncode == 6, (done.returncode, done.stderr)
    assert done.stdout == ""
    assert done.stderr.count("error: ") == 1
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr


def test_what_is_built_is_run_and_answers_as_on_the_cpu(
    edgeexit: Command, bundle: Path, samples: Path, tmp_path: Path
) -> None:
    built = edgeexit("build", bundle, "--json")
    assert built.returncode == 0, built.stderr
    document = json.loads(built.stdout)
    assert [row["built"] for row in document["segments"]] == [True] * EXITS
    assert document["machine"]["gpu"] == "Fake GPU"
    key = tmp_path / "home/.local/state/edgeexit/device.key"
    assert key.stat().st_mode & 0o777 == 0o600

    gpu = edgeexit("run", bundle, samples, "--batch", 4, "--backend", "tensorrt")
    assert gpu.returncode == 0, gpu.stderr
    assert "building" not in gpu.stderr
    cpu = edgeexit("run", bundle, samples, "--batch", 4)
    answers = [
        sorted((line["input"], line["label"], line["exit"], round(line["probability"], 5)) for line in lines)
        for lines in ([json.loads(text) for text in done.stdout.splitlines()] for done in (gpu, cpu))
    ]
    assert answers[0] == answers[1]
    assert len(answers[0]) == 6

    newer = edgeexit("run", bundle, samples, "--backend", "tensorrt", FAKE_TENSORRT="11.4.0.106")
    assert newer.returncode == 0, newer.stderr
    assert newer.stderr.count("building the engine of") >= EXITS


def test_an_engine_that_is_damaged_or_foreign_is_refused_by_run_and_replaced_by_build(
    edgeexit: Command, bundle: Path, samples: Path, tmp_path: Path
) -> None:
    run = ("run", bundle, samples, "--backend", "tensorrt")
    assert edgeexit("build", bundle).returncode == 0
    failed(edgeexit(*run, XDG_STATE_HOME=str(tmp_path / "other")), "not written by this device")
    failed(edgeexit(*run, FAKE_DEVICE_BYTES="2500"), "memory")

    engine = engines(tmp_path / "home")[0]
    whole = engine.read_bytes()
    engine.write_bytes(whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 1]) + whole[len(whole) // 2 + 1 :])
    failed(edgeexit(*run), "not written by this device", "edgeexit build")
    again = edgeexit("build", bundle, "--json")
    assert again.returncode == 0, again.stderr
    assert sorted(row["built"] for row in json.loads(again.stdout)["segments"]) == [False] * (EXITS - 1) + [True]


def test_whatever_a_machine_lacks_ends_build_with_exit_code_6(edgeexit: Command, bundle: Path) -> None:
    failed(edgeexit("build", bundle, FAKE_CUDA_GPUS="0"), "finds no GPU")
    failed(edgeexit("build", bundle, FAKE_CUDA_INIT="999"), "driver does not work")
    failed(edgeexit("build", bundle, machine=False), "TensorRT cannot be imported")
    failed(edgeexit("build", bundle, FAKE_TENSORRT="8.6.1"), "not supported", "10.3 or newer")
    failed(edgeexit("build", bundle, FAKE_DEVICE_BYTES="64"), "cannot build", "OutOfMemory")


def test_whatever_a_machine_lacks_ends_run_with_exit_code_6(edgeexit: Command, bundle: Path, samples: Path) -> None:
    run = ("run", bundle, samples, "--backend", "tensorrt")
    failed(edgeexit(*run, FAKE_CUDA_GPUS="0"), "finds no GPU")
    failed(edgeexit(*run, FAKE_DEVICE_BYTES="64"), "cannot build", "OutOfMemory")


def test_a_cache_that_cannot_be_written_ends_with_exit_code_6(edgeexit: Command, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    failed(edgeexit("build", bundle, "--cache", tmp_path / "file" / "cache"), "cannot be used")


def has_driver() -> bool:
    from edgeexit.errors import BackendError
    from edgeexit_runtime.backends.tensorrt.driver import check_driver

    try:
        check_driver()
    except BackendError:
        return False
    return True


@pytest.mark.skipif(has_driver(), reason="this machine has a GPU")
@pytest.mark.parametrize("words", [("build", "{}"), ("run", "{}", "{}", "--backend", "tensorrt")])
def test_this_machine_without_a_driver_ends_with_exit_code_6(bundle: Path, words: tuple[str, ...]) -> None:
    line = [sys.executable, "-m", "edgeexit", *(word.format(bundle) for word in words)]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=60, env=dict(os.environ))
    failed(done, "no CUDA driver", "--backend onnxruntime")
