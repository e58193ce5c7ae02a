"""The cascade: who leaves where, what runs, and in which order answers come."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeexit.errors import DataError, UsageError
from edgeexit.policies import Decision, MaxProbability, State
from edgeexit_runtime import Answers, Cascade, FakeBackend
from runtime.cascades import EXITS, F32, batch_of, fake_cascade, forward, rows_run, tiny_policy, write_tiny

SEGMENTS = 4

plans = st.lists(st.integers(0, SEGMENTS - 1), max_size=12)
"""Where each sample of a batch leaves."""


ROUNDING = 1e-6


def same(answers: Answers, others: Answers) -> bool:
    """Equal labels and exits; scores equal within rounding, since single samples are judged in Python's numbers."""
    exact = all(np.array_equal(getattr(answers, name), getattr(others, name)) for name in ("label", "exit", "degraded"))
    return exact and all(
        np.allclose(getattr(answers, name), getattr(others, name), rtol=ROUNDING, atol=0)
        for name in ("probability", "score")
    )


def joined(parts: Sequence[Answers]) -> Answers:
    columns = ("label", "probability", "exit", "score", "degraded")
    return Answers(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in columns})


@given(plans)
def test_every_sample_leaves_at_its_own_exit_with_its_own_label(plan: list[int]) -> None:
    answers = fake_cascade(SEGMENTS).run(batch_of(*plan))
    assert answers.exit.tolist() == plan
    assert answers.label.tolist() == [i % 3 for i in range(len(plan))]


@given(plans)
def test_a_segment_runs_once_on_exactly_those_who_have_not_left(plan: list[int]) -> None:
    cascade = fake_cascade(SEGMENTS)
    cascade.run(batch_of(*plan))
    staying = [sum(exit >= k for exit in plan) for k in range(SEGMENTS)]
    assert rows_run(cascade) == [[count] if count else [] for count in staying]


@given(plans, st.randoms(use_true_random=False))
def test_the_order_of_a_batch_changes_no_answer(plan: list[int], random: Any) -> None:
    order = list(range(len(plan)))
    random.shuffle(order)
    batch = batch_of(*plan)
    answers = fake_cascade(SEGMENTS).run(batch)
    shuffled = fake_cascade(SEGMENTS).run(batch[order])
    assert same(shuffled, joined([answers]) if not order else Answers(*(column[order] for column in columns(answers))))


@given(plans, st.integers(1, 5))
def test_how_samples_are_cut_into_batches_changes_no_answer(plan: list[int], size: int) -> None:
    batch = batch_of(*plan)
    parts = [batch[start : start + size] for start in range(0, len(batch), size)] or [batch]
    cascade = fake_cascade(SEGMENTS)
    assert same(joined([cascade.run(part) for part in parts]), cascade.run(batch))


@given(plans, st.integers(1, 5))
def test_a_stream_gives_every_sample_once_and_as_run_does(plan: list[int], size: int) -> None:
    batch = batch_of(*plan)
    answers = fake_cascade(SEGMENTS).run(batch)
    streamed = list(fake_cascade(SEGMENTS).stream(batch[i : i + size] for i in range(0, len(batch), size)))
    assert sorted(answer.index for answer in streamed) == list(range(len(plan)))
    for answer in streamed:
        i = answer.index
        assert (answer.label, answer.exit, answer.degraded) == (answers.label[i], answers.exit[i], False)
        assert (answer.probability, answer.score) == pytest.approx(
            (answers.probability[i], answers.score[i]), rel=ROUNDING
        )


def columns(answers: Answers) -> list[NDArray[Any]]:
    return [answers.label, answers.probability, answers.exit, answers.score, answers.degraded]


def test_a_stream_yields_early_samples_before_later_segments_run() -> None:
    cascade = fake_cascade(3)
    stream = cascade.stream([batch_of(2, 0, 1, 0)])
    assert [next(stream).index, next(stream).index] == [1, 3]
    assert rows_run(cascade) == [[4], [], []]


def test_a_stream_orders_samples_by_exit_and_then_by_position() -> None:
    assert [a.index for a in fake_cascade(3).stream([batch_of(2, 0, 1, 0), batch_of(1, 0)])] == [1, 3, 2, 0, 5, 4]


def test_a_stream_takes_a_batch_only_when_the_one_before_is_done() -> None:
    taken = []

    def batches() -> Any:
        for k in (0, 1):
            taken.append(k)
            yield batch_of(k)

    stream = fake_cascade(2).stream(batches())
    next(stream)
    assert taken == [0]


def test_a_batch_of_none_runs_nothing() -> None:
    cascade = fake_cascade(2)
    assert len(cascade.run(batch_of())) == 0
    assert rows_run(cascade) == [[], []]


def test_answers_have_the_promised_types() -> None:
    answers = fake_cascade(2).run(batch_of(0, 1, 1))
    assert [column.dtype for column in columns(answers)] == [np.int64, F32, np.int64, F32, np.bool_]


def test_probability_and_score_are_those_of_the_exit_that_answered() -> None:
    answers = fake_cascade(2).run(batch_of(0, 1))
    np.testing.assert_allclose(answers.score, np.exp(9) / (np.exp(9) + 2), rtol=1e-6)
    np.testing.assert_array_equal(answers.probability, answers.score)


def test_nobody_is_copied_where_nobody_leaves() -> None:
    cascade = fake_cascade(3)
    cascade.run(batch_of(2, 2))
    assert cascade._backend.taken == []  # type: ignore[attr-defined]


def test_the_whole_cascade_degrades_nothing() -> None:
    answers = fake_cascade(2).run(batch_of(5, 0))
    assert (answers.degraded.any(), answers.reason) == (False, None)


def test_a_part_of_the_segments_answers_everybody() -> None:
    answers = fake_cascade(4, upto=2).run(batch_of(3, 0, 1))
    assert answers.exit.tolist() == [1, 0, 1]


def test_samples_that_a_part_could_not_resolve_are_degraded_with_a_reason() -> None:
    answers = fake_cascade(4, upto=2).run(batch_of(3, 0, 1))
    assert answers.degraded.tolist() == [True, False, False]
    assert answers.reason == "this tier runs 2 of 4 segments and none of its exits was sure"


def test_a_part_that_resolved_everybody_has_no_reason() -> None:
    assert fake_cascade(4, upto=2).run(batch_of(0, 1)).reason is None


def test_a_stream_carries_the_reason_of_degraded_samples_only() -> None:
    answers = list(fake_cascade(3, upto=1).stream([batch_of(2, 0)]))
    assert [(a.index, a.degraded, a.reason is not None) for a in answers] == [(0, True, True), (1, False, False)]


def test_logits_come_from_every_exit_and_nobody_leaves() -> None:
    cascade = fake_cascade(3)
    logits = cascade.logits(batch_of(0, 1))
    assert logits.shape == (3, 2, 3)
    assert rows_run(cascade) == [[2], [2], [2]]


def test_logits_of_no_samples_have_their_shape() -> None:
    assert fake_cascade(3).logits(batch_of()).shape == (3, 0, 3)


def test_thresholds_can_be_replaced_without_opening_anything_again() -> None:
    cascade = fake_cascade(3)
    never = cascade.with_policy(cascade.policy.with_thresholds((np.inf,) * 3))
    assert never.run(batch_of(0, 1)).exit.tolist() == [2, 2]
    assert rows_run(cascade) == [[2], [2], [2]]


class SureTheSecondTime:
    """A policy with a state: a sample leaves when it is judged for the second time."""

    name = criterion = "second-time"
    thresholds = (2.0, 2.0, 2.0)

    def start(self, samples: int, classes: int) -> State:
        return (np.zeros(samples, F32),)

    def decide(self, exit_index: int, logits: NDArray[np.float32], state: State) -> tuple[Decision, State]:
        seen = state[0] + np.where(logits.max(axis=1) > 1, F32(2), F32(1))
        decision = Decision(seen, np.ones(len(seen), F32), logits.argmax(axis=1), seen >= 2)
        return decision, (seen,)


def test_the_state_of_the_policy_follows_the_survivors() -> None:
    manifest = fake_cascade(3).manifest
    backend = FakeBackend([segment.function for segment in fake_cascade(3)._segments])  # type: ignore[attr-defined]
    cascade = Cascade(manifest, SureTheSecondTime(), backend, backend.segments)  # type: ignore[arg-type]
    assert cascade.run(batch_of(9, 0, 9)).score.tolist() == [2, 2, 2]
    assert cascade.run(batch_of(9, 0, 9)).exit.tolist() == [1, 0, 1]


@pytest.mark.parametrize("count", [0, 4])
def test_a_number_of_segments_that_the_bundle_lacks_is_a_usage_error(tmp_path: Path, count: int) -> None:
    with pytest.raises(UsageError, match="number of segments"):
        Cascade.open(write_tiny(tmp_path / "tiny"), upto=count)


def test_an_unknown_backend_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such backend"):
        Cascade.open(write_tiny(tmp_path / "tiny"), backend="abacus")


def test_a_wrong_shape_is_a_data_error_before_anything_runs() -> None:
    cascade = fake_cascade(2)
    with pytest.raises(DataError, match="wrong type or shape"):
        cascade.run(np.zeros((2, 5), F32))
    assert rows_run(cascade) == [[], []]


@pytest.mark.parametrize("form", ["tiny", "tiny.eexit"])
def test_a_bundle_answers_as_numpy_does(tmp_path: Path, form: str) -> None:
    x = np.random.default_rng(2).standard_normal((100, 4)).astype(F32)
    cascade = Cascade.open(write_tiny(tmp_path / form))
    np.testing.assert_allclose(cascade.logits(x), forward(x), rtol=1e-5, atol=1e-5)


def test_a_bundle_answers_alike_at_batch_1_and_in_a_batch(tmp_path: Path) -> None:
    x = np.random.default_rng(3).standard_normal((100, 4)).astype(F32)
    cascade = Cascade.open(write_tiny(tmp_path / "tiny"))
    answers = cascade.run(x)
    singles = joined([cascade.run(x[i : i + 1]) for i in range(len(x))])
    assert set(answers.exit) == set(range(EXITS))
    np.testing.assert_array_equal(singles.exit, answers.exit)
    np.testing.assert_array_equal(singles.label, answers.label)
    np.testing.assert_allclose(singles.score, answers.score, rtol=1e-5)


def test_a_bundle_brings_its_policy(tmp_path: Path) -> None:
    policy = Cascade.open(write_tiny(tmp_path / "tiny")).policy
    assert isinstance(policy, MaxProbability)
    assert policy.thresholds == tiny_policy().thresholds


def test_a_target_sets_the_threads(tmp_path: Path) -> None:
    backend = FakeBackend([])
    seen = []
    backend.open = lambda data, entry, tensors, settings: seen.append(settings)  # type: ignore[assignment, method-assign]
    Cascade.open(write_tiny(tmp_path / "tiny"), backend=backend, target="raspberry-pi-4")
    assert {settings.threads for settings in seen} == {4}
