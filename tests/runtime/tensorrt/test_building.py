"""Building: how TensorRT is told what to build, and how it tells how far it is."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeexit.errors import BackendError
from edgeexit_runtime import Cascade
from edgeexit_runtime.backends.tensorrt.fake import FakeMemory, fake_tensorrt
from edgeexit_runtime.backends.tensorrt.fake.network import ENGINE_MAGIC
from edgeexit_runtime.backends.tensorrt.library import check_version, failure, make_log
from edgeexit_runtime.backends.tensorrt.memory import OutOfDeviceMemoryError
from edgeexit_runtime.backends.tensorrt.monitor import PARTS, Phases, make_monitor
from edgeexit_runtime.backends.tensorrt.ranges import ranges_up_to
from runtime.cascades import tiny_parts, write_tiny
from runtime.tensorrt.devices import FakeDevice


def header(engine: bytes) -> dict[str, Any]:
    start = len(ENGINE_MAGIC) + 4
    (length,) = struct.unpack_from("<I", engine, len(ENGINE_MAGIC))
    found: dict[str, Any] = json.loads(engine[start : start + length])
    return found


def test_an_engine_has_a_profile_for_each_range_tuned_for_its_largest_batch(tmp_path: Path) -> None:
    device = FakeDevice(tmp_path / "cache")
    Cascade.open(write_tiny(tmp_path / "tiny"), backend=device.backend((1, 8, 64)))
    profiles = header(device.trt.deserialised[1])["profiles"]
    assert [profile["h0"] for profile in profiles] == [
        [[1, 8], [1, 8], [1, 8]],
        [[2, 8], [8, 8], [8, 8]],
        [[9, 8], [64, 8], [64, 8]],
    ]
    assert all(sorted(profile) == ["h0", "x"] for profile in profiles)


def test_float32_is_computed_with_all_its_digits_and_workspace_is_limited(tmp_path: Path) -> None:
    device = FakeDevice(tmp_path / "cache")
    Cascade.open(write_tiny(tmp_path / "tiny"), backend=device.backend(workspace_mb=16))
    found = header(device.trt.deserialised[0])
    assert found["tf32"] is False
    assert found["workspace"] == 16 << 20


@pytest.mark.parametrize("version", ["10.3.0", "10.16.1.11", "11.0.0.114", "11.4.0.106"])
def test_a_supported_version_is_taken(version: str) -> None:
    check_version(fake_tensorrt(FakeMemory(), version))


@pytest.mark.parametrize("version", ["8.6.1", "10.0.1", "10.2.0.post1", "12.0.0", "9.9"])
def test_another_version_is_refused(version: str) -> None:
    with pytest.raises(BackendError, match="not supported"):
        check_version(fake_tensorrt(FakeMemory(), version))


@pytest.mark.parametrize(
    "line",
    [
        "[defaultAllocator.cpp::allocateAsync::48] Error Code 1: Cuda Runtime (out of memory)",
        "Error Code 2: OutOfMemory (Requested size was 1024 bytes.)",
        "Requested amount of GPU memory (9 bytes) could not be allocated: cudaErrorMemoryAllocation",
    ],
)
def test_a_lack_of_memory_is_told_from_other_failures(line: str) -> None:
    trt = fake_tensorrt(FakeMemory())
    log = make_log(trt)
    log.log(trt.ILogger.Severity.INFO, "GPU memory usage: out of memory is far away")
    log.log(trt.ILogger.Severity.ERROR, line)
    assert isinstance(failure(log, "problem"), OutOfDeviceMemoryError)
    log.log(trt.ILogger.Severity.ERROR, "Error Code 9: Internal")
    error = failure(log, "problem")
    assert not isinstance(error, OutOfDeviceMemoryError)
    assert error.got == "Error Code 9: Internal"


@pytest.mark.parametrize("part", ["Runtime", "Builder", "OnnxParser"])
def test_what_the_bindings_raise_is_an_error_of_ours(tmp_path: Path, part: str) -> None:
    def gives_nothing(*arguments: Any) -> Any:
        raise TypeError("pybind11::init(): factory function returned nullptr")

    device = FakeDevice(tmp_path / "cache")
    setattr(device.trt, part, gives_nothing)
    with pytest.raises(BackendError, match=r"TensorRT 10\.3\.0") as caught:
        Cascade.open(write_tiny(tmp_path / "tiny"), backend=device.backend())
    assert "nullptr" in str(caught.value)


def test_a_profile_that_tensorrt_refuses_is_an_error_of_ours(tmp_path: Path) -> None:
    device = FakeDevice(tmp_path / "cache")
    cascade = Cascade.open(write_tiny(tmp_path / "tiny"), backend=device.backend((1, 4)))
    execution = cascade._segments[0].execution
    execution.engine.ranges = ranges_up_to((1, 4, 8))  # one more than the engine has
    with pytest.raises(BackendError, match="there is no profile 2"):
        cascade.logits(np.zeros((8, 4), np.float32))


def test_an_interrupt_during_a_build_stops_it_and_comes_through(tmp_path: Path) -> None:
    def interrupted(n: int = 1) -> None:
        raise KeyboardInterrupt

    manifest, contents = tiny_parts()
    device = FakeDevice(tmp_path / "cache")
    with pytest.raises(KeyboardInterrupt):
        device.backend().build(contents["segments/00.onnx"], manifest.segments[0], interrupted)
    assert device.trt.built == 0
    assert device.engines() == []


def test_phases_within_phases_make_one_figure() -> None:
    shown: list[int] = []
    phases = Phases(lambda n=1: shown.append(n))
    monitor = make_monitor(fake_tensorrt(FakeMemory()), phases)
    monitor.phase_start("all", None, 4)
    monitor.phase_start("first", "all", 2)
    monitor.step_complete("first", 0)
    assert sum(shown) == 12
    monitor.phase_finish("first")
    monitor.step_complete("all", 0)
    assert sum(shown) == 25
    monitor.phase_finish("all")
    phases.complete()
    assert sum(shown) == PARTS


NAMES = st.sampled_from(["a", "b", "c", "d"])
EVENTS = st.one_of(
    st.tuples(st.just("start"), NAMES, st.none() | NAMES, st.integers(-1, 5)),
    st.tuples(st.just("step"), NAMES, st.integers(0, 9)),
    st.tuples(st.just("finish"), NAMES),
)


@given(st.lists(EVENTS, max_size=30))
def test_whatever_is_told_the_figure_only_rises_and_ends_at_all(events: list[tuple[Any, ...]]) -> None:
    shown: list[int] = []
    phases = Phases(lambda n=1: shown.append(n))
    for name, *arguments in events:
        getattr(phases, name)(*arguments)
    phases.complete()
    assert min(shown) > 0
    assert sum(shown) == PARTS
