"""The pace of handing on and of finishing here."""

from __future__ import annotations

import pytest

from edgeexit_runtime.tier.pace import LOOKING_AGAIN, Pace


def test_nothing_is_finished_here_before_a_question_was_answered() -> None:
    assert not Pace().is_quicker_here(0.0)


@pytest.mark.parametrize(("here_s", "quicker"), [(0.01, True), (0.1, False), (0.2, False)])
def test_samples_are_finished_where_that_takes_less_time(here_s: float, quicker: bool) -> None:
    pace = Pace()
    pace.asking_took(0.1)
    assert pace.is_quicker_here(here_s) is quicker


def test_a_question_is_asked_again_after_a_while_and_then_the_while_begins_anew() -> None:
    pace = Pace()
    pace.asking_took(0.125)
    here = int(LOOKING_AGAIN * 0.125 / 0.0625)
    found = [pace.is_quicker_here(0.0625) for _ in range(here + 1)]
    assert found == [*(True,) * here, False]
    pace.asking_took(0.125)
    assert pace.is_quicker_here(0.0625)


def test_a_quicker_answer_weighs_more_than_a_slower_one() -> None:
    better, worse = Pace(), Pace()
    for pace, elapsed_s in ((better, 0.0), (worse, 0.2)):
        pace.asking_took(0.1)
        pace.asking_took(elapsed_s)
    assert not better.is_quicker_here(0.06)
    assert worse.is_quicker_here(0.11)
    assert not worse.is_quicker_here(0.13)
