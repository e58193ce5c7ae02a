from __future__ import annotations

import pytest

from edgeexit.errors import UsageError
from edgeexit_runtime.offload.retries import Backoff, RetryBudget


def test_the_bound_of_a_pause_doubles_with_every_retry_up_to_the_longest() -> None:
    backoff = Backoff(first_s=0.01, longest_s=0.05)
    assert [backoff.pause_s(retry, 1.0) for retry in range(5)] == [0.01, 0.02, 0.04, 0.05, 0.05]


def test_a_pause_is_anything_between_nothing_and_its_bound() -> None:
    backoff = Backoff(first_s=0.01)
    assert (backoff.pause_s(1, 0.0), backoff.pause_s(1, 0.25)) == (0.0, 0.005)


def test_no_number_of_retries_overflows() -> None:
    assert Backoff().pause_s(10**6, 0.5) == 0.25


def test_the_budget_ends() -> None:
    budget = RetryBudget(2, 0.5)
    assert [budget.take() for _ in range(3)] == [True, True, False]


def test_answers_refill_the_budget_bit_by_bit() -> None:
    budget = RetryBudget(1, 0.5)
    assert budget.take()
    budget.answered()
    assert not budget.take()
    budget.answered()
    assert budget.take()


def test_answers_never_fill_the_budget_beyond_its_capacity() -> None:
    budget = RetryBudget(1, 0.5)
    for _ in range(100):
        budget.answered()
    assert [budget.take(), budget.take()] == [True, False]


@pytest.mark.parametrize("senseless", [{"first_s": 0.0}, {"longest_s": 0.001}, {"attempts": 0}])
def test_pauses_that_make_no_sense_are_refused(senseless: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        Backoff(**senseless)  # type: ignore[arg-type]


def test_a_negative_budget_is_refused() -> None:
    with pytest.raises(UsageError):
        RetryBudget(-1)
