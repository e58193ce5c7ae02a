from __future__ import annotations

import pytest

from edgeexit.errors import UsageError
from edgeexit_runtime.offload.breaker import Breaker, BreakerSettings, BreakerState


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    """Opens after two failures, for 1 second, then 2, then 3 at most; chance is always at its largest."""
    return Breaker(clock, lambda: 1.0, BreakerSettings(failures=2, first_open_s=1.0, longest_open_s=3.0))


def fail(breaker: Breaker) -> None:
    permit = breaker.permit()
    assert permit is not None
    permit.failed()


def succeed(breaker: Breaker) -> None:
    permit = breaker.permit()
    assert permit is not None
    permit.succeeded()


def test_failures_in_a_row_open_it(breaker: Breaker) -> None:
    fail(breaker)
    assert breaker.state is BreakerState.CLOSED
    fail(breaker)
    assert (breaker.state, breaker.opened, breaker.permit()) == (BreakerState.OPEN, 1, None)


def test_an_answer_between_failures_keeps_it_closed(breaker: Breaker) -> None:
    for _ in range(5):
        fail(breaker)
        succeed(breaker)
    assert breaker.state is BreakerState.CLOSED


def test_half_open_lets_one_probe_through(breaker: Breaker, clock: Clock) -> None:
    fail(breaker), fail(breaker)
    clock.now_s = 1.0
    assert breaker.state is BreakerState.HALF_OPEN
    assert breaker.permit() is not None
    assert breaker.permit() is None


def test_a_probe_that_is_answered_closes_it(breaker: Breaker, clock: Clock) -> None:
    fail(breaker), fail(breaker)
    clock.now_s = 1.0
    succeed(breaker)
    assert breaker.state is BreakerState.CLOSED
    assert breaker.permit() is not None
    assert breaker.permit() is not None


def test_each_probe_that_fails_doubles_the_wait_up_to_a_bound(breaker: Breaker, clock: Clock) -> None:
    fail(breaker), fail(breaker)
    for wait_s in (1.0, 2.0, 3.0, 3.0):
        clock.now_s += wait_s - 0.01
        assert breaker.permit() is None
        clock.now_s += 0.01
        fail(breaker)


def test_after_it_has_closed_the_wait_is_the_first_again(breaker: Breaker, clock: Clock) -> None:
    fail(breaker), fail(breaker)
    clock.now_s = 1.0
    fail(breaker)
    clock.now_s = 3.0
    succeed(breaker)
    fail(breaker), fail(breaker)
    clock.now_s = 4.0
    assert breaker.state is BreakerState.HALF_OPEN


def test_a_probe_of_which_nothing_is_learned_makes_way_for_another(breaker: Breaker, clock: Clock) -> None:
    fail(breaker), fail(breaker)
    clock.now_s = 1.0
    probe = breaker.permit()
    assert probe is not None
    probe.unused()
    assert breaker.permit() is not None


def test_late_word_of_earlier_questions_changes_nothing_while_it_is_open(breaker: Breaker, clock: Clock) -> None:
    late = [breaker.permit() for _ in range(3)]
    fail(breaker), fail(breaker)
    for permit in late:
        assert permit is not None
        permit.succeeded()
    assert breaker.state is BreakerState.OPEN
    clock.now_s = 1.0
    probe = breaker.permit()
    assert probe is not None
    probe.failed()
    assert breaker.opened == 2


def test_only_the_first_word_on_a_permit_counts(breaker: Breaker) -> None:
    permit = breaker.permit()
    assert permit is not None
    permit.failed()
    permit.failed()
    assert breaker.state is BreakerState.CLOSED


def test_chance_shortens_the_wait_by_up_to_half(clock: Clock) -> None:
    breaker = Breaker(clock, lambda: 0.0, BreakerSettings(failures=1, first_open_s=1.0))
    fail(breaker)
    clock.now_s = 0.5
    assert breaker.state is BreakerState.HALF_OPEN


@pytest.mark.parametrize(
    "senseless", [{"failures": 0}, {"first_open_s": 0.0}, {"first_open_s": 2.0, "longest_open_s": 1.0}]
)
def test_settings_that_make_no_sense_are_refused(senseless: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        BreakerSettings(**senseless)  # type: ignore[arg-type]
