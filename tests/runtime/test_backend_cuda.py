"""The CUDA backend: on a GPU where there is one, and always with the same code on the CPU."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeexit.bundle import Bundle
from edgeexit_runtime import Cascade
from edgeexit_runtime.backends import SessionSettings
from edgeexit_runtime.backends.cuda import CudaBackend, CudaSegment, Device, DeviceTensor
from edgeexit_runtime.backends.cuda_batches import SteadyBatch
from edgeexit_runtime.verification import verify
from runtime.cascades import CLASSES, EXITS, F32, forward, tiny_policy, weights, write_tiny
from runtime.cuda_devices import CONTENTS, KINDS, MANIFEST, open_segment, samples


@pytest.fixture(scope="module", params=KINDS)
def backend(request: pytest.FixtureRequest) -> CudaBackend:
    return CudaBackend(Device(request.param))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("cuda") / "tiny")


@pytest.fixture(scope="module")
def plain(bundle: Path) -> Cascade:
    return Cascade.open(bundle)


@pytest.fixture(scope="module")
def segments(backend: CudaBackend) -> list[CudaSegment]:
    return [open_segment(backend, k) for k in range(EXITS)]


@pytest.fixture(scope="module")
def cascade(backend: CudaBackend, segments: list[CudaSegment]) -> Cascade:
    return Cascade(MANIFEST, tiny_policy(), backend, segments)


@pytest.fixture(scope="module")
def steady(backend: CudaBackend) -> Cascade:
    """The same with padded batches, as if its segments had convolutions."""
    padded = [open_segment(backend, k) for k in range(EXITS)]
    for segment in padded:
        segment.batch = SteadyBatch()
    return Cascade(MANIFEST, tiny_policy(), backend, padded)


class Counting:
    """A segment that remembers how many rows it was given."""

    def __init__(self, segment: CudaSegment) -> None:
        self.segment, self.rows = segment, []  # type: ignore[var-annotated]

    def run(self, inputs: Sequence[DeviceTensor]) -> tuple[list[DeviceTensor], NDArray[np.float32]]:
        self.rows.append(inputs[0].rows)
        return self.segment.run(inputs)


# what it answers


@pytest.mark.parametrize("n", [1, 2, 33])
def test_every_exit_has_the_logits_of_the_plain_backend(plain: Cascade, cascade: Cascade, n: int) -> None:
    np.testing.assert_allclose(cascade.logits(samples(n)), plain.logits(samples(n)), rtol=1e-5, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 40), seed=st.integers(0, 2**16), scale=st.sampled_from([0.1, 1.0, 30.0]))
def test_every_sample_leaves_at_the_same_exit_with_the_same_label(
    plain: Cascade, cascade: Cascade, steady: Cascade, n: int, seed: int, scale: float
) -> None:
    x = samples(n, seed) * F32(scale)
    expected = plain.run(x)
    for found in (cascade.run(x), steady.run(x)):
        np.testing.assert_array_equal(found.exit, expected.exit)
        np.testing.assert_array_equal(found.label, expected.label)
        np.testing.assert_allclose(found.probability, expected.probability, rtol=1e-4)


def test_a_segment_runs_on_the_samples_that_get_there_and_on_no_others(
    backend: CudaBackend, segments: list[CudaSegment]
) -> None:
    counting = [Counting(segment) for segment in segments]
    answers = Cascade(MANIFEST, tiny_policy(), backend, counting).run(samples(50))
    stay = [int((answers.exit >= k).sum()) for k in range(EXITS)]
    assert [segment.rows for segment in counting] == [[n] for n in stay]
    assert stay[0] > stay[1] > stay[2] > 0


def test_a_tapped_cascade_hands_out_what_it_does_on_the_plain_backend(bundle: Path, backend: CudaBackend) -> None:
    found = Cascade.open(bundle, backend=backend, tapped=True).insight(samples(5))
    expected = Cascade.open(bundle, tapped=True).insight(samples(5))
    np.testing.assert_allclose(found.logits, expected.logits, rtol=1e-5, atol=1e-5)


def test_a_bundle_verifies(bundle: Path, cascade: Cascade) -> None:
    assert verify(Bundle.open(bundle), cascade).samples == 16


def test_pictures_come_as_bytes(tmp_path: Path, backend: CudaBackend) -> None:
    path = write_tiny(tmp_path / "pictures", pictures=True)
    x = np.random.default_rng(3).integers(0, 256, (9, 8, 8, 1), np.uint8)
    np.testing.assert_allclose(Cascade.open(path, backend=backend).logits(x), forward(x), rtol=1e-4, atol=1e-4)


def test_policy_tensors_can_be_replaced_with_nothing_opened_again(backend: CudaBackend) -> None:
    segment = open_segment(backend)
    tensors = {**weights(), "exit.0.bias": np.array([0, 100, 0], F32)}
    changed = backend.rebound(segment, MANIFEST.segments[0], tensors)
    x = [backend.to_device(samples(5))]
    assert changed.graph.session is segment.graph.session
    assert changed.run(x)[1].argmax(axis=1).tolist() == [1] * 5
    np.testing.assert_allclose(segment.run(x)[1], forward(samples(5))[0], rtol=1e-5, atol=1e-5)


def test_a_segment_without_its_head_hands_on_the_same_and_gives_no_logits(backend: CudaBackend) -> None:
    data, entry, x = CONTENTS["segments/00.onnx"], MANIFEST.segments[0], [backend.to_device(samples(5))]
    bare = backend.open_headless(data, entry, weights(), SessionSettings())
    (h0,), logits = bare.run(x)
    assert (logits.shape, bare.constants) == ((5, 0), {})
    np.testing.assert_array_equal(backend.to_host(h0), backend.to_host(open_segment(backend).run(x)[0][0]))
    lane = backend.lane([bare], [entry], MANIFEST.inputs, CLASSES)
    lane.start([samples(1)])
    assert lane.run(0).shape == (1, 0)


# handles


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", "uint8", "int8", "int32", "int64", "bool"])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 4)])
def test_take_keeps_those_rows_of_any_tensor(backend: CudaBackend, dtype: str, shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).integers(0, 2, (6, *shape)).astype(dtype)
    rows = np.array([0, 2, 5])
    taken = backend.take(backend.to_device(array), rows)
    assert taken.rows == 3
    np.testing.assert_array_equal(backend.to_host(taken), array[rows])


@settings(max_examples=40, deadline=None)
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5))
def test_concat_puts_samples_in_a_row(backend: CudaBackend, lengths: list[int]) -> None:
    arrays = [samples(n, i) for i, n in enumerate(lengths)]
    joined = backend.concat([backend.to_device(array) for array in arrays])
    assert joined.rows == sum(lengths)
    np.testing.assert_array_equal(backend.to_host(joined), np.concatenate(arrays))


def test_filler_is_nobodys_sample(backend: CudaBackend) -> None:
    segment = open_segment(backend)
    segment.batch = SteadyBatch()
    segment.run([backend.to_device(samples(20))])
    (h0,), logits = segment.run([backend.to_device(samples(7))])
    assert h0.value.shape()[0] == 20
    assert (h0.rows, len(logits), len(backend.to_host(h0))) == (7, 7, 7)
    np.testing.assert_allclose(logits, forward(samples(7))[0], rtol=1e-5, atol=1e-5)
    taken = backend.take(h0, np.array([1, 6]))
    joined = backend.concat([h0, taken])
    np.testing.assert_array_equal(backend.to_host(joined)[7:], backend.to_host(h0)[[1, 6]])
    assert joined.value.shape()[0] == 9


def test_boundary_tensors_are_let_go_as_soon_as_no_segment_needs_them() -> None:
    made: list[weakref.ref[Any]] = []

    class Watched(Device):
        def empty(self, shape: Sequence[int], dtype: str) -> Any:
            value = super().empty(shape, dtype)
            made.append(weakref.ref(value))
            return value

    backend = CudaBackend(Watched("cpu"))
    segments = [open_segment(backend, k) for k in range(EXITS)]
    (h0,), _ = segments[0].run([backend.to_device(samples(3))])
    (h1,), _ = segments[1].run([h0, backend.to_device(samples(3))])
    del h0
    assert [ref() is not None for ref in made] == [False, True]
    np.testing.assert_allclose(segments[2].run([h1])[1], forward(samples(3))[2], rtol=1e-5, atol=1e-5)


# lanes


@pytest.mark.parametrize("capacity", [1, 4])
def test_a_lane_gives_the_logits_of_every_segment(
    backend: CudaBackend, segments: list[CudaSegment], capacity: int
) -> None:
    lane = backend.lane(segments, MANIFEST.segments, MANIFEST.inputs, CLASSES, capacity)
    for seed in range(3):
        x = samples(capacity, seed)
        lane.start([x])
        logits = np.stack([lane.run(k).copy() for k in range(EXITS)])
        lane.stop()
        np.testing.assert_allclose(logits, forward(x), rtol=1e-5, atol=1e-5)


def test_a_lane_carries_on_with_the_samples_that_stay(backend: CudaBackend, segments: list[CudaSegment]) -> None:
    lane = backend.lane(segments, MANIFEST.segments, MANIFEST.inputs, CLASSES, 6)
    x = samples(6)
    lane.start([x])
    lane.run(0)
    order = lane.keep(np.array([True, False, False, True, False, True]))
    logits = lane.run(1)
    assert sorted(order.tolist()) == [1, 2, 4]
    np.testing.assert_allclose(logits, forward(x)[1][order], rtol=1e-5, atol=1e-5)


def test_a_single_sample_that_does_not_leave_is_kept(backend: CudaBackend, segments: list[CudaSegment]) -> None:
    lane = backend.lane(segments, MANIFEST.segments, MANIFEST.inputs, CLASSES)
    lane.start([samples(1)])
    lane.run(0)
    assert lane.keep(np.array([False])).tolist() == [0]
    np.testing.assert_allclose(lane.run(1), forward(samples(1))[1], rtol=1e-5, atol=1e-5)


def test_a_lane_does_not_touch_the_array_it_was_given(backend: CudaBackend, segments: list[CudaSegment]) -> None:
    lane = backend.lane(segments, MANIFEST.segments, MANIFEST.inputs, CLASSES)
    given_array = samples(1)
    lane.start([given_array])
    lane.start([samples(1, seed=1)])
    np.testing.assert_array_equal(given_array, samples(1))


def test_a_lane_keeps_alive_what_it_reads(backend: CudaBackend) -> None:
    opened = [open_segment(backend, k) for k in range(EXITS)]
    lane = backend.lane(opened, MANIFEST.segments, MANIFEST.inputs, CLASSES)
    del opened
    gc.collect()
    junk = [np.full((8, CLASSES), 1e9, F32) for _ in range(100)]
    lane.start([samples(1)])
    np.testing.assert_allclose(lane.run(0), forward(samples(1))[0], rtol=1e-5, atol=1e-5)
    del junk


def test_threads_that_share_a_cascade_get_their_own_answers(plain: Cascade, steady: Cascade) -> None:
    batches = [samples(n, n) for n in (1, 2, 7, 30) * 10]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(steady.run, batches))
    for answers, batch in zip(found, batches, strict=True):
        np.testing.assert_array_equal(answers.exit, plain.run(batch).exit)
