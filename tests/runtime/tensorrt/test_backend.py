"""The TensorRT backend, whole, on a fake device: the same answers as ONNX Runtime gives on the CPU."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from edgeexit.bundle import Bundle
from edgeexit.errors import BackendError, BundleError
from edgeexit_runtime import Cascade
from edgeexit_runtime.backends import SessionSettings
from edgeexit_runtime.backends.tensorrt.fake import DeviceFaultError
from edgeexit_runtime.backends.tensorrt.memory import OutOfDeviceMemoryError
from edgeexit_runtime.headless import headless_graph
from edgeexit_runtime.verification import verify
from runtime.cascades import CLASSES, EXITS, F32, forward, tiny_parts, weights, write_pair, write_tiny
from runtime.tensorrt.devices import FakeDevice

RANDOM = np.random.default_rng(3)
X = RANDOM.standard_normal((30, 4)).astype(F32)
PICTURES = RANDOM.integers(0, 256, (30, 8, 8, 1), np.uint8)


@pytest.fixture
def device(tmp_path: Path) -> FakeDevice:
    return FakeDevice(tmp_path / "cache")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_tiny(tmp_path / "tiny")


def assert_same_answers(found: Any, expected: Any) -> None:
    np.testing.assert_array_equal(found.label, expected.label)
    np.testing.assert_array_equal(found.exit, expected.exit)
    np.testing.assert_allclose(found.probability, expected.probability, rtol=1e-5)


@pytest.mark.parametrize("version", ["10.3.0", "11.4.0.106"])
@pytest.mark.parametrize("pictures", [False, True])
def test_a_cascade_answers_as_on_the_cpu(tmp_path: Path, device: FakeDevice, version: str, pictures: bool) -> None:
    bundle = write_tiny(tmp_path / "b", pictures=pictures)
    x: NDArray[Any] = PICTURES if pictures else X
    cpu, gpu = Cascade.open(bundle), Cascade.open(bundle, backend=FakeDevice(device.cache, version).backend())
    np.testing.assert_allclose(gpu.logits(x), cpu.logits(x), rtol=1e-5, atol=1e-5)
    for n in (1, 2, 5, 8, 30):
        assert_same_answers(gpu.run(x[:n]), cpu.run(x[:n]))


def test_a_cascade_of_models_answers_as_on_the_cpu(tmp_path: Path, device: FakeDevice) -> None:
    pair = write_pair(tmp_path / "pair")
    assert_same_answers(Cascade.open(pair, backend=device.backend()).run(X), Cascade.open(pair).run(X))


def test_a_stream_answers_as_on_the_cpu(bundle: Path, device: FakeDevice) -> None:
    batches = [X[:7], X[7:8], X[8:30]]
    found, expected = (
        sorted((answer.index, answer.label, answer.exit) for answer in cascade.stream(batches))
        for cascade in (Cascade.open(bundle, backend=device.backend()), Cascade.open(bundle))
    )
    assert found == expected


def test_the_golden_samples_verify(bundle: Path, device: FakeDevice) -> None:
    opened = Bundle.open(bundle)
    assert verify(opened, Cascade.open(opened, backend=device.backend())).near_threshold == 0


def test_a_lane_and_batches_do_not_disturb_each_other(bundle: Path, device: FakeDevice) -> None:
    gpu, cpu = Cascade.open(bundle, backend=device.backend()), Cascade.open(bundle)
    for n in (1, 8, 1, 3, 1, 20, 1):
        assert_same_answers(gpu.run(X[:n]), cpu.run(X[:n]))


def test_several_threads_may_share_a_cascade(bundle: Path, device: FakeDevice) -> None:
    gpu, expected = Cascade.open(bundle, backend=device.backend()), Cascade.open(bundle).run(X)
    parts = [X[i : i + 1 + i % 3] for i in range(0, 27)]
    with ThreadPoolExecutor(4) as pool:
        for i, found in enumerate(pool.map(gpu.run, parts)):
            np.testing.assert_array_equal(found.label, expected.label[i : i + 1 + i % 3])


def test_only_logits_come_to_the_host(bundle: Path, device: FakeDevice) -> None:
    cascade = Cascade.open(bundle, backend=device.backend())
    device.memory.copies.update(htod=0, dtoh=0, dtod=0)
    cascade.logits(X[:8])
    assert device.memory.copies == {"htod": 1, "dtoh": EXITS, "dtod": 0}


def test_a_batch_above_the_largest_range_is_run_in_parts(bundle: Path, device: FakeDevice) -> None:
    cascade = Cascade.open(bundle, backend=device.backend((1, 3)))
    np.testing.assert_allclose(cascade.logits(X), forward(X), rtol=1e-4, atol=1e-5)


def test_nothing_stays_on_the_device_once_everything_is_let_go(bundle: Path, device: FakeDevice) -> None:
    cascade = Cascade.open(bundle, backend=device.backend())
    cascade.run(X)
    cascade.run(X[:1])
    assert device.memory.live
    del cascade
    gc.collect()
    assert device.memory.live == {}
    assert device.memory.entered == 0


def test_memory_does_not_grow_from_batch_to_batch(bundle: Path, device: FakeDevice) -> None:
    cascade = Cascade.open(bundle, backend=device.backend())
    for n in (8, 1, 5, 8):
        cascade.logits(X[:n])
    after = device.memory.live_bytes
    for n in (8, 1, 5, 8):
        cascade.logits(X[:n])
    assert device.memory.live_bytes == after


def test_policy_tensors_are_uploaded_once(bundle: Path, device: FakeDevice) -> None:
    cascade = Cascade.open(bundle, backend=device.backend())
    device.memory.copies["htod"] = 0
    cascade.logits(X[:4])
    cascade.logits(X[4:8])
    assert device.memory.copies["htod"] == 2


def test_other_policy_tensors_build_nothing_and_leave_the_old_segment_as_it_was(
    bundle: Path, device: FakeDevice
) -> None:
    cascade = Cascade.open(bundle, backend=device.backend())
    before, built = cascade.logits(X[:5]), device.trt.built
    bias = weights()["exit.0.bias"] + F32(2)
    other = cascade.with_tensors({"exit.0.weight": weights()["exit.0.weight"], "exit.0.bias": bias})
    np.testing.assert_allclose(other.logits(X[:5])[0], before[0] + F32(2), rtol=1e-5)
    np.testing.assert_array_equal(cascade.logits(X[:5]), before)
    assert device.trt.built == built


def test_a_policy_tensor_of_another_shape_is_refused(bundle: Path, device: FakeDevice) -> None:
    cascade = Cascade.open(bundle, backend=device.backend())
    wrong = {"exit.0.weight": np.zeros((8, CLASSES + 1), F32), "exit.0.bias": np.zeros(CLASSES, F32)}
    with pytest.raises(BundleError, match=r"exit\.0\.weight"):
        cascade.with_tensors(wrong)


def test_a_segment_without_its_head_gives_no_logits(bundle: Path, device: FakeDevice) -> None:
    manifest, contents = tiny_parts()
    entry = manifest.segments[0]
    pruned = headless_graph(contents["segments/00.onnx"], entry)
    entry = msgspec.structs.replace(entry, logits="", policy_inputs=())
    backend = device.backend()
    segment = backend.open(pruned.data, entry, {}, SessionSettings())
    outputs, logits = segment.run([backend.to_device(X[:5])])
    assert logits.shape == (5, 0)
    np.testing.assert_allclose(backend.to_host(outputs[0]), np.maximum(X[:5] @ weights()["a0"], 0), rtol=1e-5)
    lane = backend.lane([segment], [entry], manifest.inputs, CLASSES)
    lane.start([X[:1]])
    assert lane.run(0).shape == (1, 0)


def test_a_tapped_cascade_gives_features(bundle: Path, device: FakeDevice) -> None:
    gpu = Cascade.open(bundle, backend=device.backend(), tapped=True)
    np.testing.assert_allclose(gpu.insight(X[:3]).logits, forward(X[:3]), rtol=1e-4, atol=1e-5)


def test_a_handle_comes_back_as_it_was_given(device: FakeDevice) -> None:
    backend = device.backend()
    for array in (X, PICTURES, np.zeros((0, 3), F32), np.array([True, False]), np.arange(6, dtype=np.int64)):
        found = backend.to_host(backend.to_device(array))
        np.testing.assert_array_equal(found, array)
        assert found.dtype == array.dtype


def test_a_build_is_shown_from_nothing_to_all(bundle: Path, device: FakeDevice) -> None:
    Cascade.open(bundle, backend=device.backend())
    assert list(device.shown.values()) == [100] * EXITS


def test_a_second_start_builds_nothing_and_shows_nothing(bundle: Path, device: FakeDevice) -> None:
    Cascade.open(bundle, backend=device.backend())
    again = FakeDevice(device.cache)
    Cascade.open(bundle, backend=again.backend())
    assert again.trt.built == 0
    assert len(again.trt.deserialised) == EXITS
    assert again.shown == {}


def test_contexts_share_the_memory_of_their_layers(bundle: Path, device: FakeDevice) -> None:
    cascade = Cascade.open(bundle, backend=device.backend())
    cascade.run(X[:1])
    addresses = {segment.execution._memory for segment in cascade._segments}
    cascade.logits(X[:8])
    assert len({segment.execution._memory for segment in cascade._segments} - addresses) == 1


def test_memory_that_layers_gave_back_is_written_by_none_of_them(bundle: Path, device: FakeDevice) -> None:
    backend = device.backend()
    cascade = Cascade.open(bundle, backend=backend)
    cascade.run(X[:1])  # makes a lane
    cascade.logits(X[:8])  # layers need more memory
    others = [RANDOM.integers(0, 99, 512, np.uint8) for _ in range(20)]
    handles = [backend.to_device(array) for array in others]
    for _ in range(3):
        cascade.run(X[:1])
    for array, handle in zip(others, handles, strict=True):
        np.testing.assert_array_equal(backend.to_host(handle), array)


def test_a_lane_outlives_its_segments(bundle: Path, device: FakeDevice) -> None:
    opened, backend = Bundle.open(bundle), device.backend()
    entries = opened.manifest.segments
    segments = [
        backend.open(opened.segment(k), entry, opened.exits, SessionSettings()) for k, entry in enumerate(entries)
    ]
    lane = backend.lane(segments, entries, opened.manifest.inputs, CLASSES)
    del segments
    gc.collect()
    kept = [backend.to_device(np.full((8, width), 7, F32)) for width in (3, 8, 32) for _ in range(9)]
    lane.start([X[:1]])
    logits = np.stack([lane.run(k)[0] for k in range(EXITS)])
    np.testing.assert_allclose(logits, forward(X[:1])[:, 0], rtol=1e-4, atol=1e-5)
    assert len(kept) == 27


@pytest.mark.parametrize("capacity_bytes", [1, 1000, 3000, 6000])
def test_a_device_without_room_says_so_wherever_it_runs_out(
    bundle: Path, device: FakeDevice, capacity_bytes: int
) -> None:
    Cascade.open(bundle, backend=device.backend())  # engines are in the cache
    small = FakeDevice(device.cache, capacity_bytes=capacity_bytes)
    with pytest.raises(OutOfDeviceMemoryError) as caught:
        Cascade.open(bundle, backend=small.backend()).logits(np.tile(X, (40, 1)))
    assert caught.value.exit_code == 6


def test_a_device_without_room_to_build_says_so(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(OutOfDeviceMemoryError, match=r"cannot build segments/00\.onnx"):
        Cascade.open(bundle, backend=FakeDevice(tmp_path / "c", capacity_bytes=10).backend())


def test_idle_memory_is_given_back_before_the_device_counts_as_full(bundle: Path, device: FakeDevice) -> None:
    Cascade.open(bundle, backend=device.backend())
    small = FakeDevice(device.cache, capacity_bytes=60_000)
    cascade = Cascade.open(bundle, backend=small.backend())
    for n in range(1, 200, 7):  # of ever other sizes, together far more than there is room for
        cascade.logits(np.tile(X, (7, 1))[:n])
    assert small.memory.peak_bytes <= 60_000


def test_a_graph_that_is_no_graph_is_refused_as_tensorrt_puts_it(device: FakeDevice) -> None:
    manifest, _ = tiny_parts()
    with pytest.raises(BackendError, match=r"cannot read segments/02\.onnx"):
        device.backend().build(b"\x00nonsense", manifest.segments[2], lambda n=1: None)


def test_an_engine_with_other_tensors_than_the_manifest_is_refused(device: FakeDevice) -> None:
    manifest, contents = tiny_parts()
    first, third = contents["segments/00.onnx"], manifest.segments[2]
    with pytest.raises(BackendError, match="cannot build"):  # no profile for the graph's input
        device.backend().open(first, third, {}, SessionSettings())


def test_the_fake_refuses_memory_that_was_freed(device: FakeDevice) -> None:
    with device.memory as memory:
        address, zeros = memory.allocate(16), np.zeros(16, np.uint8)
        memory.free(address)
        memory.copy(address, zeros, 16)
        with pytest.raises(DeviceFaultError, match="not allocated"):
            memory.synchronise()


def test_the_fake_refuses_memory_that_nobody_wrote(device: FakeDevice) -> None:
    with device.memory as memory:
        memory.copy(memory.pinned(16), memory.allocate(16), 16)
        with pytest.raises(DeviceFaultError, match="nobody wrote"):
            memory.synchronise()


def test_the_fake_shows_nonsense_before_the_stream_is_waited_for(device: FakeDevice) -> None:
    with device.memory as memory:
        address, host = memory.allocate(4), memory.pinned(4)
        number = np.array([1.5], F32)
        memory.copy(address, number, 4)
        memory.copy(host, address, 4)
        assert np.isnan(host.view(F32)[0])
        memory.synchronise()
        assert host.view(F32)[0] == 1.5


def test_the_fake_refuses_a_host_array_that_was_let_go_before_its_copy_was_done(device: FakeDevice) -> None:
    with device.memory as memory:
        memory.copy(memory.allocate(4), np.array([1.5], F32), 4)
        with pytest.raises(DeviceFaultError, match="let go"):
            memory.synchronise()


def test_the_fake_refuses_memory_outside_its_context(device: FakeDevice) -> None:
    with pytest.raises(DeviceFaultError, match="not current"):
        device.memory.allocate(4)


def test_the_fake_refuses_a_run_without_addresses_shapes_or_memory(bundle: Path, device: FakeDevice) -> None:
    cascade = Cascade.open(bundle, backend=device.backend())
    context = cascade._segments[2].execution.engine.context()
    stream = device.memory.stream
    with device.memory as memory:
        address = memory.allocate(1 << 16)
        with pytest.raises(DeviceFaultError, match="address of h1 was not set"):
            context.execute_async_v3(stream)
        assert context.set_tensor_address("h1", address)
        assert context.set_tensor_address("logits", address + 4096)
        with pytest.raises(DeviceFaultError, match="shape was not set"):
            context.execute_async_v3(stream)
        assert context.set_optimization_profile_async(1, stream)
        assert not context.set_input_shape("h1", (5, 8))
        assert context.set_input_shape("h1", (4, 8))
        with pytest.raises(DeviceFaultError, match="device memory were not set"):
            context.execute_async_v3(stream)
        with pytest.raises(DeviceFaultError, match="multiple of 256"):
            context.set_tensor_address("h1", address + 4)
        with pytest.raises(DeviceFaultError, match="stream 0"):
            context.execute_async_v3(0)
