"""Lanes and verdicts: single samples take another way to the same answers."""

from __future__ import annotations

import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeexit.errors import BackendError
from edgeexit.policies import MaxProbability, State, Verdict
from edgeexit_runtime import Cascade
from edgeexit_runtime.backends.handles import HandleLane
from edgeexit_runtime.backends.lanes import OnnxRuntimeLane
from runtime.cascades import CLASSES, EXITS, F32, batch_of, fake_cascade, forward, rows_run, tiny_parts, write_tiny

MANIFEST, _ = tiny_parts()
X = np.random.default_rng(8).standard_normal((60, 4)).astype(F32)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Cascade:
    return Cascade.open(write_tiny(tmp_path_factory.mktemp("lanes") / "tiny"))


@pytest.fixture
def cascade(tmp_path: Path) -> Cascade:
    return Cascade.open(write_tiny(tmp_path / "tiny"))


def lane_of(cascade: Cascade, capacity: int = 1) -> Any:
    return cascade._backend.lane(cascade._segments, MANIFEST.segments, MANIFEST.inputs, CLASSES, capacity)


def handle_lane_of(cascade: Cascade, capacity: int = 1) -> Any:
    return HandleLane(cascade._backend, cascade._segments, MANIFEST.segments, MANIFEST.inputs)


def test_a_lane_gives_the_logits_of_every_segment(cascade: Cascade) -> None:
    lane = lane_of(cascade)
    for i in range(5):
        lane.start([X[i : i + 1]])
        logits = np.stack([lane.run(k)[0] for k in range(EXITS)])
        np.testing.assert_allclose(logits, forward(X[i : i + 1])[:, 0], rtol=1e-5, atol=1e-5)


def test_a_lane_does_not_touch_the_array_it_was_given(cascade: Cascade) -> None:
    lane, array = lane_of(cascade), X[:1].copy()
    lane.start([array])
    lane.run(0)
    lane.start([X[1:2]])
    np.testing.assert_array_equal(array, X[:1])


@settings(deadline=None)
@given(data=st.data(), n=st.integers(2, 16))
@pytest.mark.parametrize("make", [lane_of, handle_lane_of])
def test_rows_that_stay_are_those_the_lane_says(real: Cascade, make: Any, data: st.DataObject, n: int) -> None:
    lane, rows = make(real, 16), np.arange(n)
    expected = forward(X)
    lane.start([X[:n]])
    for k in range(EXITS):
        np.testing.assert_allclose(lane.run(k), expected[k, rows], rtol=1e-4, atol=1e-5)
        leave = np.array(data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows))), bool)
        if k < EXITS - 1 and not leave.all():
            order = lane.keep(leave)
            assert sorted(order) == np.flatnonzero(~leave).tolist()
            rows = rows[order]
    lane.stop()


def test_a_lane_moves_no_more_rows_than_leave(cascade: Cascade) -> None:
    lane = lane_of(cascade, 16)
    lane.start([X[:16]])
    lane.run(0)
    order = lane.keep(np.arange(16) == 3)
    assert order.tolist() == [0, 1, 2, 15, *range(4, 15)]


def test_a_large_input_is_read_where_it_lies(tmp_path: Path) -> None:
    spec = msgspec.structs.replace(MANIFEST.inputs[0], shape=(10_000,))
    lane = OnnxRuntimeLane([], [], [spec], [])
    given_array = np.zeros((1, 10_000), F32)
    lane.start([given_array])
    assert lane._given[spec.name] is given_array
    lane.stop()
    assert not lane._given


def test_answers_outlive_the_lane_they_came_from(cascade: Cascade) -> None:
    first = cascade.run(X[:1])
    before = (first.label.copy(), first.score.copy())
    cascade.run(X[1:2])
    assert (first.label, first.score) == before


def test_threads_that_share_a_cascade_get_their_own_answers(cascade: Cascade) -> None:
    expected = cascade.run(X)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: cascade.run(X[i : i + 1]), list(range(len(X))) * 5))
    for i, answers in enumerate(found):
        assert (answers.exit[0], answers.label[0]) == (expected.exit[i % len(X)], expected.label[i % len(X)])


def test_one_thread_uses_one_lane(cascade: Cascade) -> None:
    for i in range(10):
        cascade.run(X[i : i + 1])
    assert len(cascade._resolver._lanes[1]) == 1


def test_a_lane_survives_a_failure(cascade: Cascade) -> None:
    expected = cascade.run(X[:1])
    lane = cascade._resolver._lanes[1][0]
    run = lane.run

    def fail(index: int) -> NDArray[np.float32]:
        raise BackendError("the device is gone")

    lane.run = fail  # type: ignore[method-assign]
    with pytest.raises(BackendError, match="is gone"):
        cascade.run(X[:1])
    lane.run = run  # type: ignore[method-assign]
    assert cascade.run(X[:1]).score == expected.score


def test_a_single_sample_runs_no_segment_after_its_exit() -> None:
    cascade = fake_cascade(4)
    cascade.run(batch_of(1))
    assert rows_run(cascade) == [[1], [1], [], []]


def test_a_single_sample_can_be_degraded() -> None:
    answers = fake_cascade(4, upto=2).run(batch_of(3))
    assert (answers.exit.tolist(), answers.degraded.tolist(), answers.reason is None) == ([1], [True], False)


def test_boundary_tensors_are_let_go_as_soon_as_no_segment_needs_them() -> None:
    made: list[weakref.ref[Any]] = []
    alive: list[list[bool]] = []

    def segment(x: NDArray[np.float32]) -> tuple[tuple[NDArray[np.float32]], NDArray[np.float32]]:
        alive.append([ref() is not None for ref in made])
        output = x + 0
        made.append(weakref.ref(output))
        return (output,), np.zeros((len(x), CLASSES), F32)

    fake_cascade(4, [segment] * 4).run(batch_of(3, 3))
    assert alive == [[], [True], [False, True], [False, False, True]]


class Counting(MaxProbability):
    """A policy with a way of its own for single samples."""

    def decide_one(self, exit_index: int, logits: NDArray[np.float32], state: State) -> tuple[Verdict, State]:
        return Verdict(0.5, 0.25, 2, exit_index == 1), state


def test_a_policys_own_way_with_single_samples_is_taken() -> None:
    cascade = fake_cascade(3).with_policy(Counting((1.0,) * 3, (0.5,) * 3))
    answers = cascade.run(batch_of(0))
    assert (answers.exit[0], answers.label[0], answers.probability[0], answers.score[0]) == (1, 2, 0.25, 0.5)
